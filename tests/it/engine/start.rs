//! Starting instances by rows: which, how often, and that the engine sees no difference.

use serde_json::{Value, json};

use super::Place;
use super::place::LIMIT;
use crate::rig::unique;

const BY_MESSAGE: &str = "[start]
    message_name = '$.name'
    business_key = '$.key'
    variables = { amount = '$.amount' }";
const BY_DEFINITION: &str = "[start]
    process_definition_key = '$.name'
    business_key = '$.key'
    variables = { amount = '$.amount' }";

fn routes() -> Vec<(&'static str, String)> {
    vec![
        ("by-message", BY_MESSAGE.to_owned()),
        ("by-definition", BY_DEFINITION.to_owned()),
    ]
}

/// Model, route, what is started, and the user task that it leads to.
const STARTS: [(&str, &str, &str, &str); 8] = [
    ("message-start", "by-message", "OrderPlaced", "after"),
    ("message-start-async", "by-message", "OrderPlaced", "after"),
    (
        "message-start-initiator",
        "by-message",
        "OrderPlaced",
        "after",
    ),
    (
        "message-start-error-subprocess",
        "by-message",
        "OrderPlaced",
        "work",
    ),
    ("several-starts", "by-definition", "several-starts", "after"),
    ("several-starts", "by-message", "OrderPlaced", "after"),
    ("several-starts", "by-message", "OrderImported", "after"),
    (
        "boundary-interrupting",
        "by-definition",
        "boundary-interrupting",
        "host",
    ),
];

#[tokio::test]
async fn every_start_that_rows_can_make_runs_to_its_first_task() {
    let place = Place::busy().await;
    let engine = &place.engine;
    let node = place.node(&routes()).await;
    let (mut deployments, mut started) = (Vec::new(), Vec::new());
    let mut messages: Vec<(&str, String, Value)> = Vec::new();
    for (model, route, name, task) in STARTS {
        let deployment = engine.deploy(&[model]).await;
        let key = unique();
        let payload = json!({ "name": deployment.name(name), "key": key, "amount": 42 });
        messages.push((route, key.clone(), payload));
        started.push((model, key, task));
        deployments.push(deployment);
    }

    let batch: Vec<(&str, &str, Value)> = messages
        .iter()
        .map(|(route, key, payload)| (*route, key.as_str(), payload.clone()))
        .collect();
    node.send_all(&batch).await;

    for (model, key, task) in &started {
        let row = place.row(key).await;
        assert_eq!(row.is(), "done", "{model}: {}", row.detail);
        let instance = row.process_instance_id.expect("a started instance");
        engine.wait_for_task(&instance, task, LIMIT).await;
        let running = engine.instances(key).await;
        assert_eq!(running.len(), 1, "{model}");
        assert_eq!(running[0]["id"], instance, "{model}");
        let amount = &engine.variables(&instance).await["amount"];
        assert_eq!(
            (&amount["value"], &amount["type"]),
            (&json!(42), &json!("Integer"))
        );
        let history = engine.history_instance(&instance).await.unwrap();
        assert_eq!(history["state"], "ACTIVE", "{model}");
        assert_eq!(history["businessKey"], *key, "{model}");
    }
    let initiated = place.row(&started[2].1).await.process_instance_id.unwrap();
    let initiator = &engine.variables(&initiated).await["startedBy"];
    assert_eq!(
        (&initiator["value"], &initiator["type"]),
        (&Value::Null, &json!("Null"))
    );
    node.until_claims_are_gone().await;
    place.assert_clean().await;
}

#[tokio::test]
async fn an_instance_that_was_started_by_rows_can_end() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["message-start"]).await;
    let node = place.node(&routes()).await;
    let key = unique();
    let payload = json!({ "name": deployment.name("OrderPlaced"), "key": key, "amount": 42 });

    let row = node.send("by-message", &key, payload).await;
    place.run_job(&key).await;
    let instance = row.process_instance_id.unwrap();
    engine.complete(&instance, "after").await;

    engine.wait_until_completed(&instance, LIMIT).await;
    let activities = engine.history_activities(&instance).await;
    let names: Vec<&str> = activities.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["start", "note", "after", "end"]);
    assert!(activities.iter().all(|(_, ended)| *ended));
    for table in ["act_ru_execution", "act_ru_variable"] {
        let left: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT count(*) FROM {table} WHERE proc_inst_id_ = $1"
        )))
        .bind(&instance)
        .fetch_one(&place.pool)
        .await
        .unwrap();
        assert_eq!(left, 0, "{table}");
    }
    node.confirm().await;
    place.assert_clean().await;
}

#[tokio::test]
async fn a_process_that_listens_from_its_start_is_refused_with_the_reason() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["message-start-event-subprocess"]).await;
    let node = place.node(&routes()).await;
    let payload = json!({ "name": deployment.name("OrderPlaced"), "key": "k", "amount": 1 });

    let row = node.send("by-message", "one", payload).await;

    assert_eq!(row.is(), "dead/refused");
    assert!(row.detail.contains("event-subprocess"), "{}", row.detail);
    assert!(
        row.detail.contains("would start it without listening"),
        "{}",
        row.detail
    );
    let history = engine
        .history_instances(&[(
            "processDefinitionKey",
            &deployment.name("message-start-event-subprocess"),
        )])
        .await;
    assert_eq!(history, Vec::<Value>::new());
}

#[tokio::test]
async fn a_key_that_the_inbox_has_forgotten_starts_no_second_instance_and_is_not_taken_for_done() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["message-start"]).await;
    let node = place.node(&routes()).await;
    let key = unique();
    let name = deployment.name("OrderPlaced");
    let payload = json!({ "name": name, "key": key, "amount": 42 });
    let first = node.send("by-message", "one", payload.clone()).await;
    let instance = first.process_instance_id.clone().unwrap();
    let job = place.job("one").await;
    // Again while its job has not run, after it has, and after the instance has ended.
    for ended in [false, false, true] {
        sqlx::query("DELETE FROM inbox")
            .execute(&place.pool)
            .await
            .unwrap();
        let again = node.send("by-message", "one", payload.clone()).await;
        assert_eq!(again.is(), "dead/refused", "{}", again.detail);
        assert!(again.detail.contains(&instance), "{}", again.detail);
        if ended {
            engine.wait_until_completed(&instance, LIMIT).await;
        } else if engine.tasks(&instance).await.is_empty() {
            engine.execute(&job).await;
        } else {
            engine.complete(&instance, "after").await;
        }
        node.confirm().await;
    }
    let history = engine
        .history_instances(&[("processInstanceBusinessKey", &key)])
        .await;
    assert_eq!(history.len(), 1);
}

#[tokio::test]
async fn a_suspended_definition_blocks_a_start_by_key_and_has_no_message_start() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["several-starts"]).await;
    let process = deployment.name("several-starts");
    let node = place.node(&routes()).await;
    engine.suspend_definition(&process, true, false).await;
    let by_key = json!({ "name": process, "key": "k1", "amount": 1 });
    let by_message = json!({ "name": deployment.name("OrderPlaced"), "key": "k2", "amount": 1 });

    node.send_all(&[
        ("by-definition", "one", by_key),
        ("by-message", "two", by_message),
    ])
    .await;
    assert_eq!(
        place.states(&["one", "two"]).await,
        ["waiting/blocked", "waiting/no_subscription"]
    );
    let detail = place.row("one").await.detail;
    assert!(detail.contains("is suspended"), "{detail}");

    engine.suspend_definition(&process, false, false).await;
    place.make_due().await;
    node.wake().await;
    assert_eq!(place.states(&["one", "two"]).await, ["done", "done"]);
}

#[tokio::test]
async fn a_start_finds_the_definition_of_its_tenant() {
    let place = Place::still().await;
    let engine = &place.engine;
    let without = engine.deploy(&["tenant"]).await;
    let suffix = without.suffix();
    let mut of_tenants = Vec::new();
    for tenant in ["a", "b"] {
        of_tenants.push(engine.deploy_as(suffix, &["tenant"], Some(tenant)).await);
    }
    let start = |by: &str, tenant: &str| format!("[start]\n{by} = '$.name'\n{tenant}");
    let routes: Vec<(&str, String)> = vec![
        ("message-any", start("message_name", "")),
        ("message-a", start("message_name", "tenant_id = 'a'")),
        (
            "message-none",
            start("message_name", "without_tenant = true"),
        ),
        ("key-any", start("process_definition_key", "")),
        ("key-b", start("process_definition_key", "tenant_id = 'b'")),
        (
            "key-none",
            start("process_definition_key", "without_tenant = true"),
        ),
        ("key-c", start("process_definition_key", "tenant_id = 'c'")),
    ];
    let node = place.node(&routes).await;
    let message = json!({ "name": without.name("OrderPlaced") });
    // Without a subscription of its own the plain start of a tenant's process.
    let key = json!({ "name": without.name("tenant-receive") });
    let expected = [
        ("message-any", &message, "waiting/ambiguous", None),
        ("message-a", &message, "done", Some("a")),
        ("message-none", &message, "done", None),
        ("key-any", &key, "waiting/ambiguous", None),
        ("key-b", &key, "done", Some("b")),
        ("key-none", &key, "done", None),
        ("key-c", &key, "waiting/unknown_message", None),
    ];
    for (route, payload, state, tenant) in expected {
        let row = node.send(route, route, payload.clone()).await;
        assert_eq!(row.is(), state, "{route}: {}", row.detail);
        if let Some(instance) = row.process_instance_id {
            place.run_job(route).await;
            let started = engine.history_instance(&instance).await.unwrap();
            assert_eq!(started["tenantId"].as_str(), tenant, "{route}");
            let tasks = engine.tasks(&instance).await;
            assert_eq!(tasks.is_empty(), route.starts_with("key"), "{route}");
        }
    }
}

#[tokio::test]
async fn the_latest_version_is_started() {
    let place = Place::still().await;
    let engine = &place.engine;
    let first = engine.deploy(&["several-starts"]).await;
    let second = engine
        .deploy_as(first.suffix(), &["several-starts"], None)
        .await;
    let node = place.node(&routes()).await;
    for (route, name) in [
        ("by-message", "OrderPlaced"),
        ("by-definition", "several-starts"),
    ] {
        let payload = json!({ "name": first.name(name), "key": route, "amount": 1 });
        node.send(route, route, payload).await;
        let deployment: String =
            sqlx::query_scalar("SELECT deployment_id_ FROM act_ru_job WHERE id_ = $1")
                .bind(place.job(route).await)
                .fetch_one(&place.pool)
                .await
                .unwrap();
        assert_eq!(deployment, second.id(), "{route}");
    }
}
