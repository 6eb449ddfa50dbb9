//! `sluice inbox list|show|redrive|discard`.

use std::process::ExitCode;

use anyhow::anyhow;
use clap::{Args, Subcommand};

use super::choice::{self, Choice};
use super::{Failure, Globals, OF_INBOX, on_inbox, print, rows};
use crate::inbox::{Filter, Inbox, RowId, RowView, StateName};

#[derive(Debug, Subcommand)]
pub enum Inboxes {
    /// List rows, the newest first
    List(List),
    /// Show everything about one row, with its payload and headers
    Show(Show),
    /// Make dead and waiting rows due now, with fresh attempts
    Redrive(Redrive),
    /// Give up dead and waiting rows: they are done, and their keys stay taken for the retention
    Discard(Discard),
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  sluice inbox list --state dead
  sluice inbox list --route payment-received --reason no_subscription --since 2h
  sluice inbox list --key p-4711 --json
  sluice inbox list --state dead --json | jq -r '.[].id'")]
pub struct List {
    #[command(flatten)]
    choice: Choice,
    /// How many rows at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    limit: i64,
    /// Go on after this row, the last one of an earlier list
    #[arg(long, value_name = "ID", value_parser = choice::row_id)]
    before: Option<RowId>,
    /// Print a JSON list
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Show {
    /// The row's id, as `sluice inbox list` shows it
    #[arg(value_name = "ID", value_parser = choice::row_id)]
    id: RowId,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
A row is decoded again by the configuration as it is now, so mend the mapping first. Its dedup key still \
counts. Look at an `in_doubt` row's instance before you redrive it: nothing proves whether it had its effect.

Examples:
  sluice inbox redrive 0198c6f2-7d1a-7f3e-b4a4-5b8c2f0e9d11
  sluice inbox redrive --state dead --reason mapping --route payment-received --dry-run
  sluice inbox redrive --state waiting --reason retry")]
pub struct Redrive {
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  sluice inbox discard 0198c6f2-7d1a-7f3e-b4a4-5b8c2f0e9d11
  sluice inbox discard --state dead --reason not_json --since 1h --dry-run")]
pub struct Discard {
    #[command(flatten)]
    change: Change,
}

/// Which rows to change, and whether to.
#[derive(Debug, Args)]
struct Change {
    /// Rows by their ids
    #[arg(value_name = "ID", value_parser = choice::row_id)]
    ids: Vec<RowId>,
    #[command(flatten)]
    choice: Choice,
    /// How many rows at most, the newest first [default: all that were chosen]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    limit: Option<i64>,
    /// Every dead and waiting row; needed when nothing else chooses
    #[arg(long)]
    all: bool,
    /// Only say how many rows it would be
    #[arg(long)]
    dry_run: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// What was or would be done.
#[derive(Debug, serde::Serialize)]
struct Changed {
    rows: u64,
    dry_run: bool,
}

/// Rows that one look of a dry run takes.
const PAGE: i64 = 1_000;

pub async fn inbox(globals: &Globals, command: Inboxes) -> Result<ExitCode, Failure> {
    globals.log_quietly()?;
    // What makes no sense is said before anything is read.
    let command = Intent::of(command)?;
    let config = globals.load_for(&OF_INBOX)?;
    on_inbox!(config, |inbox| {
        // Else the database would only say that it knows no such table.
        if let Some(obstacle) = inbox.schema_status().await?.obstacle() {
            return Err(anyhow!(obstacle).into());
        }
        command.carry_out(&inbox).await
    })
}

/// A command whose arguments make sense.
enum Intent {
    List(List),
    Show(Show),
    Change {
        verb: Verb,
        filter: Filter,
        dry_run: bool,
        json: bool,
    },
}

#[derive(Clone, Copy)]
enum Verb {
    Redrive,
    Discard,
}

impl Intent {
    fn of(command: Inboxes) -> Result<Self, Failure> {
        match command {
            Inboxes::List(arguments) => Ok(Self::List(arguments)),
            Inboxes::Show(arguments) => Ok(Self::Show(arguments)),
            Inboxes::Redrive(Redrive { change }) => change.intent(Verb::Redrive),
            Inboxes::Discard(Discard { change }) => change.intent(Verb::Discard),
        }
    }

    async fn carry_out<I: Inbox>(self, inbox: &I) -> Result<ExitCode, Failure> {
        let (verb, filter, dry_run, json) = match self {
            Self::List(arguments) => return list(inbox, arguments).await,
            Self::Show(arguments) => return show(inbox, &arguments).await,
            Self::Change {
                verb,
                filter,
                dry_run,
                json,
            } => (verb, filter, dry_run, json),
        };
        let rows = match verb {
            _ if dry_run => count(inbox, filter).await?,
            Verb::Redrive => inbox.redrive(&filter).await?,
            Verb::Discard => inbox.discard(&filter).await?,
        };
        tell(verb, &Changed { rows, dry_run }, json)
    }
}

async fn list<I: Inbox>(inbox: &I, arguments: List) -> Result<ExitCode, Failure> {
    let filter = Filter {
        before: arguments.before,
        limit: arguments.limit,
        ..arguments.choice.filter()
    };
    let found = inbox.list(&filter, false).await?;
    if arguments.json {
        print::json(&found)?;
    } else {
        print::out(&rows::table(&found))?;
        if i64::try_from(found.len()) == Ok(arguments.limit)
            && let Some(last) = found.last()
        {
            print::error(&format!("there may be more: --before {}\n", last.id));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn show<I: Inbox>(inbox: &I, arguments: &Show) -> Result<ExitCode, Failure> {
    let filter = Filter {
        ids: vec![arguments.id],
        limit: 1,
        ..Filter::default()
    };
    let rows = inbox.list(&filter, true).await?;
    let row = rows
        .first()
        .ok_or_else(|| anyhow!("there is no row {}", arguments.id))?;
    if arguments.json {
        print::json(row)?;
    } else {
        print::out(&rows::one(row))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How many rows a change would change: only dead and waiting ones.
async fn count<I: Inbox>(inbox: &I, filter: Filter) -> Result<u64, Failure> {
    let wanted = match filter.limit {
        0 => u64::MAX,
        limit => limit.unsigned_abs(),
    };
    let changeable = |row: &&RowView| matches!(row.state, StateName::Dead | StateName::Waiting);
    let mut page = Filter {
        limit: PAGE,
        ..filter
    };
    let mut rows = 0;
    while rows < wanted {
        let found = inbox.list(&page, false).await?;
        rows += found.iter().filter(changeable).count() as u64;
        match found.last() {
            Some(last) if i64::try_from(found.len()) == Ok(PAGE) => page.before = Some(last.id),
            _ => break,
        }
    }
    Ok(rows.min(wanted))
}

fn tell(verb: Verb, changed: &Changed, json: bool) -> Result<ExitCode, Failure> {
    let Changed { rows, dry_run } = changed;
    if json {
        print::json(changed)?;
    } else {
        let noun = if *rows == 1 { "row" } else { "rows" };
        let would = if *dry_run { "would be " } else { "" };
        let done = match verb {
            Verb::Redrive => "redriven",
            Verb::Discard => "discarded",
        };
        print::out(&format!("{rows} {noun} {would}{done}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Change {
    fn intent(self, verb: Verb) -> Result<Intent, Failure> {
        let chosen = !self.ids.is_empty() || !self.choice.is_empty();
        if !chosen && !self.all {
            return Err(Failure::Usage(
                "nothing says which rows: give ids, a filter such as --reason, or --all".to_owned(),
            ));
        }
        if let Some(why) = self.choice.state().and_then(unchangeable) {
            let can = match verb {
                Verb::Redrive => "redriven",
                Verb::Discard => "discarded",
            };
            return Err(Failure::Usage(format!(
                "only dead and waiting rows can be {can}: {why}"
            )));
        }
        Ok(Intent::Change {
            verb,
            filter: Filter {
                ids: self.ids,
                limit: self.limit.unwrap_or(0),
                ..self.choice.filter()
            },
            dry_run: self.dry_run,
            json: self.json,
        })
    }
}

/// Why an operator cannot change rows in this state.
fn unchangeable(state: StateName) -> Option<&'static str> {
    match state {
        StateName::Dead | StateName::Waiting => None,
        StateName::Handed => Some(
            "a handed row's job is in the engine, which will run it or is seen to have lost it",
        ),
        StateName::Done => Some("a done row had its effect"),
        StateName::Other => Some("only a newer version of Sluice knows this state"),
    }
}
