//! Starting an instance by rows (S1): what the engine itself holds after an asynchronous start.
//!
//! The instance's row, its variables, its `async-continuation` / `process-start` job and the history that
//! the level asks for. The job's handler calls the engine's process start directly and never asks whether
//! the model is asynchronous there, so that it works for any start event; it does not create the
//! subscriptions and timers of process-level event subprocesses, which is why such models are refused.
//! The instance's id is derived from the message's identity: the primary keys of `ACT_RU_EXECUTION` and
//! `ACT_HI_PROCINST` make a second start impossible even after the inbox has forgotten the key.

use std::collections::{HashMap, HashSet};

use sqlx::Row;

use super::Tx;
use super::correlation::tenant_columns;
use super::schema::EngineSchema;
use super::tables::Tables;
use super::variables::{VariableRows, fresh_id};
use crate::inbox::DbError;
use crate::message::{Hash, StartBy, Tenant};

/// A start event that the message may start at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StartCandidate {
    pub definition: String,
    pub definition_key: String,
    pub deployment: Option<String>,
    pub tenant: Option<String>,
    pub suspended: bool,
    /// Known from the subscription of a message start; a none start's is read from the model.
    pub activity: Option<String>,
}

/// What one message asks to be started.
pub(super) struct Wanted<'a> {
    pub by: &'a StartBy,
    pub tenant: &'a Tenant,
}

/// The definitions that each may start, at most two: by the index in `wanted`.
pub(super) async fn candidates(
    tx: &mut Tx,
    tables: &Tables,
    wanted: &[Wanted<'_>],
) -> Result<HashMap<usize, Vec<StartCandidate>>, DbError> {
    let mut found: HashMap<usize, Vec<StartCandidate>> = HashMap::new();
    // By message: only the latest version of a key and tenant has the subscription; a suspended
    // definition is silently passed over, as the engine does.
    let by_message = "/* camunda_tables.message_starts */
        SELECT m.ord, c.*
          FROM unnest($1::int4[], $2::text[], $3::bool[], $4::text[]) AS m(ord, name, tenant_given, tenant)
         CROSS JOIN LATERAL (
               SELECT p.id_, p.key_, p.deployment_id_, p.tenant_id_, false AS suspended, evt.activity_id_
                 FROM (SELECT x.configuration_, x.activity_id_, x.event_type_, x.event_name_, x.tenant_id_
                         FROM {e}act_ru_event_subscr x WHERE x.execution_id_ IS NULL OFFSET 0) evt
                CROSS JOIN LATERAL (
                      SELECT x.id_, x.key_, x.deployment_id_, x.tenant_id_, x.suspension_state_
                        FROM {e}act_re_procdef x WHERE x.id_ = evt.configuration_ OFFSET 0) p
                WHERE evt.event_type_ = 'message' AND evt.event_name_ = m.name
                  AND p.suspension_state_ = 1
                  AND (NOT m.tenant_given OR evt.tenant_id_ IS NOT DISTINCT FROM m.tenant)
                LIMIT 2) c";
    // By key: the latest version of each tenant; several tenants are ambiguous, as for the engine.
    let by_key = "/* camunda_tables.key_starts */
        SELECT m.ord, c.*
          FROM unnest($1::int4[], $2::text[], $3::bool[], $4::text[]) AS m(ord, name, tenant_given, tenant)
         CROSS JOIN LATERAL (
               SELECT DISTINCT ON (coalesce(p.tenant_id_, ''))
                      p.id_, p.key_, p.deployment_id_, p.tenant_id_,
                      p.suspension_state_ <> 1 AS suspended, NULL::text AS activity_id_
                 FROM {e}act_re_procdef p
                WHERE p.key_ = m.name
                  AND (NOT m.tenant_given OR p.tenant_id_ IS NOT DISTINCT FROM m.tenant)
                ORDER BY coalesce(p.tenant_id_, ''), p.version_ DESC
                LIMIT 2) c";
    for (text, of_message) in [(by_message, true), (by_key, false)] {
        let (mut ord, mut names) = (Vec::new(), Vec::new());
        let (mut given, mut tenants) = (Vec::new(), Vec::new());
        for (index, wanted) in wanted.iter().enumerate() {
            let name = match wanted.by {
                StartBy::Message(name) if of_message => name,
                StartBy::DefinitionKey(key) if !of_message => key,
                StartBy::Message(_) | StartBy::DefinitionKey(_) => continue,
            };
            ord.push(i32::try_from(index).expect("a batch has less than 2^31 messages"));
            names.push(name.clone());
            let (tenant_given, tenant) = tenant_columns(wanted.tenant);
            given.push(tenant_given);
            tenants.push(tenant);
        }
        if ord.is_empty() {
            continue;
        }
        let rows = sqlx::query(tables.sql(text))
            .bind(&ord)
            .bind(&names)
            .bind(&given)
            .bind(&tenants)
            .fetch_all(&mut **tx)
            .await
            .map_err(DbError::of("engine start match"))?;
        for row in rows {
            let ord: i32 = row.get("ord");
            let index = usize::try_from(ord).expect("an index of ours");
            found.entry(index).or_default().push(StartCandidate {
                definition: row.get("id_"),
                definition_key: row.get("key_"),
                deployment: row.get("deployment_id_"),
                tenant: row.get("tenant_id_"),
                suspended: row.get::<Option<bool>, _>("suspended").unwrap_or(false),
                activity: row.get("activity_id_"),
            });
        }
    }
    Ok(found)
}

/// The instance's id: a UUID of version 8 over inbox, engine, scope, dedup key and conflict.
///
/// Two inboxes beside one engine may well call engine, route and keys alike. The derivation outlives a
/// version of Sluice and has golden vectors.
pub(super) fn instance_id(inbox_schema: &str, engine: &str, identity: &Hash) -> String {
    let parts = [
        b"instance",
        inbox_schema.as_bytes(),
        engine.as_bytes(),
        &identity.0,
    ];
    let hash = Hash::of(&parts);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.0[..16]);
    uuid::Uuid::new_v8(bytes).to_string()
}

/// Which of these instances exist already, or existed.
pub(super) async fn already_started(
    tx: &mut Tx,
    tables: &Tables,
    instances: &[String],
) -> Result<HashSet<String>, DbError> {
    if instances.is_empty() {
        return Ok(HashSet::new());
    }
    let started = sqlx::query_scalar(tables.sql(
        "/* camunda_tables.already_started */
         SELECT i.id
           FROM unnest($1::text[]) AS i(id)
          WHERE (SELECT true FROM {e}act_ru_execution x WHERE x.id_ = i.id)
             OR (SELECT true FROM {e}act_hi_procinst h WHERE h.id_ = i.id)",
    ))
    .bind(instances)
    .fetch_all(&mut **tx)
    .await
    .map_err(DbError::of("engine started instances"))?;
    Ok(started.into_iter().collect())
}

/// The business keys of these for which a start of ours has not run yet, and whether it is blocked.
pub(super) async fn pending_starts(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
    business_keys: &[&str],
) -> Result<HashMap<String, bool>, DbError> {
    if business_keys.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(tables.sql(
        "/* camunda_tables.pending_starts */
         SELECT s.business_key, bool_and(j.retries_ = 0 OR j.suspension_state_ = 2) AS blocked
           FROM {s}pending_start s
          CROSS JOIN LATERAL (
                SELECT x.retries_, x.suspension_state_ FROM {e}act_ru_job x
                 WHERE x.id_ = s.job_id OFFSET 0) j
          WHERE s.engine = $1 AND s.business_key = ANY($2)
          GROUP BY s.business_key",
    ))
    .bind(engine)
    .bind(business_keys)
    .fetch_all(&mut **tx)
    .await
    .map_err(DbError::of("pending starts"))?;
    Ok(rows
        .iter()
        .map(|row| {
            let blocked: Option<bool> = row.get("blocked");
            (row.get("business_key"), blocked.unwrap_or(false))
        })
        .collect())
}

/// The historic variable has the id of the runtime one. Parameters as of [`HISTORIC_DETAILS`].
const HISTORIC_VARIABLES: &str = "/* camunda_tables.start_varinst */
    INSERT INTO {e}act_hi_varinst
           (id_, proc_def_key_, proc_def_id_, root_proc_inst_id_, proc_inst_id_, execution_id_,
            act_inst_id_, tenant_id_, name_, var_type_, rev_, create_time_, bytearray_id_, double_,
            long_, text_, text2_, state_)
    SELECT v.id, v.key, v.definition, v.instance, v.instance, v.instance, v.instance, v.tenant, v.name,
           v.kind, 0, (clock_timestamp() AT TIME ZONE 'UTC')::timestamp(3) + make_interval(secs => $13),
           v.bytes_id, v.double, v.long, v.text, v.text2, 'CREATED'
      FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::float8[],
                  $8::int8[], $9::text[], $10::text[], $11::text[], $12::text[])
           AS v(id, kind, name, instance, definition, bytes_id, double, long, text, text2, tenant, key)";

/// The update that made each variable.
const HISTORIC_DETAILS: &str = "/* camunda_tables.start_detail */
    INSERT INTO {e}act_hi_detail
           (id_, type_, proc_def_key_, proc_def_id_, root_proc_inst_id_, proc_inst_id_, execution_id_,
            act_inst_id_, var_inst_id_, tenant_id_, name_, var_type_, rev_, time_, bytearray_id_,
            double_, long_, text_, text2_, sequence_counter_, initial_)
    SELECT gen_random_uuid()::text, 'VariableUpdate', v.key, v.definition, v.instance, v.instance,
           v.instance, v.instance, v.id, v.tenant, v.name, v.kind, 0,
           (clock_timestamp() AT TIME ZONE 'UTC')::timestamp(3) + make_interval(secs => $13),
           v.bytes_id, v.double, v.long, v.text, v.text2, 1, true
      FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::float8[],
                  $8::int8[], $9::text[], $10::text[], $11::text[], $12::text[])
           AS v(id, kind, name, instance, definition, bytes_id, double, long, text, text2, tenant, key)";

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
    /// Writes them in the engine's own order: job, byte arrays, variables, execution, history. The
    /// execution goes before what refers to it by foreign key.
    pub async fn insert(
        &self,
        tx: &mut Tx,
        tables: &Tables,
        schema: &EngineSchema,
        retries: i32,
    ) -> Result<(), DbError> {
        self.insert_executions(tx, tables, schema).await?;
        self.insert_jobs(tx, tables, schema, retries).await?;
        self.insert_variables(tx, tables, schema).await?;
        if schema.history.keeps_instances() {
            self.insert_history(tx, tables, schema).await?;
        }
        if schema.history.keeps_variables() && !self.variables.is_empty() {
            self.insert_variable_history(tx, tables, schema).await?;
        }
        if schema.history.keeps_details() {
            self.insert_job_log(tx, tables, schema, retries).await?;
        }
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

    async fn insert_history(
        &self,
        tx: &mut Tx,
        tables: &Tables,
        schema: &EngineSchema,
    ) -> Result<(), DbError> {
        sqlx::query(tables.sql(
            "/* camunda_tables.start_history */
             INSERT INTO {e}act_hi_procinst
                    (id_, proc_inst_id_, root_proc_inst_id_, business_key_, proc_def_key_, proc_def_id_,
                     start_time_, start_act_id_, state_, tenant_id_)
             SELECT s.id, s.id, s.id, s.business_key, s.key, s.definition,
                    (clock_timestamp() AT TIME ZONE 'UTC')::timestamp(3) + make_interval(secs => $7),
                    s.activity, 'ACTIVE', s.tenant
               FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
                    AS s(id, business_key, key, definition, activity, tenant)",
        ))
        .bind(&self.instance)
        .bind(&self.business_key)
        .bind(&self.definition_key)
        .bind(&self.definition)
        .bind(&self.activity)
        .bind(&self.tenant)
        .bind(schema.clock_offset)
        .execute(&mut **tx)
        .await
        .map_err(DbError::of("engine start history"))?;
        Ok(())
    }

    /// Each history row has bytes of its own.
    async fn insert_variable_history(
        &self,
        tx: &mut Tx,
        tables: &Tables,
        schema: &EngineSchema,
    ) -> Result<(), DbError> {
        let variables = &self.variables;
        let (instances, definitions, tenants) = self.owners();
        let keys: Vec<&str> = variables
            .owner
            .iter()
            .map(|&o| self.definition_key[index(o)].as_str())
            .collect();
        let mut texts = vec![HISTORIC_VARIABLES];
        if schema.history.keeps_details() {
            texts.push(HISTORIC_DETAILS);
        }
        for text in texts {
            let bytes_id: Vec<Option<String>> = variables
                .bytes_id
                .iter()
                .map(|id| id.as_ref().map(|_| fresh_id()))
                .collect();
            variables
                .insert_bytes(tx, tables, schema, &bytes_id, Some(&instances))
                .await?;
            sqlx::query(tables.sql(text))
                .bind(&variables.id)
                .bind(&variables.kind)
                .bind(&variables.name)
                .bind(&instances)
                .bind(&definitions)
                .bind(bytes_id)
                .bind(&variables.double)
                .bind(&variables.long)
                .bind(&variables.text)
                .bind(&variables.text2)
                .bind(&tenants)
                .bind(&keys)
                .bind(schema.clock_offset)
                .execute(&mut **tx)
                .await
                .map_err(DbError::of("engine start variable history"))?;
        }
        Ok(())
    }

    async fn insert_job_log(
        &self,
        tx: &mut Tx,
        tables: &Tables,
        schema: &EngineSchema,
        retries: i32,
    ) -> Result<(), DbError> {
        sqlx::query(tables.sql(
            "/* camunda_tables.start_job_log */
             INSERT INTO {e}act_hi_job_log
                    (id_, timestamp_, job_id_, job_duedate_, job_retries_, job_priority_, job_state_,
                     job_def_id_, job_def_type_, job_def_configuration_, act_id_, execution_id_,
                     root_proc_inst_id_, process_instance_id_, process_def_id_, process_def_key_,
                     deployment_id_, sequence_counter_, tenant_id_, hostname_)
             SELECT gen_random_uuid()::text,
                    (clock_timestamp() AT TIME ZONE 'UTC')::timestamp(3) + make_interval(secs => $9),
                    s.job, timestamp '2000-01-01', $8, coalesce(d.job_priority_, 0), 0, d.id_,
                    'async-continuation', d.job_configuration_, s.activity, s.id, s.id, s.id, s.definition, s.key,
                    s.deployment, 1, s.tenant, 'sluice'
               FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
                    AS s(job, id, definition, key, deployment, tenant, activity)
               LEFT JOIN {e}act_ru_jobdef d
                 ON d.proc_def_id_ = s.definition AND d.act_id_ = s.activity
                AND d.job_type_ = 'async-continuation' AND d.job_configuration_ = 'async-before'",
        ))
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
        .map_err(DbError::of("engine start job log"))?;
        Ok(())
    }

    /// Instance, definition and tenant of each variable.
    fn owners(&self) -> (Vec<String>, Vec<String>, Vec<Option<String>>) {
        let owners = || self.variables.owner.iter().map(|&owner| index(owner));
        (
            owners().map(|o| self.instance[o].clone()).collect(),
            owners().map(|o| self.definition[o].clone()).collect(),
            owners().map(|o| self.tenant[o].clone()).collect(),
        )
    }
}

fn index(owner: i32) -> usize {
    usize::try_from(owner).expect("an index of ours")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden vectors: an instance must have the same id whatever version of Sluice starts it.
    #[test]
    fn an_instance_id_is_derived_from_the_message_alone() {
        let identity = Hash::of(&[b"orders", &[7; 32], b""]);
        let id = instance_id("sluice", "shop", &identity);
        assert_eq!(id, instance_id("sluice", "shop", &identity));
        assert_ne!(id, instance_id("sluice", "other", &identity));
        assert_ne!(id, instance_id("other", "shop", &identity));
        assert_eq!(id.len(), 36);
        assert_eq!(id, "2b3b2668-8847-8299-8195-86ac4ebde052");
    }
}
