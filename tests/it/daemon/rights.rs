//! The daemon's rights: tables of their owner, and a role that deploy/grants.sql gives what it needs.
//!
//! So every daemon of the tests runs as an administrator would let it run, and what the grants lack shows.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::process::Command;
use tokio::sync::Mutex;

use crate::rig::daemon_role;

/// Where a daemon's tables are, and what else it must be allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// As the owner.
    pub url: String,
    pub schema: String,
    /// Schema and table prefix of each engine.
    pub engines: Vec<(String, String)>,
    /// What the user's own statements need, such as `INSERT ON public.ledger`.
    pub further: Vec<String>,
}

/// Several daemons run in one place, and those of several tests side by side.
static PREPARED: Mutex<BTreeSet<Place>> = Mutex::const_new(BTreeSet::new());

impl Place {
    /// What the daemon logs in as.
    pub fn role(&self) -> String {
        daemon_role(&self.url, &self.schema)
    }

    /// The URL with that role.
    pub fn url_of_daemon(&self) -> String {
        let mut url = reqwest::Url::parse(&self.url).expect("the rig's URLs are URLs");
        url.set_username(&self.role()).expect("it has a host");
        url.into()
    }

    /// `sluice migrate` as the owner, by the configuration at `owner`; then the grants.
    pub async fn prepare(&self, owner: &Path) {
        let mut prepared = PREPARED.lock().await;
        if prepared.contains(self) {
            return;
        }
        let mut migrate = Command::new(env!("CARGO_BIN_EXE_sluice"));
        migrate.args(["migrate", "-c"]).arg(owner);
        succeed(&migrate.output().await.unwrap()).unwrap();
        self.create_role().await;
        self.grant_all().await.unwrap();
        prepared.insert(self.clone());
    }

    /// The role, if it is not there yet; it may log in and no more.
    pub async fn create_role(&self) {
        let role = self.role();
        self.execute(&format!(
            "DO $$ BEGIN
                PERFORM pg_advisory_xact_lock(hashtext('sluice grants'));
                IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
                    CREATE ROLE {role} LOGIN;
                END IF;
             END $$"
        ))
        .await;
    }

    /// Gives the role its rights, as an administrator would.
    pub async fn grant_all(&self) -> Result<(), String> {
        if self.engines.is_empty() {
            self.grant(&[]).await?;
        }
        for (schema, prefix) in &self.engines {
            let engine = format!("engine={schema}");
            let prefix = format!("prefix={}", prefix.to_lowercase());
            self.grant(&[&engine, &prefix]).await?;
        }
        for right in &self.further {
            self.execute(&format!("GRANT {right} TO {}", self.role()))
                .await;
        }
        Ok(())
    }

    /// Runs deploy/grants.sql, as its head says.
    async fn grant(&self, engine: &[&str]) -> Result<(), String> {
        let mut psql = Command::new("psql");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grants.sql");
        let (role, schema) = (
            format!("role={}", self.role()),
            format!("schema={}", self.schema),
        );
        for variable in [role.as_str(), &schema].iter().chain(engine) {
            psql.args(["-v", variable]);
        }
        psql.arg("-f").arg(script).arg(&self.url);
        succeed(&psql.output().await.unwrap())
    }

    async fn execute(&self, sql: &str) {
        let mut owner = PgConnection::connect(&self.url).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut owner)
            .await
            .unwrap();
        owner.close().await.unwrap();
    }
}

fn succeed(output: &Output) -> Result<(), String> {
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&said).into_owned())
}
