//! A clock that is wrong: libfaketime, and what it needs to deceive librdkafka, too (tests/rig/clock.c).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// What libfaketime leaves in shared memory when its process is killed.
const LEFT: [&str; 2] = ["sem.faketime_sem_", "faketime_shm_"];
const SHARED_MEMORY: &str = "/dev/shm";

/// In seconds.
pub const DAY: i64 = 86_400;

const LIBFAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

static WAITS: LazyLock<PathBuf> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rig/clock.c");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = folder.join("libclock.so");
    // Others may be using it, or making it.
    let new = folder.join(format!("libclock-{}.so", std::process::id()));
    let built = Command::new("gcc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&new)
        .arg(source)
        .status();
    assert!(built.is_ok_and(|status| status.success()), "gcc failed");
    std::fs::rename(&new, &library).expect("the folder takes it");
    library
});

/// What a process is started with, so that its clock is wrong.
pub struct Clock(Vec<(&'static str, String)>);

impl Clock {
    /// By so many seconds.
    pub fn wrong_by(seconds: i64) -> Clock {
        if seconds == 0 {
            return Clock(Vec::new());
        }
        sweep();
        let preloaded = format!("{} {LIBFAKETIME}", WAITS.display());
        Clock(vec![
            ("LD_PRELOAD", preloaded),
            ("FAKETIME", format!("{seconds:+}s")),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ])
    }

    pub fn environment(&self) -> Vec<(&str, &str)> {
        let variables = self.0.iter();
        variables
            .map(|(name, value)| (*name, value.as_str()))
            .collect()
    }
}

/// Removes what processes left that are gone.
fn sweep() {
    let entries = std::fs::read_dir(SHARED_MEMORY).into_iter().flatten();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let of = |prefix: &&str| name.to_str()?.strip_prefix(prefix)?.parse::<u32>().ok();
        if let Some(process) = LEFT.iter().find_map(of)
            && !Path::new(&format!("/proc/{process}")).exists()
        {
            // Another test may be quicker.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
