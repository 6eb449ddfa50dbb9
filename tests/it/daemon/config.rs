//! A configuration file, put together piece by piece.

use std::fmt::Write;

use super::rights::Place;
use crate::rig::{Queue, Schema, Topic};

/// The text of a configuration file; the listener takes any free port.
#[derive(Debug, Clone)]
pub struct Config {
    text: String,
    inbox: String,
    http: String,
    url: String,
    schema: String,
    rights: Rights,
    further: Vec<String>,
    door: Option<u16>,
}

/// As whom the daemon comes to its tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// The owner makes the tables before, and the daemon has what deploy/grants.sql gives.
    Granted,
    /// The daemon is the owner, and makes them itself: `run --migrate`.
    Owner,
    /// Whoever the URL says; nothing is prepared.
    AsItIs,
}

impl Config {
    /// An inbox beside the engine's tables.
    pub fn on(schema: &Schema) -> Config {
        Config::at(schema.url(), schema.name())
    }

    /// An inbox anywhere; the URL is the owner's.
    pub fn at(url: &str, schema: &str) -> Config {
        Config {
            text: String::new(),
            inbox: String::new(),
            http: String::new(),
            url: url.to_owned(),
            schema: schema.to_owned(),
            rights: Rights::Granted,
            further: Vec::new(),
            door: None,
        }
    }

    /// As whom the daemon comes to its tables.
    #[must_use]
    pub fn rights(self, rights: Rights) -> Config {
        Config { rights, ..self }
    }

    /// The daemon comes to its database through this port, where something stands before the server.
    #[must_use]
    pub fn through(self, port: u16) -> Config {
        Config {
            door: Some(port),
            ..self
        }
    }

    /// What the user's own statements need, such as `INSERT ON public.ledger`.
    #[must_use]
    pub fn granting(mut self, right: &str) -> Config {
        self.further.push(right.to_owned());
        self
    }

    /// Further lines of `[inbox]`.
    #[must_use]
    pub fn inbox(mut self, lines: &str) -> Config {
        writeln!(self.inbox, "{lines}").expect("a string takes what is written to it");
        self
    }

    /// Further lines of `[http]`.
    #[must_use]
    pub fn http(mut self, lines: &str) -> Config {
        writeln!(self.http, "{lines}").expect("a string takes what is written to it");
        self
    }

    /// A queue of RabbitMQ; `lines` belong to its table.
    #[must_use]
    pub fn rabbitmq(self, name: &str, queue: &Queue, lines: &str) -> Config {
        let (uri, queue) = (queue.uri(), queue.name());
        self.with(&format!(
            "[sources.{name}.rabbitmq]\nuris = [\"{uri}\"]\nqueue = \"{queue}\"\n{lines}"
        ))
    }

    /// A topic of Kafka, read by a group of the topic's name; `lines` belong to its table.
    #[must_use]
    pub fn kafka(self, name: &str, topic: &Topic, lines: &str) -> Config {
        let (servers, topic) = (topic.bootstrap(), topic.name());
        self.with(&format!(
            "[sources.{name}.kafka]\nbootstrap_servers = \"{servers}\"\ntopics = [\"{topic}\"]\n\
             group_id = \"{topic}\"\nsession_timeout = \"6s\"\n{lines}"
        ))
    }

    /// An engine in the inbox's database; `lines` belong to its table.
    #[must_use]
    pub fn camunda_tables(self, name: &str, lines: &str) -> Config {
        self.with(&format!("[engines.{name}.camunda_tables]\n{lines}"))
    }

    /// Whole tables, such as routes.
    #[must_use]
    pub fn with(mut self, tables: &str) -> Config {
        writeln!(self.text, "{tables}\n").expect("a string takes what is written to it");
        self
    }

    /// As the owner of the tables has it.
    pub fn text(&self) -> String {
        self.text_at(&self.url)
    }

    fn text_at(&self, url: &str) -> String {
        // A test without a rig has nothing to be configured for.
        crate::rig::needed();
        let Config {
            text,
            inbox,
            http,
            schema,
            ..
        } = self;
        format!(
            "[http]\nlisten = \"127.0.0.1:0\"\n{http}\n[inbox]\nurl = \"{url}\"\nschema = \"{schema}\"\n\
             {inbox}\n{text}"
        )
    }

    /// As the daemon has it.
    pub(super) fn text_of_daemon(&self) -> String {
        let url = self.place().map(|place| place.url_of_daemon());
        let mut url = url.unwrap_or_else(|| self.url.clone());
        if let Some(port) = self.door {
            let mut through = reqwest::Url::parse(&url).expect("the rig's URLs are URLs");
            through.set_port(Some(port)).expect("it has a host");
            url = through.into();
        }
        self.text_at(&url)
    }

    pub(super) fn migrates(&self) -> bool {
        self.rights == Rights::Owner
    }

    /// What must be prepared before the daemon runs, if anything.
    pub fn place(&self) -> Option<Place> {
        if self.rights != Rights::Granted {
            return None;
        }
        let text: toml::Table = self.text().parse().expect("the test writes TOML");
        let engines = text.get("engines").and_then(toml::Value::as_table);
        let tables = engines.into_iter().flatten().filter_map(|(_, engine)| {
            let tables = engine.get("camunda_tables")?;
            let of = |key: &str, default: &str| {
                let given = tables.get(key).and_then(toml::Value::as_str);
                given.unwrap_or(default).to_owned()
            };
            Some((of("schema", "public"), of("table_prefix", "")))
        });
        Some(Place {
            url: self.url.clone(),
            schema: self.schema.clone(),
            engines: tables.collect(),
            further: self.further.clone(),
        })
    }
}
