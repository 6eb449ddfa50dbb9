//! What a broker alone can do, and the whole way from it: the same messages, sent twice.
//!
//! The queue or topic is filled before the clock begins, which is at the first delivery.

mod kafka;
mod rabbitmq;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use async_trait::async_trait;

use super::Bench;
use super::counted::Counted;
use super::load::Load;
use super::rate;
use super::report::{Bound, Report};
use super::way::{self, Nowhere};
use crate::bridge::positions;
use crate::source::{Limits, Positions, Source};

pub use kafka::Topic;
pub use rabbitmq::Queue;

/// Messages of a line where nothing faster was measured before.
const USUAL_PER_SECOND: f64 = 20_000.0;
/// Without a delivery for so long nothing is wrong with the rate but with the broker.
const LIMIT: Duration = Duration::from_mins(5);

/// A place at a broker that is the bench's own.
#[async_trait]
pub trait Place: Sync {
    /// Stores these messages there.
    async fn send(&self, load: &Load, first: u64, messages: u64) -> anyhow::Result<()>;

    /// The daemon's own source for it; with the positions of the inbox, where it reads them.
    fn source(&self, positions: Option<Arc<dyn Positions>>) -> Arc<dyn Source>;
}

/// The keys of a broker's lines.
pub struct Names {
    pub consume: &'static str,
    pub accept: &'static str,
    pub target: &'static str,
    pub what: &'static str,
}

pub const RABBITMQ: Names = Names {
    consume: "rabbitmq_consume",
    accept: "rabbitmq_accept",
    target: "rabbitmq_of_both_halves",
    what: "whole way from RabbitMQ / what both halves allow",
};

pub const KAFKA: Names = Names {
    consume: "kafka_consume",
    accept: "kafka_accept",
    target: "kafka_of_both_halves",
    what: "whole way from Kafka / what both halves allow",
};

pub async fn measure(
    bench: &Bench,
    place: &dyn Place,
    names: &Names,
    report: &mut Report,
) -> anyhow::Result<()> {
    let usual = report.rate("accept").unwrap_or(USUAL_PER_SECOND);
    let messages = bench.enough(usual, bench.duration);
    let load = bench.load(names.accept);
    bench.say(&format!(
        "{}: sending {messages} messages first",
        names.consume
    ));
    place.send(&load, 0, messages).await?;
    let limits = Limits {
        messages: bench.ground.intake.max_batch,
        bytes: bench.ground.intake.max_batch_bytes.bytes(),
    };
    let counted = Counted::new(place.source(None), messages);
    let tally = tokio::time::timeout(LIMIT, counted.drain(limits));
    let tally = tally.await.context("the broker delivers nothing more")??;
    let how = "the broker alone: read and acknowledged, nothing stored";
    report.add(rate::line(names.consume, tally.total(), how));

    bench.say(&format!(
        "{}: sending {messages} messages first",
        names.accept
    ));
    place.send(&load, messages, messages).await?;
    bench.ground.clear().await?;
    let timeout = bench.ground.intake.transaction_timeout;
    let positions = positions::of(bench.ground.inbox.clone(), timeout);
    let counted = Counted::new(place.source(Some(positions)), messages);
    let route = way::correlating(way::MESSAGE)?;
    let intake = way::intake(&bench.ground, Arc::new(Nowhere), route);
    let source = Arc::new(counted.clone());
    let tally = tokio::time::timeout(LIMIT, way::go(intake, source, counted.finished()));
    let tally = tally.await.context("the broker delivers nothing more")??;
    let stored = bench.ground.rows("done").await?;
    ensure!(
        stored == messages,
        "{messages} messages were sent and {stored} are done"
    );
    let how = "the whole way, without an engine";
    report.add(rate::line(names.accept, tally.total(), how));
    let whole = report.rate(names.accept);
    let halves = report.rate(names.consume).zip(report.rate("accept"));
    let allowed = halves.map(|(consume, accept)| 1.0 / (1.0 / consume + 1.0 / accept));
    let ratio = whole.zip(allowed).map(|(whole, allowed)| whole / allowed);
    report.want(names.target, names.what, ratio, Bound::AtLeast(0.8));
    Ok(())
}
