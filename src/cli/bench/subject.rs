//! What is measured: the user's servers and the daemon's settings, from the command line or a configuration.
//!
//! Invariant: a part that was asked for by name and cannot be measured is a mistake of usage, told before
//! anything is made.

use anyhow::Context;
use clap::ValueEnum as _;
use secrecy::ExposeSecret;
use serde_json::json;

use super::daemon::Sources;
use super::report::Report;
use super::{Arguments, Part};
use crate::cli::{Failure, Globals};
use crate::config::Config;
use crate::engine::camunda_tables::CamundaTablesConfig;
use crate::inbox::InboxConfig;
use crate::intake::IntakeConfig;
use crate::source::kafka::KafkaConfig;
use crate::source::rabbitmq::RabbitmqConfig;

/// The servers, and how the daemon would use them.
pub struct Subject {
    pub inbox: InboxConfig,
    pub intake: IntakeConfig,
    /// How the broker is reached; the queue is the bench's own.
    pub rabbitmq: Option<RabbitmqConfig>,
    /// How the broker is reached; topic and group are the bench's own.
    pub kafka: Option<KafkaConfig>,
    /// The engine's tables, and that the user lets us write into them.
    pub engine: Result<CamundaTablesConfig, &'static str>,
    pub engine_urls: Vec<String>,
}

const NO_ENGINE: &str = "no engine is named: --engine-schema, or a configuration";
const NO_LEAVE: &str = "it writes rows into the engine's tables and deploys a process: allow it with --write-engine-rows";
const NOT_NEEDED: &str = "no part that was asked for needs it";
const NO_RABBITMQ: &str = "no broker is named: --rabbitmq, or a configuration";
const NO_KAFKA: &str = "no broker is named: --kafka, or a configuration";
const NO_BROKER: &str = "its daemon reads from a broker without client certificates: --rabbitmq, --kafka, or a configuration";
const NO_ROWS: &str = "it takes long: say how many rows with --rows-done and --rows-waiting";
const NO_URL: &str = "the process is deployed by REST: name a node with --engine-url";

impl Subject {
    pub fn of(globals: &Globals, arguments: &Arguments) -> Result<Self, Failure> {
        let mut subject = match &arguments.database {
            Some(url) => Self::alone(url)?,
            None => Self::configured(globals.load()?.0),
        };
        let url = subject.inbox.url.expose_secret();
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            let what = "the bench measures an inbox on PostgreSQL: expected postgres://…";
            return Err(Failure::Usage(what.to_owned()));
        }
        if let Some(uri) = &arguments.rabbitmq {
            let config = json!({ "uris": [uri], "queue": "" });
            subject.rabbitmq = Some(serde_json::from_value(config).context("--rabbitmq")?);
        }
        if let Some(servers) = &arguments.kafka {
            let config = json!({ "bootstrap_servers": servers, "topics": [], "group_id": "" });
            subject.kafka = Some(serde_json::from_value(config).context("--kafka")?);
        }
        if let Some(schema) = &arguments.engine_schema {
            let config = json!({ "schema": schema });
            subject.engine = Ok(serde_json::from_value(config).context("--engine-schema")?);
        }
        subject.engine_urls.clone_from(&arguments.engine_url);
        subject.allow(arguments)?;
        subject.refuse(arguments)?;
        subject.narrow(arguments);
        Ok(subject)
    }

    /// This database, and defaults.
    fn alone(url: &str) -> anyhow::Result<Self> {
        Ok(Self {
            inbox: serde_json::from_value(json!({ "url": url })).context("--database")?,
            intake: IntakeConfig::default(),
            rabbitmq: None,
            kafka: None,
            engine: Err(NO_ENGINE),
            engine_urls: Vec::new(),
        })
    }

    /// The first broker of each kind, and the first engine by tables.
    fn configured(config: Config) -> Self {
        let sources = || config.sources.values();
        let engine = config
            .engines
            .values()
            .find_map(|e| e.camunda_tables.clone());
        Self {
            rabbitmq: sources().find_map(|source| source.rabbitmq.clone()),
            kafka: sources().find_map(|source| source.kafka.as_deref().cloned()),
            engine: engine.ok_or(NO_ENGINE),
            engine_urls: Vec::new(),
            inbox: config.inbox,
            intake: config.intake,
        }
    }

    /// Only what the user said may be written to an engine, is.
    fn allow(&mut self, arguments: &Arguments) -> Result<(), Failure> {
        let Ok(engine) = &self.engine else {
            return Ok(());
        };
        for name in [&engine.schema, &engine.table_prefix] {
            if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                let what =
                    format!("{name:?} is not the name of a schema: expected letters, digits and _");
                return Err(Failure::Usage(what));
            }
        }
        if !arguments.write_engine_rows {
            self.engine = Err(NO_LEAVE);
        } else if self.engine_urls.is_empty() {
            self.engine = Err(NO_URL);
        }
        Ok(())
    }

    fn refuse(&self, arguments: &Arguments) -> Result<(), Failure> {
        for part in &arguments.only {
            if let Some(why) = self.obstacle(*part, arguments) {
                let what = format!("{} cannot be measured: {why}", part.name());
                return Err(Failure::Usage(what));
            }
        }
        Ok(())
    }

    /// Why a part cannot be measured.
    fn obstacle(&self, part: Part, arguments: &Arguments) -> Option<&'static str> {
        let no_source = || Sources::of(self, "").is_empty();
        match part {
            Part::Start | Part::Correlate | Part::Rest => self.engine.as_ref().err().copied(),
            Part::Rabbitmq => self.rabbitmq.is_none().then_some(NO_RABBITMQ),
            Part::Kafka => self.kafka.is_none().then_some(NO_KAFKA),
            Part::Memory | Part::Idle => no_source().then_some(NO_BROKER),
            Part::BigInbox => {
                let none = arguments.rows_done + arguments.rows_waiting == 0;
                none.then_some(NO_ROWS)
            }
            Part::Insert | Part::Single => None,
        }
    }

    /// What is measured, in the order of its sense; the report is told what is not, and why.
    pub fn parts(&self, arguments: &Arguments, report: &mut Report) -> Vec<Part> {
        let mut parts = Vec::new();
        for part in Part::value_variants() {
            if !arguments.only.is_empty() && !arguments.only.contains(part) {
                continue;
            }
            match self.obstacle(*part, arguments) {
                None => parts.push(*part),
                Some(why) => report.skip(part.name(), why),
            }
        }
        parts
    }

    /// Leaves alone what no wanted part needs.
    fn narrow(&mut self, arguments: &Arguments) {
        let wanted = |part: &Part| arguments.only.is_empty() || arguments.only.contains(part);
        let daemon = wanted(&Part::Memory) || wanted(&Part::Idle);
        if !daemon && !wanted(&Part::Rabbitmq) {
            self.rabbitmq = None;
        }
        if !daemon && !wanted(&Part::Kafka) {
            self.kafka = None;
        }
        let used = arguments.only.iter().any(|part| part.may_use_process());
        if self.engine.is_ok() && !arguments.only.is_empty() && !used {
            self.engine = Err(NOT_NEEDED);
        }
    }
}
