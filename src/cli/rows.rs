//! Rows of the inbox for people.

use std::fmt::Write as _;

use super::print::{self, age};
use crate::inbox::RowView;

/// One line a row.
pub fn table(rows: &[RowView]) -> String {
    let header = [
        "ID", "AGE", "STATE", "REASON", "ROUTE", "KEY", "TRIES", "DETAIL",
    ];
    let rows = rows.iter().map(|row| {
        vec![
            row.id.to_string(),
            age(&row.received_at),
            row.state.as_str().to_owned(),
            row.reason.clone().unwrap_or_default(),
            row.route.clone().unwrap_or_default(),
            one_line(&row.dedup_key),
            row.attempts.to_string(),
            one_line(&row.detail),
        ]
    });
    print::table(&header, rows.collect())
}

/// Everything about a row, one line a field, then headers and payload as they came.
pub fn one(row: &RowView) -> String {
    let since = |at: &str| format!("{} ago ({at})", age(at));
    let until = |at: &Option<String>| {
        at.as_deref()
            .map(|at| format!("{} ({at})", age(at)))
            .unwrap_or_default()
    };
    let conflict = if row.conflict {
        "the key came before with another payload"
    } else {
        ""
    };
    let fields = [
        ("id", row.id.to_string()),
        ("state", row.state.as_str().to_owned()),
        ("reason", row.reason.clone().unwrap_or_default()),
        ("detail", row.detail.clone()),
        ("source", row.source.clone()),
        ("route", row.route.clone().unwrap_or_default()),
        ("engine", row.engine.clone().unwrap_or_default()),
        ("dedup key", row.dedup_key.clone()),
        ("dedup scope", row.scope.clone()),
        ("conflict", conflict.to_owned()),
        ("message name", row.message_name.clone().unwrap_or_default()),
        ("business key", row.business_key.clone().unwrap_or_default()),
        (
            "process instance",
            row.process_instance_id.clone().unwrap_or_default(),
        ),
        ("coordinates", row.coordinates.clone().unwrap_or_default()),
        ("attempts", row.attempts.to_string()),
        ("epoch", row.epoch.to_string()),
        ("received", since(&row.received_at)),
        ("changed", since(&row.changed_at)),
        ("due", until(&row.due_at)),
        ("expires", until(&row.expires_at)),
    ];
    let mut text = String::new();
    for (name, value) in fields {
        if !value.is_empty() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<17} {}", one_line(&value));
        }
    }
    if let Some(envelope) = &row.envelope {
        let _ = writeln!(text, "\nenvelope\n{envelope:#}");
    }
    match &row.payload {
        Some(payload) => {
            let bytes = row.payload_bytes.unwrap_or_default();
            let _ = writeln!(text, "\npayload ({bytes} bytes)\n{}", pretty(payload));
        }
        None => text.push_str("\nthe payload's retention is over\n"),
    }
    text
}

/// JSON with indents, anything else with its control characters made visible: a payload is a stranger's
/// text, and must not speak to the terminal.
fn pretty(payload: &str) -> String {
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(payload);
    let text = parsed.map_or_else(|_| payload.to_owned(), |json| format!("{json:#}"));
    let visible = |c: char| match c {
        '\n' | '\t' => c.to_string(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    text.chars().map(visible).collect()
}

/// As [`pretty`], on one line.
fn one_line(text: &str) -> String {
    let visible = |c: char| match c {
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    text.chars().map(visible).collect()
}
