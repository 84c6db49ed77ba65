//! The data plane's edge: its routes, in one table.

mod embeddings;
mod models;
pub mod server;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use experts::Operation;

use crate::error::{ApiError, ErrorKind};
use crate::pipeline::Pipeline;

/// The data plane.
pub fn router(pipeline: Arc<Pipeline>) -> axum::Router {
    axum::Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::get))
        .fallback(unknown_url)
        .method_not_allowed_fallback(wrong_method)
        .with_state(pipeline)
}

async fn chat_completions(State(pipeline): State<Arc<Pipeline>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    pipeline.answer(Operation::ChatCompletions, parts, body).await
}

async fn completions(State(pipeline): State<Arc<Pipeline>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    pipeline.answer(Operation::Completions, parts, body).await
}

async fn unknown_url(method: Method, uri: Uri) -> Response {
    let message = format!("there is no {method} {}; the API is OpenAI's, below /v1", uri.path());
    ApiError::new(ErrorKind::UnknownUrl, message).into_response()
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let message = format!("{} does not take {method}", uri.path());
    ApiError::new(ErrorKind::MethodNotAllowed, message).into_response()
}
