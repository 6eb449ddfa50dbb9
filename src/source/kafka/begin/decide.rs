//! Which of the offsets that are known of a partition it begins at. Pure, but for saying so.

use super::broker::Stand;
use crate::metrics;
use crate::position::{Mark, Stored};
use crate::source::SourceError;

/// What the broker has of a partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The first offset that the broker still has.
    pub low: i64,
    /// The one that the next record gets.
    pub high: i64,
}

/// What the inbox has of a partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// Everything below is stored.
    pub next: i64,
    /// A record that it knows has another in its place, or the partition ends before one that is stored.
    pub of_others: bool,
}

impl Known {
    /// `seen`: records as they stand in the partition now.
    pub(super) fn of(stored: Stored, seen: &[Mark], bounds: Bounds) -> Self {
        let is_replaced = |mark: Mark| seen.iter().any(|seen| mark.is_replaced_by(*seen));
        // The anchor may stand beyond what is stored, and a partition that has lost no more than that has lost
        // nothing of ours.
        let ends_before = |mark: Mark| mark.offset >= bounds.high;
        Self {
            next: stored.next,
            of_others: stored.highest.is_some_and(ends_before) || stored.marks().any(is_replaced),
        }
    }
}

/// What the offsets of a partition mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// Where the group stood.
    Committed(i64),
    /// The group has no offset, or the broker has forgotten it: where the inbox stands.
    Stored(i64),
    /// The database knows less than the group has acknowledged: where the database stands.
    Again { at: i64, committed: i64 },
    /// Nothing is known: the oldest record.
    Oldest(i64),
    /// The broker deleted records that were never read; the oldest record that is left.
    Lost { at: i64, low: i64 },
    /// The inbox knows other records, or more than there are: the topic was made again.
    Recreated { low: i64 },
    /// The group stood behind the end, and the inbox knows nothing.
    Beyond { high: i64 },
}

/// `since`: where a position began that the inbox should have.
pub(super) fn decide(
    committed: Option<i64>,
    since: Option<i64>,
    known: Option<Known>,
    Bounds { low, high }: Bounds,
) -> Begin {
    let at = match (known, committed) {
        (None, None) => return Begin::Oldest(low),
        (None, Some(committed)) if committed > high => return Begin::Beyond { high },
        (None, Some(committed)) => since.map_or(committed, |since| since.min(committed)),
        (Some(known), committed) => {
            let beyond = known.next > high || committed.is_some_and(|committed| committed > high);
            if known.of_others || beyond {
                return Begin::Recreated { low };
            }
            committed.map_or(known.next, |committed| committed.min(known.next))
        }
    };
    match committed {
        _ if at < low => Begin::Lost { at, low },
        Some(committed) if at == committed => Begin::Committed(at),
        Some(committed) => Begin::Again { at, committed },
        None => Begin::Stored(at),
    }
}

impl Begin {
    /// Whether the position that the inbox has goes on: it is about these records, and no gap that nothing can
    /// close lies between it and where reading begins.
    pub(super) fn keeps_position(self, stored: Stored) -> bool {
        match self {
            Self::Committed(_) | Self::Stored(_) | Self::Again { .. } => true,
            Self::Lost { low, .. } => stored.next >= low,
            Self::Recreated { .. } | Self::Oldest(_) | Self::Beyond { .. } => false,
        }
    }

    /// What stands below was acknowledged, and comes again.
    pub(super) fn again_below(self) -> i64 {
        match self {
            Self::Again { committed, .. } => committed,
            _ => i64::MIN,
        }
    }
}

/// Says where the partition begins, loudly if records are lost or come again.
pub(super) fn announce(
    begin: Begin,
    source: &str,
    stand: &Stand,
    bounds: Bounds,
) -> Result<i64, SourceError> {
    let (topic, partition) = (stand.topic.as_str(), stand.partition);
    match begin {
        Begin::Committed(offset) => {
            tracing::debug!(
                source,
                topic,
                partition,
                offset,
                "goes on where the group stood"
            );
            Ok(offset)
        }
        Begin::Stored(offset) => {
            tracing::info!(
                source,
                topic,
                partition,
                offset,
                "nothing is committed of this partition: goes on where the inbox stands"
            );
            Ok(offset)
        }
        Begin::Oldest(offset) => {
            metrics::kafka_partition_met(source, topic);
            tracing::info!(
                source,
                topic,
                partition,
                offset,
                "nothing is committed of this partition: begins with the oldest record"
            );
            Ok(offset)
        }
        Begin::Again { at, committed } => {
            read_again(source, stand, at, committed);
            Ok(at)
        }
        Begin::Lost { at, low } => {
            lost(source, stand, at, low);
            Ok(low)
        }
        Begin::Recreated { low } => {
            recreated(source, stand, bounds);
            Ok(low)
        }
        Begin::Beyond { high } => Err(SourceError::new(format!(
            "the group has committed {} of {topic}/{partition}, which ends at {high}: \
             the topic was recreated or has lost its tail; set the group's offset",
            stand.offset.unwrap_or_default()
        ))
        .needs_operator()),
    }
}

fn read_again(
    source: &str,
    Stand {
        topic, partition, ..
    }: &Stand,
    at: i64,
    committed: i64,
) {
    metrics::kafka_reread(source, topic, committed.abs_diff(at));
    tracing::warn!(
        source,
        topic,
        partition,
        stored = at,
        committed,
        "the database knows less than the group has acknowledged: it has lost commits, and their records are \
         read again (a group that was moved forward on purpose needs `sluice positions set`)"
    );
}

fn lost(source: &str, stand: &Stand, at: i64, low: i64) {
    metrics::kafka_offset_below_low_watermark(source, &stand.topic);
    tracing::error!(
        source,
        topic = stand.topic,
        partition = stand.partition,
        committed = stand.offset.unwrap_or_default(),
        wanted = at,
        low,
        "the broker has deleted records that were never read; goes on with the oldest that is left"
    );
}

fn recreated(source: &str, stand: &Stand, Bounds { low, high }: Bounds) {
    metrics::kafka_topic_recreated(source, &stand.topic);
    tracing::error!(
        source,
        topic = stand.topic,
        partition = stand.partition,
        low,
        high,
        "the partition does not hold the records that the inbox knows: the topic was recreated, or has lost \
         its end; begins with the oldest record"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { low: 5, high: 20 };

    #[test]
    fn without_a_position_it_begins_where_the_group_stood_if_the_broker_has_that() {
        for (committed, expected) in [
            (Some(5), Begin::Committed(5)),
            (Some(9), Begin::Committed(9)),
            (Some(20), Begin::Committed(20)),
            (Some(4), Begin::Lost { at: 4, low: 5 }),
            (Some(0), Begin::Lost { at: 0, low: 5 }),
            (Some(21), Begin::Beyond { high: 20 }),
            (None, Begin::Oldest(5)),
        ] {
            assert_eq!(
                decide(committed, None, None, BOUNDS),
                expected,
                "{committed:?}"
            );
        }
    }

    #[test]
    fn with_a_position_it_begins_at_the_smaller_of_the_two() {
        let again = |at, committed| Begin::Again { at, committed };
        for (committed, next, expected) in [
            (Some(9), 9, Begin::Committed(9)),
            (Some(7), 9, Begin::Committed(7)),
            (Some(9), 7, again(7, 9)),
            (None, 9, Begin::Stored(9)),
            (Some(9), 4, Begin::Lost { at: 4, low: 5 }),
            (Some(9), 21, Begin::Recreated { low: 5 }),
            (Some(21), 9, Begin::Recreated { low: 5 }),
            (None, 21, Begin::Recreated { low: 5 }),
        ] {
            let known = |of_others| Some(Known { next, of_others });
            let what = format!("{committed:?} {next}");
            assert_eq!(
                decide(committed, None, known(false), BOUNDS),
                expected,
                "{what}"
            );
            let recreated = Begin::Recreated { low: 5 };
            assert_eq!(
                decide(committed, None, known(true), BOUNDS),
                recreated,
                "{what}"
            );
        }
    }

    #[test]
    fn a_position_that_should_be_there_is_read_from_its_beginning() {
        let again = Begin::Again {
            at: 6,
            committed: 9,
        };
        assert_eq!(decide(Some(9), Some(6), None, BOUNDS), again);
        assert_eq!(decide(Some(9), Some(9), None, BOUNDS), Begin::Committed(9));
        let lost = Begin::Lost { at: 0, low: 5 };
        assert_eq!(decide(Some(9), Some(0), None, BOUNDS), lost);
    }

    #[test]
    fn a_position_below_what_the_broker_has_begins_anew() {
        let stored = |next| Stored {
            next,
            since: 0,
            highest: None,
            anchor: None,
            epoch: 1,
        };
        let lost = Begin::Lost { at: 3, low: 5 };
        assert!(!lost.keeps_position(stored(3)));
        assert!(lost.keeps_position(stored(9)), "the group alone was behind");
        assert!(!Begin::Recreated { low: 5 }.keeps_position(stored(9)));
    }

    #[test]
    fn another_time_at_a_known_offset_is_another_topic() {
        let mark = |offset, at_ms| Mark { offset, at_ms };
        let stored = Stored {
            next: 9,
            since: 0,
            highest: Some(mark(8, 100)),
            anchor: Some(mark(6, 90)),
            epoch: 1,
        };
        let of_others =
            |seen: &[Mark], high| Known::of(stored, seen, Bounds { low: 5, high }).of_others;
        assert!(of_others(&[mark(8, 101), mark(6, 90)], 20));
        assert!(
            of_others(&[mark(8, 100), mark(6, 91)], 20),
            "under its reader"
        );
        assert!(!of_others(&[mark(8, 100), mark(6, 90)], 20));
        assert!(!of_others(&[], 20), "they were deleted");
        assert!(of_others(&[mark(6, 90)], 8), "it ends before the highest");
        let ahead = Stored {
            anchor: Some(mark(15, 120)),
            ..stored
        };
        let bounds = Bounds { low: 5, high: 12 };
        assert!(!Known::of(ahead, &[mark(8, 100)], bounds).of_others);
    }
}
