//! A disk of a test's own that can be full. Needs root, as does every mount.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Unmounted with this value.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Beside a folder, and of the same owner; the size is an option of mount, such as `size=6m`.
    pub fn beside(folder: &Path, size: &str) -> SmallDisk {
        let owner = std::fs::metadata(folder).unwrap();
        let disk = SmallDisk(folder.with_file_name("small"));
        std::fs::create_dir_all(&disk.0).unwrap();
        disk.mount(&format!(
            "{size},uid={},gid={},mode=700",
            owner.uid(),
            owner.gid()
        ));
        disk
    }

    pub fn folder(&self) -> &Path {
        &self.0
    }

    pub fn resize(&self, size: &str) {
        self.mount(&format!("remount,{size}"));
    }

    /// Leaves no room for another page.
    pub fn fill(&self) {
        // What is written while we look makes the disk larger than it may become, which mount refuses.
        for _ in 0..20 {
            let used = Command::new("df")
                .args(["--output=used", "--block-size=4096"])
                .arg(&self.0)
                .output()
                .unwrap();
            let used = String::from_utf8_lossy(&used.stdout);
            let pages: u64 = used
                .lines()
                .last()
                .and_then(|line| line.trim().parse().ok())
                .expect("df says how many pages are used");
            if self.try_mount(&format!("remount,nr_blocks={pages}")) {
                return;
            }
        }
        panic!("the disk cannot be filled");
    }

    fn mount(&self, options: &str) {
        let mounted = self.try_mount(options);
        assert!(mounted, "this test mounts a small disk: run it as root");
    }

    fn try_mount(&self, options: &str) -> bool {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&self.0)
            .status()
            .unwrap();
        mounted.success()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server below may still live when a test failed.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
