//! What would be decided, what is configured, what was changed.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use super::Admin;
use super::document::Refused;
use super::page::limit;
use super::read::{Body, Params};
use super::schema::ExplanationSchema;
use crate::config::Config;
use crate::error::{ApiError, ErrorKind};
use crate::pipeline::Explanation;
use crate::reload::Reload;

/// What to decide about: a prompt, or a whole chat request.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only described in the document; the body is passed on as it is")]
pub(super) struct RouteQuestion {
    /// A user's message. Short for `messages` with this message alone.
    prompt: Option<String>,
    /// The route or expert, `auto` when not given.
    model: Option<String>,
    /// The messages, and beside them every field of a chat request (`tools`, `response_format`, ...).
    messages: Option<Vec<Value>>,
}

/// Decides about a request and says why. Nothing is called and nothing is recorded.
#[utoipa::path(
    post, path = "/route",
    operation_id = "explainRoute", tag = "operation",
    extensions(("x-required-role" = json!("operator"))),
    request_body = RouteQuestion,
    responses(
        (status = 200, description = "The decision and what it rests on", body = ExplanationSchema),
        Refused
    )
)]
pub(super) async fn explain(
    State(admin): State<Admin>,
    Body(mut fields): Body,
) -> Result<Json<Explanation>, ApiError> {
    write_out(&mut fields)?;
    let body = serde_json::to_vec(&fields).map_err(ApiError::internal)?;
    admin.app.pipeline.explain(body.into()).await.map(Json)
}

/// Turns `prompt` into messages.
fn write_out(fields: &mut Map<String, Value>) -> Result<(), ApiError> {
    let Some(prompt) = fields.remove("prompt") else { return Ok(()) };
    let wrong =
        |message: &'static str| ApiError::new(ErrorKind::InvalidRequest, message).with_param("prompt");
    let Value::String(prompt) = prompt else { return Err(wrong("prompt: must be a string")) };
    if fields.contains_key("messages") {
        return Err(wrong("prompt: give either a prompt or messages, not both"));
    }
    fields.insert("messages".into(), json!([{ "role": "user", "content": prompt }]));
    Ok(())
}

/// The configuration in effect.
#[derive(Serialize, ToSchema)]
pub(super) struct ConfigView {
    /// What became of the latest change of the file.
    reload: Reload,
    #[serde(flatten)]
    config: Config,
}

/// Shows the configuration in effect, defaults included, secrets as `***`. What was changed since through this
/// API is not in it.
#[utoipa::path(
    get, path = "/config",
    operation_id = "getConfig", tag = "operation",
    responses((status = 200, description = "The configuration", body = ConfigView), Refused)
)]
pub(super) async fn config(State(admin): State<Admin>) -> Json<ConfigView> {
    let current = &admin.app.current;
    Json(ConfigView { reload: current.reload(), config: Config::clone(&current.config()) })
}

/// Which entries of the audit log.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditParams {
    /// At most so many, 1 to 1000; 100 when not given.
    limit: Option<usize>,
    /// Only entries older than this one: `next` of the page before.
    before: Option<u64>,
}

/// A part of the audit log.
#[derive(Serialize, ToSchema)]
pub(super) struct Audit {
    /// Newest first.
    items: Vec<AuditItem>,
    /// What to send as `before` to get older entries; null at the end.
    next: Option<u64>,
}

/// A change that was made.
#[derive(Serialize, ToSchema)]
pub(super) struct AuditItem {
    /// Its number; later entries have larger ones.
    sequence: u64,
    /// The store's revision that the change made.
    revision: u64,
    /// When, in milliseconds since 1970 UTC.
    time_ms: u64,
    /// Who.
    actor: String,
    /// What was done, such as `expert.create`.
    action: String,
    /// To what, such as `experts/llama`.
    object: String,
    /// What else is known of it.
    #[serde(skip_serializing_if = "Value::is_null")]
    detail: Value,
}

/// Lists changes, newest first.
#[utoipa::path(
    get, path = "/audit",
    operation_id = "listAudit", tag = "operation",
    params(AuditParams),
    responses((status = 200, description = "The entries", body = Audit), Refused)
)]
pub(super) async fn audit(
    State(admin): State<Admin>,
    Params(params): Params<AuditParams>,
) -> Result<Json<Audit>, ApiError> {
    let store = admin.app.pipeline.catalog.store().clone();
    let most = limit(params.limit);
    // One more than asked for tells whether there is more.
    let read = tokio::task::spawn_blocking(move || store.audit(params.before, most + 1));
    let mut records = read.await.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
    let more = records.len() > most;
    records.truncate(most);
    let next = records.last().filter(|_| more).map(|r| r.sequence);
    let items = records.into_iter().map(|r| AuditItem {
        sequence: r.sequence,
        revision: r.revision,
        time_ms: r.entry.time_ms,
        actor: r.entry.actor,
        action: r.entry.action,
        object: r.entry.object,
        detail: r.entry.detail,
    });
    Ok(Json(Audit { items: items.collect(), next }))
}
