//! PostgreSQL: a database or a schema for each test, and the role of the test's daemons.

use anyhow::Result;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use super::{orphaned, tidy, unique};

/// A server, by the URL of its superuser without a database.
#[derive(Clone)]
pub struct Postgres {
    server_url: String,
}

impl Postgres {
    pub fn at(server_url: &str) -> Postgres {
        Postgres {
            server_url: server_url.to_owned(),
        }
    }

    /// The URL of one of the server's databases.
    pub fn url(&self, database: &str) -> String {
        format!("{}/{database}", self.server_url)
    }

    /// A fresh, empty database.
    pub async fn database(&self) -> Database {
        let name = unique();
        let sql = format!("CREATE DATABASE {name}");
        execute(&self.url("postgres"), &sql)
            .await
            .expect("the superuser may create databases");
        Database {
            server: self.clone(),
            name,
        }
    }

    /// A name for a schema in a database that several tests share. The schema itself is not created: that
    /// is for the program under test to do.
    pub fn schema(&self, database: &str) -> Schema {
        Schema {
            url: self.url(database),
            name: format!("sluice_{}", unique()),
        }
    }

    pub(super) async fn sweep(&self, shared: &str) {
        // Two test processes may sweep at once; the one that comes second finds nothing to drop, and both
        // are content.
        let databases = names(
            &self.url("postgres"),
            "SELECT datname::text FROM pg_database",
        )
        .await;
        for name in databases.iter().filter(|name| orphaned(name)) {
            let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            let _ = execute(&self.url("postgres"), &sql).await;
        }
        let schemas = names(&self.url(shared), "SELECT nspname::text FROM pg_namespace").await;
        for name in schemas
            .iter()
            .filter(|name| name.strip_prefix("sluice_").is_some_and(orphaned))
        {
            let sql = format!("DROP SCHEMA IF EXISTS {name} CASCADE");
            let _ = execute(&self.url(shared), &sql).await;
        }
        let roles = names(&self.url(shared), "SELECT rolname::text FROM pg_roles").await;
        for role in &roles {
            let place = role.strip_prefix(DAEMON_OF).unwrap_or_default();
            if orphaned(place.strip_prefix("sluice_").unwrap_or(place)) {
                let _ = execute(&self.url(shared), &forget_role(role)).await;
            }
        }
    }
}

/// A database of one test's own; dropped with this value, whoever is still connected.
pub struct Database {
    server: Postgres,
    name: String,
}

impl Database {
    pub fn url(&self) -> String {
        self.server.url(&self.name)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A small pool for looking into the database from the test.
    pub async fn pool(&self) -> PgPool {
        pool(&self.url()).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let url = self.server.url("postgres");
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let forget = forget_role(&format!("{DAEMON_OF}{}", self.name));
        tidy(&format!("database {}", self.name), async move {
            execute(&url, &sql).await?;
            execute(&url, &forget).await
        });
    }
}

/// A schema of one test's own in a shared database; dropped with this value.
pub struct Schema {
    url: String,
    name: String,
}

impl Schema {
    /// The URL of the database that holds the schema.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A small pool for looking into the database from the test; its search path is the schema, then
    /// `public`.
    pub async fn pool(&self) -> PgPool {
        pool(&format!(
            "{}?options=-c%20search_path%3D{},public",
            self.url, self.name
        ))
        .await
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let url = self.url.clone();
        let name = self.name.clone();
        tidy(&format!("schema {name}"), async move {
            // Unlike a database, a schema cannot be dropped over the heads of those who use it. A daemon
            // that the test has just killed is such a one until the server notices.
            let sql = format!(
                "SELECT pg_terminate_backend(pid) FROM pg_locks \
                 WHERE locktype = 'relation' AND relation IN \
                 (SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace('{name}'))"
            );
            execute(&url, &sql).await?;
            execute(&url, &format!("DROP SCHEMA IF EXISTS {name} CASCADE")).await?;
            execute(&url, &forget_role(&format!("{DAEMON_OF}{name}"))).await
        });
    }
}

const DAEMON_OF: &str = "daemon_of_";

/// The role of the daemons of a test that has this schema, or this database, of its own. It belongs to the
/// whole server, and goes with what the test has.
pub fn daemon_role(url: &str, schema: &str) -> String {
    if schema.starts_with("sluice_") {
        return format!("{DAEMON_OF}{schema}");
    }
    let database = url.rsplit('/').next().unwrap_or_default();
    let database = database.split('?').next().unwrap_or_default();
    format!("{DAEMON_OF}{database}")
}

/// The lock is that of deploy/grants.sql, which changes the rights of the same tables.
fn forget_role(role: &str) -> String {
    format!(
        "DO $$ BEGIN
            PERFORM pg_advisory_xact_lock(hashtext('sluice grants'));
            IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
                DROP OWNED BY {role};
                DROP ROLE {role};
            END IF;
         END $$"
    )
}

async fn pool(url: &str) -> PgPool {
    PgPoolOptions::new()
        .max_connections(4)
        .connect(url)
        .await
        .expect("the test's own database is there")
}

async fn execute(url: &str, sql: &str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(())
}

async fn names(url: &str, sql: &'static str) -> Vec<String> {
    let Ok(mut connection) = PgConnection::connect(url).await else {
        return Vec::new();
    };
    sqlx::query_scalar(sql)
        .fetch_all(&mut connection)
        .await
        .unwrap_or_default()
}
