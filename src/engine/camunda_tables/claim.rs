//! Handing a message to a subscription: the claim, and the job row that the engine runs.
//!
//! The claim is a row of `pending`, unique by subscription, and for variant C by instance and message name,
//! because that is what its job correlates when it runs: of two nodes with messages for one catcher, one
//! gets it and the other's message waits. Claims are inserted and deleted, never updated: confirm reads
//! them under a lock together with an older snapshot of the engine's tables. Order of writing, which is
//! the engine's own flush order: claim, subscription (B), job, byte arrays, variables.
//!
//! *Variant C* (`correlate-message` job): its variables are rows under a private scope, which confirm
//! removes; nothing that exists is touched. *Variant B* (`event` job): it has no execution, so that the
//! engine cannot move it to another branch; the subscription's revision is raised, so that an engine
//! transaction that already decided to cancel it fails and looks again instead of losing the message.

use std::collections::HashSet;

use sqlx::Row;
use uuid::Uuid;

use super::Tx;
use super::correlation::Candidate;
use super::schema::{EngineSchema, History};
use super::tables::Tables;
use super::variables::{VariableRows, fresh_id};
use crate::inbox::{DbError, RowId};
use crate::message::{Value, Variable};

/// The name of the receipt; below history level full it is followed by the row's id.
pub(super) const RECEIPT: &str = "sluice_receipt";

/// How a message is carried to its subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// `correlate-message`: correlates every subscription of the name in the instance when it runs.
    Correlate,
    /// `event`: one subscription, by its id.
    Event,
}

impl Variant {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Correlate => "C",
            Self::Event => "B",
        }
    }
}

/// One message to be handed to one subscription.
pub(super) struct Claim<'a> {
    pub row: RowId,
    pub epoch: i64,
    pub variant: Variant,
    pub message_name: &'a str,
    pub variables: &'a [Variable],
    pub candidate: &'a Candidate,
}

impl Claim<'_> {
    /// The row's id proves the effect; the epoch tells people which hand-over it was.
    fn receipt(&self) -> String {
        format!("{}/{}", self.row, self.epoch)
    }

    fn unique_keys(&self) -> (&str, &str, &str) {
        let candidate = self.candidate;
        (
            &candidate.instance,
            self.message_name,
            &candidate.subscription,
        )
    }

    fn receipt_name(&self, history: History) -> String {
        match history {
            // Every value is kept as a detail of its own.
            History::Full => RECEIPT.to_owned(),
            // A shared name would be overwritten by the next message.
            _ => format!("{RECEIPT}_{}", self.row.0.simple()),
        }
    }
}

/// Claims and writes; returns the rows whose claim missed.
pub(super) async fn write(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
    schema: &EngineSchema,
    retries: i32,
    mut claims: Vec<Claim<'_>>,
) -> Result<HashSet<RowId>, DbError> {
    // Sorted by both unique keys, so that two nodes that want the same subscriptions cannot deadlock.
    claims.sort_by(|a, b| a.unique_keys().cmp(&b.unique_keys()));
    let jobs: Vec<JobIds> = claims.iter().map(|_| JobIds::fresh()).collect();
    let mut missed = pending(tx, tables, engine, schema, &claims, &jobs).await?;
    missed.extend(bump(tx, tables, engine, &claims, &missed).await?);
    let won: Vec<(&Claim<'_>, &JobIds)> = claims
        .iter()
        .zip(&jobs)
        .filter(|(claim, _)| !missed.contains(&claim.row))
        .collect();
    insert_jobs(tx, tables, schema, retries, &won).await?;
    insert_payloads(tx, tables, schema, &won).await?;
    Ok(missed)
}

/// The ids of one job's rows.
struct JobIds {
    job: String,
    /// Variant C: the private scope of its variables, the pseudo batch and the byte array of its configuration.
    scope: String,
}

impl JobIds {
    fn fresh() -> Self {
        Self {
            job: fresh_id(),
            scope: fresh_id(),
        }
    }
}

async fn pending(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
    schema: &EngineSchema,
    claims: &[Claim<'_>],
    jobs: &[JobIds],
) -> Result<HashSet<RowId>, DbError> {
    let column = |of: &dyn Fn(&Claim<'_>) -> String| claims.iter().map(of).collect::<Vec<String>>();
    let rows: Vec<Uuid> = claims.iter().map(|claim| claim.row.0).collect();
    let epochs: Vec<i64> = claims.iter().map(|claim| claim.epoch).collect();
    let activities: Vec<Option<String>> = claims
        .iter()
        .map(|claim| claim.candidate.activity.clone())
        .collect();
    let names: Vec<Option<&str>> = claims
        .iter()
        .map(|claim| (claim.variant == Variant::Correlate).then_some(claim.message_name))
        .collect();
    let won: HashSet<Uuid> = sqlx::query_scalar(tables.sql(
        // The subscription must still be there: an earlier message may have been handed, run and confirmed
        // since the look, and a job for a subscription that is gone would cost this one an attempt.
        "/* camunda_tables.claim */
         INSERT INTO {s}pending
                (engine, subscription_id, row_id, epoch, variant, job_id, scope_id, receipt_name, receipt,
                 process_instance_id, activity_id, message_name)
         SELECT $1, c.subscription, c.row_id, c.epoch, c.variant, c.job, c.scope, c.receipt_name, c.receipt,
                c.instance, c.activity, c.message_name
           FROM unnest($2::text[], $3::uuid[], $4::int8[], $5::text[], $6::text[], $7::text[], $8::text[],
                       $9::text[], $10::text[], $11::text[], $12::text[]) WITH ORDINALITY
                AS c(subscription, row_id, epoch, variant, job, scope, receipt_name, receipt, instance,
                     activity, message_name, ord)
          WHERE (SELECT true FROM {e}act_ru_event_subscr e WHERE e.id_ = c.subscription)
          ORDER BY c.ord
         ON CONFLICT DO NOTHING
         RETURNING row_id",
    ))
    .bind(engine)
    .bind(column(&|claim| claim.candidate.subscription.clone()))
    .bind(&rows)
    .bind(&epochs)
    .bind(column(&|claim| claim.variant.as_str().to_owned()))
    .bind(jobs.iter().map(|ids| ids.job.clone()).collect::<Vec<_>>())
    .bind(jobs.iter().map(|ids| ids.scope.clone()).collect::<Vec<_>>())
    .bind(column(&|claim| claim.receipt_name(schema.history)))
    .bind(column(&|claim| claim.receipt()))
    .bind(column(&|claim| claim.candidate.instance.clone()))
    .bind(&activities)
    .bind(&names)
    .fetch_all(&mut **tx)
    .await
    .map_err(DbError::of("claim subscriptions"))?
    .into_iter()
    .collect();
    Ok(claims
        .iter()
        .map(|claim| claim.row)
        .filter(|row| !won.contains(&row.0))
        .collect())
}

/// Variant B raises the revision of its subscription; a row that the engine changes meanwhile is passed over.
async fn bump(
    tx: &mut Tx,
    tables: &Tables,
    engine: &str,
    claims: &[Claim<'_>],
    missed: &HashSet<RowId>,
) -> Result<Vec<RowId>, DbError> {
    let events: Vec<&Claim<'_>> = claims
        .iter()
        .filter(|claim| claim.variant == Variant::Event && !missed.contains(&claim.row))
        .collect();
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<&str> = events
        .iter()
        .map(|c| c.candidate.subscription.as_str())
        .collect();
    let revisions: Vec<i32> = events.iter().map(|c| c.candidate.revision).collect();
    let bumped: HashSet<String> = sqlx::query_scalar(tables.sql(
        "/* camunda_tables.bump */
         WITH locked AS MATERIALIZED (
              SELECT e.id_
                FROM unnest($1::text[], $2::int4[]) AS c(id, rev)
               CROSS JOIN LATERAL (
                     SELECT x.id_ FROM {e}act_ru_event_subscr x
                      WHERE x.id_ = c.id AND x.rev_ = c.rev
                        FOR UPDATE SKIP LOCKED) e)
         UPDATE {e}act_ru_event_subscr e
            SET rev_ = e.rev_ + 1
          WHERE e.id_ = ANY(ARRAY(SELECT l.id_ FROM locked l))
         RETURNING e.id_",
    ))
    .bind(&ids)
    .bind(&revisions)
    .fetch_all(&mut **tx)
    .await
    .map_err(DbError::of("engine subscriptions"))?
    .into_iter()
    .collect();
    let (lost_rows, lost_ids): (Vec<RowId>, Vec<&str>) = events
        .iter()
        .filter(|claim| !bumped.contains(&claim.candidate.subscription))
        .map(|claim| (claim.row, claim.candidate.subscription.as_str()))
        .unzip();
    if !lost_ids.is_empty() {
        sqlx::query(tables.sql(
            "/* camunda_tables.unclaim */
             DELETE FROM {s}pending WHERE engine = $1 AND subscription_id = ANY($2)",
        ))
        .bind(engine)
        .bind(&lost_ids)
        .execute(&mut **tx)
        .await
        .map_err(DbError::of("release claims"))?;
    }
    Ok(lost_rows)
}

async fn insert_jobs(
    tx: &mut Tx,
    tables: &Tables,
    schema: &EngineSchema,
    retries: i32,
    won: &[(&Claim<'_>, &JobIds)],
) -> Result<(), DbError> {
    if won.is_empty() {
        return Ok(());
    }
    let text = "/* camunda_tables.jobs */
        INSERT INTO {e}act_ru_job
               (id_, rev_, type_, exclusive_, process_instance_id_, process_def_id_, process_def_key_,
                retries_, duedate_, handler_type_, handler_cfg_, deployment_id_, suspension_state_,
                priority_, sequence_counter_, tenant_id_, create_time_{root_column})
        SELECT j.id, 1, 'message', true, j.instance, j.definition, j.key, $9, timestamp '2000-01-01',
               j.handler, j.cfg, j.deployment, 1, 0, 1, j.tenant,
               (clock_timestamp() AT TIME ZONE 'UTC') + make_interval(secs => $10){root_value}
          FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                      $8::text[], $11::text[])
               AS j(id, instance, definition, key, handler, cfg, deployment, tenant, root)";
    let (column, value) = if schema.job_has_root {
        (", root_proc_inst_id_", ", j.root")
    } else {
        ("", "")
    };
    let text = text
        .replace("{root_column}", column)
        .replace("{root_value}", value);
    let candidates = || won.iter().map(|(claim, _)| claim.candidate);
    let handlers: Vec<&str> = won
        .iter()
        .map(|(claim, _)| match claim.variant {
            Variant::Correlate => "correlate-message",
            Variant::Event => "event",
        })
        .collect();
    let configurations: Vec<&str> = won
        .iter()
        .map(|(claim, ids)| match claim.variant {
            Variant::Correlate => ids.scope.as_str(),
            Variant::Event => claim.candidate.subscription.as_str(),
        })
        .collect();
    sqlx::query(tables.sql(&text))
        .bind(
            won.iter()
                .map(|(_, ids)| ids.job.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(
            candidates()
                .map(|c| c.instance.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(
            candidates()
                .map(|c| c.definition.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(
            candidates()
                .map(|c| c.definition_key.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(&handlers)
        .bind(&configurations)
        .bind(
            candidates()
                .map(|c| c.deployment.clone())
                .collect::<Vec<_>>(),
        )
        .bind(candidates().map(|c| c.tenant.clone()).collect::<Vec<_>>())
        .bind(retries)
        .bind(schema.clock_offset)
        .bind(candidates().map(|c| c.root.clone()).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await
        .map_err(DbError::of("engine jobs"))?;
    Ok(())
}

/// The configuration of each C job, its variables under their private scope, and the receipt among them.
async fn insert_payloads(
    tx: &mut Tx,
    tables: &Tables,
    schema: &EngineSchema,
    won: &[(&Claim<'_>, &JobIds)],
) -> Result<(), DbError> {
    let (mut scopes, mut configurations) = (Vec::new(), Vec::new());
    let mut variables = VariableRows::default();
    for (claim, ids) in won {
        if claim.variant != Variant::Correlate {
            continue;
        }
        let owner = scopes.len();
        scopes.push(ids.scope.clone());
        let configuration = serde_json::json!({
            "messageName": claim.message_name,
            "processInstanceIds": [claim.candidate.instance],
            "batchId": ids.scope,
        });
        configurations.push(configuration.to_string().into_bytes());
        for variable in claim.variables {
            variables.add(owner, variable);
        }
        let receipt = Variable {
            name: claim.receipt_name(schema.history),
            value: Value::String(claim.receipt()),
        };
        variables.add(owner, &receipt);
    }
    if scopes.is_empty() {
        return Ok(());
    }
    sqlx::query(tables.sql(
        "/* camunda_tables.configurations */
         INSERT INTO {e}act_ge_bytearray (id_, rev_, bytes_, create_time_)
         SELECT c.id, 1, c.bytes,
                (clock_timestamp() AT TIME ZONE 'UTC')::timestamp(3) + make_interval(secs => $3)
           FROM unnest($1::text[], $2::bytea[]) AS c(id, bytes)",
    ))
    .bind(&scopes)
    .bind(&configurations)
    .bind(schema.clock_offset)
    .execute(&mut **tx)
    .await
    .map_err(DbError::of("engine job configurations"))?;
    variables
        .insert_bytes(tx, tables, schema, &variables.bytes_id, None)
        .await?;
    let scope_of: Vec<&str> = variables
        .owner
        .iter()
        .map(|&owner| scopes[usize::try_from(owner).expect("an index of ours")].as_str())
        .collect();
    sqlx::query(tables.sql(
        "/* camunda_tables.variables */
         INSERT INTO {e}act_ru_variable
                (id_, rev_, type_, name_, bytearray_id_, double_, long_, text_, text2_, var_scope_,
                 sequence_counter_, is_concurrent_local_)
         SELECT v.id, 1, v.kind, v.name, v.bytes_id, v.double, v.long, v.text, v.text2, v.scope, 1, false
           FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::float8[], $6::int8[], $7::text[],
                       $8::text[], $9::text[])
                AS v(id, kind, name, bytes_id, double, long, text, text2, scope)",
    ))
    .bind(&variables.id)
    .bind(&variables.kind)
    .bind(&variables.name)
    .bind(&variables.bytes_id)
    .bind(&variables.double)
    .bind(&variables.long)
    .bind(&variables.text)
    .bind(&variables.text2)
    .bind(&scope_of)
    .execute(&mut **tx)
    .await
    .map_err(DbError::of("engine variables"))?;
    Ok(())
}

/// The ids of the rows that a statement returned.
pub(super) fn row_ids(rows: &[sqlx::postgres::PgRow]) -> Vec<RowId> {
    rows.iter().map(|row| RowId(row.get("row_id"))).collect()
}
