//! Triggers on the inbox's table that let a test hold, delay or refuse the rows of chosen messages.

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, PgPool, Postgres};

use super::shop::{LIMIT, Shop};
use crate::rig::eventually;

/// Holds back every transaction that inserts one of some messages, until it is opened.
pub struct Gate {
    keeper: PoolConnection<Postgres>,
    inbox: PgPool,
    /// What the lock's number is made of; no other test has it.
    name: String,
}

impl Gate {
    pub async fn close(shop: &Shop, dedup_keys: &[String]) -> Gate {
        let name = shop.schema.name().to_owned();
        let what = format!("PERFORM pg_advisory_xact_lock(hashtext('{name}'))");
        on_insert(shop, dedup_keys, &what).await;
        let mut keeper = shop.inbox.acquire().await.unwrap();
        sqlx::query("SELECT pg_advisory_lock(hashtext($1))")
            .bind(&name)
            .execute(&mut *keeper)
            .await
            .unwrap();
        Gate {
            keeper,
            inbox: shop.inbox.clone(),
            name,
        }
    }

    /// Waits until transactions of so many nodes, told apart by their names, stand before it, or behind
    /// another that does.
    pub async fn until_waited_for_by(&self, nodes: i64) {
        let sql = "SELECT count(DISTINCT application_name) FROM pg_stat_activity
                    WHERE wait_event_type = 'Lock' AND application_name LIKE 'sluice/%'
                      AND position($1 IN query) > 0";
        eventually("transactions waiting at the gate", LIMIT, async || {
            let waiting: i64 = sqlx::query_scalar(sql)
                .bind(&self.name)
                .fetch_one(&self.inbox)
                .await
                .unwrap();
            (waiting >= nodes).then_some(())
        })
        .await;
    }

    pub async fn open(mut self) {
        sqlx::query("SELECT pg_advisory_unlock(hashtext($1))")
            .bind(&self.name)
            .execute(&mut *self.keeper)
            .await
            .unwrap();
    }
}

/// Runs a statement of PL/pgSQL in every insert of a row with one of these dedup keys.
pub async fn on_insert(shop: &Shop, dedup_keys: &[String], what: &str) {
    let keys = dedup_keys.join("','");
    on_row(shop, &format!("NEW.dedup_key IN ('{keys}')"), what).await;
}

/// The same for every row of which this is true.
pub async fn on_row(shop: &Shop, when: &str, what: &str) {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF {when} THEN {what}; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER meddle BEFORE INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION meddle()"
    );
    execute(shop, sql).await;
}

/// Takes the trigger away again.
pub async fn leave_alone(shop: &Shop) {
    execute(shop, "DROP TRIGGER meddle ON inbox".to_owned()).await;
}

async fn execute(shop: &Shop, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&shop.inbox)
        .await
        .expect("the schema is the test's own");
}
