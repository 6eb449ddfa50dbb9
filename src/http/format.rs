//! How the page writes numbers, ages and curves.

use std::fmt::Write;

/// Keeps the groups of a number together, and narrower than a space.
const GROUP: char = '\u{202f}';

/// `7`, `1 234`, `12.3 M`: never wider than seven places.
pub(super) fn count(number: u64) -> String {
    match number {
        0..1_000_000 => grouped(number),
        _ => scaled(number),
    }
}

/// A number of rows, which the database may estimate below zero.
pub(super) fn rows(number: i64) -> String {
    count(u64::try_from(number).unwrap_or_default())
}

/// `0`, `0.4`, `12`, `1 234`: a tenth is worth a place only where it says something.
pub(super) fn rate(per_second: f64) -> String {
    if per_second > 0.0 && per_second < 9.95 {
        format!("{per_second:.1}")
    } else {
        count(super::meter::whole(per_second))
    }
}

/// `0 s`, `42 s`, `5 min`, `3 h 20 min`, `12 d`.
pub(super) fn age(seconds: f64) -> String {
    let seconds = super::meter::whole(seconds.floor());
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}{GROUP}s"),
        60..3600 => format!("{minutes}{GROUP}min"),
        3600..86_400 if minutes % 60 > 0 && hours < 10 => {
            format!("{hours}{GROUP}h {}{GROUP}min", minutes % 60)
        }
        3600..172_800 => format!("{hours}{GROUP}h"),
        _ => format!("{days}{GROUP}d"),
    }
}

/// What part of the whole, for the width of a bar; something is never drawn as nothing.
pub(super) fn percent(part: i64, of: i64) -> String {
    if part <= 0 || of <= 0 {
        return "0%".to_owned();
    }
    #[expect(clippy::cast_precision_loss, reason = "the width of a bar")]
    let percent = part as f64 * 100.0 / of as f64;
    format!("{:.1}%", percent.clamp(0.6, 100.0))
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(GROUP);
        }
        text.push(digit);
    }
    text
}

fn scaled(number: u64) -> String {
    let (unit, letter) = if number < 1_000_000_000 {
        (1_000_000, 'M')
    } else {
        (1_000_000_000, 'G')
    };
    let whole = number / unit;
    match whole {
        0..100 => format!("{whole}.{}{GROUP}{letter}", number % unit / (unit / 10)),
        _ => format!("{}{GROUP}{letter}", grouped(whole)),
    }
}

/// A curve of two minutes, in a box of [`Spark::WIDTH`] by [`Spark::HEIGHT`].
pub(super) struct Spark {
    /// The path of the line, and of the area below it.
    pub(super) line: String,
    pub(super) area: String,
    /// For those who do not see it.
    pub(super) label: String,
}

impl Spark {
    const WIDTH: usize = 120;
    const HEIGHT: f64 = 30.0;
    /// A point stands for two seconds: more is not seen, and would be sent again every second.
    const SECONDS: usize = 2;

    /// The newest value is at the right edge; what is not known yet, at the left, is drawn as zero.
    pub(super) fn of(history: &[f64]) -> Self {
        let points = history.rchunks(Self::SECONDS).map(mean);
        let mut points: Vec<f64> = points.take(Self::WIDTH / Self::SECONDS + 1).collect();
        points.resize(Self::WIDTH / Self::SECONDS + 1, 0.0);
        points.reverse();
        let peak = points.iter().copied().fold(0.0, f64::max);
        let mut line = String::new();
        for (at, point) in points.iter().enumerate() {
            let part = if peak > 0.0 { point / peak } else { 0.0 };
            let y = (Self::HEIGHT - 2.0) * (1.0 - part) + 1.0;
            let letter = if at == 0 { 'M' } else { 'L' };
            // Writing to a String does not fail.
            let _ = write!(line, "{letter}{} {y:.1}", at * Self::SECONDS);
        }
        let area = format!("{line}V{h}H0Z", h = Self::HEIGHT);
        let label = format!("last two minutes, at most {} a second", rate(peak));
        Self { line, area, label }
    }
}

#[expect(clippy::cast_precision_loss, reason = "one or two values")]
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let counts = [
            0,
            999,
            1_000,
            123_456,
            1_000_000,
            12_345_678,
            123_456_789,
            5_000_000_000,
        ];
        let texts = counts.map(|number| count(number).replace(GROUP, " "));
        let expected = [
            "0", "999", "1 000", "123 456", "1.0 M", "12.3 M", "123 M", "5.0 G",
        ];
        assert_eq!(texts, expected);
        assert_eq!(rows(-1), "0");
        let rates = [0.0, 0.1, 9.9, 9.96, 12.4, 1234.5].map(|r| rate(r).replace(GROUP, " "));
        assert_eq!(rates, ["0", "0.1", "9.9", "10", "12", "1 235"]);
    }

    #[test]
    fn ages_have_one_unit_or_two() {
        let ages = [0.4, 59.9, 61.0, 3600.0, 5400.0, 40_000.0, 100_000.0, 9e5];
        let texts = ages.map(|seconds| age(seconds).replace(GROUP, " "));
        assert_eq!(
            texts,
            [
                "0 s",
                "59 s",
                "1 min",
                "1 h",
                "1 h 30 min",
                "11 h",
                "27 h",
                "10 d"
            ]
        );
    }

    #[test]
    fn bars_show_even_little() {
        assert_eq!(percent(0, 10), "0%");
        assert_eq!(percent(1, 10_000), "0.6%");
        assert_eq!(percent(5, 10), "50.0%");
        assert_eq!(percent(5, 0), "0%");
    }

    #[test]
    fn a_curve_ends_at_the_right_edge() {
        let flat = Spark::of(&[]);
        assert!(flat.line.starts_with("M0 29.0L2 29.0") && flat.line.ends_with("L120 29.0"));
        let rising = Spark::of(&[0.0, 0.0, 10.0, 30.0]);
        assert!(
            rising.line.ends_with("L118 29.0L120 1.0"),
            "{}",
            rising.line
        );
        assert_eq!(rising.label, "last two minutes, at most 20 a second");
        assert_eq!(rising.area, format!("{}V30H0Z", rising.line));
    }
}
