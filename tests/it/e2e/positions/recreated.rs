//! A topic that was deleted and made again, or has lost records: others are read from the beginning, whoever reads.

use super::{config, each_has_one_effect, ids, ledger, payload, positions, produce};
use crate::daemon::{Daemon, LIMIT, Signal};
use crate::rig::{Database, Rig, Topic, eventually};

#[tokio::test]
async fn a_recreated_topic_is_read_from_its_beginning() {
    // Fewer records than the old topic had, and more.
    for count in [10, 40] {
        let rig = Rig::get();
        let topic = rig.topic(1).await;
        let database = rig.database().await;
        ledger(&database).await;
        let mut daemon = Daemon::start(&config(&database, &topic), &[]).await;
        let old = ids("old", 0..25);
        produce(&topic, &old).await;
        topic.wait_until_committed(topic.name(), LIMIT).await;
        daemon.stop().await;

        topic.delete().await;
        topic.create().await;
        let new = ids("new", 0..count);
        produce(&topic, &new).await;
        daemon.restart(&[]).await;
        each_has_one_effect(&database, &[old, new].concat()).await;
        let recreated = "sluice_kafka_topic_recreated_total";
        assert_eq!(daemon.count(recreated, &[("source", "orders")]).await, 1);
        topic.wait_until_committed(topic.name(), LIMIT).await;

        // Once: from here on the position is about the new topic.
        daemon.stop().await;
        daemon.restart(&[]).await;
        let newer = ids("newer", 0..5);
        produce(&topic, &newer).await;
        topic.wait_until_committed(topic.name(), LIMIT).await;
        assert_eq!(daemon.count(recreated, &[("source", "orders")]).await, 0);
        daemon.stop().await;
    }
}

/// While the daemon runs, and so quickly that it finds as many records as it had read, or more.
#[tokio::test]
async fn a_topic_that_is_recreated_under_its_reader_is_read_from_its_beginning() {
    let recreated_under_its_reader = async |more: usize| {
        let rig = Rig::get();
        let topic = rig.topic(1).await;
        let database = rig.database().await;
        ledger(&database).await;
        let daemon = Daemon::start(&config(&database, &topic), &[]).await;
        let old = until_the_anchor_has_moved(&topic, 0, &database).await;
        topic.wait_until_committed(topic.name(), LIMIT).await;

        daemon.signal(Signal::Stop);
        topic.delete().await;
        topic.create().await;
        let count = old.len() + more;
        let new = ids("new", 0..count);
        produce(&topic, &new).await;
        daemon.signal(Signal::Cont);
        each_has_one_effect(&database, &[old, new].concat()).await;
        let recreated = "sluice_kafka_topic_recreated_total";
        assert_eq!(daemon.count(recreated, &[("source", "orders")]).await, 1);

        // And goes on in the new one.
        let newer = ids("newer", 0..5);
        produce(&topic, &newer).await;
        topic.wait_until_committed(topic.name(), LIMIT).await;
        let next = i64::try_from(count).unwrap() + 5;
        assert_eq!(positions(&daemon).await, [next]);
        daemon.stop().await;
    };
    tokio::join!(
        recreated_under_its_reader(0),
        recreated_under_its_reader(15)
    );
}

/// Of one partition nothing is left to look at; the look at the other goes on.
#[tokio::test]
async fn a_record_that_is_gone_makes_no_other_topic() {
    let topic = Rig::get().topic(2).await;
    let database = Rig::get().database().await;
    ledger(&database).await;
    let daemon = Daemon::start(&config(&database, &topic), &[]).await;
    for number in 0..3 {
        let payload = payload(&format!("gone-{number}"));
        topic.produce_to(0, None, &[], &payload).await;
    }
    topic.wait_until_committed(topic.name(), LIMIT).await;
    topic.truncate(0, 3).await;
    until_the_anchor_has_moved(&topic, 1, &database).await;
    daemon.stop().await;
    let log = daemon.log();
    assert!(!log.contains("WARN sluice::source::kafka"), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}

/// Produces records until one behind the first is what the inbox knows the partition by.
async fn until_the_anchor_has_moved(
    topic: &Topic,
    partition: i32,
    database: &Database,
) -> Vec<String> {
    let pool = database.pool().await;
    let mut old = Vec::new();
    eventually("a look at the topic", LIMIT, async || {
        let id = format!("old-{:03}", old.len());
        topic.produce_to(partition, None, &[], &payload(&id)).await;
        old.push(id);
        let anchor = "SELECT anchor_offset FROM sluice.source_position WHERE partition = $1";
        let anchor: Option<Option<i64>> = sqlx::query_scalar(anchor)
            .bind(partition)
            .fetch_optional(&pool)
            .await
            .unwrap();
        anchor.flatten().filter(|anchor| *anchor > 0)
    })
    .await;
    pool.close().await;
    old
}
