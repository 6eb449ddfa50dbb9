//! Insert, who holds a key, and what the text columns do to a message.

use bytes::Bytes;
use sluice::inbox::{Class, NewRow, State, StateName};
use sluice::message::{DeadReason, DedupKey, Hash};
use sluice::units::Span;

use super::rows::{
    change, change_of, dead, done, due, due_of_none, insert, insert_many, row, row_in, show,
    state_of, waiting,
};
use super::{Fresh, Kept, on_every_database};

on_every_database! {
    a_new_key_is_inserted_and_a_known_one_is_not,
    of_two_messages_of_a_batch_with_one_key_the_first_goes_in,
    another_payload_under_a_known_key_can_have_a_row_of_its_own,
    who_holds_a_key_is_told_with_its_state_and_coordinates,
    what_is_stored_is_what_was_delivered,
    rows_are_born_in_their_final_state,
    a_transaction_that_is_not_committed_leaves_nothing,
    a_batch_whose_commits_answer_was_lost_is_known_when_it_comes_again,
    nul_in_a_text_for_people_does_not_lose_the_message,
    nul_in_what_is_matched_is_about_that_message_and_a_dead_row_takes_it,
    ten_megabytes_of_payload_and_of_headers_are_kept,
    a_thousand_rows_go_in_at_once,
    two_nodes_with_the_same_keys_in_opposite_order_do_not_deadlock,
}

async fn a_new_key_is_inserted_and_a_known_one_is_not<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let first = row("a");
    assert_eq!(
        insert(inbox, std::slice::from_ref(&first)).await,
        [first.id]
    );

    let new = row("b");
    assert_eq!(insert(inbox, &[row("a"), new.clone()]).await, [new.id]);
    let elsewhere = NewRow {
        key: sluice::inbox::UniqueKey {
            scope: "refunds".to_owned(),
            ..first.key.clone()
        },
        ..row("a")
    };
    assert_eq!(
        insert(inbox, std::slice::from_ref(&elsewhere)).await,
        [elsewhere.id]
    );
}

async fn of_two_messages_of_a_batch_with_one_key_the_first_goes_in<I: Kept>(fresh: Fresh<I>) {
    let (first, second) = (row("a"), row("a"));
    let new = insert(&fresh.inbox, &[first.clone(), second]).await;
    assert_eq!(new, [first.id]);
}

async fn another_payload_under_a_known_key_can_have_a_row_of_its_own<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let first = row("a");
    let conflict = || {
        let mut conflict = row_in("a", dead());
        conflict.payload = Bytes::from_static(b"{\"another\":true}");
        conflict.payload_hash = Hash::of(&[&conflict.payload]);
        conflict.key.conflict = Some(conflict.payload_hash);
        conflict
    };
    let (stored, repeated) = (conflict(), conflict());
    insert(inbox, &[first.clone(), stored.clone()]).await;
    assert!(insert(inbox, &[repeated]).await.is_empty());

    assert!(!show(inbox, first.id).await.unwrap().conflict);
    assert!(show(inbox, stored.id).await.unwrap().conflict);
}

async fn who_holds_a_key_is_told_with_its_state_and_coordinates<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let held = NewRow {
        coordinates: Some("orders/3@17#99".to_owned()),
        ..row_in("a", dead())
    };
    insert(inbox, &[held.clone(), row("b")]).await;

    let mut tx = inbox.begin().await.unwrap();
    let asked = [held.key.clone(), row("nobody").key, held.key.clone()];
    let existing = inbox.existing(&mut tx, &asked).await.unwrap();
    assert!(inbox.existing(&mut tx, &[]).await.unwrap().is_empty());
    inbox.commit(tx).await.unwrap();

    let [existing] = &existing[..] else {
        panic!("{existing:?}")
    };
    assert_eq!(existing.id, held.id);
    assert_eq!(existing.key, held.key);
    assert_eq!(existing.payload_hash, held.payload_hash);
    assert_eq!(existing.state, StateName::Dead);
    assert_eq!(existing.epoch, 1);
    assert_eq!(existing.coordinates.as_deref(), Some("orders/3@17#99"));
}

async fn what_is_stored_is_what_was_delivered<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let binary = NewRow {
        payload: Bytes::from((0..=255).collect::<Vec<u8>>()),
        attempts: 3,
        ..row("binary")
    };
    let empty = NewRow {
        payload: Bytes::new(),
        route: None,
        engine: None,
        target: sluice::inbox::Target::default(),
        ..row("empty")
    };
    insert(inbox, &[binary.clone(), empty.clone()]).await;

    let mut tx = inbox.begin().await.unwrap();
    let mut rows = due(inbox, &mut tx, 10).await;
    rows.extend(due_of_none(inbox, &mut tx).await);
    inbox.commit(tx).await.unwrap();
    rows.sort_by_key(|row| row.id);
    let [first, second] = &rows[..] else {
        panic!("{rows:?}")
    };
    assert_eq!(first.payload.as_ref(), Some(&binary.payload));
    assert_eq!(first.envelope, binary.envelope);
    assert_eq!(first.source, "queue");
    assert_eq!(first.route.as_deref(), Some("orders"));
    assert_eq!(first.key, binary.key);
    assert_eq!((first.epoch, first.attempts), (1, 3));
    assert_eq!(first.reason.as_deref(), Some("no_subscription"));
    assert!(!first.expired);
    assert_eq!(second.payload.as_ref(), Some(&empty.payload));
    assert_eq!(second.route, None);

    let seen = show(inbox, binary.id).await.unwrap();
    assert_eq!(seen.dedup_key, "binary");
    assert_eq!(seen.scope, "orders");
    assert_eq!(seen.engine.as_deref(), Some("shop"));
    assert_eq!(seen.message_name.as_deref(), Some("Paid"));
    assert_eq!(seen.business_key.as_deref(), Some("binary"));
    assert_eq!(seen.payload_bytes, Some(256));
    assert!(seen.payload.unwrap().starts_with("base64:AAECAwQ"));
    assert_eq!(seen.envelope.unwrap()["message_id"], "1");
    assert!(seen.received_at.ends_with('Z'), "{}", seen.received_at);
}

async fn rows_are_born_in_their_final_state<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let started = State::Done {
        detail: "started".to_owned(),
        process_instance_id: Some("instance-1".to_owned()),
    };
    let states = [waiting(Span::secs(60)), State::Handed, started, dead()];
    for (n, state) in states.into_iter().enumerate() {
        let row = row_in(&n.to_string(), state.clone());
        insert(inbox, std::slice::from_ref(&row)).await;
        let seen = show(inbox, row.id).await.unwrap();
        assert_eq!(seen.state, state.name());
        assert_eq!(seen.reason.as_deref(), state.reason());
        assert_eq!(seen.detail, state.detail());
        assert_eq!(
            seen.process_instance_id.as_deref(),
            state.process_instance_id()
        );
        assert_eq!(seen.due_at.is_some(), state.name() == StateName::Waiting);
    }
}

async fn a_transaction_that_is_not_committed_leaves_nothing<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let lost = row("a");
    let mut tx = inbox.begin().await.unwrap();
    inbox
        .insert(&mut tx, std::slice::from_ref(&lost))
        .await
        .unwrap();
    drop(tx);
    assert_eq!(state_of(inbox, lost.id).await, None);
    let again = row("a");
    assert_eq!(
        insert(inbox, std::slice::from_ref(&again)).await,
        [again.id]
    );
}

async fn a_batch_whose_commits_answer_was_lost_is_known_when_it_comes_again<I: Kept>(
    fresh: Fresh<I>,
) {
    let inbox = &fresh.inbox;
    // The very same rows: their ids are taken, too.
    let batch: Vec<NewRow> = (0..10).map(|n| row(&n.to_string())).collect();
    assert_eq!(insert(inbox, &batch).await.len(), 10);
    assert!(insert(inbox, &batch).await.is_empty());
    let mut tx = inbox.begin().await.unwrap();
    let keys: Vec<_> = batch.iter().map(|row| row.key.clone()).collect();
    let existing = inbox.existing(&mut tx, &keys).await.unwrap();
    inbox.commit(tx).await.unwrap();
    for row in &batch {
        let own = existing.iter().find(|existing| existing.key == row.key);
        assert_eq!(own.unwrap().id, row.id);
    }
}

async fn nul_in_a_text_for_people_does_not_lose_the_message<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let key = "a\0b".to_owned();
    let state = State::Dead {
        reason: DeadReason::Mapping,
        detail: "found \0".to_owned(),
    };
    let row = NewRow {
        key: super::rows::unique_key(&key),
        dedup_key: key,
        coordinates: Some("t\0/0@1#2".to_owned()),
        payload: Bytes::from_static(b"\0"),
        envelope: br#"{"message_id":"\u0000"}"#.to_vec(),
        ..row_in("a", state)
    };
    insert(inbox, std::slice::from_ref(&row)).await;

    let seen = show(inbox, row.id).await.unwrap();
    assert_eq!(seen.dedup_key, "a\u{fffd}b");
    assert_eq!(seen.coordinates.as_deref(), Some("t\u{fffd}/0@1#2"));
    assert_eq!(seen.detail, "found \u{fffd}");
    assert_eq!(seen.payload.as_deref(), Some("\0"));
    assert_eq!(seen.envelope.unwrap()["message_id"], "\0");
    let other = super::rows::row("a\u{fffd}b");
    let new = insert(inbox, std::slice::from_ref(&other)).await;
    assert_eq!(new, [other.id], "the hash is of the true key");
}

async fn nul_in_what_is_matched_is_about_that_message_and_a_dead_row_takes_it<I: Kept>(
    fresh: Fresh<I>,
) {
    let inbox = &fresh.inbox;
    for (name, business_key) in [("Pa\0id", "k"), ("Paid", "k\0")] {
        let mut bad = row(&format!("{name}{business_key}"));
        bad.target.message_name = Some(name.to_owned());
        bad.target.business_key = Some(business_key.to_owned());
        let mut tx = inbox.begin().await.unwrap();
        let error = inbox
            .insert(&mut tx, &[row("good"), bad.clone()])
            .await
            .unwrap_err();
        assert_eq!(error.class, Class::Data, "{error}");
        drop(tx);

        bad.state = dead();
        insert(inbox, std::slice::from_ref(&bad)).await;
        assert_eq!(state_of(inbox, bad.id).await, Some(StateName::Dead));
    }
    // A change is refused alike: the mapping was mended, and the key has NUL in it now.
    let kept = row("kept");
    insert(inbox, std::slice::from_ref(&kept)).await;
    let mut mended = change_of(kept.id, StateName::Waiting, waiting(Span::ms(0)));
    let mut target = kept.target.clone();
    target.business_key = Some("\0".to_owned());
    mended.target = Some((kept.engine.clone(), target));
    let mut tx = inbox.begin().await.unwrap();
    let error = inbox
        .change(&mut tx, std::slice::from_ref(&mended))
        .await
        .unwrap_err();
    assert_eq!(error.class, Class::Data, "{error}");
    drop(tx);
    mended.state = dead();
    assert_eq!(change(inbox, &[mended]).await, [kept.id]);
}

async fn ten_megabytes_of_payload_and_of_headers_are_kept<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let header = "h".repeat(10 << 20);
    let big = NewRow {
        payload: Bytes::from(vec![b'p'; 10 << 20]),
        envelope: serde_json::to_vec(&serde_json::json!({ "headers": [["x", header]] })).unwrap(),
        ..row("big")
    };
    insert(inbox, &[row("small"), big.clone()]).await;
    let mut tx = inbox.begin().await.unwrap();
    let rows = due(inbox, &mut tx, 10).await;
    inbox.commit(tx).await.unwrap();
    let stored = rows.iter().find(|row| row.id == big.id).unwrap();
    assert!(stored.payload.as_ref() == Some(&big.payload));
    assert!(stored.envelope == big.envelope);
}

async fn a_thousand_rows_go_in_at_once<I: Kept>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    // Not a multiple of anything, and every second one known already.
    let rows: Vec<NewRow> = (0..1001).map(|n| row(&n.to_string())).collect();
    let known: Vec<NewRow> = (0..1001).step_by(2).map(|n| row(&n.to_string())).collect();
    insert(inbox, &known).await;
    let mut new = insert(inbox, &rows).await;
    new.sort();
    let expected: Vec<_> = rows.iter().skip(1).step_by(2).map(|row| row.id).collect();
    assert_eq!(new, expected);
    assert!(insert_many(inbox, 0, &done()).await.is_empty());
}

async fn two_nodes_with_the_same_keys_in_opposite_order_do_not_deadlock<I: Kept>(fresh: Fresh<I>) {
    let nodes = [I::node(&fresh.place), I::node(&fresh.place)];
    for round in 0..20 {
        let keys: Vec<String> = (0..50).map(|n| format!("{round}-{n}")).collect();
        let forwards: Vec<NewRow> = keys.iter().map(|key| row(key)).collect();
        let backwards: Vec<NewRow> = keys.iter().rev().map(|key| row(key)).collect();
        let (first, second) =
            tokio::join!(insert(&nodes[0], &forwards), insert(&nodes[1], &backwards));
        assert_eq!(first.len() + second.len(), 50);
    }
}

/// The derivation outlives a version of Sluice: were it to change, every key would be new after an update.
#[test]
fn the_hash_of_a_dedup_key_never_changes() {
    let golden = [
        (
            "",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
        (
            "abc",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
        ("zürich/42", GOLDEN_UMLAUT),
    ];
    for (key, hash) in golden {
        assert_eq!(
            format!("{:?}", DedupKey::new(key.to_owned()).hash),
            hash,
            "{key}"
        );
    }
    // Several parts: each with its length before it, eight bytes, the most significant first.
    assert_eq!(format!("{:?}", Hash::of(&[b"ab", b"c"])), GOLDEN_PARTS);
    assert_ne!(Hash::of(&[b"ab", b"c"]), Hash::of(&[b"a", b"bc"]));
}

const GOLDEN_UMLAUT: &str = "fb99d540a7a53337cb8a3e812eb3149756fcdef68d5fcdb141094a06f077373e";
const GOLDEN_PARTS: &str = "601d5476e2ccfe2c87a2bba7a322659734a05749d5b5aa781f513e4912db0d5f";
