//! `[sources.NAME.kafka]`, what can be wrong with it, and the client's settings that follow from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::pattern;
use super::security::{self, KafkaSasl, KafkaTls};
use crate::finding::Mistake;
use crate::source::{SHORTEST_CONNECT, SMALLEST_PREFETCH, SourceError};
use crate::units::{Size, Span};

/// A set of Kafka topics, read as one consumer group.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:9092`, several separated by commas.
    pub bootstrap_servers: String,
    /// Names, which must exist, and patterns, which begin with `^` and end with `$` (`^orders-[0-9]+$`): topics
    /// that are made later are read within half a minute, from their oldest record on.
    pub topics: Vec<String>,
    /// The consumer group; all nodes of one Sluice share it.
    pub group_id: String,
    /// Static membership: a node that comes back within the session timeout finds its partitions still
    /// its own. Must differ from node to node, so it usually holds a `${VARIABLE}`.
    #[serde(default)]
    pub group_instance_id: Option<String>,
    /// Which protocol the group speaks; `consumer` needs brokers of version 4.0. All members must agree.
    #[serde(default)]
    pub group_protocol: GroupProtocol,
    /// Where the group begins in a topic of which it has committed nothing. A partition that is added
    /// later begins with its oldest record, whatever stands here.
    #[serde(default)]
    pub start: Start,
    /// After this long without a sign of life the broker gives a node's partitions to the others; with
    /// `group_protocol = "consumer"` the broker itself decides how long that is.
    #[serde(default = "default_session_timeout")]
    pub session_timeout: Span,
    /// After this long without a poll the client leaves the group by itself. Sluice polls all the time,
    /// also while the database is down.
    #[serde(default = "default_max_poll_interval")]
    pub max_poll_interval: Span,
    /// How long connecting and each question to the broker may take.
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout: Span,
    /// How much is held in memory ahead of the batches, half of it inside the Kafka client, which may
    /// exceed its half by one fetch response for each broker.
    #[serde(default = "default_prefetch")]
    pub prefetch: Size,
    /// How often the lag is measured.
    #[serde(default = "default_statistics_interval")]
    pub statistics_interval: Span,
    /// Encrypts the connections.
    #[serde(default)]
    pub tls: Option<KafkaTls>,
    /// Who we are.
    #[serde(default)]
    pub sasl: Option<KafkaSasl>,
    /// Further settings of librdkafka, by their own names. Those that Sluice decides are refused. No value is ever
    /// shown: which of them are secrets only the client knows.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub librdkafka_options: BTreeMap<String, SecretString>,
}

/// Where the group begins in a topic of which it has committed nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With the oldest record that the broker still has.
    #[default]
    Earliest,
    /// With the first record after this moment; the moment is committed at once. When the broker has
    /// forgotten what the group committed (`offsets.retention.minutes` without a member, 7 days unless
    /// set), this moment comes again, and what came since is skipped: warned and counted.
    Latest,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupProtocol {
    #[default]
    Classic,
    Consumer,
}

fn default_session_timeout() -> Span {
    Span::secs(10)
}
fn default_max_poll_interval() -> Span {
    Span::secs(300)
}
fn default_connect_timeout() -> Span {
    Span::secs(10)
}
fn default_prefetch() -> Size {
    Size::mib(4)
}
fn default_statistics_interval() -> Span {
    Span::secs(5)
}

/// Settings that Sluice decides, and what the user writes instead.
const OURS: [(&str, &str); 35] = [
    ("bootstrap.servers", "use `bootstrap_servers`"),
    ("metadata.broker.list", "use `bootstrap_servers`"),
    ("group.id", "use `group_id`"),
    ("group.instance.id", "use `group_instance_id`"),
    ("group.protocol", "use `group_protocol`"),
    ("group.protocol.type", "it is always `consumer`"),
    ("client.id", "Sluice names its clients"),
    ("session.timeout.ms", "use `session_timeout`"),
    ("max.poll.interval.ms", "use `max_poll_interval`"),
    ("statistics.interval.ms", "use `statistics_interval`"),
    ("queued.max.messages.kbytes", "use `prefetch`"),
    ("message.max.bytes", "it bounds what is produced"),
    ("enable.auto.commit", COMMITS),
    ("auto.commit.enable", COMMITS),
    ("auto.commit.interval.ms", COMMITS),
    ("enable.auto.offset.store", COMMITS),
    ("offset.store.method", COMMITS),
    ("offset.store.path", COMMITS),
    ("auto.offset.reset", "use `start`"),
    ("enable.partition.eof", "Sluice does not look at it"),
    (
        "check.crcs",
        "it is always on: spoiled records must not become other messages, or none",
    ),
    ("consume.callback.max.messages", "Sluice polls one by one"),
    (
        "partition.assignment.strategy",
        "it is always `cooperative-sticky`",
    ),
    ("allow.auto.create.topics", "topics must exist"),
    ("security.protocol", "it follows from `tls` and `sasl`"),
    ("ssl.ca.location", "use `tls.ca_file`"),
    ("ssl.certificate.location", "use `tls.crt_file`"),
    ("ssl.key.location", "use `tls.key_file`"),
    ("ssl.key.password", "use `tls.key_pass`"),
    (
        "enable.ssl.certificate.verification",
        "use `tls.verify_certificate`",
    ),
    (
        "ssl.endpoint.identification.algorithm",
        "use `tls.verify_hostname`",
    ),
    ("sasl.mechanism", "use `sasl.mechanism`"),
    ("sasl.mechanisms", "use `sasl.mechanism`"),
    ("sasl.username", "use `sasl.username`"),
    ("sasl.password", "use `sasl.password`"),
];
/// What may stand before a server; which one is spoken follows from `tls` and `sasl`.
const PROTOCOLS: [&str; 4] = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];
const COMMITS: &str = "Sluice commits what is committed in the inbox, and nothing else";

impl KafkaConfig {
    /// Everything that can be said to be wrong without a broker.
    pub fn validate(&self) -> Vec<Mistake> {
        let mut mistakes = self.mistaken_names();
        if let Some(tls) = &self.tls {
            mistakes.extend(tls.validate());
        }
        if let Some(sasl) = &self.sasl {
            mistakes.extend(sasl.validate());
        }
        if self.session_timeout < Span::secs(1) || self.session_timeout > Span::secs(3600) {
            let what =
                "expected between 1s and 1h, and what the broker allows (6s and more unless set)";
            mistakes.push(Mistake::new("session_timeout", what));
        }
        if self.max_poll_interval < self.session_timeout || self.max_poll_interval > Span::days(1) {
            mistakes.push(Mistake::new(
                "max_poll_interval",
                "expected at least `session_timeout`, at most 1d",
            ));
        }
        if self.connect_timeout < SHORTEST_CONNECT {
            let what = format!("expected {SHORTEST_CONNECT} or more: nothing connects sooner");
            mistakes.push(Mistake::new("connect_timeout", what));
        }
        if self.prefetch < SMALLEST_PREFETCH || self.prefetch > Size::mib(2048) {
            mistakes.push(Mistake::new("prefetch", "expected between 64KiB and 2GiB"));
        }
        if self.statistics_interval.0.is_zero() {
            mistakes.push(Mistake::new(
                "statistics_interval",
                "expected more than nothing: what is committed is learned from it",
            ));
        }
        mistakes.extend(self.mistaken_options());
        mistakes
    }

    /// The topic, or pattern, that this source and another of the same group may both read.
    ///
    /// A position belongs to the group: where two sources share it, a partition that goes from one to the other takes
    /// other routes, and two clusters that were given one id would share the positions of both.
    pub fn shared_topic<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        if self.group_id != other.group_id {
            return None;
        }
        let may_meet =
            |one: &str, two: &str| match (pattern::is_pattern(one), pattern::is_pattern(two)) {
                (false, false) => one == two,
                (true, false) => !pattern::matching(one, std::iter::once(two)).is_empty(),
                (false, true) => !pattern::matching(two, std::iter::once(one)).is_empty(),
                // What two patterns have in common nobody can say.
                (true, true) => true,
            };
        let mut ours = self.topics.iter();
        // An empty name is another mistake, or a variable that is not wanted now.
        ours.find(|one| !one.is_empty() && other.topics.iter().any(|two| may_meet(one, two)))
            .map(String::as_str)
    }

    fn mistaken_names(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if let Some(what) = mistake_in_servers(&self.bootstrap_servers) {
            mistakes.push(Mistake::new("bootstrap_servers", what));
        }
        if self.group_id.is_empty() {
            mistakes.push(Mistake::new("group_id", "expected a consumer group"));
        }
        if self.topics.is_empty() {
            mistakes.push(Mistake::new("topics", "expected at least one topic"));
        }
        let mut seen = BTreeSet::new();
        for (index, topic) in self.topics.iter().enumerate() {
            let path = format!("topics[{index}]");
            if topic.is_empty() {
                mistakes.push(Mistake::new(path, "expected a topic's name or a pattern"));
            } else if !seen.insert(topic) {
                mistakes.push(Mistake::new(path, "named twice"));
            } else if pattern::is_pattern(topic) {
                mistakes.extend(pattern::mistake(topic).map(|what| Mistake::new(path, what)));
            }
        }
        if self.start == Start::Latest && self.topics.iter().any(|t| pattern::is_pattern(t)) {
            let what = "a pattern reads from the oldest record on: `latest` would skip what a new topic holds \
                        before it is found. To skip what is there, set the group's offsets once";
            mistakes.push(Mistake::new("start", what));
        }
        mistakes
    }

    /// Refuses what is ours and lets librdkafka judge the rest by name and value.
    fn mistaken_options(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        for (name, value) in &self.librdkafka_options {
            let path = format!("librdkafka_options.{name}");
            if let Some((_, instead)) = OURS.iter().find(|(ours, _)| ours == name) {
                mistakes.push(Mistake::new(path, format!("decided by Sluice: {instead}")));
                continue;
            }
            let mut alone = ClientConfig::new();
            alone.set(name, value.expose_secret());
            // Its error repeats the value, which may be a secret: only its own words are taken.
            if let Err(KafkaError::ClientConfig(_, what, _, _)) = alone.create_native_config() {
                mistakes.push(Mistake::new(path, what));
            }
        }
        mistakes
    }

    /// The client's settings. Reads the password file.
    pub async fn client(&self, client_name: &str) -> Result<ClientConfig, SourceError> {
        let mut client = ClientConfig::new();
        // One response; the client wants it between its `message.max.bytes` and a half of
        // `receive.message.max.bytes`. A single larger record comes all the same.
        let fetch = self.half_prefetch().clamp(1_000_000, 50 * 1024 * 1024);
        client
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("group.id", &self.group_id)
            .set("client.id", client_name)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "false")
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            .set("allow.auto.create.topics", "false")
            .set("isolation.level", "read_committed")
            // A broker that is silent for this long is given up, and with it the partitions that it led:
            // their new leader is looked for. The client's own minute would be a minute without them.
            .set(
                "socket.timeout.ms",
                self.connect_timeout
                    .as_ms()
                    .clamp(2_000, 300_000)
                    .to_string(),
            )
            .set(
                "max.poll.interval.ms",
                self.max_poll_interval.as_ms().to_string(),
            )
            .set(
                "statistics.interval.ms",
                self.statistics_interval.as_ms().to_string(),
            )
            .set("queued.min.messages", "10000")
            .set(
                "queued.max.messages.kbytes",
                (self.half_prefetch() / 1024).max(1).to_string(),
            )
            .set("fetch.max.bytes", fetch.to_string())
            .set(
                "fetch.message.max.bytes",
                fetch.min(1024 * 1024).to_string(),
            )
            // Partitions and topics that are added are read this soon.
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set("fetch.queue.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "2000");
        match self.group_protocol {
            GroupProtocol::Classic => client
                .set("partition.assignment.strategy", "cooperative-sticky")
                .set(
                    "session.timeout.ms",
                    self.session_timeout.as_ms().to_string(),
                )
                .set(
                    "heartbeat.interval.ms",
                    (self.session_timeout.as_ms() / 3)
                        .clamp(1, 3000)
                        .to_string(),
                ),
            GroupProtocol::Consumer => client.set("group.protocol", "consumer"),
        };
        if let Some(instance) = &self.group_instance_id {
            client.set("group.instance.id", instance);
        }
        security::apply(self.tls.as_ref(), self.sasl.as_ref(), &mut client).await?;
        for (name, value) in &self.librdkafka_options {
            client.set(name, value.expose_secret());
        }
        Ok(client)
    }

    /// Half of the prefetch is the client's, half our own buffer's.
    pub(super) fn half_prefetch(&self) -> usize {
        self.prefetch.bytes() / 2
    }
}

/// The client would leave out an entry that it cannot read, with a line in its log. The entry is not repeated: it may
/// come from the environment.
fn mistake_in_servers(servers: &str) -> Option<String> {
    if servers.split(',').all(|entry| entry.trim().is_empty()) {
        return Some("expected host:port".to_owned());
    }
    let unreadable = |entry: &str| !entry.is_empty() && !is_server(entry);
    let wrong = servers
        .split(',')
        .position(|entry| unreadable(entry.trim()))?;
    let number = wrong + 1;
    Some(format!(
        "expected host:port, several separated by commas; number {number} is none"
    ))
}

/// `host`, `host:port`, `[::1]:port`, each also behind `SSL://` or its like.
fn is_server(entry: &str) -> bool {
    let address = match entry.split_once("://") {
        Some((protocol, address)) if PROTOCOLS.contains(&&*protocol.to_ascii_uppercase()) => {
            address
        }
        Some(_) => return false,
        None => entry,
    };
    let (host, port) = match address
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => (host, port.strip_prefix(':')),
        Some(_) => return false,
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let named = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let fine = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    !host.is_empty() && host.chars().all(named) && port.is_none_or(fine)
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::BaseConsumer;

    use super::*;

    fn config(more: &str) -> KafkaConfig {
        let text = format!(
            "bootstrap_servers = 'localhost:9092'\ntopics = ['orders']\ngroup_id = 'sluice'\n{more}"
        );
        toml::from_str(&text).expect("the table is well formed")
    }

    fn paths(config: &KafkaConfig) -> Vec<String> {
        config.validate().into_iter().map(|m| m.path).collect()
    }

    #[test]
    fn what_sluice_decides_is_refused_and_the_rest_is_judged_by_the_client() {
        for (ours, _) in OURS {
            let config = config(&format!("[librdkafka_options]\n'{ours}' = '1'"));
            assert_eq!(
                paths(&config),
                [format!("librdkafka_options.{ours}")],
                "{ours}"
            );
        }
        let fine = config(
            "[librdkafka_options]\n'socket.keepalive.enable' = 'true'\n'isolation.level' = 'read_uncommitted'",
        );
        assert_eq!(paths(&fine), Vec::<String>::new());
        let unknown =
            config("[librdkafka_options]\n'no.such.thing' = '1'\n'socket.timeout.ms' = 'soon'");
        assert_eq!(
            paths(&unknown),
            [
                "librdkafka_options.no.such.thing",
                "librdkafka_options.socket.timeout.ms"
            ]
        );
    }

    #[test]
    fn sources_of_one_group_share_what_a_name_or_a_pattern_lets_them_both_read() {
        let reads = |group: &str, topics: &[&str]| KafkaConfig {
            group_id: group.to_owned(),
            topics: topics.iter().map(ToString::to_string).collect(),
            ..config("")
        };
        for (one, two, shared) in [
            (&["a", "b"][..], &["c", "b"][..], Some("b")),
            (&["a"], &["b"], None),
            (&["^a.*"], &["b", "ab"], Some("^a.*")),
            (&["^a.*"], &["b"], None),
            (&["ab"], &["^a.*"], Some("ab")),
            (&["^a"], &["^b"], Some("^a")),
        ] {
            let (one, two) = (reads("g", one), reads("g", two));
            assert_eq!(
                one.shared_topic(&two),
                shared,
                "{:?} {:?}",
                one.topics,
                two.topics
            );
            assert_eq!(one.shared_topic(&reads("other", &["b"])), None);
        }
    }

    #[test]
    fn a_refused_option_does_not_repeat_its_value() {
        let config = config("[librdkafka_options]\n'ssl.keystore.passwort' = 'hunter2'");
        let mistakes = config.validate();
        assert_eq!(mistakes.len(), 1);
        assert!(!mistakes[0].what.contains("hunter2"), "{mistakes:?}");
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    }

    #[test]
    fn half_given_secrets_and_bad_names_are_mistakes() {
        for (more, path) in [
            ("[sasl]\nmechanism = 'PLAIN'\nusername = 'u'", "sasl"),
            (
                "[sasl]\nmechanism = 'PLAIN'\nusername = 'u'\npassword = 'p'\npassword_file = 'f'",
                "sasl",
            ),
            ("[tls]\ncrt_file = 'c.pem'", "tls"),
            ("[tls]\nverify_certificate = false", "tls.verify_hostname"),
            ("max_poll_interval = '5s'", "max_poll_interval"),
            ("prefetch = '1KiB'", "prefetch"),
            ("session_timeout = '1ms'", "session_timeout"),
            ("max_poll_interval = '25h'", "max_poll_interval"),
            ("connect_timeout = '0s'", "connect_timeout"),
            ("statistics_interval = '0s'", "statistics_interval"),
        ] {
            assert_eq!(paths(&config(more)), [path], "{more}");
        }
        let mut named = config("");
        named.topics = vec!["a".into(), "^b.*".into(), "a".into()];
        assert_eq!(paths(&named), ["topics[1]", "topics[2]"]);
        let mut latest = config("start = 'latest'");
        assert_eq!(paths(&latest), Vec::<String>::new());
        latest.topics.push("^b.*$".into());
        assert_eq!(paths(&latest), ["start"]);
    }

    #[test]
    fn servers_are_judged_as_the_client_reads_them() {
        for (servers, fine) in [
            ("kafka", true),
            ("kafka-1:9092, kafka_2.local:9092,", true),
            ("SASL_SSL://kafka:9093,[::1]:9092,10.0.0.1", true),
            ("", false),
            (" , ", false),
            ("kafka:9092,kafka:port", false),
            ("kafka:0", false),
            ("kafka:90920", false),
            ("kafka:", false),
            (":9092", false),
            ("kafka 1:9092", false),
            ("kafka:9092;kafka:9093", false),
            ("http://kafka:9092", false),
            ("[::g]:9092", false),
        ] {
            let mut named = config("");
            named.bootstrap_servers = servers.to_owned();
            let expected: &[&str] = if fine { &[] } else { &["bootstrap_servers"] };
            assert_eq!(paths(&named), expected, "{servers:?}");
        }
    }

    #[tokio::test]
    async fn every_combination_of_tls_and_sasl_is_taken_by_the_client() {
        let tls = "[tls]\nverify_hostname = false\nkey_pass = 'p'";
        for (more, protocol) in [
            (String::new(), "PLAINTEXT"),
            (tls.to_owned(), "SSL"),
            (
                "[sasl]\nmechanism = 'PLAIN'\nusername = 'u'\npassword = 'p'".to_owned(),
                "SASL_PLAINTEXT",
            ),
            (
                format!(
                    "{tls}\n[sasl]\nmechanism = 'SCRAM-SHA-512'\nusername = 'u'\npassword = 'p'"
                ),
                "SASL_SSL",
            ),
            (
                format!("{tls}\n[sasl]\nmechanism = 'OAUTHBEARER'"),
                "SASL_SSL",
            ),
            ("[tls]\nenabled = false".to_owned(), "PLAINTEXT"),
        ] {
            let config = config(&more);
            assert_eq!(config.validate(), [], "{more}");
            let client = config.client("test").await.expect("no file is read");
            assert_eq!(client.get("security.protocol"), Some(protocol), "{more}");
            client
                .create_native_config()
                .expect("librdkafka takes the settings");
        }
    }

    #[tokio::test]
    async fn the_client_takes_the_smallest_and_the_largest_prefetch() {
        for prefetch in ["64KiB", "16MiB", "2GiB"] {
            let config = config(&format!("prefetch = '{prefetch}'"));
            assert_eq!(config.validate(), []);
            let client = config.client("test").await.expect("no file is read");
            let made: Result<BaseConsumer, KafkaError> = client.create();
            assert!(made.is_ok(), "{prefetch}: {:?}", made.err());
        }
    }

    #[tokio::test]
    async fn offsets_are_ours_alone_in_both_protocols() {
        for protocol in ["classic", "consumer"] {
            let config = config(&format!("group_protocol = '{protocol}'"));
            let client = config.client("test").await.expect("no file is read");
            for (name, value) in [
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                ("auto.offset.reset", "error"),
                ("isolation.level", "read_committed"),
            ] {
                assert_eq!(client.get(name), Some(value), "{name}");
            }
            client
                .create_native_config()
                .expect("librdkafka takes the settings");
        }
    }
}
