//! How much of ours the engine has still to do, and what of it will not run by itself.

use sqlx::Row;

use super::Tx;
use super::tables::Tables;
use crate::engine::EngineState;
use crate::inbox::DbError;

/// How many blocked jobs are named to people.
const BLOCKED_SHOWN: i64 = 5;
/// A job that could run and that no engine node has taken for so long is told of, in seconds.
const UNTAKEN: f64 = 300.0;

/// The unfinished jobs of engine `$1` that are ours.
macro_rules! ours {
    () => {
        "(SELECT job_id, handed_at FROM {s}pending WHERE engine = $1
                 UNION ALL
                 SELECT job_id, handed_at FROM {s}pending_start WHERE engine = $1) ours"
    };
}

/// Our own unfinished jobs: those that will run, and those that will not by themselves.
pub(super) async fn backlog(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
) -> Result<EngineState, DbError> {
    let rows = sqlx::query(tables.sql(concat!(
        "/* camunda_tables.backlog */
         SELECT count(*) FILTER (WHERE j.retries_ > 0 AND j.suspension_state_ = 1) AS runnable,
                count(*) FILTER (WHERE j.retries_ = 0 OR j.suspension_state_ = 2) AS blocked,
                count(*) FILTER (WHERE j.untaken) AS untaken,
                min(j.process_def_key_) FILTER (WHERE j.untaken) AS untaken_key,
                min(j.deployment_id_) FILTER (WHERE j.untaken) AS untaken_deployment
           FROM ",
        ours!(),
        "
          CROSS JOIN LATERAL (
                SELECT x.retries_, x.suspension_state_, x.process_def_key_, x.deployment_id_,
                       x.retries_ > 0 AND x.suspension_state_ = 1 AND x.lock_owner_ IS NULL
                       AND ours.handed_at < clock_timestamp() - make_interval(secs => $2) AS untaken
                  FROM {e}act_ru_job x
                 WHERE x.id_ = ours.job_id OFFSET 0) j"
    )))
    .bind(engine)
    .bind(UNTAKEN)
    .fetch_one(&mut **tx)
    .await
    .map_err(DbError::of("engine backlog"))?;
    let count = |name: &str| u64::try_from(rows.get::<i64, _>(name)).unwrap_or(0);
    let (runnable, blocked) = (count("runnable"), count("blocked"));
    let mut blocked_details = if blocked == 0 {
        Vec::new()
    } else {
        blocked_jobs(tx, tables, engine).await?
    };
    let untaken = count("untaken");
    if untaken > 0 {
        let text = |name: &str| rows.get::<Option<String>, _>(name).unwrap_or_default();
        blocked_details.push(format!(
            "no engine node has taken {untaken} of our jobs for more than {} min, such as those of {} (deployment {}): \
             is a node up, and has it this deployment?",
            UNTAKEN / 60.0,
            text("untaken_key"),
            text("untaken_deployment")
        ));
    }
    Ok(EngineState {
        backlog: runnable,
        blocked,
        blocked_details,
    })
}

async fn blocked_jobs(tx: &mut Tx, tables: &Tables, engine: &str) -> Result<Vec<String>, DbError> {
    let rows = sqlx::query(tables.sql(
        concat!("/* camunda_tables.blocked */
         SELECT j.id_, j.process_def_key_, j.process_instance_id_, j.retries_ = 0 AS failed,
                left(j.exception_msg_, 200) AS message
           FROM ", ours!(), "
          CROSS JOIN LATERAL (
                SELECT x.id_, x.process_def_key_, x.process_instance_id_, x.retries_, x.suspension_state_,
                       x.exception_msg_, x.create_time_
                  FROM {e}act_ru_job x WHERE x.id_ = ours.job_id OFFSET 0) j
          WHERE j.retries_ = 0 OR j.suspension_state_ = 2
          ORDER BY j.create_time_
          LIMIT $2"),
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
