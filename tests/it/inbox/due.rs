//! Which due rows come first, and which lose their due time; only PostgreSQL has more of them than a page.

use std::collections::BTreeSet;

use sluice::inbox::postgres::PostgresInbox;
use sluice::inbox::{Expires, Filter, Inbox, RowId, StateName, Take};
use sluice::message::WaitReason;
use sluice::units::Span;

use super::rows::{
    behind, change, change_of, dead, done, due, due_bytes, due_now, insert, ordered, row, row_in,
    show, waiting, waits_for,
};
use super::{Fresh, Kept, fresh};

/// Rows that nothing but the safety net finds due, all of them since yesterday.
const SAFETY_NET: &str = "
    INSERT INTO inbox
           (id, source, route, scope, dedup_hash, dedup_key, payload_hash, payload, envelope,
            epoch, attempts, state, reason, detail, due_at)
    SELECT gen_random_uuid(), 'queue', 'orders', 'net', sha256(n::text::bytea), n, '', '', '',
           1, 0, 'waiting', 'no_subscription', '', now() - interval '1 day'
      FROM generate_series(1, 12000) n";

#[tokio::test]
async fn what_somebody_waits_for_does_not_stand_behind_the_safety_net() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    inbox.sql(SAFETY_NET).await;
    let retry = waits_for(WaitReason::Retry, Span::ms(0), Expires::Never);
    let nobody = WaitReason::NoSubscription;
    let expired = waits_for(nobody, Span::days(1), Expires::Within(Span::ms(0)));
    let rows = [
        row_in("retry", retry),
        row_in("expired", expired),
        row_in("redriven", waiting(Span::days(1))),
        ordered("first", "a", done()),
        ordered("next", "a", behind()),
    ];
    insert(&inbox, &rows).await;
    let redriven = Filter {
        ids: vec![rows[2].id],
        ..Filter::default()
    };
    assert_eq!(inbox.redrive(&redriven).await.unwrap(), 1);

    let mut missing: BTreeSet<RowId> = rows.iter().map(|row| row.id).collect();
    missing.remove(&rows[3].id);
    let mut looks = 0;
    while !missing.is_empty() {
        looks += 1;
        assert!(looks <= 6, "not seen: {missing:?}");
        let mut tx = inbox.begin().await.unwrap();
        let page = due(&inbox, &mut tx, 100).await;
        assert_eq!(page.len(), 100);
        for row in page {
            missing.remove(&row.id);
        }
    }
}

/// However many there are of the first kind, the others go on, the oldest first.
#[tokio::test]
async fn the_safety_net_has_its_part_of_every_page() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    let retry = waits_for(WaitReason::Retry, Span::ms(0), Expires::Never);
    let many: Vec<_> = (0..300)
        .map(|n| row_in(&format!("retry {n}"), retry.clone()))
        .collect();
    insert(&inbox, &many).await;
    let old: Vec<_> = (0..100).map(|n| row(&n.to_string())).collect();
    insert(&inbox, &old).await;
    inbox
        .sql("UPDATE inbox SET due_at = due_at - interval '1 day' WHERE reason = 'no_subscription'")
        .await;
    let mut tx = inbox.begin().await.unwrap();
    let page = due(&inbox, &mut tx, 100).await;
    let of_the_net = |reason: &Option<String>| reason.as_deref() == Some("no_subscription");
    let net = page.iter().filter(|row| of_the_net(&row.reason)).count();
    assert_eq!((page.len(), net), (100, 50));
}

#[tokio::test]
async fn large_rows_that_somebody_waits_for_leave_every_other_page_to_the_oldest() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    inbox.sql(&SAFETY_NET.replace("12000", "1000")).await;
    let retry = waits_for(WaitReason::Retry, Span::ms(0), Expires::Never);
    insert(&inbox, &[row_in("retry", retry)]).await;
    // Each page has room for the bytes of one row.
    let mut reasons = BTreeSet::new();
    for _ in 0..2 {
        let mut tx = inbox.begin().await.unwrap();
        let page = due_bytes(&inbox, &mut tx, 100, 1).await;
        reasons.extend(page[0].reason.clone());
    }
    assert_eq!(reasons.len(), 2, "{reasons:?}");
}

async fn due_at(inbox: &PostgresInbox, id: RowId) -> Option<String> {
    show(inbox, id).await.unwrap().due_at
}

#[tokio::test]
async fn a_row_that_is_due_behind_another_gives_its_due_time_back() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    let rows = [
        ordered("1", "a", waiting(Span::days(1))),
        ordered("2", "a", waiting(Span::ms(0))),
        ordered("3", "a", behind()),
        ordered("4", "b", waiting(Span::ms(0))),
    ];
    insert(&inbox, &rows).await;
    inbox
        .sql("UPDATE inbox SET due_at = clock_timestamp() WHERE dedup_key = '3'")
        .await;
    assert_eq!(due_now(&inbox).await, [rows[3].id]);
    assert_eq!(due_at(&inbox, rows[1].id).await, None);
    assert_eq!(due_at(&inbox, rows[2].id).await, None);
    assert!(due_at(&inbox, rows[0].id).await.is_some());

    let finished = change_of(rows[0].id, StateName::Waiting, done());
    change(&inbox, &[finished]).await;
    assert_eq!(due_now(&inbox).await, [rows[3].id, rows[1].id]);
}

/// More of them than one look takes in.
#[tokio::test]
async fn many_rows_that_are_due_behind_another_hold_up_nobody() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    insert(&inbox, &[ordered("head", "a", waiting(Span::days(1)))]).await;
    let behind: Vec<_> = (0..3000)
        .map(|n| ordered(&n.to_string(), "a", waiting(Span::ms(0))))
        .collect();
    insert(&inbox, &behind).await;
    let last = row("last");
    insert(&inbox, std::slice::from_ref(&last)).await;
    assert_eq!(due_now(&inbox).await, [last.id]);
    let due = "SELECT count(*) FROM sluice.inbox WHERE due_at <= clock_timestamp()";
    let due: i64 = sqlx::query_scalar(due)
        .fetch_one(inbox.pool())
        .await
        .unwrap();
    assert_eq!(due, 1);
}

#[tokio::test]
async fn the_row_behind_a_dead_one_that_blocks_is_looked_at_once() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    let rows = [
        ordered("1", "a", waiting(Span::ms(0))),
        ordered("2", "a", behind()),
    ];
    insert(&inbox, &rows).await;
    change(&inbox, &[change_of(rows[0].id, StateName::Waiting, dead())]).await;
    let routes = ["orders".to_owned()];
    let take = Take::Due {
        routes: &routes,
        limit: 10,
        bytes: i64::MAX,
    };
    let mut tx = inbox.begin().await.unwrap();
    let taken = inbox
        .take(&mut tx, take, &["queue".to_owned()])
        .await
        .unwrap();
    assert!(taken.rows.is_empty() && taken.changed, "{taken:?}");
    inbox.commit(tx).await.unwrap();
    assert_eq!(due_at(&inbox, rows[1].id).await, None);
}

#[tokio::test]
async fn an_operators_redrive_leaves_those_behind_others_where_they_are() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    let rows = [
        ordered("1", "a", dead()),
        ordered("2", "a", waiting(Span::days(1))),
        ordered("3", "a", behind()),
    ];
    insert(&inbox, &rows).await;
    let all = Filter::default();
    assert_eq!(inbox.redrive(&all).await.unwrap(), 3);
    assert_eq!(due_at(&inbox, rows[2].id).await, None);
    assert_eq!(due_now(&inbox).await, [rows[0].id]);
    for (row, next) in [(0, vec![rows[1].id]), (1, vec![rows[2].id]), (2, vec![])] {
        let finished = sluice::inbox::Change {
            epoch: 2,
            new_epoch: 3,
            ..change_of(rows[row].id, StateName::Waiting, done())
        };
        assert_eq!(change(&inbox, &[finished]).await, [rows[row].id]);
        assert_eq!(due_now(&inbox).await, next);
    }
}
