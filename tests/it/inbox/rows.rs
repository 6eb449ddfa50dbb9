//! Rows as a test writes them.

use bytes::Bytes;
use sluice::inbox::{Expires, Inbox, NewRow, RowId, State, Target, UniqueKey};
use sluice::message::{DedupKey, Hash, WaitReason};
use sluice::units::Span;

/// A waiting row of route `orders`, due at once.
pub fn row(key: &str) -> NewRow {
    let payload = Bytes::from(format!("{{\"key\":{}}}", serde_json::json!(key)));
    NewRow {
        id: RowId::fresh(),
        source: "queue".to_owned(),
        route: Some("orders".to_owned()),
        engine: Some("shop".to_owned()),
        key: unique_key(key),
        dedup_key: key.to_owned(),
        payload_hash: Hash::of(&[&payload]),
        payload,
        envelope: br#"{"message_id":"1"}"#.to_vec(),
        coordinates: None,
        sent_at: Some(1_700_000_000_000),
        target: Target {
            message_name: Some("Paid".to_owned()),
            business_key: Some(key.to_owned()),
            announced: true,
        },
        order: None,
        epoch: 0,
        attempts: 0,
        state: waiting(Span::ms(0)),
    }
}

pub fn unique_key(key: &str) -> UniqueKey {
    UniqueKey {
        scope: "orders".to_owned(),
        hash: DedupKey::new(key.to_owned()).hash,
        conflict: None,
    }
}

pub fn waiting(due_in: Span) -> State {
    State::Waiting {
        reason: WaitReason::NoSubscription,
        detail: "nobody waits".to_owned(),
        due_in,
        expires: Expires::Never,
    }
}

pub fn done() -> State {
    State::Done {
        detail: String::new(),
        process_instance_id: None,
    }
}

/// Inserts in a transaction of its own.
pub async fn insert<I: Inbox>(inbox: &I, rows: &[NewRow]) -> Vec<RowId> {
    let mut tx = inbox.begin().await.unwrap();
    let new = inbox.insert(&mut tx, rows).await.unwrap();
    inbox.commit(tx).await.unwrap();
    new
}
