//! What a daemon exports, read as Prometheus reads it.

/// The samples of one scrape.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Vec<Sample>);

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// # Panics
    /// On a line that is none.
    pub fn parse(text: &str) -> Metrics {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        Metrics(lines.map(Sample::parse).collect())
    }

    /// The sum of the samples of this name that have these labels, whatever others they have.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.0
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| labels.iter().all(|(label, value)| sample.has(label, value)))
            .map(|sample| sample.value)
            .sum()
    }

    /// The buckets of a histogram with these labels, each with its upper limit and how many it and all smaller ones
    /// hold together; smallest first, without the one that has no limit.
    pub fn buckets(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(f64, f64)> {
        let name = format!("{name}_bucket");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        let of_name = self.0.iter().filter(|sample| sample.name == name);
        for sample in
            of_name.filter(|sample| labels.iter().all(|(label, value)| sample.has(label, value)))
        {
            let limit = sample.labels.iter().find(|(label, _)| label == "le");
            let limit = limit.and_then(|(_, limit)| limit.parse::<f64>().ok());
            let Some(limit) = limit.filter(|limit| limit.is_finite()) else {
                continue;
            };
            match buckets
                .iter_mut()
                .find(|(of, _)| of.total_cmp(&limit).is_eq())
            {
                Some((_, count)) => *count += sample.value,
                None => buckets.push((limit, sample.value)),
            }
        }
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        buckets
    }

    /// The same of counters and gauges that count things.
    ///
    /// # Panics
    /// When it is no count.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be a count; none in a test reaches 2^53"
    )]
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> usize {
        let sum = self.sum(name, labels);
        assert!(
            sum >= 0.0 && sum.fract() == 0.0,
            "{name} {labels:?} is {sum}"
        );
        sum as usize
    }
}

impl Sample {
    fn parse(line: &str) -> Sample {
        let (what, value) = line.rsplit_once(' ').expect("a sample has a value");
        let (name, rest) = what.split_once('{').unwrap_or((what, ""));
        let mut labels = Vec::new();
        let mut rest = rest.trim_end_matches('}');
        // No name that a test configures holds a quotation mark.
        while let Some((label, after)) = rest.split_once("=\"") {
            let (value, after) = after.split_once('"').expect("a label's value ends");
            labels.push((label.trim_start_matches(',').to_owned(), value.to_owned()));
            rest = after;
        }
        Sample {
            name: name.to_owned(),
            labels,
            value: value.parse().expect("a sample's value is a number"),
        }
    }

    fn has(&self, label: &str, value: &str) -> bool {
        self.labels
            .iter()
            .any(|(name, is)| name == label && is == value)
    }
}
