//! Statements on positions: how far each consumer group has come in each partition.
//!
//! What PostgreSQL does with its ranges is done in Rust here: there is one writer, so that what was read is
//! still true when it is written. Invariant: a batch finds a position by its claim alone.

use std::collections::HashMap;
use std::ops::Range;

use chrono::{DateTime, SecondsFormat};
use sqlx::Row as _;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqlitePool, SqliteRow};
use uuid::Uuid;

use super::{Tx, now};
use crate::inbox::PositionView;
use crate::position::{Advance, Beginning, Covered, Mark, Partition, Standing, Stored};

const READ: &str = r"/* inbox.read_position */
    SELECT next_offset, ahead FROM source_position WHERE claim = ?1";
const WRITE: &str = concat!(
    r"/* inbox.advance_position */
    UPDATE source_position
    SET next_offset = ?2, ahead = ?3,
        record_at_ms = iif(?4 >= ifnull(record_offset, ?4), ?5, record_at_ms),
        record_offset = max(ifnull(record_offset, ?4), ifnull(?4, record_offset)),
        anchor_offset = ?6, anchor_at_ms = ?7,
        changed_at = ",
    now!(),
    " WHERE claim = ?1"
);
const CLAIM: &str = concat!(
    r"/* inbox.claim_position */
    UPDATE source_position
    SET claim = ?6, source = ?1, epoch = epoch + 1, changed_at = ",
    now!(),
    r"
    WHERE group_id = ?2 AND cluster_id = ?3 AND topic = ?4 AND partition = ?5
    RETURNING next_offset, since, record_offset, record_at_ms, anchor_offset, anchor_at_ms, epoch"
);
const BEGIN: &str = concat!(
    r"/* inbox.begin_position */
    INSERT INTO source_position (
        source, group_id, cluster_id, topic, partition,
        claim, epoch, next_offset, since, record_offset, record_at_ms, anchor_offset, anchor_at_ms, changed_at
    )
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, ?7, ?8, ?9, ?8, ?9, ",
    now!(),
    r")
    ON CONFLICT (group_id, cluster_id, topic, partition) DO UPDATE
    SET next_offset = excluded.next_offset, ahead = '[]', since = excluded.since,
        record_offset = excluded.record_offset, record_at_ms = excluded.record_at_ms,
        anchor_offset = excluded.anchor_offset, anchor_at_ms = excluded.anchor_at_ms,
        changed_at = excluded.changed_at
    WHERE claim = excluded.claim
    RETURNING epoch"
);
const STANDING: &str = r"/* inbox.position_standing */
    SELECT claim, epoch, next_offset FROM source_position
    WHERE group_id = ?2 AND cluster_id = ?3 AND topic = ?4 AND partition = ?5";
const LIST: &str = r"/* inbox.positions */
    SELECT source, group_id, cluster_id, topic, partition, next_offset, epoch, record_at_ms, changed_at,
        (SELECT ifnull(sum((value ->> 1) - (value ->> 0)), 0) FROM json_each(ahead)) AS ahead
    FROM source_position
    ORDER BY source, topic, partition, group_id, cluster_id";

/// The statements of this module, for the test that prepares each.
pub(super) const STATEMENTS: &[&str] = &[READ, WRITE, CLAIM, BEGIN, STANDING, LIST];

pub(super) async fn advance(
    tx: &mut Tx,
    advances: &[Advance],
) -> Result<HashMap<Uuid, i64>, sqlx::Error> {
    let mut advanced = HashMap::with_capacity(advances.len());
    for advance in advances {
        let read = sqlx::query(READ).bind(advance.claim);
        let Some(row) = read.fetch_optional(&mut **tx).await? else {
            continue;
        };
        let mut covered = covered(row.try_get("next_offset")?, row.try_get("ahead")?)?;
        for offsets in &advance.offsets {
            covered.add(offsets.clone());
        }
        let ahead: Vec<(i64, i64)> = covered
            .ahead()
            .map(|Range { start, end }| (start, end))
            .collect();
        let ahead =
            serde_json::to_string(&ahead).map_err(|cause| sqlx::Error::Encode(cause.into()))?;
        sqlx::query(WRITE)
            .bind(advance.claim)
            .bind(covered.next())
            .bind(ahead)
            .bind(advance.highest.map(|mark| mark.offset))
            .bind(advance.highest.map(|mark| mark.at_ms))
            .bind(advance.anchor.map(|mark| mark.offset))
            .bind(advance.anchor.map(|mark| mark.at_ms))
            .execute(&mut **tx)
            .await?;
        advanced.insert(advance.claim, covered.next());
    }
    Ok(advanced)
}

fn covered(next: i64, ahead: &str) -> Result<Covered, sqlx::Error> {
    let ranges: Vec<(i64, i64)> =
        serde_json::from_str(ahead).map_err(|cause| sqlx::Error::Decode(cause.into()))?;
    let mut covered = Covered::upto(next);
    for (from, to) in ranges {
        covered.add(from..to);
    }
    Ok(covered)
}

pub(super) async fn claim(
    tx: &mut Tx,
    claims: &[(Partition, Uuid)],
) -> Result<Vec<Option<Stored>>, sqlx::Error> {
    let mut stored = Vec::with_capacity(claims.len());
    for (partition, claim) in claims {
        let query = of(CLAIM, partition).bind(*claim).try_map(|row: SqliteRow| {
            Ok(Stored {
                next: row.try_get("next_offset")?,
                since: row.try_get("since")?,
                highest: Mark::of(row.try_get("record_offset")?, row.try_get("record_at_ms")?),
                anchor: Mark::of(row.try_get("anchor_offset")?, row.try_get("anchor_at_ms")?),
                epoch: row.try_get("epoch")?,
            })
        });
        stored.push(query.fetch_optional(&mut **tx).await?);
    }
    Ok(stored)
}

pub(super) async fn begin(
    tx: &mut Tx,
    beginnings: &[Beginning],
) -> Result<Vec<Option<i64>>, sqlx::Error> {
    let mut epochs = Vec::with_capacity(beginnings.len());
    for beginning in beginnings {
        let query = of(BEGIN, &beginning.partition)
            .bind(beginning.claim)
            .bind(beginning.at)
            .bind(beginning.mark.map(|mark| mark.offset))
            .bind(beginning.mark.map(|mark| mark.at_ms))
            .try_map(|row: SqliteRow| row.try_get("epoch"));
        epochs.push(query.fetch_optional(&mut **tx).await?);
    }
    Ok(epochs)
}

/// Parameters 1 to 5.
fn of(statement: &'static str, partition: &Partition) -> Query<'static, Sqlite, SqliteArguments> {
    sqlx::query(statement)
        .bind(partition.source.clone())
        .bind(partition.group_id.clone())
        .bind(partition.cluster_id.clone())
        .bind(partition.topic.clone())
        .bind(partition.number)
}

pub(super) async fn standing(
    tx: &mut Tx,
    partitions: &[&Partition],
) -> Result<Vec<Option<Standing>>, sqlx::Error> {
    let mut standings = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let query = of(STANDING, partition).try_map(|row: SqliteRow| {
            Ok(Standing {
                claim: row.try_get("claim")?,
                epoch: row.try_get("epoch")?,
                next: row.try_get("next_offset")?,
            })
        });
        standings.push(query.fetch_optional(&mut **tx).await?);
    }
    Ok(standings)
}

pub(super) async fn list(pool: &SqlitePool) -> Result<Vec<PositionView>, sqlx::Error> {
    sqlx::query(LIST)
        .try_map(|row: SqliteRow| {
            let changed_at: i64 = row.try_get("changed_at")?;
            let changed_at = DateTime::from_timestamp_millis(changed_at).unwrap_or_default();
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
                changed_at: changed_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            })
        })
        .fetch_all(pool)
        .await
}
