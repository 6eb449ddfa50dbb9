//! Dead rows, driven again after the mapping was mended.

use lapin::BasicProperties;
use serde_json::json;

use crate::daemon::{Config, Daemon, LIMIT};
use crate::effects::Effects;
use crate::rig::{Deployment, Queue, QueueKind, Rig, Schema, Topic};
use crate::stored::Inbox;

/// Two sources with a route each, whose messages have their keys at these places.
fn config(
    schema: &Schema,
    queue: &Queue,
    topic: &Topic,
    models: &Deployment,
    (key, order): (&str, &str),
) -> Config {
    let name = models.name("OrderPlaced");
    let route = |source: &str| {
        format!(
            "[routes.of-{source}]\nsource = \"{source}\"\nengine = \"shop\"\ndedup_key = \"{key}\"\n\
             [routes.of-{source}.start]\nmessage_name = \"{name}\"\nbusiness_key = \"{order}\"\n"
        )
    };
    Config::on(schema)
        .rabbitmq("queue", queue, "")
        .kafka("topic", topic, "")
        .camunda_tables("shop", "")
        .with(&route("queue"))
        .with(&route("topic"))
}

#[tokio::test]
async fn dead_rows_have_their_effect_once_after_the_mapping_is_mended() {
    let rig = Rig::get();
    let models = rig.engine().deploy(&["message-start"]).await;
    let schema = rig.schema();
    let queue = rig.queue(QueueKind::Quorum).await;
    let topic = rig.topic(1).await;
    let config = |key: &str, order: &str| config(&schema, &queue, &topic, &models, (key, order));
    // The key has another name, or the order is an object: nothing of this can be a message.
    let mut daemon = Daemon::start(&config("$.identifier", "$.order"), &[]).await;
    let ids: Vec<String> = (0..4).map(|n| models.name(&format!("order-{n}"))).collect();
    let payload = |id: &str| {
        let order = json!({ "number": id });
        json!({ "id": id, "order": order }).to_string().into_bytes()
    };
    for id in &ids[..2] {
        queue
            .publish(&payload(id), BasicProperties::default())
            .await;
    }
    for id in &ids[2..] {
        topic.produce(None, &[], &payload(id)).await;
    }
    daemon
        .until_count("sluice_messages_total", &[("outcome", "dead")], 4)
        .await;
    daemon.stop().await;

    // Half mended: now they have a key, and still no business key.
    daemon.configure(&config("$.id", "$.order"));
    daemon.restart(&[]).await;
    daemon.until_ready().await;
    let redriven = daemon
        .command(&["inbox", "redrive", "--state", "dead", "--json"])
        .await;
    let redriven: serde_json::Value = serde_json::from_str(&redriven).unwrap();
    assert_eq!(redriven["rows"], 4);
    let inbox = Inbox::of(&schema).await;
    crate::rig::eventually("every row being dead for its mapping", LIMIT, async || {
        let rows = inbox.rows().await;
        rows.iter()
            .all(|row| row.is() == "dead mapping")
            .then_some(())
    })
    .await;
    daemon.stop().await;

    daemon.configure(&config("$.id", "$.order.number"));
    daemon.restart(&[]).await;
    daemon.until_ready().await;
    daemon
        .command(&["inbox", "redrive", "--reason", "mapping"])
        .await;
    // What is sent once more now is a duplicate of what the redrive made of the dead row.
    let effects = Effects::at(schema.url()).await;
    let process = models.name("message-start");
    effects.until(&process, "start", &ids, 1, LIMIT).await;
    for id in &ids[..2] {
        queue
            .publish(&payload(id), BasicProperties::default())
            .await;
    }
    topic.produce(None, &[], &payload(&ids[2])).await;
    let resend = |route: &'static str| [("route", route), ("cause", "resend")];
    daemon
        .until_count("sluice_duplicates_total", &resend("of-queue"), 2)
        .await;
    daemon
        .until_count("sluice_duplicates_total", &resend("of-topic"), 1)
        .await;
    inbox.until_settled(LIMIT).await;
    effects.exactly(&process, "start", &ids, 1, LIMIT).await;
    daemon.stop().await;
}
