//! The daemon's role: what deploy/grants.sql gives is enough, and does not include the tables' shape.

use std::path::Path;
use std::process::Command;

use sluice::inbox::postgres::PostgresInbox;
use sluice::inbox::{
    Class, Filter, Inbox, NodeIdentity, Retention, SchemaStatus, State, StateName,
};
use sluice::units::Span;
use uuid::Uuid;

use super::rows::{behind, change, change_of, done, due_now, order, ordered, row, row_in, waiting};
use super::{Kept, config};
use crate::rig::{Rig, Schema, unique};

/// Sluice's tables beside the engine's, and a role that has the grants.
struct Granted {
    schema: Schema,
    owner: PostgresInbox,
    daemon: PostgresInbox,
    role: String,
}

async fn granted() -> Granted {
    let schema = Rig::get().schema();
    let mut settings = config(schema.url());
    schema.name().clone_into(&mut settings.schema);
    let owner = PostgresInbox::connect(&settings, "sluice/owner").unwrap();
    owner.migrate().await.unwrap();
    let role = unique();
    owner.sql(&format!("CREATE ROLE {role} LOGIN")).await;
    grant(&schema, &role);

    settings.url = schema
        .url()
        .replace("postgres@", &format!("{role}@"))
        .into();
    assert_ne!(
        schema.url(),
        secrecy::ExposeSecret::expose_secret(&settings.url)
    );
    let daemon = PostgresInbox::connect(&settings, "sluice/daemon").unwrap();
    Granted {
        schema,
        owner,
        daemon,
        role,
    }
}

fn grant(schema: &Schema, role: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grants.sql");
    let output = Command::new("psql")
        .args([
            "-v",
            &format!("role={role}"),
            "-v",
            &format!("schema={}", schema.name()),
        ])
        .args(["-v", "engine=public", "-f"])
        .arg(script)
        .arg(schema.url())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Granted {
    /// The role belongs to the whole server, and goes with the test.
    async fn forget(self) {
        let role = &self.role;
        self.owner
            .sql(&format!(
                "BEGIN; SELECT pg_advisory_xact_lock(hashtext('sluice grants'));
                 DROP OWNED BY {role}; DROP ROLE {role}; COMMIT"
            ))
            .await;
        drop(self.schema);
    }
}

/// One test, because two at once would change the rights of the same tables of the engine.
#[tokio::test]
async fn the_grants_are_enough_for_the_inbox_and_do_not_include_more() {
    let granted = granted().await;
    everything_that_a_daemon_does_with_its_own_tables(&granted).await;
    neither_the_shape_of_the_tables_nor_the_engines_other_rows(&granted).await;
    granted.forget().await;
}

async fn everything_that_a_daemon_does_with_its_own_tables(granted: &Granted) {
    let daemon = &granted.daemon;
    assert_eq!(daemon.schema_status().await.unwrap(), SchemaStatus::Current);
    daemon.probe().await.unwrap();
    daemon.inspect().await.unwrap();
    let node = NodeIdentity {
        incarnation: Uuid::now_v7(),
        name: "granted".to_owned(),
        version: "0.1.0".to_owned(),
    };
    daemon.beat(&node).await.unwrap();

    let handed = row_in("handed", State::Handed);
    let next = ordered("next", "k", behind());
    let mut tx = daemon.begin().await.unwrap();
    assert!(
        daemon
            .lock_order_keys(&mut tx, &[order("k")], &[])
            .await
            .unwrap()
            .is_empty()
    );
    let rows = [
        handed.clone(),
        next.clone(),
        row_in("later", waiting(Span::days(1))),
    ];
    assert_eq!(daemon.insert(&mut tx, &rows).await.unwrap().len(), 3);
    assert_eq!(
        daemon
            .existing(&mut tx, &[row("handed").key])
            .await
            .unwrap()
            .len(),
        1
    );
    daemon
        .count_duplicates(&mut tx, node.incarnation, 1)
        .await
        .unwrap();
    daemon.commit(tx).await.unwrap();
    assert_eq!(daemon.nodes().await.unwrap().len(), 1);

    assert_eq!(due_now(daemon).await, [next.id]);
    let confirmed = change_of(handed.id, StateName::Handed, done());
    assert_eq!(change(daemon, &[confirmed]).await, [handed.id]);
    assert!(!daemon.counts().await.unwrap().is_empty());
    let all = Filter {
        limit: 10,
        ..Filter::default()
    };
    assert_eq!(daemon.list(&all, true).await.unwrap().len(), 3);
    assert_eq!(daemon.redrive(&all).await.unwrap(), 2);
    assert_eq!(daemon.discard(&all).await.unwrap(), 2);
    let at_once = Retention {
        payload: Span::ms(0),
        key: Span::days(1),
    };
    assert_eq!(daemon.purge(at_once, 10).await.unwrap().payloads, 3);
    granted.owner.age("inbox", "done_at").await;
    assert_eq!(daemon.purge(at_once, 10).await.unwrap().keys, 3);
}

async fn neither_the_shape_of_the_tables_nor_the_engines_other_rows(granted: &Granted) {
    let forbidden = [
        format!("DROP TABLE {}.inbox", granted.schema.name()),
        format!(
            "UPDATE {}.compatibility SET min_reader = 2",
            granted.schema.name()
        ),
        "SELECT count(*) FROM public.act_id_user".to_owned(),
        "DELETE FROM public.act_ru_execution".to_owned(),
        "UPDATE public.act_ru_event_subscr SET event_name_ = 'x'".to_owned(),
    ];
    for sql in forbidden {
        let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone()));
        let refused = refused.execute(granted.daemon.pool()).await.err();
        let error = sluice::inbox::DbError::of("forbidden")(refused.expect(&sql));
        assert_eq!(error.code().as_deref(), Some("42501"), "{sql}");
        assert_eq!(error.class, Class::Outage);
    }
}
