//! Other engines than the rig's: lower history levels, a schema and a table prefix of their own.
//!
//! Each needs a node on a database of its own, which takes seconds to start.

use serde_json::{Value, json};
use sluice::engine::Engine as _;
use sluice::finding::Level;
use sluice::inbox::Inbox;
use sqlx::{Connection, PgConnection};

use super::place::{LIMIT, private_database};
use super::{Node, Place};
use crate::rig::{Deployment, Rig, Server, unique};

const BY_KEY: &str = "[correlate]
    message_name = '$.name'
    business_key = '$.key'
    variables = { amount = { from = '$.amount', optional = true } }";
const START: &str = "[start]
    message_name = '$.name'
    business_key = '$.key'
    variables = { amount = '$.amount' }";

fn routes() -> Vec<(&'static str, String)> {
    vec![("by-key", BY_KEY.to_owned()), ("start", START.to_owned())]
}

/// An engine of that level, its job executor idle, and Sluice's tables beside it.
async fn engine_at(level: &str) -> (Server, Place) {
    let database = private_database().await;
    let history = format!("HISTORY={level}");
    let server = Server::engine(None, &database, &["JOBS=false", &history]).await;
    let schema = Rig::get().postgres.schema(&database);
    let place = Place::beside(schema, server.as_engine(), &[]).await;
    (server, place)
}

/// One level's test: the place, its models, and a node.
struct Case<'a> {
    place: &'a Place,
    deployment: &'a Deployment,
    node: &'a Node<'a>,
}

const MODELS: [&str; 5] = [
    "receive-task",
    "receive-with-cancel",
    "receive-then-call",
    "receive-twice",
    "message-start",
];

impl Case<'_> {
    /// Starts an instance and hands it a message under the key that is returned.
    async fn hand(&self, process: &str, message: &str) -> (String, String) {
        let key = unique();
        let process = self.deployment.name(process);
        let instance = self
            .place
            .engine
            .start(&process, Some(&key), json!({}))
            .await;
        let payload = json!({ "name": self.deployment.name(message), "key": key, "amount": 1 });
        let row = self.node.send("by-key", &key, payload).await;
        assert_eq!(row.is(), "handed", "{}", row.detail);
        (key, instance)
    }

    /// The instance stays, its subscription goes before the job runs.
    async fn hand_in_vain(&self) -> String {
        let (key, _) = self.hand("receive-with-cancel", "Paid").await;
        let cancel =
            json!({ "messageName": self.deployment.name("Cancelled"), "businessKey": key });
        assert_eq!(self.place.engine.correlate(cancel).await.status, 204);
        key
    }

    async fn run_and_confirm(&self, key: &str) -> String {
        self.place.run_job(key).await;
        self.node.confirm().await;
        self.place.row(key).await.is()
    }

    async fn count(&self, table: &str, instance: &str) -> i64 {
        let column = match table {
            "act_hi_job_log" => "process_instance_id_",
            _ => "proc_inst_id_",
        };
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT count(*) FROM {table} WHERE {column} = $1"
        )))
        .bind(instance)
        .fetch_one(&self.place.pool)
        .await
        .unwrap()
    }

    /// Starts by rows; returns how many rows of instances, variables, details and job log there are.
    async fn start(&self) -> [i64; 4] {
        let key = unique();
        let payload =
            json!({ "name": self.deployment.name("OrderPlaced"), "key": key, "amount": 1 });
        let row = self.node.send("start", &key, payload).await;
        assert_eq!(row.is(), "done", "{}", row.detail);
        let instance = row.process_instance_id.unwrap();
        let mut rows = [0; 4];
        for (number, table) in [
            "act_hi_procinst",
            "act_hi_varinst",
            "act_hi_detail",
            "act_hi_job_log",
        ]
        .into_iter()
        .enumerate()
        {
            rows[number] = self.count(table, &instance).await;
        }
        self.place.run_job(&key).await;
        let engine = &self.place.engine;
        engine.complete(&instance, "after").await;
        assert_eq!(engine.instances(&key).await, Vec::<Value>::new());
        self.node.confirm().await;
        rows
    }
}

/// What `sluice check --connect` would say.
async fn findings(node: &Node<'_>) -> Vec<(Level, String)> {
    let mut tx = node.inbox.begin().await.unwrap();
    let findings = node.engine.inspect(&mut tx).await.unwrap();
    findings.into_iter().map(|f| (f.level, f.text)).collect()
}

#[tokio::test]
async fn a_time_zone_that_the_database_does_not_know_is_refused() {
    let place = Place::busy().await;
    // The second is the other way round for the database than for Java.
    for zone in ["Europe/Berlinn", "GMT+2", ""] {
        let said = findings(&place.idle_node(json!({ "time_zone": zone }))).await;
        assert_eq!(said.len(), 1, "{said:?}");
        let (level, text) = &said[0];
        assert_eq!(*level, Level::Error);
        assert!(text.contains(&format!("no time zone {zone:?}")), "{text}");
    }
    let said = findings(&place.idle_node(json!({ "time_zone": "Asia/Kolkata" }))).await;
    assert!(said[0].1.contains("clock UTC+19800 s"), "{said:?}");
}

#[tokio::test]
async fn at_audit_every_message_has_a_receipt_of_its_own_that_proves_it() {
    let (_server, place) = engine_at("audit").await;
    let engine = &place.engine;
    let deployment = engine.deploy(&MODELS).await;
    let node = place.node(&routes()).await;
    let case = Case {
        place: &place,
        deployment: &deployment,
        node: &node,
    };
    let said = findings(&node).await;
    assert!(
        said.iter()
            .any(|(_, text)| text.contains("history level audit")),
        "{said:?}"
    );
    assert!(said.iter().all(|(of, _)| *of != Level::Error), "{said:?}");

    // An instance that has ended.
    let (key, instance) = case.hand("receive-task", "Paid").await;
    assert_eq!(case.run_and_confirm(&key).await, "done");
    let row = place.row(&key).await;
    let receipt = format!("sluice_receipt_{}", row.id.simple());
    assert!(
        engine
            .history_variables(&instance)
            .await
            .contains_key(&receipt)
    );
    // A child that would overwrite its parent's receipt, if that had the same name.
    let (key, parent) = case.hand("receive-then-call", "Paid").await;
    place.run_job(&key).await;
    let payload = json!({ "name": deployment.name("Shipped"), "key": key, "amount": 2 });
    node.send("by-key", "of-child", payload).await;
    place.run_job("of-child").await;
    engine.wait_for_task(&parent, "after", LIMIT).await;
    node.confirm().await;
    assert_eq!(place.states(&[&key, "of-child"]).await, ["done", "done"]);

    let in_vain = case.hand_in_vain().await;
    assert_eq!(case.run_and_confirm(&in_vain).await, "waiting/retry");

    // The job's log, which proves variant B, is only kept at full.
    let key = unique();
    engine
        .start(&deployment.name("receive-twice"), Some(&key), json!({}))
        .await;
    let payload = json!({ "name": deployment.name("Paid"), "key": key });
    let row = node.send("by-key", &key, payload).await;
    assert_eq!(row.is(), "waiting/unsupported");
    assert!(
        row.detail.contains("history level full is needed"),
        "{}",
        row.detail
    );

    assert_eq!(case.start().await, [1, 1, 0, 0]);
    place.assert_clean().await;
}

#[tokio::test]
async fn what_is_promised_is_printed_where_a_history_below_audit_proves_less() {
    for (level, of_start) in [("activity", [1, 0, 0, 0]), ("none", [0, 0, 0, 0])] {
        let (_server, place) = engine_at(level).await;
        let engine = &place.engine;
        let deployment = engine.deploy(&MODELS).await;
        let said = findings(&place.idle_node(json!({}))).await;
        let refusal = &said[0];
        assert_eq!(refusal.0, Level::Error, "{said:?}");
        assert!(
            refusal.1.contains(level) && refusal.1.contains("assume_done"),
            "{said:?}"
        );

        let settings = json!({ "unproven": "assume_done" });
        let node = place.node_with(settings, &routes()).await;
        let said = findings(&node).await;
        assert!(said.iter().any(|(of, _)| *of == Level::Warning), "{said:?}");
        let case = Case {
            place: &place,
            deployment: &deployment,
            node: &node,
        };
        // The receipt is in the instance that still runs.
        let (key, instance) = case.hand("receive-then-call", "Paid").await;
        assert_eq!(case.run_and_confirm(&key).await, "done", "{level}");
        assert_eq!(engine.variables(&instance).await["amount"]["value"], 1);
        // The instance has ended: assumed.
        let (key, _) = case.hand("receive-task", "Paid").await;
        assert_eq!(case.run_and_confirm(&key).await, "done", "{level}");
        // It runs, and has no receipt.
        let in_vain = case.hand_in_vain().await;
        assert_eq!(
            case.run_and_confirm(&in_vain).await,
            "dead/in_doubt",
            "{level}"
        );

        assert_eq!(case.start().await, of_start, "{level}");
        place.assert_clean().await;
    }
}

/// Puts the engine's tables where another installation may have them.
async fn move_tables(database: &str, schema: &str, prefix: &str) {
    let url = Rig::get().postgres.url(database);
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let sql = format!(
        "CREATE SCHEMA {schema} AUTHORIZATION engine;
         DO $$ DECLARE t text; BEGIN
            FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
               EXECUTE format('ALTER TABLE public.%I SET SCHEMA {schema}', t);
               EXECUTE format('ALTER TABLE {schema}.%I RENAME TO %I', t, '{prefix}' || t);
            END LOOP; END $$"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_engines_tables_may_have_a_schema_and_a_prefix() {
    let database = private_database().await;
    let first = Server::engine(None, &database, &["JOBS=false"]).await;
    drop(first);
    move_tables(&database, "shop", "cam_").await;
    let settings = [
        "OPERATON_BPM_DATABASE_TABLE_PREFIX=shop.cam_",
        "OPERATON_BPM_DATABASE_SCHEMA_UPDATE=false",
    ];
    let server = Server::engine(None, &database, &settings).await;
    let schema = Rig::get().postgres.schema(&database);
    let variables = ["engine=shop", "prefix=cam_"];
    let place = Place::beside(schema, server.as_engine(), &variables).await;
    let engine = &place.engine;
    let deployment = engine
        .deploy(&["receive-twice", "receive-then-task", "message-start"])
        .await;
    let settings = json!({ "schema": "shop", "table_prefix": "cam_" });
    let node = place.node_with(settings, &routes()).await;
    let mut sent = Vec::new();
    for (route, process, message) in [
        ("by-key", "receive-then-task", "Paid"),
        ("by-key", "receive-twice", "Paid"),
        ("start", "message-start", "OrderPlaced"),
    ] {
        let key = unique();
        if route == "by-key" {
            engine
                .start(&deployment.name(process), Some(&key), json!({}))
                .await;
        }
        let mut payload = json!({ "name": deployment.name(message), "key": key });
        if process != "receive-twice" {
            payload["amount"] = json!(1);
        }
        node.send(route, &key, payload).await;
        sent.push(key);
    }

    for key in &sent {
        let row = node.until(key, "done").await;
        assert_eq!(row.attempts, 0);
    }
    node.until_claims_are_gone().await;
    place.assert_clean().await;
    let wrong = place.idle_node(json!({ "schema": "shop" }));
    let said = findings(&wrong).await;
    assert!(said[0].1.contains("lacks the tables act_"), "{said:?}");
}
