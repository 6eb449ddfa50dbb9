//! The log as a machine reads it, and what never stands in it.

use lapin::BasicProperties;
use serde_json::{Value, json};

use crate::daemon::{Config, Daemon, LIMIT};
use crate::rig::{QueueKind, Rig};
use crate::stored::Inbox;

/// Stands in payloads, in whatever a database quotes of them, and nowhere else.
const CARD: &str = "4929-1234-5678";
/// Stand in the configuration.
const PASSWORD: &str = "correct-horse";
const TOKEN: &str = "battery-staple";

/// The user's own table refuses negative amounts, and its DETAIL would quote the whole row; the inbox
/// refuses some keys, and quotes the row, too.
const TABLES: &str =
    "CREATE SCHEMA sluice; CREATE TABLE bookings (card text, amount numeric CHECK (amount > 0))";
const RULE: &str =
    "ALTER TABLE inbox ADD CONSTRAINT wholesome CHECK (dedup_key NOT LIKE 'poison%')";

const ROUTE: &str = r#"
    [engines.ledger.sql]
    apply = "INSERT INTO public.bookings VALUES (:card, :amount)"

    [routes.booked]
    source = "bookings"
    engine = "ledger"
    dedup_key = "$.id"
    attempts = { max = 2, initial_interval = "50ms" }
    [routes.booked.apply]
    business_key = "$.id"
    variables = { card = "$.card", amount = { from = "$.amount", type = "double" } }
"#;

/// Each is refused in another place.
fn bookings() -> Vec<(Vec<u8>, BasicProperties)> {
    let booking = |id: &str, amount: Value| {
        let payload = json!({ "id": format!("{id}-{CARD}"), "card": CARD, "amount": amount });
        payload.to_string().into_bytes()
    };
    let all = [
        booking("good", json!(1.5)),
        booking("refused", json!(-1.5)),
        booking("poison", json!(1.5)),
        booking("mapping", json!(CARD)),
        format!("{CARD} is not JSON").into_bytes(),
        // A conflict with the first.
        booking("good", json!(2.5)),
    ];
    all.map(|payload| (payload, BasicProperties::default()))
        .to_vec()
}

#[tokio::test]
async fn every_line_is_json_and_none_holds_a_payload_or_a_secret() {
    let rig = Rig::get();
    let database = rig.database().await;
    let pool = database.pool().await;
    sqlx::raw_sql(TABLES).execute(&pool).await.unwrap();
    let queue = rig.queue(QueueKind::Classic).await;
    // The rig asks nobody for a password, and takes any.
    let url = database
        .url()
        .replace("postgres@", &format!("postgres:{PASSWORD}@"));
    let config = Config::at(&url, "sluice")
        .rabbitmq("bookings", &queue, "")
        .http(&format!("token = \"{TOKEN}\""))
        .with("[log]\nformat = \"json\"\nlevel = \"debug\"")
        .with(ROUTE)
        .granting("INSERT ON public.bookings");
    let mut daemon = Daemon::start(&config, &[]).await;
    daemon.stop().await;
    let inbox = Inbox {
        pool: sqlx::PgPool::connect(&format!(
            "{}?options=-c%20search_path%3Dsluice",
            database.url()
        ))
        .await
        .unwrap(),
    };
    sqlx::raw_sql(RULE).execute(&inbox.pool).await.unwrap();
    daemon.restart(&[]).await;
    daemon.until_ready().await;
    queue.publish_all(bookings()).await;
    let of = |id: &str| format!("{id}-{CARD}");
    inbox.until(&of("good"), "done", LIMIT).await;
    inbox.until(&of("refused"), "dead attempts", LIMIT).await;
    queue.wait_until_empty(LIMIT).await;
    daemon.stop().await;

    let log = daemon.log();
    let mut reasons = Vec::new();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        for key in ["timestamp", "level", "target", "message"] {
            assert!(line[key].is_string(), "{key}: {line}");
        }
        reasons.extend(line["reason"].as_str().map(str::to_owned));
    }
    // What went wrong is told; whose money it was about is not.
    for reason in ["attempts", "unstorable", "mapping"] {
        assert!(reasons.iter().any(|told| told == reason), "{reason}: {log}");
    }
    // As PostgreSQL shows a payload: 34 is the 4, 39 the 9, 32 the 2.
    let hex = "343932392d31323334";
    for secret in [CARD, hex, PASSWORD, TOKEN] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}
