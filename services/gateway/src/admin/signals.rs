//! `/admin/v1/gates`, `pilots`, `scorers`: what was learnt of experts from data.
//!
//! Each belongs to an expert and to a space of embeddings. With a router model of another space it is kept and has no
//! effect, and says so. A write answers which recent decisions it changes.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use routing::ExpertId;
use serde::Serialize;
use utoipa::ToSchema;

use super::Admin;
use super::change::{Write, WriteParams, invalid, missing};
use super::document::{Named, Refused, Unwritten};
use super::etag::{IfMatch, Tagged};
use super::impact::Impact;
use super::page::{Page, PageParams};
use super::read::{Body, Name, Params, unprocessable};
use super::resource::{self, Fields, Resource, check_version, strip};
use crate::catalog::{Desired, Entry, GateSpec, Op, PilotsSpec, ScorerSpec, Signal, View};
use crate::error::{ApiError, ErrorKind};
use crate::problem::Problem;

/// Something that was learnt of an expert, with what the gateway knows of it.
#[derive(Serialize, ToSchema)]
pub(super) struct Learnt<T> {
    /// What was learnt.
    #[serde(flatten)]
    spec: T,
    /// Why it has no effect with the router model that is loaded; null when it has.
    #[schema(required)]
    unused_because: Option<String>,
    /// Changes with the object.
    etag: String,
}

/// What was written, and what it changes.
#[derive(Serialize, ToSchema)]
pub(super) struct Relearnt<T> {
    /// The object.
    #[serde(flatten)]
    learnt: Learnt<T>,
    /// What recent decisions would be with it.
    changes: Impact,
}

macro_rules! resource {
    ($($type:ty),*) => {$(
        impl Resource for $type {
            type Shown = Learnt<Self>;
            const ADDED: &'static [&'static str] = &["unused_because", "changes"];

            fn shown(view: &View, desired: &Desired, entry: &Entry<Self>) -> Learnt<Self> {
                Learnt {
                    spec: entry.value.clone(),
                    unused_because: entry.value.unused(view.router.space.as_ref()),
                    etag: desired.etag(entry),
                }
            }
        }
    )*};
}

resource!(GateSpec, PilotsSpec, ScorerSpec);

/// Sets what was learnt of an expert, whether there was something before or not.
async fn put<T>(write: Write, id: String, mut fields: Fields) -> Result<Tagged<Relearnt<T>>, ApiError>
where
    T: Signal + Resource<Shown = Learnt<T>>,
{
    let write = write.for_version(strip::<T>(&mut fields));
    fields.entry("expert").or_insert_with(|| id.as_str().into());
    let value: T = Body(fields).read()?;
    if value.id().as_str() != id {
        return Err(unprocessable(Problem::at("expert", format!("must be `{id}`, as in the path"))));
    }
    let view = write.admin.view();
    let found = value.problems(view.router.space.as_ref());
    if !found.is_empty() {
        return Err(invalid(&found, ""));
    }
    let name = id.clone();
    let plan = move |desired: &Desired, if_match: &IfMatch| {
        if !desired.experts.contains_key(name.as_str()) {
            return Err(missing("expert", &name, desired.experts.keys().map(ExpertId::as_str)));
        }
        let op = match T::table(desired).get(name.as_str()) {
            Some(entry) => {
                check_version(desired, entry, if_match)?;
                Op::Replace(Box::new(value), None)
            }
            None if *if_match == IfMatch::Unsaid => Op::Create(Box::new(value)),
            None => {
                let message = format!("expert `{name}` has no {}, so that If-Match cannot hold", T::NAME);
                return Err(ApiError::new(ErrorKind::PreconditionFailed, message));
            }
        };
        Ok(vec![T::edit(op)])
    };
    let desired = write.change("", plan).await?;
    let Tagged { status, etag, object: learnt } = resource::show::<T>(&write.admin, &desired, &id)?;
    let changes = Impact::of(&write.admin, view, desired).await?;
    Ok(Tagged { status, etag, object: Relearnt { learnt, changes } })
}

/// Lists the gates by expert.
#[utoipa::path(
    get, path = "/gates",
    operation_id = "listGates", tag = "learnt",
    params(PageParams),
    responses((status = 200, description = "The gates", body = Page<Learnt<GateSpec>>), Refused)
)]
pub(super) async fn list_gates(
    State(admin): State<Admin>,
    Params(params): Params<PageParams>,
) -> Json<Page<Learnt<GateSpec>>> {
    resource::list::<GateSpec>(&admin, &params)
}

/// Shows an expert's gate.
#[utoipa::path(
    get, path = "/gates/{id}",
    operation_id = "getGate", tag = "learnt",
    params(("id" = String, Path)),
    responses((status = 200, description = "The gate", body = Learnt<GateSpec>), Refused, Named)
)]
pub(super) async fn get_gate(
    State(admin): State<Admin>,
    Name(id): Name,
) -> Result<Tagged<Learnt<GateSpec>>, ApiError> {
    resource::get::<GateSpec>(&admin, &id)
}

/// Sets an expert's gate, and tells which recent decisions it changes; with `dry_run` without setting it.
#[utoipa::path(
    put, path = "/gates/{id}",
    operation_id = "setGate", tag = "learnt",
    params(("id" = String, Path), ("if-match" = Option<String>, Header), WriteParams),
    request_body = GateSpec,
    responses((status = 200, description = "The gate", body = Relearnt<GateSpec>), Refused, Named, Unwritten)
)]
pub(super) async fn put_gate(
    write: Write,
    Name(id): Name,
    Body(fields): Body,
) -> Result<Tagged<Relearnt<GateSpec>>, ApiError> {
    put(write, id, fields).await
}

/// Removes an expert's gate.
#[utoipa::path(
    delete, path = "/gates/{id}",
    operation_id = "deleteGate", tag = "learnt",
    params(("id" = String, Path), ("if-match" = Option<String>, Header), WriteParams),
    responses((status = 204, description = "It is removed"), Refused, Named, Unwritten)
)]
pub(super) async fn delete_gate(write: Write, Name(id): Name) -> Result<StatusCode, ApiError> {
    resource::delete::<GateSpec>(&write, id).await
}

/// Lists the experts' pilots.
#[utoipa::path(
    get, path = "/pilots",
    operation_id = "listPilots", tag = "learnt",
    params(PageParams),
    responses((status = 200, description = "The pilots", body = Page<Learnt<PilotsSpec>>), Refused)
)]
pub(super) async fn list_pilots(
    State(admin): State<Admin>,
    Params(params): Params<PageParams>,
) -> Json<Page<Learnt<PilotsSpec>>> {
    resource::list::<PilotsSpec>(&admin, &params)
}

/// Shows an expert's pilots.
#[utoipa::path(
    get, path = "/pilots/{id}",
    operation_id = "getPilots", tag = "learnt",
    params(("id" = String, Path)),
    responses((status = 200, description = "The pilots", body = Learnt<PilotsSpec>), Refused, Named)
)]
pub(super) async fn get_pilots(
    State(admin): State<Admin>,
    Name(id): Name,
) -> Result<Tagged<Learnt<PilotsSpec>>, ApiError> {
    resource::get::<PilotsSpec>(&admin, &id)
}

/// Sets an expert's pilots, and tells which recent decisions they change; with `dry_run` without setting them.
#[utoipa::path(
    put, path = "/pilots/{id}",
    operation_id = "setPilots", tag = "learnt",
    params(("id" = String, Path), ("if-match" = Option<String>, Header), WriteParams),
    request_body = PilotsSpec,
    responses((status = 200, description = "The pilots", body = Relearnt<PilotsSpec>), Refused, Named, Unwritten)
)]
pub(super) async fn put_pilots(
    write: Write,
    Name(id): Name,
    Body(fields): Body,
) -> Result<Tagged<Relearnt<PilotsSpec>>, ApiError> {
    put(write, id, fields).await
}

/// Removes an expert's pilots.
#[utoipa::path(
    delete, path = "/pilots/{id}",
    operation_id = "deletePilots", tag = "learnt",
    params(("id" = String, Path), ("if-match" = Option<String>, Header), WriteParams),
    responses((status = 204, description = "They are removed"), Refused, Named, Unwritten)
)]
pub(super) async fn delete_pilots(write: Write, Name(id): Name) -> Result<StatusCode, ApiError> {
    resource::delete::<PilotsSpec>(&write, id).await
}

/// Lists the scorers by expert.
#[utoipa::path(
    get, path = "/scorers",
    operation_id = "listScorers", tag = "learnt",
    params(PageParams),
    responses((status = 200, description = "The scorers", body = Page<Learnt<ScorerSpec>>), Refused)
)]
pub(super) async fn list_scorers(
    State(admin): State<Admin>,
    Params(params): Params<PageParams>,
) -> Json<Page<Learnt<ScorerSpec>>> {
    resource::list::<ScorerSpec>(&admin, &params)
}

/// Shows an expert's scorer.
#[utoipa::path(
    get, path = "/scorers/{id}",
    operation_id = "getScorer", tag = "learnt",
    params(("id" = String, Path)),
    responses((status = 200, description = "The scorer", body = Learnt<ScorerSpec>), Refused, Named)
)]
pub(super) async fn get_scorer(
    State(admin): State<Admin>,
    Name(id): Name,
) -> Result<Tagged<Learnt<ScorerSpec>>, ApiError> {
    resource::get::<ScorerSpec>(&admin, &id)
}

/// Sets an expert's scorer, and tells which recent decisions it changes; with `dry_run` without setting it.
#[utoipa::path(
    put, path = "/scorers/{id}",
    operation_id = "setScorer", tag = "learnt",
    params(("id" = String, Path), ("if-match" = Option<String>, Header), WriteParams),
    request_body = ScorerSpec,
    responses((status = 200, description = "The scorer", body = Relearnt<ScorerSpec>), Refused, Named, Unwritten)
)]
pub(super) async fn put_scorer(
    write: Write,
    Name(id): Name,
    Body(fields): Body,
) -> Result<Tagged<Relearnt<ScorerSpec>>, ApiError> {
    put(write, id, fields).await
}

/// Removes an expert's scorer.
#[utoipa::path(
    delete, path = "/scorers/{id}",
    operation_id = "deleteScorer", tag = "learnt",
    params(("id" = String, Path), ("if-match" = Option<String>, Header), WriteParams),
    responses((status = 204, description = "It is removed"), Refused, Named, Unwritten)
)]
pub(super) async fn delete_scorer(write: Write, Name(id): Name) -> Result<StatusCode, ApiError> {
    resource::delete::<ScorerSpec>(&write, id).await
}
