//! What confirm makes of a job that is gone: its effect, the proof that it had none, or neither.

use serde_json::json;

use super::Place;
use crate::rig::{Deployment, Engine, unique};

const BY_KEY: &str = "attempts = { max = 3 }
    [correlate]
    message_name = '$.name'
    business_key = '$.key'
    variables = { amount = { from = '$.amount', optional = true } }";

fn routes() -> Vec<(&'static str, String)> {
    let start = "[start]\nmessage_name = '$.name'\nbusiness_key = '$.key'";
    vec![("by-key", BY_KEY.to_owned()), ("start", start.to_owned())]
}

async fn waiting(engine: &Engine, deployment: &Deployment, process: &str) -> (String, String) {
    let key = unique();
    let process = deployment.name(process);
    let instance = engine.start(&process, Some(&key), json!({})).await;
    (key, instance)
}

#[tokio::test]
async fn a_subscription_that_was_cancelled_before_the_job_ran_sends_the_row_back_to_waiting() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-with-cancel"]).await;
    let (key, instance) = waiting(engine, &deployment, "receive-with-cancel").await;
    let node = place.node(&routes()).await;
    let payload = json!({ "name": deployment.name("Paid"), "key": key, "amount": 1 });

    node.send("by-key", "one", payload).await;
    engine
        .correlate(json!({ "messageName": deployment.name("Cancelled"), "businessKey": key }))
        .await;
    place.run_job("one").await;
    node.confirm().await;

    let row = place.row("one").await;
    assert_eq!((row.is().as_str(), row.attempts), ("waiting/retry", 1));
    assert!(row.detail.contains("correlated nothing"), "{}", row.detail);
    assert!(!engine.variables(&instance).await.contains_key("amount"));
    place.assert_clean().await;

    place.make_due().await;
    node.wake().await;
    let row = place.row("one").await;
    assert_eq!(
        (row.is().as_str(), row.attempts),
        ("waiting/no_subscription", 1)
    );
}

#[tokio::test]
async fn a_message_that_is_handed_in_vain_again_and_again_is_dead_in_the_end() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-with-cancel"]).await;
    let key = unique();
    let node = place.node(&routes()).await;
    let payload = json!({ "name": deployment.name("Paid"), "key": key });
    let cancel = json!({ "messageName": deployment.name("Cancelled"), "businessKey": key });
    let process = deployment.name("receive-with-cancel");
    engine.start(&process, Some(&key), json!({})).await;
    node.send("by-key", "one", payload).await;
    for attempt in 1..=3 {
        assert_eq!(place.row("one").await.is(), "handed", "attempt {attempt}");
        engine.correlate(cancel.clone()).await;
        place.run_job("one").await;
        node.confirm().await;
        engine.start(&process, Some(&key), json!({})).await;
        place.make_due().await;
        node.wake().await;
    }
    let row = place.row("one").await;
    assert_eq!(
        (row.is().as_str(), row.attempts),
        ("dead/attempts", 3),
        "{}",
        row.detail
    );
    // What is dead is not handed once more, though somebody waits for it.
    place.assert_clean().await;
}

#[tokio::test]
async fn an_instance_that_an_operator_deletes_before_the_job_runs_proves_that_nothing_happened() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine
        .deploy(&["receive-then-task", "receive-twice", "message-start"])
        .await;
    let node = place.node(&routes()).await;
    // By C, whose job runs and finds nobody, and by B, whose job goes with the subscription.
    for (process, variant) in [("receive-then-task", "C"), ("receive-twice", "B")] {
        let (key, instance) = waiting(engine, &deployment, process).await;
        let payload = json!({ "name": deployment.name("Paid"), "key": key });
        node.send("by-key", &key, payload).await;
        assert_eq!(place.variant(&key).await, variant);
        engine.delete_instance(&instance).await;
        if variant == "C" {
            place.run_job(&key).await;
        }
        node.confirm().await;
        let row = place.row(&key).await;
        assert_eq!(row.is(), "waiting/retry", "{variant}: {}", row.detail);
    }
    // A start has happened, and was deleted: nothing is to be done.
    let payload = json!({ "name": deployment.name("OrderPlaced"), "key": "started" });
    let row = node.send("start", "started", payload).await;
    engine
        .delete_instance(&row.process_instance_id.unwrap())
        .await;
    place.make_due().await;
    node.confirm().await;
    node.wake().await;
    assert_eq!(place.row("started").await.is(), "done");
    assert_eq!(
        engine.instances("started").await,
        Vec::<serde_json::Value>::new()
    );
    place.assert_clean().await;
}

#[tokio::test]
async fn a_job_that_an_operator_deletes_is_handed_again() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-then-task", "receive-twice"]).await;
    let node = place.node(&routes()).await;
    for process in ["receive-then-task", "receive-twice"] {
        let (key, _) = waiting(engine, &deployment, process).await;
        let payload = json!({ "name": deployment.name("Paid"), "key": key });
        node.send("by-key", &key, payload).await;
        let job = place.job(&key).await;
        let answer = engine
            .call(reqwest::Method::DELETE, &format!("job/{job}"), None)
            .await;
        assert_eq!(answer.status, 204, "{}", answer.body);

        node.confirm().await;
        place.assert_clean().await;
        let row = node.until(&key, "handed").await;
        assert_eq!(row.attempts, 1);
        place.run_job(&key).await;
        node.until(&key, "done").await;
    }
    place.assert_clean().await;
}

#[tokio::test]
async fn an_instance_that_is_suspended_before_the_job_runs_gets_the_message_when_it_is_active_again()
 {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-then-task"]).await;
    let (key, instance) = waiting(engine, &deployment, "receive-then-task").await;
    let node = place.node(&routes()).await;
    let payload = json!({ "name": deployment.name("Paid"), "key": key });
    node.send("by-key", "one", payload.clone()).await;

    engine.suspend_instance(&instance, true).await;
    // The engine suspends our job with it: it blocks, and what comes later says so.
    let state = node.refresh().await;
    assert_eq!((state.backlog, state.blocked), (0, 1));
    assert!(
        state.blocked_details[0].contains("suspended"),
        "{:?}",
        state.blocked_details
    );
    let later = node.send("by-key", "two", payload).await;
    assert_eq!(later.is(), "waiting/no_subscription");
    engine.suspend_instance(&instance, false).await;
    place.run_job("one").await;

    node.until("one", "done").await;
    place.assert_clean().await;
}

#[tokio::test]
async fn an_instance_whose_history_is_gone_leaves_the_row_in_doubt() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-task"]).await;
    let (key, instance) = waiting(engine, &deployment, "receive-task").await;
    let node = place.node(&routes()).await;
    let payload = json!({ "name": deployment.name("Paid"), "key": key });
    node.send("by-key", "one", payload).await;

    engine.delete_instance(&instance).await;
    let history = format!("history/process-instance/{instance}");
    engine.call(reqwest::Method::DELETE, &history, None).await;
    place.run_job("one").await;
    node.confirm().await;

    let row = place.row("one").await;
    assert_eq!(row.is(), "dead/in_doubt");
    assert!(row.detail.contains("history"), "{}", row.detail);
    place.assert_clean().await;
}

#[tokio::test]
async fn a_history_that_is_due_for_removal_proves_nothing() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-with-cancel"]).await;
    let (key, instance) = waiting(engine, &deployment, "receive-with-cancel").await;
    let node = place.node(&routes()).await;
    let payload = json!({ "name": deployment.name("Paid"), "key": key });
    node.send("by-key", "one", payload).await;
    let cancel = json!({ "messageName": deployment.name("Cancelled"), "businessKey": key });
    engine.correlate(cancel).await;
    place.run_job("one").await;
    // The engine's cleanup goes table by table, and may have taken the receipt before the instance.
    sqlx::query(
        "UPDATE act_hi_procinst SET removal_time_ = now() AT TIME ZONE 'UTC' WHERE id_ = $1",
    )
    .bind(&instance)
    .execute(&place.pool)
    .await
    .unwrap();
    node.confirm().await;
    assert_eq!(place.row("one").await.is(), "dead/in_doubt");
}

#[tokio::test]
async fn an_instance_that_has_ended_still_proves_its_message() {
    let place = Place::busy().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-task"]).await;
    let (key, instance) = waiting(engine, &deployment, "receive-task").await;
    let node = place.node(&routes()).await;
    let payload = json!({ "name": deployment.name("Paid"), "key": key, "amount": 1 });
    node.send("by-key", "one", payload).await;
    engine
        .wait_until_completed(&instance, super::place::LIMIT)
        .await;
    node.until("one", "done").await;
    place.assert_clean().await;
}
