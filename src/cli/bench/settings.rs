//! What the figures depend on, read from the machine and the server: printed beside them.

use serde::Serialize;
use sqlx::{PgPool, Row as _};

use super::Arguments;

/// Read once, before anything is measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Settings {
    pub sluice_version: String,
    /// A program without optimisation measures nothing.
    pub optimised: bool,
    pub cores: usize,
    pub message_bytes: u32,
    pub seed: u64,
    pub seconds_per_line: f64,
    pub server_version: String,
    pub shared_buffers: String,
    pub fsync: String,
    /// Of the inbox's sessions; the server's own may differ.
    pub synchronous_commit: String,
    pub max_batch: usize,
    pub max_batches: usize,
}

impl Settings {
    pub async fn read(
        arguments: &Arguments,
        subject: &super::Subject,
        pool: &PgPool,
    ) -> anyhow::Result<Self> {
        let row = sqlx::query(
            "/* bench.settings */
             SELECT current_setting('server_version') AS version,
                    current_setting('shared_buffers') AS shared_buffers,
                    current_setting('fsync') AS fsync",
        )
        .fetch_one(pool)
        .await?;
        Ok(Self {
            sluice_version: env!("CARGO_PKG_VERSION").to_owned(),
            optimised: !cfg!(debug_assertions),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            message_bytes: arguments.size,
            seed: arguments.seed,
            seconds_per_line: arguments.duration.0.as_secs_f64(),
            server_version: row.try_get("version")?,
            shared_buffers: row.try_get("shared_buffers")?,
            fsync: row.try_get("fsync")?,
            synchronous_commit: subject.inbox.synchronous_commit.as_sql().to_owned(),
            max_batch: subject.intake.max_batch,
            max_batches: subject.intake.max_batches,
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let optimised = if self.optimised {
            ""
        } else {
            " (built without optimisation: its figures mean nothing)"
        };
        format!(
            "sluice {}{optimised}, {} cores, messages of {} bytes, {} s for each line, seed {}\n\
             PostgreSQL {}: shared_buffers {}, fsync {}, synchronous_commit {}; batches of {} messages, {} at once\n",
            self.sluice_version,
            self.cores,
            self.message_bytes,
            self.seconds_per_line,
            self.seed,
            self.server_version,
            self.shared_buffers,
            self.fsync,
            self.synchronous_commit,
            self.max_batch,
            self.max_batches,
        )
    }
}
