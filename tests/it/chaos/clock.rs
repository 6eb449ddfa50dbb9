//! A clock that is wrong: libfaketime, and what it needs to deceive librdkafka, too (tests/rig/clock.c).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

const LIBFAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

static WAITS: LazyLock<PathBuf> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rig/clock.c");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = folder.join(format!("libclock-{}.so", std::process::id()));
    let built = Command::new("gcc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source)
        .status();
    assert!(built.is_ok_and(|status| status.success()), "gcc failed");
    library
});

/// What a process whose clock is wrong by so many seconds is started with.
pub fn wrong_by(seconds: i64) -> Vec<(&'static str, String)> {
    if seconds == 0 {
        return Vec::new();
    }
    let preloaded = format!("{} {LIBFAKETIME}", WAITS.display());
    vec![
        ("LD_PRELOAD", preloaded),
        ("FAKETIME", format!("{seconds:+}s")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}
