//! Servers that will not have us.

use std::time::{Duration, Instant};

use crate::daemon::{Config, Daemon, LIMIT, Rights, Signal};
use crate::rig::{QueueKind, Rig, Schema, eventually};

/// A shutdown has nothing to finish and should not take longer than this.
const AT_ONCE: Duration = Duration::from_secs(10);

async fn stops_at_once(daemon: &Daemon) {
    let asked = Instant::now();
    daemon.signal(Signal::Term);
    let ended = daemon.wait_exit(AT_ONCE).await;
    assert_eq!(ended.code(), Some(0), "after {:?}", asked.elapsed());
}

fn route(source: &str) -> String {
    format!("[routes.of-{source}]\nsource = \"{source}\"\nengine = \"shop\"\n")
}

#[tokio::test]
async fn wrong_credentials_are_said_and_do_not_delay_the_shutdown() {
    let rig = Rig::get();
    let schema = rig.schema();
    let queue = rig.queue(QueueKind::Classic).await;
    let (user, rest) = queue.uri().split_once('@').unwrap();
    let secret = "not-the-password";
    let uri = format!("{}:{secret}@{rest}", user.rsplit_once(':').unwrap().0);
    let config = |schema: &Schema, url: &str| {
        Config::at(url, schema.name())
            .camunda_tables("shop", "")
            .with(&format!(
                "[sources.locked.rabbitmq]\nuris = [\"{uri}\"]\nqueue = \"{}\"",
                queue.name()
            ))
            .with(
                "[sources.nowhere.kafka]\nbootstrap_servers = \"127.0.0.1:1\"\n\
                 topics = [\"none\"]\ngroup_id = \"none\"\nconnect_timeout = \"1s\"",
            )
            .with(&route("locked"))
            .with(&route("nowhere"))
    };
    let daemon = Daemon::spawn(&config(&schema, schema.url()), &[]).await;
    let said = eventually("both sources saying why", LIMIT, async || {
        let said = daemon.until_not_ready().await.to_string();
        let why = ["cannot connect at amqp://", "127.0.0.1:1"];
        why.iter().all(|why| said.contains(why)).then_some(said)
    })
    .await;
    assert!(!daemon.log().contains(secret) && !said.contains(secret));
    stops_at_once(&daemon).await;

    // The database does not know the user: nothing was opened yet, and nothing else is tried.
    let unknown = schema
        .url()
        .replace("postgres@", "nobody-knows-me:secret-word@");
    let unknown = config(&schema, &unknown).rights(Rights::AsItIs);
    let daemon = Daemon::spawn(&unknown, &[]).await;
    daemon.until_count("sluice_db_errors_total", &[], 2).await;
    let said = daemon.until_not_ready().await.to_string();
    assert!(said.contains("inbox") && said.contains("28000"), "{said}");
    assert!(daemon.log().contains("the database refuses this node"));
    assert!(!daemon.log().contains("secret-word"));
    assert!(!daemon.log().contains("connected source"));
    stops_at_once(&daemon).await;
}
