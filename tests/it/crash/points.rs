//! The daemon aborts at every crash point, under load from each broker, and the effects are exact.

use std::os::unix::process::ExitStatusExt;

use sluice::crash::POINTS;

use super::shop::{Broker, Entrance, LIMIT, Shop, messages};
use crate::daemon::Daemon;

/// How many orders one run tells of; each is six messages and a duplicate or two.
const ORDERS: usize = 12;
const SIGABRT: i32 = 6;

/// At the third pass there are finished batches behind the crash and others beside it; the sweeps pass
/// only when they have something to do.
fn passes(point: &str) -> u32 {
    match point {
        "wake_claimed" | "confirm_read" | "purge" => 2,
        _ => 3,
    }
}

/// One node dies at the point; what it left is done by another one, which ran beside it from the start
/// (RabbitMQ), or by itself after its restart (Kafka).
async fn crash_at(point: &str, broker: Broker, ordered: bool) {
    let has_points = cfg!(feature = "crash_points");
    assert!(has_points, "build the tests with the feature crash_points");
    let shop = Shop::open().await;
    let entrance = if ordered {
        Entrance::ordered(broker).await
    } else {
        Entrance::of(broker).await
    };
    let entrances = [("orders", &entrance)];
    let config = if ordered {
        shop.ordered_config(&entrances)
    } else {
        shop.config(&entrances, "")
    };
    let place = POINTS.iter().position(|known| *known == point);
    let seed = place.expect("the point exists") as u64 + 1;
    let sent = messages(&shop.orders("order", ORDERS), seed);
    let (early, late) = sent.split_at(sent.len() / 2);

    let crash = format!("{point}:{}", passes(point));
    let mut dying = Daemon::start(&config, &[("SLUICE_CRASH_AT", &crash)]).await;
    let beside = match broker {
        // An ordered queue has one consumer: the second node waits for its turn.
        Broker::RabbitMq => Some(Daemon::start(&config, &[]).await),
        Broker::Kafka => None,
    };
    for chunk in early.chunks(4) {
        entrance.send(chunk).await;
    }
    let sending = async {
        for chunk in late.chunks(4) {
            entrance.send(chunk).await;
        }
    };
    let (status, ()) = tokio::join!(dying.wait_exit(LIMIT), sending);
    assert_eq!(
        status.signal(),
        Some(SIGABRT),
        "the crash point is not where the daemon ended:\n{}",
        dying.log()
    );
    if beside.is_none() {
        dying.restart(&[]).await;
    }

    shop.until_done(&sent, LIMIT).await;
    entrance.until_drained().await;
    shop.assert_exact(&sent).await;
    if ordered {
        shop.assert_ordered().await;
    }
}

macro_rules! crashes {
    ($($point:ident)*) => {
        mod one_effect_per_key_after_a_crash_at {
            $(mod $point {
                use super::super::{Broker, crash_at};

                #[tokio::test]
                async fn from_rabbitmq() {
                    crash_at(stringify!($point), Broker::RabbitMq, false).await;
                }

                #[tokio::test]
                async fn from_kafka() {
                    crash_at(stringify!($point), Broker::Kafka, false).await;
                }
            })*
        }

        #[test]
        fn every_crash_point_has_a_test() {
            assert_eq!([$(stringify!($point)),*], POINTS);
        }
    };
}

crashes! {
    received matched inserted handed before_commit after_commit before_ack after_ack
    wake_claimed confirm_read purge
}

mod order_per_key_is_kept_after_a_crash_at {
    use super::{Broker, crash_at};

    #[tokio::test]
    async fn before_commit_from_rabbitmq() {
        crash_at("before_commit", Broker::RabbitMq, true).await;
    }

    #[tokio::test]
    async fn after_commit_from_kafka() {
        crash_at("after_commit", Broker::Kafka, true).await;
    }

    #[tokio::test]
    async fn wake_claimed_from_kafka() {
        crash_at("wake_claimed", Broker::Kafka, true).await;
    }
}
