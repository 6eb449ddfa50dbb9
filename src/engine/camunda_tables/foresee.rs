//! What will become of a route's messages, as far as the deployed models and the history level tell.
//!
//! Nothing here decides anything: it asks the models what [`super::look`] will ask them with a message in
//! hand, and says it beforehand, to the person who configures a route or deploys a model.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sqlx::Row;

use super::definitions::Definition;
use super::model::{Process, Refusal};
use super::schema::{EngineSchema, History};
use super::{CamundaTables, Tx};
use crate::engine::{Prospect, Wish};
use crate::finding::{Finding, Level};
use crate::inbox::DbError;

/// So many definitions are named for one route; the rest is counted.
const NAMED: usize = 8;

/// A definition that messages may meet: the latest version of its key, or one with instances.
struct Deployed {
    key: String,
    version: i32,
    tenant: Option<String>,
    latest: bool,
    suspended: bool,
    definition: Arc<Definition>,
}

/// What is deployed, and what can be proven of it.
struct Outlook<'a> {
    deployed: &'a [Deployed],
    history: History,
}

pub(super) async fn foresee(
    engine: &CamundaTables,
    tx: &mut Tx,
    prospects: &[Prospect],
) -> Result<Vec<(String, Finding)>, DbError> {
    let schema = EngineSchema::read(tx, &engine.tables, &engine.config).await?;
    if schema.usable().is_err() {
        // Which `inspect` says.
        return Ok(Vec::new());
    }
    let deployed = deployed(engine, tx).await?;
    let outlook = Outlook {
        deployed: &deployed,
        history: schema.history,
    };
    Ok(prospects
        .iter()
        .flat_map(|prospect| {
            let findings = outlook.of(&prospect.wish);
            let with_route = |finding| (prospect.route.clone(), finding);
            findings.into_iter().map(with_route)
        })
        .collect())
}

/// The latest version of each definition, and older ones that have instances.
///
/// Whether they have is asked as a range, of which the planner believes that it is small: for an old
/// version without instances it would read all executions to find none.
async fn deployed(engine: &CamundaTables, tx: &mut Tx) -> Result<Vec<Deployed>, DbError> {
    let rows = sqlx::query(engine.tables.sql(
        "/* camunda_tables.deployed */
         SELECT p.id_, p.key_, p.version_, p.tenant_id_, p.latest, p.suspension_state_ <> 1 AS suspended
           FROM (SELECT d.*, d.version_ = max(d.version_)
                             OVER (PARTITION BY d.key_, coalesce(d.tenant_id_, '')) AS latest
                   FROM {e}act_re_procdef d) p
          WHERE p.latest
             OR (SELECT true FROM {e}act_ru_execution x
                  WHERE x.proc_def_id_ BETWEEN p.id_ AND p.id_ LIMIT 1)
          ORDER BY p.key_, p.tenant_id_, p.version_ DESC",
    ))
    .fetch_all(&mut **tx)
    .await
    .map_err(DbError::of("engine definitions"))?;
    let ids: Vec<String> = rows.iter().map(|row| row.get("id_")).collect();
    let ids: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    let models: HashMap<String, Arc<Definition>> =
        engine.definitions.get(tx, &engine.tables, ids).await?;
    let known = |row: &sqlx::postgres::PgRow| {
        // A definition that was undeployed in between is of no interest any more.
        let definition = models.get(&row.get::<String, _>("id_"))?;
        Some(Deployed {
            key: row.get("key_"),
            version: row.get("version_"),
            tenant: row.get("tenant_id_"),
            latest: row.get("latest"),
            suspended: row.get("suspended"),
            definition: Arc::clone(definition),
        })
    };
    Ok(rows.iter().filter_map(known).collect())
}

/// What a correlation's messages ask for.
#[derive(Clone, Copy)]
struct Carried {
    payload: bool,
    keys: bool,
    broadcast: bool,
}

impl Outlook<'_> {
    fn of(&self, wish: &Wish) -> Vec<Finding> {
        match wish {
            Wish::Correlate { name: None, .. } | Wish::StartByMessage { name: None } => {
                vec![Finding::info(
                    "the message name comes with each delivery: what becomes of it is seen then",
                )]
            }
            Wish::StartByKey { key: None } => vec![Finding::info(
                "the definition's key comes with each delivery: what becomes of it is seen then",
            )],
            Wish::Correlate {
                name: Some(name),
                payload,
                keys,
                broadcast,
                or_start,
            } => {
                let carried = Carried {
                    payload: *payload,
                    keys: *keys,
                    broadcast: *broadcast,
                };
                let mut found = self.catchers(name, carried);
                if *or_start {
                    found.extend(self.message_starts(name));
                }
                self.or_unknown(name, found)
            }
            Wish::StartByMessage { name: Some(name) } => {
                self.or_unknown(name, self.message_starts(name))
            }
            Wish::StartByKey { key: Some(key) } => self.key_starts(key),
            Wish::Apply => vec![Finding::error(
                "a route to this engine correlates or starts: every message would be dead as `refused`",
            )],
        }
    }

    /// Who may wait for the name, and how a message gets there.
    fn catchers(&self, name: &str, carried: Carried) -> Vec<Finding> {
        let mut said: BTreeMap<&str, String> = BTreeMap::new();
        let mut found = Vec::new();
        for deployed in self.deployed {
            let Definition::Known(process) = &*deployed.definition else {
                continue;
            };
            let Some(way) = self.way(process, name, carried) else {
                continue;
            };
            let text = way.text(name, self.proof(&way));
            // An older version is worth a line when its answer is another.
            if said.get(deployed.key.as_str()) == Some(&text) {
                continue;
            }
            let line = format!("{}: {text}", deployed.name());
            found.push(match self.proof(&way) {
                Some(_) => Finding::info(line),
                None => Finding::warning(line),
            });
            said.insert(&deployed.key, text);
        }
        shortened(found)
    }

    /// `None`: no instance of the process waits for the name.
    fn way(&self, process: &Process, name: &str, carried: Carried) -> Option<Way> {
        if !process.catches(name) {
            return None;
        }
        if carried.broadcast {
            return Some(Way::All);
        }
        let Err(refusal) = process.carries_one(name, carried.keys) else {
            return Some(Way::One);
        };
        Some(if carried.payload {
            Way::Refused(format!(
                "a payload can only go to the one catcher of a name: {refusal}"
            ))
        } else if self.history == History::Full {
            Way::Chosen
        } else {
            Way::Refused(format!(
                "history level full is needed to prove it: {refusal}"
            ))
        })
    }

    /// What will prove the effect; `None`: nothing.
    fn proof(&self, way: &Way) -> Option<&'static str> {
        match way {
            Way::One | Way::All if self.history.proves() => Some("a receipt"),
            Way::Chosen => Some("the job's log"),
            Way::One | Way::All | Way::Refused(_) => None,
        }
    }

    fn message_starts(&self, name: &str) -> Vec<Finding> {
        let mut found = Vec::new();
        for deployed in self.deployed.iter().filter(|deployed| deployed.latest) {
            let Definition::Known(process) = &*deployed.definition else {
                continue;
            };
            match process.start_by_message(name) {
                Err(Refusal::NoMessageStart { .. }) => {}
                answer => found.push(deployed.start(answer.map(|event| event.id))),
            }
        }
        shortened(found)
    }

    fn key_starts(&self, key: &str) -> Vec<Finding> {
        let of_key = |deployed: &&Deployed| deployed.latest && deployed.key == key;
        let found: Vec<_> = self
            .deployed
            .iter()
            .filter(of_key)
            .map(|deployed| match &*deployed.definition {
                Definition::Known(process) => {
                    deployed.start(process.start_by_key().map(|event| event.id))
                }
                Definition::Unreadable(why) => Finding::error(why.clone()),
            })
            .collect();
        if found.is_empty() {
            return vec![Finding::warning(format!(
                "no definition has the key {key:?}: messages wait as `unknown_message` until one is deployed"
            ))];
        }
        shortened(found)
    }

    fn or_unknown(&self, name: &str, found: Vec<Finding>) -> Vec<Finding> {
        if !found.is_empty() {
            return found;
        }
        let models = || {
            self.deployed.iter().filter_map(|deployed| {
                let Definition::Known(process) = &*deployed.definition else {
                    return None;
                };
                Some((deployed, &**process))
            })
        };
        let unreadable = self
            .deployed
            .iter()
            .find_map(|deployed| match &*deployed.definition {
                Definition::Unreadable(why) => Some(why),
                Definition::Known(_) => None,
            });
        let only_starts = models().find(|(_, process)| process.message_names.contains(name));
        let any_name = models().find(|(_, process)| process.has_name_expressions);
        let text = if let Some((deployed, _)) = only_starts {
            format!(
                "a message {name:?} starts {}, and no instance waits for it: messages wait as \
                 `no_subscription` (`on_no_match = \"start\"` would start one)",
                deployed.name()
            )
        } else if let Some((deployed, _)) = any_name {
            format!(
                "no deployed model names a message {name:?}; {} waits for one whose name is an expression, \
                 and could only be given it without a payload (B)",
                deployed.name()
            )
        } else {
            let but = unreadable.map_or_else(String::new, |why| format!(" (but {why})"));
            format!(
                "no deployed model waits for a message {name:?}{but}: messages wait as `unknown_message` \
                 until one does"
            )
        };
        vec![Finding::warning(text)]
    }
}

/// How a message reaches a process that waits for it.
enum Way {
    /// Variant C, by its name: with variables, history, conditional events.
    One,
    /// The same to every subscription of the name in the instance.
    All,
    /// Variant B, to one subscription among several.
    Chosen,
    Refused(String),
}

impl Way {
    fn text(&self, name: &str, proof: Option<&str>) -> String {
        let how = match self {
            Self::One => "a correlation job carries it, with its payload (C)",
            Self::All => {
                "a correlation job carries it to every subscription of the name in the instance (C, broadcast)"
            }
            Self::Chosen => {
                "an event job carries it to the one subscription that matches, without a payload (B)"
            }
            Self::Refused(why) => {
                return format!(
                    "waits for {name:?}, but messages would wait as `unsupported`: {why}"
                );
            }
        };
        let proof = match proof {
            Some(proof) => format!("proven by {proof}"),
            None => "not to be proven once the instance has ended (unproven = \"assume_done\")"
                .to_owned(),
        };
        format!("waits for {name:?}: {how}; {proof}")
    }
}

impl Deployed {
    /// `order (version 3, tenant acme)`
    fn name(&self) -> String {
        let Self { key, version, .. } = self;
        match &self.tenant {
            Some(tenant) => format!("{key} (version {version}, tenant {tenant})"),
            None => format!("{key} (version {version})"),
        }
    }

    fn start(&self, event: Result<String, Refusal>) -> Finding {
        let name = self.name();
        match event {
            Ok(_) if self.suspended => Finding::warning(format!(
                "{name} would be started, but it is suspended: messages wait until it is activated"
            )),
            Ok(event) => Finding::info(format!(
                "{name} is started at {event:?}; proven by the instance itself, which is in our commit"
            )),
            Err(refusal) => Finding::error(format!(
                "{name} cannot be started by rows, every message would be dead as `refused`: {refusal}"
            )),
        }
    }
}

/// The worst first, and no more than can be read.
fn shortened(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by_key(|finding| match finding.level {
        Level::Error => 0,
        Level::Warning => 1,
        Level::Info => 2,
    });
    let more = findings.len().saturating_sub(NAMED);
    if more > 0 {
        findings.truncate(NAMED);
        findings.push(Finding::info(format!("and {more} more definitions")));
    }
    findings
}
