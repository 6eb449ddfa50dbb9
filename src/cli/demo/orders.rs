//! What is sent: orders and their payments, from a seed. Pure.

use std::collections::{BTreeSet, VecDeque};

/// What makes a message the same message: `o-17` is an order, `p-17` its payment.
pub type Id = String;

/// One send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sending {
    pub topic: &'static str,
    pub id: Id,
    /// The record's key: an order and its payments have one.
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
    unique: BTreeSet<Id>,
    /// Sent already, to be sent again after so many further sends.
    again: VecDeque<(u64, Sending)>,
    /// The other half of an order, to be sent after so many further sends.
    later: VecDeque<(u64, Sending)>,
}

pub const ORDERS: &str = "orders";
pub const PAYMENTS: &str = "payments";

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
        }
    }

    /// What is due when so many should have been sent.
    pub fn until(&mut self, due: u64) -> Vec<Sending> {
        let mut sendings = Vec::new();
        while self.sent < due {
            sendings.push(self.one());
        }
        sendings
    }

    /// Everything that is still planned; after it nothing more is sent.
    pub fn close(&mut self) -> Vec<Sending> {
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

    /// What was sent and can have its effect now: all but payments whose order was not sent yet.
    pub fn ready(&self) -> impl Iterator<Item = &Id> {
        self.unique.iter().filter(|id| match id.strip_prefix("p-") {
            Some(number) => self.unique.contains(&format!("o-{number}")),
            None => true,
        })
    }

    /// What must have exactly one effect each.
    pub fn expected(&self) -> &BTreeSet<Id> {
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
            topic: ORDERS,
            id: format!("o-{number}"),
            key: format!("o-{number}"),
            payload: format!(r#"{{"orderId":"o-{number}","amount":{amount}}}"#),
        };
        let payment = Sending {
            topic: PAYMENTS,
            id: format!("p-{number}"),
            key: format!("o-{number}"),
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
        self.unique.insert(sending.id.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_everything_and_about_one_in_ten_is_sent_twice() {
        let mut one = Orders::new(7);
        let mut all = one.until(5000);
        all.extend(one.close());
        let mut same = Orders::new(7);
        let mut again = same.until(5000);
        again.extend(same.close());
        assert_eq!(all, again);
        assert_eq!(all.len() as u64, one.sent());
        let twice = one.sent() - one.unique();
        assert!((300..700).contains(&twice), "{twice} sent twice");
        assert!(one.early() > 300, "{} early", one.early());
        let halves = |kind| {
            one.expected()
                .iter()
                .filter(|id| id.starts_with(kind))
                .count()
        };
        assert_eq!(halves("o-"), halves("p-"), "every half has its other");
        assert_eq!(one.ready().count(), one.expected().len());
    }
}
