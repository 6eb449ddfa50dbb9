//! What was measured: lines of figures, and what is wanted of them. A table for people, JSON for programs.
//!
//! Invariant: the keys of the JSON are the constants that the lines are made with; a figure that was not
//! measured is absent, never zero.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::settings::Settings;
use crate::cli::print;

/// One thing that was measured.
#[derive(Debug, Clone)]
pub struct Line {
    /// The key in the JSON, and how people call it.
    pub name: &'static str,
    /// The figure that people look at first, with its unit.
    pub headline: String,
    /// How it came about, for people.
    pub how: String,
    /// Every figure under its key, which ends with its unit.
    pub figures: Vec<(&'static str, f64)>,
}

impl Line {
    /// The figure of this key.
    fn figure(&self, key: &str) -> Option<f64> {
        let found = self.figures.iter().find(|(own, _)| *own == key);
        found.map(|(_, value)| *value)
    }
}

/// What a figure, or a ratio of two, should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {bound}"),
            Self::AtMost(bound) => format!("≤ {bound}"),
        }
    }

    fn json(self) -> (&'static str, f64) {
        match self {
            Self::AtLeast(bound) => ("at_least", bound),
            Self::AtMost(bound) => ("at_most", bound),
        }
    }
}

/// A figure beside what is wanted of it.
#[derive(Debug, Clone)]
struct Target {
    name: &'static str,
    what: &'static str,
    value: f64,
    /// `None`: only told.
    bound: Option<Bound>,
}

/// Everything that one run measured.
#[derive(Debug)]
pub struct Report {
    settings: Settings,
    lines: Vec<Line>,
    targets: Vec<Target>,
    /// What could not be measured, and why.
    skipped: Vec<(String, String)>,
    /// What is still there, and how to remove it.
    left_behind: Vec<String>,
}

impl Report {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            lines: Vec::new(),
            targets: Vec::new(),
            skipped: Vec::new(),
            left_behind: Vec::new(),
        }
    }

    pub fn add(&mut self, line: Line) {
        self.lines.push(line);
    }

    pub fn skip(&mut self, name: String, why: impl Into<String>) {
        self.skipped.push((name, why.into()));
    }

    pub fn left_behind(&mut self, what: Vec<String>) {
        self.left_behind = what;
    }

    /// The figure of a line, where it was measured.
    pub fn figure(&self, line: &str, key: &str) -> Option<f64> {
        let line = self.lines.iter().find(|own| own.name == line)?;
        line.figure(key)
    }

    /// Messages a second of a line.
    pub fn rate(&self, line: &str) -> Option<f64> {
        self.figure(line, PER_SECOND).filter(|rate| *rate > 0.0)
    }

    /// The rate of one line in that of another, where both were measured.
    pub fn ratio(&self, of: &str, to: &str) -> Option<f64> {
        Some(self.rate(of)? / self.rate(to)?)
    }

    /// Sets a figure beside what is wanted of it; nothing where it was not measured.
    pub fn want(
        &mut self,
        name: &'static str,
        what: &'static str,
        value: Option<f64>,
        bound: Bound,
    ) {
        let bound = Some(bound);
        self.targets.extend(value.map(|value| Target {
            name,
            what,
            value,
            bound,
        }));
    }

    /// A ratio that is told, and of which nothing is wanted.
    pub fn note(&mut self, name: &'static str, what: &'static str, value: Option<f64>) {
        let bound = None;
        self.targets.extend(value.map(|value| Target {
            name,
            what,
            value,
            bound,
        }));
    }

    /// For people.
    pub fn table(&self) -> String {
        let lines = self.lines.iter().map(|line| {
            let name = line.name.replace('_', " ");
            vec![name, line.headline.clone(), line.how.clone()]
        });
        let mut text = print::table(&["Line", "Figure", "How"], lines.collect());
        if !self.targets.is_empty() {
            let targets = self.targets.iter().map(|target| {
                let wanted = target.bound.map_or_else(String::new, Bound::text);
                let met = match target.bound.map(|bound| bound.is_met(target.value)) {
                    Some(true) => "met",
                    Some(false) => "missed",
                    None => "",
                };
                let value = format!("{:.2}", target.value);
                vec![target.what.to_owned(), value, wanted, met.to_owned()]
            });
            text.push('\n');
            text.push_str(&print::table(
                &["Target", "Measured", "Wanted", ""],
                targets.collect(),
            ));
        }
        text.push('\n');
        text.push_str(&self.settings.text());
        for (name, why) in &self.skipped {
            let _ = writeln!(text, "not measured: {name}: {why}");
        }
        for what in &self.left_behind {
            let _ = writeln!(text, "left behind: {what}");
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let lines = self.lines.iter().map(|line| {
            let figures = line.figures.iter();
            let figures: Map<String, Value> = figures
                .map(|(key, value)| ((*key).to_owned(), json!(value)))
                .collect();
            (line.name.to_owned(), Value::Object(figures))
        });
        let targets = self.targets.iter().map(|target| {
            let mut target_json = json!({ "value": target.value });
            if let Some(bound) = target.bound {
                let (key, wanted) = bound.json();
                target_json[key] = json!(wanted);
                target_json["met"] = json!(bound.is_met(target.value));
            }
            (target.name.to_owned(), target_json)
        });
        let skipped = self.skipped.iter();
        let skipped = skipped.map(|(name, why)| (name.clone(), json!(why)));
        json!({
            "settings": self.settings,
            "lines": lines.collect::<Map<_, _>>(),
            "targets": targets.collect::<Map<_, _>>(),
            "not_measured": skipped.collect::<Map<_, _>>(),
            "left_behind": self.left_behind,
        })
    }
}

/// The key of the figure that most lines have.
pub const PER_SECOND: &str = "per_second";

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new(Settings::default());
        report.add(Line {
            name: "accept",
            headline: "50 /s".to_owned(),
            how: String::new(),
            figures: vec![(PER_SECOND, 50.0)],
        });
        report
    }

    #[test]
    fn what_was_not_measured_is_absent_and_not_zero() {
        let mut report = report();
        let none = report.rate("raw_insert");
        report.want("ratio", "a ratio", none, Bound::AtLeast(0.8));
        let json = report.json();
        assert_eq!(json["targets"], json!({}));
        assert_eq!(json["lines"], json!({ "accept": { "per_second": 50.0 } }));
    }

    #[test]
    fn a_target_says_what_was_wanted_and_whether_it_is_met() {
        let mut report = report();
        report.want("low", "low", Some(0.5), Bound::AtLeast(0.8));
        report.want("quick", "quick", Some(2.0), Bound::AtMost(3.0));
        assert_eq!(
            report.json()["targets"],
            json!({
                "low": { "value": 0.5, "at_least": 0.8, "met": false },
                "quick": { "value": 2.0, "at_most": 3.0, "met": true },
            })
        );
        assert!(report.table().contains("missed"));
    }
}
