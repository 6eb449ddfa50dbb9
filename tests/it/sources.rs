//! Sources: one contract suite that runs on every broker, and what only one broker does.
//!
//! A behaviour that every source must have stands in [`contract`] and nowhere else; [`brokers`] says how
//! each broker produces, loses a connection and tells what is acknowledged.

mod brokers;
mod contract;
mod kafka;
mod rabbitmq;
mod sasl;
mod tls;

use std::time::Duration;

use sluice::message::{Delivery, Receipt};
use sluice::source::{Limits, Stream};

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// More than any test produces.
const ALL: Limits = Limits {
    messages: 10_000,
    bytes: 64 << 20,
};

/// A batch as the intake takes it, or a failed test.
async fn next(stream: &mut Box<dyn Stream>, limits: Limits) -> Vec<Delivery> {
    let taken = tokio::time::timeout(LIMIT, stream.next(limits)).await;
    let taken = taken.expect("a delivery is there, but none came");
    taken.expect("the stream goes on")
}

/// Exactly this many deliveries, in as many batches as they come.
async fn take(stream: &mut Box<dyn Stream>, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let limits = Limits {
            messages: count - taken.len(),
            ..ALL
        };
        taken.extend(next(stream, limits).await);
    }
    taken
}

fn receipts(deliveries: Vec<Delivery>) -> Vec<Receipt> {
    deliveries.into_iter().map(|d| d.receipt).collect()
}

async fn settle(stream: &mut Box<dyn Stream>, deliveries: Vec<Delivery>) {
    let settled = stream.settle(receipts(deliveries)).await;
    settled.expect("the broker takes acknowledgements");
}

fn payloads(deliveries: &[Delivery]) -> Vec<String> {
    let text = |d: &Delivery| String::from_utf8_lossy(&d.payload).into_owned();
    deliveries.iter().map(text).collect()
}

/// `"0"`, `"1"`, … as payloads.
fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}
