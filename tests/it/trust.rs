//! Servers that must prove who they are: PostgreSQL, RabbitMQ and Kafka, each with a certificate of the same
//! private authority, seen by `check --connect` as an operator sees it.

use std::process::Command;

use lapin::BasicProperties;
use serde_json::Value;

use crate::rig::clock::{self, Clock};
use crate::rig::{Authority, Kafka, Queue, QueueKind, Server, Topic, free_port};

/// The three of them, and what they are asked for.
struct Servers {
    authority: Authority,
    postgres: Server,
    _rabbitmq: Server,
    _kafka: Server,
    rabbitmq_port: u16,
    kafka: KafkaPorts,
    queue: Queue,
    topic: Topic,
}

/// A broker tells its clients one name for each listener, and has a certificate for each.
struct KafkaPorts {
    plain: u16,
    right: u16,
    by_name: u16,
    expired: u16,
}

impl KafkaPorts {
    fn settings(&self, authority: &Authority) -> Vec<String> {
        let Self {
            plain,
            right,
            by_name,
            expired,
        } = self;
        let controller = free_port();
        let secure = "RIGHT:SSL,BY_NAME:SSL,EXPIRED:SSL";
        vec![
            format!(
                "listeners=PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},\
                 RIGHT://127.0.0.1:{right},BY_NAME://127.0.0.1:{by_name},EXPIRED://127.0.0.1:{expired}"
            ),
            format!(
                "advertised.listeners=PLAINTEXT://127.0.0.1:{plain},RIGHT://127.0.0.1:{right},\
                 BY_NAME://localhost:{by_name},EXPIRED://127.0.0.1:{expired}"
            ),
            format!("controller.quorum.voters=1@127.0.0.1:{controller}"),
            format!(
                "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,{secure}"
            ),
            "ssl.keystore.type=PEM".to_owned(),
            format!(
                "ssl.keystore.location={}",
                authority.show("server-both.pem")
            ),
            "listener.name.expired.ssl.keystore.type=PEM".to_owned(),
            format!(
                "listener.name.expired.ssl.keystore.location={}",
                authority.show("expired-both.pem")
            ),
        ]
    }
}

impl Servers {
    async fn start() -> Servers {
        let authority = Authority::new();
        let rabbitmq_port = free_port();
        let kafka_ports = KafkaPorts {
            plain: free_port(),
            right: free_port(),
            by_name: free_port(),
            expired: free_port(),
        };
        // PostgreSQL wants its key for itself.
        let key = authority.path("postgres.key");
        std::fs::copy(authority.path("server.key"), &key).unwrap();
        let own = format!(
            "chmod 600 {0}; chown postgres {0} 2>/dev/null",
            key.display()
        );
        Command::new("sh").args(["-c", &own]).status().unwrap();
        let (pem, ca) = (authority.show("server.pem"), authority.show("ca.pem"));
        let of_postgres = [
            "ssl=on".to_owned(),
            format!("ssl_cert_file='{pem}'"),
            format!("ssl_key_file='{}'", key.display()),
        ];
        let of_rabbitmq = [
            format!("listeners.ssl.1=127.0.0.1:{rabbitmq_port}"),
            format!("ssl_options.cacertfile={ca}"),
            format!("ssl_options.certfile={pem}"),
            format!("ssl_options.keyfile={}", authority.show("server.key")),
        ];
        let of_kafka = kafka_ports.settings(&authority);
        let (of_postgres, of_rabbitmq, of_kafka) =
            (lines(&of_postgres), lines(&of_rabbitmq), lines(&of_kafka));
        let (postgres, rabbitmq, kafka) = tokio::join!(
            Server::postgres(&of_postgres),
            Server::rabbitmq(&of_rabbitmq),
            Server::kafka(&of_kafka),
        );
        let queue = rabbitmq.as_rabbitmq().queue(QueueKind::Classic).await;
        queue.publish(b"{}", BasicProperties::default()).await;
        let topic = Kafka::at(&format!("127.0.0.1:{}", kafka_ports.plain))
            .topic(1)
            .await;
        Servers {
            authority,
            postgres,
            _rabbitmq: rabbitmq,
            _kafka: kafka,
            rabbitmq_port,
            kafka: kafka_ports,
            queue,
            topic,
        }
    }

    /// What `check --connect` says is wrong with the inbox, the queue and the topic.
    ///
    /// `days` from now, with these authorities' certificates, at servers by this name; Kafka at this port.
    fn wrong(
        &self,
        days: i64,
        authority: &Authority,
        host: &str,
        kafka: u16,
    ) -> [Option<String>; 3] {
        let ca = authority.show("ca.pem");
        let port = |url: &str| url.rsplit_once(':').unwrap().1.to_owned();
        let postgres = port(&self.postgres.as_postgres().url(""))
            .trim_end_matches('/')
            .to_owned();
        let text = format!(
            r#"
            [inbox]
            url = "postgres://postgres@{host}:{postgres}/postgres?sslmode=verify-full&sslrootcert={ca}"
            [sources.queue.rabbitmq]
            uris = ["amqps://guest:guest@{host}:{rabbitmq}/%2f"]
            queue = "{queue}"
            tls = {{ ca_file = "{ca}" }}
            [sources.topic.kafka]
            bootstrap_servers = "{host}:{kafka}"
            topics = ["{topic}"]
            group_id = "trust"
            connect_timeout = "5s"
            tls = {{ ca_file = "{ca}" }}
            [engines.ledger.sql]
            apply = "SELECT 1"
            [routes.of-queue]
            source = "queue"
            engine = "ledger"
            dedup_key = "@message_id"
            apply = {{}}
            [routes.of-topic]
            source = "topic"
            engine = "ledger"
            apply = {{}}
            "#,
            rabbitmq = self.rabbitmq_port,
            queue = self.queue.name(),
            topic = self.topic.name(),
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("sluice.toml"), text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_sluice"))
            .args(["check", "--connect", "--json"])
            .envs(Clock::wrong_by(days * clock::DAY).environment())
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let said: Value = serde_json::from_str(&said).unwrap_or_else(|_| {
            panic!("{said}{}", String::from_utf8_lossy(&output.stderr));
        });
        // That the tables are not made yet is not what is asked here.
        ["inbox", "source queue", "source topic"].map(|part| {
            let parts = said["parts"].as_array().unwrap();
            let part = parts.iter().find(|found| found["name"] == part).unwrap();
            let findings = part["findings"].as_array().unwrap();
            let texts = findings
                .iter()
                .filter(|finding| finding["level"] == "error")
                .map(|finding| finding["text"].as_str().unwrap())
                .filter(|text| !text.contains("tables are missing"));
            texts.map(str::to_owned).reduce(|all, text| all + &text)
        })
    }
}

fn lines(settings: &[String]) -> Vec<&str> {
    settings.iter().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_believed_by_its_authority_its_name_and_its_time_or_not_at_all() {
    let servers = Servers::start().await;
    let ours = &servers.authority;
    let here = "127.0.0.1";
    let kafka = &servers.kafka;
    let nothing = [None, None, None];
    assert_eq!(servers.wrong(0, ours, here, kafka.right), nothing);
    // Kafka's client cannot live with a clock that is set for it alone: its broker's certificate is old.
    let [database, queue, _] = servers.wrong(30, ours, here, kafka.right);
    let [_, _, topic] = servers.wrong(0, ours, here, kafka.expired);
    for (why, wrong) in [
        ("expired", [database, queue, topic]),
        (
            "another name",
            servers.wrong(0, ours, "localhost", kafka.by_name),
        ),
        (
            "another authority",
            servers.wrong(0, &Authority::new(), here, kafka.right),
        ),
    ] {
        let about_it = |said: &Option<String>| {
            let said = said.as_deref();
            said.is_some_and(|said| said.contains("certificate"))
        };
        assert!(wrong.iter().all(about_it), "{why}: {wrong:?}");
    }
}
