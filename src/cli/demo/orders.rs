//! What is sent: orders and their payments, from a seed. Pure.

use std::collections::{BTreeSet, VecDeque};

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Order,
    Payment,
}

impl Kind {
    pub fn topic(self) -> &'static str {
        match self {
            Self::Order => "orders",
            Self::Payment => "payments",
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Payment => "payment",
        }
    }
}

/// One send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sending {
    pub kind: Kind,
    pub key: String,
    pub payload: String,
}

/// The producer's plan.
#[derive(Debug)]
pub struct Orders {
    random: fastrand::Rng,
    next: u64,
    sent: u64,
    early: u64,
    unique: BTreeSet<(Kind, String)>,
    /// Sent already, to be sent again after so many further sends.
    again: VecDeque<(u64, Sending)>,
    /// The other half of an order, to be sent after so many further sends.
    later: VecDeque<(u64, Sending)>,
    closed: bool,
}

/// One in ten is sent twice.
const TWICE: u32 = 10;
/// One payment in five comes before its order.
const EARLY: u32 = 5;

impl Orders {
    pub fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            next: 0,
            sent: 0,
            early: 0,
            unique: BTreeSet::new(),
            again: VecDeque::new(),
            later: VecDeque::new(),
            closed: false,
        }
    }

    /// What is due when so many should have been sent.
    pub fn until(&mut self, due: f64) -> Vec<Sending> {
        let mut sendings = Vec::new();
        #[expect(
            clippy::cast_precision_loss,
            reason = "a demo sends less than 2^52 messages"
        )]
        while (self.sent as f64) < due {
            let sending = self.one();
            sendings.push(sending);
        }
        sendings
    }

    /// Everything that is still planned; after it nothing more is sent.
    pub fn close(&mut self) -> Vec<Sending> {
        self.closed = true;
        let rest: Vec<Sending> = self
            .later
            .drain(..)
            .chain(self.again.drain(..))
            .map(|(_, sending)| sending)
            .collect();
        for sending in &rest {
            self.count(sending);
        }
        rest
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    pub fn sent(&self) -> u64 {
        self.sent
    }

    pub fn unique(&self) -> u64 {
        self.unique.len() as u64
    }

    /// Payments that were sent before their order.
    pub fn early(&self) -> u64 {
        self.early
    }

    /// What must have exactly one effect each.
    pub fn expected(&self) -> &BTreeSet<(Kind, String)> {
        &self.unique
    }

    fn one(&mut self) -> Sending {
        let due = |queue: &mut VecDeque<(u64, Sending)>, sent: u64| {
            let at = queue.iter().position(|(at, _)| *at <= sent)?;
            queue.remove(at).map(|(_, sending)| sending)
        };
        if let Some(again) = due(&mut self.again, self.sent) {
            self.count(&again);
            return again;
        }
        let sending = match due(&mut self.later, self.sent) {
            Some(half) => half,
            None => self.first_half(),
        };
        self.count(&sending);
        if self.random.u32(0..TWICE) == 0 {
            let at = self.sent + self.random.u64(0..100);
            self.again.push_back((at, sending.clone()));
        }
        sending
    }

    /// An order whose payment follows, or a payment whose order follows.
    fn first_half(&mut self) -> Sending {
        self.next += 1;
        let (number, amount) = (self.next, self.random.u32(100..100_000));
        let order = Sending {
            kind: Kind::Order,
            key: format!("o-{number}"),
            payload: format!(r#"{{"orderId":"o-{number}","amount":{amount}}}"#),
        };
        let payment = Sending {
            kind: Kind::Payment,
            key: format!("p-{number}"),
            payload: format!(
                r#"{{"paymentId":"p-{number}","orderId":"o-{number}","amount":{amount}}}"#
            ),
        };
        let is_early = self.random.u32(0..EARLY) == 0;
        let (first, second) = if is_early {
            self.early += 1;
            (payment, order)
        } else {
            (order, payment)
        };
        let at = self.sent + self.random.u64(1..200);
        self.later.push_back((at, second));
        first
    }

    fn count(&mut self, sending: &Sending) {
        self.sent += 1;
        self.unique.insert((sending.kind, sending.key.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_everything_and_about_one_in_ten_is_sent_twice() {
        let mut one = Orders::new(7);
        let mut all = one.until(5000.0);
        all.extend(one.close());
        let mut same = Orders::new(7);
        let mut again = same.until(5000.0);
        again.extend(same.close());
        assert_eq!(all, again);
        assert_eq!(all.len() as u64, one.sent());
        let twice = one.sent() - one.unique();
        assert!((300..700).contains(&twice), "{twice} sent twice");
        assert!(one.early() > 300, "{} early", one.early());
        let halves = |kind| one.expected().iter().filter(|(k, _)| *k == kind).count();
        assert_eq!(
            halves(Kind::Order),
            halves(Kind::Payment),
            "every half has its other"
        );
    }
}
