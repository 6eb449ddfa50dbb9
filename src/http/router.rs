//! Which path answers what.
//!
//! Everything here reads. Health and readiness are open to whoever reaches the listener; the rest asks for
//! the token where one is configured and the listener is not loopback.

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use secrecy::{ExposeSecret, SecretString};

use super::board::Board;
use super::page;
use crate::message::Hash;
use crate::metrics::Exporter;

/// Nothing that is asked here has a body; what may once change things is small.
const BODY_BYTES: usize = 64 * 1024;

/// Nothing from elsewhere, nothing inline: what a broker or a database said cannot become a script.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(Clone)]
pub(super) struct Shown {
    pub(super) board: Board,
    pub(super) exporter: Exporter,
}

/// `token`: what must be shown for everything but health; `None` leaves it open.
pub(super) fn router(shown: Shown, token: Option<&SecretString>) -> Router {
    let expected = token.map(|token| Hash::of(&[token.expose_secret().as_bytes()]));
    let guarded = Router::new()
        .route("/", get(page::page))
        .route("/board", get(page::board))
        .route("/app.css", get(page::style))
        .route("/app.js", get(page::script))
        .route("/icon.svg", get(page::icon))
        .route("/api/status", get(status))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            let allowed = expected.is_none_or(|expected| shows(request.headers(), expected));
            async move {
                if allowed {
                    next.run(request).await
                } else {
                    unauthorized()
                }
            }
        }));
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .merge(guarded)
        .fallback(missing)
        .layer(middleware::map_response(guard))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(shown)
}

/// The process answers; nothing else matters here, or an outage elsewhere would have it killed.
async fn live() -> Response {
    Json(serde_json::json!({ "live": true })).into_response()
}

async fn ready(State(shown): State<Shown>) -> Response {
    let readiness = shown.board.readiness();
    let code = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(readiness)).into_response()
}

async fn status(State(shown): State<Shown>) -> Response {
    Json(shown.board.status()).into_response()
}

async fn metrics(State(shown): State<Shown>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], shown.exporter.render()).into_response()
}

async fn missing() -> Response {
    let text = "nothing here; there are /, /api/status, /metrics, /health/live and /health/ready\n";
    (StatusCode::NOT_FOUND, text).into_response()
}

fn unauthorized() -> Response {
    let text =
        "this listener asks for its token: as a bearer token, or as the password of any user\n";
    let challenge = "Basic realm=\"sluice\", charset=\"UTF-8\"";
    let headers = [(header::WWW_AUTHENTICATE, challenge)];
    (StatusCode::UNAUTHORIZED, headers, text).into_response()
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

async fn guard(mut response: Response) -> Response {
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in headers {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
