//! Statements of the sweeper: take waiting rows, change rows.
//!
//! Invariant: a change compares state and epoch, and of an order key only the head is taken.

use std::collections::BTreeSet;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::accept::unique_key;
use super::due;
use super::order::{self, is_head};
use super::statement::statements;
use super::{PostgresInbox, Tx};
use crate::inbox::span::Times;
use crate::inbox::{
    Change, DbError, OrderKey, Rekey, RowId, StateName, StoredRow, Take, Taken, text,
};
use crate::units::Span;

/// The columns of a row that was locked, with what fits into the bytes that were asked for.
macro_rules! locked_rows {
    ($lock:expr, $bytes:literal) => {
        concat!(
            "WITH locked AS MATERIALIZED (",
            $lock,
            "), cut AS (
                SELECT l.*, sum(l.size) OVER (ORDER BY l.since, l.id) - l.size AS before
                FROM locked l
            )
            SELECT
                c.id, c.source, c.route, c.scope, c.dedup_hash, c.conflict_hash,
                b.payload, b.envelope, c.reason, c.epoch, c.attempts, c.order_scope, c.order_key,
                COALESCE(c.expires_at <= clock_timestamp(), false) AS expired,
                greatest(0, extract(epoch FROM clock_timestamp() - b.received_at) * 1000)::bigint AS age_ms,
                greatest(0, extract(epoch FROM clock_timestamp() - c.due_at) * 1000)::bigint AS overdue_ms
            FROM cut c
            JOIN {s}.inbox b ON b.id = c.id
            WHERE c.before < ",
            $bytes,
            " ORDER BY c.since, c.id"
        )
    };
}

/// `$since`: what the rows are sorted by.
macro_rules! locked_columns {
    ($since:literal) => {
        concat!(
            "SELECT i.id, i.source, i.route, i.scope, i.dedup_hash, i.conflict_hash, i.reason,
            i.epoch, i.attempts, i.order_scope, i.order_key, i.due_at, i.expires_at, ",
            $since,
            " AS since,
            COALESCE(octet_length(i.payload), 0) + octet_length(i.envelope) AS size "
        )
    };
}

statements! {
    // What the lock compares again must not lead to the index of due rows, as nothing inside a CASE does, or
    // all of them would be read of a table without statistics.
    take_due: concat!("/* inbox.take_due */ ", locked_rows!(concat!(
        locked_columns!("CASE WHEN i.id = ANY ($4) THEN '-infinity'
                ELSE COALESCE(i.due_at, i.received_at) END"),
        "FROM {s}.inbox i
        WHERE i.id = ANY ($1) AND ", is_head!("$5"), "
            AND CASE WHEN i.state = 'waiting' THEN i.due_at <= clock_timestamp() OR i.due_at IS NULL END
        ORDER BY since, i.id
        LIMIT $2
        FOR UPDATE OF i SKIP LOCKED"), "$3")),
    take_rows: concat!("/* inbox.take_rows */ ", locked_rows!(concat!(
        locked_columns!("COALESCE(i.due_at, i.received_at)"),
        "FROM {s}.inbox i
        WHERE i.id = ANY ($1) AND i.state = 'waiting' AND ", is_head!("$2"), "
        ORDER BY since, i.id
        FOR UPDATE OF i SKIP LOCKED"), "$3")),
    change: r"/* inbox.change */
        UPDATE {s}.inbox i SET
            state = c.state, reason = c.reason, detail = c.detail,
            epoch = c.new_epoch, attempts = i.attempts + c.attempts_used,
            engine = CASE WHEN c.retarget THEN c.engine ELSE i.engine END,
            message_name = CASE WHEN c.retarget THEN c.message_name ELSE i.message_name END,
            business_key = CASE WHEN c.retarget THEN c.business_key ELSE i.business_key END,
            announced = CASE WHEN c.retarget THEN c.announced ELSE i.announced END,
            process_instance_id = COALESCE(c.process_instance_id, i.process_instance_id),
            changed_at = clock_timestamp(),
            due_at = LEAST(
                clock_timestamp() + c.due_in_ms * interval '1 millisecond',
                CASE WHEN c.expires_in_ms IS NOT NULL THEN COALESCE(
                    i.expires_at, clock_timestamp() + c.expires_in_ms * interval '1 millisecond')
                END),
            expires_at = CASE
                WHEN c.state = 'handed' THEN i.expires_at
                WHEN c.expires_in_ms IS NOT NULL THEN COALESCE(
                    i.expires_at, clock_timestamp() + c.expires_in_ms * interval '1 millisecond')
                END,
            handed_at = CASE WHEN c.state = 'handed' THEN clock_timestamp() ELSE i.handed_at END,
            done_at = CASE WHEN c.state = 'done' THEN clock_timestamp() END
        FROM unnest(
            $1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::integer[],
            $6::boolean[], $7::text[], $8::text[], $9::text[],
            $10::text[], $11::text[], $12::text[], $13::text[], $14::bigint[], $15::bigint[], $16::boolean[]
        ) AS c (
            id, from_state, epoch, new_epoch, attempts_used,
            retarget, engine, message_name, business_key,
            state, reason, detail, process_instance_id, due_in_ms, expires_in_ms, announced
        )
        WHERE i.id = c.id AND i.state = c.from_state AND i.epoch = c.epoch
        RETURNING i.id, i.state, i.order_scope, i.order_key",
    rekey: r"/* inbox.rekey */
        UPDATE {s}.inbox SET
            route = $3, scope = $4, dedup_hash = $5, dedup_key = $6, order_scope = $7, order_key = $8,
            payload_hash = $9,
            position = CASE
                WHEN order_scope = $7 AND order_key = $8 THEN position
                WHEN $8 IS NOT NULL THEN nextval('{s}.inbox_position') END
        WHERE id = $1 AND epoch = $2",
}

pub(super) async fn take(
    inbox: &PostgresInbox,
    tx: &mut Tx,
    take: Take<'_>,
    blocking_dead: &[String],
) -> Result<Taken, DbError> {
    let statements = &inbox.inner.drive;
    let mut changed = false;
    let (step, query) = match take {
        Take::Due {
            routes,
            limit,
            bytes,
        } => {
            let mut routes: Vec<&str> = routes.iter().map(String::as_str).collect();
            if routes.is_empty() {
                routes.push("");
            }
            let mut rows = order::heads(inbox, tx, &routes, blocking_dead).await?;
            let due = due::look(inbox, tx, &routes, blocking_dead, limit).await?;
            changed = due.gave_back;
            rows.extend(due.rows);
            if rows.is_empty() {
                return Ok(Taken {
                    rows: Vec::new(),
                    changed,
                });
            }
            let query = sqlx::query(statements.take_due.clone())
                .bind(rows)
                .bind(limit)
                .bind(bytes)
                .bind(due.ahead)
                .bind(blocking_dead);
            ("inbox.take_due", query)
        }
        Take::Rows { rows, bytes } => {
            let ids: Vec<Uuid> = rows.iter().map(|woken| woken.row.0).collect();
            let query = sqlx::query(statements.take_rows.clone())
                .bind(ids)
                .bind(blocking_dead)
                .bind(bytes);
            ("inbox.take_rows", query)
        }
    };
    let rows = query.try_map(|row: PgRow| stored_row(&row));
    let mut rows = inbox.within(step, rows.fetch_all(&mut **tx)).await?;
    take.tell_overdue(&mut rows);
    Ok(Taken { rows, changed })
}

fn stored_row(row: &PgRow) -> Result<StoredRow, sqlx::Error> {
    let payload: Option<Vec<u8>> = row.try_get("payload")?;
    let overdue: i64 = row.try_get("overdue_ms")?;
    let age: i64 = row.try_get("age_ms")?;
    let scope: Option<String> = row.try_get("order_scope")?;
    let key: Option<String> = row.try_get("order_key")?;
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
        order: scope.zip(key).map(|(scope, key)| OrderKey { scope, key }),
        overdue: u64::try_from(overdue).ok().map(Span::ms),
    })
}

/// The columns of changes, one array each.
#[derive(Default)]
struct Columns<'a> {
    id: Vec<Uuid>,
    from: Vec<&'static str>,
    epoch: Vec<i64>,
    new_epoch: Vec<i64>,
    attempts_used: Vec<i32>,
    retarget: Vec<bool>,
    engine: Vec<Option<&'a str>>,
    message_name: Vec<Option<String>>,
    business_key: Vec<Option<String>>,
    state: Vec<&'static str>,
    reason: Vec<Option<&'static str>>,
    detail: Vec<String>,
    process_instance_id: Vec<Option<&'a str>>,
    due_in_ms: Vec<Option<i64>>,
    expires_in_ms: Vec<Option<i64>>,
    announced: Vec<bool>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, change: &'a Change) {
        self.id.push(change.id.0);
        self.from.push(change.from.as_str());
        self.epoch.push(change.epoch);
        self.new_epoch.push(change.new_epoch);
        self.attempts_used.push(change.attempts_used);
        self.retarget.push(change.target.is_some());
        let (engine, target) = match &change.target {
            Some((engine, target)) => (engine.as_deref(), Some(target)),
            None => (None, None),
        };
        self.engine.push(engine);
        self.announced
            .push(target.is_some_and(|target| target.announced));
        let message_name = target.and_then(|target| target.message_name.as_deref());
        let business_key = target.and_then(|target| target.business_key.as_deref());
        self.message_name
            .push(text::matched(message_name, &change.state));
        self.business_key
            .push(text::matched(business_key, &change.state));
        self.state.push(change.state.name().as_str());
        self.reason.push(change.state.reason());
        self.detail.push(text::shown(change.state.detail()));
        let times = Times::of(&change.state);
        self.due_in_ms.push(times.due_in_ms);
        self.expires_in_ms.push(times.expires_in_ms);
        self.process_instance_id
            .push(change.state.process_instance_id());
    }
}

pub(super) async fn change(
    inbox: &PostgresInbox,
    tx: &mut Tx,
    changes: &[Change],
) -> Result<Vec<RowId>, DbError> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    let mut c = Columns::default();
    for change in changes {
        c.push(change);
    }
    let query = sqlx::query(inbox.inner.drive.change.clone())
        .bind(c.id)
        .bind(c.from)
        .bind(c.epoch)
        .bind(c.new_epoch)
        .bind(c.attempts_used)
        .bind(c.retarget)
        .bind(c.engine)
        .bind(c.message_name)
        .bind(c.business_key)
        .bind(c.state)
        .bind(c.reason)
        .bind(c.detail)
        .bind(c.process_instance_id)
        .bind(c.due_in_ms)
        .bind(c.expires_in_ms)
        .bind(c.announced);
    let rows = inbox
        .within("inbox.change", query.fetch_all(&mut **tx))
        .await?;
    let (ids, finished) = changed(&rows).map_err(DbError::of("inbox.change"))?;
    order::wake_next(inbox, tx, &finished).await?;
    Ok(ids)
}

pub(super) async fn rekey(
    inbox: &PostgresInbox,
    tx: &mut Tx,
    rekey: Rekey<'_>,
) -> Result<(), DbError> {
    let query = sqlx::query(inbox.inner.drive.rekey.clone())
        .bind(rekey.id.0)
        .bind(rekey.epoch)
        .bind(rekey.route)
        .bind(rekey.key.scope.as_str())
        .bind(&rekey.key.hash.0[..])
        .bind(text::shown(rekey.dedup_key))
        .bind(rekey.order.map(|order| order.scope.as_str()))
        .bind(rekey.order.map(|order| order.key.as_str()))
        .bind(&rekey.payload_hash.0[..]);
    inbox
        .within("inbox.rekey", query.execute(&mut **tx))
        .await?;
    Ok(())
}

/// The ids that changed, and the order keys that have one unfinished row less.
fn changed(rows: &[PgRow]) -> Result<(Vec<RowId>, BTreeSet<OrderKey>), sqlx::Error> {
    let mut ids = Vec::with_capacity(rows.len());
    let mut finished = BTreeSet::new();
    for row in rows {
        ids.push(RowId(row.try_get("id")?));
        let scope: Option<String> = row.try_get("order_scope")?;
        let key: Option<String> = row.try_get("order_key")?;
        let state = StateName::parse(row.try_get("state")?);
        let order = scope.zip(key).map(|(scope, key)| OrderKey { scope, key });
        if matches!(state, StateName::Done | StateName::Dead) {
            finished.extend(order);
        }
    }
    Ok((ids, finished))
}
