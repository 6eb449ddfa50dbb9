//! Secrets of the configuration stand in nothing that the program prints or serves: planted everywhere, and
//! looked for in everything.

use std::path::Path;
use std::process::{Command, Output};

use reqwest::{Method, StatusCode};
use tempfile::TempDir;

use crate::daemon::{Config, Daemon, LIMIT};
use crate::rig::{Database, Queue, QueueKind, Rig, Topic, eventually, unique};

/// Every secret begins like this and goes on with its number: a part of one shows, too.
const MARK: &str = "Zq7hunter";

/// As the server knows it, with everything that means something in a URL or in TOML.
fn secret(number: u32) -> String {
    format!("{MARK}{number}@/:#%&+ ü\"'")
}

/// The same in a URL.
fn in_url(number: u32) -> String {
    format!("{MARK}{number}%40%2F%3A%23%25%26%2B%20%C3%BC%22%27")
}

/// The line of what was said that shows a secret.
fn shown(said: &str) -> Option<&str> {
    said.lines().find(|line| line.contains(MARK))
}

fn assert_clean(what: &str, said: &str) {
    if let Some(line) = shown(said) {
        panic!("{what} shows a secret: {line}");
    }
}

/// What the program prints, to either stream; it may end as it likes, and is ended after a while.
fn program(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let Output { stdout, stderr, .. } = Command::new("timeout")
        .args(["3", env!("CARGO_BIN_EXE_sluice")])
        .args(arguments)
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let said = [stdout, stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

/// What the daemon is configured with, and what must live as long as it.
struct Planted {
    config: Config,
    _database: Database,
    _queues: [Queue; 2],
    _topic: Topic,
    _files: TempDir,
}

/// A source that opens with its password, one that does not, and two that Kafka refuses.
async fn planted() -> Planted {
    let rig = Rig::get();
    let database = rig.database().await;
    let queues = [
        rig.queue(QueueKind::Classic).await,
        rig.queue(QueueKind::Classic).await,
    ];
    let topic = rig.topic(1).await;
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, number: u32| {
        let path = files.path().join(name);
        std::fs::write(&path, format!("{}\n", secret(number))).unwrap();
        path.display().to_string()
    };
    // This one is right: a password of all these characters opens the queue.
    let user = unique();
    rig.rabbitmq.user(&user, &secret(2)).await;
    let host = rig.rabbitmq.uri().rsplit_once('@').unwrap().1;
    let rabbitmq = |name: &str, number: u32, queue: &Queue, more: &str| {
        let uri = format!("amqp://{user}:{}@{host}", in_url(number));
        let queue = queue.name();
        format!("[sources.{name}.rabbitmq]\nuris = [\"{uri}\"]\nqueue = \"{queue}\"\n{more}")
    };
    let management = format!(
        "management_url = \"http://guest:{}@127.0.0.1:1\"",
        in_url(4)
    );
    let kafka = |name: &str, more: &str| {
        let (servers, topic) = (topic.bootstrap(), topic.name());
        format!(
            "[sources.{name}.kafka]\nbootstrap_servers = \"{servers}\"\ntopics = [\"{topic}\"]\n\
             group_id = \"secrets-{name}\"\nconnect_timeout = \"2s\"\n{more}"
        )
    };
    let plain = format!(
        "sasl = {{ mechanism = \"PLAIN\", username = \"u\", password_file = \"{}\" }}",
        file("kafka", 6)
    );
    let scram = format!(
        "tls = {{ key_pass = \"{MARK}7\", key_file = \"/none\", crt_file = \"/none\" }}\n\
         sasl = {{ mechanism = \"SCRAM-SHA-256\", username = \"u\", password = '{MARK}8' }}\n\
         librdkafka_options = {{ \"ssl.keystore.password\" = \"{MARK}9\" }}"
    );
    let url = database
        .url()
        .replace("postgres@", &format!("postgres:{}@", in_url(1)));
    let config = Config::at(&url, "sluice")
        .http(&format!("token_file = \"{}\"", file("token", 3)))
        .with("[engines.ledger.sql]\napply = \"SELECT 1\"")
        .with(&rabbitmq("open", 2, &queues[0], &management))
        .with(&rabbitmq("locked", 5, &queues[1], ""))
        .with(&kafka("plain", &plain))
        .with(&kafka("scram", &scram))
        .with(&routes(&["open", "locked", "plain", "scram"]));
    Planted {
        config,
        _database: database,
        _queues: queues,
        _topic: topic,
        _files: files,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_runs_prints_or_serves_a_secret() {
    let planted = planted().await;
    let everything = [("RUST_LOG", "trace,h2=off")];
    let daemon = Daemon::spawn(&planted.config, &everything).await;
    let daemon = daemon.showing(&secret(3));
    daemon
        .until_count("sluice_source_connected", &[("source", "open")], 1)
        .await;
    eventually("each of the others saying why", LIMIT, async || {
        let said = daemon.until_not_ready().await.to_string();
        let names = ["locked", "plain", "scram"];
        names.iter().all(|name| said.contains(name)).then_some(())
    })
    .await;
    for path in [
        "/",
        "/board",
        "/app.js",
        "/api/status",
        "/metrics",
        "/health/live",
        "/health/ready",
        "/none",
    ] {
        let (_, body) = daemon.get(path).await.expect("the daemon answers");
        assert_clean(path, &body);
        let wrong = crate::rig::http()
            .get(daemon.url(path))
            .basic_auth("me", Some(secret(10)));
        let answer = wrong.send().await.unwrap();
        assert_clean(path, &format!("{:?}", answer.headers()));
        assert_clean(path, &answer.text().await.unwrap());
    }
    let folder = daemon.config_file();
    let folder = folder.parent().unwrap();
    for command in [
        &["check"][..],
        &["check", "--json"],
        &["check", "--connect"],
        &["check", "--connect", "--json"],
        &["inbox", "list"],
        &["migrate"],
        &["schema"],
    ] {
        let said = program(folder, command, &[("RUST_LOG", "sluice=trace")]);
        assert_clean(&command.join(" "), &said);
    }
    daemon.stop().await;
    let log = daemon.log();
    assert!(log.contains("TRACE") && log.contains("DEBUG"), "{log}");
    assert_clean("the log", &log);
}

fn routes(sources: &[&str]) -> String {
    let route = |source: &&str| {
        format!(
            "[routes.of-{source}]\nsource = \"{source}\"\nengine = \"ledger\"\n\
             dedup_key = \"@header.id\"\napply = {{}}\n"
        )
    };
    sources.iter().map(route).collect()
}

/// Where nobody answers.
const NOWHERE: &str = "127.0.0.1:1";

/// What is changed in a good file, each a mistake of its own.
const MISTAKES: [(&str, &str, &str); 29] = [
    ("no string", "db\"\n", "db\n"),
    ("no host", "@127.0.0.1:1/db", "@"),
    ("another database", "postgres://", "mysql://"),
    (
        "a port beyond all",
        "amqp://u:Zq7hunter3@127.0.0.1:1",
        "amqp://u:Zq7hunter3@h:99999",
    ),
    ("a space", "amqp://u:", "amqp://u x:"),
    ("no scheme", "amqp://u:", "u:"),
    (
        "no list",
        "[\"amqp://u:Zq7hunter3@127.0.0.1:1\"]",
        "\"amqp://u:Zq7hunter3@127.0.0.1:1\"",
    ),
    ("a number", "token = \"Zq7hunter2\"", "token = 4\n#Zq"),
    (
        "a table",
        "token = \"Zq7hunter2\"",
        "token = { a = \"Zq7hunter2\" }",
    ),
    (
        "a list",
        "token = \"Zq7hunter2\"",
        "token = [\"Zq7hunter2\"]",
    ),
    ("a wrong key", "password =", "pasword ="),
    ("another wrong key", "key_pass =", "key_passs ="),
    ("a third wrong key", "token =", "tokenn ="),
    ("a fourth wrong key", "management_url =", "managment_url ="),
    ("a fifth wrong key", "url = \"postgres", "urll = \"postgres"),
    ("not closed", "\"Zq7hunter5\" }", "\"Zq7hunter5\""),
    ("not opened", "token = \"", "token = "),
    ("twice", "[http]\n", "[http]\ntoken = \"Zq7hunter7\"\n"),
    ("another mechanism", "\"PLAIN\"", "\"MD5\""),
    (
        "both",
        "password =",
        "password_file = \"/none\", password =",
    ),
    (
        "an unknown option",
        "tls = {",
        "librdkafka_options = { \"sasl.passwd\" = \"Zq7hunter8\" }\ntls = {",
    ),
    (
        "a key beside an unknown option",
        "tls = {",
        "librdkafka_options = { \"ssl.key.pem\" = \"Zq7hunter8\", \"no.such\" = \"Zq7hunter9\" }\ntls = {",
    ),
    (
        "a key of several lines",
        "tls = {",
        "librdkafka_options.\"ssl.key.pem\" = \"\"\"\nZq7hunter8\n\"\"\"\nlibrdkafka_options.x = \"Zq7hunter9\"\ntls = {",
    ),
    (
        "a number among the options",
        "tls = {",
        "librdkafka_options = { \"ssl.key.pem\" = \"Zq7hunter8\", \"x\" = [\"Zq7hunter9\"] }\ntls = {",
    ),
    (
        "options by another name",
        "tls = {",
        "rdkafka_options = { \"ssl.key.pem\" = \"Zq7hunter8\" }\ntls = {",
    ),
    (
        "a default",
        "token = \"Zq7hunter2\"",
        "token = \"${NONE:-Zq7hunter2}${\"",
    ),
    (
        "no URL",
        "\"http://u:Zq7hunter4@127.0.0.1:1\"",
        "\"u:Zq7hunter4@ 127.0.0.1\"",
    ),
    (
        "a variable",
        "\"amqp://u:Zq7hunter3@127.0.0.1:1\"",
        "\"${PLANTED}\"",
    ),
    (
        "a variable of no use",
        "\"postgres://u:Zq7hunter1@127.0.0.1:1/db\"",
        "\"${PLANTED}\"",
    ),
];

#[test]
fn no_mistake_of_the_file_shows_the_secret_beside_it() {
    let good = format!(
        "[inbox]\nurl = \"postgres://u:{MARK}1@{NOWHERE}/db\"\n[http]\ntoken = \"{MARK}2\"\n\
         [sources.q.rabbitmq]\nuris = [\"amqp://u:{MARK}3@{NOWHERE}\"]\nqueue = \"q\"\n\
         management_url = \"http://u:{MARK}4@{NOWHERE}\"\n\
         [sources.t.kafka]\nbootstrap_servers = \"{NOWHERE}\"\ntopics = [\"t\"]\ngroup_id = \"g\"\n\
         sasl = {{ mechanism = \"PLAIN\", username = \"u\", password = \"{MARK}5\" }}\n\
         tls = {{ key_pass = \"{MARK}6\" }}\n\
         [engines.ledger.sql]\napply = \"SELECT 1\"\n{}",
        routes(&["q", "t"])
    );
    let mut cases = vec![("none", good.clone())];
    for (why, from, to) in MISTAKES {
        let text = good.replace(from, to);
        assert_ne!(text, good, "{why}: nothing was changed");
        cases.push((why, text));
    }
    let planted = format!("nonsense://u:{MARK}9@ nowhere:x");
    let folder = tempfile::tempdir().unwrap();
    let mut found = Vec::new();
    for (why, text) in cases {
        std::fs::write(folder.path().join("sluice.toml"), text).unwrap();
        for command in [
            &["check"][..],
            &["check", "--json"],
            &["check", "--connect"],
            &["run"],
            &["inbox", "list"],
            &["migrate"],
        ] {
            let environment = [("PLANTED", planted.as_str()), ("RUST_LOG", "sluice=trace")];
            let said = program(folder.path(), command, &environment);
            let line = shown(&said).map(str::to_owned);
            found.extend(line.map(|line| format!("{why}: {}: {line}", command.join(" "))));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn whoever_reaches_the_listener_can_change_nothing() {
    let rig = Rig::get();
    let config = Config::on(&rig.schema()).with("[engines.ledger.sql]\napply = \"SELECT 1\"");
    let daemon = Daemon::start(&config, &[]).await;
    for path in [
        "/",
        "/board",
        "/app.css",
        "/app.js",
        "/icon.svg",
        "/api/status",
        "/metrics",
        "/health/live",
        "/health/ready",
    ] {
        let ask = async |method: Method| {
            let asked = crate::rig::http().request(method, daemon.url(path));
            asked.body("{}").send().await.unwrap().status()
        };
        assert_eq!(ask(Method::HEAD).await, StatusCode::OK, "{path}");
        for method in [
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::OPTIONS,
            Method::TRACE,
        ] {
            let status = ask(method.clone()).await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
    daemon.stop().await;
}
