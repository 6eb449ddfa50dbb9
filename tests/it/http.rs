//! The daemon's HTTP listener, over real sockets.

mod node;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::Value;
use sluice::http::{self, Board, HttpConfig, Plan, PlannedEngine, PlannedRoute, PlannedSource};
use sluice::inbox::{Class, NodeIdentity};
use sluice::metrics::{self, DuplicateCause, Exporter, InboxGauges, InboxRows, MessageOutcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use node::Node;

/// A listener with a board and a recorder of its own.
pub struct Served {
    pub board: Board,
    problems: http::Problems,
    exporter: Exporter,
    address: SocketAddr,
    until: CancellationToken,
    serving: JoinHandle<()>,
}

impl Served {
    /// Binds to a free port of this machine.
    pub async fn with(plan: Plan) -> Self {
        Self::on("127.0.0.1:0", None, plan).await
    }

    pub async fn on(listen: &str, token: Option<&str>, plan: Plan) -> Self {
        // reqwest's TLS, which no test here uses, asks for it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = HttpConfig {
            listen: listen.parse().unwrap(),
            token: token.map(Into::into),
        };
        let exporter = Exporter::new();
        exporter.record(|| plan.announce());
        let problems = http::Problems::default();
        let board = Board::new(identity(), plan, problems.clone());
        let server = http::bind(&config).await.unwrap();
        let port = server.local_addr().unwrap().port();
        let until = CancellationToken::new();
        let serving = tokio::spawn(server.serve(board.clone(), exporter.clone(), until.clone()));
        Self {
            board,
            problems,
            exporter,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            until,
            serving,
        }
    }

    /// What is recorded in here is exported by this listener alone.
    pub fn record(&self, recording: impl FnOnce()) {
        self.exporter.record(recording);
    }

    /// As if the listener had looked at what is recorded so far at this time.
    pub fn sample(&self, at: Instant) {
        let samples = metrics::Samples::parse(&self.exporter.render());
        self.board.sample(at, samples);
    }

    /// As if this had been logged.
    pub fn warn(&self, part: &str, subject: Option<&str>, text: &str) {
        let severity = http::status::Severity::Warning;
        self.problems.push(severity, part, subject, text);
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Stops it, and says where it was.
    pub async fn stop(self) -> SocketAddr {
        self.until.cancel();
        self.serving.await.unwrap();
        self.address
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        reqwest::get(self.url(path)).await.unwrap()
    }

    /// The status once it is as wanted; the listener samples once a second.
    async fn status_when(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let limit = Instant::now() + Duration::from_secs(10);
        loop {
            let status: Value = self.get("/api/status").await.json().await.unwrap();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < limit, "not within 10 s: {status:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn identity() -> NodeIdentity {
    NodeIdentity {
        incarnation: Uuid::now_v7(),
        name: "node-a".to_owned(),
        version: "0.1.0".to_owned(),
    }
}

/// One source, one route, one engine.
pub fn small_plan() -> Plan {
    Plan {
        sources: vec![PlannedSource {
            name: "payments".to_owned(),
            kind: "rabbitmq".to_owned(),
            detail: "queue payments".to_owned(),
        }],
        routes: vec![PlannedRoute {
            name: "payment-received".to_owned(),
            source: "payments".to_owned(),
            engine: "shop".to_owned(),
        }],
        engines: vec![PlannedEngine {
            name: "shop".to_owned(),
            kind: "camunda_tables".to_owned(),
            detail: "Operaton 1.0.3".to_owned(),
            max_backlog: Some(5000),
        }],
    }
}

#[tokio::test]
async fn readiness_tells_every_reason_and_liveness_none() {
    let served = Served::with(small_plan()).await;
    let ready = async || {
        let response = served.get("/health/ready").await;
        (response.status(), response.json::<Value>().await.unwrap())
    };

    let (code, body) = ready().await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body["reasons"][0]["reason"], "starting");

    served.board.started();
    let (code, body) = ready().await;
    assert_eq!((code, body["ready"].clone()), (StatusCode::OK, true.into()));

    served.board.set_not_ready("engine shop", "does not answer");
    served.board.set_not_ready("inbox", "is read-only");
    let (code, body) = ready().await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body["reasons"][0]["part"], "engine shop");
    assert_eq!(body["reasons"][1]["reason"], "is read-only");
    assert_eq!(served.get("/health/live").await.status(), StatusCode::OK);

    served.board.set_ready("engine shop");
    served.board.set_ready("inbox");
    assert_eq!(ready().await.0, StatusCode::OK);
    served.board.draining();
    let (code, body) = ready().await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body["reasons"][0]["part"], "drain");
    assert_eq!(served.get("/health/live").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn every_known_series_is_exported_at_zero_before_anything_happened() {
    let served = Served::with(small_plan()).await;
    let response = served.get("/metrics").await;
    let kind = response.headers()["content-type"].to_str().unwrap();
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    let text = response.text().await.unwrap();
    for line in [
        "sluice_deliveries_total{source=\"payments\",redelivered=\"true\"} 0",
        "sluice_duplicates_total{route=\"payment-received\",cause=\"of_dead\"} 0",
        "sluice_messages_total{route=\"payment-received\",outcome=\"dead\"} 0",
        "sluice_dedup_conflicts_total{route=\"payment-received\"} 0",
        "sluice_delivery_to_commit_seconds_bucket{source=\"payments\",le=\"0.01\"} 0",
        "sluice_recovery_seconds_bucket{sweep=\"wake\",le=\"2\"} 0",
        "sluice_engine_backlog{engine=\"shop\",state=\"blocked\"} 0",
        "sluice_db_errors_total{class=\"outage\"} 0",
        "sluice_stale_changes_total 0",
        "sluice_build_info{version=\"0.1.0\"} 1",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line}\nnot in\n{text}"
        );
    }
}

#[tokio::test]
async fn kinds_of_rows_that_vanish_go_to_zero() {
    let served = Served::with(small_plan()).await;
    let rows = |reason, rows| InboxRows {
        route: Some("payment-received"),
        state: "waiting",
        reason,
        rows,
        oldest_age_seconds: 3.5,
    };
    let mut gauges = InboxGauges::default();
    served.record(|| {
        gauges.show([rows("no_subscription", 7), rows("busy", 2)]);
        gauges.show([rows("busy", 1)]);
    });
    let text = served.get("/metrics").await.text().await.unwrap();
    let labels = "route=\"payment-received\",state=\"waiting\"";
    for line in [
        format!("sluice_inbox_rows{{{labels},reason=\"no_subscription\"}} 0"),
        format!("sluice_inbox_rows{{{labels},reason=\"busy\"}} 1"),
        format!("sluice_inbox_oldest_age_seconds{{{labels},reason=\"no_subscription\"}} 0"),
        format!("sluice_inbox_oldest_age_seconds{{{labels},reason=\"busy\"}} 3.5"),
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line}\nnot in\n{text}"
        );
    }
}

#[tokio::test]
async fn the_status_shows_what_the_metrics_count() {
    let served = Served::with(small_plan()).await;
    // A rate needs a total from before.
    let history = "/sources/0/deliveries/history/0";
    served
        .status_when(|status| status.pointer(history).is_some())
        .await;
    served.record(|| {
        metrics::source_connected("payments", true);
        metrics::engine_up("shop", true);
        for _ in 0..5 {
            metrics::delivered("payments", false, 1);
            metrics::messages(Some("payment-received"), MessageOutcome::Handed, 1);
        }
        metrics::delivered("payments", true, 1);
        metrics::messages(Some("payment-received"), MessageOutcome::Duplicate, 1);
        metrics::duplicate(Some("payment-received"), DuplicateCause::Redelivered);
    });
    let status = served
        .status_when(|status| status["totals"]["deliveries"]["total"] == 6)
        .await;
    let source = &status["sources"][0];
    assert_eq!(
        (&source["connected"], &source["redelivered"]),
        (&true.into(), &1.into())
    );
    assert!(
        source["deliveries"]["per_second"].as_f64().unwrap() > 0.5,
        "{source}"
    );
    let route = &status["routes"][0];
    assert_eq!(route["messages"]["total"], 6);
    assert_eq!(route["through"]["total"], 5);
    assert_eq!(route["duplicates"]["total"], 1);
    assert_eq!(status["engines"][0]["up"], true);
    assert_eq!(status["duplicates"][0]["cause"], "redelivered");
    assert_eq!(status["duplicates"][0]["total"], 1);
    assert_eq!(status["node"]["name"], "node-a");
}

/// Where the listener asks for its token.
const ADDRESSES: [&str; 2] = ["0.0.0.0:0", "127.0.0.1:0"];
const GUARDED: [&str; 5] = ["/", "/board", "/app.js", "/api/status", "/metrics"];

#[tokio::test]
async fn everything_but_health_asks_for_the_token_also_on_loopback() {
    for address in ADDRESSES {
        asks_for_its_token(address).await;
    }
}

async fn asks_for_its_token(address: &str) {
    let served = Served::on(address, Some("s3cret"), small_plan()).await;
    assert_eq!(served.get("/health/live").await.status(), StatusCode::OK);
    for path in GUARDED {
        let refused = served.get(path).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert!(refused.headers().contains_key("www-authenticate"));
        let client = reqwest::Client::new();
        let bearer = client.get(served.url(path)).bearer_auth("s3cret");
        assert_eq!(
            bearer.send().await.unwrap().status(),
            StatusCode::OK,
            "{path}"
        );
        let basic = client
            .get(served.url(path))
            .basic_auth("me", Some("s3cret"));
        assert_eq!(
            basic.send().await.unwrap().status(),
            StatusCode::OK,
            "{path}"
        );
        let wrong = client.get(served.url(path)).bearer_auth("s3cre");
        assert_eq!(
            wrong.send().await.unwrap().status(),
            StatusCode::UNAUTHORIZED,
            "{path}"
        );
    }
    // Who shows the token may have come by any name.
    let named = client_of("sluice.example").get(served.url("/metrics"));
    let answer = named.bearer_auth("s3cret").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

/// A client that asks for this host, wherever it is sent.
fn client_of(host: &str) -> reqwest::Client {
    let headers = [(reqwest::header::HOST, host.parse().unwrap())];
    reqwest::Client::builder()
        .default_headers(headers.into_iter().collect())
        .build()
        .unwrap()
}

#[tokio::test]
async fn without_a_token_loopback_answers_only_who_asks_for_this_machine() {
    let served = Served::with(small_plan()).await;
    for path in GUARDED {
        for (host, code) in [
            ("localhost:9464", StatusCode::OK),
            ("[::1]", StatusCode::OK),
            ("evil.example:9464", StatusCode::MISDIRECTED_REQUEST),
        ] {
            let asked = client_of(host).get(served.url(path));
            let answer = asked.send().await.unwrap();
            assert_eq!(answer.status(), code, "{path} of {host}");
            if code != StatusCode::OK {
                let text = answer.text().await.unwrap();
                assert!(
                    text.contains("localhost") && text.contains("http.token"),
                    "{text}"
                );
            }
        }
    }
    let live = client_of("evil.example").get(served.url("/health/live"));
    assert_eq!(live.send().await.unwrap().status(), StatusCode::OK);
    // A listener for everybody has been warned of, and has any name.
    let open = Served::on("0.0.0.0:0", None, small_plan()).await;
    let asked = client_of("node-1.example").get(open.url("/metrics"));
    assert_eq!(asked.send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn strangers_learn_which_part_is_not_ready_and_not_why() {
    let served = Served::on("127.0.0.1:0", Some("s3cret"), small_plan()).await;
    served.board.started();
    served.board.set_not_ready("inbox", "no host db-7.internal");
    let client = reqwest::Client::new();
    let asked = || client.get(served.url("/health/ready"));
    let answer = async |request: reqwest::RequestBuilder| {
        let response = request.send().await.unwrap();
        (response.status(), response.json::<Value>().await.unwrap())
    };
    let not_ready = StatusCode::SERVICE_UNAVAILABLE;
    let parts = serde_json::json!({ "ready": false, "reasons": [{ "part": "inbox" }] });
    assert_eq!(answer(asked()).await, (not_ready, parts.clone()));
    let wrong = asked().bearer_auth("s3cre");
    assert_eq!(answer(wrong).await, (not_ready, parts.clone()));
    let (code, told) = answer(asked().bearer_auth("s3cret")).await;
    assert_eq!(code, not_ready);
    assert_eq!(told["reasons"][0]["reason"], "no host db-7.internal");

    // Without a token, a page that a browser was tricked into is a stranger, too.
    let local = Served::with(small_plan()).await;
    local.board.started();
    local.board.set_not_ready("inbox", "no host db-7.internal");
    let tricked = client_of("evil.example").get(local.url("/health/ready"));
    assert_eq!(answer(tricked).await, (not_ready, parts));

    served.board.set_ready("inbox");
    let ready = serde_json::json!({ "ready": true, "reasons": [] });
    assert_eq!(answer(asked()).await, (StatusCode::OK, ready));
}

#[tokio::test]
async fn the_body_of_a_request_is_not_waited_for() {
    let served = Served::with(small_plan()).await;
    for path in ["/health/live", "/metrics", "/nowhere"] {
        let mut client = TcpStream::connect(served.address).await.unwrap();
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000000000\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        let answered = client.read_exact(&mut answer);
        tokio::time::timeout(Duration::from_secs(15), answered)
            .await
            .expect("an answer without the body")
            .unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 "), "{answer:?}");
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let served = Served::with(Plan::default()).await;
    let taken = HttpConfig {
        listen: served.address,
        token: None,
    };
    let bound = http::bind(&taken).await.map(drop);
    let error = bound.unwrap_err().to_string();
    assert!(
        error.contains(&format!("http.listen: cannot listen on {}", served.address)),
        "{error}"
    );
}

#[tokio::test]
async fn nothing_from_elsewhere_may_run_in_the_page() {
    let served = Served::with(small_plan()).await;
    for path in ["/", "/api/status", "/nowhere"] {
        let response = served.get(path).await;
        let policy = response.headers()["content-security-policy"]
            .to_str()
            .unwrap();
        assert!(
            policy.contains("default-src 'none'") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    }
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_is_hung_up_on() {
    let served = Served::with(Plan::default()).await;
    let mut slow = TcpStream::connect(served.address).await.unwrap();
    slow.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n")
        .await
        .unwrap();
    let began = Instant::now();
    let mut answer = Vec::new();
    let end = slow.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(15), end)
        .await
        .expect("the end")
        .unwrap();
    assert!(began.elapsed() > Duration::from_secs(2));
    assert_eq!(served.get("/health/live").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_connection_that_asks_nothing_more_is_closed() {
    let served = Served::with(Plan::default()).await;
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    let request = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n";
    idle.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let end = idle.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(15), end)
        .await
        .expect("the end")
        .unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let served = Served::with(Plan::default()).await;
    let large = reqwest::Client::new()
        .get(served.url("/health/live"))
        .header("x-large", "x".repeat(60_000));
    let code = large.send().await.unwrap().status();
    assert_eq!(code, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test]
async fn the_listener_ends_though_a_client_stays_connected() {
    let served = Served::with(Plan::default()).await;
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    idle.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut some = [0; 16];
    idle.read_exact(&mut some).await.unwrap();
    served.until.cancel();
    tokio::time::timeout(Duration::from_secs(5), served.serving)
        .await
        .expect("the listener ends")
        .unwrap();
}

#[test]
fn the_words_that_are_announced_are_those_that_come() {
    let classes = Class::ALL.map(Class::as_str);
    assert_eq!(classes, metrics::DB_ERROR_CLASSES);
}
