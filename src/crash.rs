//! Named points at which a crash test lets the process abort or freeze; nothing at all without the feature.
//!
//! `SLUICE_CRASH_AT=before_commit:3` aborts when that point is passed for the third time;
//! `SLUICE_STOP_AT=before_commit:3` stops the process there, as `SIGSTOP` does, until `SIGCONT`.

/// Marks a place between two steps at which the process may die.
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "crash_points")]
        $crate::crash::pass($name);
    };
}

/// Every point, in the order in which a message passes them.
pub const POINTS: [&str; 11] = [
    "received",
    "matched",
    "inserted",
    "handed",
    "before_commit",
    "after_commit",
    "before_ack",
    "after_ack",
    "wake_claimed",
    "confirm_read",
    "purge",
];

#[cfg(feature = "crash_points")]
pub use armed::pass;

#[cfg(feature = "crash_points")]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::sys::signal::{Signal, raise};

    static CRASH: LazyLock<Option<Switch>> = LazyLock::new(|| Switch::read("SLUICE_CRASH_AT"));
    static STOP: LazyLock<Option<Switch>> = LazyLock::new(|| Switch::read("SLUICE_STOP_AT"));

    /// A point, and which of its passes counts.
    struct Switch {
        point: String,
        times: u64,
        passed: AtomicU64,
    }

    impl Switch {
        fn read(variable: &str) -> Option<Self> {
            #[expect(
                clippy::disallowed_methods,
                reason = "a test's switch, not configuration"
            )]
            let value = std::env::var(variable).ok()?;
            let (point, times) = value.split_once(':').unwrap_or((&value, "1"));
            Some(Self {
                point: point.to_owned(),
                times: times.parse().unwrap_or(1),
                passed: AtomicU64::new(0),
            })
        }

        fn is_due(&self, point: &str) -> bool {
            self.point == point && self.passed.fetch_add(1, Ordering::SeqCst) + 1 == self.times
        }
    }

    pub fn pass(point: &'static str) {
        if CRASH.as_ref().is_some_and(|switch| switch.is_due(point)) {
            tracing::warn!(point, "crash point reached, aborting");
            std::process::abort();
        }
        if STOP.as_ref().is_some_and(|switch| switch.is_due(point)) {
            tracing::warn!(point, "crash point reached, stopping");
            // By a signal to this very thread, which so takes no further step. One to the process may find
            // another thread first, and until that one is scheduled, this one goes on.
            if let Err(cause) = raise(Signal::SIGSTOP) {
                tracing::error!(%cause, "the process cannot be stopped");
            }
            tracing::warn!(point, "going on");
        }
    }
}
