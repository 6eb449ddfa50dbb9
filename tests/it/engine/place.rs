//! Sluice's tables beside the engine's, and nodes of the daemon on them.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use sluice::engine::camunda_tables::CamundaTables;
use sluice::engine::{Engine as _, EngineState};
use sluice::inbox::postgres::{PostgresInbox, Tx};
use sluice::inbox::{Inbox, InboxConfig, Retention, RowId};
use sluice::intake::{Intake, IntakeConfig};
use sluice::message::{Delivery, Envelope, Receipt, Text};
use sluice::route::{Route, Routes};
use sluice::source::OnUnrouted;
use sluice::sweeper::{Sweeper, SweeperConfig};
use sluice::units::Span;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Row as _};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::rig::{Engine, Rig, Schema, Server, eventually, unique};

/// How long anything may take on a busy machine.
pub const LIMIT: Duration = Duration::from_mins(1);

/// The role of the daemon, in every test.
const ROLE: &str = "sluice_daemon";

/// A schema of Sluice's own, and the engine beside it.
pub struct Place {
    schema: Schema,
    /// Looks into both as superuser; the search path begins with Sluice's schema.
    pub pool: PgPool,
    pub engine: Engine,
    /// Ids of engine rows that were ours at some time.
    ours: Mutex<Ours>,
}

#[derive(Default)]
struct Ours {
    jobs: BTreeSet<String>,
    scopes: BTreeSet<String>,
    bytes: BTreeSet<String>,
}

/// A row of the inbox, as far as the tests ask.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub id: Uuid,
    pub state: String,
    pub reason: Option<String>,
    pub detail: String,
    pub attempts: i32,
    pub epoch: i64,
    pub process_instance_id: Option<String>,
}

impl Row {
    fn of(row: &PgRow) -> Row {
        Row {
            id: row.get("id"),
            state: row.get("state"),
            reason: row.get("reason"),
            detail: row.get("detail"),
            attempts: row.get("attempts"),
            epoch: row.get("epoch"),
            process_instance_id: row.get("process_instance_id"),
        }
    }

    /// `state` or `state/reason`.
    pub fn is(&self) -> String {
        match &self.reason {
            Some(reason) => format!("{}/{reason}", self.state),
            None => self.state.clone(),
        }
    }
}

impl Place {
    /// Beside the rig's engine, whose two nodes run jobs.
    pub async fn busy() -> Place {
        let rig = Rig::get();
        Place::beside(rig.schema(), rig.engine(), &[]).await
    }

    /// Beside the still engine.
    pub async fn still() -> Place {
        let (engine, database) = still_engine().await;
        let schema = Rig::get().postgres.schema(&database);
        Place::beside(schema, engine, &[]).await
    }

    /// `variables`: more of those that `deploy/grants.sql` knows.
    pub async fn beside(schema: Schema, engine: Engine, variables: &[&str]) -> Place {
        let inbox = PostgresInbox::connect(&config(schema.url(), schema.name()), "test").unwrap();
        inbox.migrate().await.unwrap();
        grant(&schema, variables).await;
        Place {
            pool: schema.pool().await,
            schema,
            engine,
            ours: Mutex::default(),
        }
    }

    /// The daemon's URL of the database.
    pub fn url(&self) -> String {
        let (_, server) = self
            .schema
            .url()
            .split_once('@')
            .expect("a URL with a user");
        format!("postgres://{ROLE}@{server}")
    }

    /// A node with these routes, each by its name and its TOML without `source`, `engine`, `when` and
    /// `dedup_key`: a delivery names its route in a header, and its `message_id` is the key.
    pub async fn node(&self, routes: &[(&str, String)]) -> Node<'_> {
        self.node_with(json!({}), routes).await
    }

    /// `settings`: those of `[engines.NAME.camunda_tables]`.
    pub async fn node_with(&self, settings: Value, routes: &[(&str, String)]) -> Node<'_> {
        let config = config(&self.url(), self.schema.name());
        let node = self.node_on(config, settings, routes);
        node.refresh().await;
        node
    }

    /// A node whose sessions the server ends soon when nothing comes from it inside a transaction.
    pub async fn impatient_node(&self, routes: &[(&str, String)]) -> Node<'_> {
        let mut config = config(&self.url(), self.schema.name());
        config.idle_in_transaction_timeout = Span::ms(1500);
        let node = self.node_on(config, json!({}), routes);
        node.refresh().await;
        node
    }

    /// A node that has never looked at its engine.
    pub fn new_node(&self, routes: &[(&str, String)]) -> Node<'_> {
        self.node_on(config(&self.url(), self.schema.name()), json!({}), routes)
    }

    /// The same on a single connection, so that what a session keeps is there.
    pub fn node_of_one_connection(&self, routes: &[(&str, String)]) -> Node<'_> {
        let mut config = config(&self.url(), self.schema.name());
        config.connections = 1;
        self.node_on(config, json!({}), routes)
    }

    /// The same with settings of its engine, and without routes.
    pub fn idle_node(&self, settings: Value) -> Node<'_> {
        self.node_on(config(&self.url(), self.schema.name()), settings, &[])
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "a configuration belongs to its node"
    )]
    fn node_on(&self, config: InboxConfig, settings: Value, routes: &[(&str, String)]) -> Node<'_> {
        let inbox = PostgresInbox::connect(&config, "sluice/test").unwrap();
        let settings = serde_json::from_value(settings).unwrap();
        let engine = Arc::new(CamundaTables::new("shop", settings, self.schema.name()));
        let routes = Routes::new(
            [("test".to_owned(), OnUnrouted::Dead)],
            routes.iter().map(|(name, toml)| route(name, toml)),
        );
        let engines: [Arc<dyn sluice::engine::Engine<_>>; 1] = [engine.clone()];
        let intake = Arc::new(Intake::new(
            inbox.clone(),
            engines,
            Arc::new(routes),
            Uuid::now_v7(),
            IntakeConfig::default(),
        ));
        let sweeper = Sweeper::new(
            Arc::clone(&intake),
            Retention::default(),
            SweeperConfig::default(),
        );
        Node {
            place: self,
            inbox,
            engine,
            intake,
            sweeper,
        }
    }

    /// The row of a key.
    pub async fn row(&self, key: &str) -> Row {
        let row = sqlx::query(
            "SELECT id, state, reason, detail, attempts, epoch, process_instance_id
               FROM inbox WHERE dedup_key = $1 AND conflict_hash = ''",
        )
        .bind(key)
        .fetch_one(&self.pool);
        Row::of(&row.await.unwrap())
    }

    /// The row that came last; one that is born dead has no key of the test's.
    pub async fn last_row(&self) -> Row {
        let row = sqlx::query(
            "SELECT id, state, reason, detail, attempts, epoch, process_instance_id
               FROM inbox ORDER BY id DESC LIMIT 1",
        )
        .fetch_one(&self.pool);
        Row::of(&row.await.unwrap())
    }

    /// The states of these keys.
    pub async fn states(&self, keys: &[&str]) -> Vec<String> {
        let mut states = Vec::new();
        for key in keys {
            states.push(self.row(key).await.is());
        }
        states
    }

    /// The job that a handed row waits for.
    pub async fn job(&self, key: &str) -> String {
        sqlx::query_scalar(
            "SELECT job_id FROM (SELECT row_id, job_id FROM pending UNION ALL
                                 SELECT row_id, job_id FROM pending_start) claims
               JOIN inbox i ON i.id = claims.row_id WHERE i.dedup_key = $1",
        )
        .bind(key)
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    /// On the still engine: lets the job of a handed row run; whatever becomes of it.
    pub async fn run_job(&self, key: &str) {
        let job = self.job(key).await;
        self.engine.execute(&job).await;
    }

    /// The variant of a handed row's claim.
    pub async fn variant(&self, key: &str) -> String {
        sqlx::query_scalar(
            "SELECT p.variant FROM pending p JOIN inbox i ON i.id = p.row_id WHERE i.dedup_key = $1",
        )
        .bind(key)
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    /// Makes every waiting row due.
    pub async fn make_due(&self) {
        sqlx::query("UPDATE inbox SET due_at = clock_timestamp() WHERE state = 'waiting'")
            .execute(&self.pool)
            .await
            .unwrap();
    }

    /// Notes the engine rows that are ours now, to look for them later.
    async fn note_ours(&self) {
        let claims: Vec<(String, Option<String>)> = sqlx::query_as(
            "SELECT job_id, scope_id FROM pending
              UNION ALL SELECT job_id, NULL FROM pending_start",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        let scopes: Vec<String> = claims.iter().filter_map(|c| c.1.clone()).collect();
        let table = self.engine_table("act_ru_variable").await;
        let bytes: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
            "SELECT bytearray_id_ FROM {table}
              WHERE var_scope_ = ANY($1) AND bytearray_id_ IS NOT NULL"
        )))
        .bind(&scopes)
        .fetch_all(&self.pool)
        .await
        .unwrap();
        let mut ours = self.ours.lock().unwrap();
        ours.jobs.extend(claims.into_iter().map(|c| c.0));
        ours.bytes.extend(bytes);
        ours.bytes.extend(scopes.iter().cloned());
        ours.scopes.extend(scopes);
    }

    /// Where one of the engine's tables is, whatever its prefix.
    async fn engine_table(&self, name: &str) -> String {
        sqlx::query_scalar(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
              WHERE tablename LIKE '%' || $1 ORDER BY tablename = $1 DESC LIMIT 1",
        )
        .bind(name)
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    /// Nothing of ours is left in the engine's tables, and no claim in ours.
    pub async fn assert_clean(&self) {
        let (jobs, scopes, bytes) = {
            let ours = self.ours.lock().unwrap();
            let list = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
            (list(&ours.jobs), list(&ours.scopes), list(&ours.bytes))
        };
        assert!(!jobs.is_empty(), "nothing was ever handed");
        for (table, column, ids) in [
            ("act_ru_job", "id_", jobs),
            ("act_ru_variable", "var_scope_", scopes),
            ("act_ge_bytearray", "id_", bytes),
        ] {
            let place = self.engine_table(table).await;
            let left: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
                "SELECT id_ FROM {place} WHERE {column} = ANY($1)"
            )))
            .bind(ids)
            .fetch_all(&self.pool)
            .await
            .unwrap();
            assert_eq!(left, Vec::<String>::new(), "left in {table}");
        }
        let claims: (i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM pending), (SELECT count(*) FROM pending_start)",
        )
        .fetch_one(&self.pool)
        .await
        .unwrap();
        assert_eq!(claims, (0, 0), "claims are left");
    }
}

/// What a daemon is, without its sources.
pub struct Node<'a> {
    place: &'a Place,
    pub inbox: PostgresInbox,
    pub engine: Arc<CamundaTables>,
    pub intake: Arc<Intake<PostgresInbox>>,
    pub sweeper: Sweeper<PostgresInbox>,
}

impl Node<'_> {
    /// Accepts one delivery; returns its row.
    pub async fn send(&self, route: &str, key: &str, payload: Value) -> Row {
        self.send_all(&[(route, key, payload)]).await;
        self.place.row(key).await
    }

    /// Accepts deliveries as one batch.
    pub async fn send_all(&self, messages: &[(&str, &str, Value)]) {
        self.accept(messages).await;
        self.place.note_ours().await;
    }

    /// The same without a look at the engine's tables afterwards.
    pub async fn accept(&self, messages: &[(&str, &str, Value)]) {
        let deliveries = messages
            .iter()
            .enumerate()
            .map(|(tag, (route, key, payload))| delivery(tag, route, key, payload))
            .collect();
        let receipts = self.intake.accept(deliveries).await.unwrap();
        assert_eq!(receipts.len(), messages.len());
    }

    pub async fn refresh(&self) -> EngineState {
        let mut tx = self.inbox.begin().await.unwrap();
        let state = self.engine.refresh(&mut tx).await.unwrap();
        self.inbox.commit(tx).await.unwrap();
        state
    }

    /// The execution whose subscription a row claims, in the transaction that claims it.
    pub async fn execution_of(&self, tx: &mut Tx, row: RowId) -> String {
        sqlx::query_scalar(AssertSqlSafe(format!(
            "SELECT e.execution_id_ FROM {}.pending p
               JOIN act_ru_event_subscr e ON e.id_ = p.subscription_id WHERE p.row_id = $1",
            self.inbox.schema()
        )))
        .bind(row.0)
        .fetch_one(&mut **tx)
        .await
        .unwrap()
    }

    /// The definition of an instance, in the transaction that starts it.
    pub async fn definition_of(&self, tx: &mut Tx, instance: &str) -> String {
        sqlx::query_scalar("SELECT proc_def_id_ FROM act_ru_execution WHERE id_ = $1")
            .bind(instance)
            .fetch_one(&mut **tx)
            .await
            .unwrap()
    }

    pub async fn confirm(&self) {
        self.sweeper.confirm_round().await.unwrap();
    }

    pub async fn wake(&self) {
        self.sweeper.wake_round().await.unwrap();
        self.place.note_ours().await;
    }

    /// Turns the sweeps until every job of ours has run and is confirmed.
    pub async fn until_claims_are_gone(&self) {
        eventually("every claim being released", LIMIT, async || {
            self.confirm().await;
            let left: i64 = sqlx::query_scalar(
                "SELECT (SELECT count(*) FROM pending) + (SELECT count(*) FROM pending_start)",
            )
            .fetch_one(&self.place.pool)
            .await
            .unwrap();
            (left == 0).then_some(())
        })
        .await;
    }

    /// Turns the sweeps until the row of a key is in a state, named as by [`Row::is`]; returns it.
    pub async fn until(&self, key: &str, state: &str) -> Row {
        eventually(&format!("{key} becoming {state}"), LIMIT, async || {
            self.confirm().await;
            self.wake().await;
            let row = self.place.row(key).await;
            assert!(
                row.state != "dead" || state.starts_with("dead"),
                "{key} is dead: {row:?}"
            );
            (row.is() == state).then_some(row)
        })
        .await
    }
}

pub fn delivery(tag: usize, route: &str, key: &str, payload: &Value) -> Delivery {
    Delivery {
        step: None,
        source: Arc::from("test"),
        payload: Bytes::from(payload.to_string()),
        envelope: Envelope {
            headers: vec![("route".to_owned(), Text::new(route.to_owned()))],
            message_id: Some(key.to_owned()),
            ..Envelope::default()
        },
        redelivered: false,
        receipt: Receipt {
            lane: 0,
            incarnation: 0,
            tag: tag as u64,
        },
    }
}

fn route(name: &str, rest: &str) -> Route {
    let text = format!(
        "source = 'test'\nengine = 'shop'\ndedup_key = '@message_id'\n\
         when = {{ header = 'route', equals = '{name}' }}\n{rest}"
    );
    let config = toml::from_str(&text).unwrap_or_else(|error| panic!("{text}\n{error}"));
    Route::new(name, config)
}

fn config(url: &str, schema: &str) -> InboxConfig {
    serde_json::from_value(json!({ "url": url, "schema": schema, "connections": 4 })).unwrap()
}

/// Runs `deploy/grants.sql` as an operator would.
async fn grant(schema: &Schema, variables: &[&str]) {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grants.sql");
    let mut command = tokio::process::Command::new("psql");
    command.args(["-X", "-q", "-d", schema.url()]);
    let own = variables.iter().any(|v| v.starts_with("engine="));
    let engine: &[&str] = if own { &[] } else { &["engine=public"] };
    for variable in engine.iter().chain(variables) {
        command.args(["-v", variable]);
    }
    let role = format!(
        "DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN CREATE ROLE {ROLE} LOGIN; END IF;
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    );
    let output = command
        .args([
            "-v",
            &format!("role={ROLE}"),
            "-v",
            &format!("schema={}", schema.name()),
        ])
        .args(["-c", &role, "-f"])
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("psql is there");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A private database that the engine may fill; returns its name. It is dropped by a later run.
pub async fn private_database() -> String {
    let name = unique();
    let postgres = &Rig::get().postgres;
    let mut connection = PgConnection::connect(&postgres.url("postgres"))
        .await
        .unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!(
        "CREATE DATABASE {name} OWNER engine"
    )))
    .execute(&mut connection)
    .await
    .unwrap();
    name
}

static STILL: OnceCell<(Server, String)> = OnceCell::const_new();

/// The engine that runs no job by itself, and its database: one for all tests of a run, because a node
/// takes seconds to start. It ends with the test process.
async fn still_engine() -> (Engine, String) {
    let (server, database) = STILL
        .get_or_init(|| async {
            let database = private_database().await;
            let server = Server::engine(None, &database, &["JOBS=false"]).await;
            (server, database)
        })
        .await;
    (server.as_engine(), database.clone())
}
