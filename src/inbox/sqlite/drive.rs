//! Statements of the sweeper: take waiting rows, change rows, purge.
//!
//! Invariant: a change compares state and epoch. No row is locked, because the transaction is the only
//! one that writes.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::accept::unique_key;
use super::{Tx, now};
use crate::inbox::span::{Times, ms};
use crate::inbox::{Change, Purged, Rekey, Retention, RowId, StoredRow, Take, text};
use crate::units::Span;

/// Rows, with what fits into the bytes that were asked for.
macro_rules! taken {
    ($name:literal, $which:expr, $bytes:literal) => {
        concat!(
            $name,
            "
            WITH taken AS MATERIALIZED (
                SELECT i.id, i.due_at, ifnull(length(i.payload), 0) + length(i.envelope) AS size
                FROM inbox i
                WHERE i.state = 'waiting' AND ",
            $which,
            "
            ), cut AS (
                SELECT id, due_at, sum(size) OVER (ORDER BY due_at, id) - size AS before FROM taken
            )
            SELECT i.id, i.source, i.route, i.scope, i.dedup_hash, i.conflict_hash,
                i.payload, i.envelope, i.reason, i.epoch, i.attempts,
                ifnull(i.expires_at <= ",
            now!(),
            ", 0) AS expired,
                max(0, ",
            now!(),
            " - i.received_at) AS age_ms,
                max(0, ",
            now!(),
            " - i.due_at) AS overdue_ms
            FROM cut c
            CROSS JOIN inbox i ON i.id = c.id
            WHERE c.before < ",
            $bytes,
            "
            ORDER BY c.due_at, c.id"
        )
    };
}

const TAKE_DUE: &str = taken!(
    "/* inbox.take_due */",
    concat!(
        "i.route IN (SELECT value FROM json_each(?1)) AND i.due_at <= ",
        now!(),
        " ORDER BY i.due_at, i.id LIMIT ?2"
    ),
    "?3"
);
const TAKE_ROWS: &str = taken!(
    "/* inbox.take_rows */",
    "i.id IN (SELECT unhex(value) FROM json_each(?1))",
    "?2"
);
const CHANGE: &str = concat!(
    r"/* inbox.change */
    UPDATE inbox SET
        state = ?4, reason = ?5, detail = ?6, epoch = ?7, attempts = attempts + ?8,
        engine = iif(?9, ?10, engine),
        message_name = iif(?9, ?11, message_name),
        business_key = iif(?9, ?12, business_key),
        announced = iif(?9, ?13, announced),
        process_instance_id = ifnull(?14, process_instance_id),
        changed_at = ",
    now!(),
    ",
        due_at = min(",
    now!(),
    " + ?15, iif(?16 IS NOT NULL, ifnull(expires_at, ",
    now!(),
    " + ?16), ",
    now!(),
    " + ?15)),
        expires_at = CASE
            WHEN ?4 = 'handed' THEN expires_at
            WHEN ?16 IS NOT NULL THEN ifnull(expires_at, ",
    now!(),
    " + ?16) END,
        handed_at = iif(?4 = 'handed', ",
    now!(),
    ", handed_at),
        done_at = iif(?4 = 'done', ",
    now!(),
    ", NULL)
    WHERE id = ?1 AND state = ?2 AND epoch = ?3"
);
const REKEY: &str = r"/* inbox.rekey */
    UPDATE inbox SET route = ?3, scope = ?4, dedup_hash = ?5, dedup_key = ?6, payload_hash = ?7
    WHERE id = ?1 AND epoch = ?2";
const PURGE_KEYS: &str = concat!(
    r"/* inbox.purge_keys */
    DELETE FROM inbox
    WHERE id IN (
        SELECT id FROM inbox
        WHERE state = 'done' AND done_at < ",
    now!(),
    " - ?1
        ORDER BY done_at
        LIMIT ?2
    )"
);
const PURGE_PAYLOADS: &str = concat!(
    r"/* inbox.purge_payloads */
    UPDATE inbox SET payload = NULL, envelope = x''
    WHERE id IN (
        SELECT id FROM inbox
        WHERE state = 'done' AND payload IS NOT NULL AND done_at < ",
    now!(),
    " - ?1
        ORDER BY done_at
        LIMIT ?2
    )"
);

/// The statements of this module, for the test that prepares each.
pub(super) const STATEMENTS: &[&str] = &[
    TAKE_DUE,
    TAKE_ROWS,
    CHANGE,
    REKEY,
    PURGE_KEYS,
    PURGE_PAYLOADS,
];

pub(super) async fn take(tx: &mut Tx, take: Take<'_>) -> Result<Vec<StoredRow>, sqlx::Error> {
    let query = match take {
        Take::Due {
            routes,
            limit,
            bytes,
        } => {
            let mut routes: Vec<&str> = routes.iter().map(String::as_str).collect();
            if routes.is_empty() {
                routes.push("");
            }
            sqlx::query(TAKE_DUE)
                .bind(sqlx::types::Json(routes))
                .bind(limit)
                .bind(bytes)
        }
        Take::Rows { rows, bytes } => {
            let ids = rows.iter().map(|woken| woken.row.0.simple().to_string());
            let ids: Vec<String> = ids.collect();
            sqlx::query(TAKE_ROWS)
                .bind(sqlx::types::Json(ids))
                .bind(bytes)
        }
    };
    let mut rows = query
        .try_map(|row: SqliteRow| stored_row(&row))
        .fetch_all(&mut **tx)
        .await?;
    take.tell_overdue(&mut rows);
    Ok(rows)
}

fn stored_row(row: &SqliteRow) -> Result<StoredRow, sqlx::Error> {
    let payload: Option<Vec<u8>> = row.try_get("payload")?;
    let overdue: i64 = row.try_get("overdue_ms")?;
    let age: i64 = row.try_get("age_ms")?;
    Ok(StoredRow {
        id: RowId(row.try_get("id")?),
        source: row.try_get("source")?,
        route: text::route(row.try_get("route")?),
        key: unique_key(row)?,
        payload: payload.map(bytes::Bytes::from),
        envelope: row.try_get("envelope")?,
        reason: row.try_get("reason")?,
        epoch: row.try_get("epoch")?,
        attempts: row.try_get("attempts")?,
        expired: row.try_get("expired")?,
        age: Span::ms(u64::try_from(age).unwrap_or(0)),
        order: None,
        overdue: u64::try_from(overdue).ok().map(Span::ms),
    })
}

/// Row by row: a change is small, and its statement stays prepared.
pub(super) async fn change(tx: &mut Tx, changes: &[Change]) -> Result<Vec<RowId>, sqlx::Error> {
    let mut ids = Vec::with_capacity(changes.len());
    for change in changes {
        if change_one(tx, change).await? {
            ids.push(change.id);
        }
    }
    Ok(ids)
}

async fn change_one(tx: &mut Tx, change: &Change) -> Result<bool, sqlx::Error> {
    let times = Times::of(&change.state);
    let (engine, target) = change.target.clone().unwrap_or_default();
    let result = sqlx::query(CHANGE)
        .bind(change.id.0)
        .bind(change.from.as_str())
        .bind(change.epoch)
        .bind(change.state.name().as_str())
        .bind(change.state.reason())
        .bind(text::shown(change.state.detail()))
        .bind(change.new_epoch)
        .bind(change.attempts_used)
        .bind(change.target.is_some())
        .bind(engine)
        .bind(text::matched(target.message_name.as_deref(), &change.state))
        .bind(text::matched(target.business_key.as_deref(), &change.state))
        .bind(target.announced)
        .bind(change.state.process_instance_id().map(str::to_owned))
        .bind(times.due_in_ms)
        .bind(times.expires_in_ms)
        .execute(&mut **tx)
        .await?;
    Ok(result.rows_affected() == 1)
}

pub(super) async fn rekey(tx: &mut Tx, rekey: Rekey<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(REKEY)
        .bind(rekey.id.0)
        .bind(rekey.epoch)
        .bind(rekey.route.to_owned())
        .bind(rekey.key.scope.clone())
        .bind(rekey.key.hash.0.to_vec())
        .bind(text::shown(rekey.dedup_key))
        .bind(rekey.payload_hash.0.to_vec())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub(super) async fn purge(
    tx: &mut Tx,
    retention: Retention,
    limit: i64,
) -> Result<Purged, sqlx::Error> {
    let keys = sqlx::query(PURGE_KEYS).bind(ms(retention.key)).bind(limit);
    let keys = keys.execute(&mut **tx).await?.rows_affected();
    let payloads = sqlx::query(PURGE_PAYLOADS)
        .bind(ms(retention.payload))
        .bind(limit);
    let payloads = payloads.execute(&mut **tx).await?.rows_affected();
    Ok(Purged { payloads, keys })
}
