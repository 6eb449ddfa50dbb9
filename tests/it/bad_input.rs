//! What no producer should send, and somebody does: each ends as it is promised, its neighbours of the
//! same batch commit, and the daemon lives.

mod cases;
mod refused;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString};
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::daemon::{Config, Daemon, LIMIT};
use crate::effects::Effects;
use crate::rig::{Deployment, QueueKind, Rig, Topic};
use crate::stored::{Inbox, Stored};
use cases::{Case, Wanted};

/// A name that means something in XML, JSON, SQL and TOML.
const QUOTED: &str = r#"Robert'); DROP TABLE "inbox"; -- & <ok> $1 {0}"#;

/// A process that begins with a message of that name.
fn quoted_model() -> (String, String) {
    let escaped = QUOTED
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;");
    let text = format!(
        r#"<definitions xmlns="http://www.omg.org/spec/BPMN/20100524/MODEL" targetNamespace="sluice.test">
             <message id="m" name="{escaped}_suffix"/>
             <process id="quoted_suffix" isExecutable="true">
               <startEvent id="start"><messageEventDefinition messageRef="m"/></startEvent>
               <userTask id="after"/>
               <sequenceFlow id="flow" sourceRef="start" targetRef="after"/>
             </process>
           </definitions>"#
    );
    ("quoted".to_owned(), text)
}

fn route(source: &str) -> String {
    format!(
        r#"
        [routes.from-{source}]
        source = "{source}"
        engine = "shop"
        dedup_key = "$.id"
        [routes.from-{source}.correlate]
        message_name = "$.name"
        business_key = "$.key"
        on_no_match = "start"
        [routes.from-{source}.correlate.variables]
        text = {{ from = "$.text", optional = true }}
        number = {{ from = "$.number", optional = true }}
        exact = {{ from = "$.exact", type = "json", optional = true }}
        count = {{ from = "$.count", type = "integer", optional = true }}
        header = {{ from = "@header.text", optional = true }}
        "#
    )
}

#[tokio::test]
async fn nothing_is_dropped_of_bad_input_and_its_neighbours_commit() {
    let rig = Rig::get();
    let engine = rig.engine();
    let plain = engine.deploy(&["message-start"]).await;
    let quoted = engine
        .deploy_texts(plain.suffix(), vec![quoted_model()], None)
        .await;
    let schema = rig.schema();
    let queue = rig.queue(QueueKind::Classic).await;
    let topic = rig.topic(1).await;
    // Everything is there before the daemon is, so that good and bad share their batches.
    let from_queue = cases::all("queue", &plain, QUOTED, false);
    let from_topic = cases::all("topic", &plain, QUOTED, true);
    queue
        .publish_all(from_queue.iter().map(for_rabbitmq).collect())
        .await;
    produce(&topic, &from_topic).await;

    let config = Config::on(&schema)
        .rabbitmq("queue", &queue, "")
        .kafka("topic", &topic, "")
        .camunda_tables("shop", "")
        .with(&route("queue"))
        .with(&route("topic"));
    let daemon = Daemon::start(&config, &[]).await;
    let sent = from_queue.len() + from_topic.len();
    daemon.until_count("sluice_messages_total", &[], sent).await;
    queue.wait_until_empty(LIMIT).await;
    topic.wait_until_committed(topic.name(), LIMIT).await;

    let inbox = Inbox::of(&schema).await;
    let rows = inbox.rows().await;
    for (source, cases) in [("queue", &from_queue), ("topic", &from_topic)] {
        for case in cases {
            check(source, case, &rows);
        }
    }
    assert_eq!(rows.len(), from_queue.len() + from_topic.len());
    effects_are_those_of_the_good(&[&from_queue, &from_topic], &plain, &quoted).await;
    assert!(daemon.ready().await);
    daemon.stop().await;
}

/// The row of a case holds what was sent, byte for byte, and is what was promised.
fn check(source: &str, case: &Case, rows: &[Stored]) {
    let named = |row: &&Stored| {
        row.source == source && row.header("case").is_some_and(|label| label == case.label)
    };
    let mut found = rows.iter().filter(named);
    let (Some(row), None) = (found.next(), found.next()) else {
        panic!("{source}, {}: expected one row", case.label);
    };
    let wanted = match case.wanted {
        Wanted::Effect(_) => "done".to_owned(),
        Wanted::Dead(reason) => format!("dead {reason}"),
        Wanted::Waiting(reason) => format!("waiting {reason}"),
    };
    assert_eq!(row.is(), wanted, "{source}, {}: {}", case.label, row.detail);
    assert!(
        row.payload.as_deref() == Some(case.payload.as_deref().unwrap_or_default()),
        "{source}, {}: the payload was changed",
        case.label
    );
    if let Some(header) = &case.header {
        let expected = sluice::message::Text::new(header.clone());
        let expected = serde_json::to_value(expected).unwrap();
        assert!(
            row.header("text") == Some(expected),
            "{source}, {}: the header was changed",
            case.label
        );
    }
    // What is said about a dead message never quotes it.
    assert!(row.detail.len() < 300, "{source}, {}", case.label);
    assert!(!row.detail.contains(cases::SECRET), "{}", row.detail);
}

async fn effects_are_those_of_the_good(
    cases: &[&Vec<Case>],
    plain: &Deployment,
    quoted: &Deployment,
) {
    let effects = Effects::at(&Rig::get().engine_database_url()).await;
    let (mut of_plain, mut of_quoted) = (Vec::new(), Vec::new());
    for case in cases.iter().flat_map(|cases| cases.iter()) {
        match &case.wanted {
            Wanted::Effect(key) if case.label == "name with quotes" => of_quoted.push(key.clone()),
            Wanted::Effect(key) => of_plain.push(key.clone()),
            Wanted::Dead(_) | Wanted::Waiting(_) => {}
        }
    }
    let start = |models: &Deployment, process: &str| models.name(process);
    effects
        .exactly(&start(plain, "message-start"), "start", &of_plain, 1, LIMIT)
        .await;
    effects
        .exactly(&start(quoted, "quoted"), "start", &of_quoted, 1, LIMIT)
        .await;
}

fn for_rabbitmq(case: &Case) -> (Vec<u8>, BasicProperties) {
    let mut headers = FieldTable::default();
    headers.insert("case".into(), AMQPValue::LongString(case.label.into()));
    if let Some(header) = &case.header {
        let value = AMQPValue::LongString(LongString::from(header.clone()));
        headers.insert("text".into(), value);
    }
    let payload = case.payload.clone().unwrap_or_default();
    let properties = BasicProperties::default().with_headers(headers);
    match case.encoding {
        Some(encoding) => (payload, properties.with_content_encoding(encoding.into())),
        None => (payload, properties),
    }
}

/// Headers of any bytes, and records without a payload.
async fn produce(topic: &Topic, cases: &[Case]) {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", topic.bootstrap())
        .set("message.max.bytes", "20000000")
        .create()
        .unwrap();
    let mut sent = Vec::new();
    for case in cases {
        let mut headers = OwnedHeaders::new().insert(Header {
            key: "case",
            value: Some(case.label),
        });
        if let Some(header) = &case.header {
            // The last one of a name counts; the others are kept beside it.
            for value in [b"an earlier header of this name".as_slice(), header] {
                headers = headers.insert(Header {
                    key: "text",
                    value: Some(value),
                });
            }
        }
        if let Some(encoding) = case.encoding {
            headers = headers.insert(Header {
                key: "content-encoding",
                value: Some(encoding),
            });
        }
        let mut record: FutureRecord<'_, str, [u8]> =
            FutureRecord::to(topic.name()).headers(headers);
        record.payload = case.payload.as_deref();
        sent.push(
            producer
                .send_result(record)
                .map_err(|(error, _)| error)
                .unwrap(),
        );
    }
    for sent in sent {
        sent.await.unwrap().map_err(|(error, _)| error).unwrap();
    }
}
