//! The engine's columns: which are known, which are there, and what refuses the engine.
//!
//! Every column that releases added to these tables is nullable, so that a row without it is valid on
//! every version; it is filled where it exists. A column that must have a value and that nobody here
//! knows refuses the engine at start: writing around it would be guessing.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row;

use super::Tx;
use super::tables::Tables;
use crate::inbox::DbError;

/// The tables that are written, each with the columns that every release has.
const WRITTEN: [(&str, &[&str]); 8] = [
    (
        "act_ru_job",
        &[
            "id_",
            "rev_",
            "type_",
            "exclusive_",
            "execution_id_",
            "process_instance_id_",
            "process_def_id_",
            "process_def_key_",
            "retries_",
            "duedate_",
            "handler_type_",
            "handler_cfg_",
            "deployment_id_",
            "suspension_state_",
            "job_def_id_",
            "priority_",
            "sequence_counter_",
            "tenant_id_",
            "create_time_",
        ],
    ),
    (
        "act_ge_bytearray",
        &[
            "id_",
            "rev_",
            "name_",
            "bytes_",
            "type_",
            "create_time_",
            "root_proc_inst_id_",
        ],
    ),
    (
        "act_ru_variable",
        &[
            "id_",
            "rev_",
            "type_",
            "name_",
            "execution_id_",
            "proc_inst_id_",
            "proc_def_id_",
            "bytearray_id_",
            "double_",
            "long_",
            "text_",
            "text2_",
            "var_scope_",
            "sequence_counter_",
            "is_concurrent_local_",
            "tenant_id_",
        ],
    ),
    (
        "act_ru_execution",
        &[
            "id_",
            "rev_",
            "root_proc_inst_id_",
            "proc_inst_id_",
            "business_key_",
            "proc_def_id_",
            "act_id_",
            "is_active_",
            "is_concurrent_",
            "is_scope_",
            "is_event_scope_",
            "suspension_state_",
            "cached_ent_state_",
            "sequence_counter_",
            "tenant_id_",
        ],
    ),
    (
        "act_hi_procinst",
        &[
            "id_",
            "proc_inst_id_",
            "root_proc_inst_id_",
            "business_key_",
            "proc_def_key_",
            "proc_def_id_",
            "start_time_",
            "start_act_id_",
            "state_",
            "tenant_id_",
        ],
    ),
    (
        "act_hi_varinst",
        &[
            "id_",
            "proc_def_key_",
            "proc_def_id_",
            "root_proc_inst_id_",
            "proc_inst_id_",
            "execution_id_",
            "act_inst_id_",
            "tenant_id_",
            "name_",
            "var_type_",
            "rev_",
            "create_time_",
            "bytearray_id_",
            "double_",
            "long_",
            "text_",
            "text2_",
            "state_",
        ],
    ),
    (
        "act_hi_detail",
        &[
            "id_",
            "type_",
            "proc_def_key_",
            "proc_def_id_",
            "root_proc_inst_id_",
            "proc_inst_id_",
            "execution_id_",
            "act_inst_id_",
            "var_inst_id_",
            "tenant_id_",
            "name_",
            "var_type_",
            "rev_",
            "time_",
            "bytearray_id_",
            "double_",
            "long_",
            "text_",
            "text2_",
            "sequence_counter_",
            "initial_",
        ],
    ),
    (
        "act_hi_job_log",
        &[
            "id_",
            "timestamp_",
            "job_id_",
            "job_duedate_",
            "job_retries_",
            "job_priority_",
            "job_state_",
            "job_def_id_",
            "job_def_type_",
            "job_def_configuration_",
            "act_id_",
            "execution_id_",
            "root_proc_inst_id_",
            "process_instance_id_",
            "process_def_id_",
            "process_def_key_",
            "deployment_id_",
            "sequence_counter_",
            "tenant_id_",
            "hostname_",
        ],
    ),
];

/// Columns by table: name, and whether a value must be given.
pub(super) type Columns = BTreeMap<String, BTreeMap<String, bool>>;

pub(super) async fn read(tx: &mut Tx, tables: &Tables) -> Result<Columns, DbError> {
    let names: Vec<String> = WRITTEN
        .iter()
        .map(|(table, _)| *table)
        .chain([
            "act_ru_meter_log",
            "act_ge_schema_log",
            "act_ru_event_subscr",
        ])
        .map(|table| format!("{}{table}", tables.prefix))
        .collect();
    let rows = sqlx::query(
        "/* camunda_tables.columns */
         SELECT lower(c.relname) AS name, lower(a.attname) AS attribute,
                a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS required
           FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
          WHERE n.nspname = $1 AND lower(c.relname) = ANY($2)
            AND a.attnum > 0 AND NOT a.attisdropped",
    )
    .bind(&tables.engine_schema)
    .bind(&names)
    .fetch_all(&mut **tx)
    .await
    .map_err(DbError::of("engine columns"))?;
    let mut columns = Columns::new();
    for row in rows {
        let table: String = row.get("name");
        let table = table.strip_prefix(&tables.prefix).unwrap_or(&table);
        columns
            .entry(table.to_owned())
            .or_default()
            .insert(row.get("attribute"), row.get("required"));
    }
    Ok(columns)
}

/// What keeps an engine with these columns from being used, for people.
pub(super) fn refusals(columns: &Columns, tables: &Tables) -> Vec<String> {
    let mut refusals = Vec::new();
    let absent: Vec<String> = WRITTEN
        .iter()
        .filter(|(table, _)| !columns.contains_key(*table))
        .map(|(table, _)| format!("{}{table}", tables.prefix))
        .collect();
    if !absent.is_empty() {
        refusals.push(format!(
            "schema {:?} lacks the tables {} (is `schema` or `table_prefix` right, and has the engine created its tables?)",
            tables.engine_schema,
            absent.join(", ")
        ));
    }
    for (table, known) in WRITTEN {
        let Some(found) = columns.get(table) else {
            continue;
        };
        let missing: Vec<_> = known
            .iter()
            .filter(|column| !found.contains_key(**column))
            .collect();
        if !missing.is_empty() {
            refusals.push(format!(
                "table {table} lacks the columns {missing:?}: older than Camunda 7.18?"
            ));
        }
        let known: BTreeSet<&str> = known.iter().copied().collect();
        let required: Vec<_> = found
            .iter()
            .filter(|(column, required)| **required && !known.contains(column.as_str()))
            .map(|(column, _)| column)
            .collect();
        if !required.is_empty() {
            refusals.push(format!(
                "table {table} has the required columns {required:?}, which this version of Sluice does not know"
            ));
        }
    }
    refusals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Columns {
        WRITTEN
            .iter()
            .map(|(table, columns)| {
                let columns = columns.iter().map(|c| ((*c).to_owned(), false)).collect();
                ((*table).to_owned(), columns)
            })
            .collect()
    }

    #[test]
    fn an_unknown_required_column_refuses_and_an_optional_one_does_not() {
        let tables = Tables::new("public", "", "sluice");
        let mut columns = known();
        assert_eq!(refusals(&columns, &tables), Vec::<String>::new());
        let job = columns.get_mut("act_ru_job").expect("written");
        job.insert("new_".into(), false);
        assert_eq!(refusals(&columns, &tables), Vec::<String>::new());
        let job = columns.get_mut("act_ru_job").expect("written");
        job.insert("must_".into(), true);
        assert!(refusals(&columns, &tables)[0].contains("must_"));
    }

    #[test]
    fn a_missing_table_names_what_to_check() {
        let tables = Tables::new("public", "cam_", "sluice");
        let mut columns = known();
        columns.remove("act_hi_detail");
        columns.remove("act_ru_job");
        let refusals = refusals(&columns, &tables);
        assert_eq!(refusals.len(), 1, "said once for all: {refusals:?}");
        assert!(
            refusals[0].contains("cam_act_ru_job, cam_act_hi_detail"),
            "{refusals:?}"
        );
    }
}
