//! The last warnings and errors, for the status page.
//!
//! A failure is logged once, where it is handled; this listens to the log instead of asking every part to
//! tell it again. Only Sluice's own events are taken: they hold no payload and no secret by our rule,
//! which nobody promises for other crates.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::status::{Problem, Severity};

/// More than a page shows, and few enough to clone every second.
const KEPT: usize = 40;
/// Longer texts are cut: somebody's error may quote a whole statement.
const TEXT_CHARS: usize = 400;

/// A bounded list; clones share it. Also a layer of the log.
#[derive(Debug, Clone, Default)]
pub struct Problems(Arc<Mutex<VecDeque<Kept>>>);

#[derive(Debug)]
struct Kept {
    severity: Severity,
    part: String,
    subject: Option<String>,
    text: String,
    times: u64,
    last: Instant,
}

impl Problems {
    /// Adds one, or counts it when the same is there already.
    pub fn push(&self, severity: Severity, part: &str, subject: Option<&str>, text: &str) {
        let now = Instant::now();
        let text: String = text.chars().take(TEXT_CHARS).collect();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = kept.iter().position(|old| {
            old.part == part && old.subject.as_deref() == subject && old.text == text
        });
        let times = same
            .and_then(|at| kept.remove(at))
            .map_or(0, |old| old.times)
            + 1;
        kept.truncate(KEPT - 1);
        kept.push_front(Kept {
            severity,
            part: part.to_owned(),
            subject: subject.map(str::to_owned),
            text,
            times,
            last: now,
        });
    }

    /// The newest first.
    pub fn list(&self) -> Vec<Problem> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let since = |then: Instant| now.saturating_duration_since(then);
        kept.iter()
            .map(|kept| kept.show(since(kept.last)))
            .collect()
    }
}

impl Kept {
    fn show(&self, ago: Duration) -> Problem {
        Problem {
            severity: self.severity,
            part: self.part.clone(),
            subject: self.subject.clone(),
            text: self.text.clone(),
            times: self.times,
            seconds_ago: ago.as_secs(),
        }
    }
}

impl<S: Subscriber> Layer<S> for Problems {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let severity = match *metadata.level() {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warning,
            _ => return,
        };
        let Some(part) = part(metadata.target()) else {
            return;
        };
        let mut line = Line::default();
        event.record(&mut line);
        let text = format!("{}{}", line.message, line.fields);
        self.push(severity, part, line.subject.as_deref(), &text);
    }
}

/// `sluice::intake::run` → `intake`; `None` for other crates.
fn part(target: &str) -> Option<&str> {
    let mut path = target.split("::");
    (path.next() == Some("sluice")).then(|| path.next().unwrap_or("sluice"))
}

/// An event as a line of text, without the field that says whom it is about.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
    subject: Option<String>,
}

impl Line {
    fn take(&mut self, field: &Field, value: &dyn fmt::Display) {
        match field.name() {
            "message" => self.message = value.to_string(),
            "source" | "route" | "engine" if self.subject.is_none() => {
                self.subject = Some(value.to_string());
            }
            // The id of one message: with it, the same trouble would fill the list row by row.
            "row" => {}
            // Writing to a String does not fail.
            name => drop(write!(self.fields, " {name}={value}")),
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, &format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn warnings_of_our_own_are_kept_with_whom_they_are_about() {
        let problems = Problems::default();
        let log = tracing_subscriber::registry().with(problems.clone());
        tracing::subscriber::with_default(log, || {
            tracing::info!(target: "sluice::intake", "nothing to see");
            tracing::warn!(target: "rdkafka::client", "not ours");
            tracing::warn!(target: "sluice::intake::run", source = "payments", row = 1, delay_ms = 5, "the stream ended");
            tracing::error!(target: "sluice::bridge", "stopped");
            tracing::warn!(target: "sluice::intake::run", source = %"payments", delay_ms = 5, "the stream ended");
        });
        let list = problems.list();
        assert_eq!(list.len(), 2);
        assert_eq!(list[0].part, "intake");
        assert_eq!(list[0].subject.as_deref(), Some("payments"));
        assert_eq!(list[0].text, "the stream ended delay_ms=5");
        assert_eq!(list[0].times, 2);
        assert_eq!(
            (list[1].severity, list[1].part.as_str()),
            (Severity::Error, "bridge")
        );
    }

    #[test]
    fn the_list_is_bounded() {
        let problems = Problems::default();
        for n in 0..100 {
            problems.push(
                Severity::Error,
                "intake",
                None,
                &format!("{n} {}", "x".repeat(9_999)),
            );
        }
        let list = problems.list();
        assert_eq!(list.len(), KEPT);
        assert!(list[0].text.starts_with("99 ") && list[0].text.len() == TEXT_CHARS);
    }
}
