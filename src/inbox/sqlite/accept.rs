//! Statements of the intake: insert, who holds a key, the duplicates' counter.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::LazyLock;

use sqlx::Row as _;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};
use uuid::Uuid;

use super::{Tx, now};
use crate::inbox::span::Times;
use crate::inbox::{Existing, NewRow, RowId, StateName, UniqueKey, text};
use crate::message::Hash;

const COLUMNS: usize = 25;
const INSERT: &str = r"/* inbox.insert */
    INSERT INTO inbox (
        id, source, route, engine, scope, dedup_hash, conflict_hash, dedup_key,
        payload_hash, payload, envelope, coordinates, sent_at_ms,
        message_name, business_key, announced,
        epoch, attempts, state, reason, detail, process_instance_id,
        received_at, changed_at, due_at, expires_at, handed_at, done_at
    )
    VALUES ";
const ON_CONFLICT: &str = r"
    ON CONFLICT (dedup_hash, scope, conflict_hash) DO NOTHING
    RETURNING id";
/// How many rows one statement inserts: a few sizes, so that the texts stay prepared.
const SIZES: [usize; 3] = [64, 8, 1];
static INSERTS: LazyLock<[String; 3]> = LazyLock::new(|| SIZES.map(insert_of));

const EXISTING: &str = r"/* inbox.existing */
    SELECT i.id, i.scope, i.dedup_hash, i.conflict_hash, i.payload_hash, i.state, i.reason,
        i.epoch, i.coordinates
    FROM json_each(?1) k
    CROSS JOIN inbox i
        ON i.dedup_hash = unhex(k.value ->> 0) AND i.scope = k.value ->> 1
            AND i.conflict_hash = unhex(k.value ->> 2)";
const COUNT_DUPLICATES: &str = concat!(
    r"/* inbox.count_duplicates */
    INSERT INTO node_counter (incarnation, duplicates, changed_at)
    VALUES (?1, ?2, ",
    now!(),
    ")
    ON CONFLICT (incarnation) DO UPDATE
    SET duplicates = duplicates + excluded.duplicates, changed_at = excluded.changed_at"
);

/// The statements of this module, for the test that prepares each.
pub(super) fn statements() -> Vec<&'static str> {
    let inserts = INSERTS.iter().map(String::as_str);
    inserts.chain([EXISTING, COUNT_DUPLICATES]).collect()
}

/// The statement that inserts so many rows; made of constants and numbers alone.
fn insert_of(rows: usize) -> String {
    let mut sql = INSERT.to_owned();
    for row in 0..rows {
        let first = row * COLUMNS;
        sql.push_str(if row == 0 { "(" } else { ", (" });
        for column in 1..=COLUMNS - 3 {
            write!(sql, "?{}, ", first + column).expect("a string takes everything");
        }
        let (due, expires, state) = (first + COLUMNS - 2, first + COLUMNS - 1, first + COLUMNS);
        let now = now!();
        write!(
            sql,
            "{now}, {now}, {now} + min(?{due}, ifnull(?{expires}, ?{due})), {now} + ?{expires}, \
             iif(?{state} = 'handed', {now}, NULL), iif(?{state} = 'done', {now}, NULL))"
        )
        .expect("a string takes everything");
    }
    sql + ON_CONFLICT
}

pub(super) async fn insert(tx: &mut Tx, rows: &[NewRow]) -> Result<Vec<RowId>, sqlx::Error> {
    let mut new = Vec::with_capacity(rows.len());
    let mut left = rows;
    for (size, sql) in SIZES.iter().zip(INSERTS.iter()) {
        while left.len() >= *size {
            let (now, later) = left.split_at(*size);
            left = later;
            let sql: &'static str = sql;
            let query = now.iter().fold(sqlx::query(sql), bind);
            for row in query.fetch_all(&mut **tx).await? {
                new.push(RowId(row.try_get(0)?));
            }
        }
    }
    Ok(new)
}

type Insert = Query<'static, Sqlite, SqliteArguments>;

fn bind(query: Insert, row: &NewRow) -> Insert {
    let times = Times::of(&row.state);
    query
        .bind(row.id.0)
        .bind(row.source.clone())
        .bind(row.route.clone().unwrap_or_default())
        .bind(row.engine.clone())
        .bind(row.key.scope.clone())
        .bind(row.key.hash.0.to_vec())
        .bind(conflict_bytes(row.key.conflict.as_ref()).to_vec())
        .bind(text::shown(&row.dedup_key))
        .bind(row.payload_hash.0.to_vec())
        .bind(row.payload.to_vec())
        .bind(row.envelope.clone())
        .bind(row.coordinates.as_deref().map(text::shown))
        .bind(row.sent_at)
        .bind(text::matched(
            row.target.message_name.as_deref(),
            &row.state,
        ))
        .bind(text::matched(
            row.target.business_key.as_deref(),
            &row.state,
        ))
        .bind(row.target.announced)
        .bind(row.epoch)
        .bind(row.attempts)
        .bind(row.state.name().as_str())
        .bind(row.state.reason())
        .bind(text::shown(row.state.detail()))
        .bind(row.state.process_instance_id().map(str::to_owned))
        .bind(times.due_in_ms)
        .bind(times.expires_in_ms)
        .bind(row.state.name().as_str())
}

fn conflict_bytes(conflict: Option<&Hash>) -> &[u8] {
    conflict.map_or(&[], |hash| &hash.0)
}

pub(super) async fn existing(
    tx: &mut Tx,
    keys: &[UniqueKey],
) -> Result<Vec<Existing>, sqlx::Error> {
    // Once each: two messages of a batch may ask for the same key.
    let keys: BTreeSet<&UniqueKey> = keys.iter().collect();
    let keys: Vec<[String; 3]> = keys
        .into_iter()
        .map(|key| {
            let conflict = key.conflict.map(|hash| format!("{hash:?}"));
            [
                format!("{:?}", key.hash),
                key.scope.clone(),
                conflict.unwrap_or_default(),
            ]
        })
        .collect();
    sqlx::query(EXISTING)
        .bind(sqlx::types::Json(keys))
        .try_map(|row: SqliteRow| {
            Ok(Existing {
                id: RowId(row.try_get("id")?),
                key: unique_key(&row)?,
                payload_hash: text::hash(row.try_get("payload_hash")?)?,
                state: StateName::parse(row.try_get("state")?),
                reason: row.try_get("reason")?,
                epoch: row.try_get("epoch")?,
                coordinates: row.try_get("coordinates")?,
            })
        })
        .fetch_all(&mut **tx)
        .await
}

/// The columns `scope`, `dedup_hash`, `conflict_hash`.
pub(super) fn unique_key(row: &SqliteRow) -> Result<UniqueKey, sqlx::Error> {
    let conflict: &[u8] = row.try_get("conflict_hash")?;
    Ok(UniqueKey {
        scope: row.try_get("scope")?,
        hash: text::hash(row.try_get("dedup_hash")?)?,
        conflict: if conflict.is_empty() {
            None
        } else {
            Some(text::hash(conflict)?)
        },
    })
}

pub(super) async fn count_duplicates(
    tx: &mut Tx,
    node: Uuid,
    duplicates: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(COUNT_DUPLICATES)
        .bind(node)
        .bind(duplicates)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
