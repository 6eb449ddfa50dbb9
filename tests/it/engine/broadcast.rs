//! `broadcast = true`: all subscriptions of the name in the one matched instance.

use serde_json::json;

use super::Place;
use super::place::LIMIT;
use crate::rig::unique;

const BROADCAST: &str = "[correlate]
    message_name = '$.name'
    business_key = '$.key'
    variables = { amount = '$.amount' }
    broadcast = true";

#[tokio::test]
async fn every_subscription_of_one_instance_gets_a_broadcast() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine
        .deploy(&["multi-instance-receive", "fork-same-name"])
        .await;
    let node = place.node(&[("all", BROADCAST.to_owned())]).await;
    for process in ["multi-instance-receive", "fork-same-name"] {
        let key = unique();
        let instance = engine
            .start(&deployment.name(process), Some(&key), json!({}))
            .await;
        let payload = json!({ "name": deployment.name("Paid"), "key": key, "amount": 7 });

        let row = node.send("all", &key, payload).await;

        assert_eq!(row.is(), "handed", "{process}: {}", row.detail);
        place.run_job(&key).await;
        node.until(&key, "done").await;
        engine.wait_for_task(&instance, "after", LIMIT).await;
        assert_eq!(engine.variables(&instance).await["amount"]["value"], 7);
        let left = engine
            .subscriptions(&[("processInstanceId", &instance)])
            .await;
        assert_eq!(left, Vec::<serde_json::Value>::new(), "{process}");
    }
    place.assert_clean().await;
}

#[tokio::test]
async fn two_broadcasts_go_one_after_the_other_and_two_instances_are_ambiguous() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["fork-same-name"]).await;
    let process = deployment.name("fork-same-name");
    let node = place.node(&[("all", BROADCAST.to_owned())]).await;
    let key = unique();
    let payload = json!({ "name": deployment.name("Paid"), "key": key, "amount": 7 });
    engine.start(&process, Some(&key), json!({})).await;

    node.send_all(&[
        ("all", "one", payload.clone()),
        ("all", "two", payload.clone()),
    ])
    .await;
    assert_eq!(
        place.states(&["one", "two"]).await,
        ["handed", "waiting/busy"]
    );
    place.run_job("one").await;
    node.until("one", "done").await;

    engine.start(&process, Some(&key), json!({})).await;
    engine.start(&process, Some(&key), json!({})).await;
    let row = node.send("all", "three", payload).await;
    assert_eq!(row.is(), "waiting/ambiguous");
}
