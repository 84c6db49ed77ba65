//! `GET /v1/models`: routes, experts and the router's own embedding model, as far as the caller may use them.

use std::sync::Arc;

use admission::Key;
use axum::Json;
use axum::extract::{Path, State};
use http::HeaderMap;
use routing::ExpertId;
use serde::Serialize;

use crate::catalog::View;
use crate::error::ApiError;
use crate::pipeline::{Pipeline, may_name, now_ms, unknown_model};

/// A model as OpenAI lists it.
#[derive(Debug, Serialize)]
pub(super) struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct List {
    object: &'static str,
    data: Vec<Model>,
}

/// What a caller may use: `auto` first, then the other routes, then experts.
fn usable(view: &View, key: Option<&Key>) -> Vec<Model> {
    let model = |id: &str, owned_by| Model { id: id.to_owned(), object: "model", created: 0, owned_by };
    let routes = view.routes.keys().map(ExpertId::as_str).filter(|r| key.is_none_or(|k| k.may_use_route(r)));
    let mut models: Vec<Model> = routes.map(|r| model(r, "guildhall-route")).collect();
    models.sort_by(|a, b| (a.id != "auto", &a.id).cmp(&(b.id != "auto", &b.id)));
    let experts = view.expert_ids().filter(|e| may_name(key, e));
    models.extend(experts.map(|e| model(e, "guildhall-expert")));
    let embeds = view.router.encoder.as_ref().filter(|encoder| !encoder.is_first_stage_alone());
    let own = embeds.map(|e| model(&e.bundle().model_id, "guildhall-encoder"));
    models.extend(own);
    models
}

/// All models.
pub(super) async fn list(
    State(pipeline): State<Arc<Pipeline>>,
    headers: HeaderMap,
) -> Result<Json<List>, ApiError> {
    let view = pipeline.catalog.view();
    let caller = pipeline.caller(&view, &headers, now_ms()).await?;
    Ok(Json(List { object: "list", data: usable(&view, caller.as_deref()) }))
}

/// One model; its name may hold slashes.
pub(super) async fn get(
    State(pipeline): State<Arc<Pipeline>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<Model>, ApiError> {
    let view = pipeline.catalog.view();
    let caller = pipeline.caller(&view, &headers, now_ms()).await?;
    let found = usable(&view, caller.as_deref()).into_iter().find(|m| m.id == id);
    found.map(Json).ok_or_else(|| unknown_model(&view, caller.as_deref(), &id))
}
