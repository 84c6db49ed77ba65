//! `/admin/v1/tiers/leases`: experts of this process's pools, for gateways in other processes.
//!
//! Only a process that was started to own pools alone (`serve --role tiers`) lends them.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use routing::ExpertId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tiers::leases::WrongTerm;
use tiers::owner::{Ask, Denied, Pool, Why};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::Admin;
use super::change::missing;
use super::document::{ErrorBody, Named, Refused};
use super::read::{Body, Name, Params, unprocessable};
use crate::error::{ApiError, ErrorKind, whole_seconds};
use crate::problem::Problem;
use crate::residency::Lender;
use crate::residency::wire::{
    ExpertOutlook, LastsOn, LeaseGrant, LeaseWish, PoolOutlook, RenewWish, Renewal, Suspicion,
};

/// A request's time that is longer has no end.
const LONGEST_MS: u64 = 24 * 3600 * 1000;

/// All leases.
#[derive(Serialize, ToSchema)]
#[schema(as = Leases)]
pub(super) struct Shown {
    /// Counts the starts of this process.
    term: u64,
    /// How long a lease lasts without being renewed.
    expires_in_ms: u64,
    /// The leases, in the order in which they were granted.
    items: Vec<ShownLease>,
}

/// A lease.
#[derive(Serialize, ToSchema)]
#[schema(as = Lease)]
pub(super) struct ShownLease {
    /// Its number in this term.
    lease: u64,
    /// Who has it.
    holder: String,
    /// Whom it keeps.
    expert: ExpertId,
    /// When it ends, if it is not renewed.
    expires_in_ms: u64,
}

/// Why a request does not get its expert.
#[derive(Serialize, ToSchema)]
#[schema(as = LeaseRefused)]
pub(super) struct RefusedLease {
    /// For people.
    #[schema(value_type = Object)]
    error: (),
    /// Why.
    why: Why,
    /// After how long it could be had, as estimated.
    retry_after_ms: u64,
}

/// Of which term a lease is.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TermParams {
    /// The term that it was granted in.
    term: u64,
}

fn lender(admin: &Admin) -> Result<&Arc<Lender>, ApiError> {
    admin.app.lender.as_ref().ok_or_else(|| {
        let message =
            "this process lends no experts: start the owner of the pools with `guildhall serve --role tiers`";
        ApiError::new(ErrorKind::Conflict, message)
    })
}

fn pool<'a>(admin: &'a Admin, expert: &ExpertId) -> Result<&'a Pool, ApiError> {
    let pools = &admin.app.pipeline.pools;
    pools.of(expert).ok_or_else(|| {
        let known = pools.all().iter().flat_map(Pool::experts).map(ExpertId::as_str);
        missing("expert of a pool", expert.as_str(), known)
    })
}

fn check_holder(holder: &str) -> Result<(), ApiError> {
    if (1..=128).contains(&holder.len()) {
        return Ok(());
    }
    Err(unprocessable(Problem::at("holder", "must have 1 to 128 bytes")))
}

fn other_term(error: WrongTerm) -> ApiError {
    ApiError::new(ErrorKind::Conflict, error.to_string()).with_param("term")
}

fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// Waits until an expert is ready and it is this request's turn, loads it where it has to be, and lends it. A client
/// that leaves gives its turn up.
#[utoipa::path(
    post, path = "/tiers/leases",
    operation_id = "acquireLease", tag = "residency",
    extensions(("x-required-role" = json!("operator"))),
    request_body = LeaseWish,
    responses(
        (status = 200, description = "The expert is ready", body = LeaseGrant),
        (status = 409, description = "This process lends no experts", body = ErrorBody),
        (status = 422, description = "The body is not usable; `param` names the place", body = ErrorBody),
        (status = 503, description = "The expert cannot be had in time; `Retry-After` says when to try again", body = RefusedLease),
        Refused, Named
    )
)]
pub(super) async fn acquire(State(admin): State<Admin>, body: Body) -> Result<Response, ApiError> {
    let lender = lender(&admin)?;
    let wish: LeaseWish = body.read()?;
    check_holder(&wish.holder)?;
    let pool = pool(&admin, &wish.expert)?;
    let left = wish.deadline_ms.filter(|ms| *ms <= LONGEST_MS).map(Duration::from_millis);
    let deadline = left.map(|left| Instant::now() + left);
    let ask = Ask { expert: &wish.expert, tenant: wish.tenant, session: wish.session, deadline };
    let held = match pool.acquire(ask).await {
        Ok(held) => held,
        Err(denied) => return Ok(refusal(&wish.expert, &denied)),
    };
    let (found, waited_us) = (held.found(), held.waited().as_micros() as u64);
    let (term, lasts) = lender.terms();
    let lease = lender.grant(wish.holder, wish.expert, held);
    Ok(Json(LeaseGrant { lease, term, expires_in_ms: ms(lasts), found, waited_us }).into_response())
}

/// An error with what a gateway needs to know of it beside.
fn refusal(expert: &ExpertId, denied: &Denied) -> Response {
    let message = format!("the expert `{expert}` cannot be lent now: {}", denied.why);
    let error = ApiError::new(ErrorKind::NoHealthyBackend, message);
    let mut body: serde_json::Value = serde_json::from_slice(&error.body()).unwrap_or_default();
    body["why"] = json!(denied.why);
    body["retry_after_ms"] = json!(ms(denied.retry_after));
    let after = whole_seconds(denied.retry_after).to_string();
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, after)], Json(body)).into_response()
}

/// Lists the leases.
#[utoipa::path(
    get, path = "/tiers/leases",
    operation_id = "listLeases", tag = "residency",
    responses(
        (status = 200, description = "The leases", body = Shown),
        (status = 409, description = "This process lends no experts", body = ErrorBody),
        Refused
    )
)]
pub(super) async fn list(State(admin): State<Admin>) -> Result<Json<Shown>, ApiError> {
    let lender = lender(&admin)?;
    let (term, lasts) = lender.terms();
    let items = lender.shown().into_iter().map(|(shown, left)| ShownLease {
        lease: shown.lease,
        holder: shown.holder.as_ref().to_owned(),
        expert: shown.expert,
        expires_in_ms: ms(left),
    });
    Ok(Json(Shown { term, expires_in_ms: ms(lasts), items: items.collect() }))
}

/// Has leases last on. Those of a term before, and those that ran out, are made anew where their experts are ready.
#[utoipa::path(
    post, path = "/tiers/leases/renew",
    operation_id = "renewLeases", tag = "residency",
    extensions(("x-required-role" = json!("operator"))),
    request_body = RenewWish,
    responses(
        (status = 200, description = "What became of each", body = Renewal),
        (status = 409, description = "The term is a later one, or this process lends no experts", body = ErrorBody),
        (status = 422, description = "The body is not usable; `param` names the place", body = ErrorBody),
        Refused
    )
)]
pub(super) async fn renew(State(admin): State<Admin>, body: Body) -> Result<Json<Renewal>, ApiError> {
    let lender = lender(&admin)?;
    let wish: RenewWish = body.read()?;
    check_holder(&wish.holder)?;
    let leases: Vec<_> = wish.leases.into_iter().map(|lease| (lease.lease, lease.expert)).collect();
    let renewed = lender.renew(&wish.holder, wish.term, &leases).map_err(other_term)?;
    let (term, lasts) = lender.terms();
    let last_on = renewed.leases.into_iter().map(|(lease, now)| LastsOn { lease, now });
    Ok(Json(Renewal {
        term,
        expires_in_ms: ms(lasts),
        leases: last_on.collect(),
        lost: renewed.lost,
        unknown: renewed.unknown,
    }))
}

/// Gives a lease back.
#[utoipa::path(
    delete, path = "/tiers/leases/{lease}",
    operation_id = "releaseLease", tag = "residency",
    extensions(("x-required-role" = json!("operator"))),
    params(("lease" = u64, Path), TermParams),
    responses(
        (status = 204, description = "It is given back"),
        (status = 409, description = "The term is another one, or this process lends no experts", body = ErrorBody),
        Refused, Named
    )
)]
pub(super) async fn release(
    State(admin): State<Admin>,
    Params(TermParams { term }): Params<TermParams>,
    Name(lease): Name,
) -> Result<StatusCode, ApiError> {
    let lender = lender(&admin)?;
    let number = lease.parse().map_err(|_| missing("lease", &lease, []))?;
    if lender.release(term, number).map_err(other_term)? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let message = format!("there is no lease {number}: it ran out, or was given back before");
    Err(ApiError::new(ErrorKind::NotFound, message))
}

/// Has the drivers asked soon whether an expert is where it should be.
#[utoipa::path(
    post, path = "/tiers/leases/suspect",
    operation_id = "suspectExpert", tag = "residency",
    extensions(("x-required-role" = json!("operator"))),
    request_body = Suspicion,
    responses(
        (status = 202, description = "They will be"),
        (status = 409, description = "This process lends no experts", body = ErrorBody),
        (status = 422, description = "The body is not usable; `param` names the place", body = ErrorBody),
        Refused, Named
    )
)]
pub(super) async fn suspect(State(admin): State<Admin>, body: Body) -> Result<StatusCode, ApiError> {
    lender(&admin)?;
    let Suspicion { expert } = body.read()?;
    pool(&admin, &expert)?.suspect(&expert);
    Ok(StatusCode::ACCEPTED)
}

/// Tells where the experts of all pools are, for gateways' routing.
#[utoipa::path(
    get, path = "/tiers/outlook",
    operation_id = "getOutlook", tag = "residency",
    responses(
        (status = 200, description = "The experts of all pools", body = PoolOutlook),
        (status = 409, description = "This process lends no experts", body = ErrorBody),
        Refused
    )
)]
pub(super) async fn outlook(State(admin): State<Admin>) -> Result<Json<PoolOutlook>, ApiError> {
    let (term, lasts) = lender(&admin)?.terms();
    let mut experts = Vec::new();
    for pool in admin.app.pipeline.pools.all() {
        for expert in pool.experts() {
            let outlook = pool.outlook(expert);
            experts.push(ExpertOutlook {
                expert: expert.clone(),
                pool: pool.id().to_string(),
                away: outlook.and_then(|outlook| outlook.away),
                wait_ms: outlook.map_or(0, |outlook| ms(outlook.wait)),
            });
        }
    }
    experts.sort_unstable_by(|a, b| a.expert.cmp(&b.expert));
    Ok(Json(PoolOutlook { term, expires_in_ms: ms(lasts), experts }))
}
