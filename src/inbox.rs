//! The inbox: the table that owns every accepted message, and the statements on it.
//!
//! One implementation per database ([`postgres`], [`sqlite`]) behind one contract, [`Inbox`]; one
//! conformance suite runs every behaviour on both. Knows no broker and no engine: an engine gets the
//! transaction and writes its own rows. Invariant: every change of a row compares its state and epoch,
//! and only the database's clock decides due times and expiry.

pub mod postgres;
pub mod sqlite;

mod config;
mod error;
mod row;
mod span;
mod state;
mod text;
mod view;

pub use config::{InboxConfig, Pooler, Retention, SynchronousCommit};
pub use error::{Class, DbError};
pub use row::{
    Change, Existing, NewRow, OrderKey, Rekey, RowId, StoredRow, Take, Taken, Target, UniqueKey,
    Woken,
};
pub use state::{Expires, State, StateName};
pub use view::{Count, Filter, Node, NodeIdentity, PositionView, Purged, RowView};

use std::collections::HashMap;
use std::future::Future;

use uuid::Uuid;

use crate::finding::Finding;
use crate::position::{Advance, Beginning, Partition, Standing, Stored};

/// The statements on our own tables.
///
/// Every method's error is the database's, classified; none retries by itself.
pub trait Inbox: Clone + Send + Sync + 'static {
    /// A transaction of this database.
    type Tx: Send;

    /// Begins a transaction with the session limits set (`PostgreSQL`: READ COMMITTED; `SQLite`: IMMEDIATE).
    ///
    /// Dropped, it is rolled back: so ends a mere look, which has nothing to commit.
    fn begin(&self) -> impl Future<Output = Result<Self::Tx, DbError>> + Send;

    /// The same for a handful of rows: statements are planned once on a connection and find what they need
    /// by an index, so that only statements may run in it that are written for that.
    fn begin_small(&self) -> impl Future<Output = Result<Self::Tx, DbError>> + Send {
        self.begin()
    }

    fn commit(&self, tx: Self::Tx) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Connections of this node: idle, and in use.
    fn connections(&self) -> (usize, usize);

    /// Whether the database answers and takes writes; what an outage waits for.
    fn probe(&self) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Inserts in the order of the key's hash; returns the ids that are new.
    fn insert(
        &self,
        tx: &mut Self::Tx,
        rows: &[NewRow],
    ) -> impl Future<Output = Result<Vec<RowId>, DbError>> + Send;

    /// The rows that hold these keys.
    fn existing(
        &self,
        tx: &mut Self::Tx,
        keys: &[UniqueKey],
    ) -> impl Future<Output = Result<Vec<Existing>, DbError>> + Send;

    /// Takes the transaction lock on each of these, in a fixed order; returns those that have a row which is not finished.
    ///
    /// `blocking_dead`: scopes in which a dead row blocks its key.
    fn lock_order_keys(
        &self,
        tx: &mut Self::Tx,
        keys: &[OrderKey],
        blocking_dead: &[String],
    ) -> impl Future<Output = Result<Vec<OrderKey>, DbError>> + Send;

    /// Takes waiting rows and locks them until the transaction ends; rows that others hold are left out.
    fn take(
        &self,
        tx: &mut Self::Tx,
        take: Take<'_>,
        blocking_dead: &[String],
    ) -> impl Future<Output = Result<Taken, DbError>> + Send;

    /// Changes rows by state and epoch; returns the ids that changed. The others are stale.
    fn change(
        &self,
        tx: &mut Self::Tx,
        changes: &[Change],
    ) -> impl Future<Output = Result<Vec<RowId>, DbError>> + Send;

    /// Gives a row that was born dead the route and the key of its message. A key that somebody else took is
    /// an error of class [`Class::Again`].
    fn rekey(
        &self,
        tx: &mut Self::Tx,
        rekey: Rekey<'_>,
    ) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Adds to this node's counters in the transaction: a commit that only proves duplicates must write,
    /// or it would not wait for the standby that the first commit still waits for.
    fn count_duplicates(
        &self,
        tx: &mut Self::Tx,
        node: Uuid,
        duplicates: i64,
    ) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Counts these offsets as stored by this transaction; returns by claim how far each position is now.
    /// A claim that is not there is missing in the answer.
    fn advance_positions(
        &self,
        tx: &mut Self::Tx,
        advances: &[Advance],
    ) -> impl Future<Output = Result<HashMap<Uuid, i64>, DbError>> + Send;

    /// Who holds these positions now, in this order.
    fn position_standing(
        &self,
        tx: &mut Self::Tx,
        partitions: &[&Partition],
    ) -> impl Future<Output = Result<Vec<Option<Standing>>, DbError>> + Send;

    /// Takes these positions: from now on no batch of an earlier assignment changes them. In this order,
    /// `None` where there is none.
    fn claim_positions(
        &self,
        claims: &[(Partition, Uuid)],
    ) -> impl Future<Output = Result<Vec<Option<Stored>>, DbError>> + Send;

    /// Begins these positions, which are missing or claimed by the same id; in this order the epoch of
    /// each, `None` where another assignment has it.
    fn begin_positions(
        &self,
        beginnings: &[Beginning],
    ) -> impl Future<Output = Result<Vec<Option<i64>>, DbError>> + Send;

    /// Every position.
    fn positions(&self) -> impl Future<Output = Result<Vec<PositionView>, DbError>> + Send;

    /// One bounded round of purge.
    fn purge(
        &self,
        retention: Retention,
        limit: i64,
    ) -> impl Future<Output = Result<Purged, DbError>> + Send;

    /// Rows by route, state and reason, with the oldest age. Done rows are an estimate on `PostgreSQL`.
    fn counts(&self) -> impl Future<Output = Result<Vec<Count>, DbError>> + Send;

    /// Writes this node's row, and forgets nodes not seen for a day.
    fn beat(&self, node: &NodeIdentity) -> impl Future<Output = Result<(), DbError>> + Send;

    fn nodes(&self) -> impl Future<Output = Result<Vec<Node>, DbError>> + Send;

    /// Newest first; payload and envelope only with `bodies`.
    fn list(
        &self,
        filter: &Filter,
        bodies: bool,
    ) -> impl Future<Output = Result<Vec<RowView>, DbError>> + Send;

    /// Makes dead and waiting rows due now, with fresh attempts; one behind another of its order key has its
    /// turn. Returns how many.
    fn redrive(&self, filter: &Filter) -> impl Future<Output = Result<u64, DbError>> + Send;

    /// Makes dead and waiting rows done (`discarded by operator`): the key stays for its retention. Returns how many.
    fn discard(&self, filter: &Filter) -> impl Future<Output = Result<u64, DbError>> + Send;

    /// Creates or upgrades our tables.
    fn migrate(&self) -> impl Future<Output = Result<Vec<String>, DbError>> + Send;

    /// Whether our tables are there and of a version that this program understands.
    fn schema_status(&self) -> impl Future<Output = Result<SchemaStatus, DbError>> + Send;

    /// What `sluice check --connect` prints about the database.
    fn inspect(&self) -> impl Future<Output = Result<Vec<Finding>, DbError>> + Send;
}

/// The state of our tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaStatus {
    Current,
    Missing,
    /// Some migrations are still to be run.
    Behind {
        version: i64,
        expected: i64,
    },
    /// A newer version of Sluice made it, and says that this version may not run on it.
    TooNew {
        version: i64,
    },
}

impl SchemaStatus {
    /// `version`: the newest migration that was run; `min_reader`: the oldest one that a program must know
    /// to run on what it left; `expected`: the newest one that this program knows.
    fn of(version: i64, min_reader: i64, expected: i64) -> Self {
        if version == 0 {
            Self::Missing
        } else if version < expected {
            Self::Behind { version, expected }
        } else if min_reader > expected {
            Self::TooNew { version }
        } else {
            Self::Current
        }
    }

    /// Why this program cannot run on the tables, and what to do; `None`: it can.
    pub fn obstacle(&self) -> Option<String> {
        match self {
            Self::Current => None,
            Self::Missing => Some("Sluice's tables are missing: run `sluice migrate`".to_owned()),
            Self::Behind { version, expected } => Some(format!(
                "Sluice's tables are of version {version}, this program needs {expected}: run `sluice migrate`"
            )),
            Self::TooNew { version } => Some(format!(
                "Sluice's tables are of version {version}, which needs a newer version of Sluice than this one"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_runs_on_its_own_tables_and_on_newer_ones_that_allow_it() {
        assert_eq!(SchemaStatus::of(0, 0, 2), SchemaStatus::Missing);
        let behind = SchemaStatus::Behind {
            version: 1,
            expected: 2,
        };
        assert_eq!(SchemaStatus::of(1, 1, 2), behind);
        assert_eq!(SchemaStatus::of(2, 1, 2), SchemaStatus::Current);
        assert_eq!(SchemaStatus::of(3, 2, 2), SchemaStatus::Current);
        let too_new = SchemaStatus::TooNew { version: 4 };
        assert_eq!(SchemaStatus::of(4, 3, 2), too_new);
    }
}
