//! The inbox's rows as the page words them: by state and reason, and what is open.

use super::super::status::Status;
use super::super::{format, words};
use crate::inbox::{Count, StateName};
use crate::metrics::DuplicateCause;

/// Rows that are not done.
pub(in crate::http) struct Open {
    pub(in crate::http) waiting: String,
    pub(in crate::http) dead: String,
    pub(in crate::http) has_dead: bool,
    pub(in crate::http) oldest: String,
    pub(in crate::http) is_known: bool,
}

/// All rows of a state, by reason.
pub(in crate::http) struct StateRows {
    pub(in crate::http) state: &'static str,
    pub(in crate::http) rows: String,
    pub(in crate::http) reasons: Vec<Bar>,
}

/// A word, how often, and how much of the whole that is.
pub(in crate::http) struct Bar {
    pub(in crate::http) word: String,
    pub(in crate::http) meaning: &'static str,
    pub(in crate::http) alarming: bool,
    pub(in crate::http) number: String,
    /// The age of the oldest, or what else stands beside the number.
    pub(in crate::http) note: String,
    pub(in crate::http) width: String,
}

/// A piece of the bar of all open rows.
pub(in crate::http) struct Segment {
    pub(in crate::http) state: &'static str,
    pub(in crate::http) x: String,
    pub(in crate::http) width: String,
}

fn is_open(count: &Count) -> bool {
    count.state != StateName::Done
}

fn sum<'a>(counts: impl Iterator<Item = &'a Count>) -> i64 {
    counts.map(|count| count.rows).sum()
}

fn oldest<'a>(counts: impl Iterator<Item = &'a Count>) -> f64 {
    let with_rows = counts.filter(|count| count.rows > 0);
    with_rows.map(|c| c.oldest_age_seconds).fold(0.0, f64::max)
}

/// An age, or a dash where there is nothing that could be old.
pub(super) fn age_of(rows: i64, seconds: f64) -> String {
    match rows {
        0 => "–".to_owned(),
        _ => format::age(seconds),
    }
}

pub(super) fn open(inbox: &[Count]) -> Open {
    let of = |state: StateName| inbox.iter().filter(move |count| count.state == state);
    let (waiting, dead) = (sum(of(StateName::Waiting)), sum(of(StateName::Dead)));
    Open {
        waiting: format::rows(waiting),
        dead: format::rows(dead),
        has_dead: dead > 0,
        oldest: age_of(waiting, oldest(of(StateName::Waiting))),
        is_known: !inbox.is_empty(),
    }
}

/// The rows by state and reason, and the bar of those that are not done.
pub(super) fn inbox(counts: &[Count]) -> (Vec<StateRows>, Vec<Segment>) {
    let all = sum(counts.iter().filter(|count| is_open(count)));
    let mut before = 0;
    let mut segments = Vec::new();
    let mut states = Vec::new();
    for state in StateName::ALL {
        let rows = sum(counts.iter().filter(|count| count.state == state));
        if state != StateName::Done && rows > 0 {
            segments.push(Segment {
                state: state.as_str(),
                x: format!("{:.1}%", share(before, all).min(99.0)),
                width: format!("{:.1}%", share(rows, all).max(1.0)),
            });
            before += rows;
        }
        states.push(StateRows {
            state: state.as_str(),
            rows: format::rows(rows),
            reasons: reasons(counts, state, rows),
        });
    }
    (states, segments)
}

#[expect(clippy::cast_precision_loss, reason = "the width of a bar")]
fn share(part: i64, of: i64) -> f64 {
    part as f64 * 100.0 / of.max(1) as f64
}

/// The reasons of a state's rows over all routes, the most rows first.
fn reasons(counts: &[Count], state: StateName, all: i64) -> Vec<Bar> {
    let mut words: Vec<&str> = counts
        .iter()
        .filter(|count| count.state == state && count.rows > 0)
        .filter_map(|count| count.reason.as_deref())
        .collect();
    words.sort_unstable();
    words.dedup();
    let mut bars: Vec<(i64, Bar)> = words
        .into_iter()
        .map(|word| {
            let these = || {
                let of_state = counts.iter().filter(move |count| count.state == state);
                of_state.filter(move |count| count.reason.as_deref() == Some(word))
            };
            let (rows, (meaning, alarming)) = (sum(these()), words::reason(word));
            let bar = Bar {
                word: word.replace('_', " "),
                meaning,
                alarming,
                number: format::rows(rows),
                note: format::age(oldest(these())),
                width: format::percent(rows, all),
            };
            (rows, bar)
        })
        .collect();
    bars.sort_by_key(|(rows, _)| -rows);
    bars.into_iter().map(|(_, bar)| bar).collect()
}

pub(super) fn causes(status: &Status) -> Vec<Bar> {
    let all: u64 = status.duplicates.iter().map(|cause| cause.total).sum();
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let bars = status.duplicates.iter().map(|duplicate| Bar {
        word: duplicate.cause.as_str().replace('_', " "),
        meaning: words::cause(duplicate.cause),
        alarming: duplicate.cause == DuplicateCause::OfDead && duplicate.total > 0,
        number: format::count(duplicate.total),
        note: match duplicate.recent {
            0 => String::new(),
            recent => format!("{} lately", format::count(recent)),
        },
        width: format::percent(whole(duplicate.total), whole(all)),
    });
    bars.collect()
}
