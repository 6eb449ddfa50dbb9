//! Rows as a test writes and reads them.

use bytes::Bytes;
use sluice::inbox::{
    Change, Expires, Filter, Inbox, NewRow, OrderKey, RowId, RowView, State, StateName, StoredRow,
    Take, Target, UniqueKey, Woken,
};
use sluice::message::{DeadReason, DedupKey, Hash, WaitReason};
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
        epoch: 1,
        attempts: 0,
        state: waiting(Span::ms(0)),
    }
}

pub fn row_in(key: &str, state: State) -> NewRow {
    NewRow { state, ..row(key) }
}

/// A row behind others of its order key, or not.
pub fn ordered(key: &str, order_key: &str, state: State) -> NewRow {
    NewRow {
        order: Some(order(order_key)),
        ..row_in(key, state)
    }
}

pub fn order(key: &str) -> OrderKey {
    OrderKey {
        scope: "queue".to_owned(),
        key: key.to_owned(),
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
    waits_for(WaitReason::NoSubscription, due_in, Expires::Never)
}

pub fn behind() -> State {
    waits_for(WaitReason::Ordered, Span::secs(1), Expires::Never)
}

pub fn waits_for(reason: WaitReason, due_in: Span, expires: Expires) -> State {
    State::Waiting {
        reason,
        detail: String::new(),
        due_in,
        expires,
    }
}

pub fn done() -> State {
    State::Done {
        detail: String::new(),
        process_instance_id: None,
    }
}

pub fn dead() -> State {
    State::Dead {
        reason: DeadReason::Mapping,
        detail: "$.orderId is missing".to_owned(),
    }
}

/// Inserts in a transaction of its own.
pub async fn insert<I: Inbox>(inbox: &I, rows: &[NewRow]) -> Vec<RowId> {
    let mut tx = inbox.begin().await.unwrap();
    let new = inbox.insert(&mut tx, rows).await.unwrap();
    inbox.commit(tx).await.unwrap();
    new
}

/// Inserts so many rows, with keys of their own, and returns their ids.
pub async fn insert_many<I: Inbox>(inbox: &I, count: usize, state: &State) -> Vec<RowId> {
    let rows: Vec<NewRow> = (0..count)
        .map(|n| row_in(&format!("many-{n}"), state.clone()))
        .collect();
    insert(inbox, &rows).await
}

pub const EVERYTHING: i64 = i64::MAX / 2;

/// What is due of the routes `orders` and `payments`, in this transaction.
pub async fn due<I: Inbox>(inbox: &I, tx: &mut I::Tx, limit: i64) -> Vec<StoredRow> {
    due_bytes(inbox, tx, limit, EVERYTHING).await
}

pub async fn due_bytes<I: Inbox>(
    inbox: &I,
    tx: &mut I::Tx,
    limit: i64,
    bytes: i64,
) -> Vec<StoredRow> {
    let routes = ["orders".to_owned(), "payments".to_owned()];
    due_of(inbox, tx, &routes, limit, bytes).await
}

/// What is due and of no route.
pub async fn due_of_none<I: Inbox>(inbox: &I, tx: &mut I::Tx) -> Vec<StoredRow> {
    due_of(inbox, tx, &[], EVERYTHING, EVERYTHING).await
}

async fn due_of<I: Inbox>(
    inbox: &I,
    tx: &mut I::Tx,
    routes: &[String],
    limit: i64,
    bytes: i64,
) -> Vec<StoredRow> {
    let take = Take::Due {
        routes,
        limit,
        bytes,
    };
    inbox.take(tx, take, &[]).await.unwrap().rows
}

/// The ids of what is due, in a transaction that changes nothing.
pub async fn due_now<I: Inbox>(inbox: &I) -> Vec<RowId> {
    let mut tx = inbox.begin().await.unwrap();
    let rows = due(inbox, &mut tx, 100).await;
    inbox.commit(tx).await.unwrap();
    rows.into_iter().map(|row| row.id).collect()
}

/// A change of a row that is `from` and has epoch 1.
pub fn change_of(id: RowId, from: StateName, state: State) -> Change {
    Change {
        id,
        from,
        epoch: 1,
        new_epoch: 2,
        attempts_used: 0,
        target: None,
        state,
    }
}

/// Changes in a transaction of its own.
pub async fn change<I: Inbox>(inbox: &I, changes: &[Change]) -> Vec<RowId> {
    let mut tx = inbox.begin().await.unwrap();
    let changed = inbox.change(&mut tx, changes).await.unwrap();
    inbox.commit(tx).await.unwrap();
    changed
}

/// The row as an operator sees it, with its bodies.
pub async fn show<I: Inbox>(inbox: &I, id: RowId) -> Option<RowView> {
    let filter = Filter {
        ids: vec![id],
        limit: 1,
        ..Filter::default()
    };
    inbox.list(&filter, true).await.unwrap().pop()
}

pub async fn state_of<I: Inbox>(inbox: &I, id: RowId) -> Option<StateName> {
    show(inbox, id).await.map(|row| row.state)
}

/// These rows, as long as their bodies are no more than so many bytes.
pub fn by_id(rows: &[Woken], bytes: i64) -> Take<'_> {
    Take::Rows { rows, bytes }
}
