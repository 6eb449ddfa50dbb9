//! From the configuration to the parts: the registry of databases, brokers and engines.

use std::sync::Arc;

use anyhow::bail;
use secrecy::ExposeSecret;

use crate::config::Config;
use crate::engine::camunda_tables::CamundaTables;
use crate::engine::sql::{SqlOnPostgres, SqlOnSqlite};
use crate::engine::{Engine, Prospect, Wish};
use crate::finding::{Finding, Mistake};
use crate::http::{Plan, PlannedEngine, PlannedRoute, PlannedSource};
use crate::inbox::postgres::PostgresInbox;
use crate::inbox::sqlite::SqliteInbox;
use crate::inbox::{DbError, Inbox, InboxConfig, NodeIdentity};
use crate::route::{Outline, Route, Routes};
use crate::source::kafka::Kafka;
use crate::source::rabbitmq::Rabbitmq;
use crate::source::{Positions, Source};

/// An inbox on one of the databases.
pub enum AnyInbox {
    Postgres(PostgresInbox),
    Sqlite(SqliteInbox),
}

/// Opens no connection yet, so that a daemon may start before its database.
///
/// # Errors
/// The URL is of no database that Sluice knows, or cannot be read.
pub fn open_inbox(config: &InboxConfig, node: &str) -> anyhow::Result<AnyInbox> {
    let name = format!("sluice/{node}");
    match config.url.expose_secret().split(':').next() {
        Some("postgres" | "postgresql") => {
            Ok(AnyInbox::Postgres(PostgresInbox::connect(config, &name)?))
        }
        Some("sqlite") => Ok(AnyInbox::Sqlite(SqliteInbox::connect(config)?)),
        _ => bail!("inbox.url: expected postgres://… or sqlite:…"),
    }
}

/// The engines that can take part in this inbox's transactions.
pub trait Engines: Inbox {
    /// # Errors
    /// An engine that this database does not carry.
    fn engines(&self, config: &Config) -> anyhow::Result<Vec<Arc<dyn Engine<Self::Tx>>>>;
}

impl Engines for PostgresInbox {
    fn engines(&self, config: &Config) -> anyhow::Result<Vec<Arc<dyn Engine<Self::Tx>>>> {
        let mut engines: Vec<Arc<dyn Engine<Self::Tx>>> = Vec::new();
        for (name, engine) in &config.engines {
            if let Some(tables) = &engine.camunda_tables {
                engines.push(Arc::new(CamundaTables::new(
                    name,
                    tables.clone(),
                    &config.inbox.schema,
                )));
            }
            if let Some(sql) = &engine.sql {
                let built = SqlOnPostgres::new(name, sql);
                engines.push(Arc::new(built.map_err(|what| mistaken(name, &what))?));
            }
        }
        Ok(engines)
    }
}

impl Engines for SqliteInbox {
    fn engines(&self, config: &Config) -> anyhow::Result<Vec<Arc<dyn Engine<Self::Tx>>>> {
        let mut engines: Vec<Arc<dyn Engine<Self::Tx>>> = Vec::new();
        for (name, engine) in &config.engines {
            if engine.camunda_tables.is_some() {
                bail!("engine {name}: its tables cannot be in SQLite");
            }
            if let Some(sql) = &engine.sql {
                let built = SqlOnSqlite::new(name, sql);
                engines.push(Arc::new(built.map_err(|what| mistaken(name, &what))?));
            }
        }
        Ok(engines)
    }
}

/// What the configuration's check refuses before.
fn mistaken(engine: &str, mistake: &Mistake) -> anyhow::Error {
    anyhow::anyhow!("engine {engine}: {}: {}", mistake.path, mistake.what)
}

/// Every configured source; `positions` is what the inbox knows of how far they have come, for those that read.
///
/// # Errors
/// A table that is missing, which the configuration's check refuses before.
pub fn sources(
    config: &Config,
    routes: &Routes,
    identity: &NodeIdentity,
    positions: Option<&Arc<dyn Positions>>,
) -> anyhow::Result<Vec<Arc<dyn Source>>> {
    let client = format!("sluice {} {}", identity.name, identity.incarnation.simple());
    config
        .sources
        .iter()
        .map(|(name, source)| {
            let shared = Arc::from(name.as_str());
            let ordered = routes.ordered(name);
            let source: Arc<dyn Source> = match (&source.rabbitmq, &source.kafka) {
                (Some(rabbitmq), _) => {
                    Arc::new(Rabbitmq::new(shared, rabbitmq.clone(), ordered, &client))
                }
                (None, Some(kafka)) => {
                    let kafka = Kafka::new(shared, (**kafka).clone(), ordered, &client)
                        .with_key_retention(config.inbox.retention.key);
                    Arc::new(match positions {
                        Some(positions) => kafka.with_positions(Arc::clone(positions)),
                        None => kafka,
                    })
                }
                (None, None) => bail!("source {name}: expected a table rabbitmq or kafka"),
            };
            Ok(source)
        })
        .collect()
}

/// Every configured route.
pub fn routes(config: &Config) -> Routes {
    Routes::new(
        config
            .sources
            .iter()
            .map(|(name, source)| (name.clone(), source.on_unrouted)),
        config
            .routes
            .iter()
            .map(|(name, route)| Route::new(name, route.clone())),
    )
    .with_content_limit(config.intake.max_content_bytes.bytes())
}

/// What the routes will ask of this engine, as far as the configuration tells.
pub fn prospects(config: &Config, routes: &Routes, engine: &str) -> Vec<Prospect> {
    let of_engine = routes.iter().filter(|route| route.engine == engine);
    of_engine
        .flat_map(|route| {
            let route_name = route.name.clone();
            wishes(config, route).into_iter().map(move |wish| Prospect {
                route: route_name.clone(),
                wish,
            })
        })
        .collect()
}

fn wishes(config: &Config, route: &Route) -> Vec<Wish> {
    let name = route.literal_message_name().map(str::to_owned);
    let correlate = |name, payload, keys| Wish::Correlate {
        name,
        payload,
        keys,
        broadcast: route.broadcast,
        or_start: route.start_if_nobody,
    };
    match route.outline() {
        Outline::Convention => {
            let source = config.sources.get(&route.source);
            match source.and_then(|source| source.kafka.as_ref()) {
                // A record's topic is the message's name.
                Some(kafka) => kafka
                    .topics
                    .iter()
                    .map(|topic| correlate(Some(topic.clone()), true, false))
                    .collect(),
                None => vec![correlate(None, true, false)],
            }
        }
        Outline::Correlate { payload, keys } => vec![correlate(name, payload, keys)],
        Outline::StartByMessage => vec![Wish::StartByMessage { name }],
        Outline::StartByKey { literal } => vec![Wish::StartByKey { key: literal }],
        Outline::Apply => vec![Wish::Apply],
    }
}

/// What an engine is, and what will become of its routes' messages.
pub struct Seen {
    pub engine: Vec<Finding>,
    pub routes: Vec<(String, Finding)>,
}

/// Looks at an engine in a transaction of its own.
///
/// # Errors
/// The database's.
pub async fn look_at<I: Inbox>(
    inbox: &I,
    engine: &dyn Engine<I::Tx>,
    prospects: &[Prospect],
) -> Result<Seen, DbError> {
    let mut tx = inbox.begin().await?;
    let seen = Seen {
        engine: engine.inspect(&mut tx).await?,
        routes: engine.foresee(&mut tx, prospects).await?,
    };
    inbox.commit(tx).await?;
    Ok(seen)
}

/// What the status page says about the configuration.
pub fn plan(config: &Config) -> Plan {
    Plan {
        sources: config
            .sources
            .iter()
            .map(|(name, source)| {
                let (kind, detail) = match (&source.rabbitmq, &source.kafka) {
                    (Some(rabbitmq), _) => ("rabbitmq", format!("queue {}", rabbitmq.queue)),
                    (None, Some(kafka)) => (
                        "kafka",
                        format!("{} as group {}", kafka.topics.join(", "), kafka.group_id),
                    ),
                    (None, None) => ("none", String::new()),
                };
                PlannedSource {
                    name: name.clone(),
                    kind: kind.to_owned(),
                    detail,
                }
            })
            .collect(),
        routes: config
            .routes
            .iter()
            .map(|(name, route)| PlannedRoute {
                name: name.clone(),
                source: route.source.clone(),
                engine: route.engine.clone(),
            })
            .collect(),
        engines: config
            .engines
            .iter()
            .map(|(name, engine)| PlannedEngine {
                name: name.clone(),
                kind: if engine.sql.is_some() {
                    "sql"
                } else {
                    "camunda_tables"
                }
                .to_owned(),
                detail: String::new(),
                max_backlog: engine
                    .camunda_tables
                    .as_ref()
                    .map(|tables| u64::from(tables.max_backlog)),
            })
            .collect(),
    }
}
