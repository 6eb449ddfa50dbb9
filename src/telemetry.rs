//! Logs: which lines, in which form. To standard error; never payloads, never secrets.
//!
//! A failure is logged once, where it is handled. Knows no part of the program.

use std::error::Error;
use std::io::{self, IsTerminal};

use schemars::JsonSchema;
use serde::Deserialize;
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// `[log]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug` or `trace` for Sluice itself, with everything else from `warn` up;
    /// or a filter of one's own, such as `info,sluice::intake=debug,lapin=error`.
    /// `--log-level` and `RUST_LOG` go before it, in this order.
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

/// The form of a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One object a line.
    Json,
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Understands a level or a filter.
///
/// # Errors
/// What was expected. A misspelled level is refused, though the filter's own grammar takes it for a module.
pub fn filter(level: &str) -> Result<EnvFilter, String> {
    let known = |word: &str| LEVELS.contains(&word.to_ascii_lowercase().as_str());
    if known(level) {
        return EnvFilter::try_new(format!("warn,sluice={level}")).map_err(|e| e.to_string());
    }
    let word = level
        .split(',')
        .map(str::trim)
        .find(|part| !part.contains(['=', '[', ':']) && !known(part));
    if let Some(word) = word {
        return Err(format!(
            "`{word}` is no level, expected {} or a filter such as `info,sluice::intake=debug`",
            LEVELS.join(", ")
        ));
    }
    EnvFilter::try_new(level).map_err(|cause| format!("`{level}` is no filter: {cause}"))
}

/// An error with its causes on one line; what the text before says already is not said again.
pub fn in_full(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// Begins to log, and gives every event to `further`, too.
///
/// # Errors
/// The process logs already.
pub fn init<L>(filter: EnvFilter, format: LogFormat, further: L) -> Result<(), TryInitError>
where
    L: Layer<tracing_subscriber::Registry> + Send + Sync,
{
    tracing_subscriber::registry()
        .with(further.and_then(lines(format)))
        .with(filter)
        .try_init()
}

fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = fmt::layer().with_writer(io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        // Says its cause itself, as many do.
        let error = sqlx::Error::Io(refused());
        let error = anyhow::Error::new(error).context("the database is away");
        let text = in_full(error.as_ref());
        assert_eq!(text.matches(&refused().to_string()).count(), 1, "{text}");
        assert!(text.starts_with("the database is away: "), "{text}");
    }

    #[test]
    fn a_level_is_for_sluice_and_a_filter_is_taken_as_it_is() {
        let text = |level: &str| filter(level).map(|filter| filter.to_string());
        // In no particular order.
        let debug = text("debug").expect("a level");
        let directives: std::collections::BTreeSet<_> = debug.split(',').collect();
        assert_eq!(directives, ["warn", "sluice=debug"].into());
        for fine in [
            "info,sluice::intake=debug",
            "sluice=trace",
            "warn,lapin=off",
        ] {
            assert!(text(fine).is_ok(), "{fine}");
        }
        for wrong in ["inof", "info,verbose", ""] {
            assert!(text(wrong).is_err(), "{wrong}");
        }
    }
}
