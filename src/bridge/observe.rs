//! Looks at the inbox, the engines and the other nodes, for the status page and the metrics; beats.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::http::{Board, status};
use crate::inbox::{Count, DbError, Inbox, NodeIdentity, StateName};
use crate::intake::Intake;
use crate::metrics::{self, InboxGauges, InboxRows};
use crate::shutdown::Shutdown;

/// Engines that have something to do: their backlog holds the intake back, so it is read often.
const REFRESH: Duration = Duration::from_millis(500);
/// Engines that have nothing to do, while this node gives them nothing.
const REFRESH_IDLE: Duration = Duration::from_millis(2500);
/// Rows and nodes, for people and for Prometheus' scrapes.
const COUNT: Duration = Duration::from_secs(5);

/// A database that does not answer for so long is not ready.
const SLOW: Duration = Duration::from_secs(5);

/// Whether an engine has anything of ours to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Load {
    Idle,
    Busy,
}

/// How long nobody needs to look again.
struct Rest {
    until: Instant,
    /// The intake's commits when it began: with another one there may be something to do.
    commits: u64,
}

impl Rest {
    fn is_over(&self, commits: u64) -> bool {
        commits != self.commits || Instant::now() >= self.until
    }
}

/// One node's eyes.
pub(super) struct Observer<I: Inbox> {
    intake: Arc<Intake<I>>,
    identity: NodeIdentity,
    board: Board,
}

impl<I: Inbox> Observer<I> {
    pub fn new(intake: Arc<Intake<I>>, identity: NodeIdentity, board: Board) -> Self {
        Self {
            intake,
            identity,
            board,
        }
    }

    pub async fn run(&self, shutdown: &Shutdown) {
        let mut gauges = InboxGauges::default();
        let mut strangers = BTreeSet::new();
        let mut count_at = Instant::now();
        let mut rest: Option<Rest> = None;
        loop {
            let commits = self.intake.commits();
            if rest.as_ref().is_none_or(|rest| rest.is_over(commits)) {
                let look = self.intake.limited(async {
                    let engines = self.engines().await;
                    if Instant::now() >= count_at {
                        count_at = Instant::now() + COUNT;
                        self.rows_and_nodes(&mut gauges, &mut strangers).await?;
                    }
                    engines
                });
                let look = async {
                    tokio::select! {
                        looked = look => looked,
                        never = self.say_that_it_is_slow() => match never {},
                    }
                };
                rest = match shutdown.unless_draining(look).await {
                    None => return,
                    Some(Ok(load)) => {
                        self.show_outage();
                        (load == Load::Idle).then(|| Rest {
                            until: Instant::now() + REFRESH_IDLE,
                            commits,
                        })
                    }
                    Some(Err(error)) => {
                        metrics::db_error(error.class.as_str());
                        self.board.set_not_ready("inbox", error.to_string());
                        tracing::debug!(%error, "the database is not observed");
                        None
                    }
                };
            } else {
                self.show_outage();
            }
            if shutdown
                .unless_draining(tokio::time::sleep(REFRESH))
                .await
                .is_none()
            {
                return;
            }
        }
    }

    /// A look is given up late, because a first one may read a lot; that it does not answer is said early.
    async fn say_that_it_is_slow(&self) -> Infallible {
        tokio::time::sleep(SLOW).await;
        let seconds = SLOW.as_secs();
        let why = format!("the database has not answered for {seconds} s");
        self.board.set_not_ready("inbox", why);
        std::future::pending().await
    }

    /// Each engine, whatever is the matter with another.
    async fn engines(&self) -> Result<Load, DbError> {
        let mut worst = Ok(Load::Idle);
        for engine in self.intake.engines() {
            let refreshed = self.refresh(&**engine).await;
            metrics::engine_up(engine.name(), refreshed.is_ok());
            worst = match (refreshed, worst) {
                (Ok(one), Ok(others)) => Ok(one.max(others)),
                (Err(error), _) | (_, Err(error)) => Err(error),
            };
        }
        worst
    }

    /// Whether the intake can write is its own to say: a database that is read-only or full answers here.
    fn show_outage(&self) {
        let outage = self.intake.outage();
        match &outage {
            None => self.board.set_ready("inbox"),
            Some(why) => self.board.set_not_ready("inbox", why),
        }
        for route in self.intake.routes().iter() {
            self.board.set_paused(&route.source, outage.clone());
        }
    }

    async fn refresh(&self, engine: &dyn Engine<I::Tx>) -> Result<Load, DbError> {
        let mut tx = self.intake.inbox().begin().await?;
        let state = engine.refresh(&mut tx).await?;
        let load = match state.backlog {
            0 => Load::Idle,
            _ => Load::Busy,
        };
        metrics::engine_backlog(engine.name(), state.backlog, state.blocked);
        self.board.set_engine(engine.name(), state);
        Ok(load)
    }

    /// Says once of each route that has waiting rows and is not in this node's configuration: it was renamed
    /// or taken away, and unless another node has it, nobody drives them.
    fn warn_of_strangers(&self, counts: &[Count], told: &mut BTreeSet<String>) {
        let routes = self.intake.routes();
        for count in counts
            .iter()
            .filter(|count| count.state == StateName::Waiting)
        {
            let stranger = count
                .route
                .as_deref()
                .filter(|name| routes.get(name).is_none());
            if let Some(route) = stranger
                && told.insert(route.to_owned())
            {
                tracing::warn!(
                    route,
                    rows = count.rows,
                    "rows wait that only a node with this route drives, and this one has none of that name"
                );
            }
        }
    }

    async fn rows_and_nodes(
        &self,
        gauges: &mut InboxGauges,
        strangers: &mut BTreeSet<String>,
    ) -> Result<(), DbError> {
        let inbox = self.intake.inbox();
        inbox.beat(&self.identity).await?;
        let counts = inbox.counts().await?;
        gauges.show(counts.iter().map(|count| InboxRows {
            route: count.route.as_deref(),
            state: count.state.as_str(),
            reason: count.reason.as_deref().unwrap_or_default(),
            rows: count.rows,
            oldest_age_seconds: count.oldest_age_seconds,
        }));
        self.warn_of_strangers(&counts, strangers);
        self.board.set_inbox(counts);
        let nodes = inbox.nodes().await?;
        let alive = nodes.iter().filter(|node| status::lives(node)).count();
        metrics::nodes(alive, status::gone(&nodes).count());
        self.board.set_nodes(nodes);
        let (idle, used) = inbox.connections();
        metrics::db_pool(idle, used);
        Ok(())
    }
}
