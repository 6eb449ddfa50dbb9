//! Which due rows a page is made of.
//!
//! Most rows that are due wait for nobody: the sweep looks at them again only because something may have
//! been missed. There may be more of them than it gets through, and then half of every other page is for the others:
//! the next row of an order key, a retry, what an operator redrives, what has expired. They are found by a
//! look that goes through what is due in its order, some thousand rows each time, and so through all of it in turn.
//! Invariant: a row that is due behind another of its order key gives its due time back to be woken in its
//! turn; every look would find it again otherwise.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::order::is_head;
use super::statement::statements;
use super::{PostgresInbox, Tx};
use crate::inbox::DbError;
use crate::message::WaitReason;

/// How many more rows than asked for are looked at, because other nodes may hold the first ones.
const LOOK_AHEAD: i64 = 4;
/// How often one call looks again, while all that it sees is due too early.
const LOOKS: usize = 10;
/// How many due rows one call goes through for those that somebody waits for: some 10 ms of the server's time.
const LOOKED_AT: i64 = 5000;

statements! {
    // Route by route, so that rows of a route that this node does not know are never read. What it compares
    // can use the index, and is the statement's own time.
    due: concat!("/* inbox.due */
        SELECT i.id, ", is_head!("$2"), " AS head
        FROM (
            SELECT c.* FROM unnest($1::text[]) AS r (route)
            CROSS JOIN LATERAL (
                SELECT w.id, w.due_at, w.order_scope, w.order_key, w.position
                FROM {s}.inbox w
                WHERE w.route = r.route AND w.state = 'waiting' AND w.due_at <= statement_timestamp()
                ORDER BY w.due_at, w.id
                LIMIT $3
            ) c
            ORDER BY c.due_at, c.id
            LIMIT $3
        ) i
        ORDER BY i.due_at, i.id"),
    give_back: concat!("/* inbox.give_due_time_back */
        UPDATE {s}.inbox SET due_at = NULL
        WHERE id = ANY (ARRAY(
            SELECT i.id FROM {s}.inbox i
            WHERE i.id = ANY ($1) AND NOT ", is_head!("$2"), "
                AND CASE WHEN i.state = 'waiting' THEN i.due_at IS NOT NULL END
            FOR UPDATE OF i SKIP LOCKED
        ))"),
    // Without an order of its own the look ends where it has seen enough; the index has the order already.
    ahead: concat!("/* inbox.due_ahead */
        WITH looked AS MATERIALIZED (
            SELECT c.*, r.n
            FROM unnest($1::text[], $2::timestamptz[], $3::uuid[])
                WITH ORDINALITY AS r (route, due_at, id, n)
            CROSS JOIN LATERAL (
                SELECT w.id, w.due_at, w.reason, w.expires_at, w.order_scope, w.order_key, w.position
                FROM {s}.inbox w
                WHERE w.route = r.route AND w.state = 'waiting' AND w.due_at <= statement_timestamp()
                    AND (w.due_at, w.id) > (r.due_at, r.id)
                ORDER BY w.due_at, w.id
                LIMIT $6
            ) c
            LIMIT $6
        )
        (
            SELECT i.n, i.due_at, i.id, NULL::bigint AS looked
            FROM looked i
            WHERE (i.reason <> ALL ($4) OR i.expires_at <= statement_timestamp()) AND ", is_head!("$5"), "
            ORDER BY i.n, i.due_at, i.id
            LIMIT $7
        )
        UNION ALL
        (
            SELECT i.n, i.due_at, i.id, (SELECT count(*) FROM looked)
            FROM looked i
            ORDER BY i.n DESC, i.due_at DESC, i.id DESC
            LIMIT 1
        )"),
}

/// Where the looks go on for rows that somebody waits for, by the routes that they are for.
#[derive(Default)]
pub(super) struct Places {
    places: Mutex<HashMap<String, Place>>,
    pages: AtomicU64,
}

/// The due row that was looked at last.
#[derive(Clone)]
struct Place {
    route: String,
    due_at: DateTime<Utc>,
    id: Uuid,
}

impl Places {
    /// Whether it is a page's turn to begin with those that somebody waits for.
    fn turn(&self) -> bool {
        let pages = self.pages.fetch_add(1, Ordering::Relaxed);
        pages.is_multiple_of(2)
    }

    fn of(&self, whose: &str) -> Option<Place> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(whose).cloned()
    }

    /// `None`: from the beginning.
    fn set(&self, whose: String, place: Option<Place>) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        match place {
            Some(place) => places.insert(whose, place),
            None => places.remove(&whose),
        };
    }
}

/// What may be taken, at least as many as asked for if there are so many.
pub(super) struct Due {
    pub rows: Vec<Uuid>,
    /// Those of them that come first.
    pub ahead: Vec<Uuid>,
    /// Some row lost its due time.
    pub gave_back: bool,
}

pub(super) async fn look(
    inbox: &PostgresInbox,
    tx: &mut Tx,
    routes: &[&str],
    blocking_dead: &[String],
    limit: i64,
) -> Result<Due, DbError> {
    let (mut rows, gave_back) = oldest(inbox, tx, routes, blocking_dead, limit).await?;
    let all_fit = i64::try_from(rows.len()).is_ok_and(|found| found <= limit);
    // Every other page is for the oldest alone: a few large rows that come first may fill one by their bytes.
    let ahead = if all_fit || !inbox.inner.due_places.turn() {
        Vec::new()
    } else {
        ahead(inbox, tx, routes, blocking_dead, limit / 2).await?
    };
    rows.extend(&ahead);
    Ok(Due {
        rows,
        ahead,
        gave_back,
    })
}

/// The heads among what has been due for longest, and whether others gave their due time back.
async fn oldest(
    inbox: &PostgresInbox,
    tx: &mut Tx,
    routes: &[&str],
    blocking_dead: &[String],
    limit: i64,
) -> Result<(Vec<Uuid>, bool), DbError> {
    let statements = &inbox.inner.due;
    let (mut heads, mut gave_back) = (Vec::new(), false);
    for _ in 0..LOOKS {
        let query = sqlx::query_as(statements.due.clone())
            .bind(routes)
            .bind(blocking_dead)
            .bind(limit.saturating_mul(LOOK_AHEAD));
        let found: Vec<(Uuid, bool)> = inbox
            .within("inbox.due", query.fetch_all(&mut **tx))
            .await?;
        let (first, behind): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, head)| *head);
        heads = first.into_iter().map(|(id, _)| id).collect();
        if behind.is_empty() {
            break;
        }
        let behind: Vec<Uuid> = behind.into_iter().map(|(id, _)| id).collect();
        let query = sqlx::query(statements.give_back.clone())
            .bind(behind)
            .bind(blocking_dead);
        let given = inbox
            .within("inbox.give_due_time_back", query.execute(&mut **tx))
            .await?;
        gave_back |= given.rows_affected() > 0;
        let enough = i64::try_from(heads.len()).is_ok_and(|found| found >= limit);
        if enough || given.rows_affected() == 0 {
            break;
        }
    }
    Ok((heads, gave_back))
}

/// Rows that somebody waits for, among the next few that are due.
async fn ahead(
    inbox: &PostgresInbox,
    tx: &mut Tx,
    routes: &[&str],
    blocking_dead: &[String],
    limit: i64,
) -> Result<Vec<Uuid>, DbError> {
    let whose = routes.join("\n");
    let place = inbox.inner.due_places.of(&whose);
    let begun = place
        .as_ref()
        .and_then(|place| routes.iter().position(|route| *route == place.route));
    let routes = &routes[begun.unwrap_or(0)..];
    let mut due_at = vec![DateTime::UNIX_EPOCH; routes.len()];
    let mut after = vec![Uuid::nil(); routes.len()];
    if let Some(place) = place {
        (due_at[0], after[0]) = (place.due_at, place.id);
    }
    let query = sqlx::query(inbox.inner.due.ahead.clone())
        .bind(routes)
        .bind(due_at)
        .bind(after)
        .bind(WaitReason::SAFETY_NET.map(WaitReason::as_str))
        .bind(blocking_dead)
        .bind(LOOKED_AT)
        .bind(limit)
        .try_map(|row: PgRow| {
            let nth: i64 = row.try_get("n")?;
            let route = usize::try_from(nth - 1)
                .ok()
                .and_then(|nth| routes.get(nth));
            let place = Place {
                route: route.copied().unwrap_or_default().to_owned(),
                due_at: row.try_get("due_at")?,
                id: row.try_get("id")?,
            };
            let looked: Option<i64> = row.try_get("looked")?;
            Ok((place, looked))
        });
    let found: Vec<(Place, Option<i64>)> = inbox
        .within("inbox.due_ahead", query.fetch_all(&mut **tx))
        .await?;
    let (last, found): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(_, looked)| looked.is_some());
    let full = i64::try_from(found.len()).is_ok_and(|found| found >= limit);
    let next = if full {
        found.last()
    } else {
        let more = |looked: &Option<i64>| looked.is_some_and(|looked| looked >= LOOKED_AT);
        last.iter().find(|(_, looked)| more(looked))
    };
    let next = next.map(|(place, _)| place.clone());
    inbox.inner.due_places.set(whose, next);
    Ok(found.into_iter().map(|(place, _)| place.id).collect())
}
