//! Values of every type arrive as the engine's own users see them.

use serde_json::{Value, json};

use super::Place;
use super::place::LIMIT;
use crate::rig::unique;

const ROUTE: &str = "[correlate]
    message_name = '$.name'
    business_key = '$.key'
    [correlate.variables]
    text = '$.text'
    empty = '$.empty'
    integer = '$.integer'
    large = '$.large'
    long = { from = '$.integer', type = 'long' }
    short = { from = '$.integer', type = 'short' }
    double = '$.double'
    whole = { from = '$.integer', type = 'double' }
    boolean = '$.boolean'
    date = { from = '$.date', type = 'date' }
    null = '$.null'
    bytes = { from = '$.bytes', type = 'bytes' }
    object = '$.object'
    list = '$.list'
    asJson = { from = '$.text', type = 'json' }";

fn payload(name: &str, key: &str) -> Value {
    json!({
        "name": name,
        "key": key,
        "text": "Grüße \"quoted\" \\ 🎉",
        "empty": "",
        "integer": -5,
        "large": 9_007_199_254_740_993_i64,
        "double": 2.5,
        "boolean": true,
        "date": "2026-01-02T03:04:05.678+01:00",
        "null": null,
        "bytes": "AAEC/w==",
        "object": { "b": 1, "a": { "ü": [1.50, null] } },
        "list": [1, "two"],
    })
}

/// Name, type and value, in the engine's own words.
fn expected() -> Vec<(&'static str, &'static str, Value)> {
    let text = "Grüße \"quoted\" \\ 🎉";
    vec![
        ("text", "String", json!(text)),
        ("empty", "String", json!("")),
        ("integer", "Integer", json!(-5)),
        ("large", "Long", json!(9_007_199_254_740_993_i64)),
        ("long", "Long", json!(-5)),
        ("short", "Short", json!(-5)),
        ("double", "Double", json!(2.5)),
        ("whole", "Double", json!(-5.0)),
        ("boolean", "Boolean", json!(true)),
        ("date", "Date", json!("2026-01-02T02:04:05.678+0000")),
        ("null", "Null", Value::Null),
        ("list", "Json", json!("[1,\"two\"]")),
        ("asJson", "Json", json!(json!(text).to_string())),
    ]
}

#[tokio::test]
async fn every_type_arrives_with_its_value_in_the_instance_and_in_the_history() {
    let place = Place::busy().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-then-task"]).await;
    let key = unique();
    let instance = engine
        .start(&deployment.name("receive-then-task"), Some(&key), json!({}))
        .await;
    let node = place.node(&[("values", ROUTE.to_owned())]).await;

    node.send("values", &key, payload(&deployment.name("Paid"), &key))
        .await;
    node.until(&key, "done").await;
    engine.wait_for_task(&instance, "after", LIMIT).await;

    let running = engine.variables(&instance).await;
    let history = engine.history_variables(&instance).await;
    for (name, kind, value) in expected() {
        for (place, found) in [("running", &running[name]), ("history", &history[name])] {
            let same = match (&found["value"], &value) {
                (Value::String(found), Value::String(wanted)) if kind == "Date" => {
                    chrono::DateTime::parse_from_str(found, "%Y-%m-%dT%H:%M:%S%.3f%z").unwrap()
                        == chrono::DateTime::parse_from_str(wanted, "%Y-%m-%dT%H:%M:%S%.3f%z")
                            .unwrap()
                }
                (found, wanted) => found == wanted,
            };
            assert!(same, "{name} {place}: {found}");
            assert_eq!(found["type"], kind, "{name} {place}: {found}");
        }
    }
    let object: Value = serde_json::from_str(history["object"]["value"].as_str().unwrap()).unwrap();
    assert_eq!(object, payload("", "")["object"]);
    let path = format!("process-instance/{instance}/variables/bytes");
    assert_eq!(engine.get(&path).await.body["type"], "Bytes");
    let bytes: Vec<u8> = sqlx::query_scalar(
        "SELECT b.bytes_ FROM act_ru_variable v JOIN act_ge_bytearray b ON b.id_ = v.bytearray_id_
          WHERE v.proc_inst_id_ = $1 AND v.name_ = 'bytes'",
    )
    .bind(&instance)
    .fetch_one(&place.pool)
    .await
    .unwrap();
    assert_eq!(bytes, [0, 1, 2, 255]);
    place.assert_clean().await;
}

#[tokio::test]
async fn the_process_itself_reads_json_of_two_megabytes() {
    let place = Place::busy().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["json"]).await;
    let key = unique();
    let instance = engine
        .start(&deployment.name("json"), Some(&key), json!({}))
        .await;
    let route = "[correlate]
        message_name = '$.name'
        business_key = '$.key'
        variables = { order = '$.order' }";
    let node = place.node(&[("json", route.to_owned())]).await;
    let order = json!({ "express": true, "padding": "ü".repeat(1_000_000) });

    let payload = json!({ "name": deployment.name("Paid"), "key": key, "order": order });
    node.send("json", &key, payload).await;
    node.until(&key, "done").await;

    engine.wait_for_task(&instance, "express", LIMIT).await;
    place.assert_clean().await;
}

#[tokio::test]
async fn a_name_with_quotes_and_a_name_of_another_script_find_their_catchers() {
    let place = Place::still().await;
    let engine = &place.engine;
    let (key, suffix) = (unique(), unique());
    let model = include_str!("../../rig/bpmn/receive-then-task.bpmn");
    let names = ["say &quot;yes&quot; \\ {x}", "支払い済み'"];
    let route = "[correlate]
        message_name = '$.name'
        business_key = '$.key'";
    let node = place.node(&[("names", route.to_owned())]).await;
    for (number, name) in names.iter().enumerate() {
        let text = model
            .replace("Paid_suffix", name)
            .replace("receive-then-task", &format!("named-{number}"));
        let models = vec![(format!("named-{number}"), text)];
        let deployment = engine.deploy_texts(&suffix, models, None).await;
        let process = deployment.name(&format!("named-{number}"));
        let instance = engine.start(&process, Some(&key), json!({})).await;
        let name = name.replace("&quot;", "\"");

        let row = node
            .send("names", &name, json!({ "name": name, "key": key }))
            .await;
        assert_eq!(row.is(), "handed", "{}", row.detail);
        place.run_job(&name).await;
        node.until(&name, "done").await;
        engine.wait_for_task(&instance, "after", LIMIT).await;
        deployment.delete().await;
    }
}

#[tokio::test]
async fn what_the_engines_columns_cannot_hold_is_dead_before_any_transaction() {
    let place = Place::still().await;
    let route = "[correlate]
        message_name = 'Paid'
        business_key = '$.key'
        variables = { v = '$.v' }";
    let as_json = "[correlate]
        message_name = 'Paid'
        business_key = '$.key'
        variables = { v = { from = '$.v', type = 'json' } }";
    let key = "[correlate]
        message_name = 'Paid'
        correlation_keys = { v = '$.v' }";
    let receipt = "[correlate]
        message_name = 'Paid'
        business_key = '$.key'
        variables = { sluice_receipt = '$.v' }";
    let node = place
        .node(&[
            ("receipt", receipt.to_owned()),
            ("text", route.to_owned()),
            ("json", as_json.to_owned()),
            ("key", key.to_owned()),
        ])
        .await;
    let long = "x".repeat(4001);
    let cases = [
        (
            "text",
            json!({ "key": "k", "v": long }),
            "dead/value_too_long",
        ),
        (
            "text",
            json!({ "key": "k", "v": "ü".repeat(4000) }),
            "waiting",
        ),
        ("json", json!({ "key": "k", "v": long }), "waiting"),
        (
            "text",
            json!({ "key": "k".repeat(256), "v": 1 }),
            "dead/value_too_long",
        ),
        (
            "text",
            json!({ "key": "k", "v": "a\u{0}b" }),
            "dead/refused",
        ),
        ("key", json!({ "v": { "a": 1 } }), "dead/refused"),
        ("receipt", json!({ "key": "k", "v": 1 }), "dead/refused"),
    ];
    for (number, (route, payload, state)) in cases.into_iter().enumerate() {
        node.send_all(&[(route, &number.to_string(), payload)])
            .await;
        let row = place.last_row().await;
        assert!(row.is().starts_with(state), "{number}: {row:?}");
    }
}
