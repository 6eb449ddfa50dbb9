//! Payloads that their producers packed.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use lapin::BasicProperties;
use serde_json::json;

use crate::daemon::{Config, Daemon, LIMIT};
use crate::effects::Effects;
use crate::rig::{Deployment, Queue, QueueKind, Rig, Schema};
use crate::stored::Inbox;

fn config(schema: &Schema, queue: &Queue, models: &Deployment, intake: &str) -> Config {
    let name = models.name("OrderPlaced");
    let route = format!(
        "[routes.placed]\nsource = \"queue\"\nengine = \"shop\"\ndedup_key = \"$.id\"\n\
         [routes.placed.start]\nmessage_name = \"{name}\"\nbusiness_key = \"$.id\"\n\
         variables = {{ order = {{ from = \"$\", type = \"json\" }} }}\n"
    );
    Config::on(schema)
        .rabbitmq("queue", queue, "")
        .camunda_tables("shop", "")
        .with(&route)
        .with(&format!("[intake]\n{intake}"))
}

/// An order that compresses well, packed so or so.
fn order(id: &str, level: Compression) -> Vec<u8> {
    let order = json!({ "id": id, "note": "n".repeat(300_000) }).to_string();
    let mut encoder = GzEncoder::new(Vec::new(), level);
    encoder.write_all(order.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn packed() -> BasicProperties {
    BasicProperties::default().with_content_encoding("gzip".into())
}

#[tokio::test]
async fn a_bomb_is_kept_as_it_came_and_has_its_effect_once_the_limit_is_raised() {
    let rig = Rig::get();
    let models = rig.engine().deploy(&["message-start"]).await;
    let (schema, queue) = (rig.schema(), rig.queue(QueueKind::Quorum).await);
    let low = config(&schema, &queue, &models, "max_content_bytes = \"64KiB\"");
    let mut daemon = Daemon::start(&low, &[]).await;
    let id = models.name("order");
    let sent = order(&id, Compression::fast());
    queue.publish(&sent, packed()).await;
    daemon
        .until_count("sluice_messages_total", &[("outcome", "dead")], 1)
        .await;
    let inbox = Inbox::of(&schema).await;
    let rows = inbox.rows().await;
    assert_eq!(rows[0].is(), "dead encoding");
    assert!(
        rows[0].detail.contains("more than 65536 bytes"),
        "{}",
        rows[0].detail
    );
    assert_eq!(rows[0].payload.as_deref(), Some(&sent[..]));
    daemon.stop().await;

    daemon.configure(&config(&schema, &queue, &models, ""));
    daemon.restart(&[]).await;
    daemon.until_ready().await;
    daemon
        .command(&["inbox", "redrive", "--reason", "encoding"])
        .await;
    let effects = Effects::at(schema.url()).await;
    let process = models.name("message-start");
    let ids = [id.clone()];
    effects.until(&process, "start", &ids, 1, LIMIT).await;

    // The same order, packed anew: other bytes, and no conflict.
    let again = order(&id, Compression::best());
    assert_ne!(again, sent);
    queue.publish(&again, packed()).await;
    daemon
        .until_count("sluice_duplicates_total", &[("cause", "resend")], 1)
        .await;
    inbox.until_settled(LIMIT).await;
    let rows = inbox.rows().await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].payload.as_deref(), Some(&sent[..]));
    effects.exactly(&process, "start", &ids, 1, LIMIT).await;
    daemon.stop().await;
}

#[tokio::test]
async fn what_becomes_large_only_when_it_is_unpacked_goes_in_small_batches() {
    let rig = Rig::get();
    let models = rig.engine().deploy(&["message-start"]).await;
    let (schema, queue) = (rig.schema(), rig.queue(QueueKind::Quorum).await);
    let ids: Vec<String> = (0..8).map(|n| models.name(&format!("order-{n}"))).collect();
    let sent = ids
        .iter()
        .map(|id| (order(id, Compression::best()), packed()));
    // All are there before the daemon is, and a tenth of a batch's bytes as they are delivered.
    queue.publish_all(sent.collect()).await;
    let config = config(&schema, &queue, &models, "max_batch_bytes = \"400KiB\"");
    let daemon = Daemon::start(&config, &[]).await;
    let effects = Effects::at(schema.url()).await;
    let process = models.name("message-start");
    effects.exactly(&process, "start", &ids, 1, LIMIT).await;
    let metrics = daemon.metrics().await;
    assert_eq!(metrics.count("sluice_batch_messages_sum", &[]), ids.len());
    let batches = metrics.count("sluice_batch_messages_count", &[]);
    assert!(
        batches >= 4,
        "{batches} batches, expected two messages in each at most"
    );
    daemon.stop().await;
}
