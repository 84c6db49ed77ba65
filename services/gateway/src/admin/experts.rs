//! `/admin/v1/experts`: what can answer.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use experts::{EndpointStatus, ExpertSpec};
use http::StatusCode;
use routing::{Availability, ExpertId};
use serde::Serialize;
use utoipa::ToSchema;

use super::Admin;
use super::change::{Write, WriteParams};
use super::document::{Named, Refused, Unwritten};
use super::etag::Tagged;
use super::page::{Page, PageParams};
use super::read::{Body, Name, Params};
use super::resource::{self, Fields, Resource};
use crate::catalog::{Desired, Edit, Entry, Origin, View};
use crate::error::ApiError;

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
    /// Where its weights are, where it is in a pool; only where one expert is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    residency: Option<Residency>,
}

/// Where the weights of an expert are.
#[derive(Serialize, ToSchema)]
#[schema(as = PooledExpert)]
pub(super) struct Residency {
    /// Its pool; `/admin/v1/tiers/{pool}` shows more.
    pool: String,
    #[serde(flatten)]
    expert: ::tiers::owner::ExpertStatus,
}

impl Resource for ExpertSpec {
    type Shown = ExpertView;

    const ADDED: &'static [&'static str] = &["status"];

    fn shown(view: &View, desired: &Desired, entry: &Entry<Self>) -> ExpertView {
        let id = &entry.value.id;
        let live = view.experts.fleet().get(id.as_str()).map(|facts| facts.availability);
        let availability = match live {
            _ if desired.drained.contains(id) => Availability::Draining,
            Some(Availability::Draining) | None => Availability::Ready,
            Some(live) => live,
        };
        let endpoints = view.experts.get(id.as_str()).map(|expert| expert.endpoints()).unwrap_or_default();
        ExpertView {
            spec: entry.value.clone(),
            origin: entry.origin,
            status: ExpertStatus { availability, endpoints, residency: None },
            etag: desired.etag(entry),
        }
    }

    /// With the secrets of the one it replaces where the caller left them starred.
    fn read(fields: Fields, old: Option<&Self>) -> Result<Self, ApiError> {
        let mut spec: Self = Body(fields).read()?;
        if let Some(old) = old {
            spec.inherit_secrets(old);
        }
        Ok(spec)
    }
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
    resource::list::<ExpertSpec>(&admin, &params)
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
pub(super) async fn create(write: Write, Body(fields): Body) -> Result<Response, ApiError> {
    resource::create::<ExpertSpec>(&write, fields).await
}

/// Shows one expert.
#[utoipa::path(
    get, path = "/experts/{id}",
    operation_id = "getExpert", tag = "experts",
    params(("id" = ExpertId, Path)),
    responses((status = 200, description = "The expert", body = ExpertView), Refused, Named)
)]
pub(super) async fn get(State(admin): State<Admin>, Name(id): Name) -> Result<Tagged<ExpertView>, ApiError> {
    let mut shown = resource::get::<ExpertSpec>(&admin, &id)?;
    let id = &shown.object.spec.id;
    if let Some(pool) = admin.app.pipeline.pools.of(id) {
        let residency = |expert| Residency { pool: pool.id().to_string(), expert };
        shown.object.status.residency = pool.expert(id).ok().map(residency);
    }
    Ok(shown)
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
    Name(id): Name,
    write: Write,
    Body(fields): Body,
) -> Result<Tagged<ExpertView>, ApiError> {
    resource::replace::<ExpertSpec>(write, id, fields).await
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
    Name(id): Name,
    write: Write,
    Body(fields): Body,
) -> Result<Tagged<ExpertView>, ApiError> {
    resource::patch::<ExpertSpec>(write, id, fields).await
}

/// Removes an expert. Requests that it is answering go on; a route that names it must be changed first.
#[utoipa::path(
    delete, path = "/experts/{id}",
    operation_id = "deleteExpert", tag = "experts",
    params(("id" = ExpertId, Path), ("if-match" = Option<String>, Header), WriteParams),
    responses((status = 204, description = "Removed, or could be"), Refused, Named, Unwritten)
)]
pub(super) async fn delete(Name(id): Name, write: Write) -> Result<StatusCode, ApiError> {
    resource::delete::<ExpertSpec>(&write, id).await
}

/// Lets an expert finish what it has and take nothing new. Possible for those of the configuration file too.
#[utoipa::path(
    post, path = "/experts/{id}/drain",
    operation_id = "drainExpert", tag = "experts",
    extensions(("x-required-role" = json!("operator"))),
    params(("id" = ExpertId, Path), ("if-match" = Option<String>, Header), WriteParams),
    responses((status = 200, description = "The expert", body = ExpertView), Refused, Named, Unwritten)
)]
pub(super) async fn drain(Name(id): Name, write: Write) -> Result<Tagged<ExpertView>, ApiError> {
    set_drained(&write, id, true).await
}

/// Lets a drained expert take requests again.
#[utoipa::path(
    post, path = "/experts/{id}/undrain",
    operation_id = "undrainExpert", tag = "experts",
    extensions(("x-required-role" = json!("operator"))),
    params(("id" = ExpertId, Path), ("if-match" = Option<String>, Header), WriteParams),
    responses((status = 200, description = "The expert", body = ExpertView), Refused, Named, Unwritten)
)]
pub(super) async fn undrain(Name(id): Name, write: Write) -> Result<Tagged<ExpertView>, ApiError> {
    set_drained(&write, id, false).await
}

async fn set_drained(write: &Write, id: String, on: bool) -> Result<Tagged<ExpertView>, ApiError> {
    let name = id.clone();
    let plan = move |desired: &Desired, if_match: &_| {
        let entry = resource::find::<ExpertSpec>(desired, &name)?;
        resource::check_version(desired, entry, if_match)?;
        // Saying what is already so changes nothing, not even the audit log.
        let so = desired.drained.contains(&entry.value.id) == on;
        Ok(if so { Vec::new() } else { vec![Edit::Drain(entry.value.id.clone(), on)] })
    };
    let desired = write.change("", plan).await?;
    resource::show::<ExpertSpec>(&write.admin, &desired, &id)
}
