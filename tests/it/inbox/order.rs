//! Order per key, which only PostgreSQL has.

use std::time::Duration;

use sluice::inbox::postgres::PostgresInbox;
use sluice::inbox::{Change, Filter, Inbox, OrderKey, RowId, State, StateName, Take, Woken};
use sluice::message::Hash;
use sluice::units::Span;

use super::rows::{
    behind, by_id, change, change_of, dead, done, due_now, insert, order, ordered, waiting,
};
use super::{Fresh, Kept, fresh};
use crate::rig::eventually;

/// Of which keys a new message must wait, as a batch asks that is then given up.
async fn held_back(inbox: &PostgresInbox, blocking_dead: &[String]) -> Vec<String> {
    let mut tx = inbox.begin().await.unwrap();
    let asked = [order("a"), order("b"), order("c"), order("d"), order("a")];
    let held = inbox
        .lock_order_keys(&mut tx, &asked, blocking_dead)
        .await
        .unwrap();
    inbox.commit(tx).await.unwrap();
    let mut keys: Vec<String> = held.into_iter().map(|order| order.key).collect();
    keys.sort();
    keys
}

#[tokio::test]
async fn a_key_is_held_back_while_it_has_a_row_that_is_not_finished() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    let rows = [
        ordered("1", "a", waiting(Span::days(1))),
        ordered("2", "b", State::Handed),
        ordered("3", "c", dead()),
        ordered("4", "d", done()),
    ];
    insert(&inbox, &rows).await;
    assert_eq!(held_back(&inbox, &[]).await, ["a", "b"]);
    assert_eq!(
        held_back(&inbox, &["queue".to_owned()]).await,
        ["a", "b", "c"]
    );
    assert_eq!(held_back(&inbox, &["another".to_owned()]).await, ["a", "b"]);
}

#[tokio::test]
async fn only_the_head_of_a_key_is_taken_and_the_end_of_it_frees_the_next() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    // The order of the batch counts, not the order of the hashes in which it is inserted.
    let rows: Vec<_> = (0..20)
        .map(|n| {
            ordered(
                &n.to_string(),
                "a",
                if n == 0 {
                    waiting(Span::ms(0))
                } else {
                    behind()
                },
            )
        })
        .collect();
    insert(&inbox, &rows).await;
    let other = ordered("x", "b", waiting(Span::ms(0)));
    insert(&inbox, std::slice::from_ref(&other)).await;
    let finish = |id: RowId| change_of(id, StateName::Waiting, done());
    assert_eq!(due_now(&inbox).await, [rows[0].id, other.id]);
    change(&inbox, &[finish(other.id)]).await;
    for row in &rows {
        assert_eq!(due_now(&inbox).await, [row.id]);
        change(
            &inbox,
            &[change_of(row.id, StateName::Waiting, State::Handed)],
        )
        .await;
        assert_eq!(due_now(&inbox).await, [], "a handed row holds the others");
        let confirmed = Change {
            epoch: 2,
            ..change_of(row.id, StateName::Handed, done())
        };
        change(&inbox, &[confirmed]).await;
    }
    assert_eq!(due_now(&inbox).await, []);
}

#[tokio::test]
async fn a_row_behind_another_is_not_taken_by_its_id_either() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    let rows = [
        ordered("1", "a", waiting(Span::days(1))),
        ordered("2", "a", behind()),
    ];
    insert(&inbox, &rows).await;
    let woken = [rows[1].id, rows[0].id].map(Woken::of);
    let mut tx = inbox.begin().await.unwrap();
    let taken = inbox
        .take(&mut tx, by_id(&woken, i64::MAX), &[])
        .await
        .unwrap();
    let taken: Vec<RowId> = taken.rows.iter().map(|row| row.id).collect();
    assert_eq!(taken, [rows[0].id]);
}

#[tokio::test]
async fn a_dead_row_holds_its_key_only_in_a_scope_that_says_so() {
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
    let due = async |blocking: &[String]| -> Vec<RowId> {
        let routes = ["orders".to_owned()];
        let take = Take::Due {
            routes: &routes,
            limit: 10,
            bytes: i64::MAX,
        };
        let mut tx = inbox.begin().await.unwrap();
        let rows = inbox.take(&mut tx, take, blocking).await.unwrap().rows;
        rows.iter().map(|row| row.id).collect()
    };
    assert_eq!(due(&["queue".to_owned()]).await, []);
    assert_eq!(due(&[]).await, [rows[1].id]);
    inbox
        .discard(&Filter {
            ids: vec![rows[0].id],
            ..Filter::default()
        })
        .await
        .unwrap();
    assert_eq!(due(&["queue".to_owned()]).await, [rows[1].id]);
}

#[tokio::test]
async fn a_row_born_behind_a_duplicate_or_a_finished_one_is_due_at_once() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    let next = ordered("2", "a", behind());
    insert(&inbox, &[ordered("1", "a", done()), next.clone()]).await;
    assert_eq!(due_now(&inbox).await, [next.id]);
}

/// What nothing wakes: the head was finished while the row behind it was being inserted.
#[tokio::test]
async fn a_forgotten_head_is_found() {
    let Fresh { inbox, place } = fresh::<PostgresInbox>().await;
    let other = PostgresInbox::node(&place);
    let (head, next) = (
        ordered("1", "a", State::Handed),
        ordered("2", "a", behind()),
    );
    insert(&inbox, std::slice::from_ref(&head)).await;
    let mut inserting = other.begin().await.unwrap();
    assert_eq!(
        other
            .lock_order_keys(&mut inserting, &[order("a")], &[])
            .await
            .unwrap()
            .len(),
        1
    );
    other
        .insert(&mut inserting, std::slice::from_ref(&next))
        .await
        .unwrap();
    change(&inbox, &[change_of(head.id, StateName::Handed, done())]).await;
    other.commit(inserting).await.unwrap();

    let due_at = super::rows::show(&inbox, next.id).await.unwrap().due_at;
    assert_eq!(due_at, None, "nothing woke it");
    assert_eq!(due_now(&inbox).await, [next.id]);
}

/// More rows than one look takes in: every one gets its turn.
#[tokio::test]
async fn forgotten_heads_are_found_behind_many_that_must_wait() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    insert(&inbox, &[ordered("head", "a", State::Handed)]).await;
    let rows: Vec<_> = (0..1200)
        .map(|n| ordered(&n.to_string(), "a", behind()))
        .collect();
    insert(&inbox, &rows).await;
    let forgotten = ordered("forgotten", "b", behind());
    insert(&inbox, std::slice::from_ref(&forgotten)).await;
    inbox
        .sql("UPDATE inbox SET due_at = NULL WHERE order_key = 'b'")
        .await;
    let mut looks = 0;
    eventually("finding the head", Duration::from_secs(20), async || {
        looks += 1;
        (due_now(&inbox).await == [forgotten.id]).then_some(())
    })
    .await;
    assert!(looks <= 3, "{looks}");
}

/// Sweeps ask engine by engine, each for its own routes, one after the other.
#[tokio::test]
async fn forgotten_heads_are_found_by_each_who_asks_for_other_routes() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    insert(&inbox, &[ordered("head", "a", State::Handed)]).await;
    // Two looks of each go round once.
    let rows: Vec<_> = (0..1600)
        .map(|n| ordered(&n.to_string(), "a", behind()))
        .collect();
    insert(&inbox, &rows).await;
    let mut forgotten = ordered("forgotten", "b", behind());
    forgotten.route = Some("payments".to_owned());
    insert(&inbox, std::slice::from_ref(&forgotten)).await;
    inbox
        .sql("UPDATE inbox SET due_at = NULL WHERE order_key = 'b'")
        .await;
    let mut found = Vec::new();
    for _ in 0..4 {
        for route in ["payments", "orders"] {
            let mut tx = inbox.begin().await.unwrap();
            let routes = [route.to_owned()];
            let take = Take::Due {
                routes: &routes,
                limit: 100,
                bytes: i64::MAX,
            };
            let rows = inbox.take(&mut tx, take, &[]).await.unwrap().rows;
            found.extend(rows.into_iter().map(|row| row.id));
        }
    }
    assert_eq!(found, [forgotten.id]);
}

/// Until so many transactions wait for an order key.
async fn until_waiting(inbox: &PostgresInbox, count: i64) {
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let what = "waiting for an order key";
    eventually(what, Duration::from_secs(20), async || {
        let found: i64 = sqlx::query_scalar(waiting)
            .fetch_one(inbox.pool())
            .await
            .unwrap();
        (found == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_with_one_order_key_are_accepted_one_after_the_other() {
    let Fresh { inbox, place } = fresh::<PostgresInbox>().await;
    let other = PostgresInbox::node(&place);
    let mut first = inbox.begin().await.unwrap();
    assert_eq!(
        inbox
            .lock_order_keys(&mut first, &[order("a")], &[])
            .await
            .unwrap(),
        []
    );
    let second = tokio::spawn(async move {
        let mut tx = other.begin().await.unwrap();
        let held = other
            .lock_order_keys(&mut tx, &[order("b"), order("a")], &[])
            .await
            .unwrap();
        let next = ordered("2", "a", behind());
        other
            .insert(&mut tx, std::slice::from_ref(&next))
            .await
            .unwrap();
        other.commit(tx).await.unwrap();
        (held, next.id)
    });
    until_waiting(&inbox, 1).await;
    let head = ordered("1", "a", State::Handed);
    inbox
        .insert(&mut first, std::slice::from_ref(&head))
        .await
        .unwrap();
    inbox.commit(first).await.unwrap();
    let (held, next) = second.await.unwrap();
    assert_eq!(held, [order("a")]);
    change(&inbox, &[change_of(head.id, StateName::Handed, done())]).await;
    assert_eq!(due_now(&inbox).await, [next]);
}

/// Each would hold one half and wait for the other, if they took the keys as they stand in the batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_keys_in_opposite_order_do_not_deadlock() {
    let Fresh { inbox, place } = fresh::<PostgresInbox>().await;
    let lock = async |inbox: &PostgresInbox, keys: &[&str]| {
        let keys: Vec<_> = keys.iter().map(|key| order(key)).collect();
        let mut tx = inbox.begin().await.unwrap();
        inbox.lock_order_keys(&mut tx, &keys, &[]).await.unwrap();
        tx
    };
    let others = [PostgresInbox::node(&place), PostgresInbox::node(&place)];
    let middle = lock(&inbox, &["m"]).await;
    tokio::join!(
        async { drop(lock(&others[0], &["a", "m", "z"]).await) },
        async { drop(lock(&others[1], &["z", "m", "a"]).await) },
        async {
            until_waiting(&inbox, 2).await;
            inbox.commit(middle).await.unwrap();
        },
    );
}

#[tokio::test]
async fn an_order_key_that_the_index_cannot_hold_is_about_that_message_and_can_be_told_before() {
    let Fresh {
        inbox,
        place: _place,
    } = fresh::<PostgresInbox>().await;
    // Nothing that compresses.
    let hashes = (0..=255).map(|n: u8| format!("{:?}", Hash::of(&[&[n]])));
    let long = hashes.collect::<Vec<_>>().concat();
    for key in ["a\0b", &long] {
        let mut bad = ordered(&key[..3], key, waiting(Span::ms(0)));
        let mut tx = inbox.begin().await.unwrap();
        let error = inbox
            .insert(&mut tx, std::slice::from_ref(&bad))
            .await
            .unwrap_err();
        assert_eq!(error.class, sluice::inbox::Class::Data, "{error}");
        drop(tx);
        bad.state = dead();
        bad.order = bad.order.filter(OrderKey::is_storable);
        assert_eq!(bad.order, None);
        assert_eq!(insert(&inbox, &[bad]).await.len(), 1);
    }
    let good = ordered("good", &"k".repeat(2000), waiting(Span::ms(0)));
    assert!(good.order.as_ref().is_some_and(OrderKey::is_storable));
    assert_eq!(insert(&inbox, &[good]).await.len(), 1);
}
