//! `GET /v1/models`: routes, experts and the router's own embedding model.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use crate::error::ApiError;
use crate::pipeline::Pipeline;

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

fn all(pipeline: &Pipeline) -> Vec<Model> {
    let view = pipeline.catalog.view();
    let model = |id: &str, owned_by| Model { id: id.to_owned(), object: "model", created: 0, owned_by };
    let mut routes: Vec<Model> = view.routes.keys().map(|r| model(r.as_str(), "guildhall-route")).collect();
    routes.sort_by(|a, b| (a.id != "auto", &a.id).cmp(&(b.id != "auto", &b.id)));
    let experts = view.expert_ids().map(|e| model(e, "guildhall-expert"));
    let own = pipeline.encoder.as_ref().map(|e| model(&e.bundle().model_id, "guildhall-encoder"));
    routes.into_iter().chain(experts).chain(own).collect()
}

/// All models: `auto` first, then the other routes, then experts.
pub(super) async fn list(State(pipeline): State<Arc<Pipeline>>) -> Json<List> {
    Json(List { object: "list", data: all(&pipeline) })
}

/// One model; its name may hold slashes.
pub(super) async fn get(
    State(pipeline): State<Arc<Pipeline>>,
    Path(id): Path<String>,
) -> Result<Json<Model>, ApiError> {
    let found = all(&pipeline).into_iter().find(|m| m.id == id);
    found.map(Json).ok_or_else(|| crate::pipeline::unknown_model(&pipeline.catalog.view(), &id))
}
