//! `/admin/v1/teams`: limits and access that keys share.

use admission::TeamSpec;
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
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
use crate::error::ApiError;
use crate::problem::{Problem, hint};

/// A team with what the gateway knows of it.
#[derive(Serialize, ToSchema)]
#[schema(as = Team)]
pub(super) struct TeamView {
    /// Its settings.
    #[serde(flatten)]
    spec: TeamSpec,
    /// Who owns it.
    origin: Origin,
    /// Changes with the object.
    etag: String,
}

impl Resource for TeamSpec {
    type Shown = TeamView;

    fn shown(_: &View, desired: &Desired, entry: &Entry<Self>) -> TeamView {
        TeamView { spec: entry.value.clone(), origin: entry.origin, etag: desired.etag(entry) }
    }

    fn problems_when_written(&self, old: Option<&Self>, desired: &Desired) -> Vec<Problem> {
        let access = |team: &Self| Access { routes: team.routes.clone(), experts: team.experts.clone() };
        access(self).unknown(old.map(access), desired)
    }
}

/// What a key or a team may use; everything where nothing is listed.
pub(super) struct Access {
    pub(super) routes: Option<Vec<String>>,
    pub(super) experts: Option<Vec<String>>,
}

impl Access {
    /// The names that nothing bears. Those that were listed before are passed over: a name may lose its bearer
    /// at any time, and that must not stand in the way of changing something else.
    pub(super) fn unknown(self, old: Option<Self>, desired: &Desired) -> Vec<Problem> {
        let (old_routes, old_experts) = old.map_or((None, None), |old| (old.routes, old.experts));
        let mut problems = unknown("route", self.routes, old_routes, &desired.routes);
        problems.extend(unknown("expert", self.experts, old_experts, &desired.experts));
        problems
    }
}

fn unknown<T>(
    kind: &str,
    names: Option<Vec<String>>,
    old: Option<Vec<String>>,
    known: &std::collections::BTreeMap<routing::ExpertId, T>,
) -> Vec<Problem> {
    let old = old.unwrap_or_default();
    let new = names.unwrap_or_default().into_iter().enumerate();
    new.filter(|(_, name)| !known.contains_key(name.as_str()) && !old.contains(name))
        .map(|(i, name)| {
            let hint = hint(&name, known.keys().map(routing::ExpertId::as_str));
            Problem::at(format!("{kind}s[{i}]"), format!("there is no {kind} `{name}`{hint}"))
        })
        .collect()
}

/// Lists the teams by id.
#[utoipa::path(
    get, path = "/teams",
    operation_id = "listTeams", tag = "keys",
    params(PageParams),
    responses((status = 200, description = "The teams", body = Page<TeamView>), Refused)
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(params): Params<PageParams>,
) -> Json<Page<TeamView>> {
    resource::list::<TeamSpec>(&admin, &params)
}

/// Adds a team. Keys can name it at once.
#[utoipa::path(
    post, path = "/teams",
    operation_id = "createTeam", tag = "keys",
    params(WriteParams),
    request_body = TeamSpec,
    responses(
        (status = 201, description = "The team as it was made", body = TeamView),
        (status = 200, description = "Dry run: the team that would be", body = TeamView),
        Refused, Unwritten
    )
)]
pub(super) async fn create(write: Write, Body(fields): Body) -> Result<Response, ApiError> {
    resource::create::<TeamSpec>(&write, fields).await
}

/// Shows one team.
#[utoipa::path(
    get, path = "/teams/{id}",
    operation_id = "getTeam", tag = "keys",
    params(("id" = String, Path)),
    responses((status = 200, description = "The team", body = TeamView), Refused, Named)
)]
pub(super) async fn get(State(admin): State<Admin>, Name(id): Name) -> Result<Tagged<TeamView>, ApiError> {
    resource::get::<TeamSpec>(&admin, &id)
}

/// Replaces a team. Its new limits hold from the next request on; what was used counts against them.
#[utoipa::path(
    put, path = "/teams/{id}",
    operation_id = "replaceTeam", tag = "keys",
    params(("id" = String, Path), ("if-match" = Option<String>, Header), WriteParams),
    request_body = TeamSpec,
    responses((status = 200, description = "The team", body = TeamView), Refused, Named, Unwritten)
)]
pub(super) async fn replace(
    Name(id): Name,
    write: Write,
    Body(fields): Body,
) -> Result<Tagged<TeamView>, ApiError> {
    resource::replace::<TeamSpec>(write, id, fields).await
}

/// Changes fields of a team by JSON merge patch (RFC 7396): null removes a field.
#[utoipa::path(
    patch, path = "/teams/{id}",
    operation_id = "patchTeam", tag = "keys",
    params(("id" = String, Path), ("if-match" = Option<String>, Header), WriteParams),
    request_body(content = Object, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "The team", body = TeamView), Refused, Named, Unwritten)
)]
pub(super) async fn patch(
    Name(id): Name,
    write: Write,
    Body(fields): Body,
) -> Result<Tagged<TeamView>, ApiError> {
    resource::patch::<TeamSpec>(write, id, fields).await
}

/// Removes a team. A key that names it must be changed first.
#[utoipa::path(
    delete, path = "/teams/{id}",
    operation_id = "deleteTeam", tag = "keys",
    params(("id" = String, Path), ("if-match" = Option<String>, Header), WriteParams),
    responses((status = 204, description = "Removed, or could be"), Refused, Named, Unwritten)
)]
pub(super) async fn delete(Name(id): Name, write: Write) -> Result<StatusCode, ApiError> {
    resource::delete::<TeamSpec>(&write, id).await
}
