//! The status page: one template, in whole for a visitor, in part for the script that refreshes it.
//!
//! The server writes the numbers, the curves and the words; the script only fits a newer part into the
//! page. So the page is also right without the script, and there is one place that words things.

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

use super::router::Shown;
use super::view::View;

#[derive(Template)]
#[template(path = "page.html", config = "src/http/askama.toml")]
struct Page {
    view: View,
}

#[derive(Template)]
#[template(path = "board.html", config = "src/http/askama.toml")]
struct BoardPart {
    view: View,
}

pub(super) async fn page(State(shown): State<Shown>) -> Response {
    let view = View::of(&shown.board.status());
    html(Page { view }.render())
}

/// What the script asks for once a second.
pub(super) async fn board(State(shown): State<Shown>) -> Response {
    let view = View::of(&shown.board.status());
    html(BoardPart { view }.render())
}

fn html(rendered: askama::Result<String>) -> Response {
    match rendered {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the status page cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

pub(super) async fn style() -> Response {
    fixed("text/css; charset=utf-8", include_str!("app.css"))
}

pub(super) async fn script() -> Response {
    fixed("text/javascript; charset=utf-8", include_str!("app.js"))
}

pub(super) async fn icon() -> Response {
    fixed("image/svg+xml", include_str!("icon.svg"))
}

fn fixed(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
