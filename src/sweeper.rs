//! Looks after rows that no delivery drives any more: wakes, confirms and purges them.
//!
//! Each sweep has a state that is its own (waiting: wake and due; handed: confirm; done: purge), runs on
//! every node, and shares rows with the others by locks that are held from the look to the change. A round
//! is separate from its loop: it is bounded, returns what it did, and pages by limits.
//! Knows the intake's redrive and the inbox's statements; knows no broker.

mod confirm;
mod purge;
mod wake;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Notify;

use crate::backoff::Delays;
use crate::inbox::{Class, DbError, Inbox, Retention};
use crate::intake::Intake;
use crate::metrics;
use crate::shutdown::Shutdown;
use crate::units::{Size, Span};

/// `[sweeper]`: how often the sweeps look, and how much they take at once.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SweeperConfig {
    /// The pause between two looks while there is something to do.
    pub busy_interval: Span,
    /// The longest pause while there is nothing to do.
    pub idle_interval: Span,
    /// The pause between two rounds of purge that found nothing.
    pub purge_interval: Span,
    /// Rows of one round.
    pub limit: u32,
    /// Payload bytes of one round.
    pub limit_bytes: Size,
}

impl Default for SweeperConfig {
    fn default() -> Self {
        Self {
            busy_interval: Span::ms(50),
            idle_interval: Span::ms(1250),
            purge_interval: Span::secs(30),
            limit: 200,
            limit_bytes: Size::mib(16),
        }
    }
}

/// After so many rounds in a row it is not just somebody quicker.
const UNUSUAL: u32 = 3;

/// How a round went, as far as the next pause depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// There may be more right now.
    Full,
    /// Something was done.
    Some,
    Empty,
}

/// The last error of a round that goes on without what failed.
#[derive(Default)]
struct Worst(Option<DbError>);

impl Worst {
    fn without<T>(&mut self, part: Result<T, DbError>) -> Option<T> {
        part.map_err(|error| self.0 = Some(error)).ok()
    }

    fn or(self, round: Round) -> Result<Round, DbError> {
        self.0.map_or(Ok(round), Err)
    }
}

/// All sweeps of one node.
pub struct Sweeper<I: Inbox> {
    intake: Arc<Intake<I>>,
    retention: Retention,
    config: SweeperConfig,
    /// The names of each engine's routes.
    routes: BTreeMap<String, Vec<String>>,
    /// Confirm freed subscriptions: wake looks at once.
    freed: Notify,
}

impl<I: Inbox> Sweeper<I> {
    pub fn new(intake: Arc<Intake<I>>, retention: Retention, config: SweeperConfig) -> Self {
        let mut routes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for route in intake.routes().iter() {
            let of_engine = routes.entry(route.engine.clone()).or_default();
            of_engine.push(route.name.clone());
        }
        Self {
            routes,
            intake,
            retention,
            config,
            freed: Notify::new(),
        }
    }

    fn limit(&self) -> i64 {
        i64::from(self.config.limit)
    }

    fn limit_bytes(&self) -> i64 {
        i64::try_from(self.config.limit_bytes.bytes()).unwrap_or(i64::MAX)
    }

    /// Runs every sweep until the drain begins.
    pub async fn run(&self, shutdown: &Shutdown) {
        let idle = self.config.idle_interval.0;
        let never = Notify::new();
        tokio::join!(
            self.repeat(shutdown, "wake", idle, &self.freed, || self.wake_round()),
            self.repeat(shutdown, "confirm", idle, self.intake.handed(), || self
                .confirm_round()),
            self.repeat(
                shutdown,
                "purge",
                self.config.purge_interval.0,
                &never,
                || self.purge_round()
            ),
        );
    }

    /// Looks, and looks again: at once after a full round, soon after some work, later and later after none.
    async fn repeat<F>(
        &self,
        shutdown: &Shutdown,
        sweep: &'static str,
        idle: Duration,
        hint: &Notify,
        round: impl Fn() -> F,
    ) where
        F: Future<Output = Result<Round, DbError>>,
    {
        let busy = self.config.busy_interval.0;
        let mut failures = Delays::outage();
        let mut in_a_row = 0;
        let mut pause = busy;
        while let Some(done) = shutdown.unless_draining(round()).await {
            pause = match done {
                Ok(round) => {
                    failures.reset();
                    in_a_row = 0;
                    match round {
                        Round::Full => Duration::ZERO,
                        Round::Some => busy,
                        Round::Empty => (pause * 2).clamp(busy, idle),
                    }
                }
                Err(error) => {
                    in_a_row += 1;
                    metrics::db_error(error.class.as_str());
                    if error.class == Class::Again && in_a_row < UNUSUAL {
                        tracing::debug!(sweep, %error, "somebody was quicker, the round is tried again");
                    } else {
                        tracing::warn!(sweep, %error, "the round is tried again");
                    }
                    failures.next_delay()
                }
            };
            let waiting = async {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    // A hint shortens a pause, but never to a hot loop.
                    () = hint.notified() => tokio::time::sleep(busy.min(pause)).await,
                }
            };
            if shutdown.unless_draining(waiting).await.is_none() {
                return;
            }
        }
    }
}
