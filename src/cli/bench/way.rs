//! The whole way of a message through the intake, as the daemon goes it: from a source to the acknowledgement.

use std::sync::Arc;

use anyhow::{Context, bail};
use async_trait::async_trait;
use serde_json::json;
use uuid::Uuid;

use super::Ground;
use super::memory::Tally;
use crate::engine::{Ask, Engine, EngineState, Matched, Missed, Outcome};
use crate::finding::Finding;
use crate::inbox::postgres::{PostgresInbox, Tx};
use crate::inbox::{DbError, RowId};
use crate::intake::Intake;
use crate::message::{Message, Undecodable};
use crate::route::{Route, RouteConfig, Routes};
use crate::shutdown::Shutdown;
use crate::source::{OnUnrouted, Source};

/// What source, route and engine are called in the rows.
pub const NAME: &str = "bench";

/// The message's name where no engine looks at it.
pub const MESSAGE: &str = "BenchOrder";

/// A route that correlates: it maps what an ordinary one maps.
pub fn correlating(message_name: &str) -> anyhow::Result<RouteConfig> {
    route("correlate", message_name)
}

/// A route that starts instances.
pub fn starting(message_name: &str) -> anyhow::Result<RouteConfig> {
    route("start", message_name)
}

fn route(action: &str, message_name: &str) -> anyhow::Result<RouteConfig> {
    let route = json!({
        "source": NAME,
        "engine": NAME,
        "dedup_key": "$.id",
        action: {
            "message_name": message_name,
            "business_key": "$.orderId",
            "variables": { "amount": "$.amount", "paid": "$.paid" },
        },
    });
    serde_json::from_value(route).context("the route of the bench")
}

/// An intake with this one engine and route.
pub fn intake(
    ground: &Ground,
    engine: Arc<dyn Engine<Tx>>,
    route: RouteConfig,
) -> Arc<Intake<PostgresInbox>> {
    let routes = Routes::new(
        [(NAME.to_owned(), OnUnrouted::Dead)],
        [Route::new(NAME, route)],
    );
    Arc::new(Intake::new(
        ground.inbox.clone(),
        [engine],
        Arc::new(routes),
        Uuid::now_v7(),
        ground.intake,
    ))
}

/// Lets the intake read the source until everything came back.
pub async fn go(
    intake: Arc<Intake<PostgresInbox>>,
    source: Arc<dyn Source>,
    finished: impl Future<Output = Tally>,
) -> anyhow::Result<Tally> {
    let shutdown = Shutdown::default();
    let _ends = EndOnDrop(shutdown.clone());
    let until = shutdown.clone();
    // A task of its own, as in the daemon.
    let reading = async move { Box::pin(intake.run(source, until, |_| {})).await };
    let mut running = shutdown.spawn(reading);
    let tally = tokio::select! {
        tally = finished => tally,
        ended = &mut running => {
            ended?.context("the intake was ended")??;
            bail!("the intake ended by itself");
        }
    };
    shutdown.drain();
    running.await?.context("the intake was ended")??;
    Ok(tally)
}

/// Whoever is interrupted leaves no task behind.
struct EndOnDrop(Shutdown);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An engine that has nothing to write: a message's effect is its row.
pub struct Nowhere;

#[async_trait]
impl Engine<Tx> for Nowhere {
    fn name(&self) -> &str {
        NAME
    }

    fn fits(&self, _message: &Message) -> Result<(), Undecodable> {
        Ok(())
    }

    fn announces(&self, _message: &Message) -> bool {
        false
    }

    fn hands_over(&self) -> bool {
        false
    }

    fn reads_by_index(&self) -> bool {
        true
    }

    async fn look<'a>(
        &'a self,
        _tx: &mut Tx,
        _asks: &[Ask<'a>],
    ) -> Result<Box<dyn Matched<Tx> + 'a>, DbError> {
        Ok(Box::new(Taken(Outcome::Effect {
            process_instance_id: None,
        })))
    }

    async fn refresh(&self, _tx: &mut Tx) -> Result<EngineState, DbError> {
        Ok(EngineState::default())
    }

    async fn inspect(&self, _tx: &mut Tx) -> Result<Vec<Finding>, DbError> {
        Ok(Vec::new())
    }
}

struct Taken(Outcome);

#[async_trait]
impl Matched<Tx> for Taken {
    fn outcome(&self, _index: usize) -> &Outcome {
        &self.0
    }

    async fn hand(
        self: Box<Self>,
        _tx: &mut Tx,
        _rows: &std::collections::HashSet<RowId>,
    ) -> Result<Vec<Missed>, DbError> {
        Ok(Vec::new())
    }
}
