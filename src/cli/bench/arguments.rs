//! The arguments of `sluice bench`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::units::Span;

/// What the bench measures, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Raw inserts, and the whole way without an engine
    Insert,
    /// Starts by rows: bare statements, and the whole way
    Start,
    /// Correlations by rows: bare statements, and the whole way
    Correlate,
    /// The engine's own pace: POST /message, and work completed by rows
    Rest,
    /// RabbitMQ alone, and the whole way from it
    Rabbitmq,
    /// Kafka alone, and the whole way from it
    Kafka,
    /// One message at a time, from the delivery to the commit
    Single,
    /// Memory of a daemon at full load
    Memory,
    /// What a daemon costs that has nothing to do
    Idle,
    /// An inbox with millions of rows; last, because it takes long
    BigInbox,
}

impl Part {
    /// Whether it uses an engine's tables where that is allowed.
    pub fn may_use_process(self) -> bool {
        !matches!(self, Self::Insert | Self::Rabbitmq | Self::Kafka)
    }

    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
The bench works in a schema, a queue, a topic and a process of its own, with random names, and removes them at \
the end. Give it a server that nobody else needs now: it takes all that there is.

Examples:
  sluice bench --database postgres://sluice@localhost/shop
  sluice bench -c sluice.toml --json
  sluice bench -c sluice.toml --only insert --for 30s
  sluice bench -c sluice.toml --engine-url http://localhost:8080/engine-rest --write-engine-rows
  sluice bench -c sluice.toml --only big-inbox --rows-done 10000000 --rows-waiting 1000000")]
pub struct Arguments {
    /// The database, instead of a configuration's
    #[arg(long, value_name = "URL")]
    pub database: Option<String>,
    /// The broker, instead of a configuration's
    #[arg(long, value_name = "URI")]
    pub rabbitmq: Option<String>,
    /// The broker, instead of a configuration's
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// The schema of the engine's tables in the same database, instead of a configuration's
    #[arg(long, value_name = "SCHEMA")]
    pub engine_schema: Option<String>,
    /// REST interface of an engine node (…/engine-rest); may be given for several nodes
    #[arg(long, value_name = "URL")]
    pub engine_url: Vec<String>,
    /// Deploy a process and write its rows into the engine's tables; all of it is removed at the end
    #[arg(long)]
    pub write_engine_rows: bool,
    /// Only these parts [default: all that the servers allow]
    #[arg(long, value_name = "PART", num_args = 1.., value_enum)]
    pub only: Vec<Part>,
    /// How long each line is measured
    #[arg(long = "for", value_name = "DURATION", default_value = "5s", value_parser = span)]
    pub duration: Span,
    /// Messages of a line, at most
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pub messages: u64,
    /// Bytes of a message
    #[arg(long, value_name = "BYTES", default_value_t = 500, value_parser = clap::value_parser!(u32).range(200..=1_000_000))]
    pub size: u32,
    /// Rows that are done in the big inbox
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rows_done: u64,
    /// Rows that wait in the big inbox
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rows_waiting: u64,
    /// Makes the messages
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print the result as one JSON object; progress goes to standard error
    #[arg(long)]
    pub json: bool,
}

fn span(text: &str) -> Result<Span, String> {
    let span = humantime::parse_duration(text)
        .map_err(|cause| format!("expected a duration such as \"5s\": {cause}"))?;
    if span < Duration::from_millis(100) {
        return Err("expected 100ms or more".to_owned());
    }
    Ok(Span(span))
}
