//! A member of the group that has no partition: it is let in, and has only nothing to do.

use std::sync::LazyLock;
use std::time::Duration;

use sluice::metrics::source_connected;
use sluice::source::Source;

use super::{METRICS, kafka_node, metric, open, produce, settle, take};
use crate::rig::{Rig, unique};

/// A member is outside after three session time-outs.
const LIMITS: &str = "session_timeout = '1s'\nstatistics_interval = '300ms'";

#[tokio::test]
async fn a_spare_member_is_no_outsider() {
    LazyLock::force(&METRICS);
    for protocol in ["classic", "consumer"] {
        let topic = Rig::get().topic(1).await;
        let group = unique();
        let limits = format!("{LIMITS}\ngroup_protocol = '{protocol}'");
        let (busy, spare) = (
            kafka_node(&topic, &group, &limits),
            kafka_node(&topic, &group, &limits),
        );
        let mut reading = open(&busy).await;
        produce(&topic, 0, 0..1).await;
        let taken = take(&mut reading, 1).await;
        settle(&mut reading, taken).await;
        let waiting = open(&spare).await;
        source_connected(spare.name(), true);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let connected = metric("sluice_source_connected", &spare);
        assert_eq!(connected, Some(1.0), "{protocol}");
        waiting.close().await;
        reading.close().await;
    }
}
