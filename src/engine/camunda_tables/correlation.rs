//! Who waits for a message: the engine's own correlation query, for a batch at once.
//!
//! An execution matches by message name, business key of its instance, correlation keys (a variable of any
//! scope in the instance, equal in type and value, never a task's), instance id and tenant; it must be
//! active itself, while a suspended definition does not matter. Source of the rule: the engine's
//! `DefaultCorrelationHandler` and its execution query, checked against `POST /message` by tests.

use std::collections::{BTreeSet, HashMap};

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::Tx;
use super::tables::Tables;
use super::variables::VariableRows;
use crate::inbox::DbError;
use crate::message::{Correlation, Tenant};

/// Enough to tell one from many.
const CANDIDATES: i32 = 2;
/// With `broadcast`, all subscriptions of one instance may be meant.
const CANDIDATES_OF_BROADCAST: i32 = 100;

/// A subscription that matches, and what its job row needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub subscription: String,
    pub revision: i32,
    pub activity: Option<String>,
    pub instance: String,
    pub root: Option<String>,
    pub tenant: Option<String>,
    pub definition: String,
    pub definition_key: String,
    pub deployment: Option<String>,
    pub pending: Option<Pending>,
}

/// The claim that another message holds on the subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pending {
    /// Its job will run, or has run and is not confirmed yet.
    Busy,
    /// Its job will not run by itself.
    Blocked,
}

/// What one message asks for.
pub(super) struct Criteria<'a> {
    pub correlation: &'a Correlation,
    pub broadcast: bool,
}

/// The arrays of one statement.
#[derive(Default)]
struct Arrays {
    ord: Vec<i32>,
    name: Vec<String>,
    business_key: Vec<Option<String>>,
    instance: Vec<Option<String>>,
    tenant_given: Vec<bool>,
    tenant: Vec<Option<String>>,
    most: Vec<i32>,
}

/// The matching subscriptions of each message, at most [`CANDIDATES`]: by the index in `criteria`.
pub(super) async fn candidates(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
    criteria: &[Criteria<'_>],
) -> Result<HashMap<usize, Vec<Candidate>>, DbError> {
    // The most selective criterion leads; each statement has a plan of its own.
    let (mut by_instance, mut by_key, mut by_name) =
        (Arrays::default(), Arrays::default(), Arrays::default());
    let mut keys = VariableRows::default();
    for (index, wanted) in criteria.iter().enumerate() {
        let correlation = wanted.correlation;
        let arrays = if correlation.process_instance_id.is_some() {
            &mut by_instance
        } else if correlation.business_key.is_some() {
            &mut by_key
        } else {
            &mut by_name
        };
        arrays.add(index, wanted);
        for key in &correlation.correlation_keys {
            keys.add(index, key);
        }
    }
    let mut found: HashMap<usize, Vec<Candidate>> = HashMap::new();
    for (arrays, lead) in [
        (by_instance, "inst.id_ = m.instance"),
        (by_key, "inst.business_key_ = m.business_key"),
        (by_name, "evt.event_name_ = m.name"),
    ] {
        if arrays.ord.is_empty() {
            continue;
        }
        for row in fetch(tx, tables, engine, &arrays, &keys, lead).await? {
            let ord: i32 = row.get("ord");
            let index = usize::try_from(ord).expect("an index of ours");
            found.entry(index).or_default().push(Candidate::of(&row));
        }
    }
    Ok(found)
}

impl Arrays {
    fn add(&mut self, index: usize, wanted: &Criteria<'_>) {
        let correlation = wanted.correlation;
        self.ord
            .push(i32::try_from(index).expect("a batch has less than 2^31 messages"));
        self.name.push(correlation.message_name.clone());
        self.business_key.push(correlation.business_key.clone());
        self.instance.push(correlation.process_instance_id.clone());
        let (given, tenant) = tenant_columns(&correlation.tenant);
        self.tenant_given.push(given);
        self.tenant.push(tenant);
        self.most.push(if wanted.broadcast {
            CANDIDATES_OF_BROADCAST
        } else {
            CANDIDATES
        });
    }
}

/// Whether the tenant matters, and which it is; `None` is *without tenant*.
pub(super) fn tenant_columns(tenant: &Tenant) -> (bool, Option<String>) {
    match tenant {
        Tenant::Any => (false, None),
        Tenant::Without => (true, None),
        Tenant::Is(id) => (true, Some(id.clone())),
    }
}

async fn fetch(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
    arrays: &Arrays,
    keys: &VariableRows,
    lead: &str,
) -> Result<Vec<PgRow>, DbError> {
    // LATERAL keeps the plan a nested loop of index look-ups, one message at a time, whatever the
    // statistics say of tables that were empty when they were analysed.
    let text = "/* camunda_tables.candidates */
        SELECT m.ord, c.*
          FROM unnest($1::int4[], $2::text[], $3::text[], $4::text[], $5::bool[], $6::text[], $7::int4[])
               AS m(ord, name, business_key, instance, tenant_given, tenant, most)
         CROSS JOIN LATERAL (
               SELECT evt.id_, evt.rev_, evt.activity_id_, res.proc_inst_id_, inst.root_proc_inst_id_,
                      res.tenant_id_, res.proc_def_id_, p.key_, p.deployment_id_,
                      pending.row_id IS NOT NULL AS pending,
                      coalesce(j.retries_ = 0 OR j.suspension_state_ = 2, false) AS blocked
                 FROM {e}act_ru_event_subscr evt
                 JOIN {e}act_ru_execution res ON res.id_ = evt.execution_id_
                 JOIN {e}act_ru_execution inst ON inst.id_ = res.proc_inst_id_
                 JOIN {e}act_re_procdef p ON p.id_ = res.proc_def_id_
                 LEFT JOIN LATERAL (
                      SELECT c.row_id, c.job_id FROM {s}pending c
                       WHERE c.engine = $8 AND c.subscription_id = evt.id_
                      UNION ALL
                      SELECT c.row_id, c.job_id FROM {s}pending c
                       WHERE c.engine = $8 AND c.process_instance_id = res.proc_inst_id_
                         AND c.message_name = evt.event_name_
                      LIMIT 1) pending ON true
                 LEFT JOIN {e}act_ru_job j ON j.id_ = pending.job_id
                WHERE evt.event_type_ = 'message'
                  AND evt.event_name_ = m.name
                  AND {lead}
                  AND (m.business_key IS NULL OR inst.business_key_ = m.business_key)
                  AND (m.instance IS NULL OR inst.id_ = m.instance)
                  AND res.suspension_state_ = 1
                  AND (NOT m.tenant_given OR res.tenant_id_ IS NOT DISTINCT FROM m.tenant)
                  AND {keys}
                LIMIT m.most) c
         ORDER BY m.ord, c.id_";
    let text = text.replace("{lead}", lead).replace(
        "{keys}",
        if keys.is_empty() {
            "true"
        } else {
            // No key without a variable that equals it; a null equals whatever has no value.
            "NOT EXISTS (
                SELECT 1
                  FROM unnest($9::int4[], $10::text[], $11::text[], $12::int8[], $13::float8[], $14::text[])
                       AS k(ord, name, kind, long, double, text)
                 WHERE k.ord = m.ord
                   AND NOT EXISTS (
                       SELECT 1
                         FROM {e}act_ru_variable v
                        WHERE v.proc_inst_id_ = res.proc_inst_id_
                          AND v.task_id_ IS NULL
                          AND v.name_ = k.name
                          AND CASE k.kind
                              WHEN 'string' THEN v.type_ = k.kind AND v.text_ = k.text
                              WHEN 'double' THEN v.type_ = k.kind AND v.double_ = k.double
                              WHEN 'null' THEN v.text_ IS NULL AND v.text2_ IS NULL AND v.long_ IS NULL
                                           AND v.double_ IS NULL AND v.bytearray_id_ IS NULL
                              ELSE v.type_ = k.kind AND v.long_ = k.long
                              END))"
        },
    );
    let mut query = sqlx::query(tables.sql(&text))
        .bind(&arrays.ord)
        .bind(&arrays.name)
        .bind(&arrays.business_key)
        .bind(&arrays.instance)
        .bind(&arrays.tenant_given)
        .bind(&arrays.tenant)
        .bind(&arrays.most)
        .bind(engine);
    if !keys.is_empty() {
        query = query
            .bind(&keys.owner)
            .bind(&keys.name)
            .bind(&keys.kind)
            .bind(&keys.long)
            .bind(&keys.double)
            .bind(&keys.text);
    }
    query
        .fetch_all(&mut **tx)
        .await
        .map_err(DbError::of("engine match"))
}

impl Candidate {
    fn of(row: &PgRow) -> Self {
        let (pending, blocked): (bool, bool) = (row.get("pending"), row.get("blocked"));
        Self {
            subscription: row.get("id_"),
            revision: row.get::<Option<i32>, _>("rev_").unwrap_or(1),
            activity: row.get("activity_id_"),
            instance: row.get("proc_inst_id_"),
            root: row.get("root_proc_inst_id_"),
            tenant: row.get("tenant_id_"),
            definition: row.get("proc_def_id_"),
            definition_key: row.get("key_"),
            deployment: row.get("deployment_id_"),
            pending: pending.then_some(if blocked {
                Pending::Blocked
            } else {
                Pending::Busy
            }),
        }
    }
}

/// The definitions of all candidates.
pub(super) fn definitions_of<'a>(
    candidates: impl IntoIterator<Item = &'a Candidate>,
) -> BTreeSet<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| candidate.definition.as_str())
        .collect()
}
