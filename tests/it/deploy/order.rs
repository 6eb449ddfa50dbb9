//! The order of an installation: tables by their owner, rights for the daemon, the daemon; and what is said
//! to whoever leaves a step out.

use std::process::Output;
use std::time::Duration;

use crate::daemon::{Config, Daemon, LIMIT, Place, Rights};
use crate::rig::{Queue, QueueKind, Rig, Schema, eventually};

/// A place that nobody has prepared, and a role that may log in and no more.
struct Site {
    schema: Schema,
    queue: Queue,
    place: Place,
}

impl Site {
    async fn open() -> Site {
        let rig = Rig::get();
        let schema = rig.schema();
        let queue = rig.queue(QueueKind::Classic).await;
        let place = configured(Config::on(&schema), &queue).place().unwrap();
        place.create_role().await;
        Site {
            schema,
            queue,
            place,
        }
    }

    /// The daemon's own configuration, with the rights that it has by now.
    fn of_daemon(&self) -> Config {
        let config = Config::at(&self.place.url_of_daemon(), self.schema.name());
        configured(config, &self.queue).rights(Rights::AsItIs)
    }

    fn of_owner(&self) -> Config {
        configured(Config::on(&self.schema), &self.queue)
    }

    async fn migrate(&self) {
        let migrated = sluice(&self.of_owner(), &["migrate"]).await;
        assert!(migrated.status.success(), "{}", said(&migrated));
    }
}

fn configured(config: Config, queue: &Queue) -> Config {
    config
        .rabbitmq("payments", queue, "")
        .camunda_tables("shop", "")
        .with("[routes.payment]\nsource = \"payments\"\nengine = \"shop\"\n")
}

async fn sluice(config: &Config, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sluice.toml");
    std::fs::write(&file, config.text()).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sluice"));
    command
        .args(arguments)
        .arg("-c")
        .arg(file)
        .kill_on_drop(true);
    let ended = tokio::time::timeout(LIMIT, command.output()).await;
    ended.expect("the command ends").unwrap()
}

fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[tokio::test]
async fn who_may_not_make_the_tables_is_told_who_should() {
    let site = Site::open().await;
    let refused = sluice(&site.of_daemon(), &["migrate"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let text = said(&refused);
    for part in ["42501", "as the role that owns", "deploy/grants.sql"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The rights before the tables: psql says what comes first.
    let early = site.place.grant_all().await.unwrap_err();
    assert!(early.contains("run `sluice migrate` first"), "{early}");
}

#[tokio::test]
async fn run_refuses_tables_that_are_missing_or_too_new() {
    let site = Site::open().await;
    let refused = sluice(&site.of_daemon(), &["run"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let text = said(&refused);
    let missing = "Sluice's tables are missing: run `sluice migrate`";
    assert!(text.contains(missing), "{text}");

    site.migrate().await;
    site.place.grant_all().await.unwrap();
    let pool = site.schema.pool().await;
    let newer =
        "INSERT INTO schema_migration (version, description, success, checksum, execution_time)
            SELECT 99, 'of a newer version', true, checksum, 0 FROM schema_migration WHERE version = 1;
        UPDATE compatibility SET min_reader = 99";
    sqlx::raw_sql(newer).execute(&pool).await.unwrap();
    let refused = sluice(&site.of_daemon(), &["run"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let text = said(&refused);
    let newer = "of version 99, which needs a newer version of Sluice";
    assert!(text.contains(newer), "{text}");
}

#[tokio::test]
async fn a_daemon_without_rights_says_so_at_once_and_begins_when_it_has_them() {
    let site = Site::open().await;
    site.migrate().await;
    let daemon = Daemon::spawn(&site.of_daemon(), &[]).await;
    let soon = Duration::from_secs(10);
    let why = eventually("the daemon saying what it lacks", soon, async || {
        let said = daemon.until_not_ready().await.to_string();
        said.contains("42501").then_some(said)
    })
    .await;
    assert!(why.contains("deploy/grants.sql"), "{why}");
    let log = daemon.log();
    assert!(log.contains("the database refuses this node"), "{log}");
    site.place.grant_all().await.unwrap();
    daemon.until_ready().await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_daemon_that_owns_its_tables_may_make_them_itself() {
    let site = Site::open().await;
    let daemon = Daemon::start(&site.of_owner().rights(Rights::Owner), &[]).await;
    let log = daemon.log();
    assert!(log.contains("migrated step=\"0001 inbox\""), "{log}");
    daemon.stop().await;
}
