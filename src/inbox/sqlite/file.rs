//! Whether the database's file is still the one that was opened.
//!
//! A process goes on writing to a file that was deleted or replaced under it, and every commit succeeds:
//! what is acknowledged then is gone with the process. Invariant: a commit counts only when the file that
//! it went to is found under the configured path after it.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// The file of this process's writing connection; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct File {
    path: PathBuf,
    /// Device and inode of what was opened first. A later connection that finds another file writes
    /// nothing that counts, so that only a restart takes a replacement for the database.
    opened: Arc<OnceLock<(u64, u64)>>,
}

impl File {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            opened: Arc::default(),
        }
    }

    /// A connection that writes has been opened.
    pub(super) fn opened(&self) -> Result<(), sqlx::Error> {
        let found = self.look()?;
        self.opened.get_or_init(|| found);
        Ok(())
    }

    /// One `stat`, of a file on a local disk: cheaper than sending it to another thread.
    ///
    /// # Errors
    /// It is gone, or another one.
    pub(super) fn verify(&self) -> Result<(), sqlx::Error> {
        let opened = self.opened.get();
        match self.look() {
            Ok(found) if opened.is_none_or(|opened| *opened == found) => Ok(()),
            Ok(_) => Err(self.lost("has been replaced by another file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(self.lost("has been deleted or moved away"))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn look(&self) -> io::Result<(u64, u64)> {
        let found = std::fs::metadata(&self.path)?;
        Ok((found.dev(), found.ino()))
    }

    fn lost(&self, what: &str) -> sqlx::Error {
        let path = self.path.display();
        let advice =
            "nothing that is stored now would be found again: put it back, or restart the node";
        io::Error::other(format!("{path} {what} under this node, {advice}")).into()
    }
}
