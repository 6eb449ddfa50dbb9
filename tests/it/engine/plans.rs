//! What the statements read of tables that are big, while the planner thinks that they are empty.
//!
//! No engine runs here: its tables are copied, analysed while they are empty, and filled. Every table
//! counts what is read of it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::{Value, json};
use sluice::engine::Engine as _;
use sluice::inbox::Inbox as _;
use sluice::sweeper::Round;
use sqlx::PgPool;

use super::Node;
use super::copy::Copy;

/// Instances, each with a subscription, a job, four variables and a history; and as many waiting rows.
const ROWS: i64 = 20_000;
/// That have at least half as many rows.
const BIG_TABLES: usize = 11;
/// Rows of a table that a batch of a hundred messages may read.
const A_FEW: i64 = 2000;
/// The engine has no index on values: the variables of one name are read, for all messages at once.
const OF_ONE_NAME: (&str, i64) = ("act_ru_variable", ROWS + A_FEW);
/// A round of the wake looks at so many business keys, and drives what is due, whatever it asks for.
const IN_A_ROUND: [(&str, i64); 2] = [("inbox", ROWS / 2), OF_ONE_NAME];
/// The same where more is due than fits: some thousand of those rows are looked at, too, and never all.
const IN_A_CROWD: [(&str, i64); 2] = [("inbox", ROWS), OF_ONE_NAME];

const BY_KEY: &str = "[correlate]
    message_name = '$.name'
    business_key = '$.key'";
const BY_ID: &str = "[correlate]
    message_name = 'Paid'
    process_instance_id = '$.instance'";
const BY_VARIABLE: &str = "[correlate]
    message_name = 'Paid'
    correlation_keys = { order = '$.order', customer = '$.customer' }";
const BY_NAME: &str = "[correlate]
    message_name = '$.name'";
const BROADCAST: &str = "[correlate]
    message_name = 'Paid'
    business_key = '$.key'
    broadcast = true";
const START: &str = "[start]
    process_definition_key = 'receive-then-task'
    business_key = '$.key'
    variables = { amount = '$.key' }";
const START_BY_NAME: &str = "[start]
    message_name = '$.name'";
const START_IF_NOBODY: &str = "[correlate]
    message_name = '$.name'
    business_key = '$.key'
    on_no_match = 'start'";

fn routes() -> Vec<(&'static str, String)> {
    [
        ("by-key", BY_KEY),
        ("by-id", BY_ID),
        ("by-variable", BY_VARIABLE),
        ("by-name", BY_NAME),
        ("broadcast", BROADCAST),
        ("start", START),
        ("start-by-name", START_BY_NAME),
        ("start-if-nobody", START_IF_NOBODY),
    ]
    .map(|(name, toml)| (name, toml.to_owned()))
    .into()
}

/// Analysed while they are empty, and never again by the server itself.
const EMPTY: &str = "
    DO $$ DECLARE t text; BEGIN
        FOR t IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
                  WHERE schemaname NOT IN ('pg_catalog', 'information_schema') LOOP
            EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = false)', t);
            EXECUTE format('ANALYZE %s', t);
        END LOOP; END $$";

const DEFINED: &str = "
    INSERT INTO act_re_procdef
           (id_, rev_, key_, version_, deployment_id_, resource_name_, suspension_state_)
    SELECT 'p' || n, 1,
           CASE n WHEN 1 THEN 'receive-then-task' WHEN 2 THEN 'fork-shared-catcher' ELSE 'other' || n % 5 END,
           n, 'd', CASE n WHEN 2 THEN 'fork-shared-catcher' ELSE 'receive-then-task' END, 1
      FROM generate_series(1, 20) n";

/// Half of the instances may only be carried to by variant C, the others by variant B.
const FULL: &str = "
    INSERT INTO act_ru_execution
           (id_, rev_, proc_inst_id_, root_proc_inst_id_, business_key_, proc_def_id_, suspension_state_)
    SELECT 'i' || n, 1, 'i' || n, 'i' || n, 'k' || n, 'p' || 1 + n % 2, 1 FROM {rows};
    INSERT INTO act_ru_execution
           (id_, rev_, proc_inst_id_, parent_id_, proc_def_id_, act_id_, suspension_state_)
    SELECT 'e' || n, 1, 'i' || n, 'i' || n, 'p' || 1 + n % 2, 'receive', 1 FROM {rows};
    INSERT INTO act_ru_event_subscr
           (id_, rev_, event_type_, event_name_, execution_id_, proc_inst_id_, activity_id_, created_)
    SELECT 's' || n, 1, 'message', 'Paid', 'e' || n, 'i' || n, 'receive', now() FROM {rows};
    INSERT INTO act_ru_variable
           (id_, rev_, type_, name_, execution_id_, proc_inst_id_, proc_def_id_, text_, var_scope_)
    SELECT v || n, 1, 'string', v, 'i' || n, 'i' || n, 'p1', 'o' || n, 'i' || n
      FROM {rows}, unnest(ARRAY['order', 'customer', 'street', 'town']) v;
    INSERT INTO act_ru_job
           (id_, rev_, type_, handler_type_, process_instance_id_, retries_, suspension_state_)
    SELECT 'j' || n, 1, 'timer', 'timer-transition', 'i' || n, 3, 1 FROM {rows};
    INSERT INTO act_hi_procinst (id_, proc_inst_id_, proc_def_id_, start_time_)
    SELECT 'i' || n, 'i' || n, 'p1', now() FROM {rows};
    INSERT INTO act_hi_varinst (id_, proc_inst_id_, name_, rev_, text_)
    SELECT 'v' || n, 'i' || n, 'sluice_receipt', 0, 'r' || n FROM {rows};
    INSERT INTO act_hi_detail (id_, type_, time_, proc_inst_id_, name_, text_)
    SELECT 'd' || n, 'VariableUpdate', now(), 'i' || n, 'sluice_receipt', 'r' || n FROM {rows};
    INSERT INTO act_hi_job_log (id_, timestamp_, job_id_, process_instance_id_, job_state_)
    SELECT 'l' || n, now(), 'j' || n, 'i' || n, 2 FROM {rows};
    INSERT INTO act_ge_bytearray (id_, rev_, name_, bytes_)
    SELECT 'b' || n, 1, 'of nobody', convert_to(repeat(md5(n::text), 20), 'UTF8') FROM {rows};
    INSERT INTO act_ru_meter_log (id_, name_, milliseconds_, timestamp_)
    SELECT 'm' || n, 'jobs', n, timestamp '1970-01-01' + n * interval '1 ms' FROM {rows};
    INSERT INTO inbox
           (id, source, route, engine, scope, dedup_hash, dedup_key, payload_hash, envelope,
            epoch, attempts, state, detail, done_at)
    SELECT gen_random_uuid(), 'test', 'by-key', 'shop', 'by-key', sha256(n::text::bytea), n, '', '{}',
           1, 0, 'done', '', now()
      FROM {rows}";

/// Rows that wait for a business key; of a thousand, one has an instance that waits for it.
const WAITING: &str = "
    INSERT INTO inbox
           (id, source, route, engine, scope, dedup_hash, dedup_key, payload_hash, payload, envelope,
            message_name, business_key, announced, epoch, attempts, state, reason, detail, due_at)
    SELECT gen_random_uuid(), 'test', 'by-key', 'shop', '{reason}', sha256(key::bytea), key, '',
           json_build_object('name', 'Paid', 'key', key)::text::bytea, '{\"message_id\": \"waiting\"}', 'Paid', key,
           true, 1, 0, 'waiting', '{reason}', '', now() + interval '1 hour'
      FROM {rows}, LATERAL (
           SELECT CASE n % 1000 WHEN {some} THEN 'k' || n ELSE n || 'nobody{some}' END AS key) k";

/// `{rows}` stands for as many rows of a column `n`.
async fn fill(copy: &Copy, numbers: RangeInclusive<i64>, sql: &str) {
    let rows = format!("generate_series({}, {}) n", numbers.start(), numbers.end());
    copy.run(&sql.replace("{rows}", &rows)).await;
}

/// Analysed while they were empty, with so many rows of each kind now.
async fn filled(numbers: RangeInclusive<i64>) -> Copy {
    let copy = Copy::of_the_engines_tables().await;
    copy.run(EMPTY).await;
    copy.deploy(&["receive-then-task", "fork-shared-catcher"])
        .await;
    copy.run(DEFINED).await;
    fill(&copy, numbers, FULL).await;
    copy
}

async fn let_wait(copy: &Copy, some: i64, reason: &str) {
    let sql = WAITING
        .replace("{some}", &some.to_string())
        .replace("{reason}", reason);
    fill(copy, 1..=ROWS, &sql).await;
}

/// A node at work beside the big tables.
struct Watched<'a> {
    copy: &'a Copy,
    node: &'a Node<'a>,
    /// Rows of a table that may be read for one thing.
    few: i64,
}

/// By big table: how often it was read from end to end, and how many of its rows were read by an index.
type Reads = BTreeMap<String, (i64, i64)>;

impl Watched<'_> {
    /// Does something, and sees what was read for it: of each table a few rows, or as many as it needs,
    /// and none from end to end.
    async fn see(&self, what: &str, needs: &[(&str, i64)], work: impl AsyncFnOnce()) {
        let before = self.reads().await;
        Box::pin(work()).await;
        for (table, (scans, rows)) in self.reads().await {
            let (scans, rows) = (scans - before[&table].0, rows - before[&table].1);
            assert_eq!(scans, 0, "{what}: {table} was read from end to end");
            let need = needs.iter().find(|need| need.0 == table);
            let most = need.map_or(self.few, |need| need.1);
            assert!(rows <= most, "{what}: {rows} rows of {table}");
        }
    }

    async fn reads(&self) -> Reads {
        tell(&self.copy.place.pool).await;
        tell(self.node.inbox.pool()).await;
        let rows: Vec<(String, i64, i64)> = sqlx::query_as(
            "SELECT relname::text, seq_scan, coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables
              WHERE n_live_tup >= $1",
        )
        .bind(ROWS / 2)
        .fetch_all(&self.copy.place.pool)
        .await
        .unwrap();
        rows.into_iter()
            .map(|(table, scans, rows)| (table, (scans, rows)))
            .collect()
    }

    /// A batch of each kind, looked at and handed over; `round` keeps them apart.
    async fn every_batch(&self, round: i64) {
        for (number, (what, route, payload)) in (0..).zip(kinds()) {
            let first = (round * 20 + number) * 100 + 1;
            let ns = first..first + 99;
            let keys: Vec<String> = ns.clone().map(|n| format!("{what} {n}")).collect();
            let messages: Vec<(&str, &str, Value)> = keys
                .iter()
                .zip(ns)
                .map(|(key, n)| (route, key.as_str(), payload(n)))
                .collect();
            let needs = needs_of(route);
            self.see(what, needs, async || self.node.accept(&messages).await)
                .await;
        }
    }

    /// One message of each kind.
    async fn every_single(&self, round: i64) {
        for (number, (what, route, payload)) in (0..).zip(kinds()) {
            let needs = needs_of(route);
            let n = (round + 1) * 100 + number;
            let single = [(route, &*format!("{what} {n}"), payload(n))];
            self.see(what, needs, async || self.node.accept(&single).await)
                .await;
        }
    }

    async fn every_confirm(&self) {
        self.copy.run(JOBS_RAN).await;
        while self.count(CLAIMS).await > 0 {
            self.see("confirm", &[], async || self.node.confirm().await)
                .await;
        }
    }

    async fn wake(&self) {
        let round = async || {
            self.node.sweeper.wake_round().await.unwrap();
        };
        self.see("wake", &IN_A_ROUND, round).await;
    }

    /// Every row that waits is due: several times as many as one round may look at.
    async fn every_row_due(&self) {
        self.copy.run(ALL_DUE).await;
        assert!(
            self.count("SELECT count(*) FROM inbox WHERE due_at < now()")
                .await
                > 2 * ROWS
        );
        for _ in 0..3 {
            let round = async || {
                let round = self.node.sweeper.wake_round().await.unwrap();
                assert_eq!(round, Round::Full);
            };
            self.see("due", &IN_A_CROWD, round).await;
        }
    }

    /// Turns the wake until nothing is free any more.
    async fn every_wake(&self) {
        assert!(self.count(FREE).await >= ROWS / 1000);
        for _ in 0..10 {
            self.wake().await;
            if self.count(FREE).await == 0 {
                return;
            }
        }
        panic!("not every free row was woken");
    }

    async fn refresh(&self) {
        let refresh = async || {
            self.node.refresh().await;
        };
        self.see("refresh", &[], refresh).await;
    }

    /// What `sluice check --connect` asks.
    async fn check(&self) {
        let check = async || {
            let mut tx = self.node.inbox.begin().await.unwrap();
            self.node.engine.inspect(&mut tx).await.unwrap();
            self.node.engine.foresee(&mut tx, &[]).await.unwrap();
            self.node.inbox.commit(tx).await.unwrap();
        };
        self.see("check", &[], check).await;
    }

    async fn count(&self, sql: &'static str) -> i64 {
        let count = sqlx::query_scalar(sql).fetch_one(&self.copy.place.pool);
        count.await.unwrap()
    }
}

/// Lets every session tell what it counted; it would keep that for a while otherwise.
async fn tell(pool: &PgPool) {
    let mut sessions = Vec::new();
    for _ in 0..pool.size() {
        let mut session = pool.acquire().await.unwrap();
        sqlx::query("SELECT pg_stat_force_next_flush()")
            .execute(&mut *session)
            .await
            .unwrap();
        sessions.push(session);
    }
}

/// The engine's executor removes the jobs that ran.
const JOBS_RAN: &str = "DELETE FROM act_ru_job WHERE type_ = 'message'";
const CLAIMS: &str = "SELECT (SELECT count(*) FROM pending) + (SELECT count(*) FROM pending_start)";
const ALL_DUE: &str =
    "UPDATE inbox SET due_at = now() - interval '1 minute' WHERE state = 'waiting'";
/// Of the rows that [`WAITING`] made, those that have an instance and still wait.
const FREE: &str = "SELECT count(*) FROM inbox WHERE dedup_key LIKE 'k%' AND state = 'waiting'";

fn needs_of(route: &str) -> &'static [(&'static str, i64)] {
    if route == "by-variable" {
        &[OF_ONE_NAME]
    } else {
        &[]
    }
}

/// What a batch is of, its route, and the payload of its n-th message.
type Kind = (&'static str, &'static str, fn(i64) -> Value);

fn kinds() -> [Kind; 11] {
    [
        (
            "by key",
            "by-key",
            |n| json!({ "name": "Paid", "key": format!("k{n}") }),
        ),
        (
            "by key again",
            "by-key",
            |n| json!({ "name": "Paid", "key": format!("k{}", n - 100) }),
        ),
        (
            "for nobody",
            "by-key",
            |n| json!({ "name": "Paid", "key": format!("none{n}") }),
        ),
        (
            "by instance",
            "by-id",
            |n| json!({ "instance": format!("i{n}") }),
        ),
        (
            "by variables",
            "by-variable",
            |n| json!({ "order": format!("o{n}"), "customer": format!("o{n}") }),
        ),
        ("by name", "by-name", |_| json!({ "name": "Paid" })),
        (
            "by an unknown name",
            "by-name",
            |_| json!({ "name": "Unheard" }),
        ),
        ("to all", "broadcast", |n| json!({ "key": format!("k{n}") })),
        ("start", "start", |n| json!({ "key": format!("new{n}") })),
        (
            "start by name",
            "start-by-name",
            |_| json!({ "name": "Paid" }),
        ),
        (
            "start if nobody waits",
            "start-if-nobody",
            |n| json!({ "name": "Paid", "key": format!("new{n}") }),
        ),
    ]
}

#[tokio::test]
async fn no_batch_and_no_sweep_reads_a_big_table_from_end_to_end() {
    let copy = filled(1..=ROWS).await;
    let node = copy.place.new_node(&routes());
    let watched = Watched {
        copy: &copy,
        node: &node,
        few: A_FEW,
    };
    assert_eq!(watched.reads().await.len(), BIG_TABLES);
    for round in 0..2 {
        let_wait(&copy, round * 500, "no_subscription").await;
        if round == 1 {
            copy.run("ANALYZE").await;
        }
        watched.refresh().await;
        watched.check().await;
        watched.every_batch(round).await;
        let variants = "SELECT count(DISTINCT variant) FROM pending";
        assert_eq!(watched.count(variants).await, 2);
        assert_eq!(watched.count(CLAIMS).await, 5 * 99);
        watched.every_confirm().await;
        watched.every_wake().await;
        watched.every_confirm().await;
    }
    let_wait(&copy, 1, "backlog").await;
    watched.refresh().await;
    watched.wake().await;
    watched.every_row_due().await;
}

/// The plans for single messages are kept by a connection for a while, whatever becomes of the tables.
#[tokio::test]
async fn no_single_message_reads_a_big_table_that_was_small_when_its_plans_were_made() {
    const BEFORE: i64 = 400;
    let copy = filled(1..=BEFORE).await;
    let node = copy.place.node_of_one_connection(&routes());
    let watched = Watched {
        copy: &copy,
        node: &node,
        few: 20,
    };
    watched.refresh().await;
    for round in 0..2 {
        watched.every_single(round).await;
    }
    // The checks of foreign keys keep their plans, too, and would read the tables as they grow.
    let anew = format!("DISCARD PLANS; SET LOCAL enable_seqscan = off; {FULL}");
    fill(&copy, BEFORE + 1..=ROWS, &anew).await;
    assert_eq!(watched.reads().await.len(), BIG_TABLES);
    watched.every_single(2).await;
    assert_eq!(watched.count(CLAIMS).await, 3 * 6);
}
