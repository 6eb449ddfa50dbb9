//! The engine's tables change under a running node, as an upgrade of the engine changes them.

use serde_json::json;
use sluice::inbox::Class;

use super::Node;
use super::copy::Copy;
use super::place::LIMIT;
use crate::rig::eventually;

const BY_KEY: &str = "[correlate]
    message_name = 'Paid'
    business_key = '$.key'
    variables = { document = { from = '$', type = 'json' } }";
const START: &str = "[start]
    process_definition_key = 'receive-then-task'
    business_key = '$.key'
    variables = { document = { from = '$', type = 'json' } }";

/// Instances that wait for a message.
const INSTANCES: &str = "
    INSERT INTO act_re_procdef
           (id_, rev_, key_, version_, deployment_id_, resource_name_, suspension_state_)
    VALUES ('p', 1, 'receive-then-task', 1, 'd', 'receive-then-task', 1);
    INSERT INTO act_ru_execution
           (id_, rev_, proc_inst_id_, root_proc_inst_id_, business_key_, proc_def_id_, suspension_state_)
    SELECT 'i' || n, 1, 'i' || n, 'i' || n, 'k' || n, 'p', 1 FROM generate_series(1, 9) n;
    INSERT INTO act_ru_execution
           (id_, rev_, proc_inst_id_, parent_id_, proc_def_id_, act_id_, suspension_state_)
    SELECT 'e' || n, 1, 'i' || n, 'i' || n, 'p', 'receive', 1 FROM generate_series(1, 9) n;
    INSERT INTO act_ru_event_subscr
           (id_, rev_, event_type_, event_name_, execution_id_, proc_inst_id_, activity_id_, created_)
    SELECT 's' || n, 1, 'message', 'Paid', 'e' || n, 'i' || n, 'receive', now()
      FROM generate_series(1, 9) n;";

/// The row `waiting` as if it had not been handed.
const WAITS_AGAIN: &str = "
    UPDATE inbox SET state = 'waiting', reason = 'retry', due_at = now() WHERE dedup_key = 'waiting';
    DELETE FROM pending WHERE row_id = (SELECT id FROM inbox WHERE dedup_key = 'waiting')";

/// A new column that must have a value.
fn required(table: &str) -> (String, String) {
    let change = format!(
        "ALTER TABLE {table} ADD must_ text NOT NULL DEFAULT 'of old rows';
         ALTER TABLE {table} ALTER must_ DROP DEFAULT"
    );
    let mended = format!("ALTER TABLE {table} ALTER must_ SET DEFAULT 'of new rows'");
    (change, mended)
}

/// Changes the tables under a node, sends a message to each route, wakes a row that waits, and mends them.
async fn changes_use_no_attempt(change: &str, mended: &str) {
    let copy = Copy::of_the_engines_tables().await;
    let place = &copy.place;
    copy.deploy(&["receive-then-task"]).await;
    copy.run(INSTANCES).await;
    let routes = [("by-key", BY_KEY.to_owned()), ("start", START.to_owned())];
    let node = place.node(&routes).await;
    let payload = |key: &str| json!({ "key": key });
    node.accept(&[
        ("by-key", "before", payload("k1")),
        ("start", "start before", payload("new")),
        ("by-key", "waiting", payload("k2")),
    ])
    .await;
    assert_eq!(
        place.states(&["before", "start before", "waiting"]).await,
        ["handed", "done", "handed"]
    );
    copy.run(WAITS_AGAIN).await;
    copy.run(change).await;

    let messages = [
        ("by-key", "while", payload("k3")),
        ("start", "start while", payload("newer")),
    ];
    let mend = async {
        wait_without_an_attempt(&copy, &node).await;
        copy.run(mended).await;
    };
    tokio::join!(Box::pin(node.accept(&messages)), Box::pin(mend));

    assert_eq!(node.intake.outage(), None);
    let row = node.until("waiting", "handed").await;
    assert_eq!(row.attempts, 0);
    for (key, state) in [("while", "handed"), ("start while", "done")] {
        let row = place.row(key).await;
        assert_eq!((row.is().as_str(), row.attempts), (state, 0), "{row:?}");
    }
}

async fn wait_without_an_attempt(copy: &Copy, node: &Node<'_>) {
    eventually("an outage", LIMIT, async || node.intake.outage()).await;
    // More than once: what is known of the tables is read anew in between.
    for _ in 0..3 {
        let error = node.sweeper.wake_round().await.unwrap_err();
        assert_eq!(error.class, Class::Outage, "{error}");
        assert!(!error.may_be_the_batch(), "{error}");
        let row = copy.place.row("waiting").await;
        assert_eq!((row.state.as_str(), row.attempts), ("waiting", 0));
    }
    let stored = "SELECT count(*) FROM inbox WHERE dedup_key LIKE '%while' OR state = 'dead'";
    let stored: i64 = sqlx::query_scalar(stored)
        .fetch_one(&copy.place.pool)
        .await
        .unwrap();
    assert_eq!(stored, 0, "it stays with the broker");
}

#[tokio::test]
async fn a_job_table_with_a_new_required_column_is_an_outage_until_it_has_a_default() {
    let (change, mended) = required("act_ru_job");
    changes_use_no_attempt(&change, &mended).await;
}

#[tokio::test]
async fn so_is_every_other_table_that_a_hand_over_writes() {
    for table in ["act_ru_variable", "act_ge_bytearray", "act_hi_detail"] {
        let (change, mended) = required(table);
        changes_use_no_attempt(&change, &mended).await;
    }
}

#[tokio::test]
async fn a_known_column_that_must_have_a_value_now_is_an_outage_too() {
    changes_use_no_attempt(
        "DELETE FROM act_ru_job; ALTER TABLE act_ru_job ALTER job_def_id_ SET NOT NULL",
        "ALTER TABLE act_ru_job ALTER job_def_id_ DROP NOT NULL",
    )
    .await;
}

#[tokio::test]
async fn a_column_or_a_table_that_is_gone_is_an_outage_until_it_is_back() {
    for (change, mended) in [
        (
            "ALTER TABLE act_ru_job RENAME priority_ TO gone_",
            "ALTER TABLE act_ru_job RENAME gone_ TO priority_",
        ),
        (
            "ALTER TABLE act_ru_event_subscr RENAME TO gone",
            "ALTER TABLE gone RENAME TO act_ru_event_subscr",
        ),
    ] {
        changes_use_no_attempt(change, mended).await;
    }
}
