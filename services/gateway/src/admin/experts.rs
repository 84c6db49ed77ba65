//! `/admin/v1/experts`: what can answer.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use experts::{EndpointStatus, ExpertSpec};
use http::StatusCode;
use routing::{Availability, ExpertId};
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
use crate::catalog::{Desired, Edit, Entry, Op, Origin, View};
use crate::error::ApiError;
use crate::problem::{Problem, from_value};

/// An expert with what the gateway knows of it.
#[derive(Serialize, ToSchema)]
#[schema(as = Expert)]
pub(super) struct ExpertView {
    /// Its settings; secrets are shown as `***`, and `***` sent back keeps the secret.
    #[serde(flatten)]
    spec: ExpertSpec,
    /// Who owns it.
    origin: Origin,
    /// How it is now.
    status: ExpertStatus,
    /// Changes with the object.
    etag: String,
}

/// How an expert is now.
#[derive(Serialize, ToSchema)]
pub(super) struct ExpertStatus {
    /// Whether it takes requests.
    availability: Availability,
    /// Its endpoints; empty for an expert without an upstream.
    endpoints: Vec<EndpointStatus>,
}

impl ExpertView {
    fn of(view: &View, desired: &Desired, entry: &Entry<ExpertSpec>) -> Self {
        let id = &entry.value.id;
        let live = view.experts.fleet().get(id.as_str()).map(|facts| facts.availability);
        let availability = match live {
            _ if desired.drained.contains(id) => Availability::Draining,
            Some(Availability::Draining) | None => Availability::Ready,
            Some(live) => live,
        };
        let endpoints = view.experts.get(id.as_str()).map(|expert| expert.endpoints()).unwrap_or_default();
        Self {
            spec: entry.value.clone(),
            origin: entry.origin,
            status: ExpertStatus { availability, endpoints },
            etag: desired.etag(entry),
        }
    }
}

fn find<'a>(desired: &'a Desired, name: &str) -> Result<&'a Entry<ExpertSpec>, ApiError> {
    let known = || desired.experts.keys().map(ExpertId::as_str);
    desired.experts.get(name).ok_or_else(|| missing("expert", name, known()))
}

/// The expert as it is in `desired`, after a write or a dry run.
fn shown(admin: &Admin, desired: &Desired, name: &str) -> Result<Tagged<ExpertView>, ApiError> {
    let view = ExpertView::of(&admin.view(), desired, find(desired, name)?);
    Ok(Tagged::ok(view.etag.clone(), view))
}

/// Takes out what the API adds to an object when it shows it, so that what was read can be sent back; gives
/// the etag.
fn strip(fields: &mut Map<String, Value>) -> Option<String> {
    fields.remove("origin");
    fields.remove("status");
    fields.remove("etag").and_then(|etag| etag.as_str().map(str::to_owned))
}

/// Reads an expert, with the secrets of the one it replaces where the caller left them starred.
fn read(fields: Map<String, Value>, old: Option<&ExpertSpec>) -> Result<ExpertSpec, ApiError> {
    let mut spec: ExpertSpec = from_value(Value::Object(fields)).map_err(unprocessable)?;
    if let Some(old) = old {
        spec.inherit_secrets(old);
    }
    Ok(spec)
}

/// The edit that puts `fields` in the place of an expert.
fn replacement(
    desired: &Desired,
    name: &str,
    if_match: &IfMatch,
    fields: impl FnOnce(&ExpertSpec) -> Map<String, Value>,
) -> Result<Vec<Edit>, ApiError> {
    let entry = find(desired, name)?;
    writable("expert", name, entry.origin)?;
    if_match.check(&format!("expert `{name}`"), &desired.etag(entry))?;
    let mut fields = fields(&entry.value);
    fields.entry("id").or_insert_with(|| name.into());
    let spec = read(fields, Some(&entry.value))?;
    if spec.id.as_str() != name {
        let message = format!("must be `{name}`, as in the path; an expert is renamed by making a new one");
        return Err(unprocessable(Problem::at("id", message)));
    }
    Ok(vec![Edit::Expert(Op::Replace(Box::new(spec), None))])
}

/// Lists the experts by id.
#[utoipa::path(
    get, path = "/experts",
    operation_id = "listExperts", tag = "experts",
    params(PageParams),
    responses((status = 200, description = "The experts", body = Page<ExpertView>), Refused)
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(params): Params<PageParams>,
) -> Json<Page<ExpertView>> {
    let view = admin.view();
    let entries = view.desired.experts.iter().map(|(id, entry)| (id.as_str(), entry));
    Json(params.cut(entries, |entry| ExpertView::of(&view, &view.desired, entry)))
}

/// Registers an expert. It takes requests at once.
#[utoipa::path(
    post, path = "/experts",
    operation_id = "createExpert", tag = "experts",
    params(WriteParams),
    request_body = ExpertSpec,
    responses(
        (status = 201, description = "The expert as it was made", body = ExpertView),
        (status = 200, description = "Dry run: the expert that would be", body = ExpertView),
        Refused, Unwritten
    )
)]
pub(super) async fn create(
    State(admin): State<Admin>,
    Params(params): Params<WriteParams>,
    Body(mut fields): Body,
) -> Result<Response, ApiError> {
    strip(&mut fields);
    let spec = read(fields, None)?;
    let id = spec.id.clone();
    let plan = move |_: &Desired| Ok(vec![Edit::Expert(Op::Create(Box::new(spec)))]);
    let desired = admin.change(params, format!("experts.{id}"), plan).await?;
    let view = ExpertView::of(&admin.view(), &desired, find(&desired, id.as_str())?);
    let place = format!("/admin/v1/experts/{}", segment(id.as_str()));
    Ok(created(params.dry_run, place, &view.etag.clone(), view))
}

/// Shows one expert.
#[utoipa::path(
    get, path = "/experts/{id}",
    operation_id = "getExpert", tag = "experts",
    params(("id" = ExpertId, Path)),
    responses((status = 200, description = "The expert", body = ExpertView), Refused, Named)
)]
pub(super) async fn get(
    State(admin): State<Admin>,
    Name(name): Name,
) -> Result<Tagged<ExpertView>, ApiError> {
    let desired = admin.view().desired.clone();
    shown(&admin, &desired, &name)
}

/// Replaces an expert. Requests that it is answering end as they began.
#[utoipa::path(
    put, path = "/experts/{id}",
    operation_id = "replaceExpert", tag = "experts",
    params(("id" = ExpertId, Path), ("if-match" = Option<String>, Header), WriteParams),
    request_body = ExpertSpec,
    responses((status = 200, description = "The expert", body = ExpertView), Refused, Named, Unwritten)
)]
pub(super) async fn replace(
    State(admin): State<Admin>,
    Name(name): Name,
    Params(params): Params<WriteParams>,
    if_match: IfMatch,
    Body(mut fields): Body,
) -> Result<Tagged<ExpertView>, ApiError> {
    let if_match = if_match.or_body(strip(&mut fields));
    write(&admin, name, params, if_match, move |_| fields).await
}

/// Changes fields of an expert by JSON merge patch (RFC 7396): null removes a field.
#[utoipa::path(
    patch, path = "/experts/{id}",
    operation_id = "patchExpert", tag = "experts",
    params(("id" = ExpertId, Path), ("if-match" = Option<String>, Header), WriteParams),
    request_body(content = Object, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "The expert", body = ExpertView), Refused, Named, Unwritten)
)]
pub(super) async fn patch(
    State(admin): State<Admin>,
    Name(name): Name,
    Params(params): Params<WriteParams>,
    if_match: IfMatch,
    Body(mut fields): Body,
) -> Result<Tagged<ExpertView>, ApiError> {
    let if_match = if_match.or_body(strip(&mut fields));
    let merged = move |old: &ExpertSpec| {
        let mut whole = match old.to_stored_json() {
            Value::Object(whole) => whole,
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
    fields: impl FnOnce(&ExpertSpec) -> Map<String, Value> + Send + 'static,
) -> Result<Tagged<ExpertView>, ApiError> {
    let id = name.clone();
    let plan = move |desired: &Desired| replacement(desired, &id, &if_match, fields);
    let desired = admin.change(params, format!("experts.{name}"), plan).await?;
    shown(admin, &desired, &name)
}

/// Removes an expert. Requests that it is answering go on; a route that names it must be changed first.
#[utoipa::path(
    delete, path = "/experts/{id}",
    operation_id = "deleteExpert", tag = "experts",
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
        writable("expert", &name, entry.origin)?;
        if_match.check(&format!("expert `{name}`"), &desired.etag(entry))?;
        Ok(vec![Edit::Expert(Op::Delete(name, None))])
    };
    admin.change(params, "", plan).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets an expert finish what it has and take nothing new. Possible for those of the configuration file too.
#[utoipa::path(
    post, path = "/experts/{id}/drain",
    operation_id = "drainExpert", tag = "experts",
    params(("id" = ExpertId, Path), ("if-match" = Option<String>, Header), WriteParams),
    responses((status = 200, description = "The expert", body = ExpertView), Refused, Named, Unwritten)
)]
pub(super) async fn drain(
    State(admin): State<Admin>,
    Name(name): Name,
    Params(params): Params<WriteParams>,
    if_match: IfMatch,
) -> Result<Tagged<ExpertView>, ApiError> {
    set_drained(&admin, name, params, if_match, true).await
}

/// Lets a drained expert take requests again.
#[utoipa::path(
    post, path = "/experts/{id}/undrain",
    operation_id = "undrainExpert", tag = "experts",
    params(("id" = ExpertId, Path), ("if-match" = Option<String>, Header), WriteParams),
    responses((status = 200, description = "The expert", body = ExpertView), Refused, Named, Unwritten)
)]
pub(super) async fn undrain(
    State(admin): State<Admin>,
    Name(name): Name,
    Params(params): Params<WriteParams>,
    if_match: IfMatch,
) -> Result<Tagged<ExpertView>, ApiError> {
    set_drained(&admin, name, params, if_match, false).await
}

async fn set_drained(
    admin: &Admin,
    name: String,
    params: WriteParams,
    if_match: IfMatch,
    on: bool,
) -> Result<Tagged<ExpertView>, ApiError> {
    let wanted = name.clone();
    let plan = move |desired: &Desired| {
        let entry = find(desired, &wanted)?;
        if_match.check(&format!("expert `{wanted}`"), &desired.etag(entry))?;
        // Saying what is already so changes nothing, not even the audit log.
        let so = desired.drained.contains(&entry.value.id) == on;
        Ok(if so { Vec::new() } else { vec![Edit::Drain(entry.value.id.clone(), on)] })
    };
    let desired: Arc<Desired> = admin.change(params, "", plan).await?;
    shown(admin, &desired, &name)
}
