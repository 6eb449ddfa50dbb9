//! Statements whose tables stand in a configured schema.
//!
//! The one place that puts a name into SQL. The name is checked once to be an identifier, quoted, and
//! stands wherever a statement says `{s}`; values never travel this way.

use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

/// The schema of our own tables.
pub(super) struct Schema {
    name: String,
    quoted: String,
}

impl Schema {
    /// # Errors
    /// `name` is not `[A-Za-z_][A-Za-z0-9_]{0,62}`.
    pub(super) fn new(name: &str) -> Result<Self, sqlx::Error> {
        let first = |c: char| c.is_ascii_alphabetic() || c == '_';
        let rest = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.len() <= 63 && name.starts_with(first) && name.chars().all(rest) {
            Ok(Self {
                name: name.to_owned(),
                quoted: format!("\"{name}\""),
            })
        } else {
            let expected = "letters, digits and underscores, at most 63, no digit first";
            Err(sqlx::Error::Configuration(
                format!("the schema's name {name:?} is not an identifier: expected {expected}")
                    .into(),
            ))
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn quoted(&self) -> &str {
        &self.quoted
    }

    /// A statement's text with the schema in its places.
    pub(super) fn sql(&self, text: &str) -> SqlStr {
        let text: std::sync::Arc<str> = text.replace("{s}", &self.quoted).into();
        AssertSqlSafe(text).into_sql_str()
    }
}

/// A struct of statements, made once for a schema.
macro_rules! statements {
    ($($field:ident: $text:expr,)+) => {
        pub(super) struct Statements { $($field: sqlx::SqlStr,)+ }

        impl Statements {
            pub(super) fn new(schema: &super::statement::Schema) -> Self {
                Self { $($field: schema.sql($text),)+ }
            }

            pub(super) fn all(&self) -> Vec<sqlx::SqlStr> {
                vec![$(self.$field.clone(),)+]
            }
        }
    };
}
pub(super) use statements;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever name is let in ends where its quotes end.
        #[test]
        fn a_name_that_is_let_in_stays_inside_its_quotes(
            name in prop_oneof![any::<String>(), "[a-z_][a-z0-9_]{0,70}[\"';.\\\\ \\PC]{0,2}"]
        ) {
            if let Ok(schema) = Schema::new(&name) {
                let text = schema.sql("SELECT 1 FROM {s}.inbox");
                let within = text.as_str().split('"').collect::<Vec<_>>();
                prop_assert_eq!(within, ["SELECT 1 FROM ", name.as_str(), ".inbox"]);
                prop_assert!((1..=63).contains(&name.len()));
            }
        }
    }

    #[test]
    fn only_an_identifier_is_a_schema() {
        for name in ["sluice", "Sluice_2", "_", "select"] {
            let schema = Schema::new(name).expect(name);
            assert_eq!(
                schema.sql("SELECT 1 FROM {s}.inbox").as_str(),
                format!("SELECT 1 FROM \"{name}\".inbox")
            );
        }
        for name in ["", "2nd", "a b", "a\"b", "a.b", "ä", &"x".repeat(64)] {
            assert!(Schema::new(name).is_err(), "{name}");
        }
    }
}
