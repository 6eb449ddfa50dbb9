//! The engine asked directly, step by step, so that a test can do something between look and hand-over.

use std::collections::HashSet;

use sluice::engine::{Ask, Engine as _, Matched, Missed};
use sluice::inbox::postgres::Tx;
use sluice::inbox::{DbError, Inbox, RowId};
use sluice::message::{Action, Correlation, DedupKey, Hash, Message, Start, StartBy, Tenant};

use super::Node;

pub fn correlation(name: &str, business_key: &str) -> Message {
    message(Action::Correlate(Correlation {
        message_name: name.to_owned(),
        business_key: Some(business_key.to_owned()),
        correlation_keys: Vec::new(),
        process_instance_id: None,
        tenant: Tenant::Any,
    }))
}

pub fn start(name: &str, business_key: &str) -> Message {
    message(Action::Start(Start {
        by: StartBy::Message(name.to_owned()),
        business_key: Some(business_key.to_owned()),
        tenant: Tenant::Any,
    }))
}

fn message(action: Action) -> Message {
    Message {
        dedup_key: DedupKey::new(String::new()),
        action,
        variables: Vec::new(),
        order_key: None,
    }
}

/// A new row's question; `identity` is what a start's instance is derived from.
pub fn ask<'a>(message: &'a Message, identity: &str) -> Ask<'a> {
    Ask {
        row: RowId::fresh(),
        epoch: 1,
        redriven: false,
        message,
        identity: Hash::of(&[identity.as_bytes()]),
        start_if_nobody: true,
        broadcast: false,
    }
}

/// A look whose transaction is still open.
pub struct Looked<'a> {
    pub tx: Tx,
    pub matched: Box<dyn Matched<Tx> + 'a>,
    row: RowId,
}

impl<'a> Looked<'a> {
    pub async fn of(node: &'a Node<'_>, ask: Ask<'a>) -> Looked<'a> {
        let mut tx = node.inbox.begin().await.unwrap();
        let matched = node.engine.look(&mut tx, &[ask]).await.unwrap();
        Looked {
            tx,
            matched,
            row: ask.row,
        }
    }

    /// Hands over and commits.
    pub async fn hand(mut self, node: &Node<'_>) -> Result<Vec<Missed>, DbError> {
        let rows = HashSet::from([self.row]);
        let missed = self.matched.hand(&mut self.tx, &rows).await?;
        node.inbox.commit(self.tx).await?;
        Ok(missed)
    }
}
