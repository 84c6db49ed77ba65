//! The data plane's edge: its routes, in one table.

mod connection;
mod embeddings;
mod feedback;
mod inline;
mod models;
pub mod server;
pub mod tls;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Uri, Version, header};
use axum::response::Response;
use axum::routing::{get, post};
use experts::Operation;
use hyper::body::Incoming;
use tower::ServiceExt;

use crate::app::Ready;
use crate::error::{ApiError, ErrorKind};
use crate::pipeline::{Front, Pipeline};

/// The data plane as a service for connections.
///
/// Chat is nearly all traffic and goes to the pipeline directly. Through axum's tree of boxed services the
/// same request costs some 2 microseconds more, a twentieth of what the whole hop costs.
///
/// Once the gateway is not ready any more, answers over HTTP/1 carry `connection: close`. An idle connection
/// cannot be closed safely: the next request may be on its way already, and is lost. One that is closed
/// after an answer that says so loses nothing, and HTTP/2 has a message of its own for that (GOAWAY), which
/// is sent when the listener closes. So with `data.drain_delay_ms` every connection that is in use has
/// ended in good order when the listener closes, or ends so after the stream that it is in the middle of, and
/// only what lay idle for all that time is cut.
#[derive(Clone)]
pub struct DataPlane {
    pipeline: Arc<Pipeline>,
    all: axum::Router,
    ready: Arc<Ready>,
}

impl DataPlane {
    /// The data plane of a pipeline, as long as it is `ready`.
    pub fn new(pipeline: Arc<Pipeline>, ready: Arc<Ready>) -> Self {
        Self { all: router(pipeline.clone()), pipeline, ready }
    }
}

impl hyper::service::Service<http::Request<Incoming>> for DataPlane {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let request = request.map(Body::new);
        let (ready, version) = (self.ready.clone(), request.version());
        if request.method() == Method::POST && request.uri().path() == CHAT {
            let pipeline = self.pipeline.clone();
            let (parts, body) = request.into_parts();
            Box::pin(async move {
                let front = Front::OpenAi(Operation::ChatCompletions);
                Ok(last_unless(&ready, version, pipeline.answer(front, parts, body).await))
            })
        } else {
            let answer = self.all.clone().oneshot(request);
            Box::pin(async move { Ok(last_unless(&ready, version, answer.await?)) })
        }
    }
}

/// Makes an answer the last one of its connection unless the gateway is ready for more.
fn last_unless(ready: &Ready, version: Version, mut response: Response<Body>) -> Response<Body> {
    if !ready.get() && version <= Version::HTTP_11 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
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
        .route("/v1/feedback", post(feedback::give))
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
