//! Named points at which a crash test lets the process abort; nothing at all without the feature.
//!
//! `SLUICE_CRASH_AT=before_commit:3` aborts when that point is passed for the third time.

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
pub fn pass(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    let armed = ARMED.get_or_init(|| {
        #[expect(
            clippy::disallowed_methods,
            reason = "a test's switch, not configuration"
        )]
        let point = std::env::var("SLUICE_CRASH_AT").ok()?;
        let (point, times) = point.split_once(':').unwrap_or((&point, "1"));
        Some((point.to_owned(), times.parse().unwrap_or(1)))
    });
    if let Some((point, times)) = armed
        && point == name
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *times
    {
        tracing::warn!(point = name, "crash point reached, aborting");
        std::process::abort();
    }
}
