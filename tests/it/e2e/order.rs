//! One order that needs all three brokers, whatever comes first.

use lapin::BasicProperties;
use serde_json::json;

use crate::daemon::{Config, Daemon, LIMIT};
use crate::rig::{Deployment, QueueKind, Rig};

/// Routes that carry an order from its start to its end: placed on Kafka, paid on a quorum queue,
/// shipped on a classic one.
fn routes(models: &Deployment) -> String {
    let (placed, paid, shipped) = (
        models.name("OrderPlaced"),
        models.name("Paid"),
        models.name("Shipped"),
    );
    format!(
        r#"
        [routes.placed]
        source = "orders"
        engine = "shop"
        dedup_key = "@coordinates"
        [routes.placed.start]
        message_name = "{placed}"
        business_key = "@key"
        variables = {{ customer = "$.customer", total = {{ from = "$.total", type = "double" }} }}

        [routes.paid]
        source = "payments"
        engine = "shop"
        dedup_key = "$.paymentId"
        [routes.paid.correlate]
        message_name = "{paid}"
        business_key = "$.orderId"
        variables = {{ amount = "$.amount", paidAt = {{ from = "$.paidAt", type = "date" }}, payment = {{ from = "$", type = "json" }} }}

        [routes.shipped]
        source = "parcels"
        engine = "shop"
        dedup_key = "@message_id"
        [routes.shipped.correlate]
        message_name = "{shipped}"
        business_key = "@correlation_id"
        variables = {{ carrier = "@header.carrier", express = "$.express" }}
        "#
    )
}

#[tokio::test]
async fn an_order_is_finished_by_three_brokers_whatever_comes_first() {
    let rig = Rig::get();
    let engine = rig.engine();
    let models = engine.deploy(&["message-start-then-receive"]).await;
    let schema = rig.schema();
    let orders = rig.topic(2).await;
    let payments = rig.queue(QueueKind::Quorum).await;
    let parcels = rig.queue(QueueKind::Classic).await;
    let config = Config::on(&schema)
        .kafka("orders", &orders, "")
        .rabbitmq("payments", &payments, "")
        .rabbitmq("parcels", &parcels, "")
        .camunda_tables("shop", "")
        .with(&routes(&models));
    let daemon = Daemon::start(&config, &[]).await;

    let key = models.name("order");
    let pay = json!({"paymentId": "p-1", "orderId": key, "amount": 9_007_199_254_740_993_i64, "paidAt": "2024-02-29T12:30:00Z"});
    payments
        .publish(pay.to_string().as_bytes(), BasicProperties::default())
        .await;
    let properties = BasicProperties::default()
        .with_message_id("parcel-1".into())
        .with_correlation_id(key.as_str().into())
        .with_headers(crate::rig::headers(&[("carrier", "Post \"Süd\" 🚚")]));
    parcels.publish(br#"{"express": true}"#, properties).await;
    // Both are early: nobody has heard of the order yet.
    let waiting = [("outcome", "waiting")];
    daemon
        .until_count("sluice_messages_total", &waiting, 2)
        .await;

    let place = json!({"customer": "Zoë", "total": 12});
    orders
        .produce(Some(&key), &[], place.to_string().as_bytes())
        .await;
    let query = [("processInstanceBusinessKey", key.as_str())];
    let instance = crate::rig::eventually("the order's instance appearing", LIMIT, async || {
        let instances = engine.history_instances(&query).await;
        instances
            .first()
            .map(|it| it["id"].as_str().unwrap().to_owned())
    })
    .await;
    engine.wait_until_completed(&instance, LIMIT).await;

    assert_eq!(engine.history_instances(&query).await.len(), 1);
    let variables = engine.history_variables(&instance).await;
    let is = |name: &str, kind: &str, value: serde_json::Value| {
        assert_eq!(variables[name]["type"], kind, "{name}");
        assert_eq!(variables[name]["value"], value, "{name}");
    };
    is("customer", "String", json!("Zoë"));
    is("total", "Double", json!(12.0));
    is("amount", "Long", json!(9_007_199_254_740_993_i64));
    is("paidAt", "Date", json!("2024-02-29T12:30:00.000+0000"));
    is("payment", "Json", json!(pay.to_string()));
    is("carrier", "String", json!("Post \"Süd\" 🚚"));
    is("express", "Boolean", json!(true));
    daemon.stop().await;
}
