//! A counter's rate and its last two minutes, from totals read once a second.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::status::Rate;

/// Seconds of history: two minutes, and the total before the first of them.
const KEPT: usize = 121;
/// Short enough to follow a burst, long enough to be read.
const WINDOW: Duration = Duration::from_secs(5);

/// The totals of one counter, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Meter {
    totals: VecDeque<(Instant, f64)>,
}

impl Meter {
    pub(super) fn push(&mut self, at: Instant, total: f64) {
        if self.totals.len() == KEPT {
            self.totals.pop_front();
        }
        self.totals.push_back((at, total));
    }

    pub(super) fn rate(&self) -> Rate {
        let Some(&(now, total)) = self.totals.back() else {
            return Rate::default();
        };
        let earlier = self
            .totals
            .iter()
            .find(|(at, _)| now.duration_since(*at) <= WINDOW)
            .copied();
        let pairs = self.totals.iter().zip(self.totals.iter().skip(1));
        Rate {
            per_second: earlier.map_or(0.0, |earlier| per_second(earlier, (now, total))),
            total: whole(total),
            history: pairs.map(|(a, b)| per_second(*a, *b)).collect(),
        }
    }

    /// How much it grew in the time that it remembers.
    pub(super) fn grown(&self) -> u64 {
        match (self.totals.front(), self.totals.back()) {
            (Some((_, first)), Some((_, last))) => whole(last - first),
            _ => 0,
        }
    }
}

/// Rounded to a tenth: what a person reads and a page transfers.
fn per_second((from, before): (Instant, f64), (to, after): (Instant, f64)) -> f64 {
    let seconds = to.duration_since(from).as_secs_f64();
    if seconds <= 0.0 {
        return 0.0;
    }
    ((after - before).max(0.0) / seconds * 10.0).round() / 10.0
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a counter is whole, and never below zero"
)]
pub(super) fn whole(value: f64) -> u64 {
    value.max(0.0).round() as u64
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these numbers are exact in a float")]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_five_seconds() {
        let start = Instant::now();
        let mut meter = Meter::default();
        assert_eq!(meter.rate(), Rate::default());
        for (second, total) in [(0, 1000.0), (1, 1000.0), (2, 1100.0), (3, 1100.0)] {
            meter.push(start + Duration::from_secs(second), total);
        }
        let rate = meter.rate();
        assert_eq!(rate.history, [0.0, 100.0, 0.0]);
        assert_eq!((rate.per_second, rate.total), (33.3, 1100));
        for second in 4..9 {
            meter.push(start + Duration::from_secs(second), 1100.0);
        }
        assert_eq!(meter.rate().per_second, 0.0);
        assert_eq!(meter.grown(), 100);
    }

    #[test]
    fn the_history_is_bounded() {
        let start = Instant::now();
        let mut meter = Meter::default();
        for second in 0..1000_u32 {
            let total = 7.0 * f64::from(second);
            meter.push(start + Duration::from_secs(second.into()), total);
        }
        let rate = meter.rate();
        assert_eq!(rate.history.len(), KEPT - 1);
        assert_eq!(rate.per_second, 7.0);
    }
}
