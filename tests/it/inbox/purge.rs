//! Purge.

use sluice::inbox::{Purged, Retention, RowId, State};
use sluice::units::Span;

use super::rows::{dead, done, insert, insert_many, row, row_in, show, state_of, waiting};
use super::{Fresh, Kept, on_every_database};

on_every_database! {
    the_payload_goes_first_and_the_key_later_both_counted_from_done,
    what_is_not_done_is_kept_for_ever,
    a_round_is_bounded,
    one_effect_per_key_for_as_long_as_the_retention_says,
}

const SHORT: Retention = Retention {
    payload: Span::secs(3600),
    key: Span::secs(2 * 24 * 3600),
};

async fn the_payload_goes_first_and_the_key_later_both_counted_from_done<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let row = row_in("a", done());
    insert(inbox, std::slice::from_ref(&row)).await;
    // Accepted long ago, done just now.
    for _ in 0..9 {
        inbox.age("inbox", "received_at").await;
    }
    assert_eq!(inbox.purge(SHORT, 100).await.unwrap(), Purged::default());

    inbox.age("inbox", "done_at").await;
    let purged = inbox.purge(SHORT, 100).await.unwrap();
    assert_eq!(
        purged,
        Purged {
            payloads: 1,
            keys: 0
        }
    );
    let seen = show(inbox, row.id).await.unwrap();
    assert_eq!(
        (seen.payload, seen.envelope, seen.payload_bytes),
        (None, None, None)
    );
    assert_eq!(seen.dedup_key, "a");
    assert_eq!(inbox.purge(SHORT, 100).await.unwrap(), Purged::default());

    inbox.age("inbox", "done_at").await;
    let purged = inbox.purge(SHORT, 100).await.unwrap();
    assert_eq!(
        purged,
        Purged {
            payloads: 0,
            keys: 1
        }
    );
    assert_eq!(state_of(inbox, row.id).await, None);
}

async fn what_is_not_done_is_kept_for_ever<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let rows = [
        row_in("waiting", waiting(Span::ms(0))),
        row_in("handed", State::Handed),
        row_in("dead", dead()),
    ];
    insert(inbox, &rows).await;
    for column in ["received_at", "changed_at", "due_at", "handed_at"] {
        inbox.age("inbox", column).await;
    }
    let at_once = Retention {
        payload: Span::ms(0),
        key: Span::ms(0),
    };
    assert_eq!(inbox.purge(at_once, 100).await.unwrap(), Purged::default());
    for row in &rows {
        assert!(show(inbox, row.id).await.unwrap().payload.is_some());
    }
}

async fn a_round_is_bounded<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    insert_many(inbox, 25, &done()).await;
    inbox.age("inbox", "done_at").await;
    let mut rounds = Vec::new();
    for _ in 0..4 {
        rounds.push(inbox.purge(SHORT, 10).await.unwrap().payloads);
    }
    assert_eq!(rounds, [10, 10, 5, 0]);
}

async fn one_effect_per_key_for_as_long_as_the_retention_says<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    insert(inbox, &[row_in("a", done())]).await;
    inbox.age("inbox", "done_at").await;
    inbox.purge(SHORT, 10).await.unwrap();
    assert_eq!(insert(inbox, &[row("a")]).await, Vec::<RowId>::new());
    inbox.age("inbox", "done_at").await;
    inbox.purge(SHORT, 10).await.unwrap();
    assert_eq!(insert(inbox, &[row("a")]).await.len(), 1);
}
