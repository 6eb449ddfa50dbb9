//! Encrypted connections, with certificates and passwords that the broker really checks.

use lapin::BasicProperties;
use sluice::source::kafka::{Kafka, KafkaConfig};
use sluice::source::rabbitmq::{Rabbitmq, RabbitmqConfig};
use sluice::source::{Source, SourceError};

use super::{settle, take};
use crate::rig::{Authority, Kafka as KafkaServer, QueueKind, Server, free_port, unique};

fn refused(opened: Result<Box<dyn sluice::source::Stream>, SourceError>, why: &str) -> SourceError {
    opened
        .err()
        .unwrap_or_else(|| panic!("the broker must refuse {why}"))
}

#[tokio::test]
async fn rabbitmq_over_tls_checks_the_server_and_shows_its_own_certificate() {
    let authority = Authority::new();
    let port = free_port();
    let server = Server::rabbitmq(&[
        &format!("listeners.ssl.1=127.0.0.1:{port}"),
        &format!("ssl_options.cacertfile={}", authority.show("ca.pem")),
        &format!("ssl_options.certfile={}", authority.show("server.pem")),
        &format!("ssl_options.keyfile={}", authority.show("server.key")),
        "ssl_options.verify=verify_peer",
        "ssl_options.fail_if_no_peer_cert=true",
    ])
    .await;
    let queue = server.as_rabbitmq().queue(QueueKind::Classic).await;
    queue.publish(b"1", BasicProperties::default()).await;
    let node_at = |host: &str, tls: &str| {
        let table = format!(
            "uris = ['amqps://guest:guest@{host}:{port}/%2f']\nqueue = '{}'\ntls = {{ {tls} }}",
            queue.name()
        );
        let config: RabbitmqConfig = toml::from_str(&table).expect("the table is well formed");
        assert_eq!(config.validate(), []);
        Rabbitmq::new(unique().into(), config, false, "test")
    };
    let node = |tls: &str| node_at("127.0.0.1", tls);
    let ca = format!("ca_file = '{}'", authority.show("ca.pem"));
    let own = format!(
        "crt_file = '{}', key_file = '{}'",
        authority.show("client.pem"),
        authority.show("client.key")
    );
    refused(
        node(&own).open().await,
        "an unknown authority's certificate",
    );
    refused(
        node_at("localhost", &format!("{ca}, {own}")).open().await,
        "a certificate for another host",
    );
    refused(node(&ca).open().await, "a client without a certificate");
    let missing = refused(
        node("ca_file = '/no/such/file'").open().await,
        "a missing file",
    );
    assert!(
        missing.needs_operator && missing.to_string().contains("/no/such/file"),
        "{missing:?}"
    );

    let mut stream = node(&format!("{ca}, {own}"))
        .open()
        .await
        .expect("both sides are proven");
    let taken = take(&mut stream, 1).await;
    settle(&mut stream, taken).await;
    stream.close().await;
}

#[tokio::test]
async fn kafka_over_tls_checks_the_server_and_proves_who_it_is() {
    let authority = Authority::new();
    let (plain, controller, secure) = (free_port(), free_port(), free_port());
    let at = |name: &str, port: u16| format!("{name}://127.0.0.1:{port}");
    let (plain_listener, secure_listener) = (at("PLAINTEXT", plain), at("SASL_SSL", secure));
    let _server = Server::kafka(&[
        &format!(
            "listeners={plain_listener},{},{secure_listener}",
            at("CONTROLLER", controller)
        ),
        &format!("advertised.listeners={plain_listener},{secure_listener}"),
        &format!("controller.quorum.voters=1@127.0.0.1:{controller}"),
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
        "ssl.keystore.type=PEM",
        &format!(
            "ssl.keystore.location={}",
            authority.show("server-both.pem")
        ),
        "ssl.truststore.type=PEM",
        &format!("ssl.truststore.location={}", authority.show("ca.pem")),
        "sasl.enabled.mechanisms=PLAIN",
        "listener.name.sasl_ssl.plain.sasl.jaas.config=\
         org.apache.kafka.common.security.plain.PlainLoginModule required user_sluice=\"hunter2\";",
    ])
    .await;
    let topic = KafkaServer::at(&format!("127.0.0.1:{plain}"))
        .topic(1)
        .await;
    topic.produce(None, &[], b"1").await;
    let password_file = authority.path("password");
    std::fs::write(&password_file, "hunter2\n").expect("the folder is writable");
    let node = |tls: &str, sasl: &str| {
        let table = format!(
            "bootstrap_servers = '127.0.0.1:{secure}'\ntopics = ['{}']\ngroup_id = '{}'\n\
             session_timeout = '6s'\nconnect_timeout = '5s'\ntls = {{ {tls} }}\n\
             sasl = {{ mechanism = 'PLAIN', username = 'sluice', {sasl} }}",
            topic.name(),
            unique()
        );
        let config: KafkaConfig = toml::from_str(&table).expect("the table is well formed");
        assert_eq!(config.validate(), []);
        Kafka::new(unique().into(), config, false, "test")
    };
    let ca = format!("ca_file = '{}'", authority.show("ca.pem"));
    let right = format!("password_file = '{}'", password_file.display());

    let unknown = refused(
        node("", &right).open().await,
        "an unknown authority's certificate",
    );
    assert!(unknown.needs_operator, "{unknown:?}");
    let wrong = refused(
        node(&ca, "password = 'hunter3'").open().await,
        "a wrong password",
    );
    assert!(wrong.needs_operator, "{wrong:?}");
    assert!(
        !format!("{wrong} {wrong:?}").contains("hunter"),
        "{wrong:?}"
    );

    for tls in [
        ca.as_str(),
        "verify_certificate = false, verify_hostname = false",
    ] {
        let mut stream = node(tls, &right)
            .open()
            .await
            .expect("both sides are proven");
        let taken = take(&mut stream, 1).await;
        settle(&mut stream, taken).await;
        stream.close().await;
    }
}
