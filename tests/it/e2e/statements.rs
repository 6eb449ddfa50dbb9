//! People whose engine is a table: the effect is their own statement.

use lapin::BasicProperties;
use serde_json::json;
use sqlx::PgPool;

use crate::daemon::{Config, Daemon, LIMIT};
use crate::rig::{Database, QueueKind, Rig};
use crate::stored::Inbox;

const TABLES: &str = "
    CREATE TABLE orders (id text, state text);
    CREATE TABLE payments (order_id text, amount numeric CHECK (amount > 0), message text);
    INSERT INTO orders VALUES ('there', 'open'), ('twice', 'open'), ('twice', 'open'), ('closed', 'paid');
    CREATE SCHEMA sluice;";

/// An attempt comes soon after the last one.
const ROUTE: &str = r#"
    [engines.ledger.sql]
    match = "SELECT 1 FROM public.orders WHERE id = :business_key AND state = 'open' FOR UPDATE"
    apply = """
        WITH paid AS (UPDATE public.orders SET state = 'paid' WHERE id = :business_key)
        INSERT INTO public.payments VALUES (:business_key, :amount, :dedup_key)"""

    [routes.paid]
    source = "payments"
    engine = "ledger"
    dedup_key = "$.id"
    attempts = { max = 3, initial_interval = "100ms", multiplier = 1.0 }
    [routes.paid.apply]
    business_key = "$.order"
    variables = { amount = { from = "$.amount", type = "double" } }
"#;

async fn payments(pool: &PgPool) -> Vec<(String, f64, String)> {
    let sql = "SELECT order_id, amount::float8, message FROM payments ORDER BY message";
    sqlx::query_as(sql).fetch_all(pool).await.unwrap()
}

async fn inbox_of(database: &Database) -> Inbox {
    let url = format!("{}?options=-c%20search_path%3Dsluice", database.url());
    Inbox {
        pool: PgPool::connect(&url).await.unwrap(),
    }
}

#[tokio::test]
async fn a_users_own_statement_takes_each_message_once() {
    let rig = Rig::get();
    let database = rig.database().await;
    let pool = database.pool().await;
    sqlx::raw_sql(TABLES).execute(&pool).await.unwrap();
    let queue = rig.queue(QueueKind::Quorum).await;
    let config = Config::at(&database.url(), "sluice")
        .rabbitmq("payments", &queue, "")
        .with(ROUTE)
        .granting("SELECT, UPDATE ON public.orders")
        .granting("INSERT ON public.payments");
    let daemon = Daemon::start(&config, &[]).await;
    let message = |id: &str, order: &str, amount: f64| {
        let payload = json!({"id": id, "order": order, "amount": amount});
        (payload.to_string().into_bytes(), BasicProperties::default())
    };
    queue
        .publish_all(vec![
            message("p1", "there", 1.5),
            message("p1", "there", 1.5),
            // Between them: what the user's own table refuses, what nobody waits for, or several.
            message("p2", "refused", -1.0),
            message("p3", "later", 3.0),
            message("p4", "twice", 4.0),
            message("p5", "closed", 5.0),
        ])
        .await;
    let inbox = inbox_of(&database).await;
    inbox.until("p1", "done", LIMIT).await;
    inbox.until("p3", "waiting no_subscription", LIMIT).await;
    let sql = "INSERT INTO orders VALUES ('later', 'open'), ('refused', 'open')";
    sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    inbox.until("p3", "done", LIMIT).await;
    let refused = inbox.until("p2", "dead attempts", LIMIT).await;
    assert!(refused.detail.contains("23514"), "{}", refused.detail);
    inbox.until("p4", "dead attempts", LIMIT).await;
    inbox.until("p5", "waiting no_subscription", LIMIT).await;
    let expected = [("there", 1.5, "p1"), ("later", 3.0, "p3")];
    let expected = expected.map(|(order, amount, id)| (order.to_owned(), amount, id.to_owned()));
    assert_eq!(payments(&pool).await, expected);
    queue.wait_until_empty(LIMIT).await;
    daemon.stop().await;
}
