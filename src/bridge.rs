//! The daemon: builds every part from the configuration, binds, runs, supervises, drains.
//!
//! Build and run are separate: whatever can fail for a wrong configuration fails before any work starts.
//! Owns no rule of its own; it is the one place that knows all parts by name.

mod observe;
pub mod parts;
pub mod positions;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backoff::Delays;
use crate::config::Config;
use crate::finding::Level;
use crate::http::{self, Board, Problems};
use crate::inbox::{DbError, Inbox, NodeIdentity};
use crate::intake::Intake;
use crate::metrics::{self, Exporter};
use crate::shutdown::Shutdown;
use crate::source::Source;
use crate::sweeper::Sweeper;
use crate::telemetry;

use observe::Observer;
use parts::{AnyInbox, Engines, Seen};

/// How `run` may begin.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Create or upgrade our tables first.
    pub migrate: bool,
}

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// What kept it from starting, or made it stop by itself.
pub async fn run(config: Config, problems: Problems, options: Options) -> anyhow::Result<ExitCode> {
    let identity = NodeIdentity {
        incarnation: Uuid::now_v7(),
        name: config.node.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let exporter = Exporter::install().context("the metrics cannot be exported")?;
    let plan = parts::plan(&config);
    plan.announce();
    let board = Board::new(identity.clone(), plan, problems);
    // Binding comes before everything else: a second daemon on the same port fails here.
    let server = http::bind(&config.http).await?;
    tracing::info!(node = %identity.name, incarnation = %identity.incarnation, version = %identity.version,
        http = %server.local_addr()?, "starting");
    let served = CancellationToken::new();
    let mut pages = JoinSet::new();
    pages.spawn(server.serve(board.clone(), exporter.clone(), served.clone()));
    pages.spawn(exporter.upkeep());
    let ended = match parts::open_inbox(&config.inbox, &identity.name)? {
        AnyInbox::Postgres(inbox) => {
            Box::pin(run_on(inbox, config, identity, board, options)).await
        }
        AnyInbox::Sqlite(inbox) => Box::pin(run_on(inbox, config, identity, board, options)).await,
    };
    served.cancel();
    pages.shutdown().await;
    ended
}

/// The same on a database of either kind.
async fn run_on<I>(
    inbox: I,
    config: Config,
    identity: NodeIdentity,
    board: Board,
    options: Options,
) -> anyhow::Result<ExitCode>
where
    I: Inbox + Engines,
{
    let shutdown = Shutdown::default();
    let drain_limit = config.node.drain_timeout.0;
    let mut signals = Signals::listen(&shutdown, drain_limit)?;
    let starting = start(inbox, config, &identity, &board, &shutdown, options);
    let mut running = tokio::select! {
        started = starting => match started? {
            Some(running) => running,
            None => return Ok(ExitCode::SUCCESS),
        },
        hard = signals.hard() => return Ok(hard),
    };
    board.started();
    notify_systemd(&[sd_notify::NotifyState::Ready]);
    tracing::info!("started");
    let mut failure = None;
    let code = loop {
        tokio::select! {
            ended = running.join_next() => match ended {
                None => break ExitCode::SUCCESS,
                Some(Ok(Ok(()))) if shutdown.is_draining() => {}
                Some(Ok(Ok(()))) => {
                    failure.get_or_insert_with(|| anyhow::anyhow!("a task ended by itself"));
                    shutdown.drain();
                }
                Some(Ok(Err(error))) => {
                    tracing::error!(%error, "stopping");
                    failure.get_or_insert(error);
                    shutdown.drain();
                }
                Some(Err(panic)) => {
                    tracing::error!(%panic, "a task panicked, stopping");
                    failure.get_or_insert_with(|| panic.into());
                    shutdown.drain();
                }
            },
            hard = signals.hard() => {
                running.shutdown().await;
                break hard;
            }
            () = shutdown.draining(), if !board.is_draining() => {
                board.draining();
                notify_systemd(&[sd_notify::NotifyState::Stopping]);
                tracing::info!(limit = ?drain_limit, "draining: nothing more is taken, what is under way is finished");
            }
        }
    };
    if let Some(error) = failure {
        return Err(error);
    }
    tracing::info!("stopped");
    Ok(code)
}

/// Builds and starts everything. `None`: the drain began before everything was there.
async fn start<I>(
    inbox: I,
    config: Config,
    identity: &NodeIdentity,
    board: &Board,
    shutdown: &Shutdown,
    options: Options,
) -> anyhow::Result<Option<JoinSet<anyhow::Result<()>>>>
where
    I: Inbox + Engines,
{
    let engines = inbox.engines(&config)?;
    let routes = Arc::new(parts::routes(&config));
    let usable = async {
        until_usable(&inbox, board, options).await?;
        until_answered(board, async || inbox.beat(identity).await).await;
        for engine in &engines {
            let prospects = parts::prospects(&config, &routes, engine.name());
            let limit = config.intake.transaction_timeout.0;
            let look = async || {
                let look = parts::look_at(&inbox, &**engine, &prospects);
                DbError::unless_late("engine look", limit, look).await
            };
            say(engine.name(), &until_answered(board, look).await, board)?;
        }
        anyhow::Ok(())
    };
    if shutdown
        .unless_draining(usable)
        .await
        .transpose()?
        .is_none()
    {
        return Ok(None);
    }
    let positions = positions::of(inbox.clone(), config.intake.transaction_timeout);
    let sources = parts::sources(&config, &routes, identity, Some(&positions))?;
    let intake = Arc::new(Intake::new(
        inbox.clone(),
        engines,
        routes,
        identity.incarnation,
        config.intake,
    ));
    let mut tasks = JoinSet::new();
    for source in sources {
        // Before the task runs for the first time: until then the node would seem ready.
        board.set_not_ready(&part(&*source), "not connected");
        tasks.spawn(drive_source(
            Arc::clone(&intake),
            source,
            shutdown.clone(),
            board.clone(),
        ));
    }
    let sweeper = Sweeper::new(Arc::clone(&intake), config.inbox.retention, config.sweeper);
    let until = shutdown.clone();
    tasks.spawn(async move {
        sweeper.run(&until).await;
        Ok(())
    });
    let observer = Observer::new(intake, identity.clone(), board.clone());
    let until = shutdown.clone();
    tasks.spawn(async move {
        observer.run(&until).await;
        Ok(())
    });
    Ok(Some(tasks))
}

/// What readiness calls a source.
fn part(source: &dyn Source) -> String {
    format!("source {}", source.name())
}

/// Until the drain. A source that is stuck stops alone: the others have done nothing wrong, and a process
/// that ended would come back to the same delivery.
async fn drive_source<I: Inbox>(
    intake: Arc<Intake<I>>,
    source: Arc<dyn Source>,
    shutdown: Shutdown,
    board: Board,
) -> anyhow::Result<()> {
    let (name, part) = (Arc::clone(source.name()), part(&*source));
    let driven = intake
        .run(source, shutdown.clone(), |connected| match connected {
            Ok(()) => board.set_ready(&part),
            Err(error) => board.set_not_ready(&part, telemetry::in_full(error)),
        })
        .await;
    if let Err(stopped) = driven {
        tracing::error!(source = &*name, error = %stopped, "the source stops until the next start");
        board.set_not_ready(&part, stopped.to_string());
        shutdown.draining().await;
    }
    Ok(())
}

/// Until the database answers; then its tables must be there, and of a version that this program knows.
async fn until_usable<I: Inbox>(inbox: &I, board: &Board, options: Options) -> anyhow::Result<()> {
    let status = async || {
        if options.migrate {
            for step in inbox.migrate().await? {
                tracing::info!(step, "migrated");
            }
        }
        inbox.schema_status().await
    };
    match until_answered(board, status).await.obstacle() {
        None => Ok(()),
        Some(obstacle) => bail!(obstacle),
    }
}

/// Does this again and again while the database is what stands in the way.
async fn until_answered<T>(board: &Board, work: impl AsyncFn() -> Result<T, DbError>) -> T {
    let mut delays = Delays::outage();
    loop {
        match work().await {
            Ok(done) => {
                board.set_ready("inbox");
                return done;
            }
            Err(error) => {
                metrics::db_error(error.class.as_str());
                tracing::warn!(%error, "the database {}", error.plight());
                board.set_not_ready("inbox", error.to_string());
                tokio::time::sleep(delays.next_delay()).await;
            }
        }
    }
}

/// Logs what was seen of an engine, and refuses one that cannot be used. A route that cannot be served
/// does not keep the others from their work.
fn say(engine: &str, seen: &Seen, board: &Board) -> anyhow::Result<()> {
    let mut refused = Vec::new();
    for finding in &seen.engine {
        match finding.level {
            Level::Info => tracing::info!("{}", finding.text),
            Level::Warning => tracing::warn!("{}", finding.text),
            Level::Error => refused.push(finding.text.clone()),
        }
    }
    for (route, finding) in &seen.routes {
        match finding.level {
            Level::Info => tracing::info!(route, engine, "{}", finding.text),
            Level::Warning => tracing::warn!(route, engine, "{}", finding.text),
            Level::Error => tracing::error!(route, engine, "{}", finding.text),
        }
    }
    if let Some(first) = seen.engine.first() {
        board.set_engine_detail(engine, first.text.clone());
    }
    if refused.is_empty() {
        return Ok(());
    }
    bail!("{}", refused.join("\n"))
}

/// The signals of the process: the first one drains, the second one or the limit ends it.
struct Signals {
    hard: tokio::sync::mpsc::Receiver<ExitCode>,
}

impl Signals {
    fn listen(shutdown: &Shutdown, drain_limit: Duration) -> anyhow::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (ended, hard) = tokio::sync::mpsc::channel(1);
        let soft = shutdown.clone();
        shutdown.spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = soft.draining() => {}
            }
            soft.drain();
            tokio::select! {
                _ = terminate.recv() => tracing::warn!("second signal: what is under way is dropped"),
                _ = interrupt.recv() => tracing::warn!("second signal: what is under way is dropped"),
                () = tokio::time::sleep(drain_limit) => {
                    tracing::warn!(limit = ?drain_limit, "the drain took too long: what is under way is dropped");
                }
            }
            // The receiver is gone when the process is ending anyway.
            if ended.send(ExitCode::FAILURE).await.is_err() {
                tracing::debug!("the process is ending anyway");
            }
        });
        Ok(Self { hard })
    }

    /// The end that does not wait.
    async fn hard(&mut self) -> ExitCode {
        match self.hard.recv().await {
            Some(code) => code,
            None => std::future::pending().await,
        }
    }
}

/// Tells systemd, where it listens.
fn notify_systemd(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd is not told");
    }
}
