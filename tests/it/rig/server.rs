//! Private servers: for tests that stop, freeze or kill one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Engine, Kafka, Postgres, RabbitMq, needed, unique};

/// A server of one test's own, run by the script of its kind in tests/rig.
///
/// It keeps its ports over every stop, kill and start. It is removed with this value, and also when the
/// test process ends in any other way.
pub struct Server {
    kind: &'static str,
    name: String,
    address: BTreeMap<String, String>,
}

impl Server {
    /// `settings` are lines of postgresql.conf, as `key=value`.
    pub async fn postgres(settings: &[&str]) -> Server {
        Server::create("postgres", settings).await
    }

    /// A pooler before the shared PostgreSQL, at `part("port")`; `settings` are lines of pgbouncer.ini.
    pub async fn pgbouncer(settings: &[&str]) -> Server {
        Server::create("pgbouncer", settings).await
    }

    /// `settings` are lines of rabbitmq.conf, as `key=value`.
    pub async fn rabbitmq(settings: &[&str]) -> Server {
        Server::create("rabbitmq", settings).await
    }

    /// `settings` are lines of server.properties, as `key=value`.
    pub async fn kafka(settings: &[&str]) -> Server {
        Server::create("kafka", settings).await
    }

    /// A node of the engine on database `database` of a private PostgreSQL, or of the shared one; a
    /// second node on the same database joins the first. `settings` are the variables of
    /// tests/rig/java/application.yaml, as `KEY=value`: `JOBS=false`, `HISTORY=audit`, `WAIT=5000`.
    pub async fn engine(postgres: Option<&Server>, database: &str, settings: &[&str]) -> Server {
        let postgres = postgres.map_or("main", |server| server.name.as_str());
        let place = [
            format!("POSTGRES={postgres}"),
            format!("DATABASE={database}"),
        ];
        let mut all: Vec<&str> = place.iter().map(String::as_str).collect();
        all.extend(settings);
        Server::create("engine", &all).await
    }

    async fn create(kind: &'static str, settings: &[&str]) -> Server {
        // Says it when there is no rig to be part of.
        needed();
        // Made before its start, so that a failing start is tidied up, too.
        let mut server = Server {
            kind,
            name: unique(),
            address: BTreeMap::new(),
        };
        let said = server.run("start", settings).await;
        server.address = said
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        server
    }

    /// Starts it again after [`stop`](Self::stop) or [`kill`](Self::kill); returns when it answers.
    pub async fn start(&self) {
        self.run("start", &[]).await;
    }

    /// The same; says why when it ended instead, because a server that it needs is away.
    pub async fn try_start(&self) -> Result<(), String> {
        self.try_run("start", &[]).await.map(|_| ())
    }

    /// Asks it to end, as an administrator would.
    pub async fn stop(&self) {
        self.run("stop", &[]).await;
    }

    /// `kill -9` for all its processes, as a power failure would end them.
    pub async fn kill(&self) {
        self.run("kill", &[]).await;
    }

    pub async fn restart(&self) {
        self.run("restart", &[]).await;
    }

    /// Stops all its processes where they are: connections stay open, nobody answers.
    pub async fn freeze(&self) {
        self.run("freeze", &[]).await;
    }

    pub async fn thaw(&self) {
        self.run("thaw", &[]).await;
    }

    /// Where it logs and keeps its data.
    pub fn folder(&self) -> PathBuf {
        needed().join(self.kind).join(&self.name)
    }

    pub fn as_postgres(&self) -> Postgres {
        Postgres::at(self.part("url"))
    }

    pub fn as_rabbitmq(&self) -> RabbitMq {
        RabbitMq::at(self.part("amqp"), self.part("api"))
    }

    pub fn as_kafka(&self) -> Kafka {
        Kafka::at(self.part("bootstrap"))
    }

    pub fn as_engine(&self) -> Engine {
        Engine::at(self.part("rest"))
    }

    /// One of the addresses that its script printed.
    pub fn part(&self, key: &str) -> &str {
        match self.address.get(key) {
            Some(value) => value,
            None => panic!("a {} server has no address called {key}", self.kind),
        }
    }

    async fn run(&self, verb: &str, settings: &[&str]) -> String {
        match self.try_run(verb, settings).await {
            Ok(said) => said,
            Err(why) => panic!("{} {verb} failed:\n{why}", self.kind),
        }
    }

    async fn try_run(&self, verb: &str, settings: &[&str]) -> Result<String, String> {
        let mut command = self.command(verb);
        command.args(settings);
        let output = tokio::process::Command::from(command)
            .output()
            .await
            .expect("tests/rig is there");
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/rig")
                .join(self.kind),
        );
        command
            .args([verb, &self.name])
            .env("SLUICE_RIG_OWNER", std::process::id().to_string())
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The shared rig may be gone already when a run was interrupted; then so is this server.
        let _ = self.command("remove").stderr(Stdio::null()).status();
    }
}
