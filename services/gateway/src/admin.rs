//! The admin plane: probes and metrics for everyone, `/admin/v1` for holders of a token whose role suffices.
//!
//! The API is described by its handlers: [`openapi`] collects what they say of themselves. Reads show one
//! immutable view of the catalogue; writes go through `change`, one at a time, and are durable and live before
//! they are answered.

mod auth;
mod bundles;
mod categories;
mod change;
mod decisions;
mod document;
mod etag;
mod experts;
mod feedback;
mod impact;
mod keys;
mod leases;
mod mapping;
mod memory;
mod merge;
mod operation;
mod page;
mod probe;
mod probes;
mod read;
mod resource;
mod routes;
mod schema;
mod signals;
mod teams;
mod tiers;
pub mod token;
mod upload;

use std::sync::Arc;

use axum::Router;
use axum::extract::FromRef;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderValue, header};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::catalog::View;
use crate::error::{ApiError, ErrorKind};

pub(crate) use etag::segment;

/// What the handlers share.
#[derive(Clone)]
struct Admin {
    app: Arc<App>,
    /// Whose turn it is to write; see [`change::Write::change`].
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Admin {
    fn view(&self) -> Arc<View> {
        self.app.pipeline.catalog.view()
    }
}

impl FromRef<Admin> for Arc<App> {
    fn from_ref(admin: &Admin) -> Self {
        admin.app.clone()
    }
}

/// The admin plane's routes.
pub fn router(app: Arc<App>) -> Router {
    let admin = Admin { app, turn: Arc::default() };
    let (api, mut document) = api().split_for_parts();
    let guard = Arc::new(auth::Guard::new(admin.app.credentials.clone(), &mut document));
    let document = Arc::new(crate::documents::openapi(&document).unwrap_or_default());
    let api = api
        .route("/admin/v1/openapi.json", get(async move || axum::Json(document)))
        .route_layer(from_fn_with_state(guard, auth::require));
    Router::new()
        .route("/livez", get(probes::live))
        .route("/live", get(probes::live))
        .route("/healthz", get(probes::live))
        .route("/readyz", get(probes::ready))
        .route("/ready", get(probes::ready))
        .route("/health", get(probes::health))
        .route("/metrics", get(probes::metrics))
        .merge(api)
        .fallback(unknown_url)
        .method_not_allowed_fallback(wrong_method)
        .layer(map_response(uncached))
        .with_state(admin)
}

/// The `OpenAPI` document of `/admin/v1`, as the handlers describe themselves; [`crate::documents`] makes it
/// presentable.
pub fn openapi() -> utoipa::openapi::OpenApi {
    api().into_openapi()
}

fn api() -> OpenApiRouter<Admin> {
    let v1 = OpenApiRouter::new()
        .routes(routes!(experts::list, experts::create))
        .routes(routes!(experts::get, experts::replace, experts::patch, experts::delete))
        .routes(routes!(experts::drain))
        .routes(routes!(experts::undrain))
        .routes(routes!(probe::probe))
        .routes(routes!(categories::list))
        .routes(routes!(categories::get, categories::describe))
        .routes(routes!(mapping::get, mapping::replace, mapping::patch))
        .routes(routes!(signals::list_gates))
        .routes(routes!(signals::get_gate, signals::put_gate, signals::delete_gate))
        .routes(routes!(signals::list_pilots))
        .routes(routes!(signals::get_pilots, signals::put_pilots, signals::delete_pilots))
        .routes(routes!(signals::list_scorers))
        .routes(routes!(signals::get_scorer, signals::put_scorer, signals::delete_scorer))
        .routes(routes!(memory::list, memory::add, memory::clear))
        .routes(routes!(memory::get, memory::delete))
        .routes(routes!(routes::list, routes::create))
        .routes(routes!(routes::get, routes::replace, routes::patch, routes::delete))
        .routes(routes!(bundles::list, bundles::upload))
        .routes(routes!(bundles::get, bundles::delete))
        .routes(routes!(bundles::validate))
        .routes(routes!(bundles::activate))
        .routes(routes!(bundles::roll_back))
        .routes(routes!(bundles::shadow, bundles::end_shadow))
        .routes(routes!(bundles::comparison))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::get, keys::replace, keys::patch, keys::delete))
        .routes(routes!(keys::rotate))
        .routes(routes!(teams::list, teams::create))
        .routes(routes!(teams::get, teams::replace, teams::patch, teams::delete))
        .routes(routes!(tiers::list))
        .routes(routes!(tiers::get))
        .routes(routes!(tiers::plan))
        .routes(routes!(tiers::decisions))
        .routes(routes!(tiers::promote))
        .routes(routes!(tiers::demote))
        .routes(routes!(tiers::pin, tiers::unpin))
        .routes(routes!(tiers::drain))
        .routes(routes!(tiers::resume))
        .routes(routes!(tiers::reconcile))
        .routes(routes!(tiers::policy, tiers::set_policy))
        .routes(routes!(leases::acquire, leases::list))
        .routes(routes!(leases::renew))
        .routes(routes!(leases::release))
        .routes(routes!(leases::suspect))
        .routes(routes!(leases::outlook))
        .routes(routes!(operation::explain))
        .routes(routes!(decisions::list))
        .routes(routes!(decisions::get))
        .routes(routes!(decisions::replay))
        .routes(routes!(feedback::give, feedback::export))
        .routes(routes!(operation::config))
        .routes(routes!(operation::audit));
    let mut api = OpenApiRouter::with_openapi(document::Document::openapi()).nest("/admin/v1", v1);
    auth::declare_roles(api.get_openapi_mut());
    api
}

async fn unknown_url(method: Method, uri: Uri) -> Response {
    let message = format!(
        "there is no {method} {}; the API is below /admin/v1, described by /admin/v1/openapi.json",
        uri.path()
    );
    ApiError::new(ErrorKind::UnknownUrl, message).into_response()
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    ApiError::new(ErrorKind::MethodNotAllowed, format!("{} does not take {method}", uri.path()))
        .into_response()
}

/// Answers tell the present state, and some of it is confidential.
async fn uncached(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
pub(crate) mod tests;
