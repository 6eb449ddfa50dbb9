//! The engine of the user's own statements: every behaviour on every database, and what only one has.

mod mistakes;
mod postgres;

use std::collections::HashSet;

use sluice::engine::sql::{SqlConfig, SqlOnPostgres, SqlOnSqlite};
use sluice::engine::{Ask, Engine, Missed, Outcome};
use sluice::inbox::postgres::{PostgresInbox, Tx};
use sluice::inbox::{Class, DbError, Inbox as _, RowId};
use sluice::message::{
    Action, Apply, DeadReason, DedupKey, Hash, Message, Value, Variable, WaitReason,
};
use sqlx::postgres::PgPool;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Sqlite, Transaction};

use crate::rig::{Database, Rig};

/// A database with tables of a user's own.
trait Bench {
    type Tx: Send;
    type Engine: Engine<Self::Tx>;

    fn engine(&self, config: &SqlConfig) -> Self::Engine;
    async fn begin(&self) -> Self::Tx;
    async fn commit(&self, tx: Self::Tx);
    async fn run(&self, sql: &str);
    async fn number(&self, sql: &str) -> i64;
}

struct OnPostgres {
    pool: PgPool,
    inbox: PostgresInbox,
    database: Database,
}

struct OnSqlite {
    pool: SqlitePool,
    _folder: tempfile::TempDir,
}

async fn on_postgres() -> OnPostgres {
    let database = Rig::get().database().await;
    OnPostgres {
        pool: database.pool().await,
        inbox: crate::inbox::Kept::node(&database),
        database,
    }
}

async fn on_sqlite() -> OnSqlite {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("user.db"))
        .create_if_missing(true);
    // One connection that writes, as the inbox has. With another one a dropped transaction, which is rolled
    // back by its connection's own thread a little later, would still hold the lock when the next begins.
    let pool = SqlitePoolOptions::new().max_connections(1);
    OnSqlite {
        pool: pool.connect_with(options).await.unwrap(),
        _folder: folder,
    }
}

macro_rules! bench {
    ($bench:ty, $tx:ty, $engine:ty, |$it:ident| $begin:expr, |$of:ident, $ending:ident| $commit:expr) => {
        impl Bench for $bench {
            type Tx = $tx;
            type Engine = $engine;

            fn engine(&self, config: &SqlConfig) -> Self::Engine {
                <$engine>::new("shop", config).unwrap()
            }

            async fn begin(&self) -> Self::Tx {
                let $it = self;
                $begin.await.unwrap()
            }

            async fn commit(&self, $ending: Self::Tx) {
                let $of = self;
                $commit.await.unwrap();
            }

            async fn run(&self, sql: &str) {
                sqlx::raw_sql(AssertSqlSafe(sql))
                    .execute(&self.pool)
                    .await
                    .unwrap();
            }

            async fn number(&self, sql: &str) -> i64 {
                sqlx::query_scalar(AssertSqlSafe(sql))
                    .fetch_one(&self.pool)
                    .await
                    .unwrap()
            }
        }
    };
}
bench!(
    OnPostgres,
    Tx,
    SqlOnPostgres,
    |it| it.inbox.begin(),
    |it, tx| it.inbox.commit(tx)
);
bench!(
    OnSqlite,
    Transaction<'static, Sqlite>,
    SqlOnSqlite,
    |it| it.pool.begin_with("BEGIN IMMEDIATE"),
    |_it, tx| tx.commit()
);

macro_rules! on_every_database {
    ($($behaviour:ident),+ $(,)?) => {
        mod every_postgres {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(super::on_postgres().await).await;
            })+
        }
        mod every_sqlite {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(super::on_sqlite().await).await;
            })+
        }
    };
}

on_every_database!(
    match_says_who_waits,
    a_message_sees_what_the_one_before_it_did,
    only_rows_that_were_inserted_are_applied,
    what_a_statement_refuses_is_about_its_message,
    messages_wait_while_a_statement_does_not_fit_the_tables,
    a_table_may_change_under_the_statements,
    a_message_without_a_parameter_does_not_fit,
);

fn config(matches: Option<&str>, apply: &str) -> SqlConfig {
    let json = serde_json::json!({ "match": matches, "apply": apply });
    serde_json::from_value(json).unwrap()
}

fn message(key: &str, variables: &[(&str, Value)]) -> Message {
    Message {
        dedup_key: DedupKey::new(key.to_owned()),
        action: Action::Apply(Apply {
            business_key: Some("B-1".to_owned()),
        }),
        variables: variables
            .iter()
            .map(|(name, value)| Variable {
                name: (*name).to_owned(),
                value: value.clone(),
            })
            .collect(),
        order_key: None,
    }
}

fn ask(message: &Message) -> Ask<'_> {
    Ask {
        row: RowId::fresh(),
        epoch: 1,
        redriven: false,
        message,
        identity: Hash::of(&[b"identity"]),
        start_if_nobody: false,
        broadcast: false,
    }
}

/// What a look finds and, when every row is inserted, the hand-over misses.
async fn drive<B: Bench>(
    bench: &B,
    engine: &B::Engine,
    messages: &[Message],
) -> Result<(Vec<Outcome>, Vec<Missed>), DbError> {
    let asks: Vec<Ask<'_>> = messages.iter().map(ask).collect();
    let mut tx = bench.begin().await;
    let matched = engine.look(&mut tx, &asks).await?;
    let outcomes = (0..asks.len())
        .map(|n| matched.outcome(n).clone())
        .collect();
    let rows: HashSet<RowId> = asks.iter().map(|ask| ask.row).collect();
    let missed = matched.hand(&mut tx, &rows).await?;
    bench.commit(tx).await;
    Ok((outcomes, missed))
}

const EFFECT: Outcome = Outcome::Effect {
    process_instance_id: None,
};

fn order(id: i64) -> Value {
    Value::Long(id)
}

const ORDERS: &str = "CREATE TABLE orders (id bigint NOT NULL, state text NOT NULL)";
const PAYMENTS: &str = "CREATE TABLE payments (order_id bigint NOT NULL CHECK (order_id > 0), \
                        message text NOT NULL UNIQUE, business_key text, row_id text)";
const PAY: &str = "INSERT INTO payments (order_id, message, business_key, row_id) \
                   VALUES (:order_id, :dedup_key, :business_key, :row_id)";
const OPEN: &str = "SELECT id FROM orders WHERE id = :order_id AND state = 'open'";

async fn match_says_who_waits<B: Bench>(bench: B) {
    bench.run(ORDERS).await;
    bench.run(PAYMENTS).await;
    let engine = bench.engine(&config(Some(OPEN), PAY));
    let payment = [message("p-1", &[("order_id", order(7))])];

    let (outcomes, _) = drive(&bench, &engine, &payment).await.unwrap();
    assert_eq!(outcomes, [Outcome::Nobody]);
    assert_eq!(bench.number("SELECT count(*) FROM payments").await, 0);

    bench.run("INSERT INTO orders VALUES (7, 'open')").await;
    let (outcomes, missed) = drive(&bench, &engine, &payment).await.unwrap();
    assert_eq!((outcomes.as_slice(), missed.len()), (&[EFFECT][..], 0));
    let paid = "SELECT count(*) FROM payments \
                WHERE order_id = 7 AND message = 'p-1' AND business_key = 'B-1' \
                AND length(row_id) = 36";
    assert_eq!(bench.number(paid).await, 1);

    bench.run("INSERT INTO orders VALUES (7, 'open')").await;
    let (outcomes, _) = drive(&bench, &engine, &payment).await.unwrap();
    let Outcome::Wait { reason, .. } = &outcomes[0] else {
        panic!("two orders match: {outcomes:?}");
    };
    assert_eq!(*reason, WaitReason::Ambiguous);
}

async fn a_message_sees_what_the_one_before_it_did<B: Bench>(bench: B) {
    bench.run(ORDERS).await;
    bench.run("INSERT INTO orders VALUES (7, 'open')").await;
    let close = "UPDATE orders SET state = :dedup_key WHERE id = :order_id";
    let engine = bench.engine(&config(Some(OPEN), close));
    let payments = ["first", "second"].map(|key| message(key, &[("order_id", order(7))]));

    let (outcomes, missed) = drive(&bench, &engine, &payments).await.unwrap();
    assert_eq!(outcomes, [EFFECT, EFFECT]);
    let [missed] = missed.as_slice() else {
        panic!("one order, two payments: {missed:?}");
    };
    assert_eq!(missed.reason, WaitReason::NoSubscription);
    let first = "SELECT count(*) FROM orders WHERE state = 'first'";
    assert_eq!(bench.number(first).await, 1);
}

async fn only_rows_that_were_inserted_are_applied<B: Bench>(bench: B) {
    bench.run(PAYMENTS).await;
    let engine = bench.engine(&config(None, PAY));
    let payments = ["new", "duplicate"].map(|key| message(key, &[("order_id", order(7))]));
    let asks: Vec<Ask<'_>> = payments.iter().map(ask).collect();
    let mut tx = bench.begin().await;
    let matched = engine.look(&mut tx, &asks).await.unwrap();
    matched
        .hand(&mut tx, &HashSet::from([asks[0].row]))
        .await
        .unwrap();
    bench.commit(tx).await;
    let new = "SELECT count(*) FROM payments WHERE message = 'new'";
    assert_eq!(bench.number(new).await, 1);
    assert_eq!(bench.number("SELECT count(*) FROM payments").await, 1);
}

async fn what_a_statement_refuses_is_about_its_message<B: Bench>(bench: B) {
    bench.run(PAYMENTS).await;
    let engine = bench.engine(&config(None, PAY));
    let refused = [
        message("violates a check", &[("order_id", order(-1))]),
        message("is null", &[("order_id", Value::Null)]),
    ];
    for message in refused {
        let what = message.dedup_key.text.clone();
        let error = drive(&bench, &engine, &[message]).await.expect_err(&what);
        assert_eq!(error.class, Class::Message, "{what}: {error}");
    }
    let payment = [message("violates a key", &[("order_id", order(1))])];
    drive(&bench, &engine, &payment).await.unwrap();
    let error = drive(&bench, &engine, &payment).await.expect_err("a key");
    assert_eq!(error.class, Class::Message, "{error}");
    assert_eq!(bench.number("SELECT count(*) FROM payments").await, 1);
}

async fn messages_wait_while_a_statement_does_not_fit_the_tables<B: Bench>(bench: B) {
    let engine = bench.engine(&config(None, PAY));
    let payment = [message("p-1", &[("order_id", order(7))])];
    let (outcomes, _) = drive(&bench, &engine, &payment).await.unwrap();
    let Outcome::Wait { reason, detail } = &outcomes[0] else {
        panic!("there is no table: {outcomes:?}");
    };
    assert_eq!(*reason, WaitReason::EngineDown);
    assert!(detail.contains("payments"), "{detail}");
    let mut tx = bench.begin().await;
    let state = engine.refresh(&mut tx).await.unwrap();
    assert_eq!(state.blocked_details.len(), 1);
    let findings = engine.inspect(&mut tx).await.unwrap();
    assert!(findings[0].text.contains("payments"), "{findings:?}");
    bench.commit(tx).await;

    bench.run(PAYMENTS).await;
    let (outcomes, _) = drive(&bench, &engine, &payment).await.unwrap();
    assert_eq!(outcomes, [EFFECT]);
    assert_eq!(bench.number("SELECT count(*) FROM payments").await, 1);
    let mut tx = bench.begin().await;
    let state = engine.refresh(&mut tx).await.unwrap();
    assert_eq!(state.blocked_details, Vec::<String>::new());
}

async fn a_table_may_change_under_the_statements<B: Bench>(bench: B) {
    bench.run(PAYMENTS).await;
    let engine = bench.engine(&config(None, &format!("{PAY} RETURNING *")));
    let payment = |key: &str| [message(key, &[("order_id", order(7))])];
    drive(&bench, &engine, &payment("p-1")).await.unwrap();

    bench.run("ALTER TABLE payments ADD COLUMN note text").await;
    // The statement was prepared for the old table; at most once it fails for that.
    if drive(&bench, &engine, &payment("p-2")).await.is_err() {
        drive(&bench, &engine, &payment("p-2")).await.unwrap();
    }
    bench.run("DROP TABLE payments").await;
    if let Ok((outcomes, _)) = drive(&bench, &engine, &payment("p-3")).await {
        assert!(matches!(outcomes[0], Outcome::Wait { .. }), "{outcomes:?}");
    }
    let (outcomes, _) = drive(&bench, &engine, &payment("p-3")).await.unwrap();
    assert!(matches!(outcomes[0], Outcome::Wait { .. }), "{outcomes:?}");
    bench.run(PAYMENTS).await;
    drive(&bench, &engine, &payment("p-3")).await.unwrap();
    assert_eq!(bench.number("SELECT count(*) FROM payments").await, 1);
}

async fn a_message_without_a_parameter_does_not_fit<B: Bench>(bench: B) {
    let engine = bench.engine(&config(Some(OPEN), PAY));
    let undecodable = engine.fits(&message("p-1", &[])).expect_err("no order_id");
    assert_eq!(undecodable.reason, DeadReason::Mapping);
    assert!(undecodable.detail.contains(":order_id"), "{undecodable}");
    let whole = message("p-1", &[("order_id", Value::Null)]);
    engine.fits(&whole).expect("null is a value");
}
