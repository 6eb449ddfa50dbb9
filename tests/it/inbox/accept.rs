//! Insert, and who holds a key.

use sluice::inbox::{Inbox, StateName};

use super::rows::{insert, row};
use super::{Fresh, on_every_database};

on_every_database! {
    a_new_key_is_inserted_and_a_known_one_is_not,
}

async fn a_new_key_is_inserted_and_a_known_one_is_not<I: Inbox>(fresh: Fresh<I>) {
    let inbox = &fresh.inbox;
    let first = row("a");
    assert_eq!(
        insert(inbox, std::slice::from_ref(&first)).await,
        [first.id]
    );

    let (again, new) = (row("a"), row("b"));
    let mut tx = inbox.begin().await.unwrap();
    assert_eq!(
        inbox
            .insert(&mut tx, &[again.clone(), new.clone()])
            .await
            .unwrap(),
        [new.id]
    );
    let existing = inbox
        .existing(&mut tx, std::slice::from_ref(&again.key))
        .await
        .unwrap();
    inbox.commit(tx).await.unwrap();

    let [existing] = &existing[..] else {
        panic!("{existing:?}")
    };
    assert_eq!(existing.id, first.id);
    assert_eq!(existing.key, first.key);
    assert_eq!(existing.payload_hash, first.payload_hash);
    assert_eq!(existing.state, StateName::Waiting);
}
