//! The same message again, for each cause; and another message under the same key.

use lapin::BasicProperties;
use serde_json::json;

use crate::daemon::{Config, Daemon, LIMIT};
use crate::effects::Effects;
use crate::rig::{Deployment, Queue, QueueKind, Rig, Schema, Topic, headers};
use crate::stored::{Inbox, Stored};

const SIGABRT: i32 = 6;

/// A route that starts an order; `lines` belong to it.
fn starts(route: &str, source: &str, models: &Deployment, lines: &str) -> String {
    let name = models.name("OrderPlaced");
    format!(
        "[routes.{route}]\nsource = \"{source}\"\nengine = \"shop\"\ndedup_key = \"$.id\"\n{lines}\n\
         [routes.{route}.start]\nmessage_name = \"{name}\"\nbusiness_key = \"$.order\"\n"
    )
}

fn typed(kind: &str) -> String {
    format!("when = {{ header = \"type\", equals = \"{kind}\" }}")
}

fn order(id: &str) -> Vec<u8> {
    json!({ "id": id, "order": id }).to_string().into_bytes()
}

fn of_type(kind: &str) -> BasicProperties {
    BasicProperties::default().with_headers(headers(&[("type", kind)]))
}

async fn publish(queue: &Queue, ids: &[String]) {
    let all = ids.iter().map(|id| (order(id), of_type("order")));
    queue.publish_all(all.collect()).await;
}

async fn produce(topic: &Topic, ids: &[String]) {
    let all = ids.iter().map(|id| (id.clone(), order(id)));
    topic.produce_all(&all.collect::<Vec<_>>()).await;
}

/// Everything that the nodes of an inbox ever counted.
async fn all_duplicates(inbox: &Inbox) -> usize {
    let sql = "SELECT coalesce(sum(duplicates), 0)::bigint FROM node_counter";
    let all: i64 = sqlx::query_scalar(sql)
        .fetch_one(&inbox.pool)
        .await
        .unwrap();
    usize::try_from(all).unwrap()
}

/// Dies between a commit and its acknowledgement; returns how many messages that commit held.
async fn die_before_acknowledging(daemon: &mut Daemon, inbox: &Inbox, source: &str) -> usize {
    daemon.restart(&[("SLUICE_CRASH_AT", "before_ack:1")]).await;
    let ended = daemon.wait_exit(LIMIT).await;
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&ended),
        Some(SIGABRT)
    );
    let rows = inbox.rows().await;
    let committed = rows.iter().filter(|row| row.source == source).count();
    assert!(committed > 0, "nothing was committed");
    committed
}

fn shop(schema: &Schema, queue: &Queue, topic: &Topic, models: &Deployment) -> Config {
    Config::on(schema)
        .rabbitmq("queue", queue, "")
        .kafka("topic", topic, "")
        .camunda_tables("shop", "")
        .with(&starts("queued", "queue", models, &typed("order")))
        .with(&starts("topical", "topic", models, ""))
        .with(&format!(
            "[routes.impatient]\nsource = \"queue\"\nengine = \"shop\"\ndedup_key = \"$.id\"\n{}\n\
             [routes.impatient.correlate]\nmessage_name = \"{}\"\nbusiness_key = \"$.order\"\nttl = \"50ms\"",
            typed("impatient"),
            models.name("OrderPlaced")
        ))
}

#[tokio::test]
async fn a_duplicate_is_told_by_its_cause_and_has_no_effect() {
    let rig = Rig::get();
    let models = rig.engine().deploy(&["message-start"]).await;
    let schema = rig.schema();
    let queue = rig.queue(QueueKind::Quorum).await;
    let topic = rig.topic(1).await;
    let mut daemon = Daemon::start(&shop(&schema, &queue, &topic, &models), &[]).await;
    daemon.stop().await;
    let inbox = Inbox::of(&schema).await;
    let named = |kind: &str| {
        (0..6)
            .map(|n| models.name(&format!("{kind}-{n}")))
            .collect()
    };
    let (queued, topical): (Vec<String>, Vec<String>) = (named("queued"), named("topical"));
    let causes = "sluice_duplicates_total";

    // RabbitMQ says that it delivered a message before.
    publish(&queue, &queued).await;
    let again = die_before_acknowledging(&mut daemon, &inbox, "queue").await;
    daemon.restart(&[]).await;
    let redelivered = [("route", "queued"), ("cause", "redelivered")];
    daemon.until_count(causes, &redelivered, again).await;
    queue.wait_until_empty(LIMIT).await;
    assert!(
        daemon
            .count("sluice_deliveries_total", &[("redelivered", "true")])
            .await
            >= again
    );
    daemon.stop().await;

    // Kafka gives the same record again, to a group that has an offset: one without goes on where the inbox
    // stands.
    topic.commit(topic.name(), 0, 0).await;
    produce(&topic, &topical).await;
    let reread = die_before_acknowledging(&mut daemon, &inbox, "topic").await;
    daemon.restart(&[]).await;
    topic.wait_until_committed(topic.name(), LIMIT).await;
    let rebalance = [("route", "topical"), ("cause", "rebalance")];
    assert_eq!(daemon.count(causes, &rebalance).await, reread);

    // The producer sends it again, and some messages twice.
    publish(&queue, &queued).await;
    publish(&queue, &queued[..2]).await;
    produce(&topic, &topical).await;
    for (route, count) in [("queued", 8), ("topical", 6)] {
        let resend = [("route", route), ("cause", "resend")];
        daemon.until_count(causes, &resend, count).await;
    }

    // The row that holds the key is dead: nothing happened, and somebody should know.
    let dead = models.name("impatient");
    queue.publish(&order(&dead), of_type("impatient")).await;
    inbox.until(&dead, "dead expired", LIMIT).await;
    queue.publish(&order(&dead), of_type("impatient")).await;
    let of_dead = [("route", "impatient"), ("cause", "of_dead")];
    daemon.until_count(causes, &of_dead, 1).await;

    assert_eq!(all_duplicates(&inbox).await, again + reread + 15);
    let effects = Effects::at(schema.url()).await;
    let keys = [queued, topical].concat();
    effects
        .exactly(&models.name("message-start"), "start", &keys, 1, LIMIT)
        .await;
    daemon.stop().await;
}

#[tokio::test]
async fn another_payload_under_a_key_is_a_conflict_and_has_no_effect() {
    let rig = Rig::get();
    let models = rig.engine().deploy(&["message-start"]).await;
    let schema = rig.schema();
    let queue = rig.queue(QueueKind::Classic).await;
    let route = |name: &str, lines: &str| {
        let lines = format!("{}\n{lines}", typed(name));
        starts(name, "queue", &models, &lines)
    };
    let config = Config::on(&schema)
        .rabbitmq("queue", &queue, "")
        .camunda_tables("shop", "")
        .with(&route("strict", ""))
        .with(&route("lax", "on_conflict = \"ignore\""))
        .with(&route("left", "dedup_scope = \"both\""))
        .with(&route("right", "dedup_scope = \"both\""));
    let daemon = Daemon::start(&config, &[]).await;

    let message = |key: &str, order: &str| {
        let order = models.name(order);
        json!({ "id": key, "order": order })
            .to_string()
            .into_bytes()
    };
    let mut sent = Vec::new();
    for route in ["strict", "lax"] {
        let (first, other) = (format!("{route}-first"), format!("{route}-other"));
        for order in [&first, &other, &other, &first] {
            sent.push((message("key", order), of_type(route)));
        }
    }
    // Two routes with a scope each run both; two routes of one scope share a key.
    sent.push((message("shared", "left"), of_type("left")));
    sent.push((message("shared", "left"), of_type("right")));
    let count = sent.len();
    queue.publish_all(sent).await;
    daemon
        .until_count("sluice_messages_total", &[], count)
        .await;
    queue.wait_until_empty(LIMIT).await;

    for route in ["strict", "lax"] {
        let of_route = [("route", route)];
        let conflicts = daemon
            .count("sluice_dedup_conflicts_total", &of_route)
            .await;
        assert_eq!(conflicts, 2, "{route}");
        let resends = daemon.count("sluice_duplicates_total", &of_route).await;
        assert_eq!(resends, 1, "{route}");
    }
    let inbox = Inbox::of(&schema).await;
    let rows = inbox.rows().await;
    let of = |route: &str| {
        let of_route = rows.iter().filter(|row| row.route == route);
        let mut states: Vec<String> = of_route.map(Stored::is).collect();
        states.sort();
        states
    };
    assert_eq!(of("strict"), ["dead conflict", "done"]);
    assert_eq!(of("lax"), ["done"]);
    assert_eq!((of("left").len(), of("right").len()), (1, 0));
    let conflict = rows.iter().find(|row| row.is() == "dead conflict");
    let kept = conflict.and_then(|row| row.payload.clone());
    assert_eq!(kept, Some(message("key", "strict-other")));

    let effects = Effects::at(schema.url()).await;
    let keys = ["strict-first", "lax-first", "left"].map(|order| models.name(order));
    effects
        .exactly(&models.name("message-start"), "start", &keys, 1, LIMIT)
        .await;
    daemon.stop().await;
}
