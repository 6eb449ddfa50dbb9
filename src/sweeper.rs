//! Looks after rows that no delivery drives any more: wakes, confirms and purges them.
//!
//! Each sweep has a state that is its own (waiting: wake and due; handed: confirm; done: purge), runs on
//! every node, and shares rows with the others by locks that are held from the look to the change. A round
//! is separate from its loop: it is bounded, returns what it did, and pages by limits. Each engine has loops
//! of its own, so that one that fails or does not answer holds up nobody else's rows.
//! Knows the intake's redrive and the inbox's statements; knows no broker.

mod confirm;
mod purge;
mod wake;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Notify;

use crate::backoff::Delays;
use crate::engine::Engine;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Round {
    Empty,
    /// Something was done.
    Some,
    /// There may be more right now.
    Full,
}

/// Two parts of a round, of which both were done: the busier one, or what failed.
fn both(one: Result<Round, DbError>, other: Result<Round, DbError>) -> Result<Round, DbError> {
    Ok(one?.max(other?))
}

/// All sweeps of one node.
pub struct Sweeper<I: Inbox> {
    intake: Arc<Intake<I>>,
    retention: Retention,
    config: SweeperConfig,
    lanes: Vec<Lane<I>>,
}

/// An engine, and what its sweeps have to themselves.
struct Lane<I: Inbox> {
    engine: Arc<dyn Engine<I::Tx>>,
    /// The names of its routes.
    routes: Vec<String>,
    /// Something was handed: confirm may look.
    handed: Notify,
    /// Confirm freed subscriptions: wake looks at once.
    freed: Notify,
}

/// The loop of a sweep.
struct Pace<'a> {
    sweep: &'static str,
    /// Empty: of none.
    engine: &'a str,
    /// The longest pause while there is nothing to do.
    idle: Duration,
    /// Shortens a pause.
    hint: &'a Notify,
}

impl<I: Inbox> Sweeper<I> {
    pub fn new(intake: Arc<Intake<I>>, retention: Retention, config: SweeperConfig) -> Self {
        let routes_of = |engine: &str| {
            let routes = intake
                .routes()
                .iter()
                .filter(|route| route.engine == engine);
            routes.map(|route| route.name.clone()).collect()
        };
        let lanes = intake.engines().map(|engine| Lane {
            engine: Arc::clone(engine),
            routes: routes_of(engine.name()),
            handed: Notify::new(),
            freed: Notify::new(),
        });
        Self {
            lanes: lanes.collect(),
            intake,
            retention,
            config,
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
        let purge = Pace {
            sweep: "purge",
            engine: "",
            idle: self.config.purge_interval.0,
            hint: &Notify::new(),
        };
        // Only an operator makes such a row due.
        let due_of_none = Pace {
            sweep: "due",
            engine: "",
            idle: self.config.idle_interval.0.saturating_mul(8),
            hint: &Notify::new(),
        };
        let lanes: Vec<_> = self
            .lanes
            .iter()
            .map(|lane| self.run_lane(shutdown, lane))
            .collect();
        tokio::join!(
            join_all(lanes),
            shutdown.unless_draining(self.tell_lanes()),
            self.repeat(shutdown, due_of_none, || self.due_of_none()),
            self.repeat(shutdown, purge, || self.purge_round()),
        );
    }

    async fn run_lane(&self, shutdown: &Shutdown, lane: &Lane<I>) {
        let pace = |sweep, hint| Pace {
            sweep,
            engine: lane.engine.name(),
            idle: self.config.idle_interval.0,
            hint,
        };
        let wake = pace("wake", &lane.freed);
        let confirm = pace("confirm", &lane.handed);
        tokio::join!(
            self.repeat(shutdown, wake, || self.wake_of(lane)),
            self.repeat(shutdown, confirm, || self.confirm_of(lane)),
        );
    }

    /// To which engine something was handed the intake does not say.
    async fn tell_lanes(&self) {
        loop {
            self.intake.handed().notified().await;
            self.lanes.iter().for_each(|lane| lane.handed.notify_one());
        }
    }

    /// Looks, and looks again: at once after a full round, soon after some work, later and later after none.
    async fn repeat<F>(&self, shutdown: &Shutdown, pace: Pace<'_>, round: impl Fn() -> F)
    where
        F: Future<Output = Result<Round, DbError>>,
    {
        let Pace {
            sweep,
            engine,
            idle,
            hint,
        } = pace;
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
                        Round::Empty => pause.saturating_mul(2).min(idle).max(busy),
                    }
                }
                Err(error) => {
                    in_a_row += 1;
                    metrics::db_error(error.class.as_str());
                    if error.class == Class::Again && in_a_row < UNUSUAL {
                        tracing::debug!(sweep, engine, %error, "somebody was quicker, the round is tried again");
                    } else {
                        tracing::warn!(sweep, engine, %error, "the round is tried again");
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
