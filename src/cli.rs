//! The command line: one module for each subcommand, and what they share.
//!
//! Owns arguments, the search for the configuration file, exit codes and everything that is printed.
//! Knows no rule of the program: what it does is done by the parts.

mod bench;
mod check;
mod choice;
mod completions;
mod demo;
mod inbox;
mod migrate;
mod positions;
mod print;
mod rows;
mod run;
mod schema;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, Invalid, Look, Report};
use crate::telemetry::{self, LogFormat};

/// Carries JSON messages from RabbitMQ and Kafka into a process engine, exactly once in effect.
#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    arg_required_else_help = true,
    after_help = EXIT_CODES,
    after_long_help = concat!(
        "Examples:\n",
        "  sluice check -c sluice.toml --connect    look at everything, change nothing\n",
        "  sluice migrate -c sluice.toml            create or upgrade Sluice's own tables\n",
        "  sluice run -c sluice.toml                carry messages, until SIGTERM\n",
        "  sluice inbox list --state dead           what needs somebody's decision\n",
        "\n",
        "Exit codes: 0 ok, 1 failure, 2 usage, 78 bad configuration",
    )
)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failure, 2 usage, 78 bad configuration";

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Globals {
    /// The configuration file [default: ./sluice.toml, else /etc/sluice/sluice.toml]
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        env = "SLUICE_CONFIG",
        hide_env_values = true
    )]
    config: Option<PathBuf>,
    /// A level (error, warn, info, debug, trace), or a filter such as `info,sluice::intake=debug`
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        env = "RUST_LOG",
        hide_env_values = true
    )]
    log_level: Option<String>,
    /// The form of log lines on standard error [default: log.format of the configuration]
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Carry messages until SIGTERM
    Run(run::Arguments),
    /// Find every mistake of the configuration, without running
    Check(check::Arguments),
    /// Create or upgrade Sluice's own tables
    Migrate(migrate::Arguments),
    /// Look at accepted messages, drive them again, or give them up
    #[command(subcommand)]
    Inbox(inbox::Inboxes),
    /// Look at how far each source is stored, or move it
    #[command(subcommand)]
    Positions(positions::Positions),
    /// Show what is promised, without any server: one of two daemons is killed half way
    Demo(demo::Arguments),
    /// Measure what these servers can do, and how much of it Sluice takes
    Bench(bench::Arguments),
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Print the completion script of a shell
    Completions(completions::Arguments),
}

/// Why a command did not succeed; each has its exit code.
#[derive(Debug)]
pub enum Failure {
    /// The command could not do what it should, or found that something is wrong.
    Failed(anyhow::Error),
    /// It has been said already.
    Told,
    /// The arguments make no sense together.
    Usage(String),
    /// The configuration cannot be used.
    Configuration(Invalid),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(error) => f.write_str(&telemetry::in_full(error.as_ref())),
            Self::Told => f.write_str("see above"),
            Self::Usage(what) => f.write_str(what),
            Self::Configuration(invalid) => invalid.fmt(f),
        }
    }
}

impl Failure {
    /// Says what is wrong, to standard error, and with which code the process ends.
    pub fn tell(&self) -> ExitCode {
        match self {
            Self::Failed(_) => {
                print::error(&format!("sluice: {self}\n"));
                ExitCode::FAILURE
            }
            Self::Told => ExitCode::FAILURE,
            Self::Usage(_) => {
                print::error(&format!("sluice: {self}\n"));
                ExitCode::from(2)
            }
            Self::Configuration(invalid) => {
                tell_invalid(invalid);
                ExitCode::from(BAD_CONFIGURATION)
            }
        }
    }
}

/// `EX_CONFIG` of sysexits.
const BAD_CONFIGURATION: u8 = 78;

fn tell_invalid(invalid: &Invalid) {
    match invalid {
        Invalid::Unreadable { .. } => print::error(&format!("sluice: {invalid}\n")),
        Invalid::Mistaken(report) => tell_report(report),
    }
}

fn tell_report(report: &Report) {
    let look = if print::errors_are_read_by_people() {
        Look::Graphical
    } else {
        Look::Plain
    };
    print::error(&report.render(look));
}

/// Does what the command line says.
///
/// # Errors
/// With which exit code the process ends, and what is to be said.
pub fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let Cli { globals, command } = cli;
    match command {
        Command::Run(arguments) => block_on(run::run(&globals, &arguments)),
        Command::Check(arguments) => block_on(check::check(&globals, &arguments)),
        Command::Migrate(arguments) => block_on(migrate::migrate(&globals, &arguments)),
        Command::Inbox(command) => block_on(inbox::inbox(&globals, command)),
        Command::Positions(command) => block_on(positions::positions(&globals, command)),
        Command::Demo(arguments) => block_on(demo::demo(&globals, &arguments)),
        Command::Bench(arguments) => block_on(bench::bench(&globals, &arguments)),
        Command::Schema => schema::schema(),
        Command::Completions(arguments) => completions::completions(&arguments),
    }
}

fn block_on(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(command);
    // What still runs is not waited for: the bridge has drained, and the other commands own nothing.
    runtime.shutdown_background();
    ended
}

impl Globals {
    /// The file that was named, or the first one that is there.
    fn path(&self) -> PathBuf {
        let named = self.config.clone();
        named.unwrap_or_else(|| {
            let usual = [
                Path::new("sluice.toml"),
                Path::new("/etc/sluice/sluice.toml"),
            ];
            let there = usual.iter().find(|path| path.exists());
            there.unwrap_or(&usual[0]).to_path_buf()
        })
    }

    /// The configuration, whose warnings are the caller's to tell.
    fn load(&self) -> Result<(Config, Report), Failure> {
        self.loaded(Config::load(&self.path()))
    }

    /// For a command that uses these sections alone, where variables of the others need not be set.
    fn load_for(&self, sections: &[&str]) -> Result<Config, Failure> {
        let (config, _) = self.loaded(Config::load_for(sections, &self.path()))?;
        Ok(config)
    }

    fn loaded<T>(&self, loaded: Result<T, Invalid>) -> Result<T, Failure> {
        loaded.map_err(|invalid| match invalid {
            Invalid::Unreadable { cause, .. }
                if self.config.is_none() && cause.kind() == std::io::ErrorKind::NotFound =>
            {
                Failure::Usage(
                    "there is neither ./sluice.toml nor /etc/sluice/sluice.toml: name a file with -c"
                        .to_owned(),
                )
            }
            invalid => Failure::Configuration(invalid),
        })
    }

    /// The filter of the log, or this one where the command line and the environment name none.
    fn log_filter(&self, otherwise: &str) -> Result<EnvFilter, Failure> {
        let named = self.log_level.as_deref().filter(|level| !level.is_empty());
        telemetry::filter(named.unwrap_or(otherwise)).map_err(Failure::Usage)
    }

    /// Logs warnings only, for commands that answer on standard output.
    fn log_quietly(&self) -> Result<(), Failure> {
        let filter = self.log_filter("off,sluice=warn")?;
        let format = self.log_format.unwrap_or_default();
        telemetry::init(filter, format, crate::http::Problems::default())?;
        Ok(())
    }
}

/// What a command needs that works on the inbox alone.
const OF_INBOX: [&str; 2] = ["inbox", "node"];

/// Runs a body on whichever database the inbox is: the one place of the command line that knows them all.
macro_rules! on_inbox {
    ($config:expr, |$inbox:ident| $body:expr) => {{
        match $crate::bridge::parts::open_inbox(&$config.inbox, &$config.node.name)? {
            $crate::bridge::parts::AnyInbox::Postgres($inbox) => $body,
            $crate::bridge::parts::AnyInbox::Sqlite($inbox) => $body,
        }
    }};
}
use on_inbox;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        super::Cli::command().debug_assert();
    }
}
