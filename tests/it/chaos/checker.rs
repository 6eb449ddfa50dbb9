//! Counts effects where they are made: in the engine's history and in the shop's own book.
//!
//! Sluice's tables are asked only about themselves: whether rows are left that nobody drives, or used attempts. All that
//! was ever sent is counted each time, so that a late double of an earlier round shows.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sqlx::AssertSqlSafe;

use super::producer::Sent;
use crate::crash::shop::{Kind, Shop};

/// The variables that an order has when everything went well: its last payment, the receipt, and what the engine
/// notes about a task of several instances.
const VARIABLES: [&str; 6] = [
    "paid",
    "sluice_receipt",
    "loopCounter",
    "nrOfInstances",
    "nrOfActiveInstances",
    "nrOfCompletedInstances",
];

/// What is wrong; everything is empty when nothing is.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Messages without an effect.
    pub lost: Vec<String>,
    /// Messages with more than one, once for each that is too many.
    pub doubled: Vec<String>,
    /// Effects of messages that nobody sent.
    pub unknown: Vec<String>,
    /// Keys whose payments came in another order, with the order in which they came.
    pub out_of_order: Vec<String>,
    /// Rows of the inbox that are not done though there is nothing more to do.
    pub stranded: Vec<String>,
    /// Rows that used an attempt, though nothing but outages stood in their way.
    pub attempted: Vec<String>,
    /// What is left in the engine's tables beside receipts.
    pub residue: Vec<String>,
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        *self == Verdict::default()
    }
}

/// Looks at everything, when all has been done.
pub async fn look(shop: &Shop, sent: &Sent) -> Verdict {
    let process = shop.process();
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for (order, count) in shop.effects.started(&process).await {
        counts.insert(format!("placed-1-{order}"), count);
    }
    let paid = shop.effects.values(&process, "paid").await;
    for id in paid.values().flatten() {
        *counts.entry(id.clone()).or_default() += 1;
    }
    let noted = "SELECT id, count(*) FROM noted GROUP BY 1";
    let noted: Vec<(String, i64)> = sqlx::query_as(noted).fetch_all(&shop.inbox).await.unwrap();
    counts.extend(noted);
    let called = shop.effects.of(&process, "called").await;

    let mut verdict = Verdict {
        out_of_order: out_of_order(&paid, &sent.ordered),
        stranded: rows(shop, "state <> 'done'").await,
        attempted: rows(shop, "attempts > 0").await,
        residue: residue(shop).await,
        ..Verdict::default()
    };
    compare(&counts, sent, &mut verdict);
    compare_calls(&called, sent, &mut verdict);
    verdict
}

/// Messages whose effect tells which message it was.
fn compare(counts: &BTreeMap<String, i64>, sent: &Sent, verdict: &mut Verdict) {
    let told = |kind: Kind| kind != Kind::Called;
    for (id, (message, _)) in &sent.messages {
        match counts.get(id).copied().unwrap_or(0) {
            0 if told(message.kind) => verdict.lost.push(id.clone()),
            count => (1..count).for_each(|_| verdict.doubled.push(id.clone())),
        }
    }
    let unknown = counts.keys().filter(|id| !sent.messages.contains_key(*id));
    verdict.unknown.extend(unknown.cloned());
}

/// Calls, which carry nothing: an order had as many as it was sent.
fn compare_calls(called: &BTreeMap<String, i64>, sent: &Sent, verdict: &mut Verdict) {
    let mut expected: BTreeMap<&String, i64> = BTreeMap::new();
    for (message, _) in sent.messages.values() {
        if message.kind == Kind::Called {
            *expected.entry(&message.order).or_default() += 1;
        }
    }
    for (order, count) in &expected {
        let had = called.get(*order).copied().unwrap_or(0);
        let id = || format!("called-?-{order}");
        (had..*count).for_each(|_| verdict.lost.push(id()));
        (*count..had).for_each(|_| verdict.doubled.push(id()));
    }
    let unknown = called.keys().filter(|order| !expected.contains_key(order));
    verdict
        .unknown
        .extend(unknown.map(|order| format!("called-?-{order}")));
}

fn out_of_order(paid: &BTreeMap<String, Vec<String>>, ordered: &BTreeSet<String>) -> Vec<String> {
    let number = |id: &String| -> Option<u32> { id.split('-').nth(1)?.parse().ok() };
    paid.iter()
        .filter(|(order, _)| ordered.contains(*order))
        .filter(|(_, ids)| !ids.iter().map(number).is_sorted())
        .map(|(order, ids)| format!("{order}: {ids:?}"))
        .collect()
}

/// Rows of the inbox of which this is true, the first hundred of them.
async fn rows(shop: &Shop, is: &str) -> Vec<String> {
    let sql = format!(
        "SELECT concat_ws(' ', dedup_key, state, reason, 'attempts ' || attempts, detail)
           FROM inbox WHERE {is} ORDER BY id LIMIT 100"
    );
    let rows = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&shop.inbox);
    rows.await.expect("the inbox can be read")
}

async fn residue(shop: &Shop) -> Vec<String> {
    let left = shop.effects.residue(&VARIABLES).await;
    left.into_iter()
        .map(|(what, number)| format!("{number} × {what}"))
        .collect()
}

/// When effects happened, in seconds since 1970, and of those that tell which message it was, after how long.
pub struct Times {
    pub effects: Vec<f64>,
    pub waited: Vec<f64>,
}

pub async fn times(shop: &Shop, sent: &Sent) -> Times {
    let mut all = shop.effects.values_at(&shop.process(), "paid").await;
    let noted = "SELECT id, extract(epoch FROM at)::float8 FROM noted";
    let noted: Vec<(String, f64)> = sqlx::query_as(noted).fetch_all(&shop.inbox).await.unwrap();
    all.extend(noted);
    let mut times = Times {
        effects: all.iter().map(|(_, at)| *at).collect(),
        waited: Vec::new(),
    };
    times.effects.sort_by(f64::total_cmp);
    for (id, at) in &all {
        let Some((message, stored)) = sent.messages.get(id) else {
            continue;
        };
        // A payment cannot happen before its order is there, nor, where order is asked for, before the one
        // before it; the last part is left out.
        let placed = sent.messages.get(&format!("placed-1-{}", message.order));
        let placed = placed.map_or(*stored, |(_, at)| *at);
        let possible = (*stored).max(placed);
        times.waited.push((at - seconds(possible)).max(0.0));
    }
    times.waited.sort_by(f64::total_cmp);
    times
}

/// Since 1970.
pub fn seconds(at: chrono::DateTime<chrono::Utc>) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds of this century are exact"
    )]
    let milliseconds = at.timestamp_millis() as f64;
    milliseconds / 1000.0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Sent, Verdict, compare, compare_calls, out_of_order};
    use crate::crash::shop::messages;

    fn sent() -> Sent {
        let messages = messages(&["a".to_owned()], 1).into_iter();
        let now = chrono::Utc::now();
        Sent {
            messages: messages
                .map(|message| (message.id.clone(), (message, now)))
                .collect(),
            ordered: ["a".to_owned()].into(),
            ..Sent::default()
        }
    }

    fn exact(sent: &Sent) -> BTreeMap<String, i64> {
        let told = sent.messages.keys().filter(|id| !id.starts_with("called"));
        told.map(|id| (id.clone(), 1)).collect()
    }

    #[test]
    fn what_is_lost_doubled_or_unknown_is_named() {
        let sent = sent();
        let mut counts = exact(&sent);
        let mut verdict = Verdict::default();
        compare(&counts, &sent, &mut verdict);
        assert!(verdict.is_good(), "{verdict:?}");
        counts.remove("noted-1-a");
        counts.insert("paid-2-a".to_owned(), 3);
        counts.insert("paid-9-a".to_owned(), 1);
        compare(&counts, &sent, &mut verdict);
        assert_eq!(verdict.lost, ["noted-1-a"]);
        assert_eq!(verdict.doubled, ["paid-2-a", "paid-2-a"]);
        assert_eq!(verdict.unknown, ["paid-9-a"]);
    }

    #[test]
    fn calls_are_counted_by_order() {
        let of = |order: &str, count| BTreeMap::from([(order.to_owned(), count)]);
        let verdict = |called: &BTreeMap<String, i64>| {
            let mut verdict = Verdict::default();
            compare_calls(called, &sent(), &mut verdict);
            verdict
        };
        assert!(verdict(&of("a", 2)).is_good());
        assert_eq!(verdict(&of("a", 1)).lost.len(), 1);
        assert_eq!(verdict(&of("a", 4)).doubled.len(), 2);
        assert_eq!(verdict(&of("b", 1)).unknown, ["called-?-b"]);
    }

    #[test]
    fn payments_in_another_order_are_found_where_order_is_asked_for() {
        let paid = |ids: [&str; 2]| {
            let ids = ids.map(|id| format!("{id}-a")).to_vec();
            BTreeMap::from([("a".to_owned(), ids)])
        };
        let ordered = sent().ordered;
        let good = out_of_order(&paid(["paid-9", "paid-10"]), &ordered);
        assert!(good.is_empty());
        let bad = paid(["paid-2", "paid-1"]);
        assert_eq!(out_of_order(&bad, &ordered).len(), 1);
        assert!(out_of_order(&bad, &[].into()).is_empty());
    }
}
