//! What a shop is told: the same messages for the same seed, one in five of them twice.

use std::collections::BTreeMap;

use serde_json::json;

/// How often an order is paid, usually, and called about.
const PAID: usize = 3;
const CALLED: usize = 2;

/// What a message tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Placed,
    Paid,
    Called,
    Noted,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Placed => "placed",
            Kind::Paid => "paid",
            Kind::Called => "called",
            Kind::Noted => "noted",
        }
    }
}

/// One message; the same bytes whenever it is sent.
#[derive(Debug, Clone)]
pub struct Message {
    /// The dedup key.
    pub id: String,
    pub kind: Kind,
    /// The business key.
    pub order: String,
}

impl Message {
    pub fn payload(&self) -> Vec<u8> {
        json!({"id": self.id, "type": self.kind.as_str(), "order": self.order})
            .to_string()
            .into_bytes()
    }
}

/// The messages of some orders in the order of sending, duplicates among them: the same for the same seed.
///
/// Payments of one order have rising numbers.
pub fn messages(orders: &[String], seed: u64) -> Vec<Message> {
    messages_paying(PAID, orders, seed)
}

/// The same with so many payments of each order.
pub fn messages_paying(times: usize, orders: &[String], seed: u64) -> Vec<Message> {
    let mut random = Random(seed);
    let mut told: Vec<(Kind, &String)> = Vec::new();
    for order in orders {
        told.push((Kind::Placed, order));
        told.extend(vec![(Kind::Paid, order); times]);
        told.extend([(Kind::Called, order); CALLED]);
        told.push((Kind::Noted, order));
    }
    random.shuffle(&mut told);
    let mut numbers: BTreeMap<(&str, &String), usize> = BTreeMap::new();
    let mut messages: Vec<Message> = told
        .into_iter()
        .map(|(kind, order)| {
            let number = numbers.entry((kind.as_str(), order)).or_default();
            *number += 1;
            let id = format!("{}-{number}-{order}", kind.as_str());
            Message {
                id,
                kind,
                order: order.clone(),
            }
        })
        .collect();
    for _ in 0..messages.len() / 5 {
        let first = random.below(messages.len());
        let again = first + 1 + random.below(messages.len() - first);
        messages.insert(again, messages[first].clone());
    }
    messages
}

/// A generator that gives the same numbers for the same seed on every machine: `SplitMix64`.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below this one.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("a usize fits");
        usize::try_from(self.next() % end).expect("it is below a usize")
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
