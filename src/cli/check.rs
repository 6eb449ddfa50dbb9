//! `sluice check`: what is wrong with the configuration, and with what it points at.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use uuid::Uuid;

use super::{BAD_CONFIGURATION, Failure, Globals, on_inbox, print, tell_report};
use crate::bridge::parts::{self, Engines};
use crate::config::{Config, Invalid, MemoryBound, Report, Weight};
use crate::inbox::{Inbox, NodeIdentity, SchemaStatus};
use crate::route::{Route, Routes};
use crate::source::{Finding, Level, SourceError};
use crate::units::Size;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Without --connect it reads the file and nothing else. With it, nothing is consumed and nothing is changed.
Exits with 78 when the configuration has mistakes, with 1 when something that it points at cannot be used.

Examples:
  sluice check -c sluice.toml
  sluice check -c sluice.toml --connect
  sluice check -c sluice.toml --connect --json")]
pub struct Arguments {
    /// Also open the database, the engines and the brokers, and say what is there
    #[arg(long)]
    connect: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// What was found; the shape of `--json`.
#[derive(Debug, Serialize)]
struct Findings {
    file: String,
    ok: bool,
    mistakes: Vec<Placed>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<MemoryBound>,
}

#[derive(Debug, Serialize)]
struct Placed {
    line: usize,
    column: usize,
    level: Level,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

/// What was found about one part.
#[derive(Debug, Serialize)]
struct Part {
    name: String,
    findings: Vec<Finding>,
}

/// A part that does not answer in this time is an error.
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn check(globals: &Globals, arguments: &Arguments) -> Result<ExitCode, Failure> {
    globals.log_quietly()?;
    let path = globals.path();
    let (config, report) = match globals.load() {
        Ok(loaded) => loaded,
        Err(Failure::Configuration(Invalid::Mistaken(report))) if arguments.json => {
            print::json(&Findings::of(&path, &report))?;
            return Ok(ExitCode::from(BAD_CONFIGURATION));
        }
        Err(failure) => return Err(failure),
    };
    let mut found = Findings::of(&path, &report);
    if arguments.connect {
        found.parts = Box::pin(connect(&config)).await?;
        found.memory = Some(MemoryBound::of(&config));
        let refused = |finding: &Finding| finding.level == Level::Error;
        found.ok = !found
            .parts
            .iter()
            .flat_map(|part| &part.findings)
            .any(refused);
    }
    if arguments.json {
        print::json(&found)?;
    } else {
        tell_report(&report);
        print::out(&found.for_people(&config))?;
    }
    Ok(if found.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Findings {
    fn of(path: &Path, report: &Report) -> Self {
        let mistakes = report.mistakes.iter().map(|mistake| {
            let (line, column) = report.position(mistake);
            Placed {
                line,
                column,
                level: match mistake.severity {
                    Weight::Error => Level::Error,
                    Weight::Warning => Level::Warning,
                },
                message: mistake.message.clone(),
                help: mistake.help.clone(),
            }
        });
        Self {
            file: path.display().to_string(),
            ok: !report.has_errors(),
            mistakes: mistakes.collect(),
            parts: Vec::new(),
            memory: None,
        }
    }

    fn for_people(&self, config: &Config) -> String {
        let mut lines = vec![format!(
            "{}: {}, {}, {}",
            self.file,
            counted(config.sources.len(), "source"),
            counted(config.routes.len(), "route"),
            counted(config.engines.len(), "engine"),
        )];
        for part in &self.parts {
            lines.push(String::new());
            lines.push(part.name.clone());
            for finding in &part.findings {
                let mark = match finding.level {
                    Level::Info => " ",
                    Level::Warning => "!",
                    Level::Error => "x",
                };
                lines.push(format!("  {mark} {}", finding.text));
            }
        }
        if let Some(memory) = &self.memory {
            lines.push(String::new());
            lines.push(format!(
                "memory: messages take at most about {}",
                Size(memory.total_bytes)
            ));
            for part in &memory.parts {
                lines.push(format!("    {}", part.text));
            }
        }
        lines.push(String::new());
        lines.push(match (self.ok, self.parts.is_empty()) {
            (true, true) => "no mistakes; `--connect` looks at what the file points at".to_owned(),
            (true, false) => "ready to run".to_owned(),
            (false, _) => "not ready: see the lines marked with x".to_owned(),
        });
        lines.join("\n") + "\n"
    }
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Opens everything that the configuration names, and says what is there.
async fn connect(config: &Config) -> Result<Vec<Part>, Failure> {
    let mut parts = database(config).await.unwrap_or_else(|failure| {
        // What shares the database cannot be looked at either.
        vec![Part {
            name: "inbox".to_owned(),
            findings: vec![Finding::error(failure.to_string())],
        }]
    });
    let routes = Routes::new(
        config
            .sources
            .iter()
            .map(|(name, source)| (name.clone(), source.on_unrouted)),
        config
            .routes
            .iter()
            .map(|(name, route)| Route::new(name, route.clone())),
    );
    let identity = NodeIdentity {
        incarnation: Uuid::now_v7(),
        name: config.node.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    for source in parts::sources(config, &routes, &identity)? {
        let name = format!("source {}", source.name());
        let source = Arc::clone(&source);
        let findings = patiently(async move { source.inspect().await.map_err(chain) }).await;
        parts.push(Part { name, findings });
    }
    Ok(parts)
}

/// The inbox, and the engines that share its database.
async fn database(config: &Config) -> Result<Vec<Part>, Failure> {
    on_inbox!(config, |inbox| Box::pin(look(&inbox, config)).await)
}

async fn look<I>(inbox: &I, config: &Config) -> Result<Vec<Part>, Failure>
where
    I: Inbox + Engines,
{
    let mut findings = patiently(async { inbox.inspect().await.map_err(|e| e.to_string()) }).await;
    findings.extend(
        patiently(async {
            let status = inbox.schema_status().await.map_err(|e| e.to_string())?;
            Ok(vec![tables(&status)])
        })
        .await,
    );
    // Two failures of one database are one.
    findings.dedup();
    let mut parts = vec![Part {
        name: "inbox".to_owned(),
        findings,
    }];
    for engine in inbox.engines(config)? {
        let findings = patiently(async {
            let found = async {
                let mut tx = inbox.begin().await?;
                let findings = engine.inspect(&mut tx).await?;
                inbox.commit(tx).await?;
                Ok(findings)
            };
            found
                .await
                .map_err(|error: crate::inbox::DbError| error.to_string())
        })
        .await;
        let name = format!("engine {}", engine.name());
        // The daemon logs these lines, where they must say whose they are.
        let prefix = format!("{name}: ");
        let findings = findings.into_iter().map(|finding| Finding {
            text: match finding.text.strip_prefix(&prefix) {
                Some(text) => text.to_owned(),
                None => finding.text,
            },
            ..finding
        });
        parts.push(Part {
            findings: findings.collect(),
            name,
        });
    }
    Ok(parts)
}

fn tables(status: &SchemaStatus) -> Finding {
    match status {
        SchemaStatus::Current => Finding::info("Sluice's tables are up to date"),
        SchemaStatus::Missing => {
            Finding::error("Sluice's tables are missing: run `sluice migrate`")
        }
        SchemaStatus::Behind { version, expected } => Finding::error(format!(
            "Sluice's tables are of version {version}, this program needs {expected}: run `sluice migrate`"
        )),
        SchemaStatus::TooNew { version } => Finding::error(format!(
            "Sluice's tables are of version {version}, which needs a newer version of Sluice than this one"
        )),
    }
}

/// What was found, or why nothing was.
async fn patiently(look: impl Future<Output = Result<Vec<Finding>, String>>) -> Vec<Finding> {
    match tokio::time::timeout(PATIENCE, look).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(what)) => vec![Finding::error(what)],
        Err(_) => vec![Finding::error(format!(
            "no answer within {} s",
            PATIENCE.as_secs()
        ))],
    }
}

/// The error with its causes.
fn chain(error: SourceError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}
