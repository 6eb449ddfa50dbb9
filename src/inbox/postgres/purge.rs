//! Purge: payloads first, keys later, both counted from *done*; a bounded round at a time.

use super::PostgresInbox;
use super::statement::statements;
use crate::inbox::span::ms;
use crate::inbox::{DbError, Inbox as _, Purged, Retention};

statements! {
    keys: r"/* inbox.purge_keys */
        DELETE FROM {s}.inbox
        WHERE id IN (
            SELECT id FROM {s}.inbox
            WHERE state = 'done'
                AND done_at < statement_timestamp() - $1::bigint * interval '1 millisecond'
            ORDER BY done_at
            LIMIT $2
            FOR UPDATE SKIP LOCKED
        )",
    payloads: r"/* inbox.purge_payloads */
        UPDATE {s}.inbox SET payload = NULL, envelope = ''
        WHERE id IN (
            SELECT id FROM {s}.inbox
            WHERE state = 'done' AND payload IS NOT NULL
                AND done_at < statement_timestamp() - $1::bigint * interval '1 millisecond'
            ORDER BY done_at
            LIMIT $2
            FOR UPDATE SKIP LOCKED
        )",
}

pub(super) async fn purge(
    inbox: &PostgresInbox,
    retention: Retention,
    limit: i64,
) -> Result<Purged, DbError> {
    let statements = &inbox.inner.purge;
    let mut tx = inbox.begin().await?;
    let keys = sqlx::query(statements.keys.clone())
        .bind(ms(retention.key))
        .bind(limit);
    let keys = inbox
        .within("inbox.purge_keys", keys.execute(&mut *tx))
        .await?;
    let payloads = sqlx::query(statements.payloads.clone())
        .bind(ms(retention.payload))
        .bind(limit);
    let payloads = inbox
        .within("inbox.purge_payloads", payloads.execute(&mut *tx))
        .await?;
    inbox.commit(tx).await?;
    Ok(Purged {
        payloads: payloads.rows_affected(),
        keys: keys.rows_affected(),
    })
}
