//! How a value stands in the engine's columns, and which values it cannot hold.
//!
//! | Value | `TYPE_` | `LONG_` | `DOUBLE_` | `TEXT_` | `TEXT2_` | byte array |
//! |---|---|---|---|---|---|---|
//! | string | `string` | | | value | `!emptyString!` if empty | |
//! | integer, long, short | by type | value | | decimal | | |
//! | double | `double` | | value | | | |
//! | boolean | `boolean` | 1 / 0 | | | | |
//! | date | `date` | epoch ms | | | | |
//! | null | `null` | | | | | |
//! | bytes, json | by type | | | | | the bytes, the UTF-8 text |
//!
//! Source of the rule: the engine's value serializers, read back from rows that it wrote itself.

use super::Tx;
use super::claim::RECEIPT;
use super::schema::EngineSchema;
use super::tables::Tables;
use crate::inbox::DbError;
use crate::message::{Action, DeadReason, Message, StartBy, Tenant, Undecodable, Value, Variable};

/// `TEXT_` is a `varchar(4000)`, and the engine has no overflow for it.
const LONGEST_TEXT: usize = 4000;
/// Names, business keys and message names are `varchar(255)`.
const LONGEST_NAME: usize = 255;
/// What a byte array is of, by the engine's number.
const OF_RUNTIME: i32 = 2;
const OF_HISTORY: i32 = 3;
/// Ids and tenants are `varchar(64)`.
const LONGEST_ID: usize = 64;

/// The value columns of one row.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Columns {
    pub kind: &'static str,
    pub long: Option<i64>,
    pub double: Option<f64>,
    pub text: Option<String>,
    pub text2: Option<String>,
    pub bytes: Option<Vec<u8>>,
}

pub(super) fn columns(value: &Value) -> Columns {
    let number = |long: i64| (Some(long), Some(long.to_string()));
    let mut columns = Columns {
        kind: value.type_name(),
        ..Columns::default()
    };
    match value {
        Value::Null => {}
        Value::Boolean(value) => columns.long = Some(i64::from(*value)),
        Value::Short(value) => (columns.long, columns.text) = number(i64::from(*value)),
        Value::Integer(value) => (columns.long, columns.text) = number(i64::from(*value)),
        Value::Long(value) => (columns.long, columns.text) = number(*value),
        Value::Double(value) => columns.double = Some(*value),
        Value::String(value) => {
            columns.text = Some(value.clone());
            columns.text2 = value.is_empty().then(|| "!emptyString!".to_owned());
        }
        Value::Date(ms) => columns.long = Some(*ms),
        Value::Bytes(bytes) => columns.bytes = Some(bytes.clone()),
        Value::Json(text) => columns.bytes = Some(text.clone().into_bytes()),
    }
    columns
}

/// Variables of many owners, as the arrays that one statement takes.
#[derive(Debug, Default)]
pub(super) struct VariableRows {
    /// The index of the owner in its own list.
    pub owner: Vec<i32>,
    pub id: Vec<String>,
    pub name: Vec<String>,
    pub kind: Vec<String>,
    pub long: Vec<Option<i64>>,
    pub double: Vec<Option<f64>>,
    pub text: Vec<Option<String>>,
    pub text2: Vec<Option<String>>,
    pub bytes: Vec<Option<Vec<u8>>>,
    /// The id of the byte array, where there is one.
    pub bytes_id: Vec<Option<String>>,
}

impl VariableRows {
    pub fn add(&mut self, owner: usize, variable: &Variable) {
        let columns = columns(&variable.value);
        self.owner
            .push(i32::try_from(owner).expect("a batch has less than 2^31 messages"));
        self.id.push(fresh_id());
        self.name.push(variable.name.clone());
        self.kind.push(columns.kind.to_owned());
        self.long.push(columns.long);
        self.double.push(columns.double);
        self.text.push(columns.text);
        self.text2.push(columns.text2);
        self.bytes_id
            .push(columns.bytes.as_ref().map(|_| fresh_id()));
        self.bytes.push(columns.bytes);
    }

    pub fn is_empty(&self) -> bool {
        self.id.is_empty()
    }

    /// The byte arrays under these ids. `of_history`: the root instance of each, which only rows of the
    /// history carry.
    pub async fn insert_bytes(
        &self,
        tx: &mut Tx,
        tables: &Tables,
        schema: &EngineSchema,
        ids: &[Option<String>],
        of_history: Option<&[String]>,
    ) -> Result<(), DbError> {
        let with_bytes: Vec<usize> = (0..ids.len()).filter(|&i| ids[i].is_some()).collect();
        if with_bytes.is_empty() {
            return Ok(());
        }
        let roots: Vec<Option<&str>> = with_bytes
            .iter()
            .map(|&i| of_history.map(|roots| roots[i].as_str()))
            .collect();
        sqlx::query(tables.sql(
            "/* camunda_tables.bytes */
             INSERT INTO {e}act_ge_bytearray (id_, rev_, name_, bytes_, type_, create_time_, root_proc_inst_id_)
             SELECT b.id, 1, b.name, b.bytes, $4,
                    (clock_timestamp() AT TIME ZONE 'UTC')::timestamp(3) + make_interval(secs => $6), b.root
               FROM unnest($1::text[], $2::text[], $3::bytea[], $5::text[]) AS b(id, name, bytes, root)",
        ))
        .bind(with_bytes.iter().map(|&i| ids[i].as_deref()).collect::<Vec<_>>())
        .bind(with_bytes.iter().map(|&i| self.name[i].as_str()).collect::<Vec<_>>())
        .bind(with_bytes.iter().map(|&i| self.bytes[i].as_deref()).collect::<Vec<_>>())
        .bind(if of_history.is_some() { OF_HISTORY } else { OF_RUNTIME })
        .bind(&roots)
        .bind(schema.clock_offset)
        .execute(&mut **tx)
        .await
        .map_err(DbError::of("engine byte arrays"))?;
        Ok(())
    }
}

/// An id for a row of the engine's: it only compares them as strings.
pub(super) fn fresh_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Whether every text fits its column; nothing is cut, ever.
pub(super) fn fits(message: &Message) -> Result<(), Undecodable> {
    match &message.action {
        Action::Correlate(correlation) => {
            text("message_name", &correlation.message_name, LONGEST_NAME)?;
            optional(
                "business_key",
                correlation.business_key.as_deref(),
                LONGEST_NAME,
            )?;
            let instance = correlation.process_instance_id.as_deref();
            optional("process_instance_id", instance, LONGEST_ID)?;
            tenant(&correlation.tenant)?;
            correlation.correlation_keys.iter().try_for_each(|key| {
                variable(key)?;
                match key.value {
                    Value::Bytes(_) | Value::Json(_) => Err(Undecodable {
                        reason: DeadReason::Refused,
                        detail: format!(
                            "correlation key {:?} is {}, which the engine does not compare",
                            key.name,
                            key.value.type_name()
                        ),
                    }),
                    _ => Ok(()),
                }
            })?;
        }
        Action::Start(start) => {
            match &start.by {
                StartBy::Message(name) => text("message_name", name, LONGEST_NAME)?,
                StartBy::DefinitionKey(key) => text("process_definition_key", key, LONGEST_NAME)?,
            }
            optional("business_key", start.business_key.as_deref(), LONGEST_NAME)?;
            tenant(&start.tenant)?;
        }
        Action::Apply(_) => {
            return Err(Undecodable {
                reason: DeadReason::Refused,
                detail: "a route to this engine needs correlate or start, not apply".to_owned(),
            });
        }
    }
    message.variables.iter().try_for_each(|own| {
        if own.name.starts_with(RECEIPT) {
            return Err(Undecodable {
                reason: DeadReason::Refused,
                detail: format!(
                    "variable {:?}: names like this are Sluice's receipts",
                    own.name
                ),
            });
        }
        variable(own)
    })
}

fn tenant(tenant: &Tenant) -> Result<(), Undecodable> {
    match tenant {
        Tenant::Is(id) => text("tenant_id", id, LONGEST_ID),
        Tenant::Any | Tenant::Without => Ok(()),
    }
}

fn variable(variable: &Variable) -> Result<(), Undecodable> {
    text("a variable's name", &variable.name, LONGEST_NAME)?;
    match &variable.value {
        Value::String(value) => text(&variable.name, value, LONGEST_TEXT),
        _ => Ok(()),
    }
}

fn optional(what: &str, value: Option<&str>, longest: usize) -> Result<(), Undecodable> {
    value.map_or(Ok(()), |value| text(what, value, longest))
}

fn text(what: &str, value: &str, longest: usize) -> Result<(), Undecodable> {
    if value.contains('\0') {
        return Err(Undecodable {
            reason: DeadReason::Refused,
            detail: format!("{what} has a NUL character, which the engine's database cannot hold"),
        });
    }
    // The column counts characters, not bytes; the bytes are a cheap upper bound.
    if value.len() <= longest {
        return Ok(());
    }
    let characters = value.chars().count();
    if characters <= longest {
        return Ok(());
    }
    Err(Undecodable {
        reason: DeadReason::ValueTooLong,
        detail: format!(
            "{what} has {characters} characters, the engine's column holds {longest} (map it as json or bytes)"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: Value) -> Result<(), Undecodable> {
        variable(&Variable {
            name: "v".into(),
            value,
        })
    }

    #[test]
    fn a_string_of_4001_characters_is_too_long_and_4000_umlauts_are_not() {
        assert!(of(Value::String("ü".repeat(4000))).is_ok());
        let error = of(Value::String("x".repeat(4001))).unwrap_err();
        assert_eq!(error.reason, DeadReason::ValueTooLong);
        assert!(of(Value::Json("x".repeat(40_000))).is_ok());
    }

    #[test]
    fn a_nul_is_refused_in_text_and_kept_in_bytes() {
        let error = of(Value::String("a\0b".into())).unwrap_err();
        assert_eq!(error.reason, DeadReason::Refused);
        assert!(of(Value::Bytes(vec![0])).is_ok());
    }

    #[test]
    fn values_stand_in_the_engines_own_columns() {
        let integer = columns(&Value::Integer(-5));
        assert_eq!((integer.kind, integer.long), ("integer", Some(-5)));
        assert_eq!(integer.text.as_deref(), Some("-5"));
        let empty = columns(&Value::String(String::new()));
        assert_eq!(empty.text.as_deref(), Some(""));
        assert_eq!(empty.text2.as_deref(), Some("!emptyString!"));
        assert_eq!(columns(&Value::Boolean(true)).long, Some(1));
        assert_eq!(columns(&Value::Date(12)).long, Some(12));
        assert_eq!(columns(&Value::Double(0.5)).double, Some(0.5));
        assert_eq!(
            columns(&Value::Json("{}".into())).bytes,
            Some(b"{}".to_vec())
        );
        assert_eq!(
            columns(&Value::Null),
            Columns {
                kind: "null",
                ..Columns::default()
            }
        );
    }
}
