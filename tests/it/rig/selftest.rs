//! What the other tests rely on: that each thing is a test's own, and that a killed server comes back.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::BasicConsumeOptions;
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use super::{QueueKind, Rig, Server, eventually, headers, orphaned, unique};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn names_tell_whether_their_owner_lives() {
    assert!(!orphaned(&unique()));
    // Above the highest pid that Linux gives out.
    assert!(orphaned("t4194305_0123456789ab"));
    assert!(!orphaned("t4194305_somebody_else"));
    assert!(!orphaned("template1"));
}

#[tokio::test]
async fn a_database_is_a_tests_own_and_vanishes_with_it() {
    let rig = Rig::get();
    let database = rig.database().await;
    let pool = database.pool().await;
    sqlx::raw_sql("CREATE TABLE one (n int)")
        .execute(&pool)
        .await
        .expect("the database is writable");
    let (name, url) = (database.name().to_owned(), database.url());

    drop(database);

    assert!(
        PgConnection::connect(&url).await.is_err(),
        "{name} should be gone"
    );
}

#[tokio::test]
async fn a_schema_lies_beside_the_engines_tables_and_vanishes_with_its_test() {
    let rig = Rig::get();
    let schema = rig.schema();
    assert_eq!(schema.url(), rig.engine_database_url());
    let pool = schema.pool().await;
    let make = format!("CREATE SCHEMA {}", schema.name());
    sqlx::raw_sql(sqlx::AssertSqlSafe(make))
        .execute(&pool)
        .await
        .expect("the superuser makes schemas");
    sqlx::raw_sql("CREATE TABLE one AS SELECT id_ FROM act_ru_job")
        .execute(&pool)
        .await
        .expect("the engine's tables are in sight");
    // A session that still holds a lock, as that of a killed daemon does for a while.
    let mut held = pool.begin().await.expect("a transaction begins");
    sqlx::query("SELECT * FROM one")
        .fetch_all(&mut *held)
        .await
        .expect("the table is there");
    let name = schema.name().to_owned();

    drop(schema);

    let found: Option<i32> = sqlx::query_scalar("SELECT 1 FROM pg_namespace WHERE nspname = $1")
        .bind(&name)
        .fetch_optional(
            &mut PgConnection::connect(&rig.engine_database_url())
                .await
                .expect("the server answers"),
        )
        .await
        .expect("the catalogue can be read");
    assert_eq!(found, None, "{name} should be gone");
}

#[tokio::test]
async fn a_queue_holds_what_was_confirmed() {
    let queue = Rig::get().queue(QueueKind::Classic).await;
    let properties = BasicProperties::default().with_headers(headers(&[("type", "Paid")]));
    queue.publish(b"one", properties).await;
    assert_eq!(queue.ready().await, 1);
    let consumer = Connection::connect(queue.uri(), ConnectionProperties::default())
        .await
        .expect("the broker takes connections");
    let mut deliveries = consumer
        .create_channel()
        .await
        .expect("a connection takes channels")
        .basic_consume(
            queue.name().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("the queue is there");
    let delivery = deliveries.next().await.expect("the stream lives");
    assert_eq!(delivery.expect("nothing was cut yet").data, b"one");
    // The administrator may not see the connection yet: cut until it has ended.
    eventually("the end of the cut connection", LIMIT, async || {
        queue.cut_consumers().await;
        let ended = tokio::time::timeout(Duration::from_millis(200), deliveries.next()).await;
        matches!(ended, Ok(None | Some(Err(_)))).then_some(())
    })
    .await;
    queue.delete().await;
    queue.declare().await;
    queue.wait_until_empty(LIMIT).await;
    assert!(queue.statistics().await.is_some());
}

#[tokio::test]
async fn a_topic_keeps_the_order_of_a_key_and_forgets_what_is_truncated() {
    let rig = Rig::get();
    let topic = rig.topic(3).await;
    let first = topic.produce(Some("a"), &[("type", "Paid")], b"1").await;
    let second = topic.produce(Some("a"), &[], b"2").await;
    assert_eq!((first.0, first.1 + 1), second);
    topic.produce_to(0, None, &[], b"3").await;
    topic.produce_all(&[("b".to_owned(), b"4".to_vec())]).await;
    assert_eq!(topic.committed("nobody").await, vec![None; 3]);

    let high = topic.watermarks().await[0].1;
    topic.truncate(0, high).await;

    assert_eq!(topic.watermarks().await[0], (high, high));
    topic.delete().await;
    topic.create().await;
    topic.wait_until_committed("nobody", LIMIT).await;
    assert_eq!(
        (topic.partitions(), topic.bootstrap()),
        (3, rig.kafka.bootstrap())
    );
}

#[tokio::test]
async fn a_message_to_the_engine_reaches_the_instance_of_its_own_deployment() {
    let rig = Rig::get();
    let engine = rig.engine();
    let mine = engine.deploy(&["receive-then-task", "receive-task"]).await;
    let other = engine.deploy(&["receive-then-task"]).await;
    let key = unique();
    let ours = engine
        .start(&mine.name("receive-then-task"), Some(&key), json!({}))
        .await;
    let theirs = engine
        .start(&other.name("receive-then-task"), Some(&key), json!({}))
        .await;
    let paid = mine.name("Paid");
    rig.second_engine()
        .wait_for_subscription(&ours, &paid, LIMIT)
        .await;

    let variables = json!({ "amount": { "value": 5, "type": "Long" } });
    let message = json!({ "messageName": paid, "businessKey": key, "processVariables": variables });
    assert_eq!(engine.correlate(message.clone()).await.status, 204);
    assert_eq!(engine.correlate(message).await.status, 400);

    engine.wait_for_task(&ours, "after", LIMIT).await;
    assert_eq!(
        engine.variables(&ours).await["amount"],
        json!({ "value": 5, "type": "Long", "valueInfo": {} })
    );
    engine.complete(&ours, "after").await;
    engine.wait_until_completed(&ours, LIMIT).await;
    assert_eq!(engine.history_variables(&ours).await["amount"]["value"], 5);
    let path: Vec<String> = engine
        .history_activities(&ours)
        .await
        .into_iter()
        .map(|(activity, _)| activity)
        .collect();
    assert_eq!(path, ["start", "receive", "after", "end"]);
    assert_eq!(engine.tasks(&theirs).await, []);
    assert_eq!(engine.instances(&key).await.len(), 1);
    assert_eq!(
        engine
            .history_instances(&[("processInstanceBusinessKey", &key)])
            .await
            .len(),
        2
    );
    mine.delete().await;
}

#[tokio::test]
async fn the_engine_suspends_deletes_and_knows_tenants() {
    let engine = Rig::get().engine();
    let tenant = unique();
    let deployment = engine
        .deploy_for(&["tenant", "catch-event"], Some(&tenant))
        .await;
    let again = engine
        .deploy_as(deployment.suffix(), &["tenant"], Some("somebody-else"))
        .await;
    assert_ne!(again.id(), deployment.id());
    let key = deployment.name("tenant-receive");
    let instance = engine.start_for(&key, &tenant, None, json!({})).await;
    engine
        .set_variables(
            &instance,
            json!({ "order": { "value": "7", "type": "String" } }),
        )
        .await;
    let tenants = |subscriptions: Vec<serde_json::Value>| -> Vec<serde_json::Value> {
        subscriptions
            .into_iter()
            .map(|subscription| subscription["tenantId"].clone())
            .collect()
    };
    let query = [("processInstanceId", instance.as_str())];
    assert_eq!(
        tenants(engine.subscriptions(&query).await),
        [tenant.as_str()]
    );

    engine.suspend_instance(&instance, true).await;
    let message = json!({ "messageName": deployment.name("Paid"), "correlationKeys": { "order": { "value": "7", "type": "String" } } });
    assert_eq!(engine.correlate(message.clone()).await.status, 400);
    engine.suspend_instance(&instance, false).await;
    engine.suspend_definition(&key, true, false).await;
    assert_eq!(engine.correlate(message).await.status, 204);

    engine.delete_instance(&instance).await;
    assert_eq!(
        engine
            .history_instance(&instance)
            .await
            .expect("history stays")["state"],
        "EXTERNALLY_TERMINATED"
    );
}

#[tokio::test]
async fn a_job_without_retries_is_seen_and_can_be_given_new_ones() {
    let engine = Rig::get().engine();
    let deployment = engine.deploy(&["async"]).await;
    let instance = engine
        .start(&deployment.name("async"), None, json!({}))
        .await;
    let query = [("processInstanceId", instance.as_str())];
    engine
        .wait_for_subscription(&instance, &deployment.name("Paid"), LIMIT)
        .await;
    assert_eq!(engine.jobs(&query).await, Vec::<serde_json::Value>::new());
    assert_eq!(
        engine.incidents(&query).await,
        Vec::<serde_json::Value>::new()
    );
    engine
        .suspend_definition(&deployment.name("async"), true, true)
        .await;
    engine
        .suspend_definition(&deployment.name("async"), false, true)
        .await;

    assert_eq!(engine.execute("no-such-job").await.status, 404);

    // A node that runs no jobs leaves them for us to see.
    let database = unique();
    let idle = Server::engine(None, &database, &["JOBS=false", "HISTORY=none"]).await;
    let engine = idle.as_engine();
    let deployment = engine.deploy(&["async"]).await;
    let instance = engine
        .start(&deployment.name("async"), None, json!({}))
        .await;
    let query = [("processInstanceId", instance.as_str())];
    let job = engine.jobs(&query).await.remove(0)["id"]
        .as_str()
        .expect("a job has an id")
        .to_owned();
    engine.set_retries(&job, 0).await;
    assert_eq!(engine.incidents(&query).await.len(), 1);
    engine.set_retries(&job, 1).await;
    engine.suspend_job(&job, true).await;
    engine.suspend_job(&job, false).await;
    assert_eq!(engine.execute(&job).await.status, 204);
}

#[tokio::test]
async fn a_killed_postgres_comes_back_with_what_it_committed() {
    let server = Server::postgres(&["max_connections=20"]).await;
    let database = server.as_postgres().database().await;
    let pool = database.pool().await;
    sqlx::raw_sql("CREATE TABLE one AS SELECT 1 AS n")
        .execute(&pool)
        .await
        .expect("the database is writable");
    server.kill().await;
    assert!(PgConnection::connect(&database.url()).await.is_err());
    server.start().await;
    let n: i32 = sqlx::query_scalar("SELECT n FROM one")
        .fetch_one(&database.pool().await)
        .await
        .expect("the row is back");
    assert_eq!(n, 1);

    server.freeze().await;
    let patience = Duration::from_millis(300);
    assert!(
        tokio::time::timeout(patience, PgConnection::connect(&database.url()))
            .await
            .is_err()
    );
    server.thaw().await;
    server.stop().await;
    server.restart().await;
    assert!(server.folder().join("log").exists());
}

#[tokio::test]
async fn a_killed_rabbitmq_comes_back_with_what_it_confirmed() {
    let server = Server::rabbitmq(&[]).await;
    let broker = server.as_rabbitmq();
    let classic = broker.queue(QueueKind::Classic).await;
    let quorum = broker
        .queue_with(QueueKind::Quorum, FieldTable::default())
        .await;
    classic.publish(b"one", BasicProperties::default()).await;
    quorum.publish(b"one", BasicProperties::default()).await;
    server.kill().await;
    let lost = vec![(b"two".to_vec(), BasicProperties::default())];
    assert!(classic.try_publish(lost).await.is_err());
    server.start().await;
    eventually("the messages coming back", LIMIT, async || {
        (classic.ready().await == 1 && quorum.ready().await == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_killed_kafka_comes_back_with_what_it_confirmed() {
    let server = Server::kafka(&["num.partitions=1"]).await;
    let topic = server.as_kafka().topic(1).await;
    topic.produce(None, &[], b"one").await;
    server.kill().await;
    server.start().await;
    let stored = topic
        .try_produce(Some(0), None, &[], b"two")
        .await
        .expect("the producer finds the broker again");
    assert_eq!(stored, (0, 1));
}

#[tokio::test]
async fn a_killed_engine_node_leaves_its_work_to_the_other() {
    let postgres = Server::postgres(&[]).await;
    let first = Server::engine(Some(&postgres), "engine", &["WAIT=100"]).await;
    let second = Server::engine(Some(&postgres), "engine", &["JOBS=false"]).await;
    let deployment = second.as_engine().deploy(&["async"]).await;
    first.kill().await;
    let instance = second
        .as_engine()
        .start(&deployment.name("async"), None, json!({}))
        .await;
    first.start().await;
    first
        .as_engine()
        .wait_for_subscription(&instance, &deployment.name("Paid"), LIMIT)
        .await;
}
