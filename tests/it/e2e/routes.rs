//! Which route takes a delivery, and what a route can do with little or no mapping.

use lapin::BasicProperties;
use serde_json::json;

use crate::daemon::{Config, Daemon, LIMIT};
use crate::rig::{QueueKind, Rig, eventually, headers};
use crate::stored::Inbox;

/// The file of a model, for messages of another name.
fn model(name: &str, message: &str) -> (String, String) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rig/bpmn");
    let text = std::fs::read_to_string(folder.join(format!("{name}.bpmn"))).unwrap();
    (name.to_owned(), text.replace("Paid_suffix", message))
}

#[tokio::test]
async fn a_route_by_convention_needs_no_mapping() {
    let rig = Rig::get();
    let engine = rig.engine();
    let schema = rig.schema();
    let topic = rig.topic(1).await;
    // The topic's name is the message's, the record's key the business key, each field a variable.
    let suffix = crate::rig::unique();
    let models = engine
        .deploy_texts(&suffix, vec![model("receive-task", topic.name())], None)
        .await;
    let process = models.name("receive-task");
    let key = models.name("order");
    let instance = engine.start(&process, Some(&key), json!({})).await;
    let config = Config::on(&schema)
        .kafka("orders", &topic, "")
        .camunda_tables("shop", "")
        .with("[routes.orders]\nsource = \"orders\"\nengine = \"shop\"");
    let daemon = Daemon::start(&config, &[]).await;
    let payload = json!({"paid": true, "amount": 12.5, "items": [{"sku": "a"}], "note": null});
    topic
        .produce(Some(&key), &[], payload.to_string().as_bytes())
        .await;
    engine.wait_until_completed(&instance, LIMIT).await;

    let variables = engine.history_variables(&instance).await;
    let typed = |name: &str| {
        let variable = &variables[name];
        (
            variable["type"].as_str().unwrap().to_owned(),
            variable["value"].clone(),
        )
    };
    assert_eq!(typed("paid"), ("Boolean".to_owned(), json!(true)));
    assert_eq!(typed("amount"), ("Double".to_owned(), json!(12.5)));
    assert_eq!(
        typed("items"),
        ("Json".to_owned(), json!(r#"[{"sku":"a"}]"#))
    );
    assert_eq!(typed("note"), ("Null".to_owned(), json!(null)));
    daemon.stop().await;
}

#[tokio::test]
async fn what_no_route_takes_is_dead_or_ignored_as_its_source_says() {
    let rig = Rig::get();
    let models = rig.engine().deploy(&["message-start"]).await;
    let schema = rig.schema();
    let strict = rig.queue(QueueKind::Classic).await;
    let lax = rig.queue(QueueKind::Classic).await;
    let name = models.name("OrderPlaced");
    let route = |source: &str| {
        format!(
            "[routes.of-{source}]\nsource = \"{source}\"\nengine = \"shop\"\n\
             when = {{ header = \"type\", one_of = [\"order\", \"Order\"] }}\n\
             [routes.of-{source}.start]\nmessage_name = \"{name}\"\nbusiness_key = \"@correlation_id\"\n"
        )
    };
    let config = Config::on(&schema)
        .with("[sources.lax]\non_unrouted = \"ignore\"")
        .rabbitmq("strict", &strict, "")
        .rabbitmq("lax", &lax, "")
        .camunda_tables("shop", "")
        .with(&route("strict"))
        .with(&route("lax"));
    let daemon = Daemon::start(&config, &[]).await;
    for queue in [&strict, &lax] {
        for kind in ["order", "invoice", "Order"] {
            let properties = BasicProperties::default()
                .with_message_id(kind.into())
                .with_correlation_id(models.name(kind).into())
                .with_headers(headers(&[("type", kind)]));
            queue.publish(b"not even JSON", properties).await;
        }
    }
    daemon.until_count("sluice_messages_total", &[], 6).await;
    for queue in [&strict, &lax] {
        queue.wait_until_empty(LIMIT).await;
    }
    let ignored = [("outcome", "ignored")];
    assert_eq!(daemon.count("sluice_messages_total", &ignored).await, 1);
    let inbox = Inbox::of(&schema).await;
    let rows = inbox.rows().await;
    let states = |source: &str| {
        let of_source = rows.iter().filter(|row| row.source == source);
        let mut states: Vec<String> = of_source.map(crate::stored::Stored::is).collect();
        states.sort();
        states
    };
    assert_eq!(states("strict"), ["dead unrouted", "done", "done"]);
    assert_eq!(states("lax"), ["done", "done"]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_start_by_key_waits_while_its_definition_is_suspended() {
    let rig = Rig::get();
    let engine = rig.engine();
    let models = engine.deploy(&["none-start"]).await;
    let (process, paid) = (models.name("none-start"), models.name("Paid"));
    let schema = rig.schema();
    let queue = rig.queue(QueueKind::Quorum).await;
    let route = |kind: &str, lines: &str| {
        format!(
            "[routes.{kind}]\nsource = \"queue\"\nengine = \"shop\"\ndedup_key = \"@message_id\"\n\
             when = {{ value = \"$.type\", equals = \"{kind}\" }}\n[routes.{kind}.{lines}\n\
             business_key = \"$.order\"\nvariables = {{ {kind}At = {{ from = \"$.at\", type = \"date\" }} }}\n"
        )
    };
    let start = format!("start]\nprocess_definition_key = \"{process}\"");
    let correlate = format!("correlate]\nmessage_name = \"{paid}\"");
    let config = Config::on(&schema)
        .rabbitmq("queue", &queue, "")
        .camunda_tables("shop", "")
        .with(&route("placed", &start))
        .with(&route("paid", &correlate));
    let daemon = Daemon::start(&config, &[]).await;
    engine.suspend_definition(&process, true, false).await;
    let key = models.name("order");
    for kind in ["placed", "paid"] {
        let payload = json!({"type": kind, "order": key, "at": "2024-03-01T00:00:00Z"});
        let properties = BasicProperties::default().with_message_id(kind.into());
        queue
            .publish(payload.to_string().as_bytes(), properties)
            .await;
    }
    let inbox = Inbox::of(&schema).await;
    inbox.until("placed", "waiting blocked", LIMIT).await;
    assert!(engine.instances(&key).await.is_empty());
    engine.suspend_definition(&process, false, false).await;
    let query = [("processInstanceBusinessKey", key.as_str())];
    let instance = eventually("the order starting", LIMIT, async || {
        let instances = engine.history_instances(&query).await;
        let first = instances.first()?;
        Some(first["id"].as_str()?.to_owned())
    })
    .await;
    engine.wait_until_completed(&instance, LIMIT).await;
    let variables = engine.history_variables(&instance).await;
    for name in ["placedAt", "paidAt"] {
        assert_eq!(
            variables[name]["value"], "2024-03-01T00:00:00.000+0000",
            "{name}"
        );
    }
    assert_eq!(engine.history_instances(&query).await.len(), 1);
    daemon.stop().await;
}
