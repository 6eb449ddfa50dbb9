//! `sluice check`: what is wrong with the configuration, and with what it points at.

mod connect;

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{BAD_CONFIGURATION, Failure, Globals, print, tell_report};
use crate::config::{Config, Invalid, MemoryBound, Report, Weight};
use crate::finding::{Finding, Level};
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
    found.memory = Some(MemoryBound::of(&config));
    if arguments.connect {
        found.parts = Box::pin(connect::connect(&config)).await?;
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
