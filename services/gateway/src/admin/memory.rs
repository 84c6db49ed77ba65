//! `/admin/v1/memory`: the past prompts that policy `knn` looks into.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body as HttpBody;
use axum::extract::{Request, State};
use http::StatusCode;
use routing::ExpertId;
use serde::Serialize;
use stores::{AuditEntry, PastPrompt};
use utoipa::ToSchema;

use super::Admin;
use super::auth::Actor;
use super::change::{WriteParams, missing};
use super::document::{ErrorBody, Named, Refused, Unwritten};
use super::etag::{IfMatch, Tagged, etag_of};
use super::page::PageParams;
use super::read::{Name, Params};
use super::upload;
use crate::catalog::{Space, View};
use crate::error::ApiError;
use crate::memory::{Line, Uploaded};
use crate::pipeline::now_ms;

/// A past prompt. Its text is not kept.
#[derive(Serialize, ToSchema)]
#[schema(as = PastPrompt)]
pub(super) struct Shown {
    /// Its name.
    id: String,
    /// The space of its embedding.
    encoder: String,
    /// Scores from 0 to 1 that experts had on it.
    outcomes: BTreeMap<ExpertId, f32>,
    /// Why it is not looked at with the router model that is loaded; null when it is.
    #[schema(required)]
    unused_because: Option<String>,
    /// Its embedding, a unit vector; only where one prompt is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<Vec<f32>>,
    /// Changes with the prompt.
    etag: String,
}

impl Shown {
    fn new(prompt: &PastPrompt, view: &View) -> Self {
        let width = prompt.embedding.len();
        let etag = etag_of(&(&prompt.space, &prompt.embedding, &prompt.outcomes));
        Self {
            id: prompt.id.as_ref().to_owned(),
            encoder: prompt.space.as_ref().to_owned(),
            outcomes: prompt.outcomes.iter().cloned().collect(),
            unused_because: Space::excludes(
                view.router.space.as_ref(),
                &prompt.space,
                [("embedding", width)],
            ),
            embedding: None,
            etag,
        }
    }
}

/// A part of the memory.
#[derive(Serialize, ToSchema)]
#[schema(as = MemoryPage)]
pub(super) struct Shelf {
    /// Prompts that there are, in all spaces.
    prompts: usize,
    /// How many there are by the space of their embedding; those of the router's space are looked at.
    spaces: BTreeMap<String, usize>,
    /// The prompts, by id.
    items: Vec<Shown>,
    /// What to send as `after` to get the rest; null at the end.
    #[schema(required)]
    next: Option<String>,
}

/// What was removed.
#[derive(Serialize, ToSchema)]
#[schema(as = MemoryCleared)]
pub(super) struct Cleared {
    /// Prompts that are gone.
    removed: usize,
}

fn entry(actor: &Actor, action: &str, object: String) -> AuditEntry {
    AuditEntry {
        time_ms: now_ms(),
        actor: actor.name().to_owned(),
        action: format!("memory.{action}"),
        object,
        detail: serde_json::Value::Null,
    }
}

/// Lets `work` ask the memory on a thread that may block.
async fn asked<T: Send + 'static>(
    admin: &Admin,
    work: impl FnOnce(&dyn stores::PromptMemory) -> Result<T, stores::StoreError> + Send + 'static,
) -> Result<T, ApiError> {
    let prompts = admin.app.pipeline.memory.prompts().clone();
    let done = tokio::task::spawn_blocking(move || work(prompts.as_ref()));
    done.await.map_err(ApiError::internal)?.map_err(ApiError::internal)
}

/// Lists past prompts by id, and counts all of them.
#[utoipa::path(
    get, path = "/memory",
    operation_id = "listMemory", tag = "learnt",
    params(PageParams),
    responses((status = 200, description = "The prompts", body = Shelf), Refused)
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(params): Params<PageParams>,
) -> Result<Json<Shelf>, ApiError> {
    let (after, limit) = params.parts();
    let read = move |prompts: &dyn stores::PromptMemory| {
        // One more than asked for tells whether there is more.
        Ok((prompts.page(&after, limit + 1)?, prompts.census()))
    };
    let (mut page, census) = asked(&admin, read).await?;
    let more = page.len() > limit;
    page.truncate(limit);
    let view = admin.view();
    Ok(Json(Shelf {
        prompts: census.values().sum(),
        spaces: census.into_iter().map(|(space, count)| (space.as_ref().to_owned(), count)).collect(),
        next: page.last().filter(|_| more).map(|prompt| prompt.id.as_ref().to_owned()),
        items: page.iter().map(|prompt| Shown::new(prompt, &view)).collect(),
    }))
}

/// Adds past prompts, one JSON object a line: all of them or none. One that has the id of another takes its place.
/// Texts are embedded by the router model, and not kept.
#[utoipa::path(
    post, path = "/memory",
    operation_id = "addToMemory", tag = "learnt",
    params(WriteParams),
    request_body(content = Line, content_type = "application/x-ndjson"),
    responses(
        (status = 200, description = "What was added, or would be in a dry run", body = Uploaded),
        (status = 409, description = "There is no room for them (memory.max_prompts)", body = ErrorBody),
        (status = 413, description = "The upload is longer than memory.max_upload_bytes", body = ErrorBody),
        (status = 422, description = "A line is not usable; the message names it, `param` the place", body = ErrorBody),
        Refused
    )
)]
pub(super) async fn add(
    State(admin): State<Admin>,
    actor: Actor,
    Params(WriteParams { dry_run }): Params<WriteParams>,
    request: Request<HttpBody>,
) -> Result<Json<Uploaded>, ApiError> {
    let (memory, view) = (admin.app.pipeline.memory.clone(), admin.view());
    let entry = (!dry_run).then(|| entry(&actor, "add", "memory".into()));
    let add = move |source| memory.add(source, &view, entry);
    upload::through(request.into_body(), add).await?.map(Json)
}

/// Shows one past prompt with its embedding.
#[utoipa::path(
    get, path = "/memory/{id}",
    operation_id = "getFromMemory", tag = "learnt",
    params(("id" = String, Path)),
    responses((status = 200, description = "The prompt", body = Shown), Refused, Named)
)]
pub(super) async fn get(State(admin): State<Admin>, Name(id): Name) -> Result<Tagged<Shown>, ApiError> {
    let prompt = find(&admin, id).await?;
    let shown = Shown { embedding: Some(prompt.embedding.to_vec()), ..Shown::new(&prompt, &admin.view()) };
    Ok(Tagged::ok(shown.etag.clone(), shown))
}

async fn find(admin: &Admin, id: String) -> Result<PastPrompt, ApiError> {
    let name = id.clone();
    let found = asked(admin, move |prompts| prompts.get(&name)).await?;
    found.ok_or_else(|| missing("past prompt", &id, []))
}

/// Removes one past prompt.
#[utoipa::path(
    delete, path = "/memory/{id}",
    operation_id = "deleteFromMemory", tag = "learnt",
    params(("id" = String, Path), ("if-match" = Option<String>, Header), WriteParams),
    responses((status = 204, description = "It is removed"), Refused, Named, Unwritten)
)]
pub(super) async fn delete(
    State(admin): State<Admin>,
    actor: Actor,
    if_match: IfMatch,
    Params(WriteParams { dry_run }): Params<WriteParams>,
    Name(id): Name,
) -> Result<StatusCode, ApiError> {
    let prompt = find(&admin, id.clone()).await?;
    if_match.check(&format!("past prompt `{id}`"), &Shown::new(&prompt, &admin.view()).etag)?;
    if !dry_run {
        let entry = entry(&actor, "delete", format!("memory/{id}"));
        asked(&admin, move |prompts| prompts.forget(&id, entry)).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Removes all past prompts.
#[utoipa::path(
    delete, path = "/memory",
    operation_id = "clearMemory", tag = "learnt",
    params(WriteParams),
    responses((status = 200, description = "How many were removed, or would be in a dry run", body = Cleared), Refused)
)]
pub(super) async fn clear(
    State(admin): State<Admin>,
    actor: Actor,
    Params(WriteParams { dry_run }): Params<WriteParams>,
) -> Result<Json<Cleared>, ApiError> {
    let entry = entry(&actor, "clear", "memory".into());
    let clear = move |prompts: &dyn stores::PromptMemory| {
        if dry_run { Ok(prompts.census().values().sum()) } else { prompts.clear(entry) }
    };
    Ok(Json(Cleared { removed: asked(&admin, clear).await? }))
}
