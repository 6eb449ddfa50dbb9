//! What is found out about the set-up, before and while it runs: mistakes in the file, and what a look at the
//! servers says. The words that every part tells people in.

/// One line of what `check --connect` found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    pub level: Level,
    pub text: String,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Info,
    Warning,
    Error,
}

impl Finding {
    pub fn info(text: impl Into<String>) -> Self {
        Self {
            level: Level::Info,
            text: text.into(),
        }
    }

    pub fn warning(text: impl Into<String>) -> Self {
        Self {
            level: Level::Warning,
            text: text.into(),
        }
    }

    pub fn error(text: impl Into<String>) -> Self {
        Self {
            level: Level::Error,
            text: text.into(),
        }
    }
}

/// Something that is wrong in a part's table, found without any server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where, below the part's own table: `uris[0]`, `librdkafka_options.group.id`.
    pub path: String,
    /// What was expected.
    pub what: String,
}

impl Mistake {
    pub fn new(path: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            what: what.into(),
        }
    }
}
