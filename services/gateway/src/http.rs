//! The data plane's edge: its routes, in one table.

mod embeddings;
mod inline;
mod models;
pub mod server;
pub mod tls;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
use axum::routing::{get, post};
use experts::Operation;
use hyper::body::Incoming;
use tower::ServiceExt;

use crate::error::{ApiError, ErrorKind};
use crate::pipeline::{Front, Pipeline};

/// The data plane as a service for connections.
///
/// Chat is nearly all traffic and goes to the pipeline directly. Through axum's tree of boxed services the
/// same request costs some 2 microseconds more, a twentieth of what the whole hop costs.
#[derive(Clone)]
pub struct DataPlane {
    pipeline: Arc<Pipeline>,
    all: axum::Router,
}

impl DataPlane {
    /// The data plane of a pipeline.
    pub fn new(pipeline: Arc<Pipeline>) -> Self {
        Self { all: router(pipeline.clone()), pipeline }
    }
}

impl hyper::service::Service<http::Request<Incoming>> for DataPlane {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let request = request.map(Body::new);
        if request.method() == Method::POST && request.uri().path() == CHAT {
            let pipeline = self.pipeline.clone();
            let (parts, body) = request.into_parts();
            Box::pin(async move {
                Ok(pipeline.answer(Front::OpenAi(Operation::ChatCompletions), parts, body).await)
            })
        } else {
            Box::pin(self.all.clone().oneshot(request))
        }
    }
}

const CHAT: &str = "/v1/chat/completions";

/// The data plane's routes.
pub fn router(pipeline: Arc<Pipeline>) -> axum::Router {
    axum::Router::new()
        .route(CHAT, post(chat_completions))
        .route("/v1/completions", post(completions))
        .route("/v1/messages", post(messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
        .route("/v1/responses", post(responses))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::get))
        .fallback(unknown_url)
        .method_not_allowed_fallback(wrong_method)
        .with_state(pipeline)
}

async fn chat_completions(State(pipeline): State<Arc<Pipeline>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    pipeline.answer(Front::OpenAi(Operation::ChatCompletions), parts, body).await
}

async fn completions(State(pipeline): State<Arc<Pipeline>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    pipeline.answer(Front::OpenAi(Operation::Completions), parts, body).await
}

async fn messages(State(pipeline): State<Arc<Pipeline>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    pipeline.answer(Front::Messages, parts, body).await
}

async fn responses(State(pipeline): State<Arc<Pipeline>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    pipeline.answer(Front::Responses, parts, body).await
}

async fn count_tokens(State(pipeline): State<Arc<Pipeline>>, headers: HeaderMap) -> Response<Body> {
    let message = "tokens are not counted ahead of an answer: only the expert knows its tokenizer";
    pipeline.unserved(Front::Messages, headers, ApiError::new(ErrorKind::UnknownUrl, message)).await
}

async fn unknown_url(
    State(pipeline): State<Arc<Pipeline>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response<Body> {
    let message = format!(
        "there is no {method} {}; the API is OpenAI's, below /v1, with Anthropic's /v1/messages",
        uri.path()
    );
    pipeline.unserved(front(&uri), headers, ApiError::new(ErrorKind::UnknownUrl, message)).await
}

async fn wrong_method(
    State(pipeline): State<Arc<Pipeline>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response<Body> {
    let message = format!("{} does not take {method}", uri.path());
    pipeline.unserved(front(&uri), headers, ApiError::new(ErrorKind::MethodNotAllowed, message)).await
}

/// In whose words a request is answered that no handler takes.
fn front(uri: &Uri) -> Front {
    let below = uri.path().strip_prefix(Front::Messages.path());
    if below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        Front::Messages
    } else {
        Front::OpenAi(Operation::ChatCompletions)
    }
}
