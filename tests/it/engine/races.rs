//! What happens between look and hand-over, hand-over and job, job and confirm.

use serde_json::{Value, json};
use sluice::engine::{Engine as _, Outcome, Verdict};
use sluice::inbox::{Change, Class, Expires, Inbox, State, StateName};
use sluice::message::{DeadReason, WaitReason};
use sluice::units::Span;

use super::asks::{Looked, ask, correlation, start};
use super::place::LIMIT;
use super::{Node, Place};
use crate::rig::{eventually, unique};

const BY_KEY: &str = "[correlate]
    message_name = '$.name'
    business_key = '$.key'
    variables = { amount = { from = '$.amount', optional = true } }";

async fn node(place: &Place) -> Node<'_> {
    place.node(&[("by-key", BY_KEY.to_owned())]).await
}

#[tokio::test]
async fn a_second_message_of_an_instance_may_be_done_before_the_first_is_confirmed() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["fork-other-names"]).await;
    let key = unique();
    let process = deployment.name("fork-other-names");
    let instance = engine.start(&process, Some(&key), json!({})).await;
    let node = node(&place).await;
    let message = |name: &str| json!({ "name": deployment.name(name), "key": key, "amount": 1 });

    node.send_all(&[
        ("by-key", "paid", message("Paid")),
        ("by-key", "shipped", message("Shipped")),
    ])
    .await;
    assert_eq!(
        place.states(&["paid", "shipped"]).await,
        ["handed", "handed"]
    );
    // The second overwrites the receipt of the first before anybody has looked for it.
    place.run_job("paid").await;
    place.run_job("shipped").await;
    engine.wait_for_task(&instance, "after", LIMIT).await;
    node.confirm().await;

    assert_eq!(place.states(&["paid", "shipped"]).await, ["done", "done"]);
    place.assert_clean().await;
}

#[tokio::test]
async fn a_receipt_that_a_called_process_overwrites_is_still_found() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-then-call"]).await;
    let key = unique();
    let process = deployment.name("receive-then-call");
    let parent = engine.start(&process, Some(&key), json!({})).await;
    let node = node(&place).await;
    let message = |name: &str| json!({ "name": deployment.name(name), "key": key, "amount": 1 });

    node.send("by-key", "of-parent", message("Paid")).await;
    place.run_job("of-parent").await;
    node.send("by-key", "of-child", message("Shipped")).await;
    place.run_job("of-child").await;
    engine.wait_for_task(&parent, "after", LIMIT).await;
    let receipt = engine.variables(&parent).await["sluice_receipt"]["value"].clone();
    let child = place.row("of-child").await;
    assert_eq!(
        receipt,
        format!("{}/1", child.id),
        "the child overwrites it"
    );
    node.confirm().await;

    assert_eq!(
        place.states(&["of-parent", "of-child"]).await,
        ["done", "done"]
    );
    place.assert_clean().await;
}

#[tokio::test]
async fn of_two_nodes_that_saw_the_same_catcher_one_gets_it() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-then-task", "receive-twice"]).await;
    let (one, two) = (node(&place).await, node(&place).await);
    for process in ["receive-then-task", "receive-twice"] {
        let key = unique();
        let name = deployment.name("Paid");
        engine
            .start(&deployment.name(process), Some(&key), json!({}))
            .await;
        let message = correlation(&name, &key);
        let slow = Looked::of(&one, ask(&message, "slow")).await;
        let quick = Looked::of(&two, ask(&message, "quick")).await;
        assert_eq!(slow.matched.outcome(0), &Outcome::Hand, "{process}");

        assert_eq!(quick.hand(&two).await.unwrap(), [], "{process}");
        let missed = slow.hand(&one).await.unwrap();

        assert_eq!(missed[0].reason, WaitReason::Busy, "{process}");
        assert_eq!(missed[0].from, StateName::Handed);
    }
    let jobs: i64 = sqlx::query_scalar("SELECT count(*) FROM pending")
        .fetch_one(&place.pool)
        .await
        .unwrap();
    assert_eq!(jobs, 2);
}

#[tokio::test]
async fn a_subscription_that_is_gone_since_the_look_costs_no_attempt() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-then-task"]).await;
    let key = unique();
    let name = deployment.name("Paid");
    let process = deployment.name("receive-then-task");
    engine.start(&process, Some(&key), json!({})).await;
    let (slow, quick) = (node(&place).await, node(&place).await);
    let message = correlation(&name, &key);
    let looked = Looked::of(&slow, ask(&message, "slow")).await;

    quick
        .send("by-key", "quick", json!({ "name": name, "key": key }))
        .await;
    place.run_job("quick").await;
    quick.until("quick", "done").await;

    let missed = looked.hand(&slow).await.unwrap();
    assert_eq!(missed[0].reason, WaitReason::Busy);
}

#[tokio::test]
async fn a_second_token_that_arrives_before_the_job_does_not_get_the_message_too() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["fork-shared-catcher"]).await;
    let key = unique();
    let name = deployment.name("Paid");
    let process = deployment.name("fork-shared-catcher");
    let instance = engine.start(&process, Some(&key), json!({})).await;
    let node = node(&place).await;

    let payload = json!({ "name": name, "key": key, "amount": 1 });
    let refused = node.send("by-key", "payload", payload).await;
    assert_eq!(refused.is(), "waiting/unsupported");
    assert!(
        refused.detail.contains("may wait twice"),
        "{}",
        refused.detail
    );

    node.send("by-key", "one", json!({ "name": name, "key": key }))
        .await;
    assert_eq!(place.variant("one").await, "B");
    engine.complete(&instance, "hold").await;
    assert_eq!(
        engine
            .subscriptions(&[("processInstanceId", &instance)])
            .await
            .len(),
        2
    );
    place.run_job("one").await;
    node.until("one", "done").await;

    assert_eq!(
        engine
            .subscriptions(&[("processInstanceId", &instance)])
            .await
            .len(),
        1
    );
    assert_eq!(engine.tasks(&instance).await.len(), 1);
}

#[tokio::test]
async fn a_node_that_was_frozen_while_it_confirmed_changes_nothing_when_it_is_back() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["receive-with-cancel"]).await;
    let key = unique();
    let process = deployment.name("receive-with-cancel");
    engine.start(&process, Some(&key), json!({})).await;
    let quick = node(&place).await;
    let frozen = place.impatient_node(&[("by-key", BY_KEY.to_owned())]).await;
    let payload = json!({ "name": deployment.name("Paid"), "key": key });
    quick.send("by-key", "one", payload).await;
    engine
        .correlate(json!({ "messageName": deployment.name("Cancelled"), "businessKey": key }))
        .await;
    place.run_job("one").await;

    let mut tx = frozen.inbox.begin().await.unwrap();
    let confirmed = frozen.engine.confirm(&mut tx, 10).await.unwrap();
    let confirmed = confirmed.expect("the job is gone");
    assert!(matches!(confirmed[0].verdict, Verdict::Never { .. }));
    // The claim is locked, and the other node passes over it until the server ends the frozen session.
    eventually("the other node confirming it", LIMIT, async || {
        quick.confirm().await;
        (place.row("one").await.is() == "waiting/retry").then_some(())
    })
    .await;
    engine.start(&process, Some(&key), json!({})).await;
    let handed = quick.until("one", "handed").await;

    let change = Change {
        id: confirmed[0].row,
        from: StateName::Handed,
        epoch: confirmed[0].epoch,
        new_epoch: confirmed[0].epoch + 1,
        attempts_used: 1,
        target: None,
        state: State::Waiting {
            reason: WaitReason::Retry,
            detail: String::new(),
            due_in: Span::ms(0),
            expires: Expires::Never,
        },
    };
    assert!(
        frozen
            .inbox
            .change(&mut tx, std::slice::from_ref(&change))
            .await
            .is_err()
    );
    // And in a transaction of today its epoch is of yesterday.
    let mut tx = frozen.inbox.begin().await.unwrap();
    let changed = frozen.inbox.change(&mut tx, &[change]).await.unwrap();
    frozen.inbox.commit(tx).await.unwrap();
    assert_eq!(changed, []);
    assert_eq!(place.row("one").await, handed);
    place.run_job("one").await;
    quick.until("one", "done").await;
    place.assert_clean().await;
}

#[tokio::test]
async fn the_same_start_on_two_nodes_is_one_instance_whatever_each_saw() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["message-start"]).await;
    let (one, two) = (node(&place).await, node(&place).await);
    let key = unique();
    let message = start(&deployment.name("OrderPlaced"), &key);
    let while_pending = Looked::of(&one, ask(&message, &key)).await;
    let when_confirmed = Looked::of(&one, ask(&message, &key)).await;
    let first = Looked::of(&two, ask(&message, &key)).await;

    assert_eq!(first.hand(&two).await.unwrap(), []);
    let missed = while_pending.hand(&one).await.unwrap();
    assert_eq!(missed[0].reason, WaitReason::Early);
    let job: String = sqlx::query_scalar("SELECT job_id FROM pending_start")
        .fetch_one(&place.pool)
        .await
        .unwrap();
    engine.execute(&job).await;
    two.confirm().await;
    let error = when_confirmed.hand(&one).await.unwrap_err();
    assert_eq!(error.code().as_deref(), Some("23505"), "{error}");
    assert_eq!(error.class, Class::Again, "the batch is matched anew");

    // Here is no row of the inbox, which would make it a duplicate.
    let again = Looked::of(&one, ask(&message, &key)).await;
    let Outcome::Dead { reason, detail } = again.matched.outcome(0).clone() else {
        panic!("{:?}", again.matched.outcome(0));
    };
    assert_eq!(reason, DeadReason::Refused, "{detail}");
    assert_eq!(again.hand(&one).await.unwrap(), []);
    let running = engine.instances(&key).await;
    assert_eq!(running.len(), 1);
    let instance = running[0]["id"].as_str().expect("instances have ids");
    assert!(detail.contains(instance), "{detail}");
}

#[tokio::test]
async fn a_definition_that_is_deleted_after_the_look_is_matched_anew() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine.deploy(&["message-start"]).await;
    let name = deployment.name("OrderPlaced");
    let node = place
        .node(&[("start", "[start]\nmessage_name = '$.name'".to_owned())])
        .await;
    let message = start(&name, "key");
    let looked = Looked::of(&node, ask(&message, "deleted")).await;

    deployment.delete().await;

    let error = looked.hand(&node).await.unwrap_err();
    assert_eq!(error.code().as_deref(), Some("23503"), "{error}");
    assert_eq!(error.class, Class::Again);
    node.refresh().await;
    let row = node.send("start", "one", json!({ "name": name })).await;
    assert_eq!(row.is(), "waiting/unknown_message");
}

/// A start event and a receive task of one name: whoever comes second is correlated.
fn start_and_receive() -> Vec<(String, String)> {
    let text = include_str!("../../rig/bpmn/message-start-then-receive.bpmn")
        .replace("message-start-then-receive", "start-and-receive")
        .replace("\"Paid_suffix\"", "\"OrderPlaced_suffix\"")
        .replace(
            "<message id=\"message-OrderPlaced\" name=\"OrderPlaced_suffix\"/>",
            "",
        )
        .replace("message-OrderPlaced", "message-Paid");
    vec![("start-and-receive".to_owned(), text)]
}

const START_IF_NOBODY: &str = "[correlate]
    message_name = '$.name'
    business_key = '$.key'
    on_no_match = 'start'";

#[tokio::test]
async fn of_two_starts_of_one_business_key_one_starts_and_the_other_correlates() {
    let place = Place::still().await;
    let engine = &place.engine;
    let deployment = engine
        .deploy_texts(&unique(), start_and_receive(), None)
        .await;
    let routes = [("start", START_IF_NOBODY.to_owned())];
    let (one, two) = (place.node(&routes).await, place.node(&routes).await);
    let name = deployment.name("OrderPlaced");
    for round in 0..10 {
        let key = unique();
        let payload: Value = json!({ "name": name, "key": key });
        let ids = [format!("{round}-one"), format!("{round}-two")];
        let (first, second) = (
            [("start", &*ids[0], payload.clone())],
            [("start", &*ids[1], payload)],
        );
        tokio::join!(one.send_all(&first), two.send_all(&second));

        let mut states = place.states(&[&ids[0], &ids[1]]).await;
        states.sort();
        assert_eq!(states, ["done", "waiting/early"], "round {round}");
        assert_eq!(engine.instances(&key).await.len(), 1, "round {round}");
    }
    let early: Vec<String> =
        sqlx::query_scalar("SELECT dedup_key FROM inbox WHERE state = 'waiting'")
            .fetch_all(&place.pool)
            .await
            .unwrap();
    for job in engine
        .jobs(&[(
            "processDefinitionKey",
            &deployment.name("start-and-receive"),
        )])
        .await
    {
        engine.execute(job["id"].as_str().unwrap()).await;
    }
    one.until_claims_are_gone().await;
    for key in &early {
        one.until(key, "handed").await;
        place.run_job(key).await;
        one.until(key, "done").await;
    }
    place.assert_clean().await;
}
