//! Messages that nobody waits for, or several: how long they wait, and what becomes of them.

use std::time::Duration;

use lapin::BasicProperties;
use serde_json::json;

use crate::daemon::{Config, Daemon, LIMIT};
use crate::rig::{QueueKind, Rig, headers};
use crate::stored::Inbox;

/// A route for the messages of one kind; `lines` belong to its correlation.
fn route(kind: &str, name: &str, lines: &str) -> String {
    format!(
        "[routes.{kind}]\nsource = \"queue\"\nengine = \"shop\"\ndedup_key = \"@message_id\"\n\
         when = {{ header = \"type\", equals = \"{kind}\" }}\n\
         attempts = {{ max = 4, initial_interval = \"300ms\", multiplier = 1.0 }}\n\
         [routes.{kind}.correlate]\nmessage_name = \"{name}\"\nbusiness_key = \"@correlation_id\"\n{lines}\n"
    )
}

fn message(id: &str, kind: &str, key: &str) -> (Vec<u8>, BasicProperties) {
    let properties = BasicProperties::default()
        .with_message_id(id.into())
        .with_correlation_id(key.into())
        .with_headers(headers(&[("type", kind)]));
    (b"{}".to_vec(), properties)
}

/// Kinds of messages that differ in how their route waits; the hurried ones first.
const KINDS: [&str; 6] = [
    "or-dead",
    "or-ignored",
    "until-dead",
    "until-ignored",
    "patient",
    "unknown",
];

fn waiting_routes(paid: &str, unknown: &str) -> String {
    let ignored = "ttl = \"6s\"\non_expiry = \"ignore\"";
    [
        route("or-dead", paid, "on_no_match = \"dead\""),
        route("or-ignored", paid, "on_no_match = \"ignore\""),
        route("until-dead", paid, "ttl = \"6s\""),
        route("until-ignored", paid, ignored),
        route("patient", paid, ""),
        route("unknown", unknown, "ttl = \"1m\""),
    ]
    .concat()
}

#[tokio::test]
async fn a_message_that_nobody_waits_for_waits_as_its_route_says() {
    let rig = Rig::get();
    let engine = rig.engine();
    let models = engine.deploy(&["receive-task"]).await;
    let later = crate::rig::unique();
    let schema = rig.schema();
    let queue = rig.queue(QueueKind::Classic).await;
    let config = Config::on(&schema)
        .rabbitmq("queue", &queue, "")
        .camunda_tables("shop", "")
        .with(&waiting_routes(
            &models.name("Paid"),
            &format!("Paid_{later}"),
        ));
    let daemon = Daemon::start(&config, &[]).await;

    let key = |kind: &str, fate: &str| models.name(&format!("{kind}-{fate}"));
    // For each kind one message that stays alone and one that somebody begins to wait for.
    let mut sent = Vec::new();
    for kind in KINDS {
        for fate in ["alone", "met"] {
            let id = format!("{kind}-{fate}");
            sent.push(message(&id, kind, &key(kind, fate)));
        }
    }
    queue.publish_all(sent).await;
    let inbox = Inbox::of(&schema).await;
    inbox
        .until("unknown-met", "waiting unknown_message", LIMIT)
        .await;
    let mut deployed = models.name("receive-task");
    let mut instances = Vec::new();
    let mut late = None;
    for kind in KINDS {
        if kind == "unknown" {
            let models = engine.deploy_as(&later, &["receive-task"], None).await;
            deployed = late.insert(models).name("receive-task");
        }
        let met = key(kind, "met");
        instances.push(engine.start(&deployed, Some(&met), json!({})).await);
    }
    for instance in &instances {
        engine.wait_until_completed(instance, LIMIT).await;
    }

    let ends = ["dead no_match", "done", "dead expired", "done"];
    for (kind, end) in KINDS.iter().zip(ends) {
        let row = inbox.until(&format!("{kind}-alone"), end, LIMIT).await;
        let ignored = row.detail.starts_with("ignored");
        assert_eq!(ignored, end == "done", "{kind}: {}", row.detail);
        inbox.until(&format!("{kind}-met"), "done", LIMIT).await;
    }
    // The two that may wait for longer still do, and have used nothing up.
    for kind in &KINDS[4..] {
        let row = inbox.row(&format!("{kind}-alone")).await.unwrap();
        assert_eq!((row.state.as_str(), row.attempts), ("waiting", 0), "{kind}");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_message_that_several_wait_for_is_never_guessed() {
    let rig = Rig::get();
    let engine = rig.engine();
    let models = engine.deploy(&["receive-task"]).await;
    let (process, paid) = (models.name("receive-task"), models.name("Paid"));
    let schema = rig.schema();
    let queue = rig.queue(QueueKind::Classic).await;
    let config = Config::on(&schema)
        .rabbitmq("queue", &queue, "")
        .camunda_tables("shop", "")
        .with(&route("paid", &paid, ""));
    let (stays, leaves) = (models.name("stays"), models.name("leaves"));
    let mut instances = Vec::new();
    for key in [&stays, &stays, &leaves, &leaves] {
        instances.push(engine.start(&process, Some(key), json!({})).await);
    }
    let daemon = Daemon::start(&config, &[]).await;
    let sent = [
        message("stays", "paid", &stays),
        message("leaves", "paid", &leaves),
    ];
    queue.publish_all(sent.to_vec()).await;
    let inbox = Inbox::of(&schema).await;
    inbox.until("leaves", "waiting ambiguous", LIMIT).await;
    engine.delete_instance(&instances[2]).await;
    engine.wait_until_completed(&instances[3], LIMIT).await;
    let dead = inbox.until("stays", "dead attempts", LIMIT).await;
    assert!(
        dead.detail.contains("several executions"),
        "{}",
        dead.detail
    );
    for instance in &instances[..2] {
        let state = engine.history_instance(instance).await.unwrap();
        assert_eq!(state["state"], "ACTIVE", "nobody got the ambiguous message");
    }
    inbox.until("leaves", "done", Duration::from_secs(20)).await;
    daemon.stop().await;
}
