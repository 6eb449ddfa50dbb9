//! What is left in the engine's tables, beside an instance that got the same message through REST.

use std::collections::BTreeMap;

use lapin::BasicProperties;
use serde_json::json;
use sqlx::PgPool;

use crate::daemon::{Config, Daemon, LIMIT};
use crate::rig::{Engine, QueueKind, Rig};
use crate::stored::Inbox;

/// How many rows an instance has in each table, some of them by name.
const ROWS: &str = "
    SELECT 'execution', count(*) FROM act_ru_execution WHERE proc_inst_id_ = $1
    UNION ALL SELECT 'job', count(*) FROM act_ru_job WHERE process_instance_id_ = $1
    UNION ALL SELECT 'subscription', count(*) FROM act_ru_event_subscr WHERE proc_inst_id_ = $1
    UNION ALL SELECT 'task', count(*) FROM act_ru_task WHERE proc_inst_id_ = $1
    UNION ALL SELECT 'incident', count(*) FROM act_ru_incident WHERE proc_inst_id_ = $1
    UNION ALL SELECT 'variable ' || name_ || ' ' || type_, count(*) FROM act_ru_variable
               WHERE proc_inst_id_ = $1 GROUP BY 1
    UNION ALL SELECT 'past variable ' || name_ || ' ' || var_type_, count(*) FROM act_hi_varinst
               WHERE proc_inst_id_ = $1 GROUP BY 1
    UNION ALL SELECT 'detail ' || name_, count(*) FROM act_hi_detail WHERE proc_inst_id_ = $1 GROUP BY 1
    UNION ALL SELECT 'activity ' || act_id_, count(*) FROM act_hi_actinst WHERE proc_inst_id_ = $1 GROUP BY 1
    UNION ALL SELECT 'bytes', count(*) FROM act_ge_bytearray
               WHERE position($2::bytea in bytes_) > 0";

/// Rows that belong to no instance and hold what only this test's one message held: its variables and
/// receipt, or the configuration of its job, which names the instance.
const STRAYS: &str = "
    SELECT (SELECT count(*) FROM act_ru_variable
             WHERE proc_inst_id_ IS NULL
               AND (text_ = $1 OR text_ LIKE (SELECT id || '%' FROM inbox)))
         + (SELECT count(*) FROM act_ge_bytearray
             WHERE name_ IS NULL AND position($2::bytea in bytes_) > 0)";

async fn rows(pool: &PgPool, instance: &str, mark: &str) -> BTreeMap<String, i64> {
    let rows: Vec<(String, i64)> = sqlx::query_as(ROWS)
        .bind(instance)
        .bind(mark.as_bytes())
        .fetch_all(pool)
        .await
        .unwrap();
    rows.into_iter().collect()
}

/// Our instance's variables hold this text, and its twin's that.
struct Twin {
    instance: String,
    mark: String,
}

async fn twin(engine: &Engine, process: &str, key: &str) -> Twin {
    Twin {
        instance: engine.start(process, Some(key), json!({})).await,
        mark: format!("mark of {key}"),
    }
}

#[expect(
    clippy::too_many_lines,
    reason = "one walk through every table, read from top to bottom"
)]
#[tokio::test]
async fn nothing_of_ours_is_left_in_the_engine_but_the_receipt() {
    let rig = Rig::get();
    let engine = rig.engine();
    let models = engine.deploy(&["receive-then-task"]).await;
    let (process, paid) = (models.name("receive-then-task"), models.name("Paid"));
    let schema = rig.schema();
    let queue = rig.queue(QueueKind::Classic).await;
    let config = Config::on(&schema)
        .rabbitmq("queue", &queue, "")
        .camunda_tables("shop", "")
        .with(&format!(
            "[routes.paid]\nsource = \"queue\"\nengine = \"shop\"\ndedup_key = \"@message_id\"\n\
             [routes.paid.correlate]\nmessage_name = \"{paid}\"\nbusiness_key = \"@correlation_id\"\n\
             variables = {{ text = \"$.text\", number = \"$.number\", document = \"$.document\" }}"
        ));
    let daemon = Daemon::start(&config, &[]).await;
    let ours = twin(&engine, &process, &models.name("ours")).await;
    let theirs = twin(&engine, &process, &models.name("theirs")).await;
    let document = |mark: &str| json!({ "of": mark, "more": "x".repeat(5000) });

    let payload = json!({"text": ours.mark, "number": 7, "document": document(&ours.mark)});
    let properties = BasicProperties::default()
        .with_message_id("once".into())
        .with_correlation_id(models.name("ours").into());
    queue
        .publish(payload.to_string().as_bytes(), properties)
        .await;
    let variables = json!({
        "text": {"value": theirs.mark, "type": "String"},
        "number": {"value": 7, "type": "Integer"},
        "document": {"value": document(&theirs.mark).to_string(), "type": "Json"},
    });
    let message = json!({
        "messageName": paid, "businessKey": models.name("theirs"), "processVariables": variables
    });
    assert_eq!(engine.correlate(message).await.status, 204);
    for twin in [&ours, &theirs] {
        engine.wait_for_task(&twin.instance, "after", LIMIT).await;
    }
    let inbox = Inbox::of(&schema).await;
    inbox.until("once", "done", LIMIT).await;

    let pool = schema.pool().await;
    let mut left = rows(&pool, &ours.instance, &ours.mark).await;
    let expected = rows(&pool, &theirs.instance, &theirs.mark).await;
    let receipts: Vec<String> = left
        .keys()
        .filter(|what| what.contains("sluice"))
        .cloned()
        .collect();
    for receipt in &receipts {
        assert_eq!(left.remove(receipt), Some(1), "{receipt}");
    }
    let words = ["detail", "past variable", "variable"];
    let of = |word: &str| {
        receipts
            .iter()
            .filter(|what| what.starts_with(word))
            .count()
    };
    assert_eq!(
        words.map(of),
        [1, 1, 1],
        "one receipt, and its history: {receipts:?}"
    );
    assert_eq!(left, expected);
    let strays: i64 = sqlx::query_scalar(STRAYS)
        .bind(&ours.mark)
        .bind(ours.instance.as_bytes())
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(strays, 0, "a job's payload or configuration was left");
    let claims: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM pending) + (SELECT count(*) FROM pending_start)",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(claims, 0);
    daemon.stop().await;
}
