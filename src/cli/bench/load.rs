//! The messages: orders in JSON of the wanted size, each with a key of its own.
//!
//! Invariant: the n-th message of a load is always the same, whoever makes it; two loads share no key.

use std::fmt::Write as _;

use bytes::Bytes;

/// Messages by their number.
#[derive(Debug, Clone)]
pub struct Load {
    /// Different for every load of every run.
    name: String,
    /// What fills a message up to its size.
    padding: String,
}

impl Load {
    /// `size`: bytes of a payload, as near as its fields allow. `seed` and `line` make the keys.
    pub fn new(seed: u64, line: &str, size: u32) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut load = Self {
            name: format!("{seed}-{line}"),
            padding: String::new(),
        };
        let bare = load.payload(0).len();
        let missing = usize::try_from(size)
            .unwrap_or(usize::MAX)
            .saturating_sub(bare);
        load.padding = (0..missing).map(|_| random.alphanumeric()).collect();
        load
    }

    /// Business key and dedup key of the n-th message.
    pub fn key(&self, n: u64) -> String {
        format!("{}-{n:09}", self.name)
    }

    /// What stands before the number in the keys.
    pub fn prefix(&self) -> String {
        format!("{}-", self.name)
    }

    /// A value of the n-th message.
    #[expect(
        clippy::unused_self,
        clippy::cast_precision_loss,
        reason = "below 100,000"
    )]
    pub fn amount(&self, n: u64) -> f64 {
        (n % 100_000) as f64 / 100.0
    }

    /// The n-th message.
    pub fn payload(&self, n: u64) -> Bytes {
        let mut text = String::with_capacity(self.padding.len() + 160);
        let key = self.key(n);
        let written = write!(
            text,
            r#"{{"id":"{key}","orderId":"{key}","amount":{:.2},"paid":true,"note":"{}"}}"#,
            self.amount(n),
            self.padding
        );
        debug_assert!(written.is_ok(), "a string takes everything");
        Bytes::from(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_json_of_the_wanted_size() {
        for size in [300, 500, 1000] {
            let load = Load::new(7, "accept", size);
            for n in [0, 99, 123_456_789] {
                let payload = load.payload(n);
                let json: serde_json::Value = serde_json::from_slice(&payload).unwrap();
                assert_eq!(json["id"], load.key(n));
                assert!(
                    payload.len().abs_diff(size as usize) <= 8,
                    "{}",
                    payload.len()
                );
            }
        }
    }

    #[test]
    fn two_loads_share_no_key() {
        let (one, other) = (Load::new(7, "accept", 300), Load::new(7, "raw", 300));
        assert_ne!(one.key(1), other.key(1));
        assert_eq!(one.payload(1), Load::new(7, "accept", 300).payload(1));
    }
}
