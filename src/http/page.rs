//! The status page.
use super::router::Shown;
use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};

pub(super) async fn page(State(shown): State<Shown>) -> Response {
    let status = shown.board.status();
    Html(format!(
        "<!doctype html><title>Sluice</title><pre>{}</pre>",
        status.node.name
    ))
    .into_response()
}
pub(super) async fn board(State(_): State<Shown>) -> Response {
    Html("").into_response()
}
pub(super) async fn style() -> Response {
    "".into_response()
}
pub(super) async fn script() -> Response {
    "".into_response()
}
pub(super) async fn icon() -> Response {
    "".into_response()
}
