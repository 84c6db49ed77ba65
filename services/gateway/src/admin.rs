//! The admin plane: probes and metrics for everyone, `/admin/v1` for holders of the token.

mod probes;
pub mod token;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;

use crate::app::App;

/// The admin plane's routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/livez", get(probes::live))
        .route("/live", get(probes::live))
        .route("/healthz", get(probes::live))
        .route("/readyz", get(probes::ready))
        .route("/ready", get(probes::ready))
        .route("/health", get(probes::health))
        .route("/metrics", get(probes::metrics))
        .with_state(app)
}
