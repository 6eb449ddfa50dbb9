//! `sluice migrate`.

use std::process::ExitCode;

use clap::Args;

use super::{Failure, Globals, OF_INBOX, on_inbox, print};
use crate::inbox::Inbox;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Run it as the role that owns Sluice's tables, or may create their schema; the daemon's own role needs neither. \
Then deploy/grants.sql gives that role its rights, after every migration. Any number of processes may do this at \
once; one of them does the work. The schema of version N+1 carries daemons of version N, so migrate first and \
update the daemons after it.

Example:
  DATABASE_URL=postgres://owner@db/engine sluice migrate -c sluice.toml")]
pub struct Arguments {
    /// Print a JSON list of the steps
    #[arg(long)]
    json: bool,
}

pub async fn migrate(globals: &Globals, arguments: &Arguments) -> Result<ExitCode, Failure> {
    globals.log_quietly()?;
    let config = globals.load_for(&OF_INBOX)?;
    let steps = on_inbox!(config, |inbox| inbox.migrate().await?);
    if arguments.json {
        print::json(&steps)?;
    } else if steps.is_empty() {
        print::out("nothing to do: the tables are up to date\n")?;
    } else {
        print::out(&format!("{}\n", steps.join("\n")))?;
    }
    Ok(ExitCode::SUCCESS)
}
