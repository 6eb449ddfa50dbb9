//! Which rows an operator means: the filter's arguments.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::inbox::{Filter, RowId, StateName};
use crate::message::{DeadReason, WaitReason};
use crate::units::Span;

/// Rows by what they are; every given one must hold.
#[derive(Debug, Args)]
pub struct Choice {
    /// Of this route
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// In this state
    #[arg(long, value_name = "STATE", value_parser = states())]
    state: Option<StateName>,
    /// For this reason, as `sluice inbox list` shows it
    #[arg(long, value_name = "REASON", value_parser = PossibleValuesParser::new(reasons()), hide_possible_values = true)]
    reason: Option<String>,
    /// With this dedup key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Accepted within this time, such as 2h or 3d
    #[arg(long, value_name = "DURATION", value_parser = span)]
    since: Option<Span>,
}

impl Choice {
    /// Whether it means every row.
    pub fn is_empty(&self) -> bool {
        let Self {
            route,
            state,
            reason,
            key,
            since,
        } = self;
        route.is_none() && state.is_none() && reason.is_none() && key.is_none() && since.is_none()
    }

    pub fn state(&self) -> Option<StateName> {
        self.state
    }

    pub fn filter(self) -> Filter {
        Filter {
            route: self.route,
            state: self.state,
            reason: self.reason,
            dedup_key: self.key,
            since: self.since,
            ..Filter::default()
        }
    }
}

/// # Errors
/// What was expected, for the person who typed it.
pub fn row_id(text: &str) -> Result<RowId, String> {
    text.parse()
        .map(RowId)
        .map_err(|_| "expected a row's id, as `sluice inbox list` shows it".to_owned())
}

fn span(text: &str) -> Result<Span, String> {
    humantime::parse_duration(text)
        .map(Span)
        .map_err(|_| "expected a duration such as 30m, 2h or 3d".to_owned())
}

fn states() -> impl TypedValueParser<Value = StateName> {
    PossibleValuesParser::new(StateName::ALL.map(StateName::as_str)).map(|name| {
        let named = StateName::ALL
            .into_iter()
            .find(|state| state.as_str() == name);
        named.expect("the parser admits only the names of states")
    })
}

fn reasons() -> Vec<&'static str> {
    let mut reasons: Vec<_> = DeadReason::ALL
        .iter()
        .map(|reason| reason.as_str())
        .collect();
    reasons.extend(WaitReason::ALL.iter().map(|reason| reason.as_str()));
    reasons
}
