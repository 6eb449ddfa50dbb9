//! Statements on positions: how far each consumer group has come in each partition.
//!
//! Invariant: a batch finds a position by its claim alone, so that one of an earlier assignment, or of a
//! database that has forgotten the claim, changes nothing.

use std::collections::HashMap;
use std::fmt::Write as _;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::statement::statements;
use super::{PostgresInbox, Tx};
use crate::inbox::{DbError, Inbox as _, PositionView};
use crate::position::{Advance, Beginning, Mark, Partition, Standing, Stored};

statements! {
    // Locked in a fixed order, so that two batches of one node cannot deadlock, and until the commit, so
    // that their commits stand in the order of their numbers.
    advance: r"/* inbox.advance_positions */
        WITH step AS MATERIALIZED (
            SELECT p.claim, s.offsets::int8multirange AS offsets,
                s.record_offset, s.record_at_ms, s.anchor_offset, s.anchor_at_ms
            FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
                AS s (claim, offsets, record_offset, record_at_ms, anchor_offset, anchor_at_ms)
            JOIN {s}.source_position p ON p.claim = s.claim
            ORDER BY p.claim
            FOR UPDATE OF p
        )
        UPDATE {s}.source_position AS p
        SET (next_offset, ahead) = (
                SELECT upper(r.stored), c.stored - int8multirange(r.stored)
                FROM (SELECT p.ahead + s.offsets + int8multirange(int8range(NULL, p.next_offset)))
                        AS c (stored),
                    unnest(c.stored) AS r (stored)
                WHERE lower_inf(r.stored)
            ),
            record_at_ms = CASE WHEN s.record_offset >= COALESCE(p.record_offset, s.record_offset)
                THEN s.record_at_ms ELSE p.record_at_ms END,
            record_offset = GREATEST(p.record_offset, s.record_offset),
            anchor_offset = s.anchor_offset,
            anchor_at_ms = s.anchor_at_ms,
            changed_at = clock_timestamp()
        FROM step s
        WHERE p.claim = s.claim
        RETURNING p.claim, p.next_offset",
    claim: r"/* inbox.claim_position */
        UPDATE {s}.source_position
        SET claim = $6, source = $1, epoch = epoch + 1, changed_at = clock_timestamp()
        WHERE group_id = $2 AND cluster_id = $3 AND topic = $4 AND partition = $5
        RETURNING next_offset, since, record_offset, record_at_ms, anchor_offset, anchor_at_ms, epoch",
    begin: r"/* inbox.begin_position */
        INSERT INTO {s}.source_position AS p (
            source, group_id, cluster_id, topic, partition,
            claim, epoch, next_offset, since, record_offset, record_at_ms, anchor_offset, anchor_at_ms
        )
        VALUES ($1, $2, $3, $4, $5, $6, 1, $7, $7, $8, $9, $8, $9)
        ON CONFLICT (group_id, cluster_id, topic, partition) DO UPDATE
        SET next_offset = EXCLUDED.next_offset, ahead = '{}', since = EXCLUDED.since,
            record_offset = EXCLUDED.record_offset, record_at_ms = EXCLUDED.record_at_ms,
            anchor_offset = EXCLUDED.anchor_offset, anchor_at_ms = EXCLUDED.anchor_at_ms,
            changed_at = clock_timestamp()
        WHERE p.claim = EXCLUDED.claim
        RETURNING epoch",
    standing: r"/* inbox.position_standing */
        SELECT k.place, p.claim, p.epoch, p.next_offset
        FROM unnest($1::text[], $2::text[], $3::text[], $4::integer[])
            WITH ORDINALITY AS k (group_id, cluster_id, topic, partition, place)
        JOIN {s}.source_position p USING (group_id, cluster_id, topic, partition)",
    list: r#"/* inbox.positions */
        SELECT source, group_id, cluster_id, topic, partition, next_offset, epoch,
            (SELECT COALESCE(sum(upper(r) - lower(r)), 0)::bigint FROM unnest(ahead) r) AS ahead,
            record_at_ms,
            to_char(changed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS changed_at
        FROM {s}.source_position
        ORDER BY source, topic, partition, group_id, cluster_id"#,
}

pub(super) async fn advance(
    inbox: &PostgresInbox,
    tx: &mut Tx,
    advances: &[Advance],
) -> Result<HashMap<Uuid, i64>, DbError> {
    let claims: Vec<Uuid> = advances.iter().map(|advance| advance.claim).collect();
    let offsets: Vec<String> = advances.iter().map(multirange).collect();
    let marks = |mark: fn(&Advance) -> Option<Mark>, of: fn(Mark) -> i64| -> Vec<Option<i64>> {
        let of = |advance: &Advance| mark(advance).map(of);
        advances.iter().map(of).collect()
    };
    let (highest, anchor) = (|at: &Advance| at.highest, |at: &Advance| at.anchor);
    let query = sqlx::query(inbox.inner.position.advance.clone())
        .bind(claims)
        .bind(offsets)
        .bind(marks(highest, |mark| mark.offset))
        .bind(marks(highest, |mark| mark.at_ms))
        .bind(marks(anchor, |mark| mark.offset))
        .bind(marks(anchor, |mark| mark.at_ms))
        .try_map(|row: PgRow| Ok((row.try_get("claim")?, row.try_get("next_offset")?)));
    let advanced = inbox
        .within("inbox.advance_positions", query.fetch_all(&mut **tx))
        .await?;
    Ok(advanced.into_iter().collect())
}

/// As PostgreSQL writes it: `{[0,5),[8,9)}`.
fn multirange(advance: &Advance) -> String {
    let mut text = String::from("{");
    for (index, offsets) in advance.offsets.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}[{},{})", offsets.start, offsets.end);
    }
    text + "}"
}

/// The places of these in the order of their partitions, so that two who lock the same cannot deadlock.
fn in_order<T>(all: &[T], partition: impl Fn(&T) -> &Partition) -> Vec<usize> {
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_key(|&index| partition(&all[index]));
    order
}

/// In one transaction.
pub(super) async fn claim(
    inbox: &PostgresInbox,
    claims: &[(Partition, Uuid)],
) -> Result<Vec<Option<Stored>>, DbError> {
    let mut tx = inbox.begin().await?;
    let mut stored = vec![None; claims.len()];
    for index in in_order(claims, |(partition, _)| partition) {
        let (partition, claim) = &claims[index];
        let query = of(&inbox.inner.position.claim, partition)
            .bind(claim)
            .try_map(|row: PgRow| {
                Ok(Stored {
                    next: row.try_get("next_offset")?,
                    since: row.try_get("since")?,
                    highest: Mark::of(row.try_get("record_offset")?, row.try_get("record_at_ms")?),
                    anchor: Mark::of(row.try_get("anchor_offset")?, row.try_get("anchor_at_ms")?),
                    epoch: row.try_get("epoch")?,
                })
            });
        stored[index] = inbox
            .within("inbox.claim_position", query.fetch_optional(&mut *tx))
            .await?;
    }
    inbox.commit(tx).await?;
    Ok(stored)
}

pub(super) async fn begin(
    inbox: &PostgresInbox,
    beginnings: &[Beginning],
) -> Result<Vec<Option<i64>>, DbError> {
    let mut tx = inbox.begin().await?;
    let mut epochs = vec![None; beginnings.len()];
    for index in in_order(beginnings, |beginning| &beginning.partition) {
        let beginning = &beginnings[index];
        let query = of(&inbox.inner.position.begin, &beginning.partition)
            .bind(beginning.claim)
            .bind(beginning.at)
            .bind(beginning.mark.map(|mark| mark.offset))
            .bind(beginning.mark.map(|mark| mark.at_ms))
            .try_map(|row: PgRow| row.try_get("epoch"));
        epochs[index] = inbox
            .within("inbox.begin_position", query.fetch_optional(&mut *tx))
            .await?;
    }
    inbox.commit(tx).await?;
    Ok(epochs)
}

type Query = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// Parameters 1 to 5.
fn of(statement: &sqlx::SqlStr, partition: &Partition) -> Query {
    sqlx::query(statement.clone())
        .bind(partition.source.clone())
        .bind(partition.group_id.clone())
        .bind(partition.cluster_id.clone())
        .bind(partition.topic.clone())
        .bind(partition.number)
}

pub(super) async fn standing(
    inbox: &PostgresInbox,
    tx: &mut Tx,
    partitions: &[&Partition],
) -> Result<Vec<Option<Standing>>, DbError> {
    let column = |of: fn(&Partition) -> &str| -> Vec<&str> {
        partitions.iter().map(|partition| of(partition)).collect()
    };
    let numbers: Vec<i32> = partitions
        .iter()
        .map(|partition| partition.number)
        .collect();
    let query = sqlx::query(inbox.inner.position.standing.clone())
        .bind(column(|partition| &partition.group_id))
        .bind(column(|partition| &partition.cluster_id))
        .bind(column(|partition| &partition.topic))
        .bind(numbers)
        .try_map(|row: PgRow| {
            let place: i64 = row.try_get("place")?;
            let standing = Standing {
                claim: row.try_get("claim")?,
                epoch: row.try_get("epoch")?,
                next: row.try_get("next_offset")?,
            };
            Ok((place, standing))
        });
    let found = inbox
        .within("inbox.position_standing", query.fetch_all(&mut **tx))
        .await?;
    let mut standings = vec![None; partitions.len()];
    for (place, standing) in found {
        let index = usize::try_from(place - 1).expect("places count from 1");
        standings[index] = Some(standing);
    }
    Ok(standings)
}

pub(super) async fn list(inbox: &PostgresInbox) -> Result<Vec<PositionView>, DbError> {
    let mut tx = inbox.begin().await?;
    let query = sqlx::query(inbox.inner.position.list.clone()).try_map(|row: PgRow| {
        Ok(PositionView {
            source: row.try_get("source")?,
            topic: row.try_get("topic")?,
            partition: row.try_get("partition")?,
            next_offset: row.try_get("next_offset")?,
            ahead: row.try_get("ahead")?,
            record_at_ms: row.try_get("record_at_ms")?,
            group_id: row.try_get("group_id")?,
            cluster_id: row.try_get("cluster_id")?,
            epoch: row.try_get("epoch")?,
            changed_at: row.try_get("changed_at")?,
        })
    });
    let positions = inbox
        .within("inbox.positions", query.fetch_all(&mut *tx))
        .await?;
    Ok(positions)
}
