//! The rows of a start are those that the engine writes itself.

use serde_json::{Map, Value, json};
use sqlx::AssertSqlSafe;

use super::Place;
use crate::rig::unique;

/// One variable of each type, as the engine's REST takes it; JSON of our own payload alike.
fn variables() -> Value {
    json!({
        "a_string": { "value": "Grüße 🎉", "type": "String" },
        "b_empty": { "value": "", "type": "String" },
        "c_integer": { "value": 5, "type": "Integer" },
        "d_long": { "value": 5_000_000_000_i64, "type": "Long" },
        "e_short": { "value": 7, "type": "Short" },
        "f_double": { "value": 2.5, "type": "Double" },
        "g_boolean": { "value": true, "type": "Boolean" },
        "h_date": { "value": "2026-01-02T03:04:05.678+0000", "type": "Date" },
        "i_null": { "value": null, "type": "Null" },
        "j_bytes": { "value": "AAEC/w==", "type": "Bytes" },
        "k_json": { "value": "{\"a\":[1,2]}", "type": "Json" },
    })
}

const ROUTE: &str = "[start]
    message_name = '$.name'
    business_key = '$.key'
    [start.variables]
    a_string = '$.a_string.value'
    b_empty = '$.b_empty.value'
    c_integer = '$.c_integer.value'
    d_long = { from = '$.d_long.value', type = 'long' }
    e_short = { from = '$.e_short.value', type = 'short' }
    f_double = '$.f_double.value'
    g_boolean = '$.g_boolean.value'
    h_date = { from = '$.date', type = 'date' }
    i_null = '$.i_null.value'
    j_bytes = { from = '$.j_bytes.value', type = 'bytes' }
    k_json = '$.json'";

/// The tables that a start writes, and what finds the rows of one instance in them.
const TABLES: [(&str, &str); 8] = [
    ("act_ru_execution", "proc_inst_id_ = $1"),
    ("act_ru_job", "process_instance_id_ = $1"),
    ("act_ru_variable", "proc_inst_id_ = $1"),
    ("act_hi_procinst", "proc_inst_id_ = $1"),
    ("act_hi_actinst", "proc_inst_id_ = $1"),
    ("act_hi_varinst", "proc_inst_id_ = $1"),
    ("act_hi_detail", "proc_inst_id_ = $1"),
    ("act_hi_job_log", "process_instance_id_ = $1"),
];

/// Columns that differ from one instance to the next, or by intent: our due date is long past so that no
/// setting and no clock keeps the job from being taken; the host is not the engine's.
const VARYING: [&str; 13] = [
    "id_",
    "job_id_",
    "proc_inst_id_",
    "process_instance_id_",
    "root_proc_inst_id_",
    "execution_id_",
    "act_inst_id_",
    "var_scope_",
    "var_inst_id_",
    "business_key_",
    "duedate_",
    "job_duedate_",
    "hostname_",
];

async fn rows_of(place: &Place, table: &str, condition: &str, instance: &str) -> Vec<Value> {
    let mut rows: Vec<Value> = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT to_jsonb(t) || CASE WHEN to_jsonb(t) ? 'bytearray_id_' THEN jsonb_build_object(
                    'bytes', (SELECT to_jsonb(b) - 'id_' - 'root_proc_inst_id_' || jsonb_build_object(
                                         'of_instance', b.root_proc_inst_id_ = $1)
                                FROM act_ge_bytearray b WHERE b.id_ = to_jsonb(t)->>'bytearray_id_'))
                ELSE '{{}}' END
           FROM {table} t WHERE {condition}"
    )))
    .bind(instance)
    .fetch_all(&place.pool)
    .await
    .unwrap();
    for row in &mut rows {
        normalise(row.as_object_mut().unwrap(), instance);
    }
    rows.sort_by_key(|row| row["name_"].to_string());
    rows
}

/// Ids become what they mean, times become that they are there.
fn normalise(row: &mut Map<String, Value>, instance: &str) {
    // The engine notes a short as "Value '7' of type …" beside its number, and never reads that.
    let types = [row.get("type_"), row.get("var_type_")];
    let is_short = types.contains(&Some(&json!("short")));
    for (column, value) in row.iter_mut() {
        if is_short && column == "text_" {
            *value = json!("the number as text");
        }
        if column == "bytes" {
            if let Some(bytes) = value.as_object_mut() {
                normalise(bytes, instance);
            }
        } else if *value == json!(instance) {
            *value = json!("the instance");
        } else if VARYING.contains(&column.as_str()) && !value.is_null()
            || column == "bytearray_id_" && !value.is_null()
        {
            *value = json!("some");
        } else if [
            "time_",
            "timestamp_",
            "create_time_",
            "start_time_",
            "created_",
        ]
        .contains(&column.as_str())
            && !value.is_null()
        {
            *value = json!("a time");
        }
    }
    row.remove("duedate_");
    row.remove("job_duedate_");
}

#[tokio::test]
async fn the_rows_of_a_start_are_those_of_the_engines_own_asynchronous_start() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["message-start-async"]).await;
    let name = deployment.name("OrderPlaced");
    let node = place.node(&[("start", ROUTE.to_owned())]).await;

    let message = json!({
        "messageName": name,
        "businessKey": unique(),
        "processVariables": variables(),
        "resultEnabled": true,
    });
    let answer = engine.correlate(message).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let theirs = answer.body[0]["processInstance"]["id"]
        .as_str()
        .unwrap()
        .to_owned();

    let mut payload = variables();
    payload["name"] = json!(name);
    payload["key"] = json!(unique());
    payload["date"] = json!("2026-01-02T03:04:05.678Z");
    payload["json"] = json!({ "a": [1, 2] });
    let row = node.send("start", "ours", payload).await;
    assert_eq!(row.is(), "done", "{}", row.detail);
    let ours = row.process_instance_id.unwrap();

    for (table, condition) in TABLES {
        let expected = rows_of(&place, table, condition, &theirs).await;
        let found = rows_of(&place, table, condition, &ours).await;
        assert_eq!(expected.len(), found.len(), "{table}");
        for (expected, found) in expected.iter().zip(&found) {
            assert_eq!(expected, found, "{table}");
        }
    }
    place.run_job("ours").await;
    assert_eq!(engine.tasks(&ours).await.len(), 1);
}
