//! Who waits for a message: the engine's own correlation query, for a batch at once.
//!
//! An execution matches by message name, business key of its instance, correlation keys (a variable of any
//! scope in the instance, equal in type and value, never a task's), instance id and tenant; it must be
//! active itself, while a suspended definition does not matter. Source of the rule: the engine's
//! `DefaultCorrelationHandler` and its execution query, checked against `POST /message` by tests.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::Tx;
use super::tables::Tables;
use super::variables::VariableRows;
use crate::inbox::DbError;
use crate::message::{Correlation, Tenant, Value, Variable};

/// Enough to tell one from many.
const CANDIDATES: i64 = 2;

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
    /// Every subscription of the instance is meant: one candidate stands for all of them.
    pub broadcast: bool,
}

/// Which criterion leads: the most selective one that the message has.
///
/// The order of the look-ups is not left to the planner: of a table that was empty when it was analysed
/// it knows nothing, and would as soon begin with a name that a million instances wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lead {
    Instance,
    BusinessKey,
    /// All variables of the key's name are read once for the whole batch; the engine has no index on
    /// values, and reads them for each message.
    Variable,
    Name,
}

impl Lead {
    fn of(correlation: &Correlation) -> Self {
        if correlation.process_instance_id.is_some() {
            Self::Instance
        } else if correlation.business_key.is_some() {
            Self::BusinessKey
        } else if leading_key(correlation).is_some() {
            Self::Variable
        } else {
            Self::Name
        }
    }

    /// `evt`, `res` and `inst`, each found by an index from what the one before it gives.
    fn tables(self) -> String {
        if self == Self::Name {
            return format!(
                "{SUBSCRIPTION_OF_NAME} {EXECUTION_OF_SUBSCRIPTION} {INSTANCE_OF_EXECUTION}"
            );
        }
        let lead = match self {
            Self::Variable => {
                "(SELECT l.instance FROM lead l WHERE l.ord = m.ord OFFSET 0) l CROSS JOIN LATERAL"
            }
            _ => "",
        };
        let criterion = match self {
            Self::Variable => "x.id_ = l.instance",
            Self::BusinessKey => "x.business_key_ = m.business_key",
            Self::Instance | Self::Name => "x.id_ = m.instance",
        };
        format!(
            "{lead} (SELECT x.id_, x.business_key_, x.root_proc_inst_id_
                       FROM {{e}}act_ru_execution x WHERE {criterion} OFFSET 0) inst
             {EXECUTIONS_OF_INSTANCE} {SUBSCRIPTIONS_OF_EXECUTION}"
        )
    }
}

// OFFSET 0 keeps the planner from turning the order round.
// A range of one name is believed to be small: most subscriptions may have the same, and to look for one
// with another the planner would read them all.
const SUBSCRIPTION_OF_NAME: &str = "(
             SELECT x.id_, x.rev_, x.activity_id_, x.event_type_, x.event_name_, x.execution_id_
               FROM {e}act_ru_event_subscr x WHERE x.event_name_ BETWEEN m.name AND m.name) evt";
const EXECUTION_OF_SUBSCRIPTION: &str = "CROSS JOIN LATERAL (
             SELECT x.id_, x.proc_inst_id_, x.proc_def_id_, x.suspension_state_, x.tenant_id_
               FROM {e}act_ru_execution x WHERE x.id_ = evt.execution_id_ OFFSET 0) res";
const INSTANCE_OF_EXECUTION: &str = "CROSS JOIN LATERAL (
             SELECT x.id_, x.business_key_, x.root_proc_inst_id_
               FROM {e}act_ru_execution x WHERE x.id_ = res.proc_inst_id_ OFFSET 0) inst";
const EXECUTIONS_OF_INSTANCE: &str = "CROSS JOIN LATERAL (
             SELECT x.id_, x.proc_inst_id_, x.proc_def_id_, x.suspension_state_, x.tenant_id_
               FROM {e}act_ru_execution x WHERE x.proc_inst_id_ = inst.id_ OFFSET 0) res";
const SUBSCRIPTIONS_OF_EXECUTION: &str = "CROSS JOIN LATERAL (
             SELECT x.id_, x.rev_, x.activity_id_, x.event_type_, x.event_name_
               FROM {e}act_ru_event_subscr x WHERE x.execution_id_ = res.id_ OFFSET 0) evt";

/// The key that finds instances by itself; a null equals whatever has no value and finds too many.
fn leading_key(correlation: &Correlation) -> Option<&Variable> {
    correlation
        .correlation_keys
        .iter()
        .find(|key| key.value != Value::Null)
}

/// The messages of one statement, and their correlation keys.
#[derive(Default)]
struct Arrays {
    ord: Vec<i32>,
    name: Vec<String>,
    business_key: Vec<Option<String>>,
    instance: Vec<Option<String>>,
    tenant_given: Vec<bool>,
    tenant: Vec<Option<String>>,
    /// Where the message's keys stand in `keys`, counted from 1, the last included.
    first_key: Vec<i32>,
    last_key: Vec<i32>,
    keys: VariableRows,
    /// One key of each message, where keys lead.
    leading: VariableRows,
}

/// The matching subscriptions of each message, at most [`CANDIDATES`]: by the index in `criteria`.
pub(super) async fn candidates(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
    criteria: &[Criteria<'_>],
) -> Result<HashMap<usize, Vec<Candidate>>, DbError> {
    let mut statements: BTreeMap<(Lead, bool), Arrays> = BTreeMap::new();
    for (index, wanted) in criteria.iter().enumerate() {
        let lead = Lead::of(wanted.correlation);
        let arrays = statements.entry((lead, wanted.broadcast)).or_default();
        arrays.add(index, wanted.correlation);
    }
    let mut found: HashMap<usize, Vec<Candidate>> = HashMap::new();
    for ((lead, broadcast), arrays) in statements {
        for row in fetch(tx, tables, engine, &arrays, lead, broadcast).await? {
            let ord: i32 = row.get("ord");
            let index = usize::try_from(ord).expect("an index of ours");
            found.entry(index).or_default().push(Candidate::of(&row));
        }
    }
    Ok(found)
}

impl Arrays {
    fn add(&mut self, index: usize, correlation: &Correlation) {
        let count = |length: usize| i32::try_from(length).expect("a batch has less than 2^31 keys");
        self.ord.push(count(index));
        self.name.push(correlation.message_name.clone());
        self.business_key.push(correlation.business_key.clone());
        self.instance.push(correlation.process_instance_id.clone());
        let (given, tenant) = tenant_columns(&correlation.tenant);
        self.tenant_given.push(given);
        self.tenant.push(tenant);
        self.first_key.push(count(self.keys.id.len() + 1));
        for key in &correlation.correlation_keys {
            self.keys.add(index, key);
        }
        self.last_key.push(count(self.keys.id.len()));
        if let Some(key) = leading_key(correlation) {
            self.leading.add(index, key);
        }
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

/// The instances that the leading keys find, for all messages at once. Parameters 16 to 21.
///
/// The variables of the wanted names are read once, and the wanted values picked from them before
/// anything is joined. The name is compared as a range, of which the planner believes that it is small:
/// otherwise it would read all variables wherever most have that name.
const LEAD: &str = "WITH named AS MATERIALIZED (
               SELECT v.proc_inst_id_, v.name_, v.type_, v.text_, v.long_, v.double_
                 FROM (SELECT DISTINCT k.name FROM unnest($17::text[]) AS k(name)) k
                CROSS JOIN LATERAL (
                      SELECT x.proc_inst_id_, x.name_, x.type_, x.text_, x.long_, x.double_
                        FROM {e}act_ru_variable x
                       WHERE x.task_id_ IS NULL AND x.name_ BETWEEN k.name AND k.name
                         AND (x.text_ = ANY($19::text[]) OR x.long_ = ANY($20::int8[])
                              OR x.double_ = ANY($21::float8[]))
                      OFFSET 0) v
             ), lead AS MATERIALIZED (
               SELECT DISTINCT k.ord, v.proc_inst_id_ AS instance
                 FROM unnest($16::int4[], $17::text[], $18::text[], $19::text[], $20::int8[], $21::float8[])
                      AS k(ord, name, kind, text, long, double)
                 JOIN named v
                   ON v.name_ = k.name AND v.type_ = k.kind
                  AND CASE k.kind
                      WHEN 'string' THEN v.text_ = k.text
                      WHEN 'double' THEN v.double_ = k.double
                      ELSE v.long_ = k.long
                      END)
        ";

/// No key without a variable that equals it; a null equals whatever has no value. Parameters 11 to 15.
const KEYS: &str = "NOT EXISTS (
                      SELECT 1
                        FROM unnest(($11::text[])[m.first_key:m.last_key],
                                    ($12::text[])[m.first_key:m.last_key],
                                    ($13::text[])[m.first_key:m.last_key],
                                    ($14::int8[])[m.first_key:m.last_key],
                                    ($15::float8[])[m.first_key:m.last_key])
                             AS k(name, kind, text, long, double)
                       WHERE NOT EXISTS (
                             SELECT 1
                               FROM (SELECT x.task_id_, x.name_, x.type_, x.text_, x.text2_, x.long_, x.double_,
                                            x.bytearray_id_
                                       FROM {e}act_ru_variable x
                                      WHERE x.proc_inst_id_ = res.proc_inst_id_ OFFSET 0) v
                              WHERE v.task_id_ IS NULL
                                AND v.name_ = k.name
                                AND CASE k.kind
                                    WHEN 'string' THEN v.type_ = k.kind AND v.text_ = k.text
                                    WHEN 'double' THEN v.type_ = k.kind AND v.double_ = k.double
                                    WHEN 'null' THEN v.text_ IS NULL AND v.text2_ IS NULL
                                                 AND v.long_ IS NULL AND v.double_ IS NULL
                                                 AND v.bytearray_id_ IS NULL
                                    ELSE v.type_ = k.kind AND v.long_ = k.long
                                    END))";

/// The statement's text. Parameters: 1 to 8 the messages, 9 the engine, 10 the limit, then the keys.
fn statement(lead: Lead, broadcast: bool, keyed: bool) -> String {
    let (distinct, order) = if broadcast {
        // A claim that another message holds on one of them holds for all.
        (
            "DISTINCT ON (res.proc_inst_id_)",
            "ORDER BY res.proc_inst_id_, pending.row_id IS NULL, evt.id_",
        )
    } else {
        ("", "")
    };
    "/* camunda_tables.candidates */
        {leading}SELECT m.ord, c.id_, c.rev_, c.activity_id_, c.proc_inst_id_, c.root_proc_inst_id_,
               c.tenant_id_, c.proc_def_id_, c.key_, c.deployment_id_, c.pending, c.blocked
          FROM unnest($1::int4[], $2::text[], $3::text[], $4::text[], $5::bool[], $6::text[], $7::int4[],
                      $8::int4[])
               AS m(ord, name, business_key, instance, tenant_given, tenant, first_key, last_key)
         CROSS JOIN LATERAL (
               SELECT {distinct}
                      evt.id_, evt.rev_, evt.activity_id_, res.proc_inst_id_, inst.root_proc_inst_id_,
                      res.tenant_id_, res.proc_def_id_, p.key_, p.deployment_id_,
                      pending.row_id IS NOT NULL AS pending, coalesce(job.blocked, false) AS blocked
                 FROM {from}
                CROSS JOIN LATERAL (
                      SELECT x.key_, x.deployment_id_
                        FROM {e}act_re_procdef x WHERE x.id_ = res.proc_def_id_ OFFSET 0) p
                 LEFT JOIN LATERAL (
                      SELECT c.row_id, c.job_id FROM {s}pending c
                       WHERE c.engine = $9 AND c.subscription_id = evt.id_
                      UNION ALL
                      SELECT c.row_id, c.job_id FROM {s}pending c
                       WHERE c.engine = $9 AND c.process_instance_id = res.proc_inst_id_
                         AND c.message_name = evt.event_name_
                      LIMIT 1) pending ON true
                 LEFT JOIN LATERAL (
                      SELECT j.retries_ = 0 OR j.suspension_state_ = 2 AS blocked
                        FROM {e}act_ru_job j WHERE j.id_ = pending.job_id OFFSET 0) job ON true
                WHERE evt.event_type_ = 'message'
                  AND evt.event_name_ = m.name
                  AND (m.business_key IS NULL OR inst.business_key_ = m.business_key)
                  AND (m.instance IS NULL OR inst.id_ = m.instance)
                  AND res.suspension_state_ = 1
                  AND (NOT m.tenant_given OR res.tenant_id_ IS NOT DISTINCT FROM m.tenant)
                  AND {keys}
                {order}
                LIMIT $10) c
         ORDER BY m.ord, c.id_"
        .replace("{leading}", if lead == Lead::Variable { LEAD } else { "" })
        .replace("{distinct}", distinct)
        .replace("{from}", &lead.tables())
        .replace("{keys}", if keyed { KEYS } else { "true" })
        .replace("{order}", order)
}

async fn fetch(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
    arrays: &Arrays,
    lead: Lead,
    broadcast: bool,
) -> Result<Vec<PgRow>, DbError> {
    let (keys, leading) = (&arrays.keys, &arrays.leading);
    let text = statement(lead, broadcast, !keys.is_empty());
    let mut query = sqlx::query(tables.sql(&text))
        .bind(&arrays.ord)
        .bind(&arrays.name)
        .bind(&arrays.business_key)
        .bind(&arrays.instance)
        .bind(&arrays.tenant_given)
        .bind(&arrays.tenant)
        .bind(&arrays.first_key)
        .bind(&arrays.last_key)
        .bind(engine)
        .bind(CANDIDATES);
    if !keys.is_empty() {
        query = query
            .bind(&keys.name)
            .bind(&keys.kind)
            .bind(&keys.text)
            .bind(&keys.long)
            .bind(&keys.double);
    }
    if lead == Lead::Variable {
        query = query
            .bind(&leading.owner)
            .bind(&leading.name)
            .bind(&leading.kind)
            .bind(&leading.text)
            .bind(&leading.long)
            .bind(&leading.double);
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
