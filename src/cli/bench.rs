//! `sluice bench`: what this machine and these servers can do, and how much of it Sluice takes.
//!
//! Every line is measured on the user's own servers in one run, so that its figures are ratios of what was
//! possible at that hour. The bench works in things of its own: a schema, a queue, a topic, a process; it
//! says what it will make before it does, and removes it at the end, also after Ctrl-C. An engine's
//! tables are not touched unless the user says so.
//! Invariant: whatever is made was noted in [`Belongings`] before, and is removed or told of.

mod arguments;
mod belongings;
mod big;
mod brokers;
mod counted;
mod daemon;
mod footprint;
mod ground;
mod hand_over;
mod insert;
mod load;
mod memory;
mod pace;
mod process;
mod rate;
mod report;
mod rest;
mod settings;
mod single;
mod statements;
mod subject;
mod way;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, Globals, print};
pub use arguments::{Arguments, Part};

use belongings::{Belonging, Belongings};
use big::Rows;
use brokers::{KAFKA, Place, Queue, RABBITMQ, Topic};
use daemon::Sources;
use ground::Ground;
use hand_over::Kind;
use load::Load;
use process::Process;
use report::Report;
use settings::Settings;
use subject::Subject;

/// One run: where it works, and how much.
struct Bench {
    ground: Ground,
    duration: Duration,
    messages: u64,
    size: u32,
    seed: u64,
    /// Rows that are made ready at once.
    round: usize,
}

impl Bench {
    fn new(arguments: &Arguments, ground: Ground) -> Self {
        let duration = arguments.duration.0;
        Self {
            ground,
            duration,
            messages: arguments.messages,
            size: arguments.size,
            seed: arguments.seed,
            round: if duration < Duration::from_secs(1) {
                4_000
            } else {
                40_000
            },
        }
    }

    /// The messages of a line.
    fn load(&self, line: &str) -> Load {
        Load::new(self.seed, line, self.size)
    }

    /// As many messages as that rate needs for so long.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is no negative number, and the product far below 2^53"
    )]
    fn enough(&self, per_second: f64, duration: Duration) -> u64 {
        let messages = (per_second * duration.as_secs_f64()).ceil() as u64;
        messages.clamp(1, self.messages)
    }

    /// Progress.
    #[expect(clippy::unused_self, reason = "what is said belongs to the run")]
    fn say(&self, text: &str) {
        print::error(&format!("{text}\n"));
    }
}

pub async fn bench(globals: &Globals, arguments: &Arguments) -> Result<ExitCode, Failure> {
    globals.log_quietly()?;
    let subject = Subject::of(globals, arguments)?;
    // As in the daemon: what is counted costs its time here, too.
    let _exporter = crate::metrics::Exporter::install()?;
    let name = format!("sluice_bench_{:08x}", fastrand::u32(..));
    print::error(&intention(&subject, &name));
    let belongings = Belongings::default();
    let played = tokio::select! {
        played = caught(play(&subject, arguments, &name, &belongings)) => Some(played),
        () = interrupted()? => None,
    };
    if played.is_none() {
        print::error("interrupted: removing what was made\n");
    }
    let left_behind = belongings.remove().await;
    let Some(Ok(mut report)) = played else {
        for left in left_behind {
            print::error(&format!("left behind: {left}\n"));
        }
        return Err(match played {
            Some(Err(error)) => error.into(),
            Some(Ok(_)) | None => Failure::Told,
        });
    };
    report.left_behind(left_behind);
    if arguments.json {
        print::json(&report.json())?;
    } else {
        print::out(&report.table())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A panic is an error like another: what was made must be removed.
async fn caught<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let caught = AssertUnwindSafe(work).catch_unwind().await;
    caught.unwrap_or_else(|_| Err(anyhow::anyhow!("the bench panicked")))
}

/// What will be made, before it is.
fn intention(subject: &Subject, name: &str) -> String {
    let mut lines = vec![
        "the bench makes, and removes at the end:".to_owned(),
        format!("  schema {name} in the inbox's database"),
    ];
    if subject.rabbitmq.is_some() {
        lines.push(format!("  queue {name} at RabbitMQ"));
    }
    if let Some(kafka) = &subject.kafka {
        let servers = &kafka.bootstrap_servers;
        lines.push(format!("  topic and group {name} at Kafka, {servers}"));
    }
    if let (Ok(engine), Some(url)) = (&subject.engine, subject.engine_urls.first()) {
        let schema = &engine.schema;
        lines.push(format!("  deployment {name}, by {url}"));
        lines.push(format!(
            "  rows of its processes, instances, jobs, variables and history, in the engine's tables in schema {schema}"
        ));
    }
    lines.join("\n") + "\n"
}

/// Ctrl-C, or SIGTERM.
fn interrupted() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Everything that is asked for, one part after the other.
async fn play(
    subject: &Subject,
    arguments: &Arguments,
    name: &str,
    belongings: &Belongings,
) -> anyhow::Result<Report> {
    belongings.note(Belonging::Schema {
        inbox: subject.inbox.clone(),
        name: name.to_owned(),
    });
    let ground = Ground::make(subject, name).await?;
    let settings = Settings::read(arguments, subject, ground.inbox.pool()).await?;
    let mut report = Report::new(settings);
    let bench = Bench::new(arguments, ground);
    let parts = subject.parts(arguments, &mut report);
    let process = match &subject.engine {
        Ok(engine) => {
            belongings.note(Belonging::process(subject, engine, name));
            Some(Process::deploy(subject, &bench.ground, engine, name).await?)
        }
        Err(_) => None,
    };
    let queue = match &subject.rabbitmq {
        Some(config) => {
            belongings.note(Belonging::Queue(Queue::new(config, name)));
            let queue = Queue::new(config, name);
            queue.make().await?;
            Some(queue)
        }
        None => None,
    };
    let topic = match &subject.kafka {
        Some(config) => {
            belongings.note(Belonging::Topic(Topic::new(config, name)));
            let topic = Topic::new(config, name);
            topic.make().await?;
            Some(topic)
        }
        None => None,
    };
    let run = Run {
        bench: &bench,
        subject,
        name,
        rows: Rows {
            done: arguments.rows_done,
            waiting: arguments.rows_waiting,
        },
        process: process.as_ref(),
        queue: queue.as_ref(),
        topic: topic.as_ref(),
    };
    for part in parts {
        Box::pin(run.part(part, &mut report)).await?;
    }
    bench.ground.inbox.pool().close().await;
    Ok(report)
}

/// What a run has, ready to be measured.
struct Run<'a> {
    bench: &'a Bench,
    subject: &'a Subject,
    name: &'a str,
    rows: Rows,
    process: Option<&'a Process>,
    queue: Option<&'a Queue>,
    topic: Option<&'a Topic>,
}

impl Run<'_> {
    async fn part(&self, part: Part, report: &mut Report) -> anyhow::Result<()> {
        let (bench, process) = (self.bench, self.process);
        match part {
            Part::Insert => insert::measure(bench, report).await?,
            Part::Start => self.hand_over(Kind::Start, report).await?,
            Part::Correlate => self.hand_over(Kind::Correlate, report).await?,
            Part::Rest => {
                if let Some(process) = process {
                    pace::measure(bench, process, report).await?;
                }
            }
            Part::Rabbitmq => {
                if let Some(queue) = self.queue {
                    brokers::measure(bench, queue, &RABBITMQ, report).await?;
                }
            }
            Part::Kafka => {
                if let Some(topic) = self.topic {
                    brokers::measure(bench, topic, &KAFKA, report).await?;
                }
            }
            Part::Single => single::measure(bench, process, report).await?,
            Part::Memory => self.memory(report).await?,
            Part::Idle => {
                let sources = Sources::of(self.subject, self.name);
                footprint::idle(bench, self.subject, &sources, process, report).await?;
            }
            Part::BigInbox => big::measure(bench, self.rows, process, report).await?,
        }
        // No part pays for what another left in the engine's tables.
        if let Some(process) = process {
            process.clear().await?;
        }
        bench.ground.clear().await
    }

    async fn hand_over(&self, kind: Kind, report: &mut Report) -> anyhow::Result<()> {
        match self.process {
            Some(process) => hand_over::measure(self.bench, process, kind, report).await,
            None => Ok(()),
        }
    }

    /// Broker by broker, because each has a memory of its own.
    async fn memory(&self, report: &mut Report) -> anyhow::Result<()> {
        let sources = || Sources::of(self.subject, self.name);
        let rabbitmq = Sources {
            kafka: None,
            ..sources()
        };
        let kafka = Sources {
            rabbitmq: None,
            ..sources()
        };
        let queue = self.queue.map(|queue| queue as &dyn Place);
        let topic = self.topic.map(|topic| topic as &dyn Place);
        for (sources, place, name) in [
            (rabbitmq, queue, "memory_rabbitmq"),
            (kafka, topic, "memory_kafka"),
        ] {
            if let Some(place) = place.filter(|_| !sources.is_empty()) {
                let process = self.process;
                footprint::memory(self.bench, &sources, place, process, name, report).await?;
            }
        }
        Ok(())
    }
}
