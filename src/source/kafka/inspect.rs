//! What `sluice check --connect` says about a Kafka source: topics, how far the group has read, retention.

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::MetadataTopic;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::config::{KafkaConfig, Start};
use super::context::Context;
use super::fault;
use super::pattern;
use super::poll::{self, Plan};
use crate::finding::Finding;
use crate::source::SourceError;
use crate::units::Span;

/// Asks without joining the group.
pub(super) async fn look(
    config: &KafkaConfig,
    plan: Plan,
    key_retention: Option<Span>,
) -> Result<Vec<Finding>, SourceError> {
    let client = plan.client.clone();
    let limit = config.connect_timeout;
    let group = config.group_id.clone();
    let asking = tokio::task::spawn_blocking(move || positions(plan, &group));
    let (topics, mut findings) = asking
        .await
        .map_err(|cause| SourceError::new("asking the broker panicked").because(cause))??;
    findings.push(Finding::info(format!(
        "at most {} are in memory, and one fetch response for each broker",
        config.prefetch
    )));
    if let Some(keys) = key_retention {
        findings.extend(retention(&client, &topics, keys, limit).await);
    }
    Ok(findings)
}

/// Blocks: the client answers in no other way, and blocks when it is dropped.
fn positions(plan: Plan, group: &str) -> Result<(Vec<String>, Vec<Finding>), SourceError> {
    let (limit, start) = (plan.context.limit, plan.context.start);
    let consumer: BaseConsumer<Context> = plan
        .client
        .create_with_context(plan.context)
        .map_err(|cause| fault::refused(cause).needs_operator())?;
    let (mut topics, mut findings) = (Vec::new(), Vec::new());
    for topic in &plan.topics {
        if pattern::is_pattern(topic) {
            let (matching, finding) = matching(&consumer, topic, limit)?;
            topics.extend(matching);
            findings.push(finding);
        } else {
            topics.push(topic.clone());
        }
    }
    for topic in &topics {
        let partitions = poll::partitions(&consumer, topic, limit.0)?;
        let progress = progress(&consumer, topic, partitions, group, limit)?;
        findings.push(progress.told(start));
    }
    Ok((topics, findings))
}

/// The topics that a pattern means now.
fn matching(
    consumer: &BaseConsumer<Context>,
    pattern: &str,
    limit: Span,
) -> Result<(Vec<String>, Finding), SourceError> {
    let all = poll::metadata(consumer, None, limit.0)?;
    let names = all.topics().iter().map(MetadataTopic::name);
    let matching = pattern::matching(pattern, names);
    let finding = if matching.is_empty() {
        Finding::warning(format!(
            "pattern {pattern:?} matches no topic that we may see; one that is made later is read"
        ))
    } else {
        let names = matching.join(", ");
        Finding::info(format!("pattern {pattern:?} matches {names}"))
    };
    Ok((matching, finding))
}

fn progress(
    consumer: &BaseConsumer<Context>,
    topic: &str,
    partitions: usize,
    group: &str,
    limit: Span,
) -> Result<Progress, SourceError> {
    let asked = |cause| {
        SourceError::new(format!("cannot read the offsets of topic {topic:?}")).because(cause)
    };
    let mut asking = TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions).unwrap_or(i32::MAX) {
        asking.add_partition(topic, partition);
    }
    let committed = consumer.committed_offsets(asking, limit.0).map_err(asked)?;
    let (mut known, mut lag) = (0, 0);
    for element in committed.elements() {
        element.error().map_err(asked)?;
        let (low, high) = consumer
            .fetch_watermarks(topic, element.partition(), limit.0)
            .map_err(asked)?;
        let next = match element.offset() {
            Offset::Offset(offset) => {
                known += 1;
                offset
            }
            _ => low,
        };
        lag += high.saturating_sub(next).max(0);
    }
    let said = format!(
        "topic {topic:?} has {partitions} partitions; group {group:?} has committed in {known} of them \
         and is {lag} records behind"
    );
    Ok(Progress { known, lag, said })
}

/// How far a group has come in a topic.
struct Progress {
    /// Partitions in which it has committed an offset.
    known: usize,
    lag: i64,
    said: String,
}

impl Progress {
    fn told(self, start: Start) -> Finding {
        if start == Start::Latest && self.known == 0 && self.lag > 0 {
            let skips = "it has committed nothing, and `start = \"latest\"` will skip them all";
            return Finding::warning(format!("{}: {skips}", self.said));
        }
        Finding::info(self.said)
    }
}

/// A record that is read again after its key was forgotten has a second effect.
async fn retention(
    client: &ClientConfig,
    topics: &[String],
    keys: Span,
    limit: Span,
) -> Vec<Finding> {
    let admin: AdminClient<DefaultClientContext> = match client.create() {
        Ok(admin) => admin,
        Err(_) => return Vec::new(),
    };
    let asked: Vec<ResourceSpecifier<'_>> = topics
        .iter()
        .map(|topic| ResourceSpecifier::Topic(topic))
        .collect();
    let options = AdminOptions::new().request_timeout(Some(limit.0));
    let told = match admin.describe_configs(&asked, &options).await {
        Ok(told) => told,
        Err(cause) => {
            return vec![Finding::warning(format!(
                "cannot read how long the topics keep their records: {cause}"
            ))];
        }
    };
    let told = topics.iter().zip(told);
    told.filter_map(|(topic, told)| outlives(topic, &told.ok()?, keys))
        .collect()
}

fn outlives(topic: &str, config: &ConfigResource, keys: Span) -> Option<Finding> {
    let value = |name| config.get(name).and_then(|entry| entry.value.as_deref());
    let deletes = value("cleanup.policy").is_some_and(|policy| policy.contains("delete"));
    let kept_ms: i64 = value("retention.ms")?.parse().ok()?;
    let kept = match u64::try_from(kept_ms) {
        Ok(ms) if deletes => Span::ms(ms).to_string(),
        Ok(_) | Err(_) => "for ever".to_owned(),
    };
    let longer = kept == "for ever" || kept_ms > keys.as_ms();
    longer.then(|| {
        Finding::warning(format!(
            "topic {topic:?} keeps records {kept}, the inbox knows their keys for {keys}: \
             a record that is read again after that has a second effect"
        ))
    })
}
