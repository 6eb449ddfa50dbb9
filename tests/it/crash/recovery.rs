//! How soon the rows of a dead node are taken up, as the histogram tells it.

use super::say;
use super::shop::{Broker, Entrance, LIMIT, Shop, messages};
use crate::daemon::Daemon;

const ORDERS: usize = 40;

/// Rows that waited, and rows that were handed: the sweeps that take up what a dead node left.
const SWEEPS: [&str; 2] = ["wake", "confirm"];

#[tokio::test]
async fn recovery_is_quick_and_measured_when_a_node_dies_with_rows_in_its_hands() {
    let shop = Shop::open().await;
    let entrance = Entrance::of(Broker::RabbitMq).await;
    let config = shop.config(&[("orders", &entrance)], "");
    // It dies with the locks of rows that it was just driving.
    let dying = Daemon::start(&config, &[("SLUICE_CRASH_AT", "wake_claimed:5")]).await;
    let other = Daemon::start(&config, &[]).await;
    let sent = messages(&shop.orders("order", ORDERS), 21);
    for part in sent.chunks(20) {
        entrance.send(part).await;
    }
    shop.until_done(&sent, LIMIT).await;
    dying.wait_exit(LIMIT).await;
    shop.assert_exact(&sent).await;

    let metrics = other.metrics().await;
    let part = |sweep: &str, part: &str, more: &[(&str, &str)]| {
        let labels = [&[("sweep", sweep)], more].concat();
        metrics.sum(&format!("sluice_recovery_seconds_{part}"), &labels)
    };
    for sweep in SWEEPS {
        let rows = part(sweep, "count", &[]);
        let within = |limit: &str| 100.0 * part(sweep, "bucket", &[("le", limit)]) / rows.max(1.0);
        say(&format!(
            "{sweep}: {rows} rows, within 0.5 s {:.1} %, 1 s {:.1} %, 2 s {:.1} %, 5 s {:.1} %",
            within("0.5"),
            within("1"),
            within("2"),
            within("5")
        ));
        assert!(rows > 0.0, "{sweep} recorded nothing");
        // The safety nets come after a minute; the sweeps themselves took every row up.
        let taken_up = part(sweep, "bucket", &[("le", "30")]);
        assert!((taken_up - rows).abs() < 0.5, "{sweep} was late");
    }
}
