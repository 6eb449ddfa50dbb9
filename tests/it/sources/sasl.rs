//! Kafka's own names and passwords: SASL, by every mechanism that asks for one.

use sluice::source::Source;
use sluice::source::kafka::{Kafka, KafkaConfig};

use super::{payloads, settle, take};
use crate::rig::{Kafka as KafkaServer, Server, free_port, unique};

#[tokio::test]
async fn every_mechanism_lets_in_who_has_the_password_and_tells_who_has_not() {
    let (plain, controller, secure) = (free_port(), free_port(), free_port());
    let _server = Server::kafka(&[
        &format!(
            "listeners=PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},\
             SASL_PLAINTEXT://127.0.0.1:{secure}"
        ),
        &format!(
            "advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{secure}"
        ),
        &format!("controller.quorum.voters=1@127.0.0.1:{controller}"),
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,\
         SASL_PLAINTEXT:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config=\
         org.apache.kafka.common.security.plain.PlainLoginModule required user_sluice=\"hunter2\";",
        "listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=\
         org.apache.kafka.common.security.scram.ScramLoginModule required;",
        "listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config=\
         org.apache.kafka.common.security.scram.ScramLoginModule required;",
        "SCRAM=name=sluice,password=hunter2",
    ])
    .await;
    let topic = KafkaServer::at(&format!("127.0.0.1:{plain}"))
        .topic(1)
        .await;
    topic.produce(None, &[], b"1").await;
    let node = |protocol: &str, mechanism: &str, password: &str| {
        let table = format!(
            "bootstrap_servers = '127.0.0.1:{secure}'\ntopics = ['{}']\ngroup_id = '{}'\n\
             session_timeout = '6s'\nconnect_timeout = '5s'\ngroup_protocol = '{protocol}'\n\
             sasl = {{ mechanism = '{mechanism}', username = 'sluice', password = '{password}' }}",
            topic.name(),
            unique()
        );
        let config: KafkaConfig = toml::from_str(&table).expect("the table is well formed");
        assert_eq!(config.validate(), []);
        Kafka::new(unique().into(), config, false, "test")
    };
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        for protocol in ["classic", "consumer"] {
            let opened = node(protocol, mechanism, "hunter2").open().await;
            let mut stream = opened.expect("the password is right");
            let taken = take(&mut stream, 1).await;
            assert_eq!(payloads(&taken), ["1"], "{mechanism}, {protocol}");
            settle(&mut stream, taken).await;
            stream.close().await;
        }
        let wrong = node("classic", mechanism, "hunter3").open().await;
        let wrong = wrong.err().expect("the password is wrong");
        let said = sluice::telemetry::in_full(&wrong);
        assert!(wrong.needs_operator, "{mechanism}: {said}");
        assert!(said.contains("uthentication fail"), "{mechanism}: {said}");
        assert!(!said.contains("hunter"), "{mechanism}: {said}");
    }
}
