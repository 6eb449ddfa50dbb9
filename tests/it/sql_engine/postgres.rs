//! What only PostgreSQL does: types that it names, sessions side by side; and the way through the intake.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice::engine::sql::SqlOnPostgres;
use sluice::engine::{Engine, Outcome};
use sluice::finding::Level;
use sluice::inbox::postgres::{PostgresInbox, Tx};
use sluice::inbox::{Class, Filter, Inbox, StateName};
use sluice::intake::{Intake, IntakeConfig};
use sluice::message::{DeadReason, Delivery, Envelope, Receipt, Value};
use sluice::route::{Route, Routes};
use sluice::source::OnUnrouted;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{Bench, EFFECT, OPEN, ORDERS, ask, config, drive, message, on_postgres, order};
use crate::rig::{eventually, unique};

const TYPES: &str = "CREATE TYPE colour AS ENUM ('red', 'green'); \
    CREATE DOMAIN positive AS int CHECK (VALUE > 0); \
    CREATE TABLE kinds (flag boolean, small smallint, whole int, big bigint, exact numeric(12, 2), \
    double double precision, words varchar(5), letter char(3), body jsonb, raw bytea, \
    at timestamptz, day date, id uuid, colour colour, address inet, tags text[], positive positive)";

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

/// A value for each column.
fn kinds() -> Vec<(&'static str, Value)> {
    vec![
        ("flag", Value::Boolean(true)),
        ("small", Value::Short(-3)),
        ("whole", string("12")),
        ("big", Value::Long(i64::MAX)),
        ("exact", string("1234567890.12")),
        ("double", Value::Double(0.1)),
        ("words", string("ä'b\"c")),
        ("letter", string("abc")),
        ("body", Value::Json("{\"a\": [1, null]}".to_owned())),
        ("raw", Value::Bytes(vec![0, 39, 92, 255])),
        ("at", Value::Date(1_700_000_000_123)),
        ("day", string("2026-11-21")),
        ("id", string("0190A7C0-0000-7000-8000-000000000001")),
        ("colour", string("green")),
        ("address", string("10.0.0.1")),
        ("tags", string("{a,b}")),
        ("positive", Value::Integer(1)),
    ]
}

fn insert_kinds() -> String {
    let names: Vec<_> = kinds().iter().map(|(name, _)| *name).collect();
    format!(
        "INSERT INTO kinds ({}) VALUES (:{})",
        names.join(", "),
        names.join(", :")
    )
}

#[tokio::test]
async fn a_value_arrives_as_what_the_column_holds() {
    let bench = on_postgres().await;
    bench.run(TYPES).await;
    let engine = bench.engine(&config(None, &insert_kinds()));
    let (outcomes, _) = drive(&bench, &engine, &[message("m", &kinds())])
        .await
        .unwrap();
    assert_eq!(outcomes, [EFFECT]);
    let right = "SELECT count(*) FROM kinds WHERE flag AND small = -3 AND whole = 12 \
        AND big = 9223372036854775807 AND exact = 1234567890.12 AND double = 0.1 \
        AND words = 'ä''b\"c' AND letter = 'abc' AND body = '{\"a\":[1,null]}' \
        AND raw = '\\x00275cff' AND at = to_timestamp(1700000000.123) AND day = '2026-11-21' \
        AND id = '0190a7c0-0000-7000-8000-000000000001' AND colour = 'green' \
        AND address = '10.0.0.1' AND tags = ARRAY['a', 'b'] AND positive = 1";
    assert_eq!(bench.number(right).await, 1);
    let nulls: Vec<_> = kinds()
        .iter()
        .map(|(name, _)| (*name, Value::Null))
        .collect();
    drive(&bench, &engine, &[message("m", &nulls)])
        .await
        .unwrap();
    let all_null = "SELECT count(*) FROM kinds WHERE kinds IS NULL";
    assert_eq!(bench.number(all_null).await, 1);
}

#[tokio::test]
async fn a_value_of_another_type_is_never_another_value() {
    let bench = on_postgres().await;
    bench.run(TYPES).await;
    let engine = bench.engine(&config(None, &insert_kinds()));
    let with = |name: &str, value: Value| {
        let mut kinds = kinds();
        let place = kinds.iter().position(|(known, _)| *known == name).unwrap();
        kinds[place].1 = value;
        message("m", &kinds)
    };
    // What can be told beforehand is dead at once, and named.
    for (name, value) in [
        ("flag", Value::Integer(1)),
        ("small", Value::Integer(40_000)),
        ("whole", Value::Double(5.0)),
        ("exact", string("twelve")),
        ("words", string("a\0b")),
        ("body", Value::Bytes(vec![123])),
        ("raw", string("\\x00")),
        ("id", string("no")),
        ("positive", string("many")),
    ] {
        let (outcomes, _) = drive(&bench, &engine, &[with(name, value)]).await.unwrap();
        let Outcome::Dead { reason, detail } = &outcomes[0] else {
            panic!("{name}: {outcomes:?}");
        };
        assert_eq!(*reason, DeadReason::Mapping);
        assert!(detail.contains(&format!(":{name}:")), "{detail}");
    }
    // The rest the server refuses, and it is about the message.
    for (name, value) in [
        ("words", string("longer")),
        ("colour", string("blue")),
        ("at", string("tomorrow, perhaps")),
        ("address", string("10.0.0.256")),
        ("positive", Value::Integer(-1)),
        ("body", Value::Json("{".to_owned())),
    ] {
        let error = drive(&bench, &engine, &[with(name, value)])
            .await
            .expect_err(name);
        assert_eq!(error.class, Class::Message, "{name}: {error}");
    }
    assert_eq!(bench.number("SELECT count(*) FROM kinds").await, 0);
}

#[tokio::test]
async fn a_deferred_constraint_is_about_the_message_too() {
    let bench = on_postgres().await;
    bench
        .run("CREATE TABLE t (k text UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        .await;
    let engine = bench.engine(&config(None, "INSERT INTO t VALUES ('same' || :n)"));
    let twice = [1, 2].map(|_| message("m", &[("n", string(""))]));
    let error = drive(&bench, &engine, &twice).await.expect_err("twice");
    assert_eq!(error.class, Class::Message, "{error}");
}

#[tokio::test]
async fn what_a_user_raises_is_about_the_message() {
    let bench = on_postgres().await;
    bench
        .run(
            "CREATE FUNCTION refuse(what text) RETURNS void LANGUAGE plpgsql \
             AS $$ BEGIN RAISE EXCEPTION 'no %', what; END $$",
        )
        .await;
    let engine = bench.engine(&config(None, "SELECT refuse(:what)"));
    let error = drive(&bench, &engine, &[message("m", &[("what", string("way"))])])
        .await
        .expect_err("raised");
    assert_eq!(error.class, Class::Message);
    assert!(error.to_string().contains("no way"), "{error}");
}

#[tokio::test]
async fn what_is_raised_by_a_code_of_the_users_own_is_about_the_message_and_the_servers_troubles_are_not()
 {
    let bench = on_postgres().await;
    bench
        .run(
            "CREATE FUNCTION refuse(what text) RETURNS void LANGUAGE plpgsql \
             AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = what; END $$",
        )
        .await;
    let engine = bench.engine(&config(None, "SELECT refuse(:what)"));
    for (class, codes) in [
        (
            Class::Message,
            vec![
                "ORD01", "20000", "2D000", "42501", "55000", "XX000", "28000", "P0002",
            ],
        ),
        (
            Class::Outage,
            vec!["08006", "25006", "53100", "57014", "57P01", "58030"],
        ),
        (Class::Again, vec!["40001", "40P01", "55P03"]),
    ] {
        for code in codes {
            let refused = drive(&bench, &engine, &[message("m", &[("what", string(code))])]).await;
            assert_eq!(refused.expect_err(code).class, class, "{code}");
        }
    }
}

#[tokio::test]
async fn a_case_that_is_not_found_and_a_commit_inside_are_about_the_message() {
    let bench = on_postgres().await;
    bench
        .run(
            "CREATE FUNCTION pick(n int) RETURNS int LANGUAGE plpgsql \
             AS $$ BEGIN CASE n WHEN 1 THEN RETURN 1; END CASE; END $$; \
             CREATE PROCEDURE finish() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$",
        )
        .await;
    for (apply, code) in [("SELECT pick(:n)", "20000"), ("CALL finish()", "2D000")] {
        let engine = bench.engine(&config(None, apply));
        let refused = drive(
            &bench,
            &engine,
            &[message("m", &[("n", Value::Integer(2))])],
        )
        .await;
        let refused = refused.expect_err(apply);
        assert_eq!(refused.code().as_deref(), Some(code));
        assert_eq!(refused.class, Class::Message, "{refused}");
    }
}

/// Row level security refuses one row by the code of a privilege that nobody was given.
#[tokio::test]
async fn a_policy_refuses_a_message_and_a_missing_privilege_none() {
    let bench = on_postgres().await;
    let role = unique();
    bench
        .run(&format!(
            "CREATE ROLE {role}; CREATE TABLE open (n int); CREATE TABLE closed (n int); \
             ALTER TABLE open ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY small ON open WITH CHECK (n < 10); GRANT INSERT ON open TO {role}; \
             CREATE FUNCTION inside(n int) RETURNS void LANGUAGE sql \
             AS 'INSERT INTO closed VALUES (n)'"
        ))
        .await;
    let apply = async |statement: &str, n: i32| {
        let engine = bench.engine(&config(None, statement));
        let mut tx = bench.begin().await;
        // Prepared by whoever may everything, as when the privilege is taken away later.
        let told = engine.inspect(&mut tx).await.unwrap();
        assert!(told.iter().all(|f| f.level == Level::Info), "{told:?}");
        sqlx::raw_sql(AssertSqlSafe(format!("SET LOCAL ROLE {role}")))
            .execute(&mut *tx)
            .await
            .unwrap();
        let message = message("m", &[("n", Value::Integer(n))]);
        let ask = ask(&message);
        let matched = engine.look(&mut tx, &[ask]).await?;
        matched.hand(&mut tx, &HashSet::from([ask.row])).await
    };
    let open = "INSERT INTO open VALUES (:n)";
    apply(open, 1).await.expect("it is granted and small");
    let refused = apply(open, 11).await.expect_err("it is not small");
    assert_eq!(refused.class, Class::Message, "{refused}");
    for closed in ["INSERT INTO closed VALUES (:n)", "SELECT inside(:n)"] {
        let refused = apply(closed, 1).await.expect_err("it is not granted");
        assert_eq!(refused.code().as_deref(), Some("42501"));
        assert_eq!(refused.class, Class::Outage, "{closed}: {refused}");
    }
    bench
        .run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}

#[tokio::test]
async fn a_match_that_locks_holds_until_the_commit() {
    let bench = on_postgres().await;
    bench.run(ORDERS).await;
    bench.run("INSERT INTO orders VALUES (7, 'open')").await;
    let close = "UPDATE orders SET state = 'paid' WHERE id = :order_id";
    let engine = Arc::new(bench.engine(&config(Some(&format!("{OPEN} FOR UPDATE")), close)));
    let first = message("first", &[("order_id", order(7))]);
    let first = ask(&first);
    let mut tx = bench.begin().await;
    let matched = engine.look(&mut tx, &[first]).await.unwrap();
    assert_eq!(*matched.outcome(0), EFFECT);

    let mut other = bench.begin().await;
    let second = {
        let engine = Arc::clone(&engine);
        tokio::spawn(async move {
            let second = message("second", &[("order_id", order(7))]);
            let matched = engine.look(&mut other, &[ask(&second)]).await.unwrap();
            matched.outcome(0).clone()
        })
    };
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually(
        "the second look's waiting",
        Duration::from_secs(10),
        async || (bench.number(waiting).await == 1).then_some(()),
    )
    .await;
    matched
        .hand(&mut tx, &HashSet::from([first.row]))
        .await
        .unwrap();
    bench.commit(tx).await;
    assert_eq!(second.await.unwrap(), Outcome::Nobody);
}

fn delivery(tag: u64, payload: &str) -> Delivery {
    Delivery {
        step: None,
        source: "shop".into(),
        payload: Bytes::from(payload.to_owned()),
        envelope: Envelope::default(),
        redelivered: false,
        receipt: Receipt {
            lane: 0,
            incarnation: 1,
            tag,
        },
    }
}

#[tokio::test]
async fn one_refused_message_does_not_hold_up_its_neighbours() {
    let bench = on_postgres().await;
    bench
        .run("CREATE TABLE effects (n int CHECK (n <> 13), note text)")
        .await;
    let inbox =
        PostgresInbox::connect(&crate::inbox::config(&bench.database.url()), "test").unwrap();
    inbox.migrate().await.unwrap();
    let route = "source = 'shop'\nengine = 'shop'\ndedup_key = '$.n'\n\
                 [apply]\nvariables = { n = '$.n', note = { from = '$.note', optional = true } }";
    let routes = Routes::new(
        [("shop".to_owned(), OnUnrouted::Dead)],
        [Route::new("numbers", toml::from_str(route).unwrap())],
    );
    let apply = config(None, "INSERT INTO effects VALUES (:n, :note)");
    let engine: Arc<dyn Engine<Tx>> = Arc::new(SqlOnPostgres::new("shop", &apply).unwrap());
    let intake = Intake::new(
        inbox.clone(),
        [engine],
        Arc::new(routes),
        Uuid::now_v7(),
        IntakeConfig::default(),
    );
    let mut batch: Vec<_> = (0..20)
        .map(|n| delivery(n, &format!("{{\"n\": {n}}}")))
        .collect();
    batch.push(delivery(20, "{\"n\": \"a few\"}"));
    assert_eq!(intake.accept(batch).await.unwrap().len(), 21);

    assert_eq!(bench.number("SELECT count(*) FROM effects").await, 19);
    let rows = |state| Filter {
        state: Some(state),
        limit: 100,
        ..Filter::default()
    };
    let done = inbox.list(&rows(StateName::Done), false).await.unwrap();
    assert_eq!(done.len(), 19);
    let waiting = inbox.list(&rows(StateName::Waiting), false).await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].dedup_key, "13");
    assert_eq!(waiting[0].reason.as_deref(), Some("retry"));
    assert_eq!(waiting[0].attempts, 1);
    let dead = inbox.list(&rows(StateName::Dead), false).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert!(dead[0].detail.contains(":n:"), "{}", dead[0].detail);
}
