//! A real daemon between real servers, with something of everything that can be seen.

use lapin::BasicProperties;
use serde_json::json;

use crate::daemon::{Config, Daemon};
use crate::rig::{Deployment, Queue, QueueKind, Rig, Schema, Topic};

/// Everything that must live as long as the daemon.
pub struct Node {
    pub daemon: Daemon,
    queue: Queue,
    topic: Topic,
    models: Deployment,
    _schema: Schema,
}

impl Node {
    /// Payments come by RabbitMQ, for instances that orders on Kafka start.
    pub async fn start() -> Self {
        let rig = Rig::get();
        let models = rig.engine().deploy(&["message-start-then-receive"]).await;
        let schema = rig.schema();
        let queue = rig.queue(QueueKind::Quorum).await;
        let topic = rig.topic(2).await;
        let routes = format!(
            "[routes.order-placed]\nsource = \"orders\"\nengine = \"shop\"\ndedup_key = \"@coordinates\"\n\
             [routes.order-placed.start]\nmessage_name = \"{}\"\nbusiness_key = \"@key\"\n\
             [routes.payment-received]\nsource = \"payments\"\nengine = \"shop\"\ndedup_key = \"$.paymentId\"\n\
             [routes.payment-received.correlate]\nmessage_name = \"{}\"\nbusiness_key = \"$.orderId\"\n",
            models.name("OrderPlaced"),
            models.name("Paid"),
        );
        let config = Config::on(&schema)
            .kafka("orders", &topic, "")
            .rabbitmq("payments", &queue, "")
            .camunda_tables("shop", "")
            .with(&routes);
        let daemon = Daemon::start(&config, &[]).await;
        Self {
            daemon,
            queue,
            topic,
            models,
            _schema: schema,
        }
    }

    /// An order, and `payments` payments of it; only the first finds somebody who waits.
    pub async fn order(&self, order: &str, payments: usize) {
        let key = self.models.name(order);
        self.topic.produce(Some(&key), &[], b"{}").await;
        for n in 0..payments {
            let payment = json!({ "paymentId": format!("{key} {n}"), "orderId": key });
            self.publish(payment.to_string().as_bytes()).await;
        }
    }

    /// Exactly these bytes, as if they were a payment.
    pub async fn publish(&self, payload: &[u8]) {
        let properties = BasicProperties::default();
        self.queue.publish(payload, properties).await;
    }
}
