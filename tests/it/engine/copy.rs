//! The engine's tables without the engine: for tests that do to them what no engine may see.

use std::path::Path;
use std::process::Stdio;

use sqlx::AssertSqlSafe;

use super::Place;
use crate::rig::{Database, Rig};

/// A copy of the engine's tables, empty, in a database of its own, and Sluice's beside them.
pub struct Copy {
    pub place: Place,
    _database: Database,
}

impl Copy {
    pub async fn of_the_engines_tables() -> Copy {
        let rig = Rig::get();
        let database = rig.database().await;
        let mut dump = tokio::process::Command::new("pg_dump")
            .args(["--schema-only", "--no-owner", "--no-privileges"])
            .args(["--table", "public.act_*", "-d", &rig.engine_database_url()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("pg_dump is there");
        let out: Stdio = dump.stdout.take().expect("piped").try_into().unwrap();
        let psql = tokio::process::Command::new("psql")
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &database.url()])
            .stdin(out)
            .stdout(Stdio::null())
            .status()
            .await
            .expect("psql is there");
        assert!(dump.wait().await.unwrap().success() && psql.success());
        let schema = rig.postgres.schema(database.name());
        Copy {
            place: Place::beside(schema, rig.engine(), &[]).await,
            _database: database,
        }
    }

    /// Puts models of tests/rig/bpmn, without their suffix, into a deployment `d`; each resource has the
    /// model's name. The definitions are for the test to make.
    pub async fn deploy(&self, models: &[&str]) {
        self.run(
            "INSERT INTO act_ge_property VALUES ('historyLevel', '3', 1);
             INSERT INTO act_re_deployment (id_, name_) VALUES ('d', 'd')",
        )
        .await;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rig/bpmn");
        for model in models {
            let text = std::fs::read_to_string(folder.join(format!("{model}.bpmn"))).unwrap();
            let sql = "INSERT INTO act_ge_bytearray (id_, rev_, name_, deployment_id_, bytes_)
                       VALUES ($1, 1, $1, 'd', $2)";
            sqlx::query(sql)
                .bind(model)
                .bind(text.replace("_suffix", "").into_bytes())
                .execute(&self.place.pool)
                .await
                .unwrap();
        }
    }

    /// Runs statements as superuser.
    pub async fn run(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&self.place.pool)
            .await
            .unwrap();
    }
}
