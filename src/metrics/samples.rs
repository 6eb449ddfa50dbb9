//! Prometheus' text format, read back.

use std::collections::HashMap;

/// The current value of every counter and gauge; of histograms only sum and count.
#[derive(Debug, Default)]
pub struct Samples {
    by_name: HashMap<String, Vec<Sample>>,
}

#[derive(Debug, PartialEq)]
struct Sample {
    labels: Vec<(String, String)>,
    value: f64,
}

impl Samples {
    /// What [`super::Exporter::render`] wrote. Lines that are no samples, and buckets, are left out.
    pub fn parse(text: &str) -> Self {
        let mut samples = Self::default();
        for line in text.lines() {
            if let Some((name, sample)) = parse_line(line)
                && !name.ends_with("_bucket")
            {
                match samples.by_name.get_mut(name) {
                    Some(same) => same.push(sample),
                    None => {
                        samples.by_name.insert(name.to_owned(), vec![sample]);
                    }
                }
            }
        }
        samples
    }

    /// The sums of a metric by these labels' values, in their order. A label that a series has not is empty.
    pub fn sum_by<const N: usize>(
        &self,
        name: &str,
        labels: [&str; N],
    ) -> HashMap<[String; N], f64> {
        let mut sums = HashMap::new();
        for sample in self.by_name.get(name).into_iter().flatten() {
            let key = labels.map(|label| sample.label(label).to_owned());
            *sums.entry(key).or_default() += sample.value;
        }
        sums
    }

    /// The sum of a metric over all its series.
    pub fn sum(&self, name: &str) -> f64 {
        let all = self.by_name.get(name).into_iter().flatten();
        all.map(|sample| sample.value).sum()
    }
}

impl Sample {
    fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(label, _)| label == name);
        found.map_or("", |(_, value)| value)
    }
}

/// `name{label="value",…} 12.5`
fn parse_line(line: &str) -> Option<(&str, Sample)> {
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while let Some(equals) = rest.find("=\"").filter(|_| !rest.starts_with('}')) {
            let label = rest[..equals].trim_start_matches(',').to_owned();
            let (value, after) = quoted(&rest[equals + 2..])?;
            labels.push((label, value));
            rest = after;
        }
        rest = rest.strip_prefix('}')?;
    }
    let value = rest.trim().parse().ok()?;
    Some((name, Sample { labels, value }))
}

/// A label's value up to its closing quote, unescaped, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these numbers are exact in a float")]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_their_labels() {
        let samples = Samples::parse(
            "# HELP a_total what\n# TYPE a_total counter\n\
             a_total{route=\"x\",outcome=\"done\"} 3\n\
             a_total{outcome=\"dead\",route=\"x\"} 4\n\
             a_total{route=\"y \\\"}\\\\\",outcome=\"done\"} 5\n\n\
             b 1.5\n\
             c_seconds_bucket{le=\"+Inf\"} 7\n\
             c_seconds_count 7\n",
        );
        let by_route = samples.sum_by("a_total", ["route"]);
        assert_eq!(by_route[&["x".to_owned()]], 7.0);
        assert_eq!(by_route[&["y \"}\\".to_owned()]], 5.0);
        let both = samples.sum_by("a_total", ["route", "outcome"]);
        assert_eq!(both[&["x".to_owned(), "dead".to_owned()]], 4.0);
        assert_eq!(samples.sum("b"), 1.5);
        assert_eq!(samples.sum("c_seconds_count"), 7.0);
        assert_eq!(samples.sum("c_seconds_bucket"), 0.0);
        assert_eq!(samples.sum("nothing"), 0.0);
    }

    #[test]
    fn the_exporters_own_text_is_understood() {
        let exporter = super::super::Exporter::new();
        exporter.record(|| {
            super::super::announce(&["payments"], &["paid \"twice\"\\"], &["shop"]);
            super::super::delivered("payments", true, 1);
            super::super::conflict(Some("paid \"twice\"\\"));
        });
        let samples = Samples::parse(&exporter.render());
        let deliveries = samples.sum_by("sluice_deliveries_total", ["source", "redelivered"]);
        assert_eq!(deliveries[&["payments".to_owned(), "true".to_owned()]], 1.0);
        assert_eq!(
            deliveries[&["payments".to_owned(), "false".to_owned()]],
            0.0
        );
        let conflicts = samples.sum_by("sluice_dedup_conflicts_total", ["route"]);
        assert_eq!(conflicts[&["paid \"twice\"\\".to_owned()]], 1.0);
    }
}
