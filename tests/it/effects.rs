//! Effects, counted where they are made: in the engine's own history, read-only.
//!
//! REST answers the same and is what the smaller tests ask; this is for thousands. Knows nothing of
//! Sluice's tables, so that a daemon that deceives itself cannot deceive a test.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::rig::eventually;

/// The history in one engine database.
pub struct Effects {
    pool: PgPool,
}

impl Effects {
    pub async fn at(engine_database_url: &str) -> Effects {
        let pool = PgPoolOptions::new()
            .max_connections(2)
            .connect(engine_database_url)
            .await
            .expect("the engine's database is there");
        Effects { pool }
    }

    /// How often an activity of a process was finished, by the instance's business key.
    pub async fn of(&self, process: &str, activity: &str) -> BTreeMap<String, i64> {
        let sql = "SELECT p.business_key_, count(*)
                     FROM act_hi_actinst a JOIN act_hi_procinst p ON p.id_ = a.proc_inst_id_
                    WHERE a.proc_def_key_ = $1 AND a.act_id_ = $2 AND a.end_time_ IS NOT NULL
                    GROUP BY 1";
        let rows: Vec<(Option<String>, i64)> = sqlx::query_as(sql)
            .bind(process)
            .bind(activity)
            .fetch_all(&self.pool)
            .await
            .expect("the engine's database answers");
        rows.into_iter()
            .map(|(key, count)| (key.unwrap_or_default(), count))
            .collect()
    }

    /// How many instances of a process were started, by their business key.
    pub async fn started(&self, process: &str) -> BTreeMap<String, i64> {
        let sql = "SELECT business_key_, count(*) FROM act_hi_procinst
                    WHERE proc_def_key_ = $1 GROUP BY 1";
        let rows: Vec<(Option<String>, i64)> = sqlx::query_as(sql)
            .bind(process)
            .fetch_all(&self.pool)
            .await
            .expect("the engine's database answers");
        rows.into_iter()
            .map(|(key, count)| (key.unwrap_or_default(), count))
            .collect()
    }

    /// How many jobs of a process were run to their end, by the type of their handler.
    pub async fn jobs(&self, process: &str) -> BTreeMap<String, i64> {
        let sql = "SELECT job_def_type_, count(*) FROM act_hi_job_log
                    WHERE process_def_key_ = $1 AND job_state_ = 2 GROUP BY 1";
        let rows: Vec<(Option<String>, i64)> = sqlx::query_as(sql)
            .bind(process)
            .fetch_all(&self.pool)
            .await
            .expect("the engine's database answers");
        rows.into_iter()
            .map(|(kind, count)| (kind.unwrap_or_default(), count))
            .collect()
    }

    /// Every value that a variable of a process was ever given, in order, by the instance's business key.
    pub async fn values(&self, process: &str, variable: &str) -> BTreeMap<String, Vec<String>> {
        let sql = "SELECT p.business_key_, d.text_
                     FROM act_hi_detail d JOIN act_hi_procinst p ON p.id_ = d.proc_inst_id_
                    WHERE d.proc_def_key_ = $1 AND d.name_ = $2 AND d.type_ = 'VariableUpdate'
                    ORDER BY d.time_, d.sequence_counter_";
        let rows: Vec<(Option<String>, Option<String>)> = sqlx::query_as(sql)
            .bind(process)
            .bind(variable)
            .fetch_all(&self.pool)
            .await
            .expect("the engine's database answers");
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in rows {
            let of_key = values.entry(key.unwrap_or_default()).or_default();
            of_key.push(value.unwrap_or_default());
        }
        values
    }

    /// When each value of a variable of a process was set, in seconds since 1970 by the engine's clock (UTC).
    pub async fn values_at(&self, process: &str, variable: &str) -> Vec<(String, f64)> {
        let sql = "SELECT text_, extract(epoch FROM time_)::float8 FROM act_hi_detail
                    WHERE proc_def_key_ = $1 AND name_ = $2 AND type_ = 'VariableUpdate' AND text_ IS NOT NULL";
        sqlx::query_as(sql)
            .bind(process)
            .bind(variable)
            .fetch_all(&self.pool)
            .await
            .expect("the engine's database answers")
    }

    /// What the engine's tables hold beside instances that wait for messages and the variables of these names.
    pub async fn residue(&self, variables: &[&str]) -> Vec<(String, i64)> {
        let sql = "
            SELECT * FROM (
                SELECT 'jobs' AS what, count(*) AS number FROM act_ru_job
                UNION ALL SELECT 'incidents', count(*) FROM act_ru_incident
                UNION ALL SELECT 'external tasks', count(*) FROM act_ru_ext_task
                UNION ALL SELECT 'variable ' || name_, count(*) FROM act_ru_variable
                           WHERE name_ <> ALL($1) OR proc_inst_id_ IS NULL GROUP BY 1
                UNION ALL SELECT 'bytes without a name', count(*) FROM act_ge_bytearray WHERE name_ IS NULL
            ) residue WHERE number > 0";
        sqlx::query_as(sql)
            .bind(variables)
            .fetch_all(&self.pool)
            .await
            .expect("the engine's database answers")
    }

    /// Waits until every one of these business keys has had at least so many effects.
    pub async fn until(
        &self,
        process: &str,
        activity: &str,
        keys: &[String],
        each: i64,
        limit: Duration,
    ) -> BTreeMap<String, i64> {
        let mut lacking = 0;
        let look = async || {
            let effects = self.of(process, activity).await;
            let lacks = |key: &&String| effects.get(*key).is_none_or(|&count| count < each);
            lacking = keys.iter().filter(lacks).count();
            (lacking == 0).then_some(effects)
        };
        eventually(
            &format!("every one of {} keys finishing {activity}", keys.len()),
            limit,
            look,
        )
        .await
    }

    /// Waits until every one of these business keys had its effects, and says when one had more.
    pub async fn exactly(
        &self,
        process: &str,
        activity: &str,
        keys: &[String],
        each: i64,
        limit: Duration,
    ) {
        let effects = self.until(process, activity, keys, each, limit).await;
        let doubled: Vec<_> = effects.iter().filter(|&(_, &n)| n != each).collect();
        assert!(
            doubled.is_empty(),
            "{activity} has more than {each} effects: {doubled:?}"
        );
        let strangers = effects.len() - keys.len();
        assert_eq!(
            strangers, 0,
            "{activity} has effects for keys that nobody sent"
        );
    }
}
