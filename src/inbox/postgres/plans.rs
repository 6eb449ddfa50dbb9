//! How the server plans our statements.
//!
//! A plan that was made while a table was empty would read all of it for every batch, until the next ANALYZE. So what
//! takes whole batches is planned anew each time; a handful of rows, and the foreign keys of a batch, are looked up by
//! an index whatever the tables hold, and their plans are kept, because planning costs more than the look. (Which of two
//! indexes is the better one may change: sessions forget their plans from time to time, [`super::connect`].)

use sqlx::Executor as _;

use super::Tx;
use crate::inbox::DbError;

/// How the statements of a transaction are planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Planning {
    /// For this execution.
    Anew,
    /// Once in a session, by index alone. Before PostgreSQL 18 what is forbidden counts as so expensive that the
    /// server would compile the plan.
    Once,
}

impl Planning {
    /// As the columns of a SELECT; for this transaction alone.
    pub fn settings(self) -> &'static str {
        match self {
            Self::Anew => "set_config('plan_cache_mode', 'force_custom_plan', true)",
            Self::Once => {
                "set_config('plan_cache_mode', 'force_generic_plan', true), \
                 set_config('enable_seqscan', 'off', true), \
                 set_config('enable_hashjoin', 'off', true), \
                 set_config('enable_mergejoin', 'off', true), \
                 set_config('jit', 'off', true)"
            }
        }
    }
}

impl Tx {
    /// From here on plans are made once, by index alone: for inserts that read no table but by their foreign keys,
    /// whose checks the server plans by the same rule, for each row by itself.
    ///
    /// # Errors
    /// The database's.
    pub async fn keep_plans(&mut self) -> Result<(), DbError> {
        self.plan(
            "/* inbox.keep_plans */ SET LOCAL plan_cache_mode = force_generic_plan; \
             SET LOCAL enable_seqscan = off",
        )
        .await
    }

    /// Ends what [`Tx::keep_plans`] began.
    ///
    /// # Errors
    /// The database's.
    pub async fn plan_anew(&mut self) -> Result<(), DbError> {
        self.plan(
            "/* inbox.plan_anew */ SET LOCAL plan_cache_mode = force_custom_plan; \
             SET LOCAL enable_seqscan TO DEFAULT",
        )
        .await
    }

    /// Nothing is to be done where plans are kept anyway. Behind a pooler the session may have those of a stranger,
    /// who knows no such rule.
    async fn plan(&mut self, settings: &'static str) -> Result<(), DbError> {
        if self.planning() == Planning::Anew && !self.is_pooled() {
            self.execute(settings)
                .await
                .map_err(DbError::of("inbox.plans"))?;
        }
        Ok(())
    }
}
