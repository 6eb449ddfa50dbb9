//! Names of tables in statements: the one place where configured identifiers enter SQL text.

use sqlx::AssertSqlSafe;

/// Where the engine's tables and ours are.
#[derive(Debug, Clone)]
pub struct Tables {
    engine: String,
    inbox: String,
    /// The engine's schema and prefix as they are, for the catalogue.
    pub engine_schema: String,
    pub prefix: String,
}

impl Tables {
    /// All three must be identifiers (letters, digits, `_`); the configuration's check refuses others.
    pub fn new(engine_schema: &str, prefix: &str, inbox_schema: &str) -> Self {
        for name in [engine_schema, prefix, inbox_schema] {
            assert!(
                name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'),
                "identifiers are checked with the configuration: {name:?}"
            );
        }
        Self {
            // The engine's own statements do not quote, so its names are lower case in the catalogue.
            engine: format!("\"{engine_schema}\".{}", prefix.to_ascii_lowercase()),
            inbox: format!("\"{inbox_schema}\"."),
            engine_schema: engine_schema.to_owned(),
            prefix: prefix.to_ascii_lowercase(),
        }
    }

    /// Puts the names into a statement: `{e}` stands before the engine's tables, `{s}` before ours.
    ///
    /// The text itself must be a constant of the program; every value is a parameter.
    pub fn sql(&self, text: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(
            text.replace("{e}", &self.engine)
                .replace("{s}", &self.inbox),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_before_every_table() {
        let tables = Tables::new("engine", "CAM_", "sluice");
        assert_eq!(
            tables.sql("SELECT 1 FROM {e}act_ru_job, {s}pending").0,
            "SELECT 1 FROM \"engine\".cam_act_ru_job, \"sluice\".pending"
        );
    }

    #[test]
    #[should_panic(expected = "identifiers are checked")]
    fn nothing_but_identifiers_enters_a_statement() {
        let _ = Tables::new("public", "x;drop table", "sluice");
    }
}
