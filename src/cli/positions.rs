//! `sluice positions list|set`.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use chrono::{DateTime, SecondsFormat};
use clap::{Args, Subcommand};
use serde::Serialize;
use uuid::Uuid;

use super::{Failure, Globals, OF_INBOX, on_inbox, print};
use crate::config::Config;
use crate::inbox::{Inbox, PositionView};
use crate::position::{Beginning, Stored};
use crate::source::kafka::{Kafka, Reading, To};

#[derive(Debug, Subcommand)]
pub enum Positions {
    /// List how far each Kafka source is stored, partition by partition
    List(List),
    /// Make a Kafka source read on from another offset
    Set(Set),
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
NEXT is the first offset that is not stored; AHEAD counts records that are stored beyond a gap, which a batch \
under way will close. A partition begins at the smaller of NEXT and the group's own offset.

Example:
  sluice positions list --json | jq -r '.[] | select(.topic == \"orders\") | .next_offset'")]
pub struct List {
    /// Print a JSON list
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Sets both the stored position and the group's own offset, because a partition begins at the smaller of the two: \
kafka-consumer-groups --reset-offsets moves a group back by itself, but not forward. What is skipped is not \
stored, and what is read again is known by its dedup key for as long as the retention says.

Stop the daemons first: the broker moves no group that has members. With --force the stored position is set all \
the same, and a running daemon notices within seconds; that moves it back, but not forward.

Examples:
  sluice positions set --source orders --topic orders --to earliest
  sluice positions set --source orders --topic orders --partition 3 --to 123456")]
pub struct Set {
    /// The source, as in the configuration
    #[arg(long, value_name = "NAME")]
    source: String,
    #[arg(long, value_name = "TOPIC")]
    topic: String,
    /// One partition [default: all of the topic]
    #[arg(long, value_name = "N")]
    partition: Option<i32>,
    /// The next offset to read: a number, `earliest` or `latest`
    #[arg(long, value_name = "OFFSET")]
    to: To,
    /// Set the stored position although the group has members
    #[arg(long)]
    force: bool,
    /// Print a JSON list
    #[arg(long)]
    json: bool,
}

/// A position that was set.
#[derive(Debug, Serialize)]
struct Changed {
    topic: String,
    partition: i32,
    /// What was stored, if anything.
    from: Option<i64>,
    to: i64,
    /// The group's own offset was set, too.
    group_moved: bool,
}

pub async fn positions(globals: &Globals, command: Positions) -> Result<ExitCode, Failure> {
    globals.log_quietly()?;
    let config = globals.load_for(match &command {
        Positions::List(_) => &OF_INBOX[..],
        // Which asks the broker.
        Positions::Set(_) => &["inbox", "node", "sources"],
    })?;
    on_inbox!(config, |inbox| match command {
        Positions::List(arguments) => list(&inbox, &arguments).await,
        Positions::Set(arguments) => Box::pin(set(&inbox, &config, arguments)).await,
    })
}

async fn list<I: Inbox>(inbox: &I, arguments: &List) -> Result<ExitCode, Failure> {
    let found = inbox.positions().await?;
    if arguments.json {
        print::json(&found)?;
    } else {
        print::out(&table(&found))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(positions: &[PositionView]) -> String {
    let header = [
        "SOURCE",
        "TOPIC",
        "PARTITION",
        "NEXT",
        "AHEAD",
        "LAST RECORD",
        "CHANGED",
        "GROUP",
        "CLUSTER",
    ];
    let rows = positions.iter().map(|at| {
        let record = at.record_at_ms.and_then(DateTime::from_timestamp_millis);
        let ago = |at: &str| format!("{} ago", print::age(at));
        vec![
            at.source.clone(),
            at.topic.clone(),
            at.partition.to_string(),
            at.next_offset.to_string(),
            at.ahead.to_string(),
            record.map_or_else(String::new, |at| {
                at.to_rfc3339_opts(SecondsFormat::Millis, true)
            }),
            ago(&at.changed_at),
            at.group_id.clone(),
            at.cluster_id.clone(),
        ]
    });
    print::table(&header, rows.collect())
}

async fn set<I: Inbox>(inbox: &I, config: &Config, arguments: Set) -> Result<ExitCode, Failure> {
    if let Some(obstacle) = inbox.schema_status().await?.obstacle() {
        return Err(anyhow!(obstacle).into());
    }
    let kafka = source(config, &arguments.source)?;
    let readings = kafka
        .readings(&arguments.topic, arguments.partition, arguments.to)
        .await?;
    // The broker's own refusal is what counts; asking before makes a better sentence.
    let members = kafka.members().await?;
    if members > 0 && !arguments.force {
        let group = &readings
            .first()
            .map(|reading| reading.partition.group_id.clone());
        let group = group.as_deref().unwrap_or_default();
        let what = format!(
            "group {group:?} has {members} members: stop the daemons first, or give --force"
        );
        return Err(anyhow!(what).into());
    }
    let group_moved = match kafka.move_group(&readings).await {
        Ok(()) => true,
        Err(_) if arguments.force => false,
        Err(error) => return Err(error.into()),
    };
    let changed = write(inbox, readings, group_moved)
        .await
        .context("the group's own offset is set, and the stored position is not")?;
    tell(&changed, arguments.json)?;
    Ok(ExitCode::SUCCESS)
}

/// The source of that name, as the daemon reads it.
fn source(config: &Config, name: &str) -> anyhow::Result<Kafka> {
    let Some((_, source)) = config.sources.iter().find(|(of, _)| *of == name) else {
        bail!("there is no source {name:?} in the configuration");
    };
    let Some(kafka) = &source.kafka else {
        bail!("source {name:?} is no Kafka source: RabbitMQ has no positions");
    };
    Ok(Kafka::new(
        Arc::from(name),
        (**kafka).clone(),
        false,
        "sluice positions",
    ))
}

/// Claims each position, so that whoever had it notices, and begins it anew.
async fn write<I: Inbox>(
    inbox: &I,
    readings: Vec<Reading>,
    group_moved: bool,
) -> anyhow::Result<Vec<Changed>> {
    let claims: Vec<_> = readings
        .iter()
        .map(|reading| (reading.partition.clone(), Uuid::now_v7()))
        .collect();
    let before: Vec<Option<Stored>> = inbox.claim_positions(&claims).await?;
    let beginning = |(reading, (partition, claim)): (&Reading, &(_, Uuid))| Beginning {
        partition: Clone::clone(partition),
        claim: *claim,
        at: reading.at,
        mark: reading.mark,
    };
    let beginnings: Vec<Beginning> = readings.iter().zip(&claims).map(beginning).collect();
    let begun = inbox.begin_positions(&beginnings).await?;
    if begun.iter().any(Option::is_none) {
        bail!("a daemon has claimed a position in the same moment: try again");
    }
    let changed = readings
        .into_iter()
        .zip(before)
        .map(|(reading, before)| Changed {
            topic: reading.partition.topic,
            partition: reading.partition.number,
            from: before.map(|before| before.next),
            to: reading.at,
            group_moved,
        });
    Ok(changed.collect())
}

fn tell(changed: &[Changed], json: bool) -> Result<(), Failure> {
    if json {
        print::json(&changed)?;
        return Ok(());
    }
    for Changed {
        topic,
        partition,
        from,
        to,
        ..
    } in changed
    {
        let from = from.map_or_else(|| "nothing".to_owned(), |from| from.to_string());
        print::out(&format!("{topic}/{partition}: {from} -> {to}\n"))?;
    }
    if changed.iter().any(|changed| !changed.group_moved) {
        print::error(
            "the group has members, so its own offset was not set: they read on from the smaller of the two\n",
        );
    }
    Ok(())
}
