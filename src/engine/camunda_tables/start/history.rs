//! The history of an instance that was started by rows, as far as the engine's level asks for it.
//!
//! Missing rows would break nothing in the engine; the instance would just never appear in its history.
//! Rows that the level does not keep are not written.

use super::rows::{StartRows, index};
use crate::engine::camunda_tables::Tx;
use crate::engine::camunda_tables::schema::EngineSchema;
use crate::engine::camunda_tables::tables::Tables;
use crate::engine::camunda_tables::variables::fresh_id;
use crate::inbox::DbError;

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

impl StartRows {
    pub(super) async fn insert_history(
        &self,
        tx: &mut Tx,
        tables: &Tables,
        schema: &EngineSchema,
        retries: i32,
    ) -> Result<(), DbError> {
        if schema.history.keeps_instances() {
            self.insert_instance_history(tx, tables, schema).await?;
        }
        if schema.history.keeps_variables() && !self.variables.is_empty() {
            self.insert_variable_history(tx, tables, schema).await?;
        }
        if schema.history.keeps_details() {
            self.insert_job_log(tx, tables, schema, retries).await?;
        }
        Ok(())
    }

    async fn insert_instance_history(
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
}
