//! What only PostgreSQL does.

use sqlx::Executor as _;

use super::on_postgres;

#[tokio::test]
async fn every_statement_prepares_against_the_live_schema() {
    let fresh = on_postgres().await;
    let mut connection = fresh.inbox.pool().acquire().await.unwrap();
    let statements = fresh.inbox.statements();
    assert!(statements.len() > 20);
    for statement in statements {
        let text = statement.as_str().to_owned();
        assert!(text.starts_with("/* inbox."), "{text}");
        if let Err(error) = connection.prepare(statement).await {
            panic!("{error}: {text}");
        }
    }
}
