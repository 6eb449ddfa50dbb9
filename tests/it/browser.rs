//! The status page in a real browser, headless Chromium, driven by the `WebDriver` protocol.

mod driver;

use std::time::{Duration, Instant};

use driver::Browser;
use serde_json::json;
use sluice::engine::EngineState;
use sluice::http::{Plan, PlannedEngine, PlannedRoute, PlannedSource};
use sluice::inbox::{Count, Node, StateName};
use sluice::metrics::{self, DuplicateCause, MessageOutcome};
use uuid::Uuid;

use crate::http::{Node as RealNode, Served, small_plan};

/// Some of everything that the page can show.
fn large_plan() -> Plan {
    let source = |name: &str, kind: &str, detail: &str| PlannedSource {
        name: name.to_owned(),
        kind: kind.to_owned(),
        detail: detail.to_owned(),
    };
    let route = |name: &str, source: &str, engine: &str| PlannedRoute {
        name: name.to_owned(),
        source: source.to_owned(),
        engine: engine.to_owned(),
    };
    Plan {
        sources: vec![
            source("payments", "rabbitmq", "queue payments, prefetch 1000"),
            source("orders", "kafka", "topic orders, group sluice"),
        ],
        routes: vec![
            route("payment-received", "payments", "shop"),
            route("payment-refused", "payments", "shop"),
            route("order-placed", "orders", "shop"),
            route("order-cancelled", "orders", "ledger"),
        ],
        engines: vec![
            PlannedEngine {
                name: "shop".to_owned(),
                kind: "camunda_tables".to_owned(),
                detail: "Operaton 1.0.3, history full".to_owned(),
                max_backlog: Some(5000),
            },
            PlannedEngine {
                name: "ledger".to_owned(),
                kind: "sql".to_owned(),
                detail: "own statements".to_owned(),
                max_backlog: None,
            },
        ],
    }
}

fn count(route: &str, state: StateName, reason: Option<&str>, rows: i64, age: f64) -> Count {
    Count {
        route: Some(route.to_owned()),
        state,
        reason: reason.map(str::to_owned),
        rows,
        oldest_age_seconds: age,
    }
}

fn node(name: &str, seen: f64, incarnation: Uuid) -> Node {
    Node {
        incarnation,
        name: name.to_owned(),
        version: "0.1.0".to_owned(),
        started_seconds_ago: 7_300.0,
        seen_seconds_ago: seen,
        duplicates: 1_204,
    }
}

/// Rows in every state.
fn rows() -> Vec<Count> {
    vec![
        count(
            "payment-received",
            StateName::Waiting,
            Some("no_subscription"),
            412,
            94.0,
        ),
        count(
            "payment-received",
            StateName::Waiting,
            Some("busy"),
            38,
            2.1,
        ),
        count(
            "payment-refused",
            StateName::Waiting,
            Some("early"),
            17,
            1.2,
        ),
        count(
            "order-placed",
            StateName::Waiting,
            Some("unknown_message"),
            6,
            4_210.0,
        ),
        count("payment-received", StateName::Handed, None, 131, 0.8),
        count(
            "payment-received",
            StateName::Done,
            None,
            1_284_211,
            259_000.0,
        ),
        count("order-placed", StateName::Done, None, 412_002, 259_000.0),
        count(
            "order-placed",
            StateName::Dead,
            Some("conflict"),
            2,
            8_000.0,
        ),
        count(
            "payment-refused",
            StateName::Dead,
            Some("expired"),
            1,
            61_000.0,
        ),
    ]
}

/// A busy node, some minutes after its start.
fn fill(served: &Served) {
    let board = &served.board;
    board.started();
    board.set_inbox(rows());
    let this = board.status().node.incarnation;
    board.set_nodes(vec![
        node("node-a", 0.3, this),
        node("node-b", 0.2, Uuid::now_v7()),
        node("node-c", 512.0, Uuid::now_v7()),
    ]);
    let said = EngineState {
        backlog: 1_840,
        blocked: 3,
        blocked_details: vec![
            "3 jobs of order:7 (deployment 4f1c…) have no retries left".to_owned(),
        ],
    };
    board.set_engine("shop", said);
    served.record(|| {
        metrics::source_connected("payments", true);
        metrics::source_connected("orders", true);
        metrics::kafka_lag("orders", "orders", 0, Some(1_830));
        metrics::source_reconnected("payments");
        metrics::engine_up("shop", true);
        metrics::engine_up("ledger", true);
        for _ in 0..9 {
            metrics::duplicate(Some("payment-received"), DuplicateCause::Redelivered);
        }
        metrics::duplicate(Some("order-placed"), DuplicateCause::Rebalance);
        metrics::duplicate(Some("order-placed"), DuplicateCause::Resend);
        metrics::conflict(Some("order-placed"));
    });
    let text = "the stream ended: connection reset by peer; opening another one in 2 s";
    served.warn("intake", Some("payments"), text);
    served.warn(
        "sweeper",
        None,
        "one round of confirm took 1.8 s for 200 rows",
    );
}

/// The messages of one second, as they might come.
fn traffic(served: &Served, second: u32) {
    let slope = |period: u32| (second % period).abs_diff(period / 2);
    let messages = 8 + slope(62) + slope(22) + second * 7 % 4;
    served.record(|| {
        for n in 0..messages {
            metrics::delivered("payments", n % 40 == 0, 1);
            metrics::messages(Some("payment-received"), MessageOutcome::Handed, 1);
            if n % 3 == 0 {
                metrics::delivered("orders", false, 1);
                metrics::messages(Some("order-placed"), MessageOutcome::Done, 1);
            }
            metrics::confirmed("shop", Duration::from_millis(300));
        }
    });
}

/// Two minutes of it, as if the node had run for so long.
fn history(served: &Served) {
    let seconds = 121;
    let ago = Duration::from_secs(seconds.into());
    let start = Instant::now().checked_sub(ago).expect("two minutes ago");
    for second in 0..seconds {
        traffic(served, second);
        served.sample(start + Duration::from_secs(second.into()));
    }
}

/// Whether text stands out from what is behind it, by WCAG 2: the texts whose contrast is below 4.5 to 1.
const FAINT: &str = r"(() => {
    const rgb = (color) => color.match(/[\d.]+/g).map(Number);
    const light = (color) => {
        const [r, g, b] = rgb(color).slice(0, 3).map((part) => {
            const c = part / 255;
            return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const color = getComputedStyle(at).backgroundColor;
            if ((rgb(color)[3] ?? 1) > 0) return color;
        }
        return 'rgb(255, 255, 255)';
    };
    const faint = [];
    for (const element of document.body.querySelectorAll('*')) {
        const text = [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim());
        if (!text.length || !element.checkVisibility()) continue;
        const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) faint.push(`${contrast.toFixed(2)} ${text[0].data.trim()}`);
    }
    return faint;
})()";

const NOTHING: [&str; 0] = [];

#[tokio::test]
async fn the_page_is_readable_in_both_schemes_and_on_a_phone() {
    let served = Served::with(large_plan()).await;
    fill(&served);
    history(&served);
    let browser = Browser::open(1360, 900).await;
    browser.visit(&served.url("/")).await;
    for scheme in ["light", "dark"] {
        for width in [1360, 800, 400] {
            let name = format!("status-{scheme}-{width}");
            browser.prefer(scheme).await;
            browser.size(width, 900).await;
            browser.picture(&name, width).await;
            let widest = browser.eval("document.documentElement.scrollWidth").await;
            assert_eq!(widest, width, "{name} scrolls sideways");
            assert_eq!(browser.eval(FAINT).await, json!(NOTHING), "{name}");
        }
    }
    assert_eq!(browser.complaints().await, NOTHING);
}

#[tokio::test]
async fn numbers_change_without_a_reload() {
    let served = Served::with(large_plan()).await;
    fill(&served);
    let browser = Browser::open(1000, 900).await;
    browser.visit(&served.url("/")).await;
    browser.eval("window.here = true").await;
    assert_eq!(browser.text("[data-figure=waiting] .big").await, "473");

    let text = |selector: &str, is: &str| {
        format!("document.querySelector({selector:?}).innerText === {is:?}")
    };
    served.record(|| {
        for _ in 0..30 {
            metrics::delivered("payments", true, 1);
            metrics::messages(Some("payment-received"), MessageOutcome::Duplicate, 1);
            metrics::duplicate(Some("payment-received"), DuplicateCause::Redelivered);
        }
        metrics::source_connected("orders", false);
    });
    let waiting = count("order-placed", StateName::Waiting, Some("held"), 71, 3.0);
    served.board.set_inbox(vec![waiting]);
    served
        .board
        .set_not_ready("source orders", "no broker answers");
    for (selector, is) in [
        ("[data-figure=waiting] .big", "71"),
        ("[data-figure=dead] .big", "0"),
        ("[data-route=payment-received] td:nth-of-type(3)", "39"),
        ("[data-source=orders] .soft .bad", "disconnected"),
        (".pill", "not ready"),
        (".reasons li", "source orders no broker answers"),
    ] {
        browser.until("it changed", &text(selector, is)).await;
    }
    let rate = "parseFloat(document.querySelector('[data-source=payments] .rate').innerText) > 0";
    browser.until("the rate shows the burst", rate).await;
    assert_eq!(
        browser.eval("window.here").await,
        true,
        "the page was loaded again"
    );
    assert_eq!(browser.complaints().await, NOTHING);
}

#[tokio::test]
async fn the_page_of_a_real_daemon_follows_its_messages() {
    let node = RealNode::start().await;
    let browser = Browser::open(1360, 900).await;
    browser.visit(&node.daemon.url("/")).await;
    browser.eval("window.here = true").await;
    let number = |selector: &str, at_least: u32| {
        format!("parseInt(document.querySelector({selector:?})?.innerText) >= {at_least}")
    };
    for round in 0..4 {
        node.order(&format!("order-{round}"), 5).await;
        node.publish(format!("not JSON {round}").as_bytes()).await;
    }
    browser
        .until("dead rows", &number("[data-figure=dead] .big", 4))
        .await;
    browser
        .until("waiting rows", &number("[data-figure=waiting] .big", 16))
        .await;
    browser
        .until(
            "proven effects",
            "!document.querySelector('[data-engine=shop] .bad')",
        )
        .await;
    let handed = "[data-route=payment-received] td:nth-of-type(4)";
    browser
        .until("the route's waiting rows", &number(handed, 16))
        .await;
    browser
        .until(
            "this node",
            "document.querySelectorAll('[data-node]').length === 1",
        )
        .await;
    browser.picture("status-real-1360", 1360).await;
    assert_eq!(
        browser.eval("window.here").await,
        true,
        "the page was loaded again"
    );
    assert_eq!(browser.complaints().await, NOTHING);
    node.daemon.stop().await;
    browser
        .until("it says so", "!document.getElementById('lost').hidden")
        .await;
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_said_to_be_silent_and_a_new_one_is_taken_up() {
    let served = Served::with(small_plan()).await;
    let browser = Browser::open(400, 900).await;
    browser.visit(&served.url("/")).await;
    browser.picture("status-empty-400", 400).await;
    assert!(browser.text("#inbox ~ .empty").await.starts_with("No rows"));
    assert_eq!(
        browser.eval("document.getElementById('lost').hidden").await,
        true
    );

    let address = served.stop().await;
    browser
        .until("it says so", "!document.getElementById('lost').hidden")
        .await;
    browser.picture("status-silent-400", 400).await;

    let again = Served::on(&address.to_string(), None, small_plan()).await;
    again.board.started();
    browser
        .until("it goes on", "document.getElementById('lost').hidden")
        .await;
    browser
        .until(
            "it is new",
            "document.querySelector('.pill').innerText === 'ready'",
        )
        .await;
}

#[tokio::test]
async fn what_a_broker_said_is_text_and_nothing_else() {
    let mut plan = small_plan();
    let evil =
        "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>";
    evil.clone_into(&mut plan.sources[0].detail);
    let served = Served::with(plan).await;
    served.warn("intake", None, evil);
    let browser = Browser::open(400, 900).await;
    browser.visit(&served.url("/")).await;
    assert_eq!(browser.text(".problem .said").await, evil);
    assert!(
        browser
            .text("[data-source=payments]")
            .await
            .contains("<script>")
    );
    assert_eq!(browser.eval("document.title").await, "node-a · Sluice");
    assert_eq!(browser.complaints().await, NOTHING);
}
