//! What only PostgreSQL does: sessions and their limits, rows shared by locks.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use sluice::inbox::postgres::PostgresInbox;
use sluice::inbox::{Class, Inbox, InboxConfig, State, StateName};
use sluice::units::Span;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::net::{TcpListener, TcpStream};

use super::rows::{done, due, due_now, insert, insert_many, row, row_in, waiting};
use super::{Fresh, Kept, config, fresh};
use crate::rig::{Database, eventually};

const SOON: Duration = Duration::from_secs(20);

/// A node with other settings on the same tables.
fn node(place: &Database, change: impl FnOnce(&mut InboxConfig)) -> PostgresInbox {
    let mut config = config(&place.url());
    change(&mut config);
    PostgresInbox::connect(&config, "sluice/test").unwrap()
}

#[tokio::test]
async fn every_statement_prepares_against_the_live_schema() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    let mut connection = inbox.pool().acquire().await.unwrap();
    let statements = inbox.statements();
    assert!(statements.len() > 20);
    for statement in statements {
        let text = statement.as_str().to_owned();
        assert!(text.starts_with("/* inbox."), "{text}");
        if let Err(error) = connection.prepare(statement).await {
            panic!("{error}: {text}");
        }
    }
}

#[tokio::test]
async fn the_tables_stand_in_the_schema_that_the_configuration_names() {
    let place = PostgresInbox::place().await;
    for schema in ["sluice_2", "Mixed", "order"] {
        let inbox = node(&place, |config| schema.clone_into(&mut config.schema));
        inbox.migrate().await.unwrap();
        assert_eq!(insert(&inbox, &[row("a")]).await.len(), 1);
    }
    let mut wrong = config(&place.url());
    wrong.schema = "a\"b".to_owned();
    let error = PostgresInbox::connect(&wrong, "sluice/test").err().unwrap();
    assert!(
        error.to_string().contains("is not an identifier"),
        "{error}"
    );
}

#[tokio::test]
async fn a_pool_is_made_without_a_server_and_says_outage() {
    let inbox = PostgresInbox::connect(&config("postgres://nobody@127.0.0.1:1/none"), "x").unwrap();
    let began = Instant::now();
    let error = inbox.begin().await.unwrap_err();
    assert_eq!(error.class, Class::Outage);
    assert_eq!(error.plight(), "does not answer");
    assert!(!error.may_be_the_batch());
    let said = error.to_string();
    assert!(
        said.starts_with("inbox.begin: 127.0.0.1:1: Connection refused"),
        "{said}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "after {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn what_a_server_has_against_a_node_is_said_in_its_own_words() {
    let place = PostgresInbox::place().await;
    let nobody = place.url().replace("postgres@", "nobody_knows_me@");
    let nowhere = place.url().replace(place.name(), "no_such_database");
    for (url, code, why) in [
        (nobody, "28000", "nobody_knows_me"),
        (nowhere, "3D000", "no_such_database"),
    ] {
        let inbox = PostgresInbox::connect(&config(&url), "sluice/test").unwrap();
        for error in [
            inbox.schema_status().await.unwrap_err(),
            inbox.migrate().await.unwrap_err(),
        ] {
            assert_eq!(error.code().as_deref(), Some(code), "{error}");
            assert_eq!(error.plight(), "refuses this node", "{error}");
            let said = error.to_string();
            assert_eq!(said.matches(why).count(), 1, "{said}");
        }
    }
}

#[tokio::test]
async fn a_busy_pool_is_not_a_refusing_server() {
    let place = PostgresInbox::place().await;
    let inbox = node(&place, |config| {
        config.connections = 1;
        config.idle_in_transaction_timeout = Span::secs(60);
    });
    let open = inbox.begin().await.unwrap();
    let error = inbox.begin().await.unwrap_err();
    assert!(
        error.to_string().contains("this node's are in use"),
        "{error}"
    );
    inbox.commit(open).await.unwrap();
    let open = inbox.begin().await.unwrap();
    inbox.commit(open).await.unwrap();
}

#[tokio::test]
async fn two_nodes_share_the_due_rows() {
    let Fresh { inbox, place } = fresh::<PostgresInbox>().await;
    let other = PostgresInbox::node(&place);
    insert_many(&inbox, 10, &waiting(Span::ms(0))).await;

    let mut first = inbox.begin().await.unwrap();
    let mut second = other.begin().await.unwrap();
    let mut taken: Vec<_> = due(&inbox, &mut first, 4)
        .await
        .iter()
        .map(|row| row.id)
        .collect();
    taken.extend(due(&other, &mut second, 4).await.iter().map(|row| row.id));
    assert_eq!(taken.len(), 8);
    taken.sort();
    taken.dedup();
    assert_eq!(taken.len(), 8, "no row twice");
    inbox.commit(first).await.unwrap();
    other.commit(second).await.unwrap();
    assert_eq!(due_now(&inbox).await.len(), 10);
}

#[tokio::test]
async fn batches_of_one_node_do_not_wait_for_each_others_counters() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    let node = uuid::Uuid::now_v7();
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut tx = inbox.begin().await.unwrap();
        inbox.count_duplicates(&mut tx, node, 1).await.unwrap();
        open.push(tx);
    }
    for tx in open {
        inbox.commit(tx).await.unwrap();
    }
}

/// A frozen node: its transaction stands still, holding a row.
#[tokio::test]
async fn the_server_ends_the_session_of_a_node_that_is_frozen_in_a_transaction() {
    let Fresh { inbox, place } = fresh::<PostgresInbox>().await;
    let frozen = node(&place, |config| {
        config.idle_in_transaction_timeout = Span::ms(300);
    });
    let row = row("a");
    insert(&inbox, std::slice::from_ref(&row)).await;

    let mut tx = frozen.begin().await.unwrap();
    assert_eq!(due(&frozen, &mut tx, 1).await.len(), 1);
    assert!(due_now(&inbox).await.is_empty(), "the frozen node holds it");
    eventually("the end of the frozen session", SOON, async || {
        (due_now(&inbox).await == [row.id]).then_some(())
    })
    .await;
    let back = super::rows::change_of(row.id, StateName::Waiting, State::Handed);
    let error = frozen.change(&mut tx, &[back]).await.unwrap_err();
    assert_eq!(error.class, Class::Outage, "{error}");
    assert!(frozen.commit(tx).await.is_err());
    // The pool has got over it.
    frozen.probe().await.unwrap();
}

#[tokio::test]
async fn a_lock_that_is_not_to_be_had_means_again() {
    let Fresh { inbox, place } = fresh::<PostgresInbox>().await;
    let impatient = node(&place, |config| config.lock_timeout = Span::ms(100));
    let mut holder = inbox.begin().await.unwrap();
    inbox.insert(&mut holder, &[row("a")]).await.unwrap();
    let mut tx = impatient.begin().await.unwrap();
    let error = impatient.insert(&mut tx, &[row("a")]).await.unwrap_err();
    assert_eq!(error.class, Class::Again, "{error}");
}

#[tokio::test]
async fn a_statement_that_runs_too_long_is_ended_and_blames_nobody() {
    let Fresh { inbox: _, place } = fresh::<PostgresInbox>().await;
    let hasty = node(&place, |config| config.statement_timeout = Span::ms(100));
    let mut tx = hasty.begin().await.unwrap();
    let slow = tx.execute("SELECT pg_sleep(60)").await;
    let error = sluice::inbox::DbError::of("slow")(slow.unwrap_err());
    assert_eq!(error.code().as_deref(), Some("57014"));
    assert_eq!(error.class, Class::Outage);
}

/// A commit that waits for a standby must not be ended by the limit: the server would say "done", although
/// the standby has nothing. The trigger stands for the wait.
#[tokio::test]
async fn the_limit_of_a_statement_does_not_end_a_commit() {
    let Fresh { inbox, place } = fresh::<PostgresInbox>().await;
    inbox
        .sql(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END';
            CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON inbox
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()",
        )
        .await;
    let hasty = node(&place, |config| config.statement_timeout = Span::ms(200));
    let row = row("a");
    assert_eq!(insert(&hasty, std::slice::from_ref(&row)).await, [row.id]);
    assert_eq!(due_now(&inbox).await, [row.id]);
}

#[tokio::test]
async fn a_commit_of_an_aborted_transaction_is_an_error() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    let mut tx = inbox.begin().await.unwrap();
    inbox.insert(&mut tx, &[row("a")]).await.unwrap();
    tx.execute("SELECT 1/0").await.unwrap_err();
    inbox.commit(tx).await.unwrap_err();
    assert!(due_now(&inbox).await.is_empty());
}

#[tokio::test]
async fn begin_sets_the_limits_and_the_commit_takes_them_away() {
    let Fresh { inbox: _, place } = fresh::<PostgresInbox>().await;
    let inbox = node(&place, |config| {
        config.connections = 1;
        config.synchronous_commit = sluice::inbox::SynchronousCommit::RemoteApply;
    });
    let settings = "SELECT concat_ws(' ', current_setting('idle_in_transaction_session_timeout'),
        current_setting('lock_timeout'), current_setting('statement_timeout'),
        current_setting('synchronous_commit'), current_setting('transaction_isolation'),
        current_setting('plan_cache_mode'), current_setting('enable_seqscan'),
        current_setting('enable_hashjoin'), current_setting('enable_mergejoin'), current_setting('jit'))";
    let outside = async || -> String {
        let set = sqlx::query_scalar(settings).fetch_one(inbox.pool()).await;
        set.unwrap()
    };
    let usual = outside().await;
    assert!(
        usual.starts_with("0 0 0 on read committed auto on on on"),
        "{usual}"
    );
    for small in [false, true] {
        let begun = if small {
            inbox.begin_small().await
        } else {
            inbox.begin().await
        };
        let mut tx = begun.unwrap();
        let planned = if small {
            "force_generic_plan off off off off"
        } else {
            "force_custom_plan on on on"
        };
        let inside = sqlx::query_scalar(settings).fetch_one(&mut *tx).await;
        let inside: String = inside.unwrap();
        let limits = "5s 5s 30s remote_apply read committed";
        assert!(
            inside.starts_with(&format!("{limits} {planned}")),
            "{inside}"
        );
        inbox.commit(tx).await.unwrap();
        assert_eq!(outside().await, usual);
    }
}

#[tokio::test]
async fn a_session_forgets_its_plans_after_a_minute() {
    let Fresh { inbox: _, place } = fresh::<PostgresInbox>().await;
    let inbox = node(&place, |config| config.connections = 1);
    let run = async |sql: &'static str| inbox.pool().execute(sql).await.unwrap();
    run("CREATE TABLE grows WITH (autovacuum_enabled = off) AS SELECT generate_series(1, 10) n; PREPARE kept AS SELECT n FROM grows").await;
    let planned = async || -> String {
        let plan = sqlx::query_scalar("EXPLAIN EXECUTE kept").fetch_one(inbox.pool());
        plan.await.unwrap()
    };
    let small = planned().await;
    run("INSERT INTO grows SELECT generate_series(1, 100000)").await;
    assert_eq!(planned().await, small, "the plan is kept");
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_ne!(planned().await, small, "the plan is made anew");
}

#[tokio::test]
async fn a_read_only_server_is_an_outage() {
    let Fresh { inbox, place } = fresh::<PostgresInbox>().await;
    inbox
        .sql(&format!(
            "ALTER DATABASE {} SET default_transaction_read_only = on",
            place.name()
        ))
        .await;
    let late = PostgresInbox::node(&place);
    assert_eq!(late.probe().await.unwrap_err().class, Class::Outage);
    let mut tx = late.begin().await.unwrap();
    let error = late.insert(&mut tx, &[row("a")]).await.unwrap_err();
    assert_eq!(error.code().as_deref(), Some("25006"));
    assert_eq!(error.class, Class::Outage);
}

#[tokio::test]
async fn a_pool_gets_over_the_end_of_all_its_sessions() {
    let Fresh { inbox, place } = fresh::<PostgresInbox>().await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(inbox.begin().await.unwrap());
    }
    let mut admin = PgConnection::connect(&place.url()).await.unwrap();
    admin
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name = 'sluice/test' AND datname = current_database()",
        )
        .await
        .unwrap();
    for tx in open {
        inbox.commit(tx).await.unwrap_err();
    }
    eventually(
        "a transaction after the end of all sessions",
        SOON,
        async || inbox.probe().await.ok(),
    )
    .await;
}

#[tokio::test]
async fn done_rows_of_a_large_table_are_estimated() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    for batch in 0..10 {
        let rows: Vec<_> = (0..1000)
            .map(|n| {
                let mut row = row_in(&format!("{batch}-{n}"), done());
                row.payload = vec![b'x'; 1200].into();
                row
            })
            .collect();
        insert(&inbox, &rows).await;
    }
    insert_many(&inbox, 100, &waiting(Span::ms(0))).await;
    inbox.sql("ANALYZE inbox").await;
    let counts = inbox.counts().await.unwrap();
    let done = counts
        .iter()
        .find(|count| count.state == StateName::Done)
        .unwrap();
    assert!((9_000..=11_000).contains(&done.rows), "{done:?}");
}

/// Between a node and the server; once it is frozen, what goes through it goes nowhere, and nobody is told.
struct Proxy {
    port: u16,
    frozen: tokio::sync::watch::Sender<bool>,
}

impl Proxy {
    async fn to(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (frozen, watch) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut watch = watch.clone();
                tokio::spawn(async move {
                    if *watch.borrow_and_update() {
                        return std::future::pending().await;
                    }
                    let mut server = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = watch.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Proxy { port, frozen }
    }

    /// What is connected stays frozen for ever; with `false` new connections go through again.
    fn freeze(&self, frozen: bool) {
        self.frozen.send(frozen).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_vanishes_is_an_outage_and_costs_the_pool_no_place() {
    let Fresh { inbox: _, place } = fresh::<PostgresInbox>().await;
    let server = PgConnectOptions::from_str(&place.url()).unwrap();
    let (host, port) = (server.get_host().to_owned(), server.get_port());
    let proxy = Proxy::to(format!("{host}:{port}").parse().unwrap()).await;
    let inbox = node(&place, |config| {
        config.url = place
            .url()
            .replace(&format!(":{port}"), &format!(":{}", proxy.port))
            .into();
        config.connections = 1;
        config.statement_timeout = Span::ms(100);
    });
    let mut tx = inbox.begin().await.unwrap();
    proxy.freeze(true);
    let error = inbox.insert(&mut tx, &[row("a")]).await.unwrap_err();
    assert_eq!(error.class, Class::Outage);
    assert!(error.to_string().contains("did not answer"), "{error}");
    drop(tx);
    proxy.freeze(false);
    eventually(
        "a probe on a new connection",
        Duration::from_mins(1),
        async || inbox.probe().await.ok(),
    )
    .await;
}

/// A dump reads for hours, and holds a lock on every table that it reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_must_wait_for_a_lock_holds_up_no_node() {
    let Fresh { inbox, place } = fresh::<PostgresInbox>().await;
    let before = "ALTER TABLE source_position DROP anchor_offset, DROP anchor_at_ms;
        DELETE FROM schema_migration WHERE version = 3";
    inbox.sql(before).await;
    let mut dump = PgConnection::connect(&place.url()).await.unwrap();
    dump.execute("BEGIN; LOCK TABLE sluice.source_position IN ACCESS SHARE MODE")
        .await
        .unwrap();
    let migrating = {
        let node = PostgresInbox::node(&place);
        tokio::spawn(async move { node.migrate().await })
    };
    let waits = "SELECT EXISTS (SELECT FROM pg_locks
        WHERE NOT granted AND relation = 'sluice.source_position'::regclass)";
    let asks = async || {
        let waits: bool = sqlx::query_scalar(waits)
            .fetch_one(inbox.pool())
            .await
            .unwrap();
        waits.then_some(())
    };
    eventually("the migration asking for its lock", SOON, asks).await;
    // More than its first try: a node's statement gets its turn in between, each time within its own limit.
    for _ in 0..2 {
        let mut tx = inbox.begin().await.unwrap();
        tx.execute("UPDATE sluice.source_position SET epoch = epoch")
            .await
            .unwrap();
        inbox.commit(tx).await.unwrap();
        eventually("it asking again", SOON, asks).await;
    }
    dump.execute("COMMIT").await.unwrap();
    let done = migrating.await.unwrap().unwrap();
    assert_eq!(done, ["0003 position anchor"]);
}
