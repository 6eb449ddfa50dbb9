//! A configuration file, put together piece by piece.

use std::fmt::Write;

use crate::rig::{Queue, Rig, Schema, Topic};

/// The text of a configuration file; the listener takes any free port.
#[derive(Debug, Clone)]
pub struct Config {
    text: String,
    inbox: String,
}

impl Config {
    /// An inbox beside the engine's tables.
    pub fn on(schema: &Schema) -> Config {
        Config::at(schema.url(), schema.name())
    }

    /// An inbox anywhere.
    pub fn at(url: &str, schema: &str) -> Config {
        Config {
            text: String::new(),
            inbox: format!("url = \"{url}\"\nschema = \"{schema}\"\n"),
        }
    }

    /// Further lines of `[inbox]`.
    #[must_use]
    pub fn inbox(mut self, lines: &str) -> Config {
        writeln!(self.inbox, "{lines}").expect("a string takes what is written to it");
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

    pub fn text(&self) -> String {
        // A test without a rig has nothing to be configured for.
        Rig::get();
        let Config { text, inbox } = self;
        format!("[http]\nlisten = \"127.0.0.1:0\"\n\n[inbox]\n{inbox}\n{text}")
    }
}
