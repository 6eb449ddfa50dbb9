//! What may stand in the inbox's text columns, alike on every database.
//!
//! PostgreSQL's text cannot hold NUL, and producers send it. A column that only people read gets
//! U+FFFD in its place; a column that is compared with something else is left as it is, so that the
//! database refuses the row and the intake stores it dead, cleaned, instead of comparing wrongly.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::State;
use crate::message::Hash;

/// A text for people.
pub(super) fn shown(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A text that is compared with the engine's, as long as the row is alive.
pub(super) fn matched(text: Option<&str>, state: &State) -> Option<String> {
    text.map(|text| match state {
        State::Dead { .. } => shown(text),
        State::Waiting { .. } | State::Handed | State::Done { .. } => text.to_owned(),
    })
}

/// The column `route` of a row; empty where no route took it.
pub(super) fn route(column: String) -> Option<String> {
    Some(column).filter(|route| !route.is_empty())
}

/// A payload for people: as it is where it is UTF-8.
pub(super) fn body(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("base64:{}", BASE64.encode(bytes)),
    }
}

/// A stored hash.
pub(super) fn hash(bytes: &[u8]) -> Result<Hash, sqlx::Error> {
    bytes.try_into().map(Hash).map_err(|_| {
        let found = bytes.len();
        sqlx::Error::Decode(format!("a hash has 32 bytes, found {found}").into())
    })
}
