//! The recorder behind the metric macros, and its text for Prometheus.
//!
//! The exporter crate's own HTTP server is left out: our listener serves the text. In return nobody but
//! [`Exporter::upkeep`] empties the histograms' buffers.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use super::catalogue;

/// Commits take a millisecond or a few; a lock wait or a fail-over takes up to a minute.
const SECONDS: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
];

/// An engine looks for jobs once a second when busy and once a minute when idle, and works a burst off
/// in its own time.
const HANDED_SECONDS: &[f64] = &[
    0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0,
];

/// Fine around the two seconds that are promised.
const RECOVERY_SECONDS: &[f64] = &[
    0.05, 0.1, 0.2, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0,
];

const BATCH_MESSAGES: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0,
];

/// Two recorders would share the numbers between them.
#[derive(Debug, thiserror::Error)]
#[error("this process has a metrics recorder already")]
pub struct AlreadyInstalled;

/// A recorder, and the text of what it holds. Clones share it.
#[derive(Clone)]
pub struct Exporter {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    process: metrics_process::Collector,
}

impl Exporter {
    /// A recorder that only [`Exporter::record`] reaches, as a test wants it.
    #[expect(clippy::new_without_default, reason = "a second one is rarely meant")]
    pub fn new() -> Self {
        let recorder = recorder().expect("every list of buckets has some");
        let recorder = Arc::new(recorder);
        let exporter = Self {
            handle: recorder.handle(),
            recorder,
            process: metrics_process::Collector::default(),
        };
        exporter.record(|| {
            catalogue::describe();
            exporter.process.describe();
            super::build_info();
        });
        exporter
    }

    /// Makes a recorder that is the process's; once in a process.
    ///
    /// # Errors
    /// There is one already.
    pub fn install() -> Result<Self, AlreadyInstalled> {
        let exporter = Self::new();
        let recorder = Arc::clone(&exporter.recorder);
        metrics::set_global_recorder(recorder).map_err(|_| AlreadyInstalled)?;
        Ok(exporter)
    }

    /// What is recorded in here goes to this recorder, whatever the process's is.
    pub fn record<T>(&self, recording: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(&*self.recorder, recording)
    }

    /// All metrics in Prometheus' text format, with those of the process.
    pub fn render(&self) -> String {
        self.record(|| self.process.collect());
        self.handle.render()
    }

    /// Empties the histograms' buffers for ever; without it they grow until somebody scrapes.
    pub async fn upkeep(self) {
        let mut every = tokio::time::interval(Duration::from_secs(5));
        loop {
            every.tick().await;
            self.handle.run_upkeep();
        }
    }
}

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let named = |name: &str| Matcher::Full(name.to_owned());
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
        .set_buckets_for_metric(named(catalogue::HANDED_TO_DONE), HANDED_SECONDS)?
        .set_buckets_for_metric(named(catalogue::RECOVERY), RECOVERY_SECONDS)?
        .set_buckets_for_metric(named(catalogue::BATCH_MESSAGES), BATCH_MESSAGES)?;
    Ok(builder.build_recorder())
}
