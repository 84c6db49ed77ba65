//! `/admin/v1/feedback`: outcomes of decisions, and all of them for training.

use std::sync::Arc;

use axum::Json;
use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::response::Response;
use futures_util::stream::try_unfold;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use utoipa::IntoParams;

use super::Admin;
use super::auth::Actor;
use super::document::{ErrorBody, Named, Refused};
use super::read::{Body, Params};
use crate::app::App;
use crate::error::ApiError;
use crate::feedback::{Feedback, Outcome, Report, Reporter, key_from};
use crate::pipeline::now_ms;

/// Outcomes that are read at once.
const PAGE: usize = 500;

/// Reports how good the answer of a decision was. A later report of the same decision and expert takes the place
/// of the earlier one. The decision is remembered longer for it.
#[utoipa::path(
    post, path = "/feedback",
    operation_id = "giveFeedback", tag = "operation",
    extensions(("x-required-role" = json!("operator"))),
    request_body = Report,
    responses(
        (status = 201, description = "The outcome as it is kept", body = Outcome),
        (status = 422, description = "The report is not usable; `param` names the place", body = ErrorBody),
        Refused, Named
    )
)]
pub(super) async fn give(
    State(admin): State<Admin>,
    actor: Actor,
    body: Body,
) -> Result<(StatusCode, Json<Outcome>), ApiError> {
    let report: Report = body.read()?;
    let pipeline = &admin.app.pipeline;
    let decision = Feedback::decision(&pipeline.decisions, &report)?;
    let by = Reporter::Admin { actor: actor.name().to_owned() };
    let outcome = pipeline.feedback.take(report, &decision, &admin.view(), by, now_ms()).await?;
    pipeline.decisions.keep(&decision);
    Ok((StatusCode::CREATED, Json(outcome)))
}

/// Which outcomes.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportParams {
    /// Only those of decisions made at this time or later, in milliseconds since 1970 UTC.
    since_ms: Option<u64>,
    /// At most so many; all when not given.
    limit: Option<usize>,
}

/// How far an export is.
struct Place {
    app: Arc<App>,
    after: String,
    left: usize,
}

/// All outcomes that are kept, one JSON object a line, in the order of their decisions: what
/// `guildhall train mapping --from-feedback` reads.
#[utoipa::path(
    get, path = "/feedback",
    operation_id = "exportFeedback", tag = "operation",
    params(ExportParams),
    responses(
        (status = 200, description = "The outcomes", body = Outcome, content_type = "application/x-ndjson"),
        Refused
    )
)]
pub(super) async fn export(
    State(admin): State<Admin>,
    Params(params): Params<ExportParams>,
) -> Result<Response, ApiError> {
    let begin = Place {
        app: admin.app,
        after: key_from(params.since_ms.unwrap_or(0)),
        left: params.limit.unwrap_or(usize::MAX),
    };
    let lines = try_unfold(begin, async |place| {
        let Place { app, after, left } = place;
        if left == 0 {
            return Ok(None);
        }
        let page = app.pipeline.feedback.lines(after, left.min(PAGE)).await?;
        Ok::<_, ApiError>(page.map(|(lines, after, count)| (lines, Place { app, after, left: left - count })))
    });
    let mut response = Response::new(HttpBody::from_stream(lines));
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
