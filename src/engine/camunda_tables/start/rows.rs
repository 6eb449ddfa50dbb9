//! The rows of instances that are started: claimed first, then written as the engine itself holds them.
//!
//! The claim is a row of `pending_start`, unique by instance, and for exclusive starts by tenant,
//! definition and business key; it is deleted when the first job has run. Knows nothing of how the
//! definition was found.

use std::collections::HashSet;

use super::StartCandidate;
use crate::engine::camunda_tables::Tx;
use crate::engine::camunda_tables::schema::EngineSchema;
use crate::engine::camunda_tables::tables::Tables;
use crate::engine::camunda_tables::variables::{VariableRows, fresh_id};
use crate::inbox::{DbError, RowId};
use crate::message::{Value, Variable};

/// One instance to be written.
pub struct NewStart<'a> {
    pub row: RowId,
    pub instance: &'a str,
    pub business_key: Option<&'a str>,
    pub candidate: &'a StartCandidate,
    /// The start event.
    pub activity: &'a str,
    /// The variable that the model wants for whoever starts it.
    pub initiator: Option<&'a str>,
    /// At most one such start of its business key at a time.
    pub exclusive: bool,
    pub variables: &'a [Variable],
}

impl<'a> NewStart<'a> {
    fn unique_keys(&self) -> (Option<&'a str>, &'a str, Option<&'a str>, &'a str) {
        (
            self.candidate.tenant.as_deref(),
            &self.candidate.definition_key,
            self.business_key,
            self.instance,
        )
    }
}

/// Claims and writes; returns the rows whose start somebody else of the same business key was quicker with.
pub async fn write(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
    schema: &EngineSchema,
    retries: i32,
    mut starts: Vec<NewStart<'_>>,
) -> Result<HashSet<RowId>, DbError> {
    // Sorted by both unique keys, so that two nodes with the same starts cannot deadlock.
    starts.sort_by_key(NewStart::unique_keys);
    let jobs: Vec<String> = starts.iter().map(|_| fresh_id()).collect();
    let won = claim(tx, tables, engine, &starts, &jobs).await?;
    let mut rows = StartRows::default();
    let mut missed = HashSet::new();
    for (start, job) in starts.iter().zip(jobs) {
        if won.contains(start.instance) {
            rows.add(start, job);
        } else {
            missed.insert(start.row);
        }
    }
    if !rows.instance.is_empty() {
        rows.insert(tx, tables, schema, retries).await?;
    }
    Ok(missed)
}

/// The instances that are ours to write.
async fn claim(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
    starts: &[NewStart<'_>],
    jobs: &[String],
) -> Result<HashSet<String>, DbError> {
    let claimed: Vec<String> = sqlx::query_scalar(tables.sql(
        "/* camunda_tables.claim_starts */
         INSERT INTO {s}pending_start
                (engine, process_instance_id, tenant_id, definition_key, business_key, job_id, exclusive, row_id)
         SELECT $1, s.instance, s.tenant, s.key, s.business_key, s.job, s.exclusive, s.row_id
           FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bool[], $8::uuid[])
                WITH ORDINALITY
                AS s(instance, tenant, key, business_key, job, exclusive, row_id, ord)
          ORDER BY s.ord
         ON CONFLICT DO NOTHING
         RETURNING process_instance_id",
    ))
    .bind(engine)
    .bind(starts.iter().map(|s| s.instance).collect::<Vec<_>>())
    .bind(starts.iter().map(|s| s.candidate.tenant.as_deref().unwrap_or_default()).collect::<Vec<_>>())
    .bind(starts.iter().map(|s| s.candidate.definition_key.as_str()).collect::<Vec<_>>())
    .bind(starts.iter().map(|s| s.business_key).collect::<Vec<_>>())
    .bind(jobs)
    .bind(starts.iter().map(|s| s.exclusive).collect::<Vec<_>>())
    .bind(starts.iter().map(|s| s.row.0).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await
    .map_err(DbError::of("claim starts"))?;
    Ok(claimed.into_iter().collect())
}

/// The instances to be written, as the arrays that the statements take.
#[derive(Debug, Default)]
pub(super) struct StartRows {
    pub instance: Vec<String>,
    pub business_key: Vec<Option<String>>,
    pub definition: Vec<String>,
    pub definition_key: Vec<String>,
    pub deployment: Vec<Option<String>>,
    pub tenant: Vec<Option<String>>,
    pub activity: Vec<String>,
    pub job: Vec<String>,
    /// 4 (a job) and 16 (variables): a bit that is missing hides rows from the engine.
    pub cached_state: Vec<i32>,
    pub variables: VariableRows,
}

impl StartRows {
    fn add(&mut self, start: &NewStart<'_>, job: String) {
        let owner = self.instance.len();
        for variable in start.variables {
            self.variables.add(owner, variable);
        }
        // The engine sets the initiator's variable even when nobody is authenticated.
        let initiator = start.initiator.filter(|name| {
            start
                .variables
                .iter()
                .all(|variable| variable.name != *name)
        });
        if let Some(name) = initiator {
            let variable = Variable {
                name: name.to_owned(),
                value: Value::Null,
            };
            self.variables.add(owner, &variable);
        }
        let has_variables = initiator.is_some() || !start.variables.is_empty();
        self.cached_state
            .push(if has_variables { 4 | 16 } else { 4 });
        self.instance.push(start.instance.to_owned());
        self.job.push(job);
        self.business_key
            .push(start.business_key.map(str::to_owned));
        self.definition.push(start.candidate.definition.clone());
        self.definition_key
            .push(start.candidate.definition_key.clone());
        self.deployment.push(start.candidate.deployment.clone());
        self.tenant.push(start.candidate.tenant.clone());
        self.activity.push(start.activity.to_owned());
    }

    /// Writes them; the execution goes before what refers to it by foreign key.
    pub async fn insert(
        &self,
        tx: &mut Tx,
        tables: &Tables,
        schema: &EngineSchema,
        retries: i32,
    ) -> Result<(), DbError> {
        // An execution has four foreign keys, a variable as many.
        tx.keep_plans().await?;
        self.insert_executions(tx, tables, schema).await?;
        self.insert_variables(tx, tables, schema).await?;
        tx.plan_anew().await?;
        self.insert_jobs(tx, tables, schema, retries).await?;
        self.insert_history(tx, tables, schema, retries).await?;
        Ok(())
    }

    async fn insert_executions(
        &self,
        tx: &mut Tx,
        tables: &Tables,
        schema: &EngineSchema,
    ) -> Result<(), DbError> {
        let text = "/* camunda_tables.start_executions */
            INSERT INTO {e}act_ru_execution
                   (id_, rev_, root_proc_inst_id_, proc_inst_id_, business_key_, proc_def_id_, act_id_,
                    is_active_, is_concurrent_, is_scope_, is_event_scope_, suspension_state_,
                    cached_ent_state_, sequence_counter_, tenant_id_{key_column})
            SELECT s.id, 1, s.id, s.id, s.business_key, s.definition, s.activity,
                   true, false, true, false, 1, s.cached, 0, s.tenant{key_value}
              FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int4[], $6::text[], $7::text[])
                   AS s(id, business_key, definition, activity, cached, tenant, key)";
        let (column, value) = if schema.execution_has_key {
            (", proc_def_key_", ", s.key")
        } else {
            ("", "")
        };
        let text = text
            .replace("{key_column}", column)
            .replace("{key_value}", value);
        sqlx::query(tables.sql(&text))
            .bind(&self.instance)
            .bind(&self.business_key)
            .bind(&self.definition)
            .bind(&self.activity)
            .bind(&self.cached_state)
            .bind(&self.tenant)
            .bind(&self.definition_key)
            .execute(&mut **tx)
            .await
            .map_err(DbError::of("engine start executions"))?;
        Ok(())
    }

    /// The job copies what the engine's job definition says, where the model is asynchronous there.
    async fn insert_jobs(
        &self,
        tx: &mut Tx,
        tables: &Tables,
        schema: &EngineSchema,
        retries: i32,
    ) -> Result<(), DbError> {
        let text = "/* camunda_tables.start_jobs */
            INSERT INTO {e}act_ru_job
                   (id_, rev_, type_, exclusive_, execution_id_, process_instance_id_, process_def_id_,
                    process_def_key_, retries_, duedate_, handler_type_, handler_cfg_, deployment_id_,
                    suspension_state_, job_def_id_, priority_, sequence_counter_, tenant_id_,
                    create_time_{root_column})
            SELECT s.job, 1, 'message', true, s.id, s.id, s.definition, s.key, $8, timestamp '2000-01-01',
                   'async-continuation', 'process-start', s.deployment,
                   coalesce(d.suspension_state_, 1), d.id_, coalesce(d.job_priority_, 0), 1, s.tenant,
                   (clock_timestamp() AT TIME ZONE 'UTC') + make_interval(secs => $9){root_value}
              FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
                   AS s(job, id, definition, key, deployment, tenant, activity)
              LEFT JOIN {e}act_ru_jobdef d
                ON d.proc_def_id_ = s.definition AND d.act_id_ = s.activity
               AND d.job_type_ = 'async-continuation' AND d.job_configuration_ = 'async-before'";
        let (column, value) = if schema.job_has_root {
            (", root_proc_inst_id_", ", s.id")
        } else {
            ("", "")
        };
        let text = text
            .replace("{root_column}", column)
            .replace("{root_value}", value);
        sqlx::query(tables.sql(&text))
            .bind(&self.job)
            .bind(&self.instance)
            .bind(&self.definition)
            .bind(&self.definition_key)
            .bind(&self.deployment)
            .bind(&self.tenant)
            .bind(&self.activity)
            .bind(retries)
            .bind(schema.clock_offset)
            .execute(&mut **tx)
            .await
            .map_err(DbError::of("engine start jobs"))?;
        Ok(())
    }

    async fn insert_variables(
        &self,
        tx: &mut Tx,
        tables: &Tables,
        schema: &EngineSchema,
    ) -> Result<(), DbError> {
        if self.variables.is_empty() {
            return Ok(());
        }
        self.variables
            .insert_bytes(tx, tables, schema, &self.variables.bytes_id, None)
            .await?;
        let (instances, definitions, tenants) = self.owners();
        sqlx::query(tables.sql(
            "/* camunda_tables.start_variables */
             INSERT INTO {e}act_ru_variable
                    (id_, rev_, type_, name_, execution_id_, proc_inst_id_, proc_def_id_, bytearray_id_,
                     double_, long_, text_, text2_, var_scope_, sequence_counter_, is_concurrent_local_,
                     tenant_id_)
             SELECT v.id, 1, v.kind, v.name, v.instance, v.instance, v.definition, v.bytes_id, v.double,
                    v.long, v.text, v.text2, v.instance, 1, false, v.tenant
               FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
                           $7::float8[], $8::int8[], $9::text[], $10::text[], $11::text[])
                    AS v(id, kind, name, instance, definition, bytes_id, double, long, text, text2, tenant)",
        ))
        .bind(&self.variables.id)
        .bind(&self.variables.kind)
        .bind(&self.variables.name)
        .bind(instances)
        .bind(definitions)
        .bind(&self.variables.bytes_id)
        .bind(&self.variables.double)
        .bind(&self.variables.long)
        .bind(&self.variables.text)
        .bind(&self.variables.text2)
        .bind(tenants)
        .execute(&mut **tx)
        .await
        .map_err(DbError::of("engine start variables"))?;
        Ok(())
    }

    /// Instance, definition and tenant of each variable.
    pub(super) fn owners(&self) -> (Vec<String>, Vec<String>, Vec<Option<String>>) {
        let owners = || self.variables.owner.iter().map(|&owner| index(owner));
        (
            owners().map(|o| self.instance[o].clone()).collect(),
            owners().map(|o| self.definition[o].clone()).collect(),
            owners().map(|o| self.tenant[o].clone()).collect(),
        )
    }
}

pub(super) fn index(owner: i32) -> usize {
    usize::try_from(owner).expect("an index of ours")
}
