//! What a message that cannot go means for those behind it.

use lapin::BasicProperties;
use serde_json::json;

use crate::daemon::{Config, Daemon, LIMIT};
use crate::rig::{Deployment, QueueKind, Rig, headers};
use crate::stored::Inbox;

/// Two routes of one order scope: `first-…` waits for a message that comes too late, `second-…` could go.
fn routes(scope: &str, models: &Deployment, on_dead: &str) -> String {
    let route = |kind: &str, message: &str, more: &str| {
        let name = models.name(message);
        format!(
            "[routes.{kind}-{scope}]\nsource = \"queue\"\nengine = \"shop\"\ndedup_key = \"@message_id\"\n\
             when = {{ header = \"type\", equals = \"{kind}-{scope}\" }}\n\
             order_by = \"@correlation_id\"\norder_scope = \"{scope}\"\non_dead = \"{on_dead}\"\n\
             [routes.{kind}-{scope}.correlate]\nmessage_name = \"{name}\"\n\
             business_key = \"@correlation_id\"\n{more}\n"
        )
    };
    let first = route("first", "Shipped", "ttl = \"1s\"");
    first + &route("second", "Paid", "")
}

fn message(id: &str, kind: &str, key: &str) -> (Vec<u8>, BasicProperties) {
    let properties = BasicProperties::default()
        .with_message_id(id.into())
        .with_correlation_id(key.into())
        .with_headers(headers(&[("type", kind)]));
    (b"{}".to_vec(), properties)
}

#[tokio::test]
async fn a_dead_message_holds_back_its_key_until_an_operator_decides() {
    let rig = Rig::get();
    let engine = rig.engine();
    let models = engine.deploy(&["message-start-then-receive"]).await;
    let schema = rig.schema();
    let queue = rig.queue(QueueKind::Classic).await;
    let config = Config::on(&schema)
        .rabbitmq("queue", &queue, "")
        .camunda_tables("shop", "")
        .with(&routes("blocking", &models, "block"))
        .with(&routes("flowing", &models, "continue"));
    let daemon = Daemon::start(&config, &[]).await;
    let inbox = Inbox::of(&schema).await;

    // Each instance waits for Paid first, and for Shipped only then.
    let key = |name: &str| models.name(name);
    let instance = async |name: &str| {
        let start = json!({
            "messageName": models.name("OrderPlaced"), "businessKey": key(name), "resultEnabled": true
        });
        let answer = engine.correlate(start).await;
        answer.body[0]["processInstance"]["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let blocked = instance("blocked").await;
    let flowing = instance("flowing").await;
    let bystander = instance("bystander").await;
    queue
        .publish_all(vec![
            message("b1", "first-blocking", &key("blocked")),
            message("b2", "second-blocking", &key("blocked")),
            message("f1", "first-flowing", &key("flowing")),
            message("f2", "second-flowing", &key("flowing")),
            message("o2", "second-blocking", &key("bystander")),
        ])
        .await;
    // Another key of the same scope has nothing to do with it.
    engine
        .wait_for_subscription(&bystander, &models.name("Shipped"), LIMIT)
        .await;
    inbox.until("b1", "dead expired", LIMIT).await;
    inbox.until("f1", "dead expired", LIMIT).await;
    engine
        .wait_for_subscription(&flowing, &models.name("Shipped"), LIMIT)
        .await;
    inbox.until("f2", "done", LIMIT).await;
    let behind = inbox.row("b2").await.unwrap();
    assert_eq!(behind.is(), "waiting ordered");
    let paid = [
        ("processInstanceId", blocked.as_str()),
        ("eventName", &models.name("Paid")),
    ];
    assert_eq!(
        engine.subscriptions(&paid).await.len(),
        1,
        "nothing overtook"
    );

    let listed = daemon
        .command(&["inbox", "list", "--state", "dead", "--key", "b1", "--json"])
        .await;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let id = listed[0]["id"].as_str().expect("the dead row is listed");
    daemon.command(&["inbox", "discard", id]).await;
    engine
        .wait_for_subscription(&blocked, &models.name("Shipped"), LIMIT)
        .await;
    inbox.until("b2", "done", LIMIT).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_message_that_cannot_be_used_keeps_its_place_in_the_order_until_the_mapping_is_mended() {
    let rig = Rig::get();
    let engine = rig.engine();
    let models = engine.deploy(&["message-start-then-receive"]).await;
    let schema = rig.schema();
    let queue = rig.queue(QueueKind::Classic).await;
    // The first route wants a variable that its messages do not have.
    let config = |variables: &str| {
        let name = |message: &str| models.name(message);
        let route = |kind: &str, message: &str, more: &str| {
            format!(
                "[routes.{kind}]\nsource = \"queue\"\nengine = \"shop\"\ndedup_key = \"@message_id\"\n\
                 when = {{ header = \"type\", equals = \"{kind}\" }}\norder_by = \"@correlation_id\"\n\
                 [routes.{kind}.correlate]\nmessage_name = \"{}\"\nbusiness_key = \"@correlation_id\"\n{more}\n",
                name(message)
            )
        };
        Config::on(&schema)
            .rabbitmq("queue", &queue, "")
            .camunda_tables("shop", "")
            .with(&route("first", "Shipped", variables))
            .with(&route("second", "Paid", ""))
    };
    let start =
        json!({ "messageName": models.name("OrderPlaced"), "businessKey": models.name("k") });
    engine.correlate(start).await;
    let mut daemon = Daemon::start(&config("variables = { amount = \"$.amount\" }"), &[]).await;
    let key = models.name("k");
    queue
        .publish_all(vec![
            message("m1", "first", &key),
            message("m2", "second", &key),
        ])
        .await;
    let inbox = Inbox::of(&schema).await;
    inbox.until("m2", "waiting ordered", LIMIT).await;
    daemon.stop().await;

    daemon.configure(&config(""));
    daemon.restart(&[]).await;
    daemon.until_ready().await;
    daemon
        .command(&["inbox", "redrive", "--reason", "mapping"])
        .await;
    // Nobody waits for it yet, and it is still before the one that could go.
    inbox.until("m1", "waiting no_subscription", LIMIT).await;
    let behind = inbox.row("m2").await.unwrap();
    assert_eq!(behind.is(), "waiting ordered");
    daemon
        .command(&["inbox", "discard", "--key", "m1", "--state", "waiting"])
        .await;
    inbox.until("m2", "done", LIMIT).await;
    daemon.stop().await;
}
