//! Who may read what is not health.
//!
//! With a token, whoever shows it. Without one, on loopback, whoever is on this machine; but a browser on this
//! machine also asks for the pages of strangers, and a stranger's name may be made to lead to loopback (DNS
//! rebinding). Such a request names the stranger's host, so that it must name this machine.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};

use crate::message::Hash;

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) enum Guard {
    /// The token, of which only the hash is kept.
    Token(Hash),
    /// That the request names this machine.
    Local,
    /// Nothing.
    Open,
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    NoToken,
    OtherHost,
}

impl Guard {
    pub fn of(token: Option<&SecretString>, on_loopback: bool) -> Self {
        match token {
            Some(token) => Self::Token(Hash::of(&[token.expose_secret().as_bytes()])),
            None if on_loopback => Self::Local,
            None => Self::Open,
        }
    }

    /// # Errors
    /// What is missing.
    pub fn admits(self, headers: &HeaderMap) -> Result<(), Refusal> {
        match self {
            Self::Token(expected) if !shows(headers, expected) => Err(Refusal::NoToken),
            Self::Local if !headers.get_all(header::HOST).iter().all(is_local) => {
                Err(Refusal::OtherHost)
            }
            Self::Token(_) | Self::Local | Self::Open => Ok(()),
        }
    }
}

/// Whether a `Host` is this machine, at any port.
fn is_local(host: &HeaderValue) -> bool {
    let authority = host.to_str().ok().and_then(|host| host.parse().ok());
    authority.is_some_and(|authority: Authority| {
        let host = authority.host();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let address = address.parse::<IpAddr>();
        host.eq_ignore_ascii_case("localhost")
            || address.is_ok_and(|address| address.to_canonical().is_loopback())
    })
}

/// Whether the request shows the token: as a bearer token, or, for browsers, as the password of Basic.
///
/// Compared by hash, so that the time that it takes tells nothing about the token.
fn shows(headers: &HeaderMap, expected: Hash) -> bool {
    use base64::Engine as _;
    let authorization = headers.get(header::AUTHORIZATION);
    let Some((scheme, shown)) = authorization
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
    else {
        return false;
    };
    if scheme.eq_ignore_ascii_case("bearer") {
        return Hash::of(&[shown.trim().as_bytes()]) == expected;
    }
    let user_and_password = base64::engine::general_purpose::STANDARD.decode(shown.trim());
    let Ok(user_and_password) = user_and_password else {
        return false;
    };
    let colon = user_and_password.iter().position(|byte| *byte == b':');
    scheme.eq_ignore_ascii_case("basic")
        && colon.is_some_and(|at| Hash::of(&[&user_and_password[at + 1..]]) == expected)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::NoToken => {
                let text = "this listener asks for its token: as a bearer token, or as the password of any user\n";
                let challenge = "Basic realm=\"sluice\", charset=\"UTF-8\"";
                let headers = [(header::WWW_AUTHENTICATE, challenge)];
                (StatusCode::UNAUTHORIZED, headers, text).into_response()
            }
            Self::OtherHost => {
                let text = "this listener has no token, and is asked by a name that is not this machine's: ask it as \
                            localhost or 127.0.0.1, or set http.token and show it\n";
                (StatusCode::MISDIRECTED_REQUEST, text).into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_this_machine() {
        for (host, local) in [
            ("localhost", true),
            ("LOCALHOST:9464", true),
            ("127.0.0.1", true),
            ("127.1.2.3:80", true),
            ("[::1]", true),
            ("[::1]:9464", true),
            ("[::ffff:127.0.0.1]:9464", true),
            ("", false),
            ("localhost.evil.example", false),
            ("evil.example:9464", false),
            ("localhost:9464@evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("192.0.2.1:9464", false),
            ("0.0.0.0", false),
            ("[2001:db8::1]", false),
            ("a b", false),
        ] {
            let header = HeaderValue::from_str(host).expect("a header");
            assert_eq!(is_local(&header), local, "{host:?}");
        }
    }

    #[test]
    fn every_host_that_is_named_must_be_this_machine() {
        let mut headers = HeaderMap::new();
        assert_eq!(Guard::Local.admits(&headers), Ok(()));
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        assert_eq!(Guard::Local.admits(&headers), Ok(()));
        headers.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(Guard::Local.admits(&headers), Err(Refusal::OtherHost));
        assert_eq!(Guard::Open.admits(&headers), Ok(()));
    }
}
