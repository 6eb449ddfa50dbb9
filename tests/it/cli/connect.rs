//! `sluice check --connect`: what is said about servers, engines and routes.

use serde_json::Value;

use super::Folder;
use crate::daemon::Config;
use crate::rig::{Deployment, QueueKind, Rig};

#[tokio::test(flavor = "multi_thread")]
async fn check_opens_everything_and_says_what_is_there() {
    let rig = Rig::get();
    let schema = rig.schema();
    let queue = rig.queue(QueueKind::Quorum).await;
    let topic = rig.topic(2).await;
    let config = Config::on(&schema)
        .rabbitmq("payments", &queue, "")
        .kafka("orders", &topic, "")
        .camunda_tables("shop", "")
        .with("[routes.paid]\nsource = \"payments\"\nengine = \"shop\"")
        .with("[routes.order]\nsource = \"orders\"\nengine = \"shop\"");
    let folder = Folder::with(&config.text());
    let check = ["check", "--connect"];

    let early = folder.sluice(&check);
    assert_eq!(early.code, 1, "{}{}", early.out, early.err);
    assert!(
        early
            .out
            .contains("x Sluice's tables are missing: run `sluice migrate`"),
        "{}",
        early.out
    );

    let migrated = folder.sluice(&["migrate"]);
    assert_eq!(migrated.code, 0, "{}", migrated.err);
    let again = folder.sluice(&["migrate"]);
    assert_eq!(again.out, "nothing to do: the tables are up to date\n");

    let said = folder.sluice(&check);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    for part in [
        "inbox\n",
        "engine shop\n",
        "source payments\n",
        "source orders\n",
        "memory: ",
        "ready to run",
    ] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    let found = folder.sluice(&["check", "--connect", "--json"]).json();
    assert_eq!(found["ok"], true);
    assert_eq!(found["parts"].as_array().unwrap().len(), 6);
    assert!(found["memory"]["total_bytes"].as_u64().unwrap() > 1024 * 1024);

    let missing = config.text().replace(queue.name(), "no_such_queue");
    let said = Folder::with(&missing).sluice(&check);
    assert_eq!(said.code, 1, "{}", said.out);
    assert!(said.out.contains("no_such_queue"), "{}", said.out);
    assert!(said.out.contains("not ready"), "{}", said.out);
}

/// Level and text of what is said about a part.
fn about(found: &Value, part: &str) -> Vec<(String, String)> {
    let parts = found["parts"].as_array().unwrap();
    let part = parts.iter().find(|found| found["name"] == part);
    let findings = part.map_or(&[][..], |part| part["findings"].as_array().unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    findings
        .iter()
        .map(|finding| (text(&finding["level"]), text(&finding["text"])))
        .collect()
}

/// A route that correlates; `lines` belong to its action.
fn correlates(name: &str, message: &str, lines: &str) -> String {
    format!(
        "[routes.{name}]\nsource = \"payments\"\nengine = \"shop\"\ndedup_key = \"$.id\"\n\
         when = {{ header = \"route\", equals = \"{name}\" }}\n\
         [routes.{name}.correlate]\nmessage_name = \"{message}\"\nbusiness_key = \"$.order\"\n{lines}\n"
    )
}

fn starts(name: &str, by: &str) -> String {
    format!(
        "[routes.{name}]\nsource = \"payments\"\nengine = \"shop\"\ndedup_key = \"$.id\"\n\
         when = {{ header = \"route\", equals = \"{name}\" }}\n\
         [routes.{name}.start]\n{by}\nbusiness_key = \"$.order\"\n"
    )
}

/// One route for each thing that can be said of one.
fn every_route(config: Config, of: &Models) -> Config {
    let payload = "variables = { amount = \"$.amount\" }";
    let placed = of.start.name("OrderPlaced");
    let by_key = |key: &str| format!("process_definition_key = \"{key}\"");
    let by_message = |name: &str| format!("message_name = \"{name}\"");
    config
        .with(&correlates("one", &of.one.name("Paid"), payload))
        .with(&correlates("several", &of.several.name("Paid"), payload))
        .with(&correlates("chosen", &of.several.name("Paid"), ""))
        .with(&correlates(
            "all",
            &of.several.name("Paid"),
            "broadcast = true",
        ))
        .with(&correlates("nobody", "NobodyKnowsIt", ""))
        .with(&correlates("any", "$.type", ""))
        .with(&correlates("starts-only", &placed, ""))
        .with(&correlates("or-start", &placed, "on_no_match = \"start\""))
        .with(&starts("by-message", &by_message(&placed)))
        .with(&starts("by-key", &by_key(&of.plain.name("none-start"))))
        .with(&starts(
            "unheard",
            &by_message(&of.refused.name("OrderPlaced")),
        ))
        .with(&starts("no-key", &by_key("nobody")))
}

/// Of each route: how much it matters, and parts of what is said.
const EXPECTED: &[(&str, &str, &[&str])] = &[
    (
        "one",
        "info",
        &["(version 1)", "(C)", "proven by a receipt"],
    ),
    (
        "several",
        "warning",
        &["`unsupported`", "both wait for message"],
    ),
    ("chosen", "info", &["(B)", "proven by the job's log"]),
    ("all", "info", &["broadcast"]),
    (
        "nobody",
        "warning",
        &["no deployed model", "`unknown_message`"],
    ),
    ("any", "info", &["comes with each delivery"]),
    (
        "starts-only",
        "warning",
        &["no instance waits for it", "`no_subscription`"],
    ),
    ("or-start", "info", &["is started at", "instance itself"]),
    ("by-message", "info", &["message-start", "is started at"]),
    ("by-key", "info", &["none-start", "is started at"]),
    (
        "unheard",
        "error",
        &["dead as `refused`", "listens from the start"],
    ),
    (
        "no-key",
        "warning",
        &["no definition has the key \"nobody\""],
    ),
];

/// Each deployed by itself, with message names of its own.
struct Models {
    one: Deployment,
    several: Deployment,
    plain: Deployment,
    start: Deployment,
    refused: Deployment,
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_of_every_route_what_will_become_of_its_messages() {
    let rig = Rig::get();
    let engine = rig.engine();
    let models = Models {
        one: engine.deploy(&["receive-task"]).await,
        several: engine.deploy(&["fork-same-name"]).await,
        plain: engine.deploy(&["none-start"]).await,
        start: engine.deploy(&["message-start"]).await,
        refused: engine.deploy(&["message-start-event-subprocess"]).await,
    };
    let schema = rig.schema();
    let queue = rig.queue(QueueKind::Classic).await;
    let config = Config::on(&schema)
        .rabbitmq("payments", &queue, "")
        .camunda_tables("shop", "");
    let folder = Folder::with(&every_route(config, &models).text());
    let migrated = folder.sluice(&["migrate"]);
    assert_eq!(migrated.code, 0, "{}", migrated.err);
    let said = folder.sluice(&["check", "--connect", "--json"]);
    let found = said.json();
    for &(route, level, parts) in EXPECTED {
        let said = about(&found, &format!("route {route}"));
        assert_eq!(said.len(), 1, "{route}: {said:?}");
        assert_eq!(said[0].0, level, "{route}: {said:?}");
        for part in parts {
            assert!(said[0].1.contains(part), "{route}, {part}: {said:?}");
        }
    }
    assert_eq!((said.code, &found["ok"]), (1, &false.into()));
    let engine = about(&found, "engine shop");
    assert!(
        engine[0]
            .1
            .starts_with("Operaton, columns of Camunda 7.23 or later"),
        "{engine:?}"
    );
    let standby = about(&found, "inbox");
    let standby = standby
        .iter()
        .find(|(_, text)| text.contains("synchronous standby"));
    assert_eq!(standby.unwrap().0, "warning");
}
