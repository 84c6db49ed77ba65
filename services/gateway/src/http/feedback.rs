//! `POST /v1/feedback`: what callers say of the answers that they got.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, header};
use serde::Serialize;

use crate::decision::Decision;
use crate::error::{ApiError, ErrorKind};
use crate::feedback::{Feedback, Report, Reporter};
use crate::pipeline::{Pipeline, now_ms};
use crate::problem::from_value;

/// Longest body.
const MAX_BODY_BYTES: usize = 16 << 10;

#[derive(Serialize)]
struct Taken<'a> {
    object: &'static str,
    decision: String,
    expert: &'a str,
    score: f32,
}

pub(super) async fn give(State(pipeline): State<Arc<Pipeline>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let answer = take(&pipeline, &parts.headers, body).await;
    pipeline.own(parts.headers, answer).await
}

async fn take(pipeline: &Pipeline, headers: &HeaderMap, body: Body) -> Result<Response<Body>, ApiError> {
    let view = pipeline.catalog.view();
    let caller = pipeline.caller(&view, headers, now_ms()).await?;
    let body = axum::body::to_bytes(body, MAX_BODY_BYTES).await.map_err(|_| {
        let message = format!("the body cannot be read, or is longer than {MAX_BODY_BYTES} bytes");
        ApiError::new(ErrorKind::BodyTooLarge, message)
    })?;
    let value = serde_json::from_slice(&body)
        .map_err(|e| ApiError::new(ErrorKind::InvalidJson, format!("the body is not valid JSON: {e}")))?;
    let report: Report = from_value(value).map_err(|problem| {
        ApiError::new(ErrorKind::InvalidRequest, problem.to_string()).with_param(problem.path)
    })?;
    let key = caller.as_ref().map(|caller| caller.id().clone());
    let decision = Feedback::decision(&pipeline.decisions, &report)?;
    // Whose decision it is not, is not told that it exists.
    if owner(&decision) != key.as_ref() {
        return Err(Feedback::forgotten(&pipeline.decisions, &report));
    }
    if report.expert.is_some()
        && report.expert.as_deref() != decision.expert.as_ref().map(routing::ExpertId::as_str)
    {
        let message = "expert: only the expert that answered can be judged; leave it out";
        return Err(ApiError::new(ErrorKind::Unprocessable, message).with_param("expert"));
    }
    let by = Reporter::Data { key };
    let outcome = pipeline.feedback.take(report, &decision, &view, by, now_ms()).await?;
    pipeline.decisions.keep(&decision);
    let taken = Taken {
        object: "feedback",
        decision: outcome.decision.text(),
        expert: outcome.expert.as_str(),
        score: outcome.score,
    };
    let mut response = Response::new(Body::from(serde_json::to_vec(&taken).map_err(ApiError::internal)?));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Whose key a decision was made for.
fn owner(decision: &Decision) -> Option<&Arc<str>> {
    decision.caller.as_ref().map(|caller| &caller.key)
}
