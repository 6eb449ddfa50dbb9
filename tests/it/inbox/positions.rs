//! Positions: what is counted is what was committed, by whoever holds the claim.

#![expect(
    clippy::single_range_in_vec_init,
    reason = "a batch adds ranges, and usually one"
)]

use std::ops::Range;

use sluice::inbox::Inbox;
use sluice::position::{Advance, Beginning, Mark, Partition, Standing, Stored};
use uuid::Uuid;

use super::{Fresh, Kept, on_every_database};

on_every_database! {
    a_position_counts_what_is_stored_in_whatever_order_batches_commit,
    a_position_counts_nothing_that_was_rolled_back,
    only_the_last_claim_advances_a_position,
    a_position_begins_anew_only_by_its_claim,
    positions_are_told_apart_by_cluster_group_topic_and_partition,
    a_source_of_another_name_goes_on_with_the_position_of_its_group,
    batches_that_advance_the_same_positions_at_once_lose_nothing,
}

fn partition(number: i32) -> Partition {
    Partition {
        cluster_id: "cluster".to_owned(),
        group_id: "group".to_owned(),
        source: "orders".to_owned(),
        topic: "orders".to_owned(),
        number,
    }
}

fn advance(claim: Uuid, offsets: &[Range<i64>]) -> Advance {
    let end = offsets.iter().map(|range| range.end).max().unwrap();
    Advance {
        claim,
        offsets: offsets.to_vec(),
        highest: Some(mark(end - 1)),
        anchor: Some(mark(0)),
    }
}

/// The record at this offset, with a time that tells it.
fn mark(offset: i64) -> Mark {
    let at_ms = 1_000 + offset;
    Mark { offset, at_ms }
}

/// A position that begins here; returns its claim.
async fn begun<I: Inbox>(inbox: &I, number: i32, at: i64) -> Uuid {
    let claim = Uuid::now_v7();
    let partition = partition(number);
    let nothing = inbox.claim_positions(&[(partition.clone(), claim)]).await;
    assert_eq!(nothing.unwrap(), [None]);
    let mark = None;
    let beginning = Beginning {
        partition,
        claim,
        at,
        mark,
    };
    assert_eq!(
        inbox.begin_positions(&[beginning]).await.unwrap(),
        [Some(1)]
    );
    claim
}

/// One transaction; how far the position is then, if it was found.
async fn commit<I: Inbox>(inbox: &I, claim: Uuid, offsets: &[Range<i64>]) -> Option<i64> {
    let mut tx = inbox.begin().await.unwrap();
    let advanced = inbox
        .advance_positions(&mut tx, &[advance(claim, offsets)])
        .await;
    inbox.commit(tx).await.unwrap();
    advanced.unwrap().get(&claim).copied()
}

async fn claim<I: Inbox>(inbox: &I, number: i32) -> (Uuid, Option<Stored>) {
    let claim = Uuid::now_v7();
    let stored = inbox
        .claim_positions(&[(partition(number), claim)])
        .await
        .unwrap();
    (claim, stored[0])
}

async fn standing<I: Inbox>(inbox: &I, partition: &Partition) -> Option<Standing> {
    let mut tx = inbox.begin().await.unwrap();
    let standing = inbox
        .position_standing(&mut tx, &[partition])
        .await
        .unwrap();
    inbox.commit(tx).await.unwrap();
    standing[0]
}

async fn a_position_counts_what_is_stored_in_whatever_order_batches_commit<I: Kept>(
    fresh: Fresh<I>,
) {
    let inbox = &fresh.inbox;
    let first = begun(inbox, 0, 5).await;
    assert_eq!(commit(inbox, first, &[5..8]).await, Some(8));
    assert_eq!(
        commit(inbox, first, &[12..20, 30..31]).await,
        Some(8),
        "there is a gap"
    );
    assert_eq!(inbox.positions().await.unwrap()[0].ahead, 9);
    assert_eq!(commit(inbox, first, &[8..12]).await, Some(20));
    assert_eq!(
        commit(inbox, first, &[6..9]).await,
        Some(20),
        "it was stored before"
    );
    let (_, stored) = claim(inbox, 0).await;
    let expected = Stored {
        next: 20,
        since: 5,
        highest: Some(mark(30)),
        anchor: Some(mark(0)),
        epoch: 2,
    };
    assert_eq!(
        stored,
        Some(expected),
        "the highest record is the one to be known again"
    );
    let view = inbox.positions().await.unwrap().remove(0);
    assert_eq!((view.next_offset, view.ahead), (20, 1));
    assert_eq!(view.record_at_ms, Some(1_030));
}

async fn a_position_counts_nothing_that_was_rolled_back<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let claim = begun(inbox, 0, 0).await;
    let mut tx = inbox.begin().await.unwrap();
    let advances = [advance(claim, &[0..10])];
    let advanced = inbox.advance_positions(&mut tx, &advances).await.unwrap();
    assert_eq!(advanced[&claim], 10);
    drop(tx);
    assert_eq!(standing(inbox, &partition(0)).await.unwrap().next, 0);
}

async fn only_the_last_claim_advances_a_position<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let first = begun(inbox, 0, 0).await;
    assert_eq!(commit(inbox, first, &[0..3]).await, Some(3));
    let (second, stored) = claim(inbox, 0).await;
    assert_eq!(
        stored.map(|stored| (stored.next, stored.epoch)),
        Some((3, 2))
    );
    assert_eq!(commit(inbox, first, &[3..9]).await, None);
    let found = standing(inbox, &partition(0)).await.unwrap();
    assert_eq!((found.claim, found.epoch, found.next), (second, 2, 3));
    assert_eq!(commit(inbox, second, &[3..4]).await, Some(4));
}

async fn a_position_begins_anew_only_by_its_claim<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let first = begun(inbox, 0, 0).await;
    commit(inbox, first, &[0..9, 12..13]).await;
    let (second, _) = claim(inbox, 0).await;
    let anew = |claim| Beginning {
        partition: partition(0),
        claim,
        at: 2,
        mark: Some(mark(1)),
    };
    assert_eq!(inbox.begin_positions(&[anew(first)]).await.unwrap(), [None]);
    assert_eq!(
        inbox.begin_positions(&[anew(second)]).await.unwrap(),
        [Some(2)]
    );
    let (_, stored) = claim(inbox, 0).await;
    let expected = Stored {
        next: 2,
        since: 2,
        highest: Some(mark(1)),
        anchor: Some(mark(1)),
        epoch: 3,
    };
    assert_eq!(stored, Some(expected));
    assert_eq!(inbox.positions().await.unwrap()[0].ahead, 0);
}

async fn positions_are_told_apart_by_cluster_group_topic_and_partition<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let first = begun(inbox, 0, 0).await;
    commit(inbox, first, &[0..7]).await;
    let other = |change: fn(&mut Partition)| {
        let mut other = partition(0);
        change(&mut other);
        other
    };
    let others = [
        other(|of| of.cluster_id.push('2')),
        other(|of| of.group_id.push('2')),
        other(|of| of.topic.push('2')),
        other(|of| of.number = 2),
    ];
    for other in &others {
        assert_eq!(standing(inbox, other).await, None, "{other:?}");
    }
    let found = standing(inbox, &partition(0)).await;
    assert_eq!(found.map(|found| found.next), Some(7));
}

async fn a_source_of_another_name_goes_on_with_the_position_of_its_group<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let first = begun(inbox, 0, 0).await;
    commit(inbox, first, &[0..7]).await;
    let renamed = Partition {
        source: "renamed".to_owned(),
        ..partition(0)
    };
    assert_eq!(standing(inbox, &renamed).await.map(|at| at.next), Some(7));
    let claims = [(renamed, Uuid::now_v7())];
    let stored = inbox.claim_positions(&claims).await.unwrap()[0];
    assert_eq!(stored.map(|stored| stored.next), Some(7));
    let listed = inbox.positions().await.unwrap();
    let sources: Vec<_> = listed.iter().map(|at| at.source.as_str()).collect();
    assert_eq!(sources, ["renamed"]);
}

async fn batches_that_advance_the_same_positions_at_once_lose_nothing<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let claims = [begun(inbox, 0, 0).await, begun(inbox, 1, 0).await];
    let batch = |from: i64| async move {
        let mut tx = inbox.begin().await.unwrap();
        let mut advances: Vec<Advance> = claims
            .iter()
            .map(|id| advance(*id, &[from..from + 5]))
            .collect();
        if from % 2 == 0 {
            advances.reverse();
        }
        let advanced = inbox.advance_positions(&mut tx, &advances).await.unwrap();
        assert_eq!(advanced.len(), 2);
        inbox.commit(tx).await.unwrap();
    };
    let batches = (0..20).rev().map(|n| batch(n * 5));
    futures_util::future::join_all(batches).await;
    for number in 0..2 {
        let found = standing(inbox, &partition(number)).await;
        assert_eq!(found.map(|found| found.next), Some(100));
    }
}
