//! Dashboard, alert rules and metrics fit each other: what they name is exported, and answers.

mod prometheus;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use sluice::message::WaitReason;
use sluice::metrics::{self, DuplicateCause, InboxGauges, InboxRows, MessageOutcome, Sweep};

use crate::daemon::LIMIT;
use crate::http::{Node, Served, small_plan};
use crate::rig::eventually;
use prometheus::Prometheus;

fn file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "dashboards", name]
        .iter()
        .collect()
}

fn read(name: &str) -> String {
    let path = file(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn dashboard() -> Value {
    serde_json::from_str(&read("grafana/sluice.json")).unwrap()
}

/// One call of every function that records something, as a busy node makes them.
fn record_everything() {
    metrics::source_connected("payments", true);
    metrics::source_reconnected("payments");
    metrics::ack_failed("payments");
    metrics::kafka_lag("payments", "payments", 0, Some(12));
    metrics::kafka_offset_below_low_watermark("payments", "payments");
    metrics::kafka_partition_met("payments", "payments");
    metrics::kafka_skipped_to_end("payments", "payments");
    metrics::kafka_reread("payments", "payments", 3);
    metrics::kafka_topic_recreated("payments", "payments");
    metrics::database_behind("payments");
    metrics::delivered("payments", false, 1);
    metrics::delivered("payments", true, 1);
    let route = Some("payment-received");
    for outcome in MessageOutcome::ALL {
        metrics::messages(route, outcome, 1);
    }
    for cause in DuplicateCause::ALL {
        metrics::duplicate(route, cause);
    }
    metrics::conflict(route);
    metrics::waiting("payment-received", WaitReason::Busy.as_str());
    metrics::accepted("payments", 12, Duration::from_millis(4));
    metrics::committed("payments", Duration::from_millis(7), 1);
    metrics::confirmed("shop", Duration::from_millis(700));
    metrics::engine_up("shop", true);
    metrics::engine_backlog("shop", 120, 1);
    for sweep in Sweep::ALL {
        metrics::recovered(sweep, Some(Duration::from_millis(300)));
    }
    metrics::stale_changes(1);
    for class in metrics::DB_ERROR_CLASSES {
        metrics::db_error(class);
    }
    metrics::db_pool(3, 5);
    metrics::nodes(2, 1);
    metrics::purged(10, 2);
    let kinds = [
        ("waiting", "no_subscription"),
        ("waiting", "unknown_message"),
        ("waiting", "backlog"),
        ("handed", ""),
        ("done", ""),
        ("dead", "conflict"),
    ];
    InboxGauges::default().show(kinds.map(|(state, reason)| InboxRows {
        route,
        state,
        reason,
        rows: 3,
        oldest_age_seconds: 4.5,
    }));
}

async fn recorded() -> Served {
    let served = Served::with(small_plan()).await;
    served.record(record_everything);
    served
}

async fn scraped(served: &Served) -> String {
    let response = reqwest::get(served.url("/metrics")).await.unwrap();
    response.text().await.unwrap()
}

/// Every query of the dashboard's panels, with the variables as they are when all is chosen.
fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    targets
        .flatten()
        .map(|target| {
            let query = target["expr"].as_str().unwrap();
            let chosen = query.replace("$__rate_interval", "10s");
            ["$job", "$instance", "$route", "$source"]
                .iter()
                .fold(chosen, |query, variable| query.replace(variable, ".+"))
        })
        .collect()
}

/// The names of metrics in a text, as they are declared: without what a histogram adds.
fn names(text: &str) -> BTreeSet<String> {
    let word = |char: char| char.is_ascii_alphanumeric() || char == '_';
    text.split(|char| !word(char))
        .filter(|name| name.starts_with("sluice_") || name.starts_with("process_"))
        .map(|name| {
            let suffixes = ["_bucket", "_sum", "_count"];
            let bare = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
            bare.unwrap_or(name).to_owned()
        })
        .collect()
}

fn declared(exposition: &str) -> BTreeSet<String> {
    let types = exposition
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

fn promtool(arguments: &[&str], input: Option<&str>) -> Output {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(file("prometheus"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .expect("promtool (package prometheus) starts");
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, input.unwrap_or_default().as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn assert_success(output: &Output) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && !text.contains("lint"), "{text}");
}

#[test]
fn the_alert_rules_fire_as_their_own_tests_say() {
    assert_success(&promtool(&["check", "rules", "alerts.yml"], None));
    assert_success(&promtool(&["test", "rules", "alerts_test.yml"], None));
    assert_success(&promtool(&["check", "config", "scrape.yml"], None));
}

#[test]
fn every_alert_has_a_test() {
    let tests = read("prometheus/alerts_test.yml");
    for line in read("prometheus/alerts.yml").lines() {
        if let Some((_, alert)) = line.split_once("- alert: ") {
            assert!(tests.contains(alert), "no test names {alert}");
        }
    }
}

#[tokio::test]
async fn what_is_exported_is_clean_and_has_help() {
    let text = scraped(&recorded().await).await;
    let output = promtool(&["check", "metrics"], Some(&text));
    assert_success(&output);
    assert!(
        output.stderr.is_empty() && output.stdout.is_empty(),
        "{output:?}"
    );
}

#[tokio::test]
async fn every_metric_that_dashboard_and_alerts_name_is_exported() {
    let exported = declared(&scraped(&recorded().await).await);
    let named = names(&(read("prometheus/alerts.yml") + &queries().join("\n")));
    let missing: Vec<_> = named.difference(&exported).collect();
    assert!(missing.is_empty(), "{missing:?} are in no {exported:?}");
    assert!(named.len() > 20, "{named:?}");
}

#[tokio::test]
async fn every_metric_that_dashboard_and_alerts_name_is_exported_by_a_running_daemon() {
    let node = Node::start().await;
    node.order("order", 2).await;
    node.publish(b"not JSON").await;
    let named = names(&(read("prometheus/alerts.yml") + &queries().join("\n")));
    let mut missing = named.clone();
    eventually(
        &format!("each of {named:?} being exported"),
        LIMIT,
        async || {
            let (_, text) = node.daemon.get("/metrics").await?;
            let exported = declared(&text);
            missing.retain(|name| !exported.contains(name));
            missing.is_empty().then_some(())
        },
    )
    .await;
}

#[tokio::test]
async fn every_metric_of_ours_is_on_the_dashboard() {
    let exported = declared(&scraped(&recorded().await).await);
    let shown = names(&queries().join("\n"));
    let ours = exported.iter().filter(|name| name.starts_with("sluice_"));
    let hidden: Vec<_> = ours.filter(|name| !shown.contains(*name)).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[tokio::test]
async fn what_is_announced_before_anything_happened_has_the_names_of_what_comes() {
    let announced = declared(&scraped(&Served::with(small_plan()).await).await);
    let recorded = declared(&scraped(&recorded().await).await);
    let late: Vec<_> = recorded
        .difference(&announced)
        .map(String::as_str)
        .collect();
    // Topics are known when Kafka assigns them, kinds of rows when the database counted them.
    let known_later = [
        "sluice_inbox_oldest_age_seconds",
        "sluice_inbox_rows",
        "sluice_kafka_lag",
        "sluice_kafka_offset_below_low_watermark_total",
        "sluice_kafka_partitions_met_total",
        "sluice_kafka_reread_total",
        "sluice_kafka_skipped_to_end_total",
        "sluice_kafka_topic_recreated_total",
    ];
    assert_eq!(late, known_later);
}

#[tokio::test]
async fn every_query_and_every_rule_answers_on_a_real_scrape() {
    let served = recorded().await;
    let prometheus = Prometheus::scraping(&served.url(""), &file("prometheus/alerts.yml")).await;
    let alerts = read("prometheus/alerts.yml");
    let mut open: BTreeSet<String> = queries().into_iter().chain(selectors(&alerts)).collect();
    assert!(open.len() > 60, "{open:#?}");
    for _ in 0..150 {
        served.record(record_everything);
        let mut silent = BTreeSet::new();
        for query in open {
            if !prometheus.answers(&query).await {
                silent.insert(query);
            }
        }
        open = silent;
        if open.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(open.is_empty(), "no answer to {open:#?}");
    prometheus.every_rule_is_healthy().await;
}

/// The selectors of the rules' expressions: metric and labels, without comparison.
fn selectors(rules: &str) -> BTreeSet<String> {
    let expressions = rules
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let text = expressions.collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for name in names(&text) {
        for (at, _) in text.match_indices(&name) {
            let from_name = &text[at..];
            let end = from_name.find(|char: char| !char.is_ascii_alphanumeric() && char != '_');
            let (whole, rest) = from_name.split_at(end.unwrap_or(from_name.len()));
            let labels = rest.find('}').filter(|_| rest.starts_with('{'));
            // In prose a metric is only named.
            if labels.is_some() || rest.starts_with(['[', ')', ' ']) {
                found.insert(format!(
                    "{whole}{}",
                    &rest[..labels.map_or(0, |end| end + 1)]
                ));
            }
        }
    }
    found
}

#[test]
fn the_dashboard_has_the_fields_that_grafana_asks_for() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "sluice");
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 39);
    assert!(
        dashboard["id"].is_null(),
        "an id belongs to one Grafana alone"
    );
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variables: Vec<_> = variables.iter().map(|variable| &variable["name"]).collect();
    assert_eq!(
        variables,
        ["datasource", "job", "instance", "route", "source"]
    );

    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        assert!(
            ids.insert(panel["id"].as_u64().expect("an id")),
            "{title}: the id is taken"
        );
        let at = |field: &str| panel["gridPos"][field].as_u64().expect("a place");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(
                    x < 24 && taken.insert((x, y)),
                    "{title} overlaps at {x}, {y}"
                );
            }
        }
        if panel["type"] != "row" {
            panel_is_complete(title, panel);
        }
    }
    assert!(
        panels.iter().any(|panel| panel["repeat"] == "route"),
        "a part per route"
    );
}

fn panel_is_complete(title: &str, panel: &Value) {
    let source = |of: &Value| {
        assert_eq!(of["datasource"]["uid"], "${datasource}", "{title}");
        assert_eq!(of["datasource"]["type"], "prometheus", "{title}");
    };
    source(panel);
    assert!(
        !panel["description"].as_str().unwrap().is_empty(),
        "{title}: no description"
    );
    let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap();
    let units = ["short", "ops", "s", "percentunit", "bytes"];
    assert!(units.contains(&unit), "{title}: unit {unit}");
    assert!(panel["options"].is_object(), "{title}: no options");
    let targets = panel["targets"].as_array().unwrap();
    let references: BTreeSet<_> = targets
        .iter()
        .map(|target| target["refId"].as_str())
        .collect();
    assert_eq!(references.len(), targets.len(), "{title}: a refId twice");
    targets.iter().for_each(source);
}
