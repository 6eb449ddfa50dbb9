//! What is sent, and when: between the faults from the first to the last, in the face of brokers that die.
//!
//! What was not confirmed is sent again, so that the brokers hold it once or more. One message in five is sent twice
//! anyway, and some of earlier rounds once more. Payments of one order leave one after the other; everything else
//! comes in any order, a payment before the order that it pays included.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;

use super::faults::Event;
use super::world::Source;
use crate::crash::shop::{Kind, Message, Random, Shop, messages};

/// Messages of a source that are sent at once, at most.
const CHUNK: usize = 10;
/// Messages of a source from earlier rounds that are sent once more in each round.
const OLD: usize = 20;
/// How long a broker may take to confirm before the same is sent again.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Everything that was sent so far.
#[derive(Default)]
pub struct Sent {
    /// Unique messages by their dedup key, with when they were stored for the first time.
    pub messages: BTreeMap<String, (Message, DateTime<Utc>)>,
    /// Keys whose order is asked for.
    pub ordered: BTreeSet<String>,
    /// Sends, duplicates included, but without what was sent again for want of a confirmation.
    pub sends: usize,
    pub repeated: usize,
}

/// What one source is to be sent in a round.
pub struct Load {
    messages: Vec<Message>,
}

impl Load {
    /// For a round and its number of orders; the same for the same seed, but for the names.
    pub fn of(
        source: &Source,
        shop: &Shop,
        sent: &Sent,
        (round, orders): (u64, usize),
        random: &mut Random,
    ) -> Load {
        let orders = shop.orders(&format!("{}r{round}", source.name), orders);
        let mut all = messages(&orders, random.next());
        let prefix = format!("-{}r", source.name);
        let old: Vec<&String> = sent
            .messages
            .keys()
            .filter(|id| id.contains(&prefix))
            .collect();
        for _ in 0..if old.is_empty() { 0 } else { OLD } {
            let id = old[random.below(old.len())];
            all.insert(random.below(all.len()), sent.messages[id].0.clone());
        }
        Load { messages: all }
    }

    /// Sends it while so many faults begin, an equal part with each.
    pub async fn send(
        &self,
        source: &Source,
        faults: usize,
        mut begun: watch::Receiver<Vec<Event>>,
    ) -> Sent {
        let mut sent = Sent::default();
        let chunks = chunks(&self.messages);
        let all = chunks.len();
        for (number, chunk) in chunks.into_iter().enumerate() {
            // Nobody counts any more when the faults are over.
            let _ = begun
                .wait_for(|begun| begun.len() * all >= number * faults)
                .await;
            sent.repeated += until_stored(source, chunk).await;
            sent.note(source, chunk);
        }
        sent
    }
}

/// Sends until the broker has confirmed all; returns how many messages it may have got more than once.
async fn until_stored(source: &Source, chunk: &[Message]) -> usize {
    let mut repeated = 0;
    loop {
        let sending = source.entrance.try_send(chunk);
        if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, sending).await {
            return repeated;
        }
        repeated += chunk.len();
        tokio::time::sleep(PAUSE).await;
    }
}

/// Parts of at most so many messages and one payment of each order: a part that is sent again cannot bring a
/// later payment before an earlier one.
fn chunks(messages: &[Message]) -> Vec<&[Message]> {
    let (mut chunks, mut start) = (Vec::new(), 0);
    let mut paid = BTreeSet::new();
    for (at, message) in messages.iter().enumerate() {
        let second = message.kind == Kind::Paid && !paid.insert(&message.order);
        if second || at - start == CHUNK {
            chunks.push(&messages[start..at]);
            start = at;
            paid.clear();
            if message.kind == Kind::Paid {
                paid.insert(&message.order);
            }
        }
    }
    chunks.push(&messages[start..]);
    chunks
}

impl Sent {
    fn note(&mut self, source: &Source, chunk: &[Message]) {
        let now = Utc::now();
        for message in chunk {
            self.sends += 1;
            if source.ordered {
                self.ordered.insert(message.order.clone());
            }
            let entry = self.messages.entry(message.id.clone());
            entry.or_insert_with(|| (message.clone(), now));
        }
    }

    /// Adds what another source was sent, or the same in another round.
    pub fn add(&mut self, other: Sent) {
        let Sent {
            messages,
            ordered,
            sends,
            repeated,
        } = other;
        for (id, message) in messages {
            self.messages.entry(id).or_insert(message);
        }
        self.ordered.extend(ordered);
        self.sends += sends;
        self.repeated += repeated;
    }

    /// How many messages were stored before the one that places their order, though they cannot happen before.
    pub fn early(&self) -> usize {
        let early = |(message, at): &&(Message, DateTime<Utc>)| {
            let placed = self.messages.get(&format!("placed-1-{}", message.order));
            message.kind != Kind::Noted && placed.is_none_or(|(_, placed)| at < placed)
        };
        self.messages.values().filter(early).count()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{CHUNK, Kind, chunks};
    use crate::crash::shop::messages;

    #[test]
    fn parts_hold_everything_in_order_and_one_payment_of_an_order_each() {
        let orders: Vec<String> = (0..6).map(|order| order.to_string()).collect();
        let messages = messages(&orders, 5);
        let chunks = chunks(&messages);
        let ids = |messages: &[super::Message]| -> Vec<String> {
            messages.iter().map(|message| message.id.clone()).collect()
        };
        assert_eq!(ids(&chunks.concat()), ids(&messages));
        for chunk in chunks {
            assert!(chunk.len() <= CHUNK);
            let payments = chunk.iter().filter(|message| message.kind == Kind::Paid);
            let payments: Vec<&String> = payments.map(|message| &message.order).collect();
            let different: BTreeSet<_> = payments.iter().collect();
            assert_eq!(payments.len(), different.len());
        }
    }
}
