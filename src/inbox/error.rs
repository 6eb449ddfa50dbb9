//! Errors of a database by class: what the intake does next depends on nothing else.
//!
//! The list of *data* errors is a white-list: everything that is not on it, and every code that nobody
//! knows, is an outage, because an outage costs nothing but time.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;

/// What an error says about whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// About one row's data: bisect down to it, store it dead, commit its neighbours.
    Data,
    /// The user's own statement refused one message: an attempt of that message.
    Message,
    /// Somebody was quicker, or a lock was not to be had: the same batch again, matched anew.
    Again,
    /// Not about any message: wait and try the same batch again, no attempt used.
    Outage,
}

impl Class {
    pub const ALL: [Self; 4] = [Self::Data, Self::Message, Self::Again, Self::Outage];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Message => "message",
            Self::Again => "again",
            Self::Outage => "outage",
        }
    }
}

/// A database's error, classified.
#[derive(Debug)]
pub struct DbError {
    pub class: Class,
    /// The step that failed, for people.
    pub step: &'static str,
    pub source: sqlx::Error,
}

impl DbError {
    pub fn of(step: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self {
            class: classify(&source),
            step,
            source,
        }
    }

    /// What a statement of this transaction saw is no longer so.
    pub fn overtaken(step: &'static str) -> Self {
        Self {
            class: Class::Again,
            step,
            source: sqlx::Error::RowNotFound,
        }
    }

    /// How the work ends, or that it takes longer than `limit`: a machine that vanished never answers.
    ///
    /// # Errors
    /// The work's own, or that nothing came back in time.
    pub async fn unless_late<T>(
        step: &'static str,
        limit: Duration,
        work: impl Future<Output = Result<T, Self>>,
    ) -> Result<T, Self> {
        let late = |_| {
            let cause = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time");
            Err(Self::of(step)(sqlx::Error::Io(cause)))
        };
        tokio::time::timeout(limit, work).await.unwrap_or_else(late)
    }

    /// The server's code, such as SQLSTATE.
    pub fn code(&self) -> Option<String> {
        said_by_database(&self.source).and_then(|error| error.code().map(Cow::into_owned))
    }

    /// What is the matter with the database, as the end of a sentence that begins with it.
    pub fn plight(&self) -> &'static str {
        match &self.source {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => "does not answer",
            error if said_by_database(error).is_some() => "refuses this node",
            _ => "cannot be used",
        }
    }

    /// Whether an outage's error could come from what the batch holds: a statement that never fits its
    /// time limit, an error that nobody knows. A broken connection, a full disk, a table or column that
    /// went away, a missing privilege cannot: the statements are the same for every batch. Nor can a
    /// column that gets no value, where that is an outage and not data: an engine's new column.
    pub fn may_be_the_batch(&self) -> bool {
        match (self.code(), &self.source) {
            (Some(code), _) => code != NOT_NULL && !is_about_the_server(&code),
            (None, sqlx::Error::Io(cause)) => cause.kind() == std::io::ErrorKind::TimedOut,
            (None, _) => false,
        }
    }

    /// Whether somebody else's lock or transaction is what stands in the way, however long it does.
    pub fn is_contention(&self) -> bool {
        let Some(error) = said_by_database(&self.source) else {
            return false;
        };
        let code = error.code().unwrap_or_default();
        if is_postgres(error) {
            matches!(&*code, "40001" | "40P01" | "55P03")
        } else {
            is_busy(&code)
        }
    }

    /// For logs and rows: the code and the server's message, never its detail, which may quote values.
    pub fn redacted(&self) -> String {
        let step = self.step;
        if let Some(error) = said_by_database(&self.source) {
            let code = self.code().unwrap_or_default();
            let mut message = error.message();
            if code.starts_with("22") {
                // PostgreSQL quotes the value ("invalid input syntax … \"abc\"").
                message = message.split('"').next().unwrap_or_default().trim();
            }
            let advice = advice(step, &code);
            return format!("{step}: {code} {message}{advice}");
        }
        match &self.source {
            sqlx::Error::PoolTimedOut => format!(
                "{step}: no connection was to be had: all of this node's are in use, or none can be made"
            ),
            sqlx::Error::Io(cause) => format!("{step}: {cause}"),
            other => format!("{step}: {other}"),
        }
    }
}

/// What the server said, if it is the server who speaks.
fn said_by_database(error: &sqlx::Error) -> Option<&dyn DatabaseError> {
    match error {
        sqlx::Error::Migrate(migration) => match &**migration {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                said_by_database(error)
            }
            _ => None,
        },
        error => error.as_database_error(),
    }
}

/// What an operator does about it, where that is certain.
fn advice(step: &str, code: &str) -> &'static str {
    match code {
        // INSUFFICIENT_PRIVILEGE
        "42501" if step == "inbox.migrate" => {
            " (run `sluice migrate` as the role that owns Sluice's tables, or may create their schema: the \
             daemon's own needs no such right; then give the daemon its rights by deploy/grants.sql)"
        }
        // LOCK_NOT_AVAILABLE, again and again
        "55P03" if step == "inbox.migrate" => {
            " (somebody keeps Sluice's tables locked, such as a dump, or migrates them: wait for it or end it, and \
             run `sluice migrate` again; pg_locks says who)"
        }
        // The user's own statements ask for rights that nobody here knows.
        "42501" if !step.starts_with("engine.sql") => {
            " (deploy/grants.sql gives the rights, after every `sluice migrate`)"
        }
        // A name of the driver's that another session gave or did not give.
        "26000" | "42P05" => {
            " (is there a pooler between, which pools by transaction? Then set `inbox.pooler = \"transaction\"`)"
        }
        _ => "",
    }
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl std::error::Error for DbError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        None
    }
}

fn classify(error: &sqlx::Error) -> Class {
    let Some(error) = said_by_database(error) else {
        return match error {
            // The value could not even be sent: sqlx refused to encode it.
            sqlx::Error::Encode(_) => Class::Data,
            _ => Class::Outage,
        };
    };
    let code = error.code().unwrap_or_default();
    if is_postgres(error) {
        classify_postgres(&code)
    } else {
        classify_sqlite(&code)
    }
}

fn is_postgres(error: &dyn DatabaseError) -> bool {
    let error = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>();
    error.is_some()
}

/// By SQLSTATE: a column that must have a value got none.
const NOT_NULL: &str = "23502";

/// By SQLSTATE: connection, feature, transaction state, authorization, prepared statement, database,
/// schema, syntax and names, resources, shutdown, system.
fn is_about_the_server(code: &str) -> bool {
    const CLASSES: [&str; 11] = [
        "08", "0A", "25", "26", "28", "3D", "3F", "42", "53", "57P", "58",
    ];
    CLASSES.iter().any(|class| code.starts_with(class))
}

/// By SQLSTATE.
fn classify_postgres(code: &str) -> Class {
    match code {
        // Data exceptions; a value too long or null or out of a check; too large for a row.
        _ if code.starts_with("22") => Class::Data,
        NOT_NULL | "23514" | "54000" => Class::Data,
        // A definition that went away, an id or claim that somebody else took: match again.
        "23503" | "23505" | "40001" | "40P01" | "55P03" => Class::Again,
        _ => Class::Outage,
    }
}

/// By the extended result code.
fn classify_sqlite(code: &str) -> Class {
    let Ok(extended) = code.parse::<i32>() else {
        return Class::Outage;
    };
    match extended & 0xff {
        _ if is_busy(code) => Class::Again,
        // SQLITE_TOOBIG, SQLITE_MISMATCH
        18 | 20 => Class::Data,
        // SQLITE_CONSTRAINT: a unique or primary key is somebody quicker, the rest is about the row.
        19 => match extended {
            2067 | 1555 | 787 => Class::Again,
            _ => Class::Data,
        },
        _ => Class::Outage,
    }
}

/// By the extended result code: `SQLITE_BUSY` or `SQLITE_LOCKED`.
fn is_busy(code: &str) -> bool {
    let extended = code.parse::<i32>();
    extended.is_ok_and(|extended| matches!(extended & 0xff, 5 | 6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_listed_codes_are_about_a_message() {
        for code in ["22P02", "22021", "22001", "23502", "23514", "54000"] {
            assert_eq!(classify_postgres(code), Class::Data, "{code}");
        }
        for code in ["23503", "23505", "40001", "40P01", "55P03"] {
            assert_eq!(classify_postgres(code), Class::Again, "{code}");
        }
        // Read-only standby, disk full, too many connections, missing privilege, admin shutdown, unknown.
        for code in ["25006", "53100", "53300", "42501", "57P01", "XX000", ""] {
            assert_eq!(classify_postgres(code), Class::Outage, "{code}");
        }
    }

    #[test]
    fn a_table_that_went_away_is_nobodys_fault() {
        for code in ["42P01", "42703", "42501", "26000", "53100", "25006"] {
            assert!(is_about_the_server(code), "{code}");
        }
        for code in ["57014", "XX000", "P0001", "55P03"] {
            assert!(!is_about_the_server(code), "{code}");
        }
    }

    #[test]
    fn sqlite_has_a_list_of_its_own() {
        assert_eq!(classify_sqlite("5"), Class::Again);
        assert_eq!(classify_sqlite("517"), Class::Again);
        assert_eq!(classify_sqlite("2067"), Class::Again);
        assert_eq!(classify_sqlite("1299"), Class::Data);
        assert_eq!(classify_sqlite("18"), Class::Data);
        assert_eq!(classify_sqlite("13"), Class::Outage);
        assert_eq!(classify_sqlite("what"), Class::Outage);
    }
}
