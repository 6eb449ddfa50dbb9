//! What `sluice positions set` asks of the broker: bounds, members, and the group's own offset.
//!
//! Joins no group. Every question blocks on a thread of its own.

use std::str::FromStr;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};

use super::Kafka;
use super::begin::Position;
use super::context::Context;
use super::fault;
use super::poll::{self, Plan};
use super::shared::list;
use super::witness::{self, Wanted};
use crate::position::{Mark, Partition};
use crate::source::SourceError;

/// Where a partition shall be read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    Offset(i64),
    /// The oldest record that the broker has.
    Earliest,
    /// Behind the newest.
    Latest,
}

impl FromStr for To {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            number => match number.parse() {
                Ok(offset @ 0..) => Ok(Self::Offset(offset)),
                _ => Err("expected an offset, `earliest` or `latest`"),
            },
        }
    }
}

/// A partition, and where it shall be read from.
#[derive(Debug, Clone)]
pub struct Reading {
    pub partition: Partition,
    pub at: i64,
    /// The record before it.
    pub mark: Option<Mark>,
}

impl Kafka {
    /// One partition of a topic, or all of them, with the offsets that `to` means there.
    ///
    /// # Errors
    /// The broker's, a partition that is not there, an offset that it does not have.
    pub async fn readings(
        &self,
        topic: &str,
        partition: Option<i32>,
        to: To,
    ) -> Result<Vec<Reading>, SourceError> {
        let (topic, source) = (topic.to_owned(), self.name.to_string());
        let group_id = self.config.group_id.clone();
        let client = self.config.client(&self.client_name).await?;
        self.ask(move |consumer| {
            let limit = consumer.context().limit;
            let count = poll::partitions(consumer, &topic, limit.0)?;
            let all = 0..i32::try_from(count).unwrap_or(i32::MAX);
            if let Some(missing) = partition.filter(|partition| !all.contains(partition)) {
                let what = format!("topic {topic:?} has {count} partitions, and no {missing}");
                return Err(SourceError::new(what));
            }
            let cluster = consumer.client().fetch_cluster_id(limit.0);
            let cluster_id = cluster
                .ok_or_else(|| SourceError::new("the broker does not say its cluster's id"))?;
            let mut readings = Vec::new();
            for number in all.filter(|number| partition.is_none_or(|wanted| wanted == *number)) {
                let at = resolve(consumer, &topic, number, to)?;
                let partition = Partition {
                    cluster_id: cluster_id.clone(),
                    group_id: group_id.clone(),
                    source: source.clone(),
                    topic: topic.clone(),
                    number,
                };
                readings.push((
                    Reading {
                        partition,
                        at: at.offset,
                        mark: None,
                    },
                    at.low,
                ));
            }
            let before = |(reading, low): &(Reading, i64)| {
                (reading.at > *low).then(|| Wanted {
                    topic: topic.clone(),
                    partition: reading.partition.number,
                    offset: reading.at - 1,
                })
            };
            let wanted: Vec<Wanted> = readings.iter().filter_map(before).collect();
            let seen = witness::records(&client, &wanted, limit)?;
            let marked = |(reading, _): (Reading, i64)| Reading {
                mark: seen
                    .get(&(topic.clone(), reading.partition.number))
                    .and_then(|seen| seen.first().copied()),
                ..reading
            };
            Ok(readings.into_iter().map(marked).collect())
        })
        .await
    }

    /// How many members the group has now. One of the protocol `consumer` does not tell; but its broker
    /// refuses to move it.
    ///
    /// # Errors
    /// The broker's.
    pub async fn members(&self) -> Result<usize, SourceError> {
        let group = self.config.group_id.clone();
        self.ask(move |consumer| {
            let limit = consumer.context().limit;
            let groups = consumer
                .fetch_group_list(Some(&group), limit.0)
                .map_err(|cause| {
                    SourceError::new("cannot read the group's members").because(cause)
                })?;
            Ok(groups
                .groups()
                .iter()
                .map(|group| group.members().len())
                .sum())
        })
        .await
    }

    /// Sets the group's own offsets, which the broker refuses while the group has members.
    ///
    /// # Errors
    /// The broker's.
    pub async fn move_group(&self, readings: &[Reading]) -> Result<(), SourceError> {
        let position = |reading: &Reading| Position {
            topic: reading.partition.topic.clone(),
            partition: reading.partition.number,
            offset: reading.at,
            since: Some(reading.at),
        };
        let positions: Vec<Position> = readings.iter().map(position).collect();
        self.ask(move |consumer| {
            let committed = list(&positions)
                .and_then(|positions| consumer.commit(&positions, CommitMode::Sync));
            committed.map_err(|cause| {
                let what =
                    "the broker does not move the group, as it does while the group has members";
                SourceError::new(what).because(cause)
            })
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&BaseConsumer<Context>) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let Plan {
            client, context, ..
        } = self.plan().await?;
        let asking = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer<Context> = client
                .create_with_context(context)
                .map_err(|cause| fault::refused(cause).needs_operator())?;
            question(&consumer)
        });
        asking
            .await
            .map_err(|cause| SourceError::new("asking the broker panicked").because(cause))?
            .map_err(|error| self.at(error))
    }
}

/// An offset, and the first one that the broker has.
struct Resolved {
    offset: i64,
    low: i64,
}

fn resolve(
    consumer: &BaseConsumer<Context>,
    topic: &str,
    partition: i32,
    to: To,
) -> Result<Resolved, SourceError> {
    let limit = consumer.context().limit;
    let (low, high) = consumer
        .fetch_watermarks(topic, partition, limit.0)
        .map_err(|cause| {
            SourceError::new(format!("cannot read the bounds of {topic}/{partition}"))
                .because(cause)
        })?;
    let offset = match to {
        To::Earliest => low,
        To::Latest => high,
        To::Offset(offset) if (low..=high).contains(&offset) => offset,
        To::Offset(offset) => {
            return Err(SourceError::new(format!(
                "{topic}/{partition} has no offset {offset}: expected one from {low} to {high}"
            )));
        }
    };
    Ok(Resolved { offset, low })
}
