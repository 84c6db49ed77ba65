//! `/admin/v1/routes`: public virtual model names bound to policies.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use routing::ExpertId;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Admin;
use super::change::{WriteParams, missing, writable};
use super::document::{Named, Refused, Unwritten};
use super::etag::{IfMatch, Tagged, created, segment};
use super::merge::merge;
use super::page::{Page, PageParams};
use super::read::{Body, Name, Params, unprocessable};
use crate::catalog::{Desired, Edit, Entry, Op, Origin};
use crate::config::RouteSpec;
use crate::error::ApiError;
use crate::problem::{Problem, from_value};

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

impl RouteView {
    fn of(desired: &Desired, entry: &Entry<RouteSpec>) -> Self {
        Self { spec: entry.value.clone(), origin: entry.origin, etag: desired.etag(entry) }
    }
}

fn find<'a>(desired: &'a Desired, name: &str) -> Result<&'a Entry<RouteSpec>, ApiError> {
    let known = || desired.routes.keys().map(ExpertId::as_str);
    desired.routes.get(name).ok_or_else(|| missing("route", name, known()))
}

fn shown(desired: &Desired, name: &str) -> Result<Tagged<RouteView>, ApiError> {
    let view = RouteView::of(desired, find(desired, name)?);
    Ok(Tagged::ok(view.etag.clone(), view))
}

/// Takes out what the API adds to an object when it shows it; gives the etag.
fn strip(fields: &mut Map<String, Value>) -> Option<String> {
    fields.remove("origin");
    fields.remove("etag").and_then(|etag| etag.as_str().map(str::to_owned))
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
    let view = admin.view();
    let entries = view.desired.routes.iter().map(|(id, entry)| (id.as_str(), entry));
    Json(params.cut(entries, |entry| RouteView::of(&view.desired, entry)))
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
pub(super) async fn create(
    State(admin): State<Admin>,
    Params(params): Params<WriteParams>,
    Body(mut fields): Body,
) -> Result<Response, ApiError> {
    strip(&mut fields);
    let spec: RouteSpec = from_value(Value::Object(fields)).map_err(unprocessable)?;
    let id = spec.id.clone();
    let plan = move |_: &Desired| Ok(vec![Edit::Route(Op::Create(Box::new(spec)))]);
    let desired = admin.change(params, format!("routes.{id}"), plan).await?;
    let view = RouteView::of(&desired, find(&desired, id.as_str())?);
    let place = format!("/admin/v1/routes/{}", segment(id.as_str()));
    Ok(created(params.dry_run, place, &view.etag.clone(), view))
}

/// Shows one route.
#[utoipa::path(
    get, path = "/routes/{id}",
    operation_id = "getRoute", tag = "routing",
    params(("id" = ExpertId, Path)),
    responses((status = 200, description = "The route", body = RouteView), Refused, Named)
)]
pub(super) async fn get(State(admin): State<Admin>, Name(name): Name) -> Result<Tagged<RouteView>, ApiError> {
    shown(&admin.view().desired, &name)
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
    State(admin): State<Admin>,
    Name(name): Name,
    Params(params): Params<WriteParams>,
    if_match: IfMatch,
    Body(mut fields): Body,
) -> Result<Tagged<RouteView>, ApiError> {
    let if_match = if_match.or_body(strip(&mut fields));
    write(&admin, name, params, if_match, move |_| fields).await
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
    State(admin): State<Admin>,
    Name(name): Name,
    Params(params): Params<WriteParams>,
    if_match: IfMatch,
    Body(mut fields): Body,
) -> Result<Tagged<RouteView>, ApiError> {
    let if_match = if_match.or_body(strip(&mut fields));
    let merged = move |old: &RouteSpec| {
        let mut whole = match serde_json::to_value(old) {
            Ok(Value::Object(whole)) => whole,
            _ => Map::new(),
        };
        merge(&mut whole, fields);
        whole
    };
    write(&admin, name, params, if_match, merged).await
}

async fn write(
    admin: &Admin,
    name: String,
    params: WriteParams,
    if_match: IfMatch,
    fields: impl FnOnce(&RouteSpec) -> Map<String, Value> + Send + 'static,
) -> Result<Tagged<RouteView>, ApiError> {
    let id = name.clone();
    let plan = move |desired: &Desired| {
        let entry = find(desired, &id)?;
        writable("route", &id, entry.origin)?;
        if_match.check(&format!("route `{id}`"), &desired.etag(entry))?;
        let mut fields = fields(&entry.value);
        fields.entry("id").or_insert_with(|| id.as_str().into());
        let spec: RouteSpec = from_value(Value::Object(fields)).map_err(unprocessable)?;
        if spec.id != entry.value.id {
            let message = format!("must be `{id}`, as in the path; a route is renamed by making a new one");
            return Err(unprocessable(Problem::at("id", message)));
        }
        Ok(vec![Edit::Route(Op::Replace(Box::new(spec), None))])
    };
    let desired = admin.change(params, format!("routes.{name}"), plan).await?;
    shown(&desired, &name)
}

/// Removes a route.
#[utoipa::path(
    delete, path = "/routes/{id}",
    operation_id = "deleteRoute", tag = "routing",
    params(("id" = ExpertId, Path), ("if-match" = Option<String>, Header), WriteParams),
    responses((status = 204, description = "Removed, or could be"), Refused, Named, Unwritten)
)]
pub(super) async fn delete(
    State(admin): State<Admin>,
    Name(name): Name,
    Params(params): Params<WriteParams>,
    if_match: IfMatch,
) -> Result<StatusCode, ApiError> {
    let plan = move |desired: &Desired| {
        let entry = find(desired, &name)?;
        writable("route", &name, entry.origin)?;
        if_match.check(&format!("route `{name}`"), &desired.etag(entry))?;
        Ok(vec![Edit::Route(Op::Delete(name, None))])
    };
    admin.change(params, "", plan).await?;
    Ok(StatusCode::NO_CONTENT)
}
