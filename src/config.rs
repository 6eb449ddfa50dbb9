//! The configuration file: assembles the parts' own config types, and says everything that is wrong
//! with it at once, each mistake with its place.
//!
//! Each part's type and defaults stand beside the code that obeys them; this module knows how they
//! belong together. Nothing that is imported here imports this module.
//! Invariant: a [`Config`] that was loaded has no mistake left that can be seen without a connection.

mod check;
mod failure;
mod limits;
mod mask;
mod memory;
mod mistake;
mod node;
mod piece;
mod routes;
mod schema;
mod walk;

pub use memory::{MemoryBound, MemoryPart};
pub use mistake::{Look, Mistake, Report, Weight};
pub use node::Environment;
pub use schema::json_schema;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::engine::EngineConfig;
use crate::http::HttpConfig;
use crate::inbox::InboxConfig;
use crate::intake::IntakeConfig;
use crate::route::RouteConfig;
use crate::source::SourceConfig;
use crate::sweeper::SweeperConfig;
use crate::telemetry::LogConfig;
use crate::units::Span;
use node::{Node, Value};
use piece::Piece;

/// A whole configuration.
#[derive(Debug, Clone, JsonSchema)]
pub struct Config {
    pub inbox: InboxConfig,
    #[schemars(default)]
    pub http: HttpConfig,
    #[schemars(default)]
    pub intake: IntakeConfig,
    #[schemars(default)]
    pub sweeper: SweeperConfig,
    #[schemars(default)]
    pub node: NodeConfig,
    #[schemars(default)]
    pub log: LogConfig,
    #[schemars(default)]
    pub sources: BTreeMap<String, SourceConfig>,
    #[schemars(default)]
    pub engines: BTreeMap<String, EngineConfig>,
    /// In the order of the file, because the first route that matches takes a delivery.
    #[schemars(default, with = "BTreeMap<String, RouteConfig>")]
    pub routes: Vec<(String, RouteConfig)>,
}

/// `[node]`: this process among those that share the database.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// What people call it. Default: the host's name.
    pub name: String,
    /// How long batches under way may take after SIGTERM; then they are dropped, and delivered again.
    pub drain_timeout: Span,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            name: gethostname::gethostname().to_string_lossy().into_owned(),
            drain_timeout: Span::secs(30),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("the configuration {path:?} cannot be read: {cause}")]
    Unreadable {
        path: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("{0}")]
    Mistaken(Report),
}

/// The sections as far as they could be understood; what the cross-checks look at.
struct Draft<'a> {
    tree: &'a Node,
    inbox: Option<InboxConfig>,
    http: Option<HttpConfig>,
    intake: Option<IntakeConfig>,
    sweeper: Option<SweeperConfig>,
    node: Option<NodeConfig>,
    log: Option<LogConfig>,
    sources: Vec<(String, Option<SourceConfig>)>,
    engines: Vec<(String, Option<EngineConfig>)>,
    routes: Vec<(String, Option<RouteConfig>)>,
    /// Places that are reported already.
    replaced: Vec<Range<usize>>,
}

impl Config {
    /// Reads a file, with the process's environment. The report holds warnings only.
    pub fn load(path: &Path) -> Result<(Self, Report), Invalid> {
        Self::load_for(&SECTIONS, path)
    }

    /// For what uses these sections alone: where a variable of another one is not set, something is made up. So a
    /// command that needs the database alone can be called where nobody knows the brokers' passwords.
    pub fn load_for(sections: &[&str], path: &Path) -> Result<(Self, Report), Invalid> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|cause| Invalid::Unreadable {
            path: name.clone(),
            cause,
        })?;
        let parsed = Self::parse_for(sections, &name, &text, &environment);
        // What cannot be made up is said as if everything were used.
        let parsed = match parsed {
            Err(report) if !report.has_errors() => Self::parse(&name, &text, &environment),
            parsed => parsed,
        };
        parsed.map_err(Invalid::Mistaken)
    }

    /// Understands a text; `file` is what its mistakes call it. The report of a success holds warnings only.
    pub fn parse(
        file: &str,
        text: &str,
        environment: Environment<'_>,
    ) -> Result<(Self, Report), Report> {
        Self::parse_for(&SECTIONS, file, text, environment)
    }

    fn parse_for(
        sections: &[&str],
        file: &str,
        text: &str,
        environment: Environment<'_>,
    ) -> Result<(Self, Report), Report> {
        let mut mistakes = Vec::new();
        let mut tree = Node::parse(text, &mut mistakes);
        if !mistakes.is_empty() {
            // What follows a mistake of syntax may be anything: its meaning is not worth reporting.
            return Err(Report::new(file, text, mistakes));
        }
        tree.substitute(text, environment, sections, &mut mistakes);
        let draft = Draft::of(&tree, &mut mistakes);
        check::check(&draft, &mut mistakes);
        let report = Report::new(file, text, mistakes);
        if report.has_errors() {
            return Err(report);
        }
        match draft.finish() {
            Some(config) => Ok((config, report)),
            None => Err(report),
        }
    }
}

/// The one place that reads the process's environment.
#[expect(
    clippy::disallowed_methods,
    reason = "the environment is read here alone"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

const SECTIONS: [&str; 9] = [
    "inbox", "http", "intake", "sweeper", "node", "log", "sources", "engines", "routes",
];

impl<'a> Draft<'a> {
    fn of(tree: &'a Node, mistakes: &mut Vec<Mistake>) -> Self {
        for (key, _) in tree.table().unwrap_or_default() {
            if !SECTIONS.contains(&key.name.as_str()) {
                mistakes.push(
                    Mistake::error(key.span.clone(), format!("unknown section `{}`", key.name))
                        .help(failure::instead(&key.name, &SECTIONS)),
                );
            }
        }
        let mut replaced = tree.unknown();
        let inbox = tree.entry("inbox").is_some();
        if !inbox {
            mistakes.push(
                Mistake::error(0..0, "the section [inbox] is missing")
                    .help("[inbox]\nurl = \"postgres://user@host/database\""),
            );
        }
        Self {
            tree,
            inbox: inbox
                .then(|| section(tree, "inbox", mistakes, &mut replaced))
                .flatten(),
            http: section(tree, "http", mistakes, &mut replaced),
            intake: section(tree, "intake", mistakes, &mut replaced),
            sweeper: section(tree, "sweeper", mistakes, &mut replaced),
            node: section(tree, "node", mistakes, &mut replaced),
            log: section(tree, "log", mistakes, &mut replaced),
            sources: named(tree, "sources", mistakes, &mut replaced),
            engines: named(tree, "engines", mistakes, &mut replaced),
            routes: named(tree, "routes", mistakes, &mut replaced),
            replaced,
        }
    }

    /// Whether something at this path, or directly below it, has been reported already.
    fn is_replaced(&self, path: &[&str]) -> bool {
        let reported = |span: &Range<usize>| self.replaced.contains(span);
        let below = self.tree.at(path).and_then(|(_, node)| node.table());
        reported(&self.tree.locate(path))
            || below.is_some_and(|entries| {
                entries
                    .iter()
                    .any(|(key, node)| reported(&key.span) || reported(&node.span))
            })
    }

    /// `None` only when a section is missing, which has been reported.
    fn finish(self) -> Option<Config> {
        fn all<T, C: FromIterator<(String, T)>>(named: Vec<(String, Option<T>)>) -> Option<C> {
            let named = named.into_iter();
            named.map(|(name, config)| Some((name, config?))).collect()
        }
        Some(Config {
            inbox: self.inbox?,
            http: self.http?,
            intake: self.intake?,
            sweeper: self.sweeper?,
            node: self.node?,
            log: self.log?,
            sources: all(self.sources)?,
            engines: all(self.engines)?,
            routes: all(self.routes)?,
        })
    }
}

/// One section; when it is not in the file, its defaults.
fn section<T: DeserializeOwned>(
    tree: &Node,
    name: &str,
    mistakes: &mut Vec<Mistake>,
    replaced: &mut Vec<Range<usize>>,
) -> Option<T> {
    let absent = Node {
        span: 0..0,
        value: Value::Table(Vec::new()),
        written: None,
    };
    let (header, node) = match tree.entry(name) {
        Some((key, node)) => (key.span.clone(), node),
        // Its own mistakes would point at nothing.
        None => return piece::piece(&(0..0), &absent, &mut Vec::new()).config,
    };
    let Piece {
        config,
        replaced: places,
    } = piece::piece(&header, node, mistakes);
    replaced.extend(places);
    config
}

/// A section of named tables, each by itself.
fn named<T: DeserializeOwned>(
    tree: &Node,
    section: &str,
    mistakes: &mut Vec<Mistake>,
    replaced: &mut Vec<Range<usize>>,
) -> Vec<(String, Option<T>)> {
    let Some((key, node)) = tree.entry(section) else {
        return Vec::new();
    };
    let Some(entries) = node.table() else {
        mistakes.push(Mistake::error(
            key.span.clone(),
            format!("expected tables [{section}.NAME]"),
        ));
        return Vec::new();
    };
    let mut all = Vec::with_capacity(entries.len());
    for (key, node) in entries {
        let Piece {
            config,
            replaced: places,
        } = piece::piece(&key.span, node, mistakes);
        replaced.extend(places);
        all.push((key.name.clone(), config));
    }
    all
}
