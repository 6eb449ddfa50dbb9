//! What the demo ends with.

use std::collections::BTreeMap;

use serde::Serialize;

/// The numbers; for programs exactly these.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Records that the broker took, resends too.
    pub sent: u64,
    pub unique: u64,
    pub effects: u64,
    /// By the daemons' count in the database: resends, and what was read again after the kill.
    pub duplicates: u64,
    pub lost: u64,
    pub doubled: u64,
    /// Payments that were sent before their order.
    pub early: u64,
    pub redriven: u64,
    /// As the daemons told it; what the killed one counted after it was last asked is missing.
    pub duplicates_by_cause: BTreeMap<String, u64>,
    pub killed_after_seconds: f64,
    /// From the kill until everything that was sent before it had its effect.
    pub recovery_seconds: Option<f64>,
    pub seed: u64,
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.lost == 0 && self.doubled == 0
    }

    pub fn table(&self) -> String {
        let mut causes: Vec<String> = self
            .duplicates_by_cause
            .iter()
            .map(|(cause, count)| format!("{cause} {count}"))
            .collect();
        let told: u64 = self.duplicates_by_cause.values().sum();
        if let Some(untold @ 1..) = self.duplicates.checked_sub(told) {
            causes.push(format!(
                "and {untold} that the killed daemon met after it was last asked for causes"
            ));
        }
        let recovery = self
            .recovery_seconds
            .map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.1} s"));
        let rows = [
            (
                "sent",
                self.sent.to_string(),
                format!(
                    "records to Kafka, {} of them again",
                    self.sent.saturating_sub(self.unique)
                ),
            ),
            (
                "unique",
                self.unique.to_string(),
                "orders and payments among them: each must have exactly one effect".to_owned(),
            ),
            (
                "effects",
                self.effects.to_string(),
                "rows of an append-only table in which no key is unique".to_owned(),
            ),
            (
                "duplicates",
                self.duplicates.to_string(),
                format!("recognised, without effect: {}", causes.join(", ")),
            ),
            (
                "re-driven",
                self.redriven.to_string(),
                format!(
                    "had to wait, such as {} payments that were sent before their order",
                    self.early
                ),
            ),
            (
                "recovery",
                recovery,
                format!(
                    "from kill -9 after {:.1} s until all that was sent before had its effect",
                    self.killed_after_seconds
                ),
            ),
            (
                "lost",
                self.lost.to_string(),
                "sent, without any effect".to_owned(),
            ),
            (
                "doubled",
                self.doubled.to_string(),
                "effects beyond the first of a message".to_owned(),
            ),
        ];
        let mut text = String::from("\n");
        for (name, number, note) in rows {
            let line = format!("  {name:<10}  {number:>8}  {note}");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}
