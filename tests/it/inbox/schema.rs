//! Migrations.

use sluice::inbox::postgres::PostgresInbox;
use sluice::inbox::sqlite::SqliteInbox;
use sluice::inbox::{Inbox, SchemaStatus};

use super::{Fresh, Kept, on_every_database};

const MIGRATIONS: [&str; 3] = ["0001 inbox", "0002 source position", "0003 position anchor"];

on_every_database! {
    migrating_again_changes_nothing,
    tables_of_an_older_version_are_refused,
    newer_tables_are_used_if_they_allow_it,
}

#[tokio::test]
async fn tables_are_missing_until_they_are_made_on_postgres() {
    tables_are_missing_until_they_are_made::<PostgresInbox>().await;
}

#[tokio::test]
async fn tables_are_missing_until_they_are_made_on_sqlite() {
    tables_are_missing_until_they_are_made::<SqliteInbox>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_migrate_at_once_do_it_once_on_postgres() {
    nodes_that_migrate_at_once_do_it_once::<PostgresInbox>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_migrate_at_once_do_it_once_on_sqlite() {
    nodes_that_migrate_at_once_do_it_once::<SqliteInbox>().await;
}

async fn tables_are_missing_until_they_are_made<I: Kept>() {
    let place = I::place().await;
    let inbox = I::node(&place);
    assert_eq!(inbox.schema_status().await.unwrap(), SchemaStatus::Missing);
    assert_eq!(inbox.migrate().await.unwrap(), MIGRATIONS);
    assert_eq!(inbox.schema_status().await.unwrap(), SchemaStatus::Current);
    // A migration that did not come to its end is not there.
    inbox.sql("DELETE FROM schema_migration").await;
    assert_eq!(inbox.schema_status().await.unwrap(), SchemaStatus::Missing);
}

async fn nodes_that_migrate_at_once_do_it_once<I: Kept>() {
    let place = I::place().await;
    let nodes: Vec<I> = (0..4).map(|_| I::node(&place)).collect();
    let done = futures_util::future::join_all(nodes.iter().map(Inbox::migrate)).await;
    let mut applied: Vec<String> = done.into_iter().flat_map(Result::unwrap).collect();
    applied.sort();
    assert_eq!(applied, MIGRATIONS);
    for node in nodes {
        assert_eq!(node.schema_status().await.unwrap(), SchemaStatus::Current);
    }
}

async fn migrating_again_changes_nothing<I: Kept>(fresh: Fresh<I>) {
    assert!(fresh.inbox.migrate().await.unwrap().is_empty());
    assert_eq!(
        fresh.inbox.schema_status().await.unwrap(),
        SchemaStatus::Current
    );
}

async fn tables_of_an_older_version_are_refused<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    inbox
        .sql("DELETE FROM schema_migration WHERE version > 1")
        .await;
    let behind = SchemaStatus::Behind {
        version: 1,
        expected: 3,
    };
    assert_eq!(inbox.schema_status().await.unwrap(), behind);
}

async fn newer_tables_are_used_if_they_allow_it<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let newer =
        "INSERT INTO schema_migration (version, description, success, checksum, execution_time)
        SELECT 99, 'of a newer version', success, checksum, 0 FROM schema_migration WHERE version = 1";
    inbox.sql(newer).await;
    assert_eq!(inbox.schema_status().await.unwrap(), SchemaStatus::Current);
    assert!(inbox.migrate().await.unwrap().is_empty());
    inbox.sql("UPDATE compatibility SET min_reader = 99").await;
    let too_new = SchemaStatus::TooNew { version: 99 };
    assert_eq!(inbox.schema_status().await.unwrap(), too_new);
}
