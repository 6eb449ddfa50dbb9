//! What the sections must be, by themselves and for each other, as far as it can be told without a
//! connection. What a part can say about its own table it says itself (`validate`); here it gets its place.

use std::collections::BTreeMap;

use secrecy::ExposeSecret as _;

use super::Draft;
use super::failure::listed;
use super::limits;
use super::mistake::Mistake;
use super::routes;
use crate::engine::EngineConfig;
use crate::engine::sql::Dialect;
use crate::route::RouteConfig;
use crate::source::SourceConfig;

/// Guesses are not counted and not slowed down.
const SHORTEST_TOKEN: usize = 16;

/// The draft, and the mistakes that are found in it.
pub struct Check<'a> {
    pub draft: &'a Draft<'a>,
    pub sources: BTreeMap<&'a str, Option<Broker>>,
    pub engines: BTreeMap<&'a str, Option<Kind>>,
    pub database: Option<Database>,
    mistakes: &'a mut Vec<Mistake>,
}

/// What a source reads from, where that is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    Rabbitmq,
    Kafka,
}

/// What an engine is, where that is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    CamundaTables,
    Sql,
}

/// By the scheme of the inbox's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    Postgres,
    Sqlite,
}

impl Database {
    pub fn dialect(self) -> Dialect {
        match self {
            Self::Postgres => Dialect::Postgres,
            Self::Sqlite => Dialect::Sqlite,
        }
    }
}

/// Adds everything that is wrong or doubtful.
pub fn check(draft: &Draft<'_>, mistakes: &mut Vec<Mistake>) {
    let mut check = Check {
        draft,
        sources: draft
            .sources
            .iter()
            .map(|(name, config)| (name.as_str(), config.as_ref().and_then(broker)))
            .collect(),
        engines: draft
            .engines
            .iter()
            .map(|(name, config)| (name.as_str(), config.as_ref().and_then(kind)))
            .collect(),
        database: None,
        mistakes,
    };
    check.inbox();
    limits::check(&mut check);
    check.node();
    check.http();
    check.log();
    check.sources();
    check.engines();
    routes::check(&mut check);
}

fn broker(config: &SourceConfig) -> Option<Broker> {
    match (&config.rabbitmq, &config.kafka) {
        (Some(_), None) => Some(Broker::Rabbitmq),
        (None, Some(_)) => Some(Broker::Kafka),
        (Some(_), Some(_)) | (None, None) => None,
    }
}

fn kind(config: &EngineConfig) -> Option<Kind> {
    match (&config.camunda_tables, &config.sql) {
        (Some(_), None) => Some(Kind::CamundaTables),
        (None, Some(_)) => Some(Kind::Sql),
        (Some(_), Some(_)) | (None, None) => None,
    }
}

impl Check<'_> {
    /// At this path, unless something there has been reported already.
    pub fn error(&mut self, path: &[&str], message: impl Into<String>) {
        self.say(path, Mistake::error(0..0, message));
    }

    pub fn warning(&mut self, path: &[&str], message: impl Into<String>) {
        self.say(path, Mistake::warning(0..0, message));
    }

    pub fn say(&mut self, path: &[&str], mistake: Mistake) {
        if !self.draft.is_replaced(path) {
            self.mistakes.push(Mistake {
                span: self.draft.tree.locate(path),
                ..mistake
            });
        }
    }

    fn inbox(&mut self) {
        let Some(inbox) = &self.draft.inbox else {
            return;
        };
        let url = inbox.url.expose_secret();
        self.database = match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => Some(Database::Postgres),
            Some("sqlite") => Some(Database::Sqlite),
            _ => None,
        };
        if self.database.is_none() {
            self.say(
                &["inbox", "url"],
                Mistake::error(
                    0..0,
                    "this is the URL of no database that can hold an inbox",
                )
                .help(
                    "expected `postgres://user:password@host/database` or `sqlite:path/to/file.db`",
                ),
            );
        }
        self.identifier(&["inbox", "schema"], &inbox.schema);
        if let (Some(_), Some(mistake)) = (self.database, inbox.mistake_in_url()) {
            self.error(&["inbox", &mistake.path], mistake.what);
        }
    }

    fn node(&mut self) {
        if let Some(node) = &self.draft.node
            && node.name.trim().is_empty()
        {
            let message = "expected a name: people tell nodes apart by it";
            self.error(&["node", "name"], message);
        }
    }

    fn http(&mut self) {
        let Some(http) = &self.draft.http else {
            return;
        };
        if http.is_open_to_strangers() {
            self.say(
                &["http", "listen"],
                Mistake::warning(
                    0..0,
                    "whoever reaches this address can read the pages and the metrics",
                )
                .help("set `http.token`, or listen on loopback"),
            );
        }
        if let Some(token) = &http.token {
            let token = token.expose_secret();
            if token.trim().is_empty() {
                let message =
                    "expected a token, found nothing: whoever shows nothing would be let in";
                let help = format!(
                    "`openssl rand -hex {SHORTEST_TOKEN}` makes one; leave the line out for none"
                );
                self.say(&["http", "token"], Mistake::error(0..0, message).help(help));
            } else if token.chars().count() < SHORTEST_TOKEN {
                let message =
                    format!("a token of fewer than {SHORTEST_TOKEN} characters can be guessed");
                self.warning(&["http", "token"], message);
            }
        }
    }

    fn log(&mut self) {
        if let Some(log) = &self.draft.log
            && let Err(what) = crate::telemetry::filter(&log.level)
        {
            self.error(&["log", "level"], what);
        }
    }

    /// Two Kafka sources of one group read different topics.
    fn groups(&mut self) {
        let kafkas: Vec<_> = self
            .draft
            .sources
            .iter()
            .filter_map(|(name, config)| Some((name, config.as_ref()?.kafka.as_ref()?)))
            .collect();
        for (index, (name, kafka)) in kafkas.iter().enumerate() {
            let shared = kafkas[..index]
                .iter()
                .find_map(|(other, config)| Some((other, kafka.shared_topic(config)?)));
            if let Some((other, topic)) = shared {
                let group = &kafka.group_id;
                let what = format!(
                    "source {other:?} reads {topic:?} with the group {group:?}, too: expected a group of its own, \
                     because what is stored of a partition is kept for its group"
                );
                self.error(&["sources", name, "kafka", "group_id"], what);
            }
        }
    }

    fn sources(&mut self) {
        self.groups();
        if self.draft.sources.is_empty() {
            self.warning(&["sources"], "there is no source: nothing will arrive");
        }
        for (name, config) in &self.draft.sources {
            let path = ["sources", name.as_str()];
            self.name(&path, name);
            let Some(config) = config else { continue };
            let given = [config.rabbitmq.is_some(), config.kafka.is_some()];
            self.exactly_one(&path, given, &["rabbitmq", "kafka"]);
            if let Some(rabbitmq) = &config.rabbitmq {
                for mistake in rabbitmq.validate() {
                    self.error(&["sources", name, "rabbitmq", &mistake.path], mistake.what);
                }
            }
            if let Some(kafka) = &config.kafka {
                for mistake in kafka.validate() {
                    self.error(&["sources", name, "kafka", &mistake.path], mistake.what);
                }
            }
            let routed = |(_, route): &(String, Option<RouteConfig>)| match route {
                None => true,
                // A name that is not there may be meant for this one.
                Some(route) => {
                    route.source == *name || !self.sources.contains_key(route.source.as_str())
                }
            };
            if !self.draft.routes.iter().any(routed) {
                self.say(
                    &path,
                    Mistake::error(0..0, format!("no route takes anything from `{name}`"))
                        .help(format!("[routes.NAME]\nsource = \"{name}\"")),
                );
            }
        }
    }

    fn engines(&mut self) {
        for (name, config) in &self.draft.engines {
            let path = ["engines", name.as_str()];
            self.name(&path, name);
            let Some(config) = config else { continue };
            let given = [config.camunda_tables.is_some(), config.sql.is_some()];
            self.exactly_one(&path, given, &["camunda_tables", "sql"]);
            if let Some(tables) = &config.camunda_tables {
                let path = ["engines", name, "camunda_tables"];
                if self.database == Some(Database::Sqlite) {
                    let message = "an engine's tables must share the inbox's database, and SQLite has none: the inbox must be on PostgreSQL";
                    self.error(&path, message);
                }
                self.identifier(&["engines", name, path[2], "schema"], &tables.schema);
                if !tables.table_prefix.is_empty() {
                    let path = ["engines", name, path[2], "table_prefix"];
                    self.identifier(&path, &tables.table_prefix);
                }
                for (key, value) in [
                    ("max_backlog", tables.max_backlog),
                    ("retries", u32::from(tables.retries)),
                ] {
                    if value == 0 {
                        self.error(&["engines", name, path[2], key], "expected 1 or more");
                    }
                }
            }
            if let (Some(sql), Some(database)) = (&config.sql, self.database) {
                for mistake in sql.validate(database.dialect()) {
                    self.error(&["engines", name, "sql", &mistake.path], mistake.what);
                }
            }
            let used = |(_, route): &(String, Option<RouteConfig>)| {
                route.as_ref().is_none_or(|route| {
                    route.engine == *name || !self.engines.contains_key(route.engine.as_str())
                })
            };
            if !self.draft.routes.iter().any(used) {
                self.warning(&path, format!("no route uses the engine `{name}`"));
            }
        }
    }

    /// Names stand in metrics, scopes and paths of the API.
    pub fn name(&mut self, path: &[&str], name: &str) {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
        if name.is_empty() || !name.chars().all(fine) {
            let message = format!("the name `{name}` is not made of a-z, 0-9, `_` and `-`");
            self.error(path, message);
        }
    }

    fn identifier(&mut self, path: &[&str], name: &str) {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !begins || !name.chars().all(fine) || name.len() > 63 {
            let message = "expected a name made of letters, digits and `_`, at most 63 of them";
            self.error(path, message);
        }
    }

    fn exactly_one<const N: usize>(&mut self, path: &[&str], given: [bool; N], names: &[&str; N]) {
        let under = path.join(".");
        let tables: Vec<_> = names
            .iter()
            .map(|name| format!("[{under}.{name}]"))
            .collect();
        let tables: Vec<_> = tables.iter().map(String::as_str).collect();
        match given.iter().filter(|given| **given).count() {
            0 => self.error(path, format!("expected {}", listed(&tables, "or"))),
            1 => {}
            // Whatever else is wrong in one of them, there is one too many.
            _ => self.mistakes.push(Mistake::error(
                self.draft.tree.locate(path),
                format!("expected only one of {}", listed(&tables, "and")),
            )),
        }
    }
}
