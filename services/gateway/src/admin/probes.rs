//! Probes and metrics; they need no token and tell no secrets.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::app::App;
use crate::error::ApiError;

/// 200 while the process runs.
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// 200 when traffic is welcome: configuration and router model are loaded, and no drain has begun.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    if app.ready.get() {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or draining\n").into_response()
    }
}

/// A summary for people and dashboards.
pub(super) async fn health(State(app): State<Arc<App>>) -> Json<serde_json::Value> {
    let view = app.pipeline.catalog.view();
    let router = app.pipeline.encoder.as_ref().map(|e| {
        json!({
            "bundle": e.bundle().name,
            "version": e.bundle().version,
            "execution_provider": e.execution_provider(),
        })
    });
    Json(json!({
        "status": if app.ready.get() { "ready" } else { "not_ready" },
        "version": env!("CARGO_PKG_VERSION"),
        "experts": view.desired.experts.len(),
        "routes": view.desired.routes.len(),
        "router": router,
    }))
}

/// All metrics in the `OpenMetrics` text format.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &app.metrics).map_err(ApiError::internal)?;
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
