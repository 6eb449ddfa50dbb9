//! The configuration file: what loads, and what is said about what does not.

use sluice::config::{Config, Report};

/// A configuration without a mistake, to be spoiled by a test.
const GOOD: &str = r#"
[inbox]
url = "${DATABASE_URL}"

[sources.payments.rabbitmq]
uris = ["${AMQP_URI:-amqp://localhost}"]
queue = "payments"

[engines.shop.camunda_tables]

[routes.second]
source = "payments"
engine = "shop"
when = { header = "type", equals = "PaymentReceived" }
dedup_key = "$.paymentId"

[routes.second.correlate]
message_name = "PaymentReceived"
business_key = "$.orderId"
variables = { amount = "$.amount", paidAt = { from = "$.paidAt", type = "date" } }
ttl = "1h"

[routes.first]
source = "payments"
engine = "shop"
"#;

fn environment(name: &str) -> Option<String> {
    match name {
        "DATABASE_URL" => Some("postgres://sluice:hunter2@db/sluice".to_owned()),
        _ => None,
    }
}

fn load(text: &str) -> Result<(Config, Report), Report> {
    Config::parse("sluice.toml", text, &environment)
}

#[test]
fn a_file_without_mistakes_loads_and_its_routes_keep_their_order() {
    let (config, _) = load(GOOD).unwrap_or_else(|report| panic!("{report}"));
    let routes: Vec<_> = config
        .routes
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(routes, ["second", "first"]);
}

#[test]
fn a_secret_is_never_printed() {
    let (config, _) = load(GOOD).unwrap_or_else(|report| panic!("{report}"));
    assert!(!format!("{config:?}").contains("hunter2"));
}
