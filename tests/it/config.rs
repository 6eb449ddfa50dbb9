//! The configuration file: what loads, and what is said about what does not.

mod examples;
mod mistakes;

use secrecy::ExposeSecret;
use sluice::config::{Config, Look, Report};
use sluice::route::VariableConfig;

/// A configuration without a mistake, to be spoiled by a test.
const GOOD: &str = r#"
[inbox]
url = "${DATABASE_URL}"

[sources.payments.rabbitmq]
uris = ["${AMQP_URI:-amqp://localhost}"]
queue = "payments"

[sources.orders.kafka]
bootstrap_servers = "localhost:9092"
topics = ["orders"]
group_id = "sluice"

[engines.shop.camunda_tables]

[routes.paid]
source = "payments"
engine = "shop"
when = { header = "type", equals = "PaymentReceived" }
dedup_key = "$.paymentId"

[routes.paid.correlate]
message_name = "PaymentReceived"
business_key = "$.orderId"
variables = { amount = "$.amount", paidAt = { from = "$.paidAt", type = "date" } }
ttl = "1h"

[routes.all]
source = "payments"
engine = "shop"

[routes.order]
source = "orders"
engine = "shop"
"#;

fn environment(name: &str) -> Option<String> {
    match name {
        "DATABASE_URL" => Some("postgres://sluice:hunter2@db/sluice".to_owned()),
        "PREFETCH" => Some("17".to_owned()),
        "WORD" => Some("hunter2".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn load(text: &str) -> Result<(Config, Report), Report> {
    Config::parse("sluice.toml", text, &environment)
}

fn good(text: &str) -> (Config, Report) {
    load(text).unwrap_or_else(|report| panic!("{}", report.render(Look::Plain)))
}

/// The good configuration with some of its text replaced.
fn spoiled(replacements: &[(&str, &str)]) -> String {
    let mut text = GOOD.to_owned();
    for (from, to) in replacements {
        assert!(text.contains(from), "{from:?} is not in the text");
        text = text.replace(from, to);
    }
    text
}

#[test]
fn a_file_without_mistakes_loads_and_its_routes_keep_their_order() {
    let (config, report) = good(GOOD);
    let routes: Vec<_> = config
        .routes
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(routes, ["paid", "all", "order"]);
    assert!(report.is_empty(), "{report}");
}

#[test]
fn a_secret_is_never_printed() {
    let (config, _) = good(GOOD);
    assert!(config.inbox.url.expose_secret().contains("hunter2"));
    assert!(!format!("{config:?}").contains("hunter2"));
    let shown = [
        // In the file, and from the environment, each in a line that is shown or a value that is quoted.
        spoiled(&[(
            "amqp://localhost}\"]",
            "amqp://localhost}\", \"amqps://u:hunter2@host:x\"]",
        )]),
        spoiled(&[(
            "group_id = \"sluice\"",
            "group_id = \"sluice\"\nsasl = { mechanism = \"PLAN\", username = \"u\", password = \"hunter2\" }",
        )]),
        spoiled(&[(
            "group_id = \"sluice\"",
            "group_id = \"sluice\"\nsasl = { mechanism = \"${WORD}\", pasword = 'hunter2' }",
        )]),
        spoiled(&[("\"1h\"", "\"${WORD}\"")]),
        spoiled(&[("\"${DATABASE_URL}\"", "\"mysql://root:hunter2@db/x\"")]),
        spoiled(&[("\"${DATABASE_URL}\"", "\"postgres://root:hunter2@db/x")]),
    ];
    for text in shown {
        let report = load(&text).unwrap_err();
        for text in [
            report.to_string(),
            report.render(Look::Plain),
            report.render(Look::Graphical),
            format!("{report:?}"),
        ] {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}

#[test]
fn values_come_from_the_environment_with_the_type_that_is_wanted() {
    let (config, _) = good(&spoiled(&[(
        "queue = \"payments\"",
        "queue = \"${EMPTY:-payments}\"\nprefetch_count = \"${PREFETCH}\"\nconsumer_tag = \"a-$${x}-${EMPTY}\"",
    )]));
    let rabbitmq = config.sources["payments"].rabbitmq.as_ref().unwrap();
    assert_eq!(rabbitmq.queue, "payments");
    assert_eq!(rabbitmq.prefetch_count.get(), 17);
    assert_eq!(rabbitmq.consumer_tag, "a-${x}-");
    assert_eq!(rabbitmq.uris[0].expose_secret(), "amqp://localhost");
}

#[test]
fn an_escaped_variable_is_its_own_characters_in_every_kind_of_value() {
    let (config, _) = good(&spoiled(&[
        (
            "[engines.shop",
            "[engines.notes.sql]\napply = \"INSERT INTO x VALUES ('$${a}', $$${b}$$)\"\n[engines.shop",
        ),
        ("queue = \"payments\"", "queue = \"$${q}\""),
        (
            "variables = { amount = \"$.amount\"",
            "variables = { once = \"$${WORD}\", twice = \"$$${WORD}\", path = \"$.a\", amount = \"$.amount\"",
        ),
    ]));
    let rabbitmq = config.sources["payments"].rabbitmq.as_ref().unwrap();
    assert_eq!(rabbitmq.queue, "${q}");
    let sql = config.engines["notes"].sql.as_ref().unwrap();
    assert_eq!(sql.apply, "INSERT INTO x VALUES ('${a}', $${b}$$)");
    let variables = &config.routes[0].1.correlate.as_ref().unwrap().variables;
    let of = |name: &str| match &variables[name] {
        VariableConfig::Plain(expression) => expression.to_string(),
        VariableConfig::Typed(_) => panic!("{name} has no type"),
    };
    assert_eq!(of("once"), "the literal \"${WORD}\"");
    assert_eq!(of("twice"), "the literal \"${WORD}\"");
    assert_eq!(of("path"), "$.a");
}

#[test]
fn a_secret_may_stand_in_a_file_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    std::fs::write(&file, "postgres://from:file@db/x\n").unwrap();
    let (config, _) = good(&spoiled(&[(
        "url = \"${DATABASE_URL}\"",
        &format!("url_file = {file:?}"),
    )]));
    assert_eq!(
        config.inbox.url.expose_secret(),
        "postgres://from:file@db/x"
    );
    std::fs::write(&file, "amqp://one\namqp://two\n").unwrap();
    let (config, _) = good(&spoiled(&[(
        "uris = [\"${AMQP_URI:-amqp://localhost}\"]",
        &format!("uris_file = {file:?}"),
    )]));
    let rabbitmq = config.sources["payments"].rabbitmq.as_ref().unwrap();
    let uris: Vec<_> = rabbitmq
        .uris
        .iter()
        .map(ExposeSecret::expose_secret)
        .collect();
    assert_eq!(uris, ["amqp://one", "amqp://two"]);
}
