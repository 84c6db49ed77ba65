//! `/admin/v1/routes`: public virtual model names bound to policies.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use routing::ExpertId;
use serde::Serialize;
use utoipa::ToSchema;

use super::Admin;
use super::change::{Write, WriteParams};
use super::document::{Named, Refused, Unwritten};
use super::etag::Tagged;
use super::page::{Page, PageParams};
use super::read::{Body, Name, Params};
use super::resource::{self, Resource};
use crate::catalog::{Desired, Entry, Origin, View};
use crate::config::RouteSpec;
use crate::error::ApiError;

/// A route with what the gateway knows of it.
#[derive(Serialize, ToSchema)]
#[schema(as = Route)]
pub(super) struct RouteView {
    /// Its settings.
    #[serde(flatten)]
    spec: RouteSpec,
    /// Who owns it.
    origin: Origin,
    /// Changes with the object.
    etag: String,
}

impl Resource for RouteSpec {
    type Shown = RouteView;

    fn shown(_: &View, desired: &Desired, entry: &Entry<Self>) -> RouteView {
        RouteView { spec: entry.value.clone(), origin: entry.origin, etag: desired.etag(entry) }
    }
}

/// Lists the routes by id.
#[utoipa::path(
    get, path = "/routes",
    operation_id = "listRoutes", tag = "routing",
    params(PageParams),
    responses((status = 200, description = "The routes", body = Page<RouteView>), Refused)
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(params): Params<PageParams>,
) -> Json<Page<RouteView>> {
    resource::list::<RouteSpec>(&admin, &params)
}

/// Adds a route. Clients can name it as their `model` at once.
#[utoipa::path(
    post, path = "/routes",
    operation_id = "createRoute", tag = "routing",
    params(WriteParams),
    request_body = RouteSpec,
    responses(
        (status = 201, description = "The route as it was made", body = RouteView),
        (status = 200, description = "Dry run: the route that would be", body = RouteView),
        Refused, Unwritten
    )
)]
pub(super) async fn create(write: Write, Body(fields): Body) -> Result<Response, ApiError> {
    resource::create::<RouteSpec>(&write, fields).await
}

/// Shows one route.
#[utoipa::path(
    get, path = "/routes/{id}",
    operation_id = "getRoute", tag = "routing",
    params(("id" = ExpertId, Path)),
    responses((status = 200, description = "The route", body = RouteView), Refused, Named)
)]
pub(super) async fn get(State(admin): State<Admin>, Name(id): Name) -> Result<Tagged<RouteView>, ApiError> {
    resource::get::<RouteSpec>(&admin, &id)
}

/// Replaces a route.
#[utoipa::path(
    put, path = "/routes/{id}",
    operation_id = "replaceRoute", tag = "routing",
    params(("id" = ExpertId, Path), ("if-match" = Option<String>, Header), WriteParams),
    request_body = RouteSpec,
    responses((status = 200, description = "The route", body = RouteView), Refused, Named, Unwritten)
)]
pub(super) async fn replace(
    Name(id): Name,
    write: Write,
    Body(fields): Body,
) -> Result<Tagged<RouteView>, ApiError> {
    resource::replace::<RouteSpec>(write, id, fields).await
}

/// Changes fields of a route by JSON merge patch (RFC 7396): null removes a field.
#[utoipa::path(
    patch, path = "/routes/{id}",
    operation_id = "patchRoute", tag = "routing",
    params(("id" = ExpertId, Path), ("if-match" = Option<String>, Header), WriteParams),
    request_body(content = Object, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "The route", body = RouteView), Refused, Named, Unwritten)
)]
pub(super) async fn patch(
    Name(id): Name,
    write: Write,
    Body(fields): Body,
) -> Result<Tagged<RouteView>, ApiError> {
    resource::patch::<RouteSpec>(write, id, fields).await
}

/// Removes a route.
#[utoipa::path(
    delete, path = "/routes/{id}",
    operation_id = "deleteRoute", tag = "routing",
    params(("id" = ExpertId, Path), ("if-match" = Option<String>, Header), WriteParams),
    responses((status = 204, description = "Removed, or could be"), Refused, Named, Unwritten)
)]
pub(super) async fn delete(Name(id): Name, write: Write) -> Result<StatusCode, ApiError> {
    resource::delete::<RouteSpec>(&write, id).await
}
