//! The deployed models: read once each, kept for as long as their definitions are deployed.
//!
//! A definition's model never changes, so that what is known stays true; refresh brings what is new.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use sqlx::Row;

use super::Tx;
use super::model::{self, Process};
use super::tables::Tables;
use crate::inbox::DbError;

/// One process definition, as deployed.
pub(super) enum Definition {
    Known(Box<Process>),
    /// Its model cannot be read; every question about it is answered no, with this reason.
    Unreadable(String),
}

/// Which message names the deployed models have.
#[derive(Debug, Default)]
struct Names {
    known: HashSet<String>,
    /// Some name is an expression: it may be any name.
    any: bool,
    refreshed: bool,
}

/// Every definition that was looked at, by its id.
#[derive(Default)]
pub(super) struct Definitions {
    by_id: RwLock<HashMap<String, Arc<Definition>>>,
    names: RwLock<Names>,
}

impl Definitions {
    /// The definitions of these ids; those that are not known yet are read.
    pub async fn get(
        &self,
        tx: &mut Tx,
        tables: &Tables,
        ids: BTreeSet<&str>,
    ) -> Result<HashMap<String, Arc<Definition>>, DbError> {
        let unknown: Vec<String> = {
            let known = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
            ids.iter()
                .filter(|id| !known.contains_key(**id))
                .map(|id| (*id).to_owned())
                .collect()
        };
        self.read(tx, tables, &unknown).await?;
        let known = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        Ok(ids
            .into_iter()
            .filter_map(|id| known.get(id).map(|d| (id.to_owned(), Arc::clone(d))))
            .collect())
    }

    /// Reads what was deployed since, forgets what is gone.
    pub async fn refresh(&self, tx: &mut Tx, tables: &Tables) -> Result<(), DbError> {
        let deployed: HashSet<String> = sqlx::query_scalar(
            tables.sql("/* camunda_tables.definitions */ SELECT id_ FROM {e}act_re_procdef"),
        )
        .fetch_all(&mut **tx)
        .await
        .map_err(DbError::of("engine definitions"))?
        .into_iter()
        .collect();
        let unknown: Vec<String> = {
            let mut known = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
            known.retain(|id, _| deployed.contains(id));
            deployed
                .into_iter()
                .filter(|id| !known.contains_key(id))
                .collect()
        };
        self.read(tx, tables, &unknown).await?;
        let known = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        let mut names = Names {
            refreshed: true,
            ..Names::default()
        };
        for definition in known.values() {
            match &**definition {
                Definition::Known(process) => {
                    names.known.extend(process.message_names.iter().cloned());
                    names.any |= process.has_name_expressions;
                }
                Definition::Unreadable(_) => names.any = true,
            }
        }
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = names;
        Ok(())
    }

    /// Whether some deployed model may have a catcher or start event of this message name.
    pub fn may_know(&self, message_name: &str) -> bool {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        !names.refreshed || names.any || names.known.contains(message_name)
    }

    async fn read(&self, tx: &mut Tx, tables: &Tables, ids: &[String]) -> Result<(), DbError> {
        // A resource of a deployment may hold many definitions, and may be large: page by page.
        for page in ids.chunks(50) {
            let rows = sqlx::query(tables.sql(
                "/* camunda_tables.models */
                 SELECT p.id_, p.key_, b.bytes_
                   FROM {e}act_re_procdef p
                   LEFT JOIN {e}act_ge_bytearray b
                     ON b.deployment_id_ = p.deployment_id_ AND b.name_ = p.resource_name_
                  WHERE p.id_ = ANY($1)",
            ))
            .bind(page)
            .fetch_all(&mut **tx)
            .await
            .map_err(DbError::of("engine models"))?;
            let mut read: BTreeMap<String, Arc<Definition>> = BTreeMap::new();
            for row in rows {
                let (id, key): (String, String) = (row.get("id_"), row.get("key_"));
                let bytes: Option<Vec<u8>> = row.get("bytes_");
                read.insert(id, Arc::new(definition(&key, bytes.as_deref())));
            }
            let mut known = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
            known.extend(read);
        }
        Ok(())
    }
}

fn definition(key: &str, bpmn: Option<&[u8]>) -> Definition {
    let Some(bpmn) = bpmn else {
        return Definition::Unreadable(format!("the model of {key:?} is not in its deployment"));
    };
    match model::read(bpmn) {
        Err(error) => {
            Definition::Unreadable(format!("the model of {key:?} cannot be read: {error}"))
        }
        Ok(processes) => processes
            .into_iter()
            .find(|process| process.key == key)
            .map_or_else(
                || Definition::Unreadable(format!("there is no process {key:?} in its model")),
                |process| Definition::Known(Box::new(process)),
            ),
    }
}
