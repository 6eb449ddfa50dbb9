//! How long to wait before the next try: the policy of every retry in this process, and of a row's attempts.
//!
//! The crate `backoff` stands behind this module alone.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::units::Span;

/// `[routes.NAME.attempts]`: exponential back-off between attempts; an outage uses none.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AttemptsConfig {
    /// After this many the message is dead.
    pub max: u16,
    pub initial_interval: Span,
    pub multiplier: f64,
    pub max_interval: Span,
}

impl Default for AttemptsConfig {
    fn default() -> Self {
        Self {
            max: 10,
            initial_interval: Span::secs(1),
            multiplier: 2.0,
            max_interval: Span::secs(300),
        }
    }
}

/// Exponential delays with jitter, for ever; [`Delays::reset`] after a success.
#[derive(Debug)]
pub struct Delays(ExponentialBackoff);

impl Delays {
    /// From `initial` to `max`, doubling, each half random.
    pub fn new(initial: Span, max: Span) -> Self {
        Self(ExponentialBackoff {
            current_interval: initial.0,
            initial_interval: initial.0,
            max_interval: max.0,
            multiplier: 2.0,
            randomization_factor: 0.5,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }

    /// The longest pause of [`Delays::outage`].
    pub const LONGEST_OUTAGE: Duration = Duration::from_secs(5);

    /// For a server that does not answer: 100 ms to 5 s.
    pub fn outage() -> Self {
        Self::new(Span::ms(100), Span(Self::LONGEST_OUTAGE))
    }

    /// For a lock or a claim that somebody else had: 5 ms to 200 ms.
    pub fn contention() -> Self {
        Self::new(Span::ms(5), Span::ms(200))
    }

    pub fn next_delay(&mut self) -> Duration {
        // Without a limit in time the crate always has a next delay.
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// When a row's next attempt is due: `attempt` counts from 1.
pub fn attempt_delay(config: &AttemptsConfig, attempt: i32) -> Span {
    let mut delays = ExponentialBackoff {
        current_interval: config.initial_interval.0,
        initial_interval: config.initial_interval.0,
        max_interval: config.max_interval.0,
        multiplier: config.multiplier.max(1.0),
        randomization_factor: 0.2,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    let mut delay = config.initial_interval.0;
    // The interval has reached its maximum long before: a loop of 64 is as good as any.
    for _ in 0..attempt.clamp(1, 64) {
        delay = delays.next_backoff().unwrap_or(config.max_interval.0);
    }
    Span(delay.min(config.max_interval.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_their_maximum_and_never_end() {
        let mut delays = Delays::new(Span::ms(100), Span::secs(1));
        for _ in 0..200 {
            let delay = delays.next_delay();
            assert!(delay >= Duration::from_millis(50) && delay <= Duration::from_millis(1500));
        }
        assert!(delays.next_delay() >= Duration::from_millis(500));
        delays.reset();
        assert!(delays.next_delay() <= Duration::from_millis(150));
    }

    #[test]
    fn attempts_wait_longer_each_time() {
        let config = AttemptsConfig::default();
        assert!(attempt_delay(&config, 1).0 <= Duration::from_millis(1200));
        assert!(attempt_delay(&config, 5).0 >= Duration::from_millis(12_800));
        assert!(attempt_delay(&config, 1000).0 <= config.max_interval.0);
    }
}
