//! Every construct that can wait for a message gets it, from the row to the instance going on.

use serde_json::{Value, json};

use super::place::LIMIT;
use super::{Node, Place};
use crate::rig::{Deployment, unique};

/// A message by name and business key, with a payload.
const BY_KEY: &str = "[correlate]
    message_name = '$.name'
    business_key = '$.key'
    variables = { amount = { from = '$.amount', optional = true } }";

/// Model, process, message, and the user task that the message leads to.
const CATCHERS: [(&str, &str, &str, &str); 16] = [
    ("receive-then-task", "receive-then-task", "Paid", "after"),
    ("catch-event", "catch-event", "Paid", "after"),
    ("event-gateway", "event-gateway", "Paid", "paid"),
    (
        "boundary-interrupting",
        "boundary-interrupting",
        "Cancelled",
        "after",
    ),
    (
        "boundary-non-interrupting",
        "boundary-non-interrupting",
        "Reminder",
        "after",
    ),
    (
        "boundary-on-subprocess",
        "boundary-on-subprocess",
        "Cancelled",
        "after",
    ),
    (
        "event-subprocess-interrupting",
        "event-subprocess-interrupting",
        "Cancelled",
        "event-subprocess-task",
    ),
    (
        "event-subprocess-non-interrupting",
        "event-subprocess-non-interrupting",
        "Reminder",
        "event-subprocess-task",
    ),
    (
        "embedded-event-subprocess-interrupting",
        "embedded-event-subprocess-interrupting",
        "Cancelled",
        "event-subprocess-task",
    ),
    (
        "embedded-event-subprocess-non-interrupting",
        "embedded-event-subprocess-non-interrupting",
        "Reminder",
        "event-subprocess-task",
    ),
    ("async", "async", "Paid", "after"),
    (
        "receive-in-subprocess",
        "receive-in-subprocess",
        "Paid",
        "after",
    ),
    ("fork-joined-before", "fork-joined-before", "Paid", "after"),
    ("exclusive-branches", "exclusive-branches", "Paid", "after"),
    ("signal-beside", "signal-beside", "Paid", "paid"),
    (
        "receive-with-cancel",
        "receive-with-cancel",
        "Cancelled",
        "cancelled",
    ),
];

fn message(deployment: &Deployment, name: &str, key: &str) -> Value {
    json!({ "name": deployment.name(name), "key": key, "amount": 42 })
}

#[tokio::test]
async fn every_catcher_that_holds_one_token_gets_its_message_with_payload_and_receipt() {
    let place = Place::busy().await;
    let engine = &place.engine;
    let node = place.node(&[("by-key", BY_KEY.to_owned())]).await;
    let mut waiting = Vec::new();
    let mut deployments = Vec::new();
    for (model, process, message_name, task) in CATCHERS {
        let deployment = engine.deploy(&[model]).await;
        let key = unique();
        // What the flow of one of the models depends on.
        let variables = json!({ "left": { "value": true, "type": "Boolean" } });
        let process = deployment.name(process);
        let instance = engine.start(&process, Some(&key), variables).await;
        waiting.push((model, key, instance, deployment.name(message_name), task));
        deployments.push(deployment);
    }
    for (_, _, instance, name, _) in &waiting {
        engine.wait_for_subscription(instance, name, LIMIT).await;
    }

    let messages: Vec<(&str, &str, Value)> = waiting
        .iter()
        .map(|(_, key, _, name, _)| {
            let payload = json!({ "name": name, "key": key, "amount": 42 });
            ("by-key", key.as_str(), payload)
        })
        .collect();
    node.send_all(&messages).await;

    for (model, key, ..) in &waiting {
        let row = place.row(key).await;
        assert_eq!(row.is(), "handed", "{model}: {}", row.detail);
    }
    for (model, key, instance, _, task) in &waiting {
        let row = node.until(key, "done").await;
        engine.wait_for_task(instance, task, LIMIT).await;
        let variables = engine.history_variables(instance).await;
        assert_eq!(variables["amount"]["value"], 42, "{model}");
        let receipt = variables["sluice_receipt"]["value"].as_str().unwrap();
        assert_eq!(receipt, format!("{}/1", row.id), "{model}");
        assert_eq!(row.attempts, 0, "{model}");
    }
    place.assert_clean().await;
}

#[tokio::test]
async fn a_called_process_gets_the_message_and_not_its_parent() {
    let place = Place::busy().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["call-activity"]).await;
    let key = unique();
    let parent = engine
        .start(&deployment.name("call-parent"), Some(&key), json!({}))
        .await;
    let name = deployment.name("Paid");
    let subscriptions = engine.subscriptions(&[("eventName", &name)]).await;
    let child = subscriptions[0]["processInstanceId"].as_str().unwrap();
    assert_ne!(child, parent);
    let node = place.node(&[("by-key", BY_KEY.to_owned())]).await;

    node.send("by-key", &key, message(&deployment, "Paid", &key))
        .await;
    let row = node.until(&key, "done").await;

    engine.wait_for_task(&parent, "after", LIMIT).await;
    let of_child = engine.history_variables(child).await;
    assert_eq!(of_child["sluice_receipt"]["value"], format!("{}/1", row.id));
    assert_eq!(engine.variables(&parent).await["amount"]["value"], 42);
    place.assert_clean().await;
}

#[tokio::test]
async fn a_subscription_that_stays_takes_one_message_after_the_other() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["boundary-non-interrupting"]).await;
    let key = unique();
    let instance = engine
        .start(
            &deployment.name("boundary-non-interrupting"),
            Some(&key),
            json!({}),
        )
        .await;
    let node = place.node(&[("by-key", BY_KEY.to_owned())]).await;
    let reminder = message(&deployment, "Reminder", &key);

    node.send_all(&[
        ("by-key", "first", reminder.clone()),
        ("by-key", "second", reminder.clone()),
    ])
    .await;

    assert_eq!(
        place.states(&["first", "second"]).await,
        ["handed", "waiting/busy"]
    );
    place.run_job("first").await;
    node.confirm().await;
    node.wake().await;
    assert_eq!(place.states(&["first", "second"]).await, ["done", "handed"]);
    place.run_job("second").await;
    node.until("second", "done").await;
    assert_eq!(engine.tasks(&instance).await.len(), 3);
    place.assert_clean().await;
}

#[tokio::test]
async fn of_several_catchers_of_a_name_the_one_that_waits_gets_a_message_without_payload() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-twice"]).await;
    let key = unique();
    let instance = engine
        .start(&deployment.name("receive-twice"), Some(&key), json!({}))
        .await;
    let node = place.node(&[("by-key", BY_KEY.to_owned())]).await;
    let without_payload = json!({ "name": deployment.name("Paid"), "key": key });

    let refused = node
        .send("by-key", "payload", message(&deployment, "Paid", &key))
        .await;
    assert_eq!(refused.is(), "waiting/unsupported");
    assert!(
        refused.detail.contains("both wait for message"),
        "{}",
        refused.detail
    );
    assert_eq!(refused.attempts, 1);

    for key in ["first", "second"] {
        let row = node.send("by-key", key, without_payload.clone()).await;
        assert_eq!(row.is(), "handed", "{}", row.detail);
        assert_eq!(place.variant(key).await, "B");
        place.run_job(key).await;
        node.until(key, "done").await;
    }
    engine.wait_for_task(&instance, "after", LIMIT).await;
    let variables = engine.history_variables(&instance).await;
    assert!(variables.is_empty(), "{variables:?}");
    place.assert_clean().await;
}

#[tokio::test]
async fn a_multi_instance_receive_task_is_ambiguous_until_one_is_left() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["multi-instance-receive"]).await;
    let key = unique();
    let instance = engine
        .start(
            &deployment.name("multi-instance-receive"),
            Some(&key),
            json!({}),
        )
        .await;
    let name = deployment.name("Paid");
    let node = place.node(&[("by-key", BY_KEY.to_owned())]).await;
    let without_payload = json!({ "name": name, "key": key });

    let row = node.send("by-key", "last", without_payload).await;
    assert_eq!(row.is(), "waiting/ambiguous");
    leave_one(engine, &name).await;
    let row = node
        .send("by-key", "payload", message(&deployment, "Paid", &key))
        .await;
    assert_eq!(row.is(), "waiting/unsupported");
    assert!(row.detail.contains("multi-instance"), "{}", row.detail);
    place.make_due().await;
    node.wake().await;

    assert_eq!(
        place.states(&["last", "payload"]).await,
        ["handed", "waiting/unsupported"]
    );
    assert_eq!(place.variant("last").await, "B");
    place.run_job("last").await;
    node.until("last", "done").await;
    engine.wait_for_task(&instance, "after", LIMIT).await;
}

/// Delivers to every subscription of the name but one, through REST.
async fn leave_one(engine: &crate::rig::Engine, name: &str) {
    let subscriptions = engine.subscriptions(&[("eventName", name)]).await;
    for subscription in &subscriptions[1..] {
        let execution = subscription["executionId"].as_str().unwrap();
        let path = format!("execution/{execution}/messageSubscriptions/{name}/trigger");
        let answer = engine.post(&path, json!({})).await;
        assert_eq!(answer.status, 204, "{}", answer.body);
    }
}

#[tokio::test]
async fn an_instance_that_is_named_by_its_id_gets_the_message() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-then-task"]).await;
    let process = deployment.name("receive-then-task");
    let instance = engine.start(&process, None, json!({})).await;
    let other = engine.start(&process, None, json!({})).await;
    let by_id = "[correlate]
        message_name = '$.name'
        process_instance_id = '$.instance'";
    let node = place.node(&[("by-id", by_id.to_owned())]).await;

    let payload = json!({ "name": deployment.name("Paid"), "instance": instance });
    node.send("by-id", "one", payload).await;
    place.run_job("one").await;
    node.until("one", "done").await;

    engine.wait_for_task(&instance, "after", LIMIT).await;
    assert_eq!(engine.tasks(&other).await, []);
    place.assert_clean().await;
}

#[tokio::test]
async fn every_row_carries_the_deployment_of_its_definition() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine
        .deploy(&["receive-then-task", "message-start", "receive-twice"])
        .await;
    let (one, two) = (unique(), unique());
    for (process, key) in [("receive-then-task", &one), ("receive-twice", &two)] {
        engine
            .start(&deployment.name(process), Some(key), json!({}))
            .await;
    }
    // A later version does not matter to what runs.
    let _later = engine
        .deploy_as(deployment.suffix(), &["receive-then-task"], None)
        .await;
    let start = "[start]\nmessage_name = '$.name'";
    let node: Node = place
        .node(&[("by-key", BY_KEY.to_owned()), ("start", start.to_owned())])
        .await;

    let name = deployment.name("OrderPlaced");
    let without_payload = json!({ "name": deployment.name("Paid"), "key": two });
    node.send_all(&[
        ("by-key", "correlated", message(&deployment, "Paid", &one)),
        ("by-key", "event", without_payload),
        ("start", "started", json!({ "name": name })),
    ])
    .await;

    for key in ["correlated", "event", "started"] {
        let id = place.job(key).await;
        let job = engine.get(&format!("job/{id}")).await.body;
        let of: String = sqlx::query_scalar("SELECT deployment_id_ FROM act_ru_job WHERE id_ = $1")
            .bind(&id)
            .fetch_one(&place.pool)
            .await
            .unwrap();
        assert_eq!(of, deployment.id(), "{key}: {job}");
        assert_eq!(job["retries"], 3);
        assert_eq!(job["suspended"], false);
        assert_eq!(job["priority"], 0);
        assert!(job["processDefinitionId"].is_string() && job["processInstanceId"].is_string());
    }
}
