//! A process of the bench's own in the user's engine, instances of it that wait, and their removal.
//!
//! The process is deployed by REST under a random key. One instance is started by REST, too; the thousands
//! that the lines need are copies of its rows, made by the server itself, because REST would take hours.
//! Invariant: only rows of the bench's own process are written, and found again by its key to be removed.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value};
use sqlx::postgres::PgPool;

use super::load::Load;
use super::rest::Rest;
use super::{Ground, Subject};
use crate::engine::camunda_tables::{CamundaTables, CamundaTablesConfig, Tables};

/// The model; `KEY` stands for the bench's own.
const MODEL: &str = include_str!("orders.bpmn");

/// The tables whose rows make a waiting instance, in the order of their foreign keys, each with its
/// instance's column. An execution goes before the one below it.
const COPIED: [(&str, &str); 4] = [
    ("act_ru_execution", "proc_inst_id_"),
    ("act_ru_event_subscr", "proc_inst_id_"),
    ("act_hi_procinst", "proc_inst_id_"),
    ("act_hi_actinst", "proc_inst_id_"),
];

/// How often, and how far apart, rows are removed that others still write beside.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);

/// The process, deployed.
pub struct Process {
    pub rest: Vec<Rest>,
    key: String,
    config: CamundaTablesConfig,
    tables: Tables,
    pool: PgPool,
    /// The instance that is copied.
    template: String,
}

impl Process {
    /// Deploys it and starts the instance that is copied.
    pub async fn deploy(
        subject: &Subject,
        ground: &Ground,
        config: &CamundaTablesConfig,
        key: &str,
    ) -> anyhow::Result<Self> {
        let nodes = subject.engine_urls.iter().map(|url| Rest::at(url));
        let rest = nodes.collect::<anyhow::Result<Vec<_>>>()?;
        let first = rest.first().context("the engine's address is given")?;
        first.deploy(key, MODEL.replace("KEY", key)).await?;
        let template = first.start(&format!("{key}_waits"), "template").await?;
        let tables = Tables::new(&config.schema, &config.table_prefix, &ground.config.schema);
        let process = Self {
            key: key.to_owned(),
            config: CamundaTablesConfig {
                // What is measured is the hand-over, not the engine's own pace.
                max_backlog: u32::MAX,
                ..config.clone()
            },
            tables,
            pool: ground.inbox.pool().clone(),
            template,
            rest,
        };
        let there = process
            .template_rows("act_ru_event_subscr", "proc_inst_id_")
            .await;
        let there = there.context("the engine's tables")?;
        ensure!(
            there.len() == 1,
            "the engine at {} keeps its tables elsewhere than in schema {:?} of the inbox's database",
            subject.engine_urls[0],
            config.schema
        );
        Ok(process)
    }

    /// The engine as the daemon would have it, but for a backlog without limit.
    pub fn engine(&self, ground: &Ground) -> CamundaTables {
        CamundaTables::new(super::way::NAME, self.config.clone(), &ground.config.schema)
    }

    /// The same in a daemon's file.
    pub fn configuration(&self) -> String {
        let CamundaTablesConfig {
            schema,
            table_prefix,
            max_backlog,
            ..
        } = &self.config;
        format!(
            "[engines.{}.camunda_tables]\nschema = \"{schema}\"\ntable_prefix = \"{table_prefix}\"\n\
             max_backlog = {max_backlog}\n",
            super::way::NAME
        )
    }

    /// What a waiting instance waits for.
    pub fn paid(&self) -> String {
        format!("{}_paid", self.key)
    }

    /// What starts an instance.
    pub fn begun(&self) -> String {
        format!("{}_begun", self.key)
    }

    /// Makes waiting instances for the messages of a load from this number on.
    pub async fn wait_for(&self, load: &Load, first: u64, messages: u64) -> anyhow::Result<()> {
        let mut copies = Vec::new();
        let mut ids = BTreeSet::new();
        for (table, instance) in COPIED {
            let rows = self.template_rows(table, instance).await?;
            ids.extend(
                rows.iter()
                    .filter_map(|row| text(row, "id_").map(str::to_owned)),
            );
            copies.extend(rows.into_iter().map(|row| (table, row)));
        }
        // The instance before its executions: they refer to it.
        copies.sort_by_key(|(table, row)| {
            let place = COPIED.iter().position(|(own, _)| own == table);
            (
                place,
                row.get("parent_id_")
                    .is_some_and(|parent| !parent.is_null()),
            )
        });
        let (from, to) = (i64::try_from(first)?, i64::try_from(first + messages)?);
        for (table, row) in copies {
            let text = copy(table, &row, &ids)?;
            sqlx::query(self.tables.sql(&text))
                .bind(from)
                .bind(to - 1)
                .bind(load.prefix())
                .execute(&self.pool)
                .await
                .with_context(|| format!("copying rows of {table}"))?;
        }
        Ok(())
    }

    /// The rows of the instance that is copied.
    async fn template_rows(
        &self,
        table: &str,
        instance: &str,
    ) -> anyhow::Result<Vec<Map<String, Value>>> {
        let text = format!(
            "/* bench.template */ SELECT to_jsonb(t) FROM {{e}}{table} t WHERE t.{instance} = $1"
        );
        let rows: Vec<Value> = sqlx::query_scalar(self.tables.sql(&text))
            .bind(&self.template)
            .fetch_all(&self.pool)
            .await?;
        let maps = rows.into_iter().map(|row| match row {
            Value::Object(map) => Ok(map),
            _ => bail!("a row is an object"),
        });
        maps.collect()
    }

    /// Whether some node of the engine runs jobs: one of ours was taken, or is gone.
    pub async fn jobs_are_run(&self) -> anyhow::Result<bool> {
        let text = "/* bench.jobs_are_run */
            SELECT EXISTS (
                SELECT FROM {s}pending p
                  LEFT JOIN {e}act_ru_job j ON j.id_ = p.job_id
                 WHERE j.id_ IS NULL OR j.lock_owner_ IS NOT NULL)";
        let run = sqlx::query_scalar(self.tables.sql(text)).fetch_one(&self.pool);
        Ok(run.await?)
    }

    /// How many jobs of ours are gone: run, and not yet confirmed.
    pub async fn jobs_run(&self) -> anyhow::Result<u64> {
        let text = "/* bench.jobs_run */
            SELECT count(*) FROM {s}pending p
             WHERE NOT EXISTS (SELECT FROM {e}act_ru_job j WHERE j.id_ = p.job_id)";
        let run: i64 = sqlx::query_scalar(self.tables.sql(text))
            .fetch_one(&self.pool)
            .await?;
        Ok(run.unsigned_abs())
    }

    /// Removes everything of the process but its deployment and the instance that is copied.
    pub async fn clear(&self) -> anyhow::Result<()> {
        clear(&self.pool, &self.tables, &self.key, &self.template).await
    }
}

/// Removes everything of a process: its rows, then its deployment.
pub async fn remove(pool: &PgPool, rest: &Rest, tables: &Tables, key: &str) -> anyhow::Result<()> {
    clear(pool, tables, key, "").await?;
    for deployment in rest.deployments(key).await? {
        rest.undeploy(&deployment).await?;
    }
    Ok(())
}

/// A node of the engine may just be running a job of what is going away, and write a row behind us.
async fn clear(pool: &PgPool, tables: &Tables, key: &str, stays: &str) -> anyhow::Result<()> {
    let mut tries = 0;
    loop {
        let Err(error) = clear_once(pool, tables, key, stays).await else {
            return Ok(());
        };
        tries += 1;
        if tries == TRIES {
            return Err(error);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn clear_once(pool: &PgPool, tables: &Tables, key: &str, stays: &str) -> anyhow::Result<()> {
    for text in CLEAR {
        sqlx::query(tables.sql(text))
            .bind(format!("{key}_waits"))
            .bind(format!("{key}_begins"))
            .bind(stays)
            .execute(pool)
            .await
            .with_context(|| text.lines().next().unwrap_or_default().to_owned())?;
    }
    Ok(())
}

/// Parameters: the keys of both processes, and the instance that stays.
const CLEAR: [&str; 13] = [
    // First, so that no node takes up what is going away.
    "/* bench.clear_jobs */
     DELETE FROM {e}act_ru_job WHERE process_def_key_ IN ($1, $2) AND $3::text IS NOT NULL",
    "/* bench.clear_private_variables */
     DELETE FROM {e}act_ru_variable v USING {s}pending p
      WHERE v.var_scope_ = p.scope_id AND ($1 || $2 || $3)::text IS NOT NULL",
    "/* bench.clear_configurations */
     DELETE FROM {e}act_ge_bytearray b USING {s}pending p
      WHERE b.id_ = p.scope_id AND ($1 || $2 || $3)::text IS NOT NULL",
    "/* bench.clear_subscriptions */
     DELETE FROM {e}act_ru_event_subscr s USING {e}act_ru_execution x, {e}act_re_procdef d
      WHERE s.execution_id_ = x.id_ AND x.proc_def_id_ = d.id_ AND d.key_ IN ($1, $2)
        AND x.proc_inst_id_ <> $3",
    "/* bench.clear_variables */
     DELETE FROM {e}act_ru_variable v USING {e}act_re_procdef d
      WHERE v.proc_def_id_ = d.id_ AND d.key_ IN ($1, $2) AND v.proc_inst_id_ <> $3",
    "/* bench.clear_executions */
     DELETE FROM {e}act_ru_execution x USING {e}act_re_procdef d
      WHERE x.proc_def_id_ = d.id_ AND d.key_ IN ($1, $2) AND x.proc_inst_id_ <> $3
        AND x.parent_id_ IS NOT NULL",
    "/* bench.clear_instances */
     DELETE FROM {e}act_ru_execution x USING {e}act_re_procdef d
      WHERE x.proc_def_id_ = d.id_ AND d.key_ IN ($1, $2) AND x.proc_inst_id_ <> $3",
    "/* bench.clear_instance_history */
     DELETE FROM {e}act_hi_procinst h WHERE h.proc_def_key_ IN ($1, $2) AND h.proc_inst_id_ <> $3",
    "/* bench.clear_activity_history */
     DELETE FROM {e}act_hi_actinst h WHERE h.proc_def_key_ IN ($1, $2) AND h.proc_inst_id_ <> $3",
    "/* bench.clear_variable_history */
     DELETE FROM {e}act_hi_varinst h WHERE h.proc_def_key_ IN ($1, $2) AND h.proc_inst_id_ <> $3",
    "/* bench.clear_details */
     DELETE FROM {e}act_hi_detail h WHERE h.proc_def_key_ IN ($1, $2) AND h.proc_inst_id_ <> $3",
    "/* bench.clear_job_log */
     DELETE FROM {e}act_hi_job_log h
      WHERE h.process_def_key_ IN ($1, $2) AND $3::text IS NOT NULL",
    "/* bench.clear_incidents */
     DELETE FROM {e}act_ru_incident i USING {e}act_re_procdef d
      WHERE i.proc_def_id_ = d.id_ AND d.key_ IN ($1, $2) AND $3::text IS NOT NULL",
];

fn text<'a>(row: &'a Map<String, Value>, column: &str) -> Option<&'a str> {
    row.get(column).and_then(Value::as_str)
}

/// One statement that copies this row for the numbers from `$1` to `$2`: what is an id of the instance
/// becomes another id made of it and the number, the business key becomes the message's (`$3` before it).
fn copy(table: &str, row: &Map<String, Value>, ids: &BTreeSet<String>) -> anyhow::Result<String> {
    let id = text(row, "id_").context("a row has an id")?;
    let (mut columns, mut values) = (Vec::new(), Vec::new());
    for (column, value) in row {
        ensure!(is_word(column), "a column is an identifier: {column:?}");
        let value = match value.as_str() {
            _ if column == "business_key_" && *value != Value::Null => {
                "$3 || lpad(n::text, 9, '0')".to_owned()
            }
            Some(own) if ids.contains(own) => {
                ensure!(is_word(own), "an id is made of letters and digits: {own:?}");
                format!("md5('{own}' || n)::uuid::text")
            }
            Some(_) | None => format!("t.{column}"),
        };
        columns.push(column.as_str());
        values.push(value);
    }
    ensure!(is_word(id), "an id is made of letters and digits: {id:?}");
    let (columns, values) = (columns.join(", "), values.join(", "));
    Ok(format!(
        "/* bench.copy */ INSERT INTO {{e}}{table} ({columns})
         SELECT {values} FROM {{e}}{table} t, generate_series($1::bigint, $2::bigint) n
          WHERE t.id_ = '{id}' AND $3::text IS NOT NULL"
    ))
}

/// What may stand in a statement: no quote, no space.
fn is_word(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':' | '.');
    !text.is_empty() && text.chars().all(fits)
}
