//! `sluice bench`: that every line is measured on real servers, and that nothing is left behind.
//!
//! Nothing here looks at how large a figure is.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use sqlx::PgPool;

use super::{Said, sluice};
use crate::rig::{Rig, eventually};

const LIMIT: Duration = Duration::from_mins(1);

/// Short, because only the way is tested.
const SHORT: [&str; 4] = ["--for", "200ms", "--messages", "2000"];

fn bench(arguments: &[&str]) -> Said {
    let all = [&["bench"], arguments, &SHORT].concat();
    sluice(Path::new("."), &all)
}

fn measured(said: &Said, line: &str, key: &str) -> f64 {
    let figure = &said.json()["lines"][line][key];
    let figure = figure.as_f64();
    figure.unwrap_or_else(|| panic!("{line}.{key}: {}{}", said.out, said.err))
}

async fn schemas(pool: &PgPool) -> Vec<String> {
    let names = "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'sluice\\_%'";
    sqlx::query_scalar(names).fetch_all(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bench_measures_the_inbox_and_leaves_nothing_behind() {
    let database = Rig::get().database().await;
    let said = bench(&["--database", &database.url(), "--only", "insert", "--json"]);
    assert_eq!(said.code, 0, "{}", said.err);
    for line in ["raw_insert", "accept"] {
        assert!(measured(&said, line, "per_second") > 0.0);
        assert!(measured(&said, line, "messages") > 0.0);
    }
    let report = said.json();
    let settings = &report["settings"];
    assert_eq!(settings["synchronous_commit"], "on");
    assert_eq!(settings["message_bytes"], 500);
    for key in ["server_version", "shared_buffers", "fsync", "cores", "seed"] {
        assert_ne!(settings[key], Value::Null, "{key}");
    }
    let target = &report["targets"]["accept_of_raw_insert"];
    assert_eq!(target["at_least"], 0.8);
    assert!(target["met"].is_boolean(), "{report}");
    assert_eq!(report["left_behind"].as_array().unwrap().len(), 0);
    name_of(&said);
    assert_eq!(schemas(&database.pool().await).await, Vec::<String>::new());
}

#[test]
fn a_bench_on_another_kind_of_database_is_refused() {
    let said = bench(&["--database", "sqlite:nowhere.db"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("expected postgres://"), "{}", said.err);
}

/// The random name of everything that a run makes.
fn name_of(said: &Said) -> String {
    let (_, rest) = said
        .err
        .split_once("schema ")
        .expect("it says what it makes");
    let name = rest.split_whitespace().next().expect("a name");
    assert!(name.starts_with("sluice_bench_"), "{}", said.err);
    name.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bench_measures_both_brokers_and_removes_queue_topic_and_group() {
    let rig = Rig::get();
    let database = rig.database().await;
    let said = bench(&[
        "--database",
        &database.url(),
        "--rabbitmq",
        rig.rabbitmq.uri(),
        "--kafka",
        rig.kafka.bootstrap(),
        "--only",
        "insert",
        "rabbitmq",
        "kafka",
        "memory",
        "idle",
        "--json",
    ]);
    assert_eq!(said.code, 0, "{}", said.err);
    for line in [
        "rabbitmq_consume",
        "rabbitmq_accept",
        "kafka_consume",
        "kafka_accept",
    ] {
        assert!(measured(&said, line, "per_second") > 0.0);
    }
    for line in ["memory_rabbitmq", "memory_kafka"] {
        let (peak, half) = (
            measured(&said, line, "peak_bytes"),
            measured(&said, line, "peak_of_first_half_bytes"),
        );
        assert!(peak >= half && half > 0.0, "{peak} {half}");
    }
    assert!(measured(&said, "idle", "statements_per_second") > 0.0);
    assert!(measured(&said, "idle", "round_trips_per_second") > 0.0);
    let report = said.json();
    for target in [
        "rabbitmq_of_both_halves",
        "kafka_of_both_halves",
        "memory_rabbitmq_mib",
        "memory_kafka_mib",
        "idle_cpu_percent",
        "idle_statements_per_second",
    ] {
        assert!(
            report["targets"][target]["met"].is_boolean(),
            "{target}: {report}"
        );
    }
    let name = name_of(&said);
    assert!(!rig.rabbitmq.has_queue(&name).await, "queue {name}");
    assert!(!rig.kafka.has_topic(&name).await, "topic {name}");
    assert_eq!(schemas(&database.pool().await).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bench_hands_over_to_the_engine_and_removes_its_process_with_every_row() {
    let rig = Rig::get();
    let (engine, second) = (rig.engine(), rig.second_engine());
    let said = bench(&[
        "--database",
        &rig.engine_database_url(),
        "--engine-schema",
        "public",
        "--engine-url",
        engine.rest(),
        "--engine-url",
        second.rest(),
        "--write-engine-rows",
        "--only",
        "start",
        "correlate",
        "rest",
        "single",
        "big-inbox",
        "--rows-done",
        "1000",
        "--rows-waiting",
        "400",
        "--json",
    ]);
    assert_eq!(said.code, 0, "{}", said.err);
    for line in [
        "raw_start",
        "accept_start",
        "raw_correlate",
        "accept_correlate",
        "rest_1",
        "rest_8",
        "rest_16",
        "completed_rows",
    ] {
        assert!(measured(&said, line, "per_second") > 0.0);
    }
    for line in ["single", "single_correlate"] {
        assert!(measured(&said, line, "p50_ms") <= measured(&said, line, "p99_ms"));
    }
    for line in ["big_inbox_wake", "big_inbox_confirm"] {
        assert!(measured(&said, line, "rows_per_round") > 0.0, "{line}");
    }
    let report = said.json();
    for target in [
        "accept_of_raw_start",
        "accept_of_raw_correlate",
        "hand_over_of_rest",
    ] {
        assert!(
            report["targets"][target]["met"].is_boolean(),
            "{target}: {report}"
        );
    }
    assert_eq!(report["targets"]["hand_over_of_rest"]["at_least"], 5.0);
    assert!(report["targets"]["completed_rows_of_rest"]["value"].is_f64());
    assert_eq!(
        report["left_behind"].as_array().unwrap().len(),
        0,
        "{report}"
    );
    nothing_of_it_is_left(&name_of(&said)).await;
}

async fn nothing_of_it_is_left(name: &str) {
    let pool = PgPool::connect(&Rig::get().engine_database_url())
        .await
        .unwrap();
    let schemas = schemas(&pool).await;
    assert!(!schemas.iter().any(|schema| schema == name), "{schemas:?}");
    // Wherever the engine keeps a definition's key or id, or a deployment's name.
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT table_name::text, column_name::text FROM information_schema.columns
          WHERE table_schema = 'public' AND table_name LIKE 'act\\_%'
            AND column_name IN ('proc_def_key_', 'process_def_key_', 'proc_def_id_', 'process_def_id_',
                                'key_', 'name_', 'event_name_')",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(columns.len() > 20, "{columns:?}");
    for (table, column) in columns {
        let text = format!("SELECT count(*) FROM public.{table} WHERE {column} LIKE $1 || '%'");
        let left: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(text))
            .bind(name)
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(left, 0, "{table}.{column}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bench_measures_a_big_inbox() {
    let database = Rig::get().database().await;
    let said = bench(&[
        "--database",
        &database.url(),
        "--only",
        "big-inbox",
        "--rows-done",
        "30000",
        "--rows-waiting",
        "5000",
        "--json",
    ]);
    assert_eq!(said.code, 0, "{}", said.err);
    for line in ["big_inbox_empty", "big_inbox_accept", "big_inbox_purge"] {
        assert!(measured(&said, line, "per_second") > 0.0);
    }
    for line in ["big_inbox_wake", "big_inbox_confirm", "big_inbox_purge"] {
        assert!(measured(&said, line, "round_p50_ms") <= measured(&said, line, "round_max_ms"));
        assert!(measured(&said, line, "rows_per_round") >= 0.0);
    }
    assert!(measured(&said, "big_inbox_size", "index_bytes") > 0.0);
    let report = said.json();
    assert!(
        report["targets"]["big_inbox_of_empty"]["met"].is_boolean(),
        "{report}"
    );
    assert!(
        report["targets"]["purge_of_accept"]["met"].is_boolean(),
        "{report}"
    );
}

#[test]
fn the_engines_tables_are_not_touched_without_leave() {
    let rig = Rig::get();
    let url = rig.engine_database_url();
    let (database, node) = (["--database", &url], rig.engine());
    let engine = ["--engine-schema", "public", "--engine-url", node.rest()];
    let named = [&database[..], &engine[..], &["--only", "correlate"]].concat();
    let said = bench(&named);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("--write-engine-rows"), "{}", said.err);
    assert!(!said.err.contains("makes"), "nothing is made: {}", said.err);

    let wild = [
        &database[..],
        &["--engine-schema", "a b", "--write-engine-rows"],
    ]
    .concat();
    let said = bench(&wild);
    assert_eq!(said.code, 2, "{}", said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bench_of_everything_says_what_it_could_not_measure() {
    let database = Rig::get().database().await;
    let arguments = ["--database", &database.url(), "--engine-schema", "public"];
    let said = bench(&arguments);
    assert_eq!(said.code, 0, "{}", said.err);
    for part in [
        "correlate: it writes rows",
        "rabbitmq: no broker",
        "big-inbox: it takes long",
    ] {
        let what = format!("not measured: {part}");
        assert!(said.out.contains(&what), "{what}: {}", said.out);
    }
    assert!(said.out.contains("raw insert"), "{}", said.out);
    assert!(said.out.contains("shared_buffers"), "{}", said.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_bench_leaves_nothing_behind() {
    let rig = Rig::get();
    let database = rig.database().await;
    let child = super::program(Path::new("."))
        .args(["bench", "--for", "1h", "--database", &database.url()])
        .args(["--rabbitmq", rig.rabbitmq.uri()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pool = database.pool().await;
    eventually("the first row", LIMIT, async || {
        let name = schemas(&pool).await.into_iter().next()?;
        let text = format!("SELECT EXISTS (SELECT FROM {name}.inbox)");
        let rows = sqlx::query_scalar(sqlx::AssertSqlSafe(text)).fetch_one(&pool);
        rows.await.ok().filter(|there: &bool| *there)
    })
    .await;
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output());
    let ended = ended.await.unwrap().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{told}");
    assert!(!told.contains("left behind"), "{told}");
    assert_eq!(schemas(&pool).await, Vec::<String>::new());
    let (_, rest) = told.split_once("queue ").expect("it says what it makes");
    let queue = rest.split_whitespace().next().unwrap();
    assert!(!rig.rabbitmq.has_queue(queue).await, "queue {queue}");
}
