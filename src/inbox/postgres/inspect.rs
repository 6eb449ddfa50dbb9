//! What `sluice check --connect` says about the server.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::PostgresInbox;
use super::statement::statements;
use crate::finding::Finding;
use crate::inbox::{DbError, Inbox as _, Pooler};

statements! {
    settings: r"/* inbox.inspect */
        SELECT current_setting('server_version') AS version,
            current_setting('server_version_num')::integer AS version_number,
            current_setting('fsync') = 'on' AS fsync,
            current_setting('full_page_writes') = 'on' AS full_page_writes,
            current_setting('synchronous_standby_names') AS standbys,
            current_setting('server_encoding') AS encoding,
            current_setting('max_connections')::integer AS max_connections,
            pg_is_in_recovery() AS standby,
            current_setting('transaction_read_only') = 'on' AS read_only",
}

pub(super) async fn inspect(inbox: &PostgresInbox) -> Result<Vec<Finding>, DbError> {
    let mut tx = inbox.begin().await?;
    let query = sqlx::query(inbox.inner.inspect.settings.clone());
    let row = inbox
        .within("inbox.inspect", query.fetch_one(&mut *tx))
        .await?;
    inbox.commit(tx).await?;
    let mut findings = findings(inbox, &row).map_err(DbError::of("inbox.inspect"))?;
    let connections = &inbox.inner.connections;
    let meets_pooler = inbox.within("inbox.pooler", connections.meets_pooler());
    findings.extend(between(connections.pooler(), meets_pooler.await?));
    Ok(findings)
}

/// What stands between this node and the server, and whether the configuration knows.
fn between(configured: Pooler, meets_pooler: bool) -> Option<Finding> {
    Some(match (configured, meets_pooler) {
        (Pooler::None, false) => return None,
        (Pooler::None, true) => Finding::warning(
            "a pooler stands before the server: if it pools by transaction, set `inbox.pooler = \"transaction\"`",
        ),
        (Pooler::Transaction, true) => Finding::info(
            "a pooler stands before the server: no state of a session is used, and each statement is parsed anew",
        ),
        (Pooler::Transaction, false) => Finding::warning(
            "no pooler stands before the server: `inbox.pooler = \"none\"` spares it parsing each statement anew",
        ),
    })
}

fn findings(inbox: &PostgresInbox, row: &PgRow) -> Result<Vec<Finding>, sqlx::Error> {
    let version: String = row.try_get("version")?;
    let mut findings = vec![Finding::info(format!(
        "PostgreSQL {version}, own tables in schema {}",
        inbox.schema()
    ))];
    if row.try_get::<i32, _>("version_number")? < 140_000 {
        findings.push(Finding::error(
            "PostgreSQL 14 is the oldest that is supported",
        ));
    }
    if row.try_get("standby")? {
        findings.push(Finding::error(
            "this server is a standby: nothing can be accepted on it",
        ));
    } else if row.try_get("read_only")? {
        findings.push(Finding::error(
            "transactions are read-only here: nothing can be accepted",
        ));
    }
    let encoding: String = row.try_get("encoding")?;
    if encoding != "UTF8" {
        findings.push(Finding::error(format!(
            "the database's encoding is {encoding}: keys outside it are refused; expected UTF8"
        )));
    }
    for setting in ["fsync", "full_page_writes"] {
        if !row.try_get::<bool, _>(setting)? {
            findings.push(Finding::error(format!(
                "{setting} is off: a crash of the server's machine loses acknowledged messages"
            )));
        }
    }
    let standbys: String = row.try_get("standbys")?;
    findings.push(if standbys.is_empty() {
        Finding::warning(
            "no synchronous standby: a failover loses what was committed last, although it is acknowledged",
        )
    } else {
        Finding::info(format!("synchronous standbys: {standbys}"))
    });
    let ours = inbox.pool().options().get_max_connections();
    let all: i32 = row.try_get("max_connections")?;
    if i64::from(ours) * 4 > i64::from(all) {
        findings.push(Finding::warning(format!(
            "each node may open {ours} connections, and the server has {all} for everybody"
        )));
    }
    Ok(findings)
}
