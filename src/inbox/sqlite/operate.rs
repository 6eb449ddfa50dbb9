//! Statements for operators and pages: probe, counts, nodes, list, redrive, discard, inspect.
//!
//! Invariant: what an operator changes gets a new epoch, so that a node which still drives the row as
//! it was changes nothing.

use chrono::{DateTime, SecondsFormat};
use sqlx::Row as _;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqlitePool, SqliteRow};
use uuid::Uuid;

use super::{SqliteInbox, Tx, now};
use crate::finding::Finding;
use crate::inbox::span::ms;
use crate::inbox::{
    Count, DbError, Filter, Inbox as _, Node, NodeIdentity, RowId, RowView, StateName, text,
};
use crate::message::DedupKey;

/// Rows that one transaction of redrive or discard changes.
const PAGE: i64 = 500;

/// Parameters 1 to 9 of a filter.
macro_rules! filtered {
    () => {
        concat!(
            "(?1 IS NULL OR i.route = ?1)
            AND (?2 IS NULL OR i.state = ?2)
            AND (?3 IS NULL OR i.reason = ?3)
            AND (?4 IS NULL OR i.dedup_hash = ?4 OR (i.state = 'dead' AND i.dedup_key = ?5))
            AND (?6 IS NULL OR i.id IN (SELECT unhex(value) FROM json_each(?6)))
            AND (?7 IS NULL OR i.received_at > ",
            now!(),
            " - ?7)
            AND (?8 IS NULL OR i.id < ?8)"
        )
    };
}

macro_rules! listed {
    ($name:literal, $bodies:literal) => {
        concat!(
            $name,
            "
            SELECT i.id, i.source, i.route, i.engine, i.scope, i.dedup_key,
                i.conflict_hash <> x'' AS conflict, i.state, i.reason, i.detail, i.epoch, i.attempts,
                i.message_name, i.business_key, i.process_instance_id, i.coordinates,
                i.received_at, i.changed_at, i.due_at, i.expires_at,
                length(i.payload) AS payload_bytes, ",
            $bodies,
            "
            FROM inbox i
            WHERE ",
            filtered!(),
            "
            ORDER BY i.id DESC
            LIMIT ?9"
        )
    };
}

macro_rules! changed {
    ($name:literal, $set:expr) => {
        concat!(
            $name,
            "
            UPDATE inbox SET epoch = epoch + 1, expires_at = NULL, changed_at = ",
            now!(),
            ", ",
            $set,
            "
            WHERE id IN (
                SELECT i.id FROM inbox i
                WHERE i.state IN ('waiting', 'dead') AND ",
            filtered!(),
            "
                ORDER BY i.id DESC
                LIMIT ?9
            )
            RETURNING id"
        )
    };
}

const PROBE_WRITE: &str = "/* inbox.probe_write */ INSERT INTO probe (id) VALUES (?1)";
const PROBE_FORGET: &str = "/* inbox.probe_forget */ DELETE FROM probe WHERE id = ?1";
const COUNTS: &str = concat!(
    r"/* inbox.counts */
    SELECT route, state, reason, count(*) AS rows,
        max(0.0, (",
    now!(),
    " - min(received_at)) / 1000.0) AS oldest
    FROM inbox
    WHERE state <> 'done'
    GROUP BY route, state, reason
    UNION ALL
    SELECT '', 'done', NULL, count(*), max(0.0, ifnull(",
    now!(),
    " - min(done_at), 0) / 1000.0)
    FROM inbox
    WHERE state = 'done'"
);
const BEAT: &str = concat!(
    r"/* inbox.beat */
    INSERT INTO node (incarnation, name, version, started_at, seen_at)
    VALUES (?1, ?2, ?3, ",
    now!(),
    ", ",
    now!(),
    ")
    ON CONFLICT (incarnation) DO UPDATE SET seen_at = excluded.seen_at"
);
const FORGET_NODES: &str = concat!(
    "/* inbox.forget_nodes */ DELETE FROM node WHERE seen_at < ",
    now!(),
    " - 86400000"
);
const FORGET_COUNTERS: &str = concat!(
    r"/* inbox.forget_counters */
    DELETE FROM node_counter
    WHERE changed_at < ",
    now!(),
    " - 86400000 AND incarnation NOT IN (SELECT incarnation FROM node)"
);
const NODES: &str = concat!(
    r"/* inbox.nodes */
    SELECT n.incarnation, n.name, n.version,
        (",
    now!(),
    " - n.started_at) / 1000.0 AS started,
        max(0.0, (",
    now!(),
    " - n.seen_at) / 1000.0) AS seen,
        ifnull(c.duplicates, 0) AS duplicates
    FROM node n
    LEFT JOIN node_counter c ON c.incarnation = n.incarnation
    ORDER BY n.started_at"
);
const LIST: &str = listed!("/* inbox.list */", "NULL AS payload, NULL AS envelope");
const SHOW: &str = listed!("/* inbox.show */", "i.payload, i.envelope");
pub(super) const REDRIVE: &str = changed!(
    "/* inbox.redrive */",
    concat!(
        "reason = iif(state = 'dead' OR reason IN ('no_subscription', 'unknown_message'),
                'retry', reason),
            state = 'waiting',
            detail = 'redriven by an operator', attempts = 0, due_at = ",
        now!()
    )
);
pub(super) const DISCARD: &str = changed!(
    "/* inbox.discard */",
    concat!(
        "state = 'done', reason = NULL, detail = 'discarded by an operator', due_at = NULL,
            done_at = ",
        now!()
    )
);
const INSPECT: &str = "/* inbox.inspect */ SELECT sqlite_version()";

/// The statements of this module, for the test that prepares each.
pub(super) const STATEMENTS: &[&str] = &[
    PROBE_WRITE,
    PROBE_FORGET,
    COUNTS,
    BEAT,
    FORGET_NODES,
    FORGET_COUNTERS,
    NODES,
    LIST,
    SHOW,
    REDRIVE,
    DISCARD,
    INSPECT,
];

pub(super) async fn probe(tx: &mut Tx) -> Result<(), sqlx::Error> {
    let id = Uuid::now_v7();
    sqlx::query(PROBE_WRITE).bind(id).execute(&mut **tx).await?;
    sqlx::query(PROBE_FORGET)
        .bind(id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub(super) async fn counts(pool: &SqlitePool) -> Result<Vec<Count>, sqlx::Error> {
    sqlx::query(COUNTS)
        .try_map(|row: SqliteRow| {
            Ok(Count {
                route: text::route(row.try_get("route")?),
                state: StateName::parse(row.try_get("state")?),
                reason: row.try_get("reason")?,
                rows: row.try_get("rows")?,
                oldest_age_seconds: row.try_get("oldest")?,
            })
        })
        .fetch_all(pool)
        .await
}

pub(super) async fn beat(tx: &mut Tx, node: &NodeIdentity) -> Result<(), sqlx::Error> {
    sqlx::query(BEAT)
        .bind(node.incarnation)
        .bind(&node.name)
        .bind(&node.version)
        .execute(&mut **tx)
        .await?;
    for statement in [FORGET_NODES, FORGET_COUNTERS] {
        sqlx::query(statement).execute(&mut **tx).await?;
    }
    Ok(())
}

pub(super) async fn nodes(pool: &SqlitePool) -> Result<Vec<Node>, sqlx::Error> {
    sqlx::query(NODES)
        .try_map(|row: SqliteRow| {
            Ok(Node {
                incarnation: row.try_get("incarnation")?,
                name: row.try_get("name")?,
                version: row.try_get("version")?,
                started_seconds_ago: row.try_get("started")?,
                seen_seconds_ago: row.try_get("seen")?,
                duplicates: row.try_get("duplicates")?,
            })
        })
        .fetch_all(pool)
        .await
}

type Filtered = Query<'static, Sqlite, SqliteArguments>;

fn filtered(sql: &'static str, filter: &Filter, before: Option<RowId>, limit: i64) -> Filtered {
    let hash = filter
        .dedup_key
        .as_ref()
        .map(|key| DedupKey::new(key.clone()).hash.0.to_vec());
    let ids: Vec<String> = filter
        .ids
        .iter()
        .map(|id| id.0.simple().to_string())
        .collect();
    sqlx::query(sql)
        .bind(filter.route.clone())
        .bind(filter.state.map(StateName::as_str))
        .bind(filter.reason.clone())
        .bind(hash)
        .bind(filter.dedup_key.as_deref().map(text::shown))
        .bind((!ids.is_empty()).then_some(sqlx::types::Json(ids)))
        .bind(filter.since.map(ms))
        .bind(before.map(|id| id.0))
        .bind(limit)
}

pub(super) async fn list(
    pool: &SqlitePool,
    filter: &Filter,
    bodies: bool,
) -> Result<Vec<RowView>, sqlx::Error> {
    let sql = if bodies { SHOW } else { LIST };
    filtered(sql, filter, filter.before, filter.limit)
        .try_map(|row: SqliteRow| row_view(&row))
        .fetch_all(pool)
        .await
}

fn row_view(row: &SqliteRow) -> Result<RowView, sqlx::Error> {
    let time = |column: &str| -> Result<Option<String>, sqlx::Error> {
        let ms: Option<i64> = row.try_get(column)?;
        let time = ms.and_then(DateTime::from_timestamp_millis);
        Ok(time.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)))
    };
    let payload: Option<&[u8]> = row.try_get("payload")?;
    let envelope: Option<&[u8]> = row.try_get("envelope")?;
    Ok(RowView {
        id: RowId(row.try_get("id")?),
        source: row.try_get("source")?,
        route: text::route(row.try_get("route")?),
        engine: row.try_get("engine")?,
        scope: row.try_get("scope")?,
        dedup_key: row.try_get("dedup_key")?,
        conflict: row.try_get("conflict")?,
        state: StateName::parse(row.try_get("state")?),
        reason: row.try_get("reason")?,
        detail: row.try_get("detail")?,
        epoch: row.try_get("epoch")?,
        attempts: row.try_get("attempts")?,
        message_name: row.try_get("message_name")?,
        business_key: row.try_get("business_key")?,
        process_instance_id: row.try_get("process_instance_id")?,
        coordinates: row.try_get("coordinates")?,
        received_at: time("received_at")?.unwrap_or_default(),
        changed_at: time("changed_at")?.unwrap_or_default(),
        due_at: time("due_at")?,
        expires_at: time("expires_at")?,
        payload_bytes: row.try_get("payload_bytes")?,
        payload: payload.map(text::body),
        envelope: envelope.and_then(|bytes| serde_json::from_slice(bytes).ok()),
    })
}

/// Changes what the filter means, page by page from the newest, each in a transaction of its own; a
/// limit that is not positive means all.
pub(super) async fn page_through(
    inbox: &SqliteInbox,
    sql: &'static str,
    filter: &Filter,
) -> Result<u64, DbError> {
    let step = if sql == REDRIVE {
        "inbox.redrive"
    } else {
        "inbox.discard"
    };
    let mut left = if filter.limit > 0 {
        filter.limit
    } else {
        i64::MAX
    };
    let mut before = filter.before;
    let mut changed = 0;
    while left > 0 {
        let page = left.min(PAGE);
        let mut tx = inbox.begin().await?;
        let ids = filtered(sql, filter, before, page)
            .try_map(|row: SqliteRow| row.try_get(0).map(RowId))
            .fetch_all(&mut *tx)
            .await
            .map_err(DbError::of(step))?;
        inbox.commit(tx).await?;
        changed += ids.len() as u64;
        let found = i64::try_from(ids.len()).unwrap_or(i64::MAX);
        if found < page {
            break;
        }
        left -= found;
        before = ids.into_iter().min();
    }
    Ok(changed)
}

pub(super) async fn inspect(inbox: &SqliteInbox) -> Result<Vec<Finding>, sqlx::Error> {
    let file = inbox.file().display();
    let there = tokio::fs::try_exists(inbox.file()).await;
    let first = if there.map_err(sqlx::Error::Io)? {
        let version: String = sqlx::query_scalar(INSPECT)
            .fetch_one(inbox.readers())
            .await?;
        format!("SQLite {version}, file {file}")
    } else {
        format!("SQLite, file {file}, which is not there yet")
    };
    Ok(vec![
        Finding::info(first),
        Finding::info(
            "SQLite is for one machine and a local disk: a node that is frozen inside a transaction \
             holds up all others, and order per key is not to be had",
        ),
    ])
}
