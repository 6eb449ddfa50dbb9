//! The daemon aborts at every crash point, under load from each broker, and the effects are exact.

use std::os::unix::process::ExitStatusExt;

use sluice::crash::POINTS;

use super::shop::{Broker, Entrance, LIMIT, Message, Shop, messages, messages_paying};
use crate::daemon::{Config, Daemon};

/// How many orders one run tells of; each is seven messages and a duplicate or two.
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

/// Where a run's messages come in, and what they are.
struct Run {
    shop: Shop,
    entrance: Entrance,
    broker: Broker,
    config: Config,
    point: &'static str,
}

impl Run {
    fn seed(&self) -> u64 {
        let place = POINTS.iter().position(|known| *known == self.point);
        place.expect("the point exists") as u64 + 1
    }

    /// One node dies at the point while the first half is sent; the second half is sent by `sending`. What
    /// it left is done by another node, which ran beside it from the start (RabbitMQ), or by itself after
    /// its restart (Kafka).
    async fn crash(
        &self,
        early: &[Message],
        sending: impl Future<Output = ()>,
    ) -> (Daemon, Option<Daemon>) {
        let has_points = cfg!(feature = "crash_points");
        assert!(has_points, "build the tests with the feature crash_points");
        let crash = format!("{}:{}", self.point, passes(self.point));
        let mut dying = Daemon::start(&self.config, &[("SLUICE_CRASH_AT", &crash)]).await;
        let beside = match self.broker {
            // An ordered queue has one consumer: the second node waits for its turn.
            Broker::RabbitMq => Some(Daemon::start(&self.config, &[]).await),
            Broker::Kafka => None,
        };
        for chunk in early.chunks(4) {
            self.entrance.send(chunk).await;
        }
        let dies_and_returns = async {
            let status = dying.wait_exit(LIMIT).await;
            assert_eq!(
                status.signal(),
                Some(SIGABRT),
                "the crash point is not where the daemon ended:\n{}",
                dying.log()
            );
            if beside.is_none() {
                dying.restart(&[]).await;
            }
        };
        tokio::join!(dies_and_returns, sending);
        (dying, beside)
    }

    async fn assert_exact(&self, sent: &[Message]) {
        self.shop.until_done(sent, LIMIT).await;
        self.entrance.until_drained().await;
        self.shop.assert_exact(sent).await;
    }
}

async fn crash_at(point: &'static str, broker: Broker) {
    let shop = Shop::open().await;
    let entrance = Entrance::of(broker).await;
    let run = Run {
        config: shop.config(&[("orders", &entrance)], ""),
        shop,
        entrance,
        broker,
        point,
    };
    let sent = messages(&run.shop.orders("order", ORDERS), run.seed());
    let (early, late) = sent.split_at(sent.len() / 2);
    let sending = async {
        for chunk in late.chunks(4) {
            run.entrance.send(chunk).await;
        }
    };
    let _nodes = run.crash(early, sending).await;
    run.assert_exact(&sent).await;
}

/// The same with payments in order. Most of them come one by one, so that a later one finds its order
/// free while an earlier one still waits to be driven.
async fn crash_in_order_at(point: &'static str, broker: Broker) {
    let shop = Shop::open().await;
    let entrance = Entrance::ordered(broker).await;
    let run = Run {
        config: shop.ordered_config(&[("orders", &entrance)]),
        shop,
        entrance,
        broker,
        point,
    };
    let sent = messages_paying(12, &run.shop.orders("order", 5), run.seed());
    let half = sent.len() / 2;
    let sending = async {
        for (number, message) in sent.iter().enumerate().skip(half) {
            run.entrance.send(std::slice::from_ref(message)).await;
            run.shop.until_accepted(&sent[..=number]).await;
        }
    };
    let _nodes = run.crash(&sent[..half], sending).await;
    run.assert_exact(&sent).await;
    run.shop.assert_ordered().await;
}

macro_rules! crashes {
    ($($point:ident)*) => {
        mod one_effect_per_key_after_a_crash_at {
            $(mod $point {
                use super::super::{Broker, crash_at};

                #[tokio::test]
                async fn from_rabbitmq() {
                    crash_at(stringify!($point), Broker::RabbitMq).await;
                }

                #[tokio::test]
                async fn from_kafka() {
                    crash_at(stringify!($point), Broker::Kafka).await;
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
    use super::{Broker, crash_in_order_at};

    #[tokio::test]
    async fn before_commit_from_rabbitmq() {
        crash_in_order_at("before_commit", Broker::RabbitMq).await;
    }

    #[tokio::test]
    async fn after_commit_from_kafka() {
        crash_in_order_at("after_commit", Broker::Kafka).await;
    }

    #[tokio::test]
    async fn wake_claimed_from_kafka() {
        crash_in_order_at("wake_claimed", Broker::Kafka).await;
    }
}
