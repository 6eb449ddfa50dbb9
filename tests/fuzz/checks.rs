//! What must hold whatever comes in: one check for each part that reads what strangers wrote.
//!
//! Shared by the fuzz targets and by the ordinary tests. A check panics when something does not hold; that
//! nothing panics by itself is the first thing that must.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use sluice::config::{Config, Look};
use sluice::engine::camunda_tables::model;
use sluice::mapping::{Expression, Subject, ValueType};
use sluice::message::{Content, Envelope, Message, Receipt, Text};
use sluice::route::{Route, Routes, Taken};
use sluice::source::OnUnrouted;
use sluice::source::prefix::Tracker;

/// Panics when something does not hold.
pub type Check = fn(&[u8]);

/// Name of the target and of its corpus, and its check.
pub const ALL: [(&str, Check); 7] = [
    ("content", content),
    ("decode", decode),
    ("expression", expression),
    ("prefix", prefix),
    ("config", config),
    ("model", model),
    ("stored", stored),
];

/// The first line, and what follows it.
fn line(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[]),
    }
}

/// A line with a content encoding (`topic` before it for Kafka), then a payload.
pub fn content(data: &[u8]) {
    const LIMIT: usize = 64 * 1024;
    let (encoding, payload) = line(data);
    let (topic, encoding) = match encoding.strip_prefix(b"topic ") {
        Some(encoding) => (Some("t".to_owned()), encoding),
        None => (None, encoding),
    };
    let envelope = Envelope {
        headers: vec![("content_encoding".to_owned(), Text::new(encoding.to_vec()))],
        topic,
        ..Envelope::default()
    };
    match Content::of(payload, &envelope, LIMIT) {
        Ok(content) => {
            assert!(content.unpacked().len() <= LIMIT || content.unpacked() == payload);
            assert!(content.unpacked().ends_with(content.json()));
        }
        Err(undecodable) => assert!(undecodable.detail.len() < 200),
    }
    let subject = Subject::new(payload, &envelope).bounded(LIMIT);
    if let Err(undecodable) = subject.json() {
        assert!(undecodable.detail.len() < 200);
    }
}

/// One route of each shape, chosen by a header.
static ROUTES: LazyLock<Routes> = LazyLock::new(|| {
    let route = |name: &str, text: &str| {
        let when = format!("when = {{ header = 'type', equals = '{name}' }}");
        let text = format!("source = 's'\nengine = 'e'\n{when}\n{text}");
        Route::new(name, toml::from_str(&text).expect("the route is valid"))
    };
    let all = [
        route("convention", ""),
        route(
            "correlate",
            "dedup_key = '$.id'\norder_by = '$..o'\n[correlate]\nmessage_name = '$.name'\nbusiness_key = '@key'\n\
             variables = { a = '$.a', b = { from = '$.b', type = 'date', optional = true }, all = { from = '$', type = 'json' } }",
        ),
        route(
            "start",
            "dedup_key = '@message_id'\n[start]\nprocess_definition_key = '$.a[0]'\n\
             variables = { n = { from = '$.n', type = 'long', optional = true }, d = { from = '$.d', type = 'double', optional = true } }",
        ),
        route(
            "apply",
            "dedup_key = '@coordinates'\n[apply]\nvariables = { x = { from = '$.x', type = 'bytes', optional = true } }",
        ),
    ];
    Routes::new([("s".to_owned(), OnUnrouted::Dead)], all)
});

/// A line with an envelope, then a payload.
pub fn decode(data: &[u8]) {
    let (envelope, payload) = line(data);
    let Ok(envelope) = serde_json::from_slice::<Envelope>(envelope) else {
        return;
    };
    let taken = || -> Option<Message> {
        match ROUTES.decode("s", &ROUTES.subject(payload, &envelope)) {
            Taken::Message(_, message) => Some(*message),
            Taken::Unusable { undecodable, .. } | Taken::Dead(undecodable) => {
                assert!(!undecodable.detail.is_empty());
                None
            }
            Taken::Ignored => unreachable!("the source ignores nothing"),
        }
    };
    let (first, again) = (taken(), taken());
    // Not by equality: a number that is none does not equal itself.
    assert_eq!(format!("{first:?}"), format!("{again:?}"));
    if let Some(message) = first {
        assert!(!message.dedup_key.text.is_empty());
        assert_ne!(message.order_key.as_deref(), Some(""));
    }
}

/// A line with an expression, then a payload.
pub fn expression(data: &[u8]) {
    let (text, payload) = line(data);
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let Ok(expression) = text.parse::<Expression>() else {
        return;
    };
    let envelope = Envelope {
        key: Some(Text::new("key")),
        topic: Some("topic".to_owned()),
        partition: Some(1),
        offset: Some(2),
        ..Envelope::default()
    };
    let subject = Subject::new(payload, &envelope);
    if let Ok(Some(found)) = expression.text(&subject) {
        assert!(!found.is_empty());
    }
    for wanted in [
        None,
        Some(ValueType::Boolean),
        Some(ValueType::Short),
        Some(ValueType::Integer),
        Some(ValueType::Long),
        Some(ValueType::Double),
        Some(ValueType::String),
        Some(ValueType::Date),
        Some(ValueType::Bytes),
        Some(ValueType::Json),
    ] {
        // What is wrong is told, and nothing else happens.
        drop(expression.value(&subject, wanted));
    }
}

/// What the tracker should know of a lane, in the simplest way.
#[derive(Default)]
struct Known {
    incarnation: u64,
    /// Delivered, and whether it is finished.
    delivered: Vec<(u64, bool)>,
}

impl Known {
    /// The last of the finished prefix.
    fn finished(&self) -> Option<u64> {
        let finished = self.delivered.iter().take_while(|(_, finished)| *finished);
        finished.last().map(|(tag, _)| *tag)
    }
}

/// Three bytes for each step: what is done, in which lane, with which tag.
pub fn prefix(data: &[u8]) {
    let mut tracker = Tracker::default();
    let mut known: BTreeMap<u32, Known> = BTreeMap::new();
    let mut receipts: Vec<Receipt> = Vec::new();
    let mut incarnations = 0;
    for step in data.chunks_exact(3) {
        let (lane, number) = (u32::from(step[1] % 3), usize::from(step[2]));
        match step[0] % 8 {
            0 => {
                incarnations += 1;
                tracker.begin(lane, incarnations);
                let fresh = Known {
                    incarnation: incarnations,
                    ..Known::default()
                };
                known.insert(lane, fresh);
            }
            1 => {
                let ended = tracker.end(lane);
                let expected = known.remove(&lane).and_then(|lane| lane.finished());
                assert_eq!(ended, expected, "where a lane ended");
            }
            2..=4 => {
                let tag = number as u64;
                let lane_known = known.get_mut(&lane);
                let last = lane_known.as_ref().and_then(|known| known.delivered.last());
                let rises = last.is_none_or(|(last, _)| *last < tag);
                match (tracker.deliver(lane, tag), lane_known) {
                    (Ok(receipt), Some(lane)) => {
                        assert!(rises, "an order that falls is refused");
                        lane.delivered.push((tag, false));
                        receipts.push(receipt);
                    }
                    (Err(_), lane) => assert!(lane.is_none() || !rises),
                    (Ok(_), None) => panic!("a lane that is not there delivered"),
                }
            }
            _ if receipts.is_empty() => {}
            _ => {
                let receipt = receipts.swap_remove(number % receipts.len());
                let (lane, tag) = (receipt.lane, receipt.tag);
                let lane_known = known
                    .get_mut(&lane)
                    .filter(|known| known.incarnation == receipt.incarnation);
                let grown = tracker.settle([receipt]);
                let Some(lane_known) = lane_known else {
                    assert!(grown.is_empty(), "a stale receipt acknowledges nothing");
                    continue;
                };
                let before = lane_known.finished();
                for (delivered, finished) in &mut lane_known.delivered {
                    *finished |= *delivered == tag;
                }
                let after = lane_known.finished();
                let told = grown.first().map(|grown| grown.upto);
                assert_eq!(
                    told,
                    after.filter(|_| after != before),
                    "the finished prefix"
                );
            }
        }
    }
}

/// A configuration file.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let environment = |name: &str| (name == "SET").then(|| "a \"value\"\n".to_owned());
    let report = match Config::parse("fuzz.toml", text, &environment) {
        Ok((_, report)) => {
            assert!(!report.has_errors());
            report
        }
        Err(report) => {
            assert!(report.has_errors());
            report
        }
    };
    let shown = report.render(Look::Plain);
    assert_eq!(shown.is_empty(), report.is_empty());
}

/// A deployed model.
pub fn model(data: &[u8]) {
    let Ok(processes) = model::read(data) else {
        return;
    };
    for process in processes {
        for name in process.message_names.iter().chain([&"other".to_owned()]) {
            let caught = process.catches(name);
            let single = process.single_token(name);
            assert!(caught || single.is_err() || process.has_name_expressions);
            let carried = process.carries_one(name, true);
            assert!(single.is_ok() || carried.is_err());
            drop(process.start_by_message(name));
        }
        drop(process.start_by_key());
    }
}

/// An envelope as a row holds it: what was read is written as it was.
pub fn stored(data: &[u8]) {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(data) else {
        return;
    };
    let written = envelope.to_json();
    let again: Envelope = serde_json::from_slice(&written).expect("what we wrote can be read");
    assert_eq!(again, envelope);
    assert_eq!(again.to_json(), written);
    drop(envelope.coordinates());
}
