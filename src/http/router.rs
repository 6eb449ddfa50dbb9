//! Which path answers what.
//!
//! Everything here reads, and no request's body is ever read. Health and readiness are open to whoever reaches the
//! listener; the rest is guarded.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use super::board::Board;
use super::guard::Guard;
use super::page;
use crate::metrics::Exporter;

/// Nothing from elsewhere, nothing inline: what a broker or a database said cannot become a script.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(Clone)]
pub(super) struct Shown {
    pub(super) board: Board,
    pub(super) exporter: Exporter,
    pub(super) guard: Guard,
}

pub(super) fn router(shown: Shown) -> Router {
    let guard = shown.guard;
    let guarded = Router::new()
        .route("/", get(page::page))
        .route("/board", get(page::board))
        .route("/app.css", get(page::style))
        .route("/app.js", get(page::script))
        .route("/icon.svg", get(page::icon))
        .route("/api/status", get(status))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            let admitted = guard.admits(request.headers());
            async move {
                match admitted {
                    Ok(()) => next.run(request).await,
                    Err(refusal) => refusal.into_response(),
                }
            }
        }));
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .merge(guarded)
        .fallback(missing)
        .layer(middleware::map_response(harden))
        .with_state(shown)
}

/// The process answers; nothing else matters here, or an outage elsewhere would have it killed.
async fn live() -> Response {
    Json(serde_json::json!({ "live": true })).into_response()
}

/// Which parts are in the way anybody may know; why, in the words of databases and brokers, only who may read the rest.
async fn ready(State(shown): State<Shown>, headers: HeaderMap) -> Response {
    let readiness = shown.board.readiness();
    let code = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    if shown.guard.admits(&headers).is_ok() {
        return (code, Json(readiness)).into_response();
    }
    let parts = readiness.reasons.iter();
    let parts: Vec<_> = parts
        .map(|reason| serde_json::json!({ "part": reason.part }))
        .collect();
    let told = serde_json::json!({ "ready": readiness.ready, "reasons": parts });
    (code, Json(told)).into_response()
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

async fn harden(mut response: Response) -> Response {
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
