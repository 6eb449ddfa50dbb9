//! Which waiting rows may go on: those that somebody waits for now, and those that waited for the backlog.
//!
//! Reads the inbox and the engine beside each other and changes neither. Invariant: a round looks at a
//! bounded number of business keys, and in time every key is looked at.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::Tx;
use super::claim::row_ids;
use super::tables::Tables;
use crate::inbox::{DbError, RowId, Woken};
use crate::message::WaitReason;
use crate::units::Span;

/// How many business keys one round of the wake looks at: some 50 ms of the server's time.
const KEYS: i64 = 5000;

/// Rows that only wait for the backlog, the oldest first.
pub(super) async fn queued(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
    routes: &[String],
    limit: i64,
) -> Result<Vec<RowId>, DbError> {
    let rows = sqlx::query(tables.sql(
        "/* camunda_tables.queued */
         SELECT w.id AS row_id
           FROM {s}inbox w
          WHERE w.engine = $1 AND w.state = 'waiting' AND w.reason = 'backlog' AND w.route = ANY($2)
          ORDER BY w.id
          LIMIT $3",
    ))
    .bind(engine)
    .bind(routes)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await
    .map_err(DbError::of("engine queue"))?;
    Ok(row_ids(&rows))
}

/// Where a round of the wake ended: what it looked at last. The default stands before everything, because
/// no announced row has an empty business key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    message_name: String,
    business_key: String,
}

/// What a round of the wake is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub engine: &'a str,
    pub routes: &'a [String],
    /// Seconds that the engine's clock is ahead of UTC, where that is known.
    pub clock: Option<f64>,
}

/// How far a round may still go.
#[derive(Debug, Clone, Copy)]
struct Left {
    /// Business keys that may be looked at: each costs the server some index look-ups.
    keys: i64,
    hits: i64,
}

/// The first waiting row of each free subscription, at most `limit`, and where the next round begins.
///
/// A round goes on where the last one ended, once around at most: however many rows wait, it looks at
/// [`KEYS`] of their business keys, and rows that cannot go starve nobody. As long as there are no more
/// than that, every round looks at all of them.
pub(super) async fn wake(
    tx: &mut Tx,
    tables: &Tables,
    asked: Asked<'_>,
    limit: i64,
    begin: Place,
) -> Result<(Vec<Woken>, Place), DbError> {
    let left = Left {
        keys: KEYS,
        hits: limit,
    };
    let first = Page::read(tx, tables, asked, left, &begin, None).await?;
    if !first.is_last {
        return Ok((first.rows, first.end));
    }
    let start = Place::default();
    if begin == start {
        return Ok((first.rows, start));
    }
    let second = Page::read(tx, tables, asked, first.left, &start, Some(&begin)).await?;
    let rows = [first.rows, second.rows].concat();
    Ok((rows, second.end))
}

/// Business keys that were looked at, one after the other.
struct Page {
    rows: Vec<Woken>,
    end: Place,
    left: Left,
    /// Nothing waits behind it.
    is_last: bool,
}

impl Page {
    /// What waits after `begin`, up to `stop` or until nothing is left.
    ///
    /// It joins states and not reasons, but for the reasons that use an attempt: those rows could go at
    /// once and were answered no, so they wait for their back-off. The steps are forced upon the planner
    /// (`OFFSET 0`, scalar look-ups): one descent of an index finds the next business key, another one its
    /// instances. Of tables that were analysed while they were empty it would join all with all.
    async fn read(
        tx: &mut Tx,
        tables: &Tables,
        asked: Asked<'_>,
        left: Left,
        begin: &Place,
        stop: Option<&Place>,
    ) -> Result<Self, DbError> {
        let rows = sqlx::query(tables.sql(
            "/* camunda_tables.wake */
             WITH RECURSIVE page AS (
                  SELECT $3::text AS message_name, $4::text AS business_key,
                         0::int8 AS keys, 0::int8 AS hits, NULL::uuid AS row_id, NULL::float8 AS overdue
                   UNION ALL
                  SELECT next.message_name, next.business_key,
                         page.keys + 1, page.hits + (hit.id IS NOT NULL)::int4, hit.id, hit.overdue
                    FROM page
                   CROSS JOIN LATERAL (
                         SELECT w.message_name, w.business_key
                           FROM {s}inbox w
                          WHERE w.engine = $1 AND w.state = 'waiting' AND w.announced
                            AND (w.message_name, w.business_key) > (page.message_name, page.business_key)
                          ORDER BY w.message_name, w.business_key
                          LIMIT 1) next
                    LEFT JOIN LATERAL (
                         SELECT evt.created_
                           FROM (SELECT x.id_ FROM {e}act_ru_execution x
                                  WHERE x.business_key_ = next.business_key OFFSET 0) inst
                          CROSS JOIN LATERAL (
                                SELECT x.id_, x.suspension_state_ FROM {e}act_ru_execution x
                                 WHERE x.proc_inst_id_ = inst.id_ OFFSET 0) res
                          CROSS JOIN LATERAL (
                                SELECT x.id_, x.event_type_, x.event_name_, x.created_
                                  FROM {e}act_ru_event_subscr x
                                 WHERE x.execution_id_ = res.id_ OFFSET 0) evt
                          WHERE res.suspension_state_ = 1
                            AND evt.event_type_ = 'message' AND evt.event_name_ = next.message_name
                            AND (SELECT p.row_id FROM {s}pending p
                                  WHERE p.engine = $1 AND p.subscription_id = evt.id_) IS NULL
                            AND (SELECT p.row_id FROM {s}pending p
                                  WHERE p.engine = $1 AND p.process_instance_id = inst.id_
                                    AND p.message_name = next.message_name) IS NULL
                          LIMIT 1) free ON true
                    LEFT JOIN LATERAL (
                         SELECT w.id,
                                CASE WHEN w.reason <> 'busy' AND $9::float8 IS NOT NULL THEN extract(epoch FROM least(
                                     (clock_timestamp() AT TIME ZONE 'UTC') + make_interval(secs => $9)
                                     - free.created_, clock_timestamp() - w.changed_at,
                                     CASE WHEN w.reason = ANY($10)
                                          THEN clock_timestamp() - w.due_at END))::float8 END AS overdue
                           FROM {s}inbox w
                          WHERE free.created_ IS NOT NULL
                            AND w.engine = $1 AND w.state = 'waiting' AND w.announced
                            AND w.message_name = next.message_name AND w.business_key = next.business_key
                            AND w.route = ANY($2)
                            AND w.reason NOT IN ('ordered', 'backlog')
                            AND (w.reason <> ALL($10)
                                 OR w.due_at <= clock_timestamp())
                          ORDER BY w.id
                          LIMIT 1) hit ON true
                   WHERE page.keys < $5 AND page.hits < $6
                     AND ((next.message_name, next.business_key) <= ($7, $8)) IS NOT FALSE)
             SELECT message_name, business_key, keys, hits, row_id, overdue
               FROM page
              WHERE row_id IS NOT NULL OR keys = (SELECT max(keys) FROM page)
              ORDER BY keys",
        ))
        .bind(asked.engine)
        .bind(asked.routes)
        .bind(&begin.message_name)
        .bind(&begin.business_key)
        .bind(left.keys)
        .bind(left.hits)
        .bind(stop.map(|stop| stop.message_name.as_str()))
        .bind(stop.map(|stop| stop.business_key.as_str()))
        .bind(asked.clock)
        .bind(WaitReason::UNTIL_DUE.map(WaitReason::as_str))
        .fetch_all(&mut **tx)
        .await
        .map_err(DbError::of("wake"))?;
        Ok(Self::of(&rows, left))
    }

    /// `left`: before it.
    fn of(rows: &[PgRow], left: Left) -> Self {
        let end = rows.last().expect("the place where it began is a row, too");
        let left = Left {
            keys: left.keys - end.get::<i64, _>("keys"),
            hits: left.hits - end.get::<i64, _>("hits"),
        };
        Self {
            rows: rows.iter().filter_map(woken).collect(),
            end: Place {
                message_name: end.get("message_name"),
                business_key: end.get("business_key"),
            },
            left,
            is_last: left.keys > 0 && left.hits > 0,
        }
    }
}

/// `None`: no row of the business key may go on.
fn woken(row: &PgRow) -> Option<Woken> {
    let overdue: Option<f64> = row.get("overdue");
    Some(Woken {
        row: RowId(row.get::<Option<Uuid>, _>("row_id")?),
        overdue: overdue.map(|seconds| Span(Duration::from_secs_f64(seconds.max(0.0)))),
    })
}
