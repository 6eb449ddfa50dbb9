//! What only a RabbitMQ source does.

use std::time::Duration;

use lapin::options::{BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use sluice::finding::Level;
use sluice::message::Text;
use sluice::source::rabbitmq::{Rabbitmq, RabbitmqConfig};
use sluice::source::{Source, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::brokers::{cut, rabbitmq_node};
use super::{ALL, LIMIT, next, numbers, payloads, receipts, settle, take};
use crate::daemon::{Config, Daemon};
use crate::rig::{Queue, QueueKind, Rig, eventually, headers, unique};

async fn open(node: &Rabbitmq) -> Box<dyn Stream> {
    node.open().await.expect("the source opens")
}

async fn publish(queue: &Queue, range: std::ops::Range<usize>) {
    let messages = range.map(|n| (n.to_string().into_bytes(), BasicProperties::default()));
    queue.publish_all(messages.collect()).await;
}

#[tokio::test]
async fn deliveries_of_a_lost_connection_come_again_flagged_and_counted_by_quorum_queues() {
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let queue = Rig::get().queue(kind).await;
        let properties = BasicProperties::default().with_headers(headers(&[("type", "Paid")]));
        queue.publish(b"1", properties).await;
        let node = rabbitmq_node(&queue, "", false);
        let mut stream = open(&node).await;
        let first = take(&mut stream, 1).await.remove(0);
        assert!(!first.redelivered);
        assert_eq!(first.envelope.delivery_count.unwrap_or(0), 0);

        cut(&queue, &mut stream).await;
        let settled = stream.settle(vec![first.receipt]).await;
        assert!(
            settled.is_err(),
            "an acknowledgement on a dead connection is told"
        );
        drop(stream);

        let mut stream = open(&node).await;
        let again = take(&mut stream, 1).await.remove(0);
        assert!(again.redelivered);
        let counted = (kind == QueueKind::Quorum).then_some(1);
        assert_eq!(again.envelope.delivery_count, counted, "{kind:?}");
        assert_eq!(again.envelope.headers, first.envelope.headers);
        settle(&mut stream, vec![again]).await;
        queue.wait_until_empty(LIMIT).await;
        stream.close().await;
    }
}

#[tokio::test]
async fn a_deleted_queue_needs_an_operator_until_it_is_back() {
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let queue = Rig::get().queue(kind).await;
        let node = rabbitmq_node(&queue, "", false);
        let mut stream = open(&node).await;
        queue.delete().await;
        let ended = tokio::time::timeout(LIMIT, stream.next(ALL)).await;
        let ended = ended.expect("the stream ends with its queue");
        let told = ended.expect_err("nothing can come").to_string();
        assert!(told.contains(queue.name()), "{told}");
        stream.close().await;

        let missing = node.open().await.err().expect("there is no queue");
        assert!(missing.needs_operator, "{missing:?}");

        queue.declare().await;
        publish(&queue, 0..1).await;
        let mut stream = open(&node).await;
        let taken = take(&mut stream, 1).await;
        settle(&mut stream, taken).await;
        stream.close().await;
    }
}

#[tokio::test]
async fn a_refused_password_needs_an_operator_and_is_never_printed() {
    let uri = Rig::get().rabbitmq.uri().replace(":guest@", ":hunter2@");
    let table = format!("uris = ['{uri}']\nqueue = 'q'");
    let config: RabbitmqConfig = toml::from_str(&table).expect("the table is well formed");
    assert!(!format!("{config:?}").contains("hunter2"));
    let node = Rabbitmq::new(unique().into(), config, false, "test");
    let refused = node.open().await.err().expect("the password is wrong");
    assert!(refused.needs_operator, "{refused:?}");
    assert!(!format!("{refused:?} {refused}").contains("hunter2"));

    let wrong = "uris = ['ampq://guest:hunter2@host']\nqueue = 'q'";
    let config: RabbitmqConfig = toml::from_str(wrong).expect("the table is well formed");
    let mistakes = config.validate();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert_eq!(mistakes[0].path, "uris[0]");
    assert!(!mistakes[0].what.contains("hunter2"), "{mistakes:?}");
}

#[tokio::test]
async fn after_a_failure_the_next_uri_is_tried() {
    let queue = Rig::get().queue(QueueKind::Classic).await;
    let table = format!(
        "uris = ['amqp://127.0.0.1:1/%2f', '{}']\nqueue = '{}'",
        queue.uri(),
        queue.name()
    );
    let config: RabbitmqConfig = toml::from_str(&table).expect("the table is well formed");
    let node = Rabbitmq::new(unique().into(), config, false, "test");
    let refused = node.open().await.err().expect("nobody listens on port 1");
    assert!(!refused.needs_operator, "{refused:?}");
    assert!(refused.to_string().contains("127.0.0.1:1/"), "{refused}");
    open(&node).await.close().await;
}

#[tokio::test]
async fn a_declared_queue_is_made_and_another_shape_of_it_needs_an_operator() {
    let name = unique();
    let uri = Rig::get().rabbitmq.uri();
    let node = |declare: &str| {
        let table = format!("uris = ['{uri}']\nqueue = '{name}'\ndeclare = {declare}");
        let config: RabbitmqConfig = toml::from_str(&table).expect("the table is well formed");
        assert_eq!(config.validate(), []);
        Rabbitmq::new(unique().into(), config, false, "test")
    };
    let quorum = node("{ type = 'quorum', arguments = { x-delivery-limit = 50 } }");
    open(&quorum).await.close().await;
    open(&quorum).await.close().await;
    let other = node("{ type = 'classic' }").open().await;
    let refused = other.err().expect("the queue is a quorum queue");
    assert!(refused.needs_operator, "{refused:?}");
    let (_connection, channel) = channel().await;
    let deleted = channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default());
    deleted.await.expect("the queue can be deleted");
}

/// Of two consumers of an ordered queue the active one ends somehow, with ten deliveries in hand of
/// which it has settled four.
async fn nobody_overtakes(end: impl AsyncFn(Box<dyn Stream>)) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let broker = &Rig::get().rabbitmq;
        let queue = broker.queue_with(kind, arguments.clone()).await;
        publish(&queue, 0..50).await;
        let mut active = open(&rabbitmq_node(&queue, "prefetch_count = 10", true)).await;
        let mut held = take(&mut active, 10).await;
        let mut standby = open(&rabbitmq_node(&queue, "prefetch_count = 10", true)).await;
        drop(held.split_off(4));
        settle(&mut active, held).await;
        end(active).await;

        let mut seen = Vec::new();
        while seen.len() < 46 {
            let taken = next(&mut standby, ALL).await;
            seen.extend(payloads(&taken));
            settle(&mut standby, taken).await;
        }
        assert_eq!(seen, numbers(4..50), "{kind:?}");
        standby.close().await;
    }
}

#[tokio::test]
async fn closing_an_ordered_stream_lets_nobody_overtake() {
    nobody_overtakes(async |stream| stream.close().await).await;
}

#[tokio::test]
async fn dropping_an_ordered_stream_lets_nobody_overtake() {
    nobody_overtakes(async |stream| drop(stream)).await;
}

#[tokio::test]
async fn unacknowledged_deliveries_are_bounded_by_the_prefetch_count() {
    let queue = Rig::get().queue(QueueKind::Quorum).await;
    publish(&queue, 0..100).await;
    let mut stream = open(&rabbitmq_node(&queue, "prefetch_count = 7", false)).await;
    let held = take(&mut stream, 7).await;
    assert_eq!(queue.ready().await, 93, "the broker keeps the rest");
    settle(&mut stream, held).await;
    let more = take(&mut stream, 7).await;
    assert_eq!(payloads(&more), numbers(7..14));
    stream.close().await;
}

#[tokio::test]
async fn unacknowledged_deliveries_are_bounded_by_their_bytes_too() {
    let queue = Rig::get().queue(QueueKind::Quorum).await;
    let large: Vec<Vec<u8>> = (0..8_u8).map(|n| vec![b'0' + n; 400 << 10]).collect();
    let messages = large
        .iter()
        .map(|payload| (payload.clone(), BasicProperties::default()));
    queue.publish_all(messages.collect()).await;
    let node = rabbitmq_node(&queue, "prefetch = '1MiB'", false);

    let mut stream = open(&node).await;
    let given_back = tokio::time::timeout(LIMIT, stream.idle()).await;
    let given_back = given_back.expect("it holds too much").to_string();
    assert!(
        given_back.contains("more than prefetch = 1MiB") && given_back.contains("asking for 2"),
        "{given_back}"
    );
    drop(stream);

    let mut stream = open(&node).await;
    let mut came = Vec::new();
    while came.len() < large.len() {
        let batch = take(&mut stream, 1).await;
        assert!(queue.ready().await as usize >= large.len().saturating_sub(came.len() + 3));
        came.extend(batch.iter().map(|delivery| delivery.payload.to_vec()));
        settle(&mut stream, batch).await;
    }
    assert_eq!(came, large);
    stream.close().await;
}

#[tokio::test]
async fn an_ordered_stream_that_holds_too_much_gives_back_in_order() {
    let mut arguments = FieldTable::default();
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let queue = Rig::get()
            .rabbitmq
            .queue_with(kind, arguments.clone())
            .await;
        let large = (0..8_u8).map(|n| (vec![b'0' + n; 400 << 10], BasicProperties::default()));
        queue.publish_all(large.collect()).await;
        let mut active = open(&rabbitmq_node(&queue, "prefetch = '1MiB'", true)).await;
        let mut standby = open(&rabbitmq_node(&queue, "", true)).await;
        let given_back = tokio::time::timeout(LIMIT, active.idle()).await;
        given_back.expect("it holds too much");

        let mut seen = Vec::new();
        while seen.len() < 8 {
            let taken = next(&mut standby, ALL).await;
            seen.extend(taken.iter().map(|delivery| delivery.payload[0]));
            settle(&mut standby, taken).await;
        }
        assert_eq!(seen, *b"01234567", "{kind:?}");
        standby.close().await;
        active.close().await;
    }
}

#[tokio::test]
async fn a_broker_that_never_speaks_is_left_alone() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let table = format!(
        "uris = ['amqp://guest:guest@{}']\nqueue = 'none'\nconnect_timeout = '300ms'",
        listener.local_addr().unwrap()
    );
    let config: RabbitmqConfig = toml::from_str(&table).expect("the table is well formed");
    let node = Rabbitmq::new(unique().into(), config, false, "test");
    let opening = tokio::spawn(async move { node.open().await.map(drop) });
    let (mut silent, _) = listener.accept().await.unwrap();
    let mut header = Vec::new();
    let hung_up = tokio::time::timeout(LIMIT, silent.read_to_end(&mut header)).await;
    hung_up.expect("it hangs up").unwrap();
    assert_eq!(header, b"AMQP\0\0\x09\x01");
    opening.await.unwrap().expect_err("nobody answered");
    let again = tokio::time::timeout(Duration::from_secs(3), listener.accept()).await;
    assert!(again.is_err(), "the client goes on by itself");
}

#[tokio::test]
async fn a_stream_queue_is_refused() {
    let (_connection, channel) = channel().await;
    let name = unique();
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("stream".into()),
    );
    channel
        .queue_declare(
            name.as_str().into(),
            QueueDeclareOptions::durable(),
            arguments,
        )
        .await
        .expect("the broker has streams");
    let uri = Rig::get().rabbitmq.uri();
    let table = format!("uris = ['{uri}']\nqueue = '{name}'");
    let config: RabbitmqConfig = toml::from_str(&table).expect("the table is well formed");
    let node = Rabbitmq::new(unique().into(), config, false, "test");
    let mut stream = open(&node).await;
    channel
        .basic_publish(
            "".into(),
            name.as_str().into(),
            BasicPublishOptions::default(),
            b"1",
            BasicProperties::default(),
        )
        .await
        .expect("the broker takes it");
    let ended = tokio::time::timeout(LIMIT, stream.next(ALL)).await;
    let ended = ended.expect("the stream ends").expect_err("with an error");
    assert!(ended.needs_operator, "{ended:?}");
    assert!(ended.to_string().contains("is a stream"), "{ended}");
    drop(stream);
    let deleted = channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default());
    deleted.await.expect("the queue can be deleted");
}

#[tokio::test]
async fn properties_become_the_envelope() {
    let queue = Rig::get().queue(QueueKind::Classic).await;
    let mut table = headers(&[("tenant", "acme")]);
    table.insert("attempt".into(), AMQPValue::LongInt(3));
    let properties = BasicProperties::default()
        .with_headers(table)
        .with_type("Paid".into())
        .with_message_id("m-1".into())
        .with_correlation_id("c-1".into())
        .with_content_type("application/json".into())
        .with_timestamp(1_700_000_000);
    queue.publish(b"{}", properties).await;
    let mut stream = open(&rabbitmq_node(&queue, "", false)).await;
    let envelope = take(&mut stream, 1).await.remove(0).envelope;
    let header = |name| envelope.header(name).and_then(Text::as_str);
    assert_eq!(header("tenant"), Some("acme"));
    assert_eq!(header("attempt"), Some("3"));
    assert_eq!(header("type"), Some("Paid"));
    assert_eq!(envelope.message_id.as_deref(), Some("m-1"));
    assert_eq!(envelope.correlation_id.as_deref(), Some("c-1"));
    assert_eq!(envelope.content_type.as_deref(), Some("application/json"));
    assert_eq!(envelope.routing_key.as_deref(), Some(queue.name()));
    assert_eq!(envelope.timestamp, Some(1_700_000_000_000));
    assert_eq!(envelope.coordinates(), None);
    stream.close().await;
}

#[tokio::test]
async fn a_look_at_the_queue_takes_nothing_from_it() {
    let queue = Rig::get().queue(QueueKind::Classic).await;
    publish(&queue, 0..3).await;
    let found = rabbitmq_node(&queue, "", true).inspect().await;
    let found = found.expect("the broker answers");
    assert!(found[0].text.contains("3 messages"), "{found:?}");
    let warned = found
        .iter()
        .any(|f| f.level == Level::Warning && f.text.contains("x-single-active-consumer"));
    assert!(warned, "{found:?}");
    assert_eq!(queue.ready().await, 3);
    queue.delete().await;
    let missing = rabbitmq_node(&queue, "", true).inspect().await;
    assert!(missing.expect_err("there is no queue").needs_operator);
    queue.declare().await;
}

#[tokio::test]
async fn the_management_api_tells_what_amqp_does_not() {
    let mut arguments = FieldTable::default();
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(7));
    let broker = &Rig::get().rabbitmq;
    let queue = broker.queue_with(QueueKind::Quorum, arguments).await;
    let api = std::env::var("SLUICE_TEST_RABBIT_API").expect("the rig has an API");
    let node = rabbitmq_node(&queue, &format!("management_url = '{api}'"), true);
    let found = node.inspect().await.expect("the broker answers");
    let told = |level: Level, words: &str| {
        let said = found
            .iter()
            .any(|f| f.level == level && f.text.contains(words));
        assert!(said, "{words:?} is not in {found:?}");
    };
    told(Level::Info, "is of type quorum");
    told(Level::Warning, "after 7 deliveries");
    told(Level::Error, "x-single-active-consumer");

    let wrong = api.replace("guest:guest", "guest:hunter2");
    let node = rabbitmq_node(&queue, &format!("management_url = '{wrong}'"), false);
    let found = node.inspect().await.expect("the broker answers");
    let refused = found.iter().find(|f| f.text.contains("management API"));
    let refused = refused.expect("a refused password is told");
    assert_eq!(refused.level, Level::Warning);
    assert!(!refused.text.contains("hunter2"), "{refused:?}");
}

#[tokio::test]
async fn settling_on_a_closed_stream_is_an_error_only_where_something_was_to_be_acknowledged() {
    let queue = Rig::get().queue(QueueKind::Classic).await;
    publish(&queue, 0..2).await;
    let node = rabbitmq_node(&queue, "", false);
    let mut stream = open(&node).await;
    let mut held = receipts(take(&mut stream, 2).await);
    cut(&queue, &mut stream).await;
    let second = held.pop().expect("two were taken");
    assert!(
        stream.settle(vec![second]).await.is_ok(),
        "the first one is open still"
    );
    assert!(stream.settle(held).await.is_err());
}

async fn channel() -> (Connection, Channel) {
    let uri = Rig::get().rabbitmq.uri();
    let connection = Connection::connect(uri, ConnectionProperties::default()).await;
    let connection = connection.expect("the broker takes connections");
    let channel = connection.create_channel().await.expect("and channels");
    (connection, channel)
}

/// The client refuses such bytes, so this one speaks the protocol itself.
#[tokio::test]
async fn a_property_that_is_not_utf8_needs_an_operator_instead_of_a_hot_loop() {
    let queue = Rig::get().queue(QueueKind::Classic).await;
    publish_raw_correlation_id(&queue, &[0xff, 0xfe]).await;
    let node = rabbitmq_node(&queue, "", false);
    let mut stream = open(&node).await;
    let ended = tokio::time::timeout(LIMIT, stream.next(ALL)).await;
    let ended = ended.expect("the stream ends").expect_err("with an error");
    assert!(ended.needs_operator, "{ended:?}");
    assert!(ended.to_string().contains("UTF-8"), "{ended}");
    eventually("the broker having it back", LIMIT, async || {
        (queue.ready().await == 1).then_some(())
    })
    .await;
}

/// Each time a connection ends, a quorum queue counts another attempt of all that was sent on it, and at its limit
/// it drops them.
#[tokio::test]
async fn a_delivery_that_nobody_can_read_stops_its_source_before_the_queue_drops_its_neighbours() {
    let mut arguments = FieldTable::default();
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(3));
    let rig = Rig::get();
    let queue = rig.rabbitmq.queue_with(QueueKind::Quorum, arguments).await;
    publish_raw_correlation_id(&queue, &[0xff, 0xfe]).await;
    publish(&queue, 0..10).await;
    let config = Config::on(&rig.schema())
        .rabbitmq("queue", &queue, "")
        .camunda_tables("shop", "")
        .with("[routes.any]\nsource = 'queue'\nengine = 'shop'\n");
    let daemon = Daemon::spawn(&config, &[]).await;
    eventually("the source being stopped", LIMIT, async || {
        let stopped = "the source stops until the next start";
        daemon.log().contains(stopped).then_some(())
    })
    .await;
    let (_, ready) = daemon.get("/health/ready").await.expect("it answers");
    assert!(ready.contains("UTF-8"), "{ready}");
    // It would be opened every five seconds.
    tokio::time::sleep(Duration::from_secs(20)).await;
    daemon.stop().await;
    eventually("the queue having everything", LIMIT, async || {
        (queue.ready().await == 11).then_some(())
    })
    .await;
}

async fn publish_raw_correlation_id(queue: &Queue, correlation_id: &[u8]) {
    let address = queue
        .uri()
        .rsplit('@')
        .next()
        .and_then(|rest| rest.split('/').next());
    let stream = TcpStream::connect(address.expect("the URI has a host")).await;
    let mut stream = stream.expect("the broker listens");
    stream
        .write_all(b"AMQP\x00\x00\x09\x01")
        .await
        .expect("the broker reads");
    let short = |text: &[u8]| [&[u8::try_from(text.len()).expect("short")], text].concat();
    let long = |text: &[u8]| {
        [
            &u32::try_from(text.len()).expect("short").to_be_bytes(),
            text,
        ]
        .concat()
    };
    let method = |class: u16, method: u16, parts: &[Vec<u8>]| {
        [
            &class.to_be_bytes()[..],
            &method.to_be_bytes(),
            &parts.concat(),
        ]
        .concat()
    };
    answer(&mut stream).await;
    let start_ok = [
        long(b""),
        short(b"PLAIN"),
        long(b"\0guest\0guest"),
        short(b"en_US"),
    ];
    frame(&mut stream, 1, 0, &method(10, 11, &start_ok)).await;
    answer(&mut stream).await;
    let tune_ok = vec![7, 255, 0, 2, 0, 0, 0, 0];
    frame(&mut stream, 1, 0, &method(10, 31, &[tune_ok])).await;
    frame(
        &mut stream,
        1,
        0,
        &method(10, 40, &[short(b"/"), short(b""), vec![0]]),
    )
    .await;
    answer(&mut stream).await;
    frame(&mut stream, 1, 1, &method(20, 10, &[short(b"")])).await;
    answer(&mut stream).await;
    let to = [
        vec![0, 0],
        short(b""),
        short(queue.name().as_bytes()),
        vec![0],
    ];
    frame(&mut stream, 1, 1, &method(60, 40, &to)).await;
    // Class, weight, size of the body, the flag of correlation_id, its value.
    let header = [
        &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0x04, 0x00][..],
        &short(correlation_id),
    ];
    frame(&mut stream, 2, 1, &header.concat()).await;
    frame(&mut stream, 3, 1, b"{}").await;
    // The channel's close is answered once everything before it is done.
    frame(
        &mut stream,
        1,
        1,
        &method(20, 40, &[vec![0, 200], short(b""), vec![0; 4]]),
    )
    .await;
    answer(&mut stream).await;
}

async fn frame(stream: &mut TcpStream, kind: u8, channel: u8, payload: &[u8]) {
    let size = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let whole = [&[kind, 0, channel][..], &size, payload, &[0xce]].concat();
    stream.write_all(&whole).await.expect("the broker reads");
}

async fn answer(stream: &mut TcpStream) {
    let mut head = [0; 7];
    stream
        .read_exact(&mut head)
        .await
        .expect("the broker answers");
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let mut rest = vec![0; usize::try_from(size).expect("short") + 1];
    stream
        .read_exact(&mut rest)
        .await
        .expect("the broker answers");
}
