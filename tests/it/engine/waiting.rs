//! Messages that cannot go yet, each with its reason, and what lets them go.

use serde_json::{Value, json};
use sluice::engine::Engine as _;
use sluice::inbox::Inbox;

use super::Place;
use super::place::LIMIT;
use crate::rig::unique;

const BY_KEY: &str = "[correlate]
    message_name = '$.name'
    business_key = '$.key'";
const BY_VARIABLE: &str = "[correlate]
    message_name = '$.name'
    correlation_keys = { order = '$.key' }";
const START: &str = "[start]
    message_name = '$.name'
    business_key = '$.key'";

fn routes() -> Vec<(&'static str, String)> {
    vec![
        ("by-key", BY_KEY.to_owned()),
        ("by-variable", BY_VARIABLE.to_owned()),
        ("start", START.to_owned()),
    ]
}

#[tokio::test]
async fn an_early_message_goes_as_soon_as_somebody_waits_for_it() {
    let place = Place::busy().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-then-task"]).await;
    let node = place.node(&routes()).await;
    let key = unique();
    let payload = json!({ "name": deployment.name("Paid"), "key": key });
    for route in ["by-key", "by-variable"] {
        let row = node.send(route, route, payload.clone()).await;
        assert_eq!(row.is(), "waiting/no_subscription", "{route}");
    }
    let process = deployment.name("receive-then-task");

    let first = engine.start(&process, Some(&key), json!({})).await;
    node.until("by-key", "done").await;
    engine.wait_for_task(&first, "after", LIMIT).await;
    // Without a business key no subscription announces it: it is looked for when it is due.
    let variables = json!({ "order": { "value": key, "type": "String" } });
    let second = engine.start(&process, None, variables).await;
    node.until("by-variable", "done").await;
    engine.wait_for_task(&second, "after", LIMIT).await;
    place.assert_clean().await;
}

#[tokio::test]
async fn a_message_for_an_instance_that_we_have_just_started_is_early() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["message-start-then-receive"]).await;
    let node = place.node(&routes()).await;
    let key = unique();
    let message = |name: &str| json!({ "name": deployment.name(name), "key": key });

    // In the batch of its start, and after it.
    node.send_all(&[
        ("start", "start", message("OrderPlaced")),
        ("by-key", "paid", message("Paid")),
    ])
    .await;
    node.send("by-key", "shipped", message("Shipped")).await;
    assert_eq!(
        place.states(&["start", "paid", "shipped"]).await,
        ["done", "waiting/early", "waiting/early"]
    );

    place.run_job("start").await;
    node.until("paid", "handed").await;
    place.run_job("paid").await;
    node.until("shipped", "handed").await;
    place.run_job("shipped").await;
    node.until("shipped", "done").await;
    let instance = place.row("start").await.process_instance_id.unwrap();
    engine.wait_until_completed(&instance, LIMIT).await;
    place.assert_clean().await;
}

#[tokio::test]
async fn a_name_that_no_model_has_waits_as_unknown_until_it_is_deployed() {
    // The still engine has no model whose message names are expressions: those may be any name.
    let place = Place::still().await;
    let engine = &place.engine;
    let node = place.node(&routes()).await;
    let (suffix, key) = (unique(), unique());
    let message = |name: &str| json!({ "name": format!("{name}_{suffix}"), "key": key });

    node.send_all(&[
        ("by-key", "paid", message("Paid")),
        ("start", "placed", message("OrderPlaced")),
    ])
    .await;
    assert_eq!(
        place.states(&["paid", "placed"]).await,
        ["waiting/unknown_message", "waiting/unknown_message"]
    );
    let detail = place.row("paid").await.detail;
    assert!(
        detail.contains("no deployed model has a message"),
        "{detail}"
    );

    let models = ["receive-then-task", "message-start"];
    let deployment = engine.deploy_as(&suffix, &models, None).await;
    node.refresh().await;
    place.make_due().await;
    node.wake().await;
    assert_eq!(
        place.states(&["paid", "placed"]).await,
        ["waiting/no_subscription", "done"]
    );
    let process = deployment.name("receive-then-task");
    engine.start(&process, Some(&key), json!({})).await;
    // Its own start has not run yet, but somebody waits already: then it is not early.
    node.until("paid", "handed").await;
}

#[tokio::test]
async fn several_executions_are_ambiguous_until_one_is_left() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-then-task"]).await;
    let process = deployment.name("receive-then-task");
    let node = place.node(&routes()).await;
    let key = unique();
    let one = engine.start(&process, Some(&key), json!({})).await;
    let other = engine.start(&process, Some(&key), json!({})).await;
    let payload = json!({ "name": deployment.name("Paid"), "key": key });

    let row = node.send("by-key", "one", payload).await;
    assert_eq!((row.is().as_str(), row.attempts), ("waiting/ambiguous", 1));
    let both = row.detail.contains(&one) && row.detail.contains(&other);
    assert!(both, "{}", row.detail);
    // It could go at once and was answered no: the wake leaves it until it is due.
    node.wake().await;
    assert_eq!(place.row("one").await.epoch, row.epoch);

    engine.suspend_instance(&one, true).await;
    place.make_due().await;
    node.until("one", "handed").await;
}

#[tokio::test]
async fn a_job_without_retries_blocks_what_comes_after_it_until_it_is_mended() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["failing-after-receive"]).await;
    let process = deployment.name("failing-after-receive");
    let node = place.node(&routes()).await;
    let key = unique();
    let instance = engine.start(&process, Some(&key), json!({})).await;
    let payload = json!({ "name": deployment.name("Paid"), "key": key });
    node.send("by-key", "failing", payload.clone()).await;
    for _ in 0..3 {
        place.run_job("failing").await;
    }

    let row = node.send("by-key", "behind", payload.clone()).await;
    assert_eq!(row.is(), "waiting/blocked");
    let state = node.refresh().await;
    assert_eq!((state.backlog, state.blocked), (0, 1));
    let detail = &state.blocked_details[0];
    assert!(
        detail.contains("no retries left") && detail.contains(&instance),
        "{detail}"
    );
    node.confirm().await;
    node.wake().await;
    assert_eq!(
        place.states(&["failing", "behind"]).await,
        ["handed", "waiting/blocked"]
    );

    let mended = json!({ "mended": { "value": true, "type": "Boolean" } });
    engine.set_variables(&instance, mended).await;
    let job = place.job("failing").await;
    engine.set_retries(&job, 1).await;
    place.run_job("failing").await;
    node.until("failing", "done").await;
    assert_eq!(node.refresh().await.blocked, 0);
    place.assert_clean().await;
}

#[tokio::test]
async fn a_start_without_retries_blocks_the_messages_of_its_business_key() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["failing-start", "receive-then-task"]).await;
    let node = place.node(&routes()).await;
    let key = unique();
    let message = |name: &str| json!({ "name": deployment.name(name), "key": key });
    node.send("start", "start", message("OrderPlaced")).await;
    assert_eq!(
        node.send("by-key", "one", message("Paid")).await.is(),
        "waiting/early"
    );

    for _ in 0..3 {
        place.run_job("start").await;
    }
    assert_eq!(
        node.send("by-key", "two", message("Paid")).await.is(),
        "waiting/blocked"
    );
    let state = node.refresh().await;
    assert_eq!(state.blocked, 1);
    // The engine knows to what the incident belongs.
    let instance = place.row("start").await.process_instance_id.unwrap();
    let incidents = engine.incidents(&[("processInstanceId", &instance)]).await;
    assert_eq!(incidents.len(), 1);
}

#[tokio::test]
async fn the_engines_backlog_is_bounded_and_the_rest_goes_in_order() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-then-task", "message-start"]).await;
    let process = deployment.name("receive-then-task");
    let node = place
        .node_with(json!({ "max_backlog": 3 }), &routes())
        .await;
    let keys: Vec<String> = (0..9).map(|n| format!("{n}-{}", unique())).collect();
    let mut messages: Vec<(&str, &str, Value)> = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        if number % 3 == 2 {
            let payload = json!({ "name": deployment.name("OrderPlaced"), "key": key });
            messages.push(("start", key, payload));
        } else {
            engine.start(&process, Some(key), json!({})).await;
            let payload = json!({ "name": deployment.name("Paid"), "key": key });
            messages.push(("by-key", key, payload));
        }
    }

    node.send_all(&messages[..5]).await;
    // One that comes later does not overtake, not even when there is room again.
    place.run_job(&keys[0]).await;
    node.confirm().await;
    assert_eq!(node.refresh().await.backlog, 2);
    node.send_all(&messages[5..]).await;

    let mut gone = vec![keys[0].clone(), keys[1].clone(), keys[2].clone()];
    let has_gone = async |key: &String| {
        let row = place.row(key).await;
        assert!(
            row.state != "waiting" || row.is() == "waiting/backlog",
            "{row:?}"
        );
        row.state != "waiting"
    };
    for next in &keys[3..] {
        node.wake().await;
        for (number, key) in keys.iter().enumerate() {
            let expected = number <= gone.len();
            assert_eq!(
                has_gone(key).await,
                expected,
                "{number} after {}",
                gone.len()
            );
        }
        gone.push(next.clone());
        assert_eq!(node.refresh().await.backlog, 3);
        // One of the engine's three jobs is done.
        place.run_job(&gone[gone.len() - 4 + 1]).await;
        node.confirm().await;
        assert_eq!(node.refresh().await.backlog, 2);
    }
    let attempts: i64 = sqlx::query_scalar("SELECT sum(attempts) FROM inbox")
        .fetch_one(&place.pool)
        .await
        .unwrap();
    assert_eq!(attempts, 0, "waiting for the backlog is no attempt");
}

#[tokio::test]
async fn a_queue_for_the_backlog_leaves_room_for_who_is_waited_for_since() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-then-task", "message-start"]).await;
    let node = place
        .node_with(json!({ "max_backlog": 4 }), &routes())
        .await;
    let late = unique();
    let paid = json!({ "name": deployment.name("Paid"), "key": late });
    let row = node.send("by-key", "late", paid).await;
    assert_eq!(row.is(), "waiting/no_subscription");
    // Not due before the end of the test.
    sqlx::query("UPDATE inbox SET due_at = now() + interval '1 hour'")
        .execute(&place.pool)
        .await
        .unwrap();
    let keys: Vec<String> = (0..12).map(|n| format!("{n}-{}", unique())).collect();
    let placed = deployment.name("OrderPlaced");
    let starts: Vec<(&str, &str, Value)> = keys
        .iter()
        .map(|key| ("start", &**key, json!({ "name": placed, "key": key })))
        .collect();
    node.send_all(&starts).await;
    let process = deployment.name("receive-then-task");
    engine.start(&process, Some(&late), json!({})).await;
    for key in &keys[..4] {
        place.run_job(key).await;
    }
    node.confirm().await;
    assert_eq!(node.refresh().await.backlog, 0);

    node.wake().await;
    assert_eq!(place.row("late").await.is(), "handed");
    let queued = "SELECT count(*) FROM inbox WHERE state = 'waiting' AND reason = 'backlog'";
    let queued: i64 = sqlx::query_scalar(queued)
        .fetch_one(&place.pool)
        .await
        .unwrap();
    assert_eq!(queued, 5, "three of eight have gone");
}

#[tokio::test]
async fn rows_of_routes_that_a_node_does_not_know_do_not_keep_it_from_its_own() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-then-task"]).await;
    let process = deployment.name("receive-then-task");
    let old = place
        .node(&[("gone", BY_KEY.to_owned()), ("by-key", BY_KEY.to_owned())])
        .await;
    let keys: Vec<String> = (0..4).map(|_| unique()).collect();
    for (number, key) in keys.iter().enumerate() {
        let route = if number < 3 { "gone" } else { "by-key" };
        let payload = json!({ "name": deployment.name("Paid"), "key": key });
        old.send(route, key, payload).await;
    }
    for key in &keys {
        engine.start(&process, Some(key), json!({})).await;
    }
    let new = place.node(&routes()).await;
    let mut tx = new.inbox.begin().await.unwrap();
    let routes = ["by-key".to_owned()];
    let woken = new.engine.wake(&mut tx, &routes, 2).await.unwrap();
    assert_eq!(woken.len(), 1);
    assert_eq!(woken[0].row.0, place.row(&keys[3]).await.id);
}

#[tokio::test]
async fn a_round_that_may_not_take_every_free_row_goes_on_there_the_next_time() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-then-task"]).await;
    let process = deployment.name("receive-then-task");
    let node = place.node(&routes()).await;
    let mut ids = Vec::new();
    for number in 0..6 {
        // Of the keys that are looked at, the first has no instance and is none of the free ones.
        let key = format!("{number}-{}", unique());
        let payload = json!({ "name": deployment.name("Paid"), "key": key });
        let row = node.send("by-key", &key, payload).await;
        if number > 0 {
            engine.start(&process, Some(&key), json!({})).await;
            ids.push(row.id);
        }
    }
    let woken = async |limit: i64| {
        let mut tx = node.inbox.begin().await.unwrap();
        let routes = ["by-key".to_owned()];
        let rows = node.engine.wake(&mut tx, &routes, limit).await.unwrap();
        rows.iter().map(|woken| woken.row.0).collect::<Vec<_>>()
    };

    // Nothing is handed, so the same rows are free each time: the rounds go around.
    assert_eq!(woken(2).await, ids[0..2]);
    assert_eq!(woken(2).await, ids[2..4]);
    assert_eq!(woken(2).await, [ids[4], ids[0]]);
    // And a round that may take all takes each once, wherever it begins.
    assert_eq!(woken(10).await, [ids[1], ids[2], ids[3], ids[4], ids[0]]);
    assert_eq!(woken(10).await.len(), 5);
}

#[tokio::test]
async fn a_job_that_no_engine_node_takes_is_told_of() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-then-task"]).await;
    let process = deployment.name("receive-then-task");
    let node = place.node(&routes()).await;
    let key = unique();
    engine.start(&process, Some(&key), json!({})).await;
    let payload = json!({ "name": deployment.name("Paid"), "key": key });
    node.send("by-key", "one", payload).await;
    assert_eq!(node.refresh().await.blocked_details, Vec::<String>::new());
    sqlx::query("UPDATE pending SET handed_at = handed_at - interval '10 min'")
        .execute(&place.pool)
        .await
        .unwrap();
    let state = node.refresh().await;
    assert_eq!((state.backlog, state.blocked), (1, 0));
    let said = &state.blocked_details[0];
    assert!(
        said.contains("taken 1 of our jobs") && said.contains(&process),
        "{said}"
    );
    place.run_job("one").await;
    node.confirm().await;
    assert_eq!(node.refresh().await.blocked_details, Vec::<String>::new());
}

#[tokio::test]
async fn rows_of_a_route_that_is_gone_do_not_make_the_others_queue() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["message-start"]).await;
    let payload = |key: &str| json!({ "name": deployment.name("OrderPlaced"), "key": key });
    let (first, second) = (unique(), unique());
    let old = place
        .node_with(json!({ "max_backlog": 1 }), &[("gone", START.to_owned())])
        .await;
    old.send("gone", &first, payload(&first)).await;
    let row = old.send("gone", &second, payload(&second)).await;
    assert_eq!(row.is(), "waiting/backlog");

    let new = place.node(&routes()).await;
    new.wake().await;
    let key = unique();
    let row = new.send("start", &key, payload(&key)).await;
    assert_eq!(row.is(), "done");
}
