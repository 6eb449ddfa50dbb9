//! What kind of schema the engine has: columns, history level, clock. Read, never guessed from a version.

use super::columns::{self, Columns};
use super::tables::Tables;
use super::{CamundaTablesConfig, Tx, Unproven};
use crate::finding::Finding;
use crate::inbox::{Class, DbError};

/// The clocks change, and the engine notes its own four times an hour.
const CLOCK_KNOWN: f64 = 3600.0 + 900.0;
/// No zone is further from UTC.
const CLOCK_UNKNOWN: f64 = 14.0 * 3600.0;

/// The engine's history level, by the number in `ACT_GE_PROPERTY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum History {
    None,
    Activity,
    Audit,
    Full,
    /// A level of the user's own: it may keep anything or nothing.
    Custom,
}

impl History {
    fn from_property(value: Option<&str>) -> Self {
        match value {
            Some("0") => Self::None,
            Some("1") => Self::Activity,
            Some("2") => Self::Audit,
            Some("3") => Self::Full,
            _ => Self::Custom,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Activity => "activity",
            Self::Audit => "audit",
            Self::Full => "full",
            Self::Custom => "custom",
        }
    }

    /// Whether a receipt outlives the instance, so that a correlation can always be proven.
    pub fn proves(self) -> bool {
        matches!(self, Self::Audit | Self::Full)
    }

    pub fn keeps_instances(self) -> bool {
        self != Self::None
    }

    pub fn keeps_variables(self) -> bool {
        matches!(self, Self::Audit | Self::Full | Self::Custom)
    }

    pub fn keeps_details(self) -> bool {
        self == Self::Full
    }
}

/// What was read from one engine's database.
#[derive(Debug, Clone)]
pub(super) struct EngineSchema {
    pub history: History,
    /// `ACT_RU_JOB.ROOT_PROC_INST_ID_` exists (Camunda 7.21, every Operaton).
    pub job_has_root: bool,
    /// `ACT_RU_EXECUTION.PROC_DEF_KEY_` exists (Camunda 7.23, every Operaton).
    pub execution_has_key: bool,
    /// Added to UTC to get the engine's wall clock, in seconds; only histories depend on it.
    pub clock_offset: f64,
    /// How far the offset may be wrong, in seconds.
    pub clock_doubt: f64,
    /// Which engine has the tables: `Operaton`, `Camunda 7 or CIB seven`.
    product: &'static str,
    version: Option<String>,
    /// What keeps the engine from being used, for people.
    refusals: Vec<String>,
}

impl EngineSchema {
    /// [`EngineSchema::clock_offset`] where it is known.
    pub fn engine_clock(&self) -> Option<f64> {
        (self.clock_doubt < CLOCK_UNKNOWN).then_some(self.clock_offset)
    }

    pub async fn read(
        tx: &mut Tx,
        tables: &Tables,
        config: &CamundaTablesConfig,
    ) -> Result<Self, DbError> {
        let columns = columns::read(tx, tables).await?;
        let mut refusals = columns::refusals(&columns, tables);
        let has = |table: &str, column: &str| {
            columns
                .get(table)
                .is_some_and(|columns| columns.contains_key(column))
        };
        let mut schema = Self {
            history: History::Custom,
            job_has_root: has("act_ru_job", "root_proc_inst_id_"),
            execution_has_key: has("act_ru_execution", "proc_def_key_"),
            clock_offset: 0.0,
            clock_doubt: CLOCK_UNKNOWN,
            product: "an engine of the Camunda 7 family",
            version: None,
            refusals: Vec::new(),
        };
        if refusals.is_empty() {
            let history: Option<String> = sqlx::query_scalar(tables.sql(
                "/* camunda_tables.history */ SELECT value_ FROM {e}act_ge_property WHERE name_ = 'historyLevel'",
            ))
            .fetch_optional(&mut **tx)
            .await
            .map_err(DbError::of("engine history level"))?
            .flatten();
            schema.history = History::from_property(history.as_deref());
            let offset = match &config.time_zone {
                Some(zone) => {
                    let offset = zone_offset(tx, zone).await?;
                    if offset.is_none() {
                        refusals.push(format!(
                            "the database knows no time zone {zone:?}: expected the name of the zone of the \
                             engine's JVM, such as time_zone = \"Europe/Berlin\""
                        ));
                    }
                    offset
                }
                None => clock_offset(tx, tables).await?,
            };
            if let Some(offset) = offset {
                schema.clock_offset = offset;
                schema.clock_doubt = CLOCK_KNOWN;
            }
            schema.version = version(tx, tables, &columns).await?;
            schema.product = product(tx, tables).await?;
            if !schema.history.proves() && config.unproven.is_none() {
                refusals.push(format!(
                    "its history level is {:?}: a correlation cannot be proven once its instance has ended. \
                     Set the engine's history level to audit or full, or accept it in plain sight with \
                     unproven = \"assume_done\"",
                    schema.history.as_str()
                ));
            }
        }
        schema.refusals = refusals;
        Ok(schema)
    }

    /// # Errors
    /// What keeps the engine from being written to, as an outage.
    pub fn usable(&self) -> Result<(), DbError> {
        if self.refusals.is_empty() {
            return Ok(());
        }
        Err(DbError {
            class: Class::Outage,
            step: "engine schema",
            source: sqlx::Error::Configuration(self.refusals.join("; ").into()),
        })
    }

    /// What an operator should know; an error keeps the daemon from starting.
    pub fn findings(&self, name: &str, config: &CamundaTablesConfig) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self
            .refusals
            .iter()
            .map(|refusal| Finding::error(format!("engine {name}: {refusal}")))
            .collect();
        if !findings.is_empty() {
            return findings;
        }
        let version = self.version.as_deref().unwrap_or("unknown");
        // Versions of different products cannot be compared; columns can.
        let columns = match (self.job_has_root, self.execution_has_key) {
            (_, true) => "7.23 or later",
            (true, false) => "7.21 or 7.22",
            (false, false) => "7.18 to 7.20",
        };
        findings.push(Finding::info(format!(
            "engine {name}: {}, columns of Camunda {columns} (its own log says {version}), history level {}, \
             clock UTC{:+} s",
            self.product,
            self.history.as_str(),
            self.clock_offset
        )));
        if self.history == History::Audit {
            findings.push(Finding::info(format!(
                "engine {name}: at history level audit every message leaves a variable with a name of its own in its instance"
            )));
        }
        if config.unproven == Some(Unproven::AssumeDone) && !self.history.proves() {
            findings.push(Finding::warning(format!(
                "engine {name}: unproven = \"assume_done\": a correlation whose instance has ended counts as done without proof"
            )));
        }
        findings.push(Finding::info(format!(
            "engine {name}: one instance takes one message per catcher and acquisition round; an idle job \
             executor with default settings looks every 60 s (recommended: wait-time-in-millis 500, max-wait 1000)"
        )));
        findings
    }
}

/// The offset of a zone, now. Looked up by name: `AT TIME ZONE` would fail for a name that it does not know, and
/// take `GMT+2` for the opposite of what Java means by it.
async fn zone_offset(tx: &mut Tx, zone: &str) -> Result<Option<f64>, DbError> {
    sqlx::query_scalar(
        "/* camunda_tables.zone */
         SELECT extract(epoch FROM utc_offset)::float8
           FROM pg_timezone_names
          WHERE lower(name) = lower($1)
          LIMIT 1",
    )
    .bind(zone)
    .fetch_optional(&mut **tx)
    .await
    .map(Option::flatten)
    .map_err(DbError::of("engine time zone"))
}

/// The engine's wall clock, as it wrote it beside the epoch.
async fn clock_offset(tx: &mut Tx, tables: &Tables) -> Result<Option<f64>, DbError> {
    let offset: Option<f64> = sqlx::query_scalar(tables.sql(
        "/* camunda_tables.clock */
         SELECT extract(epoch FROM timestamp_
                - (to_timestamp(milliseconds_ / 1000.0) AT TIME ZONE 'UTC'))::float8
           FROM {e}act_ru_meter_log
          WHERE milliseconds_ IS NOT NULL
          ORDER BY milliseconds_ DESC LIMIT 1",
    ))
    .fetch_optional(&mut **tx)
    .await
    .map_err(DbError::of("engine clock"))?
    .flatten();
    // Zones are whole quarters of an hour.
    Ok(offset.map(|offset| (offset / 900.0).round() * 900.0))
}

/// By the name under which it keeps its installation's id.
async fn product(tx: &mut Tx, tables: &Tables) -> Result<&'static str, DbError> {
    let names: Vec<String> = sqlx::query_scalar(tables.sql(
        "/* camunda_tables.product */
         SELECT name_ FROM {e}act_ge_property WHERE name_ LIKE '%.installation.id'",
    ))
    .fetch_all(&mut **tx)
    .await
    .map_err(DbError::of("engine product"))?;
    let has = |product: &str| names.iter().any(|name| name.starts_with(product));
    // An engine that moved in from another product keeps the other's line.
    Ok(if has("operaton") {
        "Operaton"
    } else if has("cibseven") {
        "CIB seven"
    } else if has("camunda") {
        "Camunda 7 or CIB seven"
    } else {
        "an engine of the Camunda 7 family"
    })
}

async fn version(
    tx: &mut Tx,
    tables: &Tables,
    columns: &Columns,
) -> Result<Option<String>, DbError> {
    if !columns.contains_key("act_ge_schema_log") {
        return Ok(None);
    }
    sqlx::query_scalar(tables.sql(
        "/* camunda_tables.version */
         SELECT version_ FROM {e}act_ge_schema_log ORDER BY timestamp_ DESC, id_ DESC LIMIT 1",
    ))
    .fetch_optional(&mut **tx)
    .await
    .map(Option::flatten)
    .map_err(DbError::of("engine version"))
}
