//! `POST /admin/v1/experts/{id}/probe`: whether an expert answers, asked by asking it.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use experts::{Call, Operation, Timeouts};
use http::{HeaderMap, HeaderValue};
use routing::ExpertId;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::Admin;
use super::change::missing;
use super::document::{Named, Refused};
use super::read::Name;
use crate::error::ApiError;
use crate::pipeline::decode::decode;

/// How long an expert has to answer a probe.
const PATIENCE: Duration = Duration::from_secs(15);

/// What came of a probe.
#[derive(Serialize, ToSchema)]
pub(super) struct Probe {
    /// Whether the expert answered with success.
    ok: bool,
    /// The HTTP status of its answer; null when there was none.
    #[schema(required)]
    status: Option<u16>,
    /// Milliseconds to the head of its answer, or to the failure.
    latency_ms: u64,
    /// What went wrong; null when nothing did.
    #[schema(required)]
    error: Option<String>,
}

/// Asks an expert for one token, as a request would, and tells how that went. An expert that charges for
/// requests charges for this one.
#[utoipa::path(
    post, path = "/experts/{id}/probe",
    operation_id = "probeExpert", tag = "experts",
    extensions(("x-required-role" = json!("operator"))),
    params(("id" = ExpertId, Path)),
    responses((status = 200, description = "What came of it", body = Probe), Refused, Named)
)]
pub(super) async fn probe(State(admin): State<Admin>, Name(name): Name) -> Result<Json<Probe>, ApiError> {
    let view = admin.view();
    let expert = view.experts.get(&name).ok_or_else(|| missing("expert", &name, view.expert_ids()))?;
    let question = json!({
        "model": name,
        "messages": [{"role": "user", "content": "ping"}],
        "max_tokens": 1,
    });
    let request = decode(Operation::ChatCompletions, question.to_string().into(), 8)?;
    let (headers, request_id) = (HeaderMap::new(), HeaderValue::from_static("guildhall-probe"));
    let begun = Instant::now();
    let answer = expert
        .call(Call {
            operation: request.operation,
            body: request.body,
            model_span: request.model_span,
            messages: None,
            stream: false,
            stream_options: request.stream_options,
            headers: &headers,
            request_id: &request_id,
            deadline: Some((begun + PATIENCE).into()),
            timeouts: Timeouts::default(),
            affinity: None,
            seed: admin.view().revision,
        })
        .await;
    let latency_ms = begun.elapsed().as_millis() as u64;
    Ok(Json(match answer {
        Ok(reply) => {
            let ok = reply.status.is_success();
            let error = (!ok).then(|| format!("the expert answered {}", reply.status));
            Probe { ok, status: Some(reply.status.as_u16()), latency_ms, error }
        }
        // The operator may know addresses and system errors, which clients are not told.
        Err(error) => Probe { ok: false, status: None, latency_ms, error: Some(error.to_string()) },
    }))
}
