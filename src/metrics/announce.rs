//! Brings metrics into being at zero, before anything happened.
//!
//! `rate()` and `increase()` see only what changes: a counter that is born with its first error shows
//! none. So every series whose labels are known from the configuration exists from the start.

use std::collections::BTreeMap;

use super::catalogue as name;
use super::{DuplicateCause, MessageOutcome, NO_ROUTE, Sweep};
use crate::message::WaitReason;
use metrics::{counter, gauge, histogram};

/// Every series of these parts, by the names that they have in the configuration.
pub fn announce(sources: &[&str], routes: &[&str], engines: &[&str]) {
    for source in sources {
        for redelivered in ["false", "true"] {
            counter!(name::DELIVERIES, "source" => (*source).to_owned(), "redelivered" => redelivered)
                .increment(0);
        }
        for counter in [name::ACK_FAILURES, name::SOURCE_RECONNECTS, name::DB_BEHIND] {
            counter!(counter, "source" => (*source).to_owned()).increment(0);
        }
        for seconds in [name::BATCH_MESSAGES, name::ACCEPT, name::DELIVERY_TO_COMMIT] {
            drop(histogram!(seconds, "source" => (*source).to_owned()));
        }
        gauge!(name::SOURCE_CONNECTED, "source" => (*source).to_owned()).set(0.0);
    }
    for route in routes.iter().chain(&[NO_ROUTE]) {
        announce_route(route);
    }
    for engine in engines {
        for state in ["runnable", "blocked"] {
            gauge!(name::ENGINE_BACKLOG, "engine" => (*engine).to_owned(), "state" => state)
                .set(0.0);
        }
        gauge!(name::ENGINE_UP, "engine" => (*engine).to_owned()).set(0.0);
        drop(histogram!(name::HANDED_TO_DONE, "engine" => (*engine).to_owned()));
    }
    announce_database();
}

fn announce_route(route: &str) {
    for outcome in MessageOutcome::ALL {
        counter!(name::MESSAGES, "route" => route.to_owned(), "outcome" => outcome.as_str())
            .increment(0);
    }
    for cause in DuplicateCause::ALL {
        counter!(name::DUPLICATES, "route" => route.to_owned(), "cause" => cause.as_str())
            .increment(0);
    }
    for reason in WaitReason::ALL {
        counter!(name::WAITS, "route" => route.to_owned(), "reason" => reason.as_str())
            .increment(0);
    }
    counter!(name::CONFLICTS, "route" => route.to_owned()).increment(0);
}

fn announce_database() {
    for class in super::DB_ERROR_CLASSES {
        counter!(name::DB_ERRORS, "class" => class).increment(0);
    }
    for sweep in Sweep::ALL {
        counter!(name::RECOVERED, "sweep" => sweep.as_str()).increment(0);
        drop(histogram!(name::RECOVERY, "sweep" => sweep.as_str()));
    }
    counter!(name::STALE_CHANGES).increment(0);
    super::purged(0, 0);
    super::db_pool(0, 0);
    super::nodes(0, 0);
}

/// One kind of rows in the inbox.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InboxRows<'a> {
    /// `None`: no route took them.
    pub route: Option<&'a str>,
    pub state: &'static str,
    /// Empty where the state has none.
    pub reason: &'a str,
    pub rows: i64,
    pub oldest_age_seconds: f64,
}

/// The gauges of the inbox's rows, with a memory of the kinds that were there.
///
/// A kind whose last row went on is no longer counted by the database; without the memory its gauge would
/// show the last number for ever.
#[derive(Debug, Default)]
pub struct InboxGauges {
    seen: BTreeMap<(String, &'static str, String), bool>,
}

impl InboxGauges {
    /// Shows these kinds, and zero for all that were shown before and are not among them.
    pub fn show<'a>(&mut self, kinds: impl IntoIterator<Item = InboxRows<'a>>) {
        self.seen.values_mut().for_each(|there| *there = false);
        for kind in kinds {
            let route = kind.route.unwrap_or(NO_ROUTE);
            super::inbox(
                route,
                kind.state,
                kind.reason,
                kind.rows,
                kind.oldest_age_seconds,
            );
            let key = (route.to_owned(), kind.state, kind.reason.to_owned());
            self.seen.insert(key, true);
        }
        for ((route, state, reason), _) in self.seen.iter().filter(|(_, there)| !**there) {
            super::inbox(route, state, reason, 0, 0.0);
        }
    }
}
