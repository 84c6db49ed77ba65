//! Probes and metrics; they need no token and tell no secrets.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;

use crate::app::{App, Role};
use crate::error::ApiError;
use crate::metrics::exposition::{Format, exposition};

/// 200 while the process runs.
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// 200 when traffic is welcome: configuration and router model are loaded, pools of another process are known, and no
/// drain has begun.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    let unwelcome = |why: &'static str| (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    if !app.ready.get() {
        return unwelcome("not ready: starting or draining\n");
    }
    if !app.pipeline.pools.are_known() {
        return unwelcome("not ready: the owner of the pools has not said yet which experts it has\n");
    }
    let ready = match app.role {
        Role::All | Role::Gateway => "ready\n",
        Role::Tiers => "ready: owns pools, and has no data plane\n",
    };
    (StatusCode::OK, ready).into_response()
}

/// A summary for people and dashboards.
pub(super) async fn health(State(app): State<Arc<App>>) -> Json<serde_json::Value> {
    let view = app.pipeline.catalog.view();
    let router = view.router.encoder.as_ref().map(|e| {
        json!({
            "bundle": e.bundle().name,
            "version": e.bundle().version,
            "execution_provider": e.execution_provider(),
            "first_stage": match e.threshold() {
                None => "none",
                Some(_) if e.is_first_stage_alone() => "alone",
                Some(_) => "cascade",
            },
        })
    });
    Json(json!({
        "status": if app.ready.get() { "ready" } else { "not_ready" },
        "version": env!("CARGO_PKG_VERSION"),
        "role": app.role,
        "experts": view.desired.experts.len(),
        "routes": view.desired.routes.len(),
        "router": router,
    }))
}

/// All metrics, in the text format that the scraper asks for.
pub(super) async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::negotiate(&accepts.collect::<Vec<_>>().join(","));
    let text = exposition(&app.metrics, &app.pipeline.metrics, format).map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()))], text).into_response())
}
