//! What `tests/chaos` asks for, through the environment; without it, one round.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::report::Figures;
use super::schedule::{self, Kind};

/// Orders of each source for a deck of faults.
const ORDERS: u64 = 45;

pub struct Options {
    pub seed: u64,
    /// Rounds begin until so much time has passed …
    length: Duration,
    /// … and so many faults have happened.
    faults: usize,
    /// What happens in a round.
    pub deck: Vec<Kind>,
    /// How many orders each source is told of in a round; each is seven messages and a duplicate or two.
    pub orders: usize,
    /// Where the figures go.
    json: Option<PathBuf>,
    /// Another build of the daemon, between which nodes change.
    pub other: Option<PathBuf>,
    /// Where logs are kept when something is wrong.
    pub logs: PathBuf,
    pub commit: String,
}

impl Options {
    /// # Panics
    /// On a number that is none.
    pub fn read() -> Options {
        let of = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let number = |name: &str| {
            let value = of(name)?;
            let number = value.parse::<u64>().ok();
            assert!(number.is_some(), "{name} is {value:?}, expected a number");
            number
        };
        let seed = crate::rig::seed();
        let faults = number("SLUICE_CHAOS_FAULTS").unwrap_or(1);
        let faults = usize::try_from(faults).expect("a usize is as large");
        let length = Duration::from_secs(number("SLUICE_CHAOS_SECONDS").unwrap_or(0));
        let only = of("SLUICE_CHAOS_ONLY");
        let deck = only.map_or_else(schedule::deck, |names| {
            schedule::deck_of(&names.split(',').collect::<Vec<_>>())
        });
        // A long run need not count so often.
        let orders = number("SLUICE_CHAOS_ORDERS").unwrap_or(ORDERS);
        let short = length.is_zero() && faults <= deck.len();
        let decks = match faults {
            _ if short => 1,
            0..1_000 => 2,
            _ => 4,
        };
        let logs = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{seed}"));
        Options {
            seed,
            length,
            faults,
            deck: deck.repeat(decks),
            orders: decks * usize::try_from(orders).expect("a usize is as large"),
            json: of("SLUICE_CHAOS_JSON").map(PathBuf::from),
            other: of("SLUICE_CHAOS_OTHER").map(PathBuf::from),
            logs: of("SLUICE_CHAOS_LOGS").map_or(logs, PathBuf::from),
            commit: of("SLUICE_CHAOS_COMMIT").unwrap_or_else(|| "unknown".to_owned()),
        }
    }

    pub fn is_over(&self, passed: Duration, faults: usize) -> bool {
        passed >= self.length && faults >= self.faults
    }

    pub fn other_build(&self) -> String {
        let other = self.other.as_ref();
        other.map_or("the same".to_owned(), |path| path.display().to_string())
    }

    pub fn write(&self, figures: &Figures) {
        let Some(file) = &self.json else { return };
        let text = serde_json::to_string_pretty(figures).expect("figures are plain data");
        std::fs::write(file, text + "\n").unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::{Options, schedule};

    #[test]
    fn without_options_it_is_one_round() {
        let options = Options {
            seed: 1,
            length: std::time::Duration::ZERO,
            faults: 1,
            deck: schedule::deck(),
            orders: 1,
            json: None,
            other: None,
            logs: std::path::PathBuf::new(),
            commit: String::new(),
        };
        let passed = std::time::Duration::from_secs(1);
        assert!(!options.is_over(passed, 0));
        assert!(options.is_over(passed, options.deck.len()));
    }
}
