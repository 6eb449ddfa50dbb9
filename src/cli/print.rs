//! Everything that the command line prints: tables for people, lines and JSON for programs.
//!
//! Invariant: a closed pipe is no failure; `sluice inbox list | head` ends quietly.

use std::io::{self, IsTerminal, Write};

use chrono::{DateTime, Utc};
use comfy_table::{ContentArrangement, Table, presets};

/// Writes to standard output.
///
/// # Errors
/// The output cannot be written, except that nobody reads it any more.
pub fn out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    quiet_when_closed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// One JSON value, for programs.
///
/// # Errors
/// As [`out`].
pub fn json(value: &impl serde::Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    out(&text)
}

/// Writes to standard error; there is nowhere left to say that this failed.
pub fn error(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Whether standard error is a terminal that shows colours.
pub fn errors_are_read_by_people() -> bool {
    io::stderr().is_terminal()
}

fn quiet_when_closed(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// A table that fits the terminal; in a file or a pipe, plain columns as wide as they are.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    if io::stdout().is_terminal() {
        table
            .load_style(presets::UTF8_HORIZONTAL_ONLY)
            .set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
    }
    table.set_header(header.to_vec());
    table.add_rows(rows);
    if !io::stdout().is_terminal() {
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, 2));
        });
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// How long ago a time of the database was, by this machine's clock: `3m 20s`. Two clocks may differ by a
/// little; a time that has not come yet is `in 5s`.
pub fn age(rfc3339: &str) -> String {
    let Ok(at) = DateTime::parse_from_rfc3339(rfc3339) else {
        return rfc3339.to_owned();
    };
    let ago = Utc::now().signed_duration_since(at);
    match ago.to_std() {
        Ok(ago) => span(ago.as_secs()),
        Err(_) => format!("in {}", span(ago.abs().num_seconds().unsigned_abs())),
    }
}

/// The two largest units: `12d 3h`, `5m 7s`, `0s`.
fn span(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = seconds;
    let mut words = Vec::new();
    for (size, unit) in units {
        if rest >= size {
            words.push(format!("{}{unit}", rest / size));
            rest %= size;
        } else if !words.is_empty() {
            // 1h 0m 5s is 1h.
            break;
        }
    }
    words.truncate(2);
    if words.is_empty() {
        words.push("0s".to_owned());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_two_units_at_most() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (200, "3m 20s"),
            (3_605, "1h"),
            (90_061, "1d 1h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn a_time_is_an_age() {
        let at = Utc::now() - chrono::TimeDelta::seconds(65);
        assert_eq!(age(&at.to_rfc3339()), "1m 5s");
        let at = Utc::now() + chrono::TimeDelta::milliseconds(5_500);
        assert_eq!(age(&at.to_rfc3339()), "in 5s");
        assert_eq!(age("never"), "never");
    }
}
