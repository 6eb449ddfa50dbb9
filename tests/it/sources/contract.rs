//! What every source does, whatever its broker.

use std::collections::BTreeSet;
use std::time::Duration;

use sluice::message::Text;
use sluice::source::{Limits, Source, Stream};

use super::brokers::{Broker, KafkaGroup, Rabbit};
use super::{ALL, LIMIT, next, numbers, payloads, receipts, settle, take};
use crate::rig::eventually;

macro_rules! on_every_broker {
    ($($behaviour:ident)*) => {
        on_every_broker!(rabbitmq_classic_queue: Rabbit<false>; $($behaviour)*);
        on_every_broker!(rabbitmq_quorum_queue: Rabbit<true>; $($behaviour)*);
        on_every_broker!(kafka_classic_group: KafkaGroup<false>; $($behaviour)*);
        on_every_broker!(kafka_consumer_group: KafkaGroup<true>; $($behaviour)*);
    };
    ($name:ident: $broker:ty; $($behaviour:ident)*) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    super::$behaviour::<$broker>().await;
                }
            )*
        }
    };
}

on_every_broker! {
    bytes_and_headers_arrive_exactly
    a_later_batch_that_finished_first_acknowledges_nothing_when_the_connection_dies
    what_is_settled_does_not_come_again
    receipts_of_a_lost_stream_acknowledge_nothing_on_the_next_one
    a_batch_keeps_to_its_limits
    a_wait_that_is_given_up_loses_nothing
    a_stream_that_idles_outlives_its_session_and_takes_nothing
    two_nodes_share_the_work_and_lose_nothing
    closing_gives_the_rest_back
    restarts_in_the_middle_lose_nothing
    nothing_is_lost_when_the_broker_is_killed
}

async fn open(node: &dyn Source) -> Box<dyn Stream> {
    let opened = tokio::time::timeout(LIMIT, node.open()).await;
    opened
        .expect("the broker answers")
        .expect("the source opens")
}

async fn bytes_and_headers_arrive_exactly<B: Broker>() {
    let broker = B::fresh().await;
    let sent: Vec<Vec<u8>> = vec![
        br#"{"orderId": "A-1", "amount": 1.50}"#.to_vec(),
        Vec::new(),
        b"<order/>".to_vec(),
        vec![0, 1, 0xff, 0xfe, 0, b'"', b'\\'],
        "žluťoučký \u{1F980} \u{0}".as_bytes().to_vec(),
        vec![b'x'; 1_000_000],
    ];
    let headers = [
        ("type", "Paid"),
        ("X-Ünïcode", "€ \"quoted\" \\ \t"),
        ("empty", ""),
    ];
    broker.produce(&sent, &headers).await;

    let mut stream = open(&*broker.node()).await;
    let taken = take(&mut stream, sent.len()).await;
    let received: Vec<Vec<u8>> = taken.iter().map(|d| d.payload.to_vec()).collect();
    assert_eq!(received, sent);
    for delivery in &taken {
        let found: BTreeSet<(&str, Option<&str>)> = delivery
            .envelope
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), Text::as_str(value)))
            .collect();
        let expected = headers.map(|(name, value)| (name, Some(value)));
        assert_eq!(found, BTreeSet::from(expected));
        assert!(!delivery.redelivered);
    }
    stream.close().await;
}

async fn a_later_batch_that_finished_first_acknowledges_nothing_when_the_connection_dies<
    B: Broker,
>() {
    let broker = B::fresh().await;
    broker.produce_numbers(0..6).await;
    let node = broker.node();

    let mut stream = open(&*node).await;
    let earlier = take(&mut stream, 3).await;
    let later = take(&mut stream, 3).await;
    settle(&mut stream, later).await;
    broker.cut(&mut stream).await;
    drop(stream);
    drop(earlier);

    let mut stream = open(&*node).await;
    let again = take(&mut stream, 6).await;
    assert_eq!(payloads(&again), numbers(0..6));

    // The other way round: the earlier batch closes the gap, and all six are acknowledged.
    let mut again = receipts(again);
    let later = again.split_off(3);
    stream.settle(later).await.expect("the broker listens");
    stream.settle(again).await.expect("the broker listens");
    broker.wait_until_acknowledged().await;
    stream.close().await;
}

async fn what_is_settled_does_not_come_again<B: Broker>() {
    let broker = B::fresh().await;
    let node = broker.node();
    broker.produce_numbers(0..4).await;
    let mut stream = open(&*node).await;
    let taken = take(&mut stream, 4).await;
    settle(&mut stream, taken).await;
    broker.wait_until_acknowledged().await;
    stream.close().await;

    broker.produce_numbers(4..6).await;
    let mut stream = open(&*node).await;
    let taken = take(&mut stream, 2).await;
    assert_eq!(payloads(&taken), numbers(4..6));
    settle(&mut stream, taken).await;
    broker.wait_until_acknowledged().await;
    stream.close().await;
}

async fn receipts_of_a_lost_stream_acknowledge_nothing_on_the_next_one<B: Broker>() {
    let broker = B::fresh().await;
    broker.produce_numbers(0..3).await;
    let node = broker.node();
    let mut stream = open(&*node).await;
    let stale = receipts(take(&mut stream, 3).await);
    drop(stream);

    let mut stream = open(&*node).await;
    let again = take(&mut stream, 3).await;
    // The broker's own numbers are the same: only the incarnation tells them apart.
    let tags = |receipts: &[sluice::message::Receipt]| -> Vec<(u32, u64)> {
        receipts.iter().map(|r| (r.lane, r.tag)).collect()
    };
    let fresh = receipts(again);
    assert_eq!(tags(&stale), tags(&fresh));
    assert_ne!(stale, fresh);
    stream
        .settle(stale)
        .await
        .expect("a stale receipt is no error");
    drop(stream);

    let mut stream = open(&*node).await;
    let again = take(&mut stream, 3).await;
    assert_eq!(payloads(&again), numbers(0..3));
    settle(&mut stream, again).await;
    broker.wait_until_acknowledged().await;
    stream.close().await;
}

async fn a_batch_keeps_to_its_limits<B: Broker>() {
    let broker = B::fresh().await;
    let small = vec![b'x'; 1_000];
    let large = vec![b'x'; 50_000];
    let mut sent = vec![small; 20];
    sent.push(large);
    broker.produce(&sent, &[]).await;

    let mut stream = open(&*broker.node()).await;
    let limits = Limits {
        messages: 4,
        bytes: 20_000,
    };
    // Time for several to arrive.
    let idle = tokio::time::timeout(Duration::from_millis(500), stream.idle()).await;
    assert!(idle.is_err(), "the stream ended: {idle:?}");
    let mut taken = Vec::new();
    let mut full = 0;
    while taken.len() < sent.len() {
        let batch = next(&mut stream, limits).await;
        let bytes: usize = batch.iter().map(sluice::message::Delivery::size).sum();
        assert!(!batch.is_empty() && batch.len() <= limits.messages);
        assert!(
            bytes <= limits.bytes || batch.len() == 1,
            "{} of {bytes}",
            batch.len()
        );
        full += usize::from(batch.len() == limits.messages);
        taken.extend(batch);
    }
    assert!(full > 0, "what is there is taken together");
    let sizes: Vec<usize> = taken.iter().map(|d| d.payload.len()).collect();
    assert_eq!(sizes, sent.iter().map(Vec::len).collect::<Vec<_>>());

    // By bytes, too.
    drop(stream);
    let mut stream = open(&*broker.node()).await;
    let limits = Limits {
        messages: 100,
        bytes: 4_000,
    };
    let mut taken = 0;
    while taken < 20 {
        let batch = next(&mut stream, limits).await;
        assert!(batch.len() <= 3, "{} kilobytes", batch.len());
        taken += batch.len();
    }
    assert_eq!(
        next(&mut stream, limits).await.len(),
        1,
        "alone, though it is larger"
    );
    stream.close().await;
}

async fn a_wait_that_is_given_up_loses_nothing<B: Broker>() {
    let broker = B::fresh().await;
    let node = broker.node();
    let mut stream = open(&*node).await;
    let producing = async {
        for n in 0..50 {
            broker.produce_numbers(n..n + 1).await;
        }
    };
    let reading = async {
        let mut taken = Vec::new();
        while taken.len() < 50 {
            // As the intake's select does when another branch is quicker.
            let given_up = tokio::time::timeout(Duration::from_micros(200), stream.next(ALL)).await;
            if let Ok(batch) = given_up {
                taken.extend(batch.expect("the stream goes on"));
            }
            tokio::task::yield_now().await;
        }
        taken
    };
    let both = async { tokio::join!(producing, reading).1 };
    let taken = tokio::time::timeout(LIMIT, both).await.expect("all arrive");
    assert_eq!(payloads(&taken), numbers(0..50));
    settle(&mut stream, taken).await;
    broker.wait_until_acknowledged().await;
    stream.close().await;
}

async fn a_stream_that_idles_outlives_its_session_and_takes_nothing<B: Broker>() {
    let broker = B::fresh().await;
    let node = broker.node_with(B::impatient());
    let mut stream = open(&*node).await;
    broker.produce_numbers(0..1).await;
    let before = take(&mut stream, 1).await;

    // More than the buffer holds, so that the source must stop fetching.
    let payload = |n: usize| format!("{n:04}{}", "x".repeat(4_000)).into_bytes();
    let sent: Vec<Vec<u8>> = (0..100).map(payload).collect();
    broker.produce(&sent, &[]).await;
    let idle = tokio::time::timeout(Duration::from_secs(6), stream.idle()).await;
    assert!(idle.is_err(), "the stream ended: {idle:?}");

    let after = take(&mut stream, sent.len()).await;
    let received: Vec<Vec<u8>> = after.iter().map(|d| d.payload.to_vec()).collect();
    assert_eq!(received, sent, "each once, in order");
    settle(&mut stream, before).await;
    settle(&mut stream, after).await;
    broker.wait_until_acknowledged().await;
    stream.close().await;
}

async fn two_nodes_share_the_work_and_lose_nothing<B: Broker>() {
    let broker = B::fresh().await;
    let (one, other) = (broker.node(), broker.node());
    broker.produce_numbers(0..100).await;
    let mut first = open(&*one).await;
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let taken = take(&mut first, 10).await;
    seen.extend(payloads(&taken));
    settle(&mut first, taken).await;

    // The second node joins while the first one works; then the first one leaves.
    let mut second = open(&*other).await;
    broker.produce_numbers(100..150).await;
    first.close().await;
    let all: BTreeSet<String> = numbers(0..150).into_iter().collect();
    while seen != all {
        let taken = next(&mut second, ALL).await;
        seen.extend(payloads(&taken));
        settle(&mut second, taken).await;
    }
    broker.wait_until_acknowledged().await;
    second.close().await;
}

async fn closing_gives_the_rest_back<B: Broker>() {
    let broker = B::fresh().await;
    broker.produce_numbers(0..5).await;
    let mut stream = open(&*broker.node()).await;
    let mut taken = take(&mut stream, 4).await;
    let unfinished = taken.split_off(2);
    settle(&mut stream, taken).await;
    stream.close().await;
    drop(unfinished);

    let mut stream = open(&*broker.node()).await;
    let rest = take(&mut stream, 3).await;
    assert_eq!(payloads(&rest), numbers(2..5));
    settle(&mut stream, rest).await;
    broker.wait_until_acknowledged().await;
    stream.close().await;
}

async fn restarts_in_the_middle_lose_nothing<B: Broker>() {
    let broker = B::fresh().await;
    let payloads_sent: Vec<Vec<u8>> = (0..3_000).map(|n| n.to_string().into_bytes()).collect();
    broker.produce(&payloads_sent, &[]).await;
    let all: BTreeSet<String> = numbers(0..3_000).into_iter().collect();
    let mut settled = BTreeSet::new();
    let mut life = 0;
    while settled != all {
        life += 1;
        let mut stream = open(&*broker.node()).await;
        // Each life takes one batch more than the one before, settles them in the wrong order, and does
        // not finish the last one.
        let mut held = Vec::new();
        let mut left = all.len() - settled.len();
        for _ in 0..=life {
            let batch = take(&mut stream, left.min(97)).await;
            left -= batch.len();
            held.push(batch);
        }
        if left > 0 {
            held.pop();
        }
        for batch in held.into_iter().rev() {
            settled.extend(payloads(&batch));
            settle(&mut stream, batch).await;
        }
        stream.close().await;
    }
    broker.wait_until_acknowledged().await;
}

async fn nothing_is_lost_when_the_broker_is_killed<B: Broker>() {
    let server = B::private().await;
    let broker = B::on(&server).await;
    let node = broker.node_with("connect_timeout = '5s'");
    broker.produce_numbers(0..20).await;
    let mut stream = open(&*node).await;
    let mut settled: BTreeSet<String> = BTreeSet::new();
    let mut batch = take(&mut stream, 10).await;
    drop(batch.split_off(5));
    settled.extend(payloads(&batch));
    settle(&mut stream, batch).await;

    server.kill().await;
    let ended = tokio::time::timeout(LIMIT, stream.idle()).await;
    let ended = ended.expect("the stream ends when no broker answers");
    assert!(!ended.needs_operator, "{ended:?}");
    drop(stream);
    let refused = node.open().await.err().expect("nobody is there");
    assert!(!refused.needs_operator, "{refused:?}");
    server.start().await;

    // What the intake does: open again after every error, take and settle what comes.
    let all: BTreeSet<String> = numbers(0..20).into_iter().collect();
    let mut stream = None;
    eventually("everything having come", 2 * LIMIT, async || {
        let mut open = match stream.take() {
            Some(open) => open,
            None => node.open().await.ok()?,
        };
        let batch = tokio::time::timeout(Duration::from_secs(1), open.next(ALL)).await;
        match batch {
            Err(_) => stream = Some(open),
            Ok(Err(_)) => {}
            Ok(Ok(batch)) => {
                let came = payloads(&batch);
                if open.settle(receipts(batch)).await.is_ok() {
                    settled.extend(came);
                    stream = Some(open);
                }
            }
        }
        (settled == all).then_some(())
    })
    .await;
    broker.wait_until_acknowledged().await;
}
