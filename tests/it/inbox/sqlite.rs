//! What only SQLite does, or cannot.

use std::path::Path;

use sluice::inbox::sqlite::SqliteInbox;
use sluice::inbox::{Class, DbError, Inbox};
use sluice::units::Span;
use sqlx::{Executor as _, SqlSafeStr as _};

use super::rows::{insert, order, row};
use super::{Fresh, Kept, config, fresh, url_in};

#[tokio::test]
async fn every_statement_prepares_against_the_live_schema() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<SqliteInbox>().await;
    let mut connection = inbox.writer().acquire().await.unwrap();
    let statements = inbox.statements();
    assert!(statements.len() > 20);
    for statement in statements {
        assert!(statement.starts_with("/* inbox."), "{statement}");
        if let Err(error) = connection.prepare(statement.into_sql_str()).await {
            panic!("{error}: {statement}");
        }
    }
}

#[tokio::test]
async fn order_per_key_is_refused() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<SqliteInbox>().await;
    let mut tx = inbox.begin().await.unwrap();
    assert!(
        inbox
            .lock_order_keys(&mut tx, &[], &[])
            .await
            .unwrap()
            .is_empty()
    );
    let error = inbox
        .lock_order_keys(&mut tx, &[order("a")], &[])
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("order per key needs PostgreSQL"),
        "{error}"
    );
}

#[tokio::test]
async fn a_database_in_memory_is_refused() {
    for url in ["sqlite::memory:", "sqlite://x.db?mode=memory", "mysql://x"] {
        assert!(SqliteInbox::connect(&config(url)).is_err(), "{url}");
    }
}

#[tokio::test]
async fn looking_for_the_tables_makes_no_file() {
    let place = SqliteInbox::place().await;
    SqliteInbox::node(&place).schema_status().await.unwrap();
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_committed_survives_a_power_failure() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<SqliteInbox>().await;
    for pool in [inbox.writer(), inbox.readers()] {
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
            .fetch_one(pool)
            .await
            .unwrap();
        assert_eq!(synchronous, 2, "FULL");
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(pool)
            .await
            .unwrap();
        assert_eq!(journal, "wal");
    }
}

#[tokio::test]
async fn a_writer_that_waits_too_long_for_another_process_tries_again() {
    let Fresh { inbox, place } = fresh::<SqliteInbox>().await;
    let mut impatient = config(&url_in(&place));
    impatient.lock_timeout = Span::ms(50);
    let other = SqliteInbox::connect(&impatient).unwrap();

    let tx = inbox.begin().await.unwrap();
    let error = other.begin().await.unwrap_err();
    assert_eq!(error.class, Class::Again, "{error}");
    assert!(error.is_contention(), "it lasts as long as the other one");
    // Readers are not held up.
    assert_eq!(other.counts().await.unwrap().len(), 1);
    drop(tx);
    crate::rig::eventually(
        "a turn of the other writer",
        std::time::Duration::from_secs(10),
        async || other.begin().await.ok(),
    )
    .await;
    assert_eq!(insert(&other, &[row("a")]).await.len(), 1);
}

/// Everything that counts goes to the file that an operator, a backup and the next start find.
async fn until_it_is_put_back(take_away: impl Fn(&Path), words: &str) {
    let Fresh { inbox, place } = fresh::<SqliteInbox>().await;
    assert_eq!(insert(&inbox, &[row("before")]).await.len(), 1);
    let path = place.path().join("sluice.db");
    let kept = place.path().join("kept.db");
    std::fs::hard_link(&path, &kept).unwrap();
    take_away(&path);

    for written in [store(&inbox, "lost").await, inbox.probe().await] {
        let error = written.expect_err("the file is not there");
        assert_eq!(error.class, Class::Outage, "{error}");
        assert!(!error.may_be_the_batch(), "{error}");
        let said = error.to_string();
        assert!(said.contains(words) && said.contains("sluice.db"), "{said}");
    }
    std::fs::rename(&kept, &path).unwrap();
    inbox.probe().await.unwrap();
    store(&inbox, "after").await.unwrap();
}

/// What the intake does with a message.
async fn store(inbox: &SqliteInbox, key: &str) -> Result<(), DbError> {
    let mut tx = inbox.begin().await?;
    inbox.insert(&mut tx, &[row(key)]).await?;
    inbox.commit(tx).await
}

#[tokio::test]
async fn nothing_counts_as_stored_in_a_file_that_was_deleted() {
    let delete = |path: &Path| std::fs::remove_file(path).unwrap();
    until_it_is_put_back(delete, "deleted").await;
}

#[tokio::test]
async fn nothing_counts_as_stored_in_a_file_that_was_replaced() {
    let replace = |path: &Path| {
        let other = path.with_extension("other");
        std::fs::copy(path, &other).unwrap();
        std::fs::rename(&other, path).unwrap();
    };
    until_it_is_put_back(replace, "replaced").await;
}

#[tokio::test]
async fn only_migrations_make_the_file() {
    let place = SqliteInbox::place().await;
    for url in [url_in(&place), format!("{}?mode=rwc", url_in(&place))] {
        let inbox = SqliteInbox::connect(&config(&url)).unwrap();
        let error = inbox.probe().await.expect_err("there is no file");
        assert_eq!(error.class, Class::Outage, "{error}");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
