//! A database that knows less than it had acknowledged, and a group that is not where it was: every record has one
//! effect, whatever the group's own offsets say.
//!
//! The effect is a row of the user's own table, which has no unique key.

mod recreated;

use std::path::PathBuf;
use std::process::Command;

use sqlx::PgPool;

use crate::daemon::{Config, Daemon, LIMIT};
use crate::rig::{Database, Rig, Server, Topic, eventually};

const LEDGER: &str = "CREATE TABLE ledger (id text); CREATE SCHEMA sluice;";

const ROUTE: &str = r#"
    [engines.ledger.sql]
    apply = "INSERT INTO public.ledger VALUES (:dedup_key)"
    [routes.order]
    source = "orders"
    engine = "ledger"
    dedup_key = "$.id"
    [routes.order.apply]
"#;

fn config(database: &Database, topic: &Topic) -> Config {
    Config::at(&database.url(), "sluice")
        .kafka("orders", topic, "")
        .with(ROUTE)
        .granting("INSERT ON public.ledger")
}

async fn ledger(database: &Database) {
    let pool = database.pool().await;
    sqlx::raw_sql(LEDGER).execute(&pool).await.unwrap();
    pool.close().await;
}

fn ids(of: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("{of}-{n:03}")).collect()
}

fn payload(id: &str) -> Vec<u8> {
    format!("{{\"id\":\"{id}\"}}").into_bytes()
}

async fn produce(topic: &Topic, ids: &[String]) {
    let records = ids.iter().map(|id| (id.clone(), payload(id)));
    topic.produce_all(&records.collect::<Vec<_>>()).await;
}

/// The effects; the database may be on its way back.
async fn effects(database: &Database) -> Option<Vec<String>> {
    let pool = PgPool::connect(&database.url()).await.ok()?;
    let ids = sqlx::query_scalar("SELECT id FROM ledger ORDER BY id")
        .fetch_all(&pool)
        .await;
    pool.close().await;
    ids.ok()
}

/// Waits until every one of these has an effect, and says when one had more.
async fn each_has_one_effect(database: &Database, ids: &[String]) {
    let expected = sorted(ids);
    let found = eventually("every record having its effect", 2 * LIMIT, async || {
        let found = effects(database).await?;
        expected
            .iter()
            .all(|id| found.contains(id))
            .then_some(found)
    })
    .await;
    assert_eq!(found, expected);
}

fn sorted(ids: &[String]) -> Vec<String> {
    let mut ids = ids.to_vec();
    ids.sort();
    ids
}

/// Next offset by partition, as `sluice positions list` says it.
async fn positions(daemon: &Daemon) -> Vec<i64> {
    let said = daemon.command(&["positions", "list", "--json"]).await;
    let said: Vec<serde_json::Value> = serde_json::from_str(&said).unwrap();
    said.iter()
        .map(|at| at["next_offset"].as_i64().unwrap())
        .collect()
}

/// A database of its own, and an older copy of it that may take its place.
struct Failing {
    server: Server,
    database: Database,
}

impl Failing {
    async fn fresh() -> Self {
        let server = Server::postgres(&[]).await;
        let database = server.as_postgres().database().await;
        ledger(&database).await;
        Self { server, database }
    }

    fn data(&self) -> PathBuf {
        self.server.folder().join("data")
    }

    fn copy(&self) -> PathBuf {
        self.server.folder().join("copy")
    }

    /// What the standby has, or the backup.
    async fn keep_copy(&self) {
        self.server.stop().await;
        run(
            "cp",
            &[
                "-a",
                self.data().to_str().unwrap(),
                self.copy().to_str().unwrap(),
            ],
        );
        self.server.start().await;
    }

    /// Dies, and the copy takes its place at the same address.
    async fn fail_over(&self, meanwhile: impl AsyncFnOnce()) {
        self.server.kill().await;
        run("rm", &["-r", self.data().to_str().unwrap()]);
        run(
            "mv",
            &[self.copy().to_str().unwrap(), self.data().to_str().unwrap()],
        );
        meanwhile().await;
        self.server.start().await;
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

#[tokio::test]
async fn what_a_failover_lost_is_read_again_though_nothing_new_comes() {
    let topic = Rig::get().topic(2).await;
    let failing = Failing::fresh().await;
    let daemon = Daemon::start(&config(&failing.database, &topic), &[]).await;
    let kept = ids("kept", 0..20);
    produce(&topic, &kept).await;
    topic.wait_until_committed(topic.name(), LIMIT).await;
    failing.keep_copy().await;
    let lost = ids("lost", 0..30);
    produce(&topic, &lost).await;
    topic.wait_until_committed(topic.name(), LIMIT).await;

    failing.fail_over(async || {}).await;
    each_has_one_effect(&failing.database, &[kept, lost].concat()).await;
    assert!(
        daemon
            .count("sluice_database_behind_total", &[("source", "orders")])
            .await
            >= 1
    );
    let reread = daemon
        .count("sluice_kafka_reread_total", &[("source", "orders")])
        .await;
    assert!(
        reread >= 30,
        "an assignment that ended early counts again: {reread}"
    );
    let problems = daemon.status().await["problems"].to_string();
    assert!(
        problems.contains("the database has lost commits"),
        "{problems}"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn a_batch_after_a_failover_is_not_acknowledged_before_what_was_lost() {
    let topic = Rig::get().topic(1).await;
    let failing = Failing::fresh().await;
    let config = config(&failing.database, &topic);
    let (daemon, other) = (
        Daemon::start(&config, &[]).await,
        Daemon::start(&config, &[]).await,
    );
    let kept = ids("kept", 0..20);
    produce(&topic, &kept).await;
    topic.wait_until_committed(topic.name(), LIMIT).await;
    failing.keep_copy().await;
    let lost = ids("lost", 0..30);
    produce(&topic, &lost).await;
    topic.wait_until_committed(topic.name(), LIMIT).await;

    // The first batch that the older database sees is not one that it lost.
    let new = ids("new", 0..10);
    failing
        .fail_over(async || produce(&topic, &new).await)
        .await;
    each_has_one_effect(&failing.database, &[kept, lost, new].concat()).await;
    topic.wait_until_committed(topic.name(), LIMIT).await;
    assert_eq!(positions(&daemon).await, [60]);
    daemon.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn what_a_restored_backup_lacks_is_read_again() {
    let topic = Rig::get().topic(1).await;
    let failing = Failing::fresh().await;
    let mut daemon = Daemon::start(&config(&failing.database, &topic), &[]).await;
    let kept = ids("kept", 0..20);
    produce(&topic, &kept).await;
    topic.wait_until_committed(topic.name(), LIMIT).await;
    failing.keep_copy().await;
    let lost = ids("lost", 0..30);
    produce(&topic, &lost).await;
    topic.wait_until_committed(topic.name(), LIMIT).await;
    daemon.stop().await;

    failing.fail_over(async || {}).await;
    daemon.restart(&[]).await;
    each_has_one_effect(&failing.database, &[kept, lost].concat()).await;
    let reread = daemon
        .count("sluice_kafka_reread_total", &[("source", "orders")])
        .await;
    assert!(
        reread >= 30,
        "an assignment that ended early counts again: {reread}"
    );
    assert_eq!(
        daemon.count("sluice_database_behind_total", &[]).await,
        0,
        "it was not there"
    );
    daemon.stop().await;
}

/// The copy was made before Sluice had read anything: it does not even know that there was a position.
#[tokio::test]
async fn a_position_that_is_missing_is_missed() {
    let topic = Rig::get().topic(1).await;
    let failing = Failing::fresh().await;
    let mut daemon = Daemon::start(&config(&failing.database, &topic), &[]).await;
    daemon.stop().await;
    let pool = failing.database.pool().await;
    sqlx::raw_sql("DELETE FROM sluice.source_position")
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
    failing.keep_copy().await;
    daemon.restart(&[]).await;
    let lost = ids("lost", 0..30);
    produce(&topic, &lost).await;
    topic.wait_until_committed(topic.name(), LIMIT).await;
    daemon.kill().await;

    failing.fail_over(async || {}).await;
    daemon.restart(&[]).await;
    each_has_one_effect(&failing.database, &lost).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_group_that_is_moved_repeats_and_skips_nothing() {
    let rig = Rig::get();
    let topic = rig.topic(1).await;
    let database = rig.database().await;
    ledger(&database).await;
    let mut daemon = Daemon::start(&config(&database, &topic), &[]).await;
    let first = ids("first", 0..20);
    produce(&topic, &first).await;
    topic.wait_until_committed(topic.name(), LIMIT).await;
    daemon.stop().await;

    // Forward, over records that nobody has read.
    let second = ids("second", 0..20);
    produce(&topic, &second).await;
    topic.commit(topic.name(), 0, 35).await;
    daemon.restart(&[]).await;
    each_has_one_effect(&database, &[first.clone(), second.clone()].concat()).await;
    topic.wait_until_committed(topic.name(), LIMIT).await;
    daemon.stop().await;

    // Back: what is read again is known.
    topic.commit(topic.name(), 0, 10).await;
    daemon.restart(&[]).await;
    let again = [("cause", "rebalance")];
    daemon
        .until_count("sluice_duplicates_total", &again, 30)
        .await;
    topic.wait_until_committed(topic.name(), LIMIT).await;
    each_has_one_effect(&database, &[first, second].concat()).await;
    assert_eq!(positions(&daemon).await, [40]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_position_is_written_exactly_when_its_batch_commits() {
    let rig = Rig::get();
    let topic = rig.topic(1).await;
    let database = rig.database().await;
    ledger(&database).await;
    let mut daemon = Daemon::start(&config(&database, &topic), &[]).await;
    daemon.stop().await;
    let all = ids("all", 0..12);
    produce(&topic, &all).await;
    for (point, is_written) in [
        ("handed:1", false),
        ("before_commit:1", false),
        ("after_commit:1", true),
    ] {
        daemon.restart(&[("SLUICE_CRASH_AT", point)]).await;
        daemon.wait_exit(LIMIT).await;
        let stored = positions(&daemon).await[0];
        let effects = effects(&database).await.unwrap();
        assert_eq!(usize::try_from(stored).unwrap(), effects.len(), "{point}");
        assert_eq!(stored > 0, is_written, "{point}");
    }
    daemon.restart(&[]).await;
    each_has_one_effect(&database, &all).await;
    topic.wait_until_committed(topic.name(), LIMIT).await;
    assert_eq!(positions(&daemon).await, [12]);
    daemon.stop().await;
}

/// Whether it ended well, and what it said.
async fn set(daemon: &Daemon, topic: &Topic, arguments: &[&str]) -> (bool, String) {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args([
            "positions",
            "set",
            "--source",
            "orders",
            "--topic",
            topic.name(),
        ])
        .args(arguments)
        .arg("-c")
        .arg(daemon.config_file())
        .output()
        .await
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn an_operator_sets_a_position_while_nobody_reads_or_back_by_force() {
    for protocol in ["classic", "consumer"] {
        let rig = Rig::get();
        let topic = rig.topic(1).await;
        let database = rig.database().await;
        ledger(&database).await;
        let lines = format!("group_protocol = \"{protocol}\"");
        let config = Config::at(&database.url(), "sluice")
            .kafka("orders", &topic, &lines)
            .with(ROUTE)
            .granting("INSERT ON public.ledger");
        let mut daemon = Daemon::start(&config, &[]).await;
        let read = ids("read", 0..20);
        produce(&topic, &read).await;
        topic.wait_until_committed(topic.name(), LIMIT).await;

        let (done, said) = set(&daemon, &topic, &["--to", "earliest"]).await;
        assert!(!done && said.contains("members"), "{protocol}: {said}");
        assert_eq!(positions(&daemon).await, [20]);
        let (done, said) = set(&daemon, &topic, &["--to", "5", "--force"]).await;
        assert!(done && said.contains("/0: 20 -> 5"), "{protocol}: {said}");
        let again = [("cause", "reread")];
        daemon
            .until_count("sluice_duplicates_total", &again, 15)
            .await;
        daemon.stop().await;

        let skipped = ids("skipped", 0..10);
        produce(&topic, &skipped).await;
        let (done, said) = set(&daemon, &topic, &["--to", "31"]).await;
        assert!(!done && said.contains("from 0 to 30"), "{protocol}: {said}");
        let (done, said) = set(&daemon, &topic, &["--to", "latest", "--partition", "0"]).await;
        assert!(done, "{protocol}: {said}");
        daemon.restart(&[]).await;
        let new = ids("new", 0..5);
        produce(&topic, &new).await;
        each_has_one_effect(&database, &[read, new].concat()).await;
        topic.wait_until_committed(topic.name(), LIMIT).await;
        assert_eq!(positions(&daemon).await, [35]);
        daemon.stop().await;
    }
}

/// Nothing but a loss of commits may look like one.
#[tokio::test]
async fn rebalances_and_deaths_lose_nothing_and_alarm_nobody() {
    let rig = Rig::get();
    let topic = rig.topic(4).await;
    let database = rig.database().await;
    ledger(&database).await;
    let config = config(&database, &topic).with("[intake]\nmax_batch = 7\nslow_batch = \"1ms\"");
    let daemon = Daemon::start(&config, &[]).await;
    let mut other = Daemon::start(&config, &[]).await;
    let mut all = Vec::new();
    for round in 0..4 {
        let part = ids(&format!("part-{round}"), 0..150);
        let producing = produce(&topic, &part);
        let dying = async {
            if round % 2 == 0 {
                other.kill().await;
            } else {
                other.stop().await;
            }
            other.restart(&[]).await;
            other.until_ready().await;
        };
        tokio::join!(producing, dying);
        all.extend(part);
    }
    each_has_one_effect(&database, &all).await;
    topic.wait_until_committed(topic.name(), LIMIT).await;
    for node in [&daemon, &other] {
        for alarm in ["sluice_kafka_reread_total", "sluice_database_behind_total"] {
            assert_eq!(node.count(alarm, &[]).await, 0, "{alarm}");
        }
    }
    let sum: i64 = positions(&daemon).await.into_iter().sum();
    assert_eq!(sum, 600);
    daemon.stop().await;
    other.stop().await;
}
