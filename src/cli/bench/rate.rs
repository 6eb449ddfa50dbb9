//! Counts and times as figures.

use std::time::Duration;

use anyhow::Context as _;

use super::report::{Line, PER_SECOND};

/// A count as a figure.
#[expect(clippy::cast_precision_loss, reason = "no run counts beyond 2^52")]
pub fn count(n: u64) -> f64 {
    n as f64
}

/// 0 where nothing was done.
pub fn per_second(messages: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() {
        return 0.0;
    }
    count(messages) / elapsed.as_secs_f64()
}

/// How often two lines that are compared take turns, so that what else the machine does befalls both.
pub const TURNS: u32 = 4;

/// Messages and time of several turns.
#[derive(Debug, Clone, Copy, Default)]
pub struct Total {
    pub messages: u64,
    pub elapsed: Duration,
}

impl Total {
    pub fn of(messages: u64, elapsed: Duration) -> Self {
        Self { messages, elapsed }
    }

    pub fn per_second(self) -> f64 {
        per_second(self.messages, self.elapsed)
    }
}

impl std::ops::AddAssign for Total {
    fn add_assign(&mut self, turn: Self) {
        self.messages += turn.messages;
        self.elapsed += turn.elapsed;
    }
}

/// The fastest of these combinations, and its rate; `try_out` says the rate of one.
///
/// # Errors
/// That of the first that failed; there is none to try.
pub async fn best(
    sizes: &[usize],
    connections: &[usize],
    mut try_out: impl AsyncFnMut(usize, usize) -> anyhow::Result<f64>,
) -> anyhow::Result<(f64, usize, usize)> {
    let mut best: Option<(f64, usize, usize)> = None;
    for &size in sizes {
        for &connections in connections {
            let rate = try_out(size, connections).await?;
            if best.is_none_or(|(most, ..)| rate > most) {
                best = Some((rate, size, connections));
            }
        }
    }
    best.context("there is nothing to try")
}

/// So many messages in this time.
pub fn line(name: &'static str, total: Total, how: &str) -> Line {
    let Total { messages, elapsed } = total;
    let (rate, seconds) = (total.per_second(), elapsed.as_secs_f64());
    Line {
        name,
        headline: format!("{rate:.0} /s"),
        how: format!("{messages} in {seconds:.1} s: {how}"),
        figures: vec![
            (PER_SECOND, rate),
            ("messages", count(messages)),
            ("seconds", seconds),
        ],
    }
}

/// The value below which so many of a hundred are; of a sorted list that is not empty.
pub fn percentile_ms(sorted: &[Duration], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    let value = sorted.get(place.min(last)).copied().unwrap_or_default();
    value.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_of_the_list() {
        let sorted: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert!((percentile_ms(&sorted, 50) - 100.0).abs() < 1e-9);
        assert!((percentile_ms(&sorted, 99) - 198.0).abs() < 1e-9);
        assert!((percentile_ms(&sorted[..1], 99) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_in_no_time_is_no_rate() {
        assert!(per_second(0, Duration::ZERO).abs() < 1e-9);
    }
}
