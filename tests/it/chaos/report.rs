//! The figures of a run: what broke, what was sent, what came of it, how soon. For people and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::checker::{Times, Verdict};
use super::faults::Event;
use super::producer::Sent;
use crate::daemon::Metrics;

/// What the daemons measured themselves, in `sluice_recovery_seconds`.
#[derive(Debug, Default, Clone)]
pub struct Recovery {
    sweeps: BTreeMap<&'static str, Histogram>,
}

#[derive(Debug, Default, Clone)]
struct Histogram {
    rows: f64,
    /// Upper limit and rows up to it.
    buckets: Vec<(f64, f64)>,
}

impl Recovery {
    const SWEEPS: [&str; 3] = ["wake", "due", "confirm"];

    /// One process, at the end of its life.
    pub fn add(&mut self, metrics: &Metrics) {
        for sweep in Recovery::SWEEPS {
            let labels = [("sweep", sweep)];
            let rows = metrics.sum("sluice_recovery_seconds_count", &labels);
            let buckets = metrics.buckets("sluice_recovery_seconds", &labels);
            let histogram = self.sweeps.entry(sweep).or_default();
            histogram.merge(rows, &buckets);
        }
    }

    pub fn join(&mut self, other: &Recovery) {
        for (sweep, histogram) in &other.sweeps {
            let all = self.sweeps.entry(sweep).or_default();
            all.merge(histogram.rows, &histogram.buckets);
        }
    }

    fn spreads(&self) -> BTreeMap<String, Spread> {
        let spread =
            |(sweep, histogram): (&&str, &Histogram)| ((*sweep).to_owned(), histogram.spread());
        self.sweeps.iter().map(spread).collect()
    }
}

impl Histogram {
    fn merge(&mut self, rows: f64, buckets: &[(f64, f64)]) {
        self.rows += rows;
        if self.buckets.is_empty() {
            self.buckets = buckets.to_vec();
            return;
        }
        for (all, one) in self.buckets.iter_mut().zip(buckets) {
            all.1 += one.1;
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of rows"
    )]
    fn spread(&self) -> Spread {
        Spread {
            count: self.rows as usize,
            p50: self.quantile(0.50),
            p99: self.quantile(0.99),
            max: self.quantile(1.0),
        }
    }

    /// By interpolation within a bucket, as Prometheus does; beyond the largest one, its limit.
    fn quantile(&self, part: f64) -> f64 {
        let wanted = part * self.rows;
        let (mut from, mut below) = (0.0, 0.0);
        for &(limit, count) in &self.buckets {
            if count >= wanted && count > below {
                return from + (limit - from) * (wanted - below) / (count - below);
            }
            (from, below) = (limit, count);
        }
        from
    }
}

/// Seconds at the middle, at the hundredth of a hundred, and the longest.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub count: usize,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Spread {
    /// Of sorted seconds.
    fn of(sorted: &[f64]) -> Spread {
        let at = |percent: usize| {
            let last = sorted.len().saturating_sub(1);
            sorted.get(last * percent / 100).copied().unwrap_or(0.0)
        };
        Spread {
            count: sorted.len(),
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }
}

/// Everything that a run tells.
#[derive(Debug, Serialize)]
pub struct Figures {
    pub seed: u64,
    pub commit: String,
    /// What the daemons' second build is.
    pub other_build: String,
    pub seconds: u64,
    pub rounds: u64,
    pub faults: BTreeMap<String, usize>,
    pub faults_total: usize,
    /// How often Kafka was restarted because the coordinator of a group let nobody in: a defect of it.
    pub kafka_restarts: usize,
    /// Sends that the brokers confirmed, duplicates included.
    pub messages: usize,
    pub unique: usize,
    pub duplicates: usize,
    /// Sends that were not confirmed and so repeated: the broker may have them twice, too.
    pub unconfirmed: usize,
    /// Messages that were sent before the one that places their order.
    pub reordered: usize,
    pub lost: usize,
    pub doubled: usize,
    pub out_of_order: usize,
    pub stranded: usize,
    /// Rows that used an attempt: none should, as nothing but outages stood in their way.
    pub attempted: usize,
    pub residue: usize,
    /// Rows that each sweep took up, by the daemons' own histogram: how long after they could have gone on.
    pub recovery: BTreeMap<String, Spread>,
    /// From the beginning of each fault to the next effect of any message, by the engine's history.
    pub next_effect: BTreeMap<String, Spread>,
    /// From the broker's confirmation (of the order, where that came later) to the effect.
    pub delivered: Spread,
}

/// What happened in a run.
pub struct Story<'a> {
    pub events: &'a [Event],
    pub sent: &'a Sent,
    pub verdict: &'a Verdict,
    pub times: &'a Times,
    pub recovery: &'a Recovery,
}

impl Figures {
    pub fn of(story: &Story<'_>) -> Figures {
        let Story {
            events,
            sent,
            verdict,
            times,
            recovery,
        } = story;
        let mut faults = BTreeMap::new();
        let mut next: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for event in *events {
            *faults.entry(event.kind.name()).or_insert(0) += 1;
            let after = times.effects.partition_point(|&at| at <= event.at);
            if let Some(effect) = times.effects.get(after) {
                next.entry(event.kind.name())
                    .or_default()
                    .push(effect - event.at);
            }
        }
        let spread = |(kind, mut seconds): (String, Vec<f64>)| {
            seconds.sort_by(f64::total_cmp);
            (kind, Spread::of(&seconds))
        };
        Figures {
            seed: 0,
            commit: String::new(),
            other_build: String::new(),
            seconds: 0,
            rounds: 0,
            kafka_restarts: 0,
            faults_total: events.len(),
            faults,
            messages: sent.sends,
            unique: sent.messages.len(),
            duplicates: sent.sends - sent.messages.len(),
            unconfirmed: sent.repeated,
            reordered: sent.early(),
            lost: verdict.lost.len(),
            doubled: verdict.doubled.len() + verdict.unknown.len(),
            out_of_order: verdict.out_of_order.len(),
            stranded: verdict.stranded.len(),
            attempted: verdict.attempted.len(),
            residue: verdict.residue.len(),
            recovery: recovery.spreads(),
            next_effect: next.into_iter().map(spread).collect(),
            delivered: Spread::of(&times.waited),
        }
    }

    /// A table for people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "seed {}, commit {}, {} s, {} rounds, {} faults\n",
            self.seed, self.commit, self.seconds, self.rounds, self.faults_total
        );
        let mut line = |what: &str, value: String| {
            writeln!(text, "  {what:<28} {value}").expect("a string takes what is written to it");
        };
        for (kind, count) in &self.faults {
            let next = self.next_effect.get(kind).copied().unwrap_or_default();
            let seconds = format!(
                "next effect {:.2} s (p50), {:.2} s (p99)",
                next.p50, next.p99
            );
            line(kind, format!("{count:>4}   {seconds}"));
        }
        line("restarts of a stuck Kafka", self.kafka_restarts.to_string());
        line("sends", self.messages.to_string());
        line("unique", self.unique.to_string());
        line("duplicates", self.duplicates.to_string());
        line("unconfirmed, sent again", self.unconfirmed.to_string());
        line("reordered", self.reordered.to_string());
        line("lost", self.lost.to_string());
        line("doubled", self.doubled.to_string());
        line("out of order", self.out_of_order.to_string());
        line("rows that nobody drives", self.stranded.to_string());
        line("rows that used an attempt", self.attempted.to_string());
        line("left in the engine", self.residue.to_string());
        let spread = |of: &Spread| {
            let Spread {
                count,
                p50,
                p99,
                max,
            } = of;
            format!("{p50:.2} s (p50), {p99:.2} s (p99), {max:.2} s (longest) of {count}")
        };
        for (sweep, recovery) in &self.recovery {
            line(&format!("taken up by {sweep}"), spread(recovery));
        }
        line("confirmed to effect", spread(&self.delivered));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{Histogram, Spread};

    #[test]
    fn quantiles_of_a_histogram_lie_within_their_bucket() {
        let mut recovery = Histogram::default();
        recovery.merge(4.0, &[(1.0, 2.0), (2.0, 4.0)]);
        recovery.merge(4.0, &[(1.0, 2.0), (2.0, 4.0)]);
        assert!((recovery.quantile(0.5) - 1.0).abs() < 1e-9);
        assert!((recovery.quantile(0.75) - 1.5).abs() < 1e-9);
        assert!(Histogram::default().quantile(0.5).abs() < 1e-9);
    }

    #[test]
    fn the_longest_is_the_last() {
        let seconds: Vec<f64> = (0..=100).map(f64::from).collect();
        let spread = Spread::of(&seconds);
        assert_eq!((spread.p50, spread.p99, spread.max), (50.0, 99.0, 100.0));
        assert_eq!(Spread::of(&[]), Spread::default());
    }
}
