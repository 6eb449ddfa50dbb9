//! Which waiting rows may go on, and how much of ours the engine has still to do.

use sqlx::Row;

use super::Tx;
use super::claim::row_ids;
use super::tables::Tables;
use crate::engine::EngineState;
use crate::inbox::{DbError, RowId};

/// How many blocked jobs are named to people.
const BLOCKED_SHOWN: i64 = 5;

/// Rows that only wait for the backlog, the oldest first.
pub(super) async fn queued(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
    routes: &[String],
    limit: i64,
) -> Result<Vec<RowId>, DbError> {
    let rows = sqlx::query(tables.sql(
        "/* camunda_tables.queued */
         SELECT w.id AS row_id
           FROM {s}inbox w
          WHERE w.engine = $1 AND w.state = 'waiting' AND w.reason = 'backlog' AND w.route = ANY($2)
          ORDER BY w.id
          LIMIT $3",
    ))
    .bind(engine)
    .bind(routes)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await
    .map_err(DbError::of("engine queue"))?;
    Ok(row_ids(&rows))
}

/// Whether any row waits for the backlog.
pub(super) async fn has_queue(tx: &mut Tx, tables: &Tables, engine: &str) -> Result<bool, DbError> {
    sqlx::query_scalar(tables.sql(
        "/* camunda_tables.has_queue */
         SELECT EXISTS (SELECT 1 FROM {s}inbox w
                         WHERE w.engine = $1 AND w.state = 'waiting' AND w.reason = 'backlog')",
    ))
    .bind(engine)
    .fetch_one(&mut **tx)
    .await
    .map_err(DbError::of("engine queue"))
}

/// The first waiting row of each free subscription, at most `limit`.
///
/// It joins states and not reasons, but for the reasons that use an attempt: those rows could go at once
/// and were answered no, so they wait for their back-off. The limit is on hits, so that rows that cannot go
/// starve nobody.
pub(super) async fn wake(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
    routes: &[String],
    limit: i64,
) -> Result<Vec<RowId>, DbError> {
    let rows = sqlx::query(tables.sql(
        "/* camunda_tables.wake */
         WITH first AS (
              SELECT DISTINCT ON (w.message_name, w.business_key) w.id, w.message_name, w.business_key
                FROM {s}inbox w
               WHERE w.engine = $1 AND w.state = 'waiting' AND w.announced AND w.route = ANY($2)
                 AND w.reason NOT IN ('ordered', 'backlog')
                 AND (w.reason NOT IN ('ambiguous', 'unsupported', 'retry', 'held')
                      OR w.due_at <= clock_timestamp())
               ORDER BY w.message_name, w.business_key, w.id)
         SELECT DISTINCT first.id AS row_id
           FROM first
           JOIN {e}act_ru_execution inst ON inst.business_key_ = first.business_key
           JOIN {e}act_ru_execution res
             ON res.proc_inst_id_ = inst.id_ AND res.suspension_state_ = 1
           JOIN {e}act_ru_event_subscr evt
             ON evt.execution_id_ = res.id_ AND evt.event_type_ = 'message'
            AND evt.event_name_ = first.message_name
          WHERE NOT EXISTS (SELECT 1 FROM {s}pending p
                             WHERE p.engine = $1 AND p.subscription_id = evt.id_)
            AND NOT EXISTS (SELECT 1 FROM {s}pending p
                             WHERE p.engine = $1 AND p.process_instance_id = inst.id_
                               AND p.message_name = evt.event_name_)
          LIMIT $3",
    ))
    .bind(engine)
    .bind(routes)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await
    .map_err(DbError::of("wake"))?;
    Ok(row_ids(&rows))
}

/// Our own unfinished jobs: those that will run, and those that will not by themselves.
pub(super) async fn backlog(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
) -> Result<EngineState, DbError> {
    let rows = sqlx::query(tables.sql(
        "/* camunda_tables.backlog */
         SELECT count(*) FILTER (WHERE j.retries_ > 0 AND j.suspension_state_ = 1) AS runnable,
                count(*) FILTER (WHERE j.retries_ = 0 OR j.suspension_state_ = 2) AS blocked
           FROM (SELECT job_id FROM {s}pending WHERE engine = $1
                 UNION ALL
                 SELECT job_id FROM {s}pending_start WHERE engine = $1) ours
           JOIN {e}act_ru_job j ON j.id_ = ours.job_id",
    ))
    .bind(engine)
    .fetch_one(&mut **tx)
    .await
    .map_err(DbError::of("engine backlog"))?;
    let count = |name: &str| u64::try_from(rows.get::<i64, _>(name)).unwrap_or(0);
    let (runnable, blocked) = (count("runnable"), count("blocked"));
    let blocked_details = if blocked == 0 {
        Vec::new()
    } else {
        blocked_jobs(tx, tables, engine).await?
    };
    Ok(EngineState {
        backlog: runnable,
        blocked,
        blocked_details,
    })
}

async fn blocked_jobs(tx: &mut Tx, tables: &Tables, engine: &str) -> Result<Vec<String>, DbError> {
    let rows = sqlx::query(tables.sql(
        "/* camunda_tables.blocked */
         SELECT j.id_, j.process_def_key_, j.process_instance_id_, j.retries_ = 0 AS failed,
                left(j.exception_msg_, 200) AS message
           FROM (SELECT job_id FROM {s}pending WHERE engine = $1
                 UNION ALL
                 SELECT job_id FROM {s}pending_start WHERE engine = $1) ours
           JOIN {e}act_ru_job j ON j.id_ = ours.job_id
          WHERE j.retries_ = 0 OR j.suspension_state_ = 2
          ORDER BY j.create_time_
          LIMIT $2",
    ))
    .bind(engine)
    .bind(BLOCKED_SHOWN)
    .fetch_all(&mut **tx)
    .await
    .map_err(DbError::of("engine blocked jobs"))?;
    Ok(rows
        .iter()
        .map(|row| {
            let text = |name: &str| row.get::<Option<String>, _>(name).unwrap_or_default();
            let why = if row.get::<Option<bool>, _>("failed").unwrap_or(false) {
                format!("no retries left: {}", text("message"))
            } else {
                "suspended".to_owned()
            };
            format!(
                "job {} of {} (instance {}): {why}",
                text("id_"),
                text("process_def_key_"),
                text("process_instance_id_")
            )
        })
        .collect())
}
