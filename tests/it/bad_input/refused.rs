//! What only the database refuses: for a message's data, or for no reason that anybody knows.

use lapin::BasicProperties;
use serde_json::json;
use sluice::message::Hash;

use crate::daemon::{Config, Daemon, LIMIT};
use crate::effects::Effects;
use crate::rig::{Deployment, QueueKind, Rig, eventually, headers};
use crate::stored::Inbox;

/// Rules that a schema of Sluice's does not have, each for what one message brings.
const RULES: &str = "
    ALTER TABLE inbox ADD CONSTRAINT wholesome CHECK (dedup_key NOT LIKE 'poison%');
    CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.dedup_key LIKE 'curse%' THEN
            RAISE EXCEPTION 'nobody knows why' USING ERRCODE = 'XX000';
        ELSIF position('damned' in convert_from(NEW.payload, 'UTF8')) > 0 THEN
            RAISE EXCEPTION 'not in any form' USING ERRCODE = '22000';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER judge BEFORE INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION judge();";

fn starts(source: &str, models: &Deployment, more: &str) -> String {
    let name = models.name("OrderPlaced");
    format!(
        r#"
        [routes.of-{source}]
        source = "{source}"
        engine = "shop"
        dedup_key = "$.id"
        {more}
        [routes.of-{source}.start]
        message_name = "{name}"
        business_key = "$.id"
        "#
    )
}

fn message(id: &str, order: &str) -> (Vec<u8>, BasicProperties) {
    let payload = json!({ "id": id, "order": order }).to_string();
    let properties = BasicProperties::default().with_headers(headers(&[("id", id)]));
    (payload.into_bytes(), properties)
}

/// Longer than an index entry may be; random digits cannot be compressed.
fn long_order() -> String {
    let digits = (0_u8..100).map(|n| format!("{:?}", Hash::of(&[&[n]])));
    digits.collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn what_the_database_refuses_is_set_aside_alone() {
    let rig = Rig::get();
    let models = rig.engine().deploy(&["message-start"]).await;
    let schema = rig.schema();
    let mixed = rig.queue(QueueKind::Classic).await;
    let ordered = rig.queue(QueueKind::Classic).await;
    let hopeless = rig.queue(QueueKind::Classic).await;
    let config = Config::on(&schema)
        .rabbitmq("mixed", &mixed, "")
        .rabbitmq("ordered", &ordered, "")
        .rabbitmq("hopeless", &hopeless, "")
        .camunda_tables("shop", "")
        .with(&starts("mixed", &models, ""))
        .with(&starts("ordered", &models, "order_by = \"$.order\""))
        .with(&starts("hopeless", &models, ""));
    let mut daemon = Daemon::start(&config, &[]).await;
    daemon.stop().await;
    let inbox = Inbox::of(&schema).await;
    sqlx::raw_sql(RULES).execute(&inbox.pool).await.unwrap();

    let id = |name: &str| format!("{name}-{}", models.suffix());
    let names: Vec<String> = (0..40).map(|number| format!("good-{number}")).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut good: Vec<String> = names.iter().copied().map(id).collect();
    for (place, bad) in [(7, "poison-7"), (8, "poison-8"), (31, "curse-31")] {
        names.insert(place, bad);
    }
    let batch = names.iter().map(|name| message(&id(name), "x"));
    mixed.publish_all(batch.collect()).await;
    let long = long_order();
    let in_order = [
        ("1", "k"),
        ("nul", "k\0"),
        ("2", "k"),
        ("long", &long),
        ("3", "k"),
    ];
    for (name, order) in in_order {
        ordered.publish_all(vec![message(&id(name), order)]).await;
    }
    good.extend(["1", "2", "long", "3"].map(&id));
    let stuck = ["damned", "after"].map(|name| message(&id(name), "x"));
    hopeless.publish_all(stuck.to_vec()).await;

    daemon.restart(&[]).await;
    let effects = Effects::at(&rig.engine_database_url()).await;
    let process = models.name("message-start");
    effects.until(&process, "start", &good, 1, LIMIT).await;
    for queue in [&mixed, &ordered] {
        queue.wait_until_empty(LIMIT).await;
    }

    for name in ["poison-7", "poison-8", "curse-31", "nul"] {
        check(&inbox, &id(name)).await;
    }
    // What cannot be stored in any form stays with the broker; its source says so, the others go on.
    let said = daemon.until_not_ready().await.to_string();
    assert!(
        said.contains("source hopeless") && said.contains("cannot be stored"),
        "{said}"
    );
    mixed.publish_all(vec![message(&id("late"), "x")]).await;
    good.push(id("late"));
    effects.until(&process, "start", &good, 1, LIMIT).await;
    daemon.stop().await;
    eventually(
        "the deliveries being the broker's again",
        LIMIT,
        async || (hopeless.ready().await == 2).then_some(()),
    )
    .await;

    // After the cause is mended nothing of it is lost, and nothing that was stored already is doubled.
    let mended = "DROP TRIGGER judge ON inbox";
    sqlx::raw_sql(mended).execute(&inbox.pool).await.unwrap();
    daemon.restart(&[]).await;
    hopeless.wait_until_empty(LIMIT).await;
    good.extend(["damned", "after"].map(&id));
    effects.exactly(&process, "start", &good, 1, LIMIT).await;
    daemon.stop().await;
}

/// The refused message has a row that holds what was sent.
async fn check(inbox: &Inbox, id: &str) {
    let row = eventually(&format!("a row of {id}"), LIMIT, async || {
        let rows = inbox.rows().await;
        rows.into_iter()
            .find(|row| row.header("id") == Some(json!(id)))
    })
    .await;
    assert_eq!(row.is(), "dead unstorable", "{id}: {}", row.detail);
    let payload = row.payload.as_deref().unwrap();
    let payload: serde_json::Value = serde_json::from_slice(payload).unwrap();
    assert_eq!(payload["id"], id);
}
