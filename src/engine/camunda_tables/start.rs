//! Starting an instance by rows (S1): what the engine itself holds after an asynchronous start.
//!
//! Here is what can be started, and what was started before. What is written is the instance's row, its
//! variables and its `async-continuation` / `process-start` job ([`rows`]), and the history that the level
//! asks for ([`history`]). The job's handler calls the engine's process start directly and never asks
//! whether the model is asynchronous there, so that it works for any start event; it does not create the
//! subscriptions and timers of process-level event subprocesses, which is why such models are refused.
//! The instance's id is derived from the message's identity: the primary keys of `ACT_RU_EXECUTION` and
//! `ACT_HI_PROCINST` make a second start impossible even after the inbox has forgotten the key.

mod history;
pub(super) mod rows;

use std::collections::{HashMap, HashSet};

use sqlx::Row;

use super::Tx;
use super::correlation::tenant_columns;
use super::tables::Tables;
use crate::inbox::DbError;
use crate::message::{Hash, StartBy, Tenant};

/// A start event that the message may start at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StartCandidate {
    pub definition: String,
    pub definition_key: String,
    pub deployment: Option<String>,
    pub tenant: Option<String>,
    pub suspended: bool,
    /// Known from the subscription of a message start; a none start's is read from the model.
    pub activity: Option<String>,
}

/// What one message asks to be started.
pub(super) struct Wanted<'a> {
    pub by: &'a StartBy,
    pub tenant: &'a Tenant,
}

/// The definitions that each may start, at most two: by the index in `wanted`.
pub(super) async fn candidates(
    tx: &mut Tx,
    tables: &Tables,
    wanted: &[Wanted<'_>],
) -> Result<HashMap<usize, Vec<StartCandidate>>, DbError> {
    let mut found: HashMap<usize, Vec<StartCandidate>> = HashMap::new();
    // By message: only the latest version of a key and tenant has the subscription; a suspended
    // definition is silently passed over, as the engine does.
    let by_message = "/* camunda_tables.message_starts */
        SELECT m.ord, c.*
          FROM unnest($1::int4[], $2::text[], $3::bool[], $4::text[]) AS m(ord, name, tenant_given, tenant)
         CROSS JOIN LATERAL (
               SELECT p.id_, p.key_, p.deployment_id_, p.tenant_id_, false AS suspended, evt.activity_id_
                 FROM (SELECT x.configuration_, x.activity_id_, x.event_type_, x.event_name_, x.tenant_id_
                         FROM {e}act_ru_event_subscr x WHERE x.execution_id_ IS NULL OFFSET 0) evt
                CROSS JOIN LATERAL (
                      SELECT x.id_, x.key_, x.deployment_id_, x.tenant_id_, x.suspension_state_
                        FROM {e}act_re_procdef x WHERE x.id_ = evt.configuration_ OFFSET 0) p
                WHERE evt.event_type_ = 'message' AND evt.event_name_ = m.name
                  AND p.suspension_state_ = 1
                  AND (NOT m.tenant_given OR evt.tenant_id_ IS NOT DISTINCT FROM m.tenant)
                LIMIT 2) c";
    // By key: the latest version of each tenant; several tenants are ambiguous, as for the engine.
    let by_key = "/* camunda_tables.key_starts */
        SELECT m.ord, c.*
          FROM unnest($1::int4[], $2::text[], $3::bool[], $4::text[]) AS m(ord, name, tenant_given, tenant)
         CROSS JOIN LATERAL (
               SELECT DISTINCT ON (coalesce(p.tenant_id_, ''))
                      p.id_, p.key_, p.deployment_id_, p.tenant_id_,
                      p.suspension_state_ <> 1 AS suspended, NULL::text AS activity_id_
                 FROM {e}act_re_procdef p
                WHERE p.key_ = m.name
                  AND (NOT m.tenant_given OR p.tenant_id_ IS NOT DISTINCT FROM m.tenant)
                ORDER BY coalesce(p.tenant_id_, ''), p.version_ DESC
                LIMIT 2) c";
    for (text, of_message) in [(by_message, true), (by_key, false)] {
        let (mut ord, mut names) = (Vec::new(), Vec::new());
        let (mut given, mut tenants) = (Vec::new(), Vec::new());
        for (index, wanted) in wanted.iter().enumerate() {
            let name = match wanted.by {
                StartBy::Message(name) if of_message => name,
                StartBy::DefinitionKey(key) if !of_message => key,
                StartBy::Message(_) | StartBy::DefinitionKey(_) => continue,
            };
            ord.push(i32::try_from(index).expect("a batch has less than 2^31 messages"));
            names.push(name.clone());
            let (tenant_given, tenant) = tenant_columns(wanted.tenant);
            given.push(tenant_given);
            tenants.push(tenant);
        }
        if ord.is_empty() {
            continue;
        }
        let rows = sqlx::query(tables.sql(text))
            .bind(&ord)
            .bind(&names)
            .bind(&given)
            .bind(&tenants)
            .fetch_all(&mut **tx)
            .await
            .map_err(DbError::of("engine start match"))?;
        for row in rows {
            let ord: i32 = row.get("ord");
            let index = usize::try_from(ord).expect("an index of ours");
            found.entry(index).or_default().push(StartCandidate {
                definition: row.get("id_"),
                definition_key: row.get("key_"),
                deployment: row.get("deployment_id_"),
                tenant: row.get("tenant_id_"),
                suspended: row.get::<Option<bool>, _>("suspended").unwrap_or(false),
                activity: row.get("activity_id_"),
            });
        }
    }
    Ok(found)
}

/// The instance's id: a UUID of version 8 over inbox, engine, scope, dedup key and conflict.
///
/// Two inboxes beside one engine may well call engine, route and keys alike. The derivation outlives a
/// version of Sluice and has golden vectors.
pub(super) fn instance_id(inbox_schema: &str, engine: &str, identity: &Hash) -> String {
    let parts = [
        b"instance",
        inbox_schema.as_bytes(),
        engine.as_bytes(),
        &identity.0,
    ];
    let hash = Hash::of(&parts);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.0[..16]);
    uuid::Uuid::new_v8(bytes).to_string()
}

/// Which of these instances exist already, or existed.
pub(super) async fn already_started(
    tx: &mut Tx,
    tables: &Tables,
    instances: &[String],
) -> Result<HashSet<String>, DbError> {
    if instances.is_empty() {
        return Ok(HashSet::new());
    }
    let started = sqlx::query_scalar(tables.sql(
        "/* camunda_tables.already_started */
         SELECT i.id
           FROM unnest($1::text[]) AS i(id)
          WHERE (SELECT true FROM {e}act_ru_execution x WHERE x.id_ = i.id)
             OR (SELECT true FROM {e}act_hi_procinst h WHERE h.id_ = i.id)",
    ))
    .bind(instances)
    .fetch_all(&mut **tx)
    .await
    .map_err(DbError::of("engine started instances"))?;
    Ok(started.into_iter().collect())
}

/// A start of ours whose job has not run yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PendingStart {
    pub tenant: Option<String>,
    /// Its job will not run by itself.
    pub blocked: bool,
}

/// The starts of ours that have not run yet, by those of these business keys that have some.
pub(super) async fn pending_starts(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
    business_keys: &[&str],
) -> Result<HashMap<String, Vec<PendingStart>>, DbError> {
    if business_keys.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(tables.sql(
        "/* camunda_tables.pending_starts */
         SELECT s.business_key, nullif(s.tenant_id, '') AS tenant,
                bool_and(j.retries_ = 0 OR j.suspension_state_ = 2) AS blocked
           FROM {s}pending_start s
          CROSS JOIN LATERAL (
                SELECT x.retries_, x.suspension_state_ FROM {e}act_ru_job x
                 WHERE x.id_ = s.job_id OFFSET 0) j
          WHERE s.engine = $1 AND s.business_key = ANY($2)
          GROUP BY s.business_key, s.tenant_id",
    ))
    .bind(engine)
    .bind(business_keys)
    .fetch_all(&mut **tx)
    .await
    .map_err(DbError::of("pending starts"))?;
    let mut pending: HashMap<String, Vec<PendingStart>> = HashMap::new();
    for row in rows {
        let blocked: Option<bool> = row.get("blocked");
        let start = PendingStart {
            tenant: row.get("tenant"),
            blocked: blocked.unwrap_or(false),
        };
        let key: String = row.get("business_key");
        pending.entry(key).or_default().push(start);
    }
    Ok(pending)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden vectors: an instance must have the same id whatever version of Sluice starts it.
    #[test]
    fn an_instance_id_is_derived_from_the_message_alone() {
        let identity = Hash::of(&[b"orders", &[7; 32], b""]);
        let id = instance_id("sluice", "shop", &identity);
        assert_eq!(id, instance_id("sluice", "shop", &identity));
        assert_ne!(id, instance_id("sluice", "other", &identity));
        assert_ne!(id, instance_id("other", "shop", &identity));
        assert_eq!(id.len(), 36);
        assert_eq!(id, "2b3b2668-8847-8299-8195-86ac4ebde052");
    }
}
