//! Order keys: their locks, their heads, and who is next.
//!
//! The head of a key is the row with no earlier one that is waiting, handed, or dead in a scope where
//! dead rows block. A row that waits behind another has no due time, so that a million of them cost the
//! due sweep nothing: what finishes the head makes the next one due ([`wake_next`]). What that misses (a
//! row inserted at that very moment, a scope in which dead rows no longer block) is found by [`heads`],
//! which looks at a few of them each time, and so at all of them in turn. What is made due and is no head (a
//! row behind a dead one that blocks, or redriven together with the one before it) gives its due time back
//! when the due sweep meets it ([`super::due`]).
//! Invariant: positions of a key only grow, because they are taken under the key's lock.

use std::collections::BTreeSet;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::statement::statements;
use super::{PostgresInbox, Tx};
use crate::inbox::{DbError, OrderKey};
use crate::message::Hash;

/// How many rows without a due time one call of [`heads`] looks at.
const LOOKED_AT: i64 = 500;

/// Whether row `i` is its order key's head; a subquery, so that it stays a look into the index for each row.
macro_rules! is_head {
    ($blocking:literal) => {
        concat!(
            "(i.order_key IS NULL OR (
                SELECT true FROM {s}.inbox e
                WHERE e.order_scope = i.order_scope AND e.order_key = i.order_key
                    AND e.state <> 'done' AND e.position < i.position
                    AND (e.state <> 'dead' OR e.order_scope = ANY (",
            $blocking,
            "))
                LIMIT 1
            ) IS NULL)"
        )
    };
}
pub(super) use is_head;

statements! {
    lock: r"/* inbox.lock_order_keys */
        SELECT pg_advisory_xact_lock(k.lock)
        FROM unnest($1::bigint[]) AS k (lock)",
    unfinished: r"/* inbox.unfinished_order_keys */
        SELECT k.scope, k.key
        FROM unnest($1::text[], $2::text[]) AS k (scope, key)
        WHERE (
            SELECT true FROM {s}.inbox e
            WHERE e.order_scope = k.scope AND e.order_key = k.key
                AND e.state <> 'done'
                AND (e.state <> 'dead' OR e.order_scope = ANY ($3))
            LIMIT 1
        )",
    // Only the index of these rows has this order; the one of all that is not done would be read from end
    // to end wherever the planner believes that many rows have no due time, as done rows have none.
    heads: concat!("/* inbox.order_heads */
        SELECT i.id, i.route = ANY ($4) AND ", is_head!("$3"), " AS head
        FROM (
            SELECT w.id, w.route, w.order_scope, w.order_key, w.position
            FROM {s}.inbox w
            WHERE w.state = 'waiting' AND w.due_at IS NULL AND w.id > $1
            ORDER BY w.due_at, w.id
            LIMIT $2
        ) i
        ORDER BY i.id"),
    wake_next: r"/* inbox.wake_next */
        UPDATE {s}.inbox SET due_at = clock_timestamp()
        WHERE id IN (
            SELECT w.id FROM {s}.inbox w
            WHERE w.id = ANY (ARRAY(
                    SELECT (
                        SELECT i.id FROM {s}.inbox i
                        WHERE i.order_scope = k.scope AND i.order_key = k.key
                            AND i.state <> 'done' AND i.state <> 'dead'
                        ORDER BY i.position
                        LIMIT 1
                    )
                    FROM unnest($1::text[], $2::text[]) AS k (scope, key)
                ))
                AND w.state = 'waiting' AND w.due_at IS NULL
            FOR UPDATE SKIP LOCKED
        )",
}

/// Two arrays of the same length, which no statement can take apart.
fn columns<'a>(keys: &BTreeSet<&'a OrderKey>) -> (Vec<&'a str>, Vec<&'a str>) {
    keys.iter()
        .map(|key| (key.scope.as_str(), key.key.as_str()))
        .unzip()
}

pub(super) async fn lock(
    inbox: &PostgresInbox,
    tx: &mut Tx,
    keys: &[OrderKey],
    blocking_dead: &[String],
) -> Result<Vec<OrderKey>, DbError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let keys: BTreeSet<&OrderKey> = keys.iter().collect();
    let schema = inbox.inner.schema.name();
    let locks: BTreeSet<i64> = keys.iter().map(|key| lock_number(schema, key)).collect();
    let lock =
        sqlx::query(inbox.inner.order.lock.clone()).bind(locks.into_iter().collect::<Vec<_>>());
    inbox
        .within("inbox.lock_order_keys", lock.execute(&mut **tx))
        .await?;

    // A statement of its own: only its snapshot is taken after the lock was granted.
    let (scopes, texts) = columns(&keys);
    let query = sqlx::query(inbox.inner.order.unfinished.clone())
        .bind(scopes)
        .bind(texts)
        .bind(blocking_dead)
        .try_map(|row: PgRow| {
            Ok(OrderKey {
                scope: row.try_get("scope")?,
                key: row.try_get("key")?,
            })
        });
    inbox
        .within("inbox.unfinished_order_keys", query.fetch_all(&mut **tx))
        .await
}

/// The number of an order key's advisory lock; two keys that share one only wait for each other.
fn lock_number(schema: &str, key: &OrderKey) -> i64 {
    let parts = ["sluice order", schema, &key.scope, &key.key].map(str::as_bytes);
    let mut first = [0; 8];
    first.copy_from_slice(&Hash::of(&parts).0[..8]);
    i64::from_be_bytes(first)
}

/// Rows of these routes that wait without a due time although they are heads, among the next few that
/// have none.
pub(super) async fn heads(
    inbox: &PostgresInbox,
    tx: &mut Tx,
    routes: &[&str],
    blocking_dead: &[String],
) -> Result<Vec<Uuid>, DbError> {
    // Whoever asks for other routes goes round by itself, or each would skip what the others looked at.
    let whose = routes.join("\n");
    let after = inbox.rotation().get(&whose).copied().unwrap_or_default();
    let query = sqlx::query_as(inbox.inner.order.heads.clone())
        .bind(after)
        .bind(LOOKED_AT)
        .bind(blocking_dead)
        .bind(routes);
    let looked_at: Vec<(Uuid, bool)> = inbox
        .within("inbox.order_heads", query.fetch_all(&mut **tx))
        .await?;
    let all = i64::try_from(looked_at.len()).is_ok_and(|found| found < LOOKED_AT);
    let last = looked_at.last().map(|(id, _)| *id);
    let after = last.filter(|_| !all).unwrap_or_default();
    inbox.rotation().insert(whose, after);
    Ok(looked_at
        .into_iter()
        .filter(|(_, head)| *head)
        .map(|(id, _)| id)
        .collect())
}

/// Makes the first unfinished row of each key due, if it waits without a due time. Whether dead rows block,
/// only whoever takes rows knows.
///
/// One that others hold is left alone: they are driving it.
pub(super) async fn wake_next<'a>(
    inbox: &PostgresInbox,
    tx: &mut Tx,
    keys: impl IntoIterator<Item = &'a OrderKey>,
) -> Result<(), DbError> {
    let keys: BTreeSet<&OrderKey> = keys.into_iter().collect();
    if keys.is_empty() {
        return Ok(());
    }
    let (scopes, texts) = columns(&keys);
    let query = sqlx::query(inbox.inner.order.wake_next.clone())
        .bind(scopes)
        .bind(texts);
    inbox
        .within("inbox.wake_next", query.execute(&mut **tx))
        .await?;
    Ok(())
}
