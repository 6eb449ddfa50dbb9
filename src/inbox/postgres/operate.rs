//! Statements for operators and pages: probe, counts, nodes, list, redrive, discard.
//!
//! Invariant: what an operator changes gets a new epoch, so that a node which still drives the row as
//! it was changes nothing.

use std::collections::BTreeSet;

use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::Row as _;
use sqlx::SqlStr;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::order::wake_next;
use super::statement::statements;
use super::{PostgresInbox, Tx};
use crate::inbox::span::ms;
use crate::inbox::{
    Count, DbError, Filter, Inbox as _, Node, NodeIdentity, OrderKey, RowId, RowView, StateName,
    text,
};
use crate::message::DedupKey;

/// Rows that one transaction of redrive or discard changes.
const PAGE: i64 = 500;
/// Up to this many bytes of table, done rows are counted one by one.
const COUNTED_BYTES: i64 = 8 * 1024 * 1024;

/// Parameters 1 to 9 of a filter; plans are made for the values, so what is not asked for costs nothing.
macro_rules! filtered {
    () => {
        "($1::text IS NULL OR i.route = $1)
            AND ($2::text IS NULL OR i.state = $2)
            AND ($3::text IS NULL OR i.reason = $3)
            AND ($4::bytea IS NULL OR i.dedup_hash = $4
                OR (i.state = 'dead' AND i.dedup_key = $5))
            AND (cardinality($6::uuid[]) = 0 OR i.id = ANY ($6))
            AND ($7::bigint IS NULL
                OR i.received_at > statement_timestamp() - $7::bigint * interval '1 millisecond')
            AND ($8::uuid IS NULL OR i.id < $8)"
    };
}

macro_rules! listed {
    ($bodies:literal) => {
        concat!(
            "/* inbox.list */
            SELECT i.id, i.source, i.route, i.engine, i.scope, i.dedup_key,
                i.conflict_hash <> '' AS conflict, i.state, i.reason, i.detail, i.epoch, i.attempts,
                i.message_name, i.business_key, i.process_instance_id, i.coordinates,
                i.received_at, i.changed_at, i.due_at, i.expires_at,
                octet_length(i.payload)::bigint AS payload_bytes, ",
            $bodies,
            " FROM {s}.inbox i
            WHERE ",
            filtered!(),
            "
            ORDER BY i.id DESC
            LIMIT $9"
        )
    };
}

macro_rules! picked {
    () => {
        concat!(
            "WITH picked AS (
                SELECT i.id FROM {s}.inbox i
                WHERE i.state IN ('waiting', 'dead') AND ",
            filtered!(),
            "
                ORDER BY i.id DESC
                LIMIT $9
                FOR UPDATE
            )"
        )
    };
}

statements! {
    probe_write: r"/* inbox.probe_write */
        INSERT INTO {s}.probe (id) VALUES ($1)",
    probe_forget: r"/* inbox.probe_forget */
        DELETE FROM {s}.probe WHERE id = $1",
    counts: r"/* inbox.counts */
        SELECT route, state, reason, count(*) AS rows,
            greatest(0, extract(epoch FROM clock_timestamp() - min(received_at)))::float8 AS oldest
        FROM {s}.inbox
        WHERE state <> 'done'
        GROUP BY route, state, reason",
    // The density of the last ANALYZE times the size of now, as the planner reckons.
    size: r"/* inbox.size */
        SELECT pg_relation_size(c.oid) AS bytes,
            (CASE WHEN c.relpages > 0 THEN c.reltuples / c.relpages ELSE 0 END
                * (pg_relation_size(c.oid) / current_setting('block_size')::bigint))::bigint AS rows
        FROM pg_class c
        WHERE c.oid = '{s}.inbox'::regclass",
    count_done: r"/* inbox.count_done */
        SELECT count(*) FROM {s}.inbox WHERE state = 'done'",
    oldest_done: r"/* inbox.oldest_done */
        SELECT COALESCE(greatest(0, extract(epoch FROM clock_timestamp() - min(done_at))), 0)::float8
        FROM {s}.inbox WHERE state = 'done'",
    beat: r"/* inbox.beat */
        INSERT INTO {s}.node (incarnation, name, version)
        VALUES ($1, $2, $3)
        ON CONFLICT (incarnation) DO UPDATE SET seen_at = clock_timestamp()",
    forget_nodes: r"/* inbox.forget_nodes */
        DELETE FROM {s}.node WHERE seen_at < statement_timestamp() - interval '1 day'",
    forget_counters: r"/* inbox.forget_counters */
        DELETE FROM {s}.node_counter c
        WHERE c.changed_at < statement_timestamp() - interval '1 day'
            AND NOT EXISTS (SELECT FROM {s}.node n WHERE n.incarnation = c.incarnation)",
    nodes: r"/* inbox.nodes */
        SELECT n.incarnation, n.name, n.version,
            extract(epoch FROM clock_timestamp() - n.started_at)::float8 AS started,
            greatest(0, extract(epoch FROM clock_timestamp() - n.seen_at))::float8 AS seen,
            COALESCE((
                SELECT sum(c.duplicates) FROM {s}.node_counter c WHERE c.incarnation = n.incarnation
            ), 0)::bigint AS duplicates
        FROM {s}.node n
        ORDER BY n.started_at",
    list: listed!("NULL::bytea AS payload, NULL::bytea AS envelope"),
    show: listed!("i.payload, i.envelope"),
    // What nobody waited for is waited for now. What is behind another of its order key has its turn.
    redrive: concat!("/* inbox.redrive */ ", picked!(), "
        UPDATE {s}.inbox i SET
            state = 'waiting',
            reason = CASE WHEN i.state = 'dead' OR i.reason IN ('no_subscription', 'unknown_message')
                THEN 'retry' ELSE i.reason END,
            detail = 'redriven by an operator', attempts = 0, epoch = i.epoch + 1,
            changed_at = clock_timestamp(), expires_at = NULL,
            due_at = CASE WHEN i.state = 'waiting' AND i.reason = 'ordered'
                THEN i.due_at ELSE clock_timestamp() END
        FROM picked
        WHERE i.id = picked.id
        RETURNING i.id, i.order_scope, i.order_key"),
    discard: concat!("/* inbox.discard */ ", picked!(), "
        UPDATE {s}.inbox i SET
            state = 'done', reason = NULL, detail = 'discarded by an operator', epoch = i.epoch + 1,
            changed_at = clock_timestamp(), due_at = NULL, expires_at = NULL,
            done_at = clock_timestamp()
        FROM picked
        WHERE i.id = picked.id
        RETURNING i.id, i.order_scope, i.order_key"),
}

pub(super) async fn probe(inbox: &PostgresInbox, tx: &mut Tx) -> Result<(), DbError> {
    let id = Uuid::now_v7();
    for statement in [
        &inbox.inner.operate.probe_write,
        &inbox.inner.operate.probe_forget,
    ] {
        let query = sqlx::query(statement.clone()).bind(id);
        inbox
            .within("inbox.probe", query.execute(&mut **tx))
            .await?;
    }
    Ok(())
}

pub(super) async fn counts(inbox: &PostgresInbox) -> Result<Vec<Count>, DbError> {
    let step = "inbox.counts";
    let statements = &inbox.inner.operate;
    let mut tx = inbox.begin().await?;
    let query = sqlx::query(statements.counts.clone()).try_map(|row: PgRow| {
        Ok(Count {
            route: text::route(row.try_get("route")?),
            state: StateName::parse(row.try_get("state")?),
            reason: row.try_get("reason")?,
            rows: row.try_get("rows")?,
            oldest_age_seconds: row.try_get("oldest")?,
        })
    });
    let mut counts = inbox.within(step, query.fetch_all(&mut *tx)).await?;
    let unfinished: i64 = counts.iter().map(|count| count.rows).sum();

    let size = sqlx::query_as(statements.size.clone());
    let (bytes, estimate): (i64, i64) = inbox.within(step, size.fetch_one(&mut *tx)).await?;
    let rows = if bytes <= COUNTED_BYTES {
        let exact = sqlx::query_scalar(statements.count_done.clone());
        inbox.within(step, exact.fetch_one(&mut *tx)).await?
    } else {
        (estimate - unfinished).max(0)
    };
    let oldest = sqlx::query_scalar(statements.oldest_done.clone());
    counts.push(Count {
        route: None,
        state: StateName::Done,
        reason: None,
        rows,
        oldest_age_seconds: inbox.within(step, oldest.fetch_one(&mut *tx)).await?,
    });
    Ok(counts)
}

pub(super) async fn beat(inbox: &PostgresInbox, node: &NodeIdentity) -> Result<(), DbError> {
    let statements = &inbox.inner.operate;
    let mut tx = inbox.begin().await?;
    let beat = sqlx::query(statements.beat.clone())
        .bind(node.incarnation)
        .bind(&node.name)
        .bind(&node.version);
    inbox.within("inbox.beat", beat.execute(&mut *tx)).await?;
    for statement in [&statements.forget_nodes, &statements.forget_counters] {
        let query = sqlx::query(statement.clone());
        inbox.within("inbox.beat", query.execute(&mut *tx)).await?;
    }
    inbox.commit(tx).await
}

pub(super) async fn nodes(inbox: &PostgresInbox) -> Result<Vec<Node>, DbError> {
    let mut tx = inbox.begin().await?;
    let query = sqlx::query(inbox.inner.operate.nodes.clone()).try_map(|row: PgRow| {
        Ok(Node {
            incarnation: row.try_get("incarnation")?,
            name: row.try_get("name")?,
            version: row.try_get("version")?,
            started_seconds_ago: row.try_get("started")?,
            seen_seconds_ago: row.try_get("seen")?,
            duplicates: row.try_get("duplicates")?,
        })
    });
    let nodes = inbox
        .within("inbox.nodes", query.fetch_all(&mut *tx))
        .await?;
    Ok(nodes)
}

type Query = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn filtered(statement: &SqlStr, filter: &Filter, before: Option<RowId>, limit: i64) -> Query {
    let hash = filter
        .dedup_key
        .as_ref()
        .map(|key| DedupKey::new(key.clone()).hash.0);
    let ids: Vec<Uuid> = filter.ids.iter().map(|id| id.0).collect();
    sqlx::query(statement.clone())
        .bind(filter.route.clone())
        .bind(filter.state.map(StateName::as_str))
        .bind(filter.reason.clone())
        .bind(hash)
        .bind(filter.dedup_key.as_deref().map(text::shown))
        .bind(ids)
        .bind(filter.since.map(ms))
        .bind(before.map(|id| id.0))
        .bind(limit)
}

pub(super) async fn list(
    inbox: &PostgresInbox,
    filter: &Filter,
    bodies: bool,
) -> Result<Vec<RowView>, DbError> {
    let statements = &inbox.inner.operate;
    let statement = if bodies {
        &statements.show
    } else {
        &statements.list
    };
    let mut tx = inbox.begin().await?;
    let query = filtered(statement, filter, filter.before, filter.limit)
        .try_map(|row: PgRow| row_view(&row));
    let rows = inbox
        .within("inbox.list", query.fetch_all(&mut *tx))
        .await?;
    Ok(rows)
}

fn row_view(row: &PgRow) -> Result<RowView, sqlx::Error> {
    let time = |column: &str| -> Result<Option<String>, sqlx::Error> {
        let time: Option<DateTime<Utc>> = row.try_get(column)?;
        Ok(time.map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true)))
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

pub(super) async fn redrive(inbox: &PostgresInbox, filter: &Filter) -> Result<u64, DbError> {
    page_through(
        inbox,
        "inbox.redrive",
        &inbox.inner.operate.redrive,
        filter,
        false,
    )
    .await
}

pub(super) async fn discard(inbox: &PostgresInbox, filter: &Filter) -> Result<u64, DbError> {
    page_through(
        inbox,
        "inbox.discard",
        &inbox.inner.operate.discard,
        filter,
        true,
    )
    .await
}

/// Changes what the filter means, page by page from the newest, each in a transaction of its own; a
/// limit that is not positive means all.
async fn page_through(
    inbox: &PostgresInbox,
    step: &'static str,
    statement: &SqlStr,
    filter: &Filter,
    finishes: bool,
) -> Result<u64, DbError> {
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
        let query = filtered(statement, filter, before, page);
        let rows = inbox.within(step, query.fetch_all(&mut *tx)).await?;
        let (last, keys) = picked_rows(&rows).map_err(DbError::of(step))?;
        if finishes {
            wake_next(inbox, &mut tx, &keys).await?;
        }
        inbox.commit(tx).await?;
        changed += rows.len() as u64;
        let found = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        if found < page {
            break;
        }
        left -= found;
        before = last;
    }
    Ok(changed)
}

/// The smallest id of a page, where the next one begins, and the order keys in it.
fn picked_rows(rows: &[PgRow]) -> Result<(Option<RowId>, BTreeSet<OrderKey>), sqlx::Error> {
    let mut last: Option<RowId> = None;
    let mut keys = BTreeSet::new();
    for row in rows {
        let id = RowId(row.try_get("id")?);
        last = Some(last.map_or(id, |last| last.min(id)));
        let scope: Option<String> = row.try_get("order_scope")?;
        let key: Option<String> = row.try_get("order_key")?;
        keys.extend(scope.zip(key).map(|(scope, key)| OrderKey { scope, key }));
    }
    Ok((last, keys))
}
