//! How many deliveries the broker may send ahead, so that together they stay within so many bytes. Pure.
//!
//! AMQP's own limit in bytes is not implemented by `RabbitMQ`, and what the broker has sent cannot be sent
//! back while the channel lives. So whoever holds too much gives everything back by cutting its connection,
//! and the next one asks for fewer messages. Invariant: at least one delivery is let through, however large.

use std::sync::atomic::{AtomicU16, Ordering};

/// How many deliveries to ask for; shared by the streams of a source, one after the other.
#[derive(Debug)]
pub(super) struct Prefetch {
    bytes: usize,
    count: AtomicU16,
}

/// What is held is more than may be; so many are asked for next time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exceeded {
    pub next: u16,
}

impl Prefetch {
    /// Begins with `count` deliveries; `bytes` is what they may take together.
    pub(super) fn new(count: u16, bytes: usize) -> Self {
        Self {
            bytes,
            count: AtomicU16::new(count.max(1)),
        }
    }

    pub(super) fn count(&self) -> u16 {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Looks at what is held: so many deliveries of so many bytes together.
    ///
    /// # Errors
    /// It is too much. The next stream asks for as many as fit at their mean size, and for half at most, so
    /// that even a mix of sizes is found in a few steps.
    pub(super) fn hold(&self, deliveries: usize, bytes: usize) -> Result<(), Exceeded> {
        if bytes <= self.bytes || deliveries <= 1 {
            return Ok(());
        }
        let mean = bytes.div_ceil(deliveries).max(1);
        let fit = u16::try_from(self.bytes / mean).unwrap_or(u16::MAX);
        let next = fit.min(self.count() / 2).max(1);
        self.count.store(next, Ordering::Relaxed);
        Err(Exceeded { next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn small_messages_are_bounded_by_their_number() {
        let prefetch = Prefetch::new(1000, 32 * MIB);
        assert_eq!(prefetch.hold(1000, 1000 * 1024), Ok(()));
        assert_eq!(prefetch.count(), 1000);
    }

    #[test]
    fn large_ones_are_asked_for_as_many_as_fit() {
        let prefetch = Prefetch::new(1000, 32 * MIB);
        assert_eq!(prefetch.hold(4, 40 * MIB), Err(Exceeded { next: 3 }));
        assert_eq!(prefetch.count(), 3);
    }

    #[test]
    fn a_mix_is_found_in_a_few_steps() {
        let prefetch = Prefetch::new(1000, 32 * MIB);
        assert_eq!(prefetch.hold(999, 33 * MIB), Err(Exceeded { next: 500 }));
        assert_eq!(prefetch.hold(400, 33 * MIB), Err(Exceeded { next: 250 }));
        assert_eq!(prefetch.hold(250, 30 * MIB), Ok(()));
    }

    #[test]
    fn one_delivery_goes_however_large_it_is() {
        let prefetch = Prefetch::new(10, MIB);
        assert_eq!(prefetch.hold(2, 100 * MIB), Err(Exceeded { next: 1 }));
        assert_eq!(prefetch.hold(1, 100 * MIB), Ok(()));
        assert_eq!(prefetch.count(), 1);
    }
}
