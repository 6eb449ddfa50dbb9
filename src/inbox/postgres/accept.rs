//! Statements of the intake: insert, who holds a key, the duplicates' counter.
//!
//! Invariant: keys are inserted in the order of their hash, so that two nodes with the same keys cannot
//! deadlock.

use std::collections::BTreeSet;

use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{Execute as _, Row as _, SqlStr};
use uuid::Uuid;

use super::order;
use super::statement::statements;
use super::{PostgresInbox, Tx};
use crate::inbox::span::Times;
use crate::inbox::{DbError, Existing, NewRow, RowId, State, StateName, UniqueKey, text};
use crate::message::{Hash, WaitReason};

statements! {
    insert: r"/* inbox.insert */
        INSERT INTO {s}.inbox (
            id, source, route, engine, scope, dedup_hash, conflict_hash, dedup_key,
            payload_hash, payload, envelope, coordinates, sent_at_ms,
            message_name, business_key, order_scope, order_key, position,
            epoch, attempts, state, reason, detail, process_instance_id,
            due_at, expires_at, handed_at, done_at, announced
        )
        SELECT
            r.id, r.source, r.route, r.engine, r.scope, r.dedup_hash, r.conflict_hash, r.dedup_key,
            r.payload_hash, r.payload, r.envelope, r.coordinates, r.sent_at_ms,
            r.message_name, r.business_key, r.order_scope, r.order_key,
            CASE WHEN r.order_key IS NOT NULL
                THEN (SELECT nextval('{s}.inbox_position')) + r.place END,
            r.epoch, r.attempts, r.state, r.reason, r.detail, r.process_instance_id,
            clock_timestamp() + LEAST(r.due_in_ms, r.expires_in_ms) * interval '1 millisecond',
            clock_timestamp() + r.expires_in_ms * interval '1 millisecond',
            CASE WHEN r.state = 'handed' THEN clock_timestamp() END,
            CASE WHEN r.state = 'done' THEN clock_timestamp() END,
            r.announced
        FROM unnest(
            $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[],
            $8::text[], $9::bytea[], $10::bytea[], $11::bytea[], $12::text[], $13::bigint[],
            $14::text[], $15::text[], $16::text[], $17::text[], $18::bigint[],
            $19::bigint[], $20::integer[], $21::text[], $22::text[], $23::text[], $24::text[],
            $25::bigint[], $26::bigint[], $27::boolean[]
        ) AS r (
            id, source, route, engine, scope, dedup_hash, conflict_hash,
            dedup_key, payload_hash, payload, envelope, coordinates, sent_at_ms,
            message_name, business_key, order_scope, order_key, place,
            epoch, attempts, state, reason, detail, process_instance_id,
            due_in_ms, expires_in_ms, announced
        )
        ON CONFLICT (dedup_hash, scope, conflict_hash) DO NOTHING
        RETURNING id",
    existing: r"/* inbox.existing */
        SELECT i.id, i.scope, i.dedup_hash, i.conflict_hash, i.payload_hash, i.state, i.reason,
            i.epoch, i.coordinates
        FROM unnest($1::bytea[], $2::text[], $3::bytea[]) AS k (dedup_hash, scope, conflict_hash)
        JOIN {s}.inbox i
            ON i.dedup_hash = k.dedup_hash AND i.scope = k.scope AND i.conflict_hash = k.conflict_hash",
    count_duplicates: r"/* inbox.count_duplicates */
        INSERT INTO {s}.node_counter AS n (incarnation, duplicates)
        VALUES ($1, $2)
        ON CONFLICT (incarnation, session) DO UPDATE
        SET duplicates = n.duplicates + EXCLUDED.duplicates, changed_at = clock_timestamp()",
}

/// The columns of a batch, one array each, in the order of the key's hash.
#[derive(Default)]
struct Columns<'a> {
    id: Vec<Uuid>,
    source: Vec<&'a str>,
    route: Vec<&'a str>,
    engine: Vec<Option<&'a str>>,
    scope: Vec<&'a str>,
    dedup_hash: Vec<&'a [u8]>,
    conflict_hash: Vec<&'a [u8]>,
    dedup_key: Vec<String>,
    payload_hash: Vec<&'a [u8]>,
    payload: Vec<&'a [u8]>,
    envelope: Vec<&'a [u8]>,
    coordinates: Vec<Option<String>>,
    sent_at_ms: Vec<Option<i64>>,
    message_name: Vec<Option<String>>,
    business_key: Vec<Option<String>>,
    order_scope: Vec<Option<&'a str>>,
    order_key: Vec<Option<&'a str>>,
    /// Where the row stood in the batch: the order of the broker.
    place: Vec<i64>,
    epoch: Vec<i64>,
    attempts: Vec<i32>,
    state: Vec<&'static str>,
    reason: Vec<Option<&'static str>>,
    detail: Vec<String>,
    process_instance_id: Vec<Option<&'a str>>,
    due_in_ms: Vec<Option<i64>>,
    expires_in_ms: Vec<Option<i64>>,
    announced: Vec<bool>,
}

impl<'a> Columns<'a> {
    fn of(rows: &'a [NewRow]) -> Self {
        let mut sorted: Vec<(usize, &NewRow)> = rows.iter().enumerate().collect();
        sorted.sort_by_key(|(_, row)| (row.key.hash, &row.key.scope, row.key.conflict));
        let mut columns = Self::default();
        for (place, row) in sorted {
            columns.push(place, row);
        }
        columns
    }

    fn push(&mut self, place: usize, row: &'a NewRow) {
        self.id.push(row.id.0);
        self.source.push(&row.source);
        self.route.push(row.route.as_deref().unwrap_or_default());
        self.engine.push(row.engine.as_deref());
        self.scope.push(&row.key.scope);
        self.dedup_hash.push(&row.key.hash.0);
        self.conflict_hash
            .push(conflict_bytes(row.key.conflict.as_ref()));
        self.dedup_key.push(text::shown(&row.dedup_key));
        self.payload_hash.push(&row.payload_hash.0);
        self.payload.push(&row.payload);
        self.envelope.push(&row.envelope);
        self.coordinates
            .push(row.coordinates.as_deref().map(text::shown));
        self.sent_at_ms.push(row.sent_at);
        self.message_name.push(text::matched(
            row.target.message_name.as_deref(),
            &row.state,
        ));
        self.business_key.push(text::matched(
            row.target.business_key.as_deref(),
            &row.state,
        ));
        let order = row.order.as_ref();
        self.order_scope
            .push(order.map(|order| order.scope.as_str()));
        self.order_key.push(order.map(|order| order.key.as_str()));
        self.announced.push(row.target.announced);
        self.place.push(i64::try_from(place).unwrap_or(i64::MAX));
        self.epoch.push(row.epoch);
        self.attempts.push(row.attempts);
        self.state.push(row.state.name().as_str());
        self.reason.push(row.state.reason());
        self.detail.push(text::shown(row.state.detail()));
        let times = Times::of(&row.state);
        self.due_in_ms.push(times.due_in_ms);
        self.expires_in_ms.push(times.expires_in_ms);
        self.process_instance_id
            .push(row.state.process_instance_id());
    }
}

fn conflict_bytes(conflict: Option<&Hash>) -> &[u8] {
    conflict.map_or(&[], |hash| &hash.0)
}

/// The statement of [`insert`], with the rows in the order of their keys.
fn query<'a>(inbox: &PostgresInbox, rows: &'a [NewRow]) -> Query<'a, Postgres, PgArguments> {
    let c = Columns::of(rows);
    sqlx::query(inbox.inner.accept.insert.clone())
        .bind(c.id)
        .bind(c.source)
        .bind(c.route)
        .bind(c.engine)
        .bind(c.scope)
        .bind(c.dedup_hash)
        .bind(c.conflict_hash)
        .bind(c.dedup_key)
        .bind(c.payload_hash)
        .bind(c.payload)
        .bind(c.envelope)
        .bind(c.coordinates)
        .bind(c.sent_at_ms)
        .bind(c.message_name)
        .bind(c.business_key)
        .bind(c.order_scope)
        .bind(c.order_key)
        .bind(c.place)
        .bind(c.epoch)
        .bind(c.attempts)
        .bind(c.state)
        .bind(c.reason)
        .bind(c.detail)
        .bind(c.process_instance_id)
        .bind(c.due_in_ms)
        .bind(c.expires_in_ms)
        .bind(c.announced)
}

/// The same as text and values that are ready to be sent.
pub(super) fn ready_insert(
    inbox: &PostgresInbox,
    rows: &[NewRow],
) -> Result<(SqlStr, PgArguments), DbError> {
    let values = query(inbox, rows).take_arguments();
    let values = values.map_err(sqlx::Error::Encode);
    let values = values.map_err(DbError::of("inbox.insert"))?;
    let text = inbox.inner.accept.insert.clone();
    Ok((text, values.unwrap_or_default()))
}

pub(super) async fn insert(
    inbox: &PostgresInbox,
    tx: &mut Tx,
    rows: &[NewRow],
) -> Result<Vec<RowId>, DbError> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let query = query(inbox, rows).try_map(|row: PgRow| row.try_get(0).map(RowId));
    let new = inbox
        .within("inbox.insert", query.fetch_all(&mut **tx))
        .await?;
    // The row before it in the batch may be a duplicate, or born done.
    let behind = rows.iter().filter(|row| {
        matches!(
            &row.state,
            State::Waiting {
                reason: WaitReason::Ordered,
                ..
            }
        )
    });
    order::wake_next(inbox, tx, behind.filter_map(|row| row.order.as_ref())).await?;
    Ok(new)
}

pub(super) async fn existing(
    inbox: &PostgresInbox,
    tx: &mut Tx,
    keys: &[UniqueKey],
) -> Result<Vec<Existing>, DbError> {
    // Once each: two messages of a batch may ask for the same key.
    let keys: BTreeSet<&UniqueKey> = keys.iter().collect();
    let hashes: Vec<&[u8]> = keys.iter().map(|key| &key.hash.0[..]).collect();
    let scopes: Vec<&str> = keys.iter().map(|key| key.scope.as_str()).collect();
    let conflicts: Vec<&[u8]> = keys
        .iter()
        .map(|key| conflict_bytes(key.conflict.as_ref()))
        .collect();
    let query = sqlx::query(inbox.inner.accept.existing.clone())
        .bind(hashes)
        .bind(scopes)
        .bind(conflicts)
        .try_map(|row: PgRow| {
            Ok(Existing {
                id: RowId(row.try_get("id")?),
                key: unique_key(&row)?,
                payload_hash: hash(&row, "payload_hash")?,
                state: StateName::parse(row.try_get("state")?),
                reason: row.try_get("reason")?,
                epoch: row.try_get("epoch")?,
                coordinates: row.try_get("coordinates")?,
            })
        });
    inbox
        .within("inbox.existing", query.fetch_all(&mut **tx))
        .await
}

/// The columns `scope`, `dedup_hash`, `conflict_hash`.
pub(super) fn unique_key(row: &PgRow) -> Result<UniqueKey, sqlx::Error> {
    let conflict: &[u8] = row.try_get("conflict_hash")?;
    Ok(UniqueKey {
        scope: row.try_get("scope")?,
        hash: hash(row, "dedup_hash")?,
        conflict: if conflict.is_empty() {
            None
        } else {
            Some(hash(row, "conflict_hash")?)
        },
    })
}

fn hash(row: &PgRow, column: &str) -> Result<Hash, sqlx::Error> {
    let bytes: &[u8] = row.try_get(column)?;
    text::hash(bytes)
}

pub(super) async fn count_duplicates(
    inbox: &PostgresInbox,
    tx: &mut Tx,
    node: Uuid,
    duplicates: i64,
) -> Result<(), DbError> {
    let query = sqlx::query(inbox.inner.accept.count_duplicates.clone())
        .bind(node)
        .bind(duplicates);
    inbox
        .within("inbox.count_duplicates", query.execute(&mut **tx))
        .await?;
    Ok(())
}
