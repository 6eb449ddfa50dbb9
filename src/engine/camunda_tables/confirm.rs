//! What became of the jobs that were handed: receipt, proof of the contrary, or neither. Never a guess.
//!
//! One statement sees the job (gone?) and the evidence in one snapshot. A receipt of variant C is a process
//! variable that the correlation itself sets, in the engine's transaction that also removes the job; of
//! variant B it is the job's own log. The claims are released in the same transaction.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::Tx;
use super::schema::{EngineSchema, History};
use super::tables::Tables;
use crate::engine::{Confirmed, Verdict};
use crate::inbox::{DbError, RowId};

/// What the database shows of one job that is gone.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own that the database shows"
)]
struct Evidence {
    variant_b: bool,
    /// Variant C: the receipt is in the history or in the running instance.
    receipt: bool,
    /// Variant B: 2 success, 3 deleted, by the job's log.
    job_state: Option<i32>,
    instance_runs: bool,
    /// And not due for removal, however wrong we may be about the engine's clock: it cleans its tables one
    /// by one, details before instances.
    instance_in_history: bool,
}

/// Judges the claims whose job is gone, at most `limit`, the oldest first; another node's are passed over.
pub(super) async fn confirm(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
    schema: &EngineSchema,
    assume_done: bool,
    limit: i64,
) -> Result<Option<Vec<Confirmed>>, DbError> {
    // The lock comes first and the evidence is of the statement's snapshot, which is older: that is safe,
    // because a job that is gone never comes back and a claim is never reused under its id.
    let rows = sqlx::query(tables.sql(
        "/* camunda_tables.confirm */
         WITH gone AS MATERIALIZED (
              SELECT p.engine, p.subscription_id, p.row_id, p.epoch, p.variant, p.job_id, p.scope_id,
                     p.receipt_name, p.process_instance_id, p.handed_at
                FROM {s}pending p
               WHERE p.engine = $1
                 AND (SELECT true FROM {e}act_ru_job j WHERE j.id_ = p.job_id) IS NULL
               ORDER BY p.handed_at
               LIMIT $2
                 FOR UPDATE OF p SKIP LOCKED)
         SELECT e.*, e.receipt_at IS NOT NULL AS receipt,
                extract(epoch FROM (clock_timestamp() AT TIME ZONE 'UTC') + make_interval(secs => $4)
                                   - nullif(e.receipt_at, 'infinity'))::float8 AS receipt_ago
           FROM (
         SELECT g.subscription_id, g.row_id, g.epoch, g.variant, g.scope_id,
                extract(epoch FROM clock_timestamp() - g.handed_at)::float8 AS handed_ago,
                (SELECT true FROM {e}act_ru_execution x
                  WHERE x.id_ = g.process_instance_id) IS NOT NULL AS runs,
                (SELECT true FROM {e}act_hi_procinst h
                  WHERE h.id_ = g.process_instance_id
                    AND (h.removal_time_ IS NULL OR h.removal_time_ >
                         (clock_timestamp() AT TIME ZONE 'UTC') + make_interval(secs => $3)))
                IS NOT NULL AS known,
                CASE WHEN g.variant = 'B' THEN
                     (SELECT max(l.job_state_) FILTER (WHERE l.job_id_ = g.job_id AND l.job_state_ IN (2, 3))
                        FROM {e}act_hi_job_log l
                       WHERE l.process_instance_id_ = g.process_instance_id) END AS job_state,
                CASE WHEN g.variant = 'C' THEN coalesce(
                     (SELECT max(d.time_) FILTER (WHERE d.name_ = g.receipt_name
                                                    AND starts_with(d.text_, g.row_id::text))
                        FROM {e}act_hi_detail d WHERE d.proc_inst_id_ = g.process_instance_id),
                     (SELECT max(coalesce(v.create_time_, 'infinity'))
                             FILTER (WHERE v.name_ = g.receipt_name AND starts_with(v.text_, g.row_id::text))
                        FROM {e}act_hi_varinst v WHERE v.proc_inst_id_ = g.process_instance_id),
                     (SELECT max(timestamp 'infinity')
                             FILTER (WHERE v.name_ = g.receipt_name AND starts_with(v.text_, g.row_id::text))
                        FROM {e}act_ru_variable v WHERE v.proc_inst_id_ = g.process_instance_id))
                END AS receipt_at
           FROM gone g) e",
    ))
    .bind(engine)
    .bind(limit)
    .bind(schema.clock_offset + schema.clock_doubt)
    .bind(schema.engine_clock())
    .fetch_all(&mut **tx)
    .await
    .map_err(DbError::of("engine receipts"))?;
    release(tx, tables, engine, &rows).await?;
    let forgotten = forget_starts(tx, tables, engine, limit).await?;
    if rows.is_empty() && forgotten == 0 {
        return Ok(None);
    }
    let confirmed = rows
        .iter()
        .map(|row| {
            let seconds = |seconds: f64| Duration::from_secs_f64(seconds.max(0.0));
            let receipt_ago: Option<f64> = row.get("receipt_ago");
            Confirmed {
                row: RowId(row.get("row_id")),
                epoch: row.get("epoch"),
                verdict: Evidence::of(row).verdict(schema.history, assume_done),
                handed_ago: seconds(row.get("handed_ago")),
                overdue: receipt_ago.map(seconds),
            }
        })
        .collect();
    Ok(Some(confirmed))
}

impl Evidence {
    fn of(row: &PgRow) -> Self {
        Self {
            variant_b: row.get::<&str, _>("variant") == "B",
            receipt: row.get("receipt"),
            job_state: row.get("job_state"),
            instance_runs: row.get("runs"),
            instance_in_history: row.get("known"),
        }
    }

    fn verdict(self, history: History, assume_done: bool) -> Verdict {
        let never = |detail: &str| Verdict::Never {
            detail: detail.to_owned(),
        };
        let in_doubt = |detail: &str| Verdict::InDoubt {
            detail: detail.to_owned(),
        };
        if self.variant_b {
            return match self.job_state {
                Some(2) => Verdict::Done,
                Some(_) => never("the subscription was cancelled or consumed before the job ran"),
                None => in_doubt("the job is gone and the engine's job log does not know it"),
            };
        }
        if self.receipt {
            return Verdict::Done;
        }
        if history.proves() {
            // The history would have kept the receipt for as long as it keeps the instance.
            return if self.instance_in_history {
                never("the job correlated nothing: nobody waited any more")
            } else {
                in_doubt("the job is gone and so is the instance's history")
            };
        }
        if self.instance_runs {
            in_doubt("the job is gone and its receipt is not in the instance")
        } else if assume_done {
            Verdict::Done
        } else {
            in_doubt("the instance has ended, and the engine's history level keeps no receipt")
        }
    }
}

/// The claims, and what the jobs left in the engine's tables.
async fn release(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
    rows: &[PgRow],
) -> Result<(), DbError> {
    if rows.is_empty() {
        return Ok(());
    }
    let column = |name: &str| {
        rows.iter()
            .map(|row| row.get(name))
            .collect::<Vec<String>>()
    };
    let scopes = column("scope_id");
    let left_over: Vec<Option<String>> = sqlx::query_scalar(tables.sql(
        "/* camunda_tables.remove_variables */
         DELETE FROM {e}act_ru_variable
          WHERE id_ = ANY(ARRAY(
                SELECT v.id_
                  FROM unnest($1::text[]) AS s(scope)
                 CROSS JOIN LATERAL (
                       SELECT x.id_ FROM {e}act_ru_variable x WHERE x.var_scope_ = s.scope OFFSET 0) v))
         RETURNING bytearray_id_",
    ))
    .bind(&scopes)
    .fetch_all(&mut **tx)
    .await
    .map_err(DbError::of("remove job variables"))?;
    // The job's configuration has the scope's id; the engine removes it itself when the job runs.
    let mut bytes: Vec<String> = left_over.into_iter().flatten().collect();
    bytes.extend(scopes);
    sqlx::query(tables.sql(
        "/* camunda_tables.remove_bytes */ DELETE FROM {e}act_ge_bytearray WHERE id_ = ANY($1)",
    ))
    .bind(&bytes)
    .execute(&mut **tx)
    .await
    .map_err(DbError::of("remove job byte arrays"))?;
    sqlx::query(tables.sql(
        "/* camunda_tables.release */
         DELETE FROM {s}pending WHERE engine = $1 AND subscription_id = ANY($2)",
    ))
    .bind(engine)
    .bind(column("subscription_id"))
    .execute(&mut **tx)
    .await
    .map_err(DbError::of("release claims"))?;
    Ok(())
}

/// A start whose job is gone has run, or was deleted with its instance: nobody is early for it any more.
/// Returns how many there were.
async fn forget_starts(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
    limit: i64,
) -> Result<u64, DbError> {
    let forgotten = sqlx::query(tables.sql(
        "/* camunda_tables.forget_starts */
         WITH ran AS MATERIALIZED (
              SELECT s.process_instance_id
                FROM {s}pending_start s
               WHERE s.engine = $1
                 AND (SELECT true FROM {e}act_ru_job j WHERE j.id_ = s.job_id) IS NULL
               ORDER BY s.handed_at
               LIMIT $2
                 FOR UPDATE OF s SKIP LOCKED)
         DELETE FROM {s}pending_start s
          USING ran
          WHERE s.engine = $1 AND s.process_instance_id = ran.process_instance_id",
    ))
    .bind(engine)
    .bind(limit)
    .execute(&mut **tx)
    .await
    .map_err(DbError::of("forget starts"))?;
    Ok(forgotten.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Evidence = Evidence {
        variant_b: false,
        receipt: false,
        job_state: None,
        instance_runs: false,
        instance_in_history: false,
    };

    fn name(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Done => "done",
            Verdict::Never { .. } => "never",
            Verdict::InDoubt { .. } => "in doubt",
        }
    }

    #[test]
    fn a_receipt_is_proof_at_every_level() {
        for history in [
            History::None,
            History::Activity,
            History::Audit,
            History::Full,
        ] {
            let evidence = Evidence {
                receipt: true,
                ..NOTHING
            };
            assert_eq!(evidence.verdict(history, false), Verdict::Done);
        }
    }

    #[test]
    fn without_a_receipt_only_a_history_that_would_have_it_proves_the_contrary() {
        let in_history = Evidence {
            instance_in_history: true,
            ..NOTHING
        };
        let running = Evidence {
            instance_runs: true,
            instance_in_history: true,
            ..NOTHING
        };
        let cases = [
            (NOTHING, History::Full, false, "in doubt"),
            (in_history, History::Full, false, "never"),
            (in_history, History::Audit, false, "never"),
            (running, History::Audit, true, "never"),
            (in_history, History::Activity, false, "in doubt"),
            (in_history, History::Activity, true, "done"),
            (running, History::Activity, true, "in doubt"),
            (NOTHING, History::None, true, "done"),
            (in_history, History::Custom, false, "in doubt"),
        ];
        for (evidence, history, assume_done, expected) in cases {
            let verdict = evidence.verdict(history, assume_done);
            assert_eq!(
                name(&verdict),
                expected,
                "{evidence:?} {history:?} {assume_done}"
            );
        }
    }

    #[test]
    fn variant_b_is_proven_by_its_jobs_log_alone() {
        let of = |job_state| {
            let evidence = Evidence {
                variant_b: true,
                job_state,
                instance_in_history: true,
                ..NOTHING
            };
            name(&evidence.verdict(History::Full, false))
        };
        assert_eq!(
            (of(Some(2)), of(Some(3)), of(None)),
            ("done", "never", "in doubt")
        );
    }
}
