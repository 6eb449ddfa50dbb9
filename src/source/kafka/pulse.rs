//! Whether a broker is there: it is asked now and then, because one that is frozen, or behind a dead
//! switch, closes no connection, and the client would wait for it a minute long.
//!
//! Pure: whoever polls asks, and says here how it went. Bytes that come are a sign of life, too, because
//! an answer may have to wait for a large response in front of it; records are none, because the client
//! has fetched some ahead.

use std::time::{Duration, Instant};

/// How often a broker is asked that answers.
const EVERY: Duration = Duration::from_secs(2);
/// How often one is asked that does not.
const AGAIN: Duration = Duration::from_secs(1);
/// The client asks any of several brokers, and the one that is gone may be asked once by chance.
const MISSES: u32 = 2;
/// What is shorter than this is no silence: a busy broker pauses, too.
const SILENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Pulse {
    /// The last sign of life.
    heard_at: Instant,
    /// When the last question was over, whatever came of it.
    asked_at: Instant,
    misses: u32,
}

impl Pulse {
    /// A broker has just answered.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard_at: now,
            asked_at: now,
            misses: 0,
        }
    }

    /// Whether it is time to ask.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let pause = match self.misses {
            0 => EVERY,
            1..MISSES => Duration::ZERO,
            MISSES.. => AGAIN,
        };
        now.duration_since(self.asked_at) >= pause
    }

    pub(super) fn answered(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    pub(super) fn missed(&mut self, now: Instant) {
        self.asked_at = now;
        self.misses = self.misses.saturating_add(1);
    }

    /// Bytes came.
    pub(super) fn heard(&mut self, at: Instant) {
        self.heard_at = self.heard_at.max(at);
    }

    /// The client says that it has lost every broker.
    pub(super) fn lost(&mut self) {
        self.misses = self.misses.max(MISSES);
    }

    /// For how long no broker has given a sign of life, if that is a silence.
    pub(super) fn silent_for(&self, now: Instant) -> Option<Duration> {
        let silent = now.duration_since(self.heard_at);
        (self.misses >= MISSES && silent >= SILENCE).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_what_two_questions_found_and_counts_from_the_last_sign_of_life() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut pulse = Pulse::new(begun);
        assert!(!pulse.is_due(at(1)));
        assert!(pulse.is_due(at(2)));
        pulse.missed(at(4));
        assert_eq!(pulse.silent_for(at(9)), None);
        assert!(pulse.is_due(at(4)), "the next one is asked at once");
        pulse.missed(at(6));
        assert_eq!(pulse.silent_for(at(6)), Some(Duration::from_secs(6)));
        assert!(!pulse.is_due(at(6)));
        assert!(pulse.is_due(at(7)));
        pulse.heard(at(5));
        assert_eq!(pulse.silent_for(at(6)), None, "something came");
        assert_eq!(pulse.silent_for(at(10)), Some(Duration::from_secs(5)));
        pulse.answered(at(10));
        pulse.lost();
        assert!(pulse.is_due(at(11)));
        assert_eq!(pulse.silent_for(at(14)), None);
        assert_eq!(pulse.silent_for(at(15)), Some(Duration::from_secs(5)));
    }
}
