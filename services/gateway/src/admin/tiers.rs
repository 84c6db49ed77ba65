//! `/admin/v1/tiers`: the pools of experts that share an accelerator, where their weights are, and why.
//!
//! What is asked for here moves weights at once. It is no setting: pins, drains and a changed policy end with the
//! process.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use routing::ExpertId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stores::{AuditEntry, Change};
use tiers::owner::{Asked, ExpertStatus, OperationError, Plan, Pool, PoolStatus, Record};
use tiers::residency::{Policy, PoolError, Tier};
use utoipa::{IntoParams, ToSchema};

use super::Admin;
use super::auth::Actor;
use super::change::{WriteParams, missing};
use super::document::{ErrorBody, Named, Refused, Unwritten};
use super::etag::{IfMatch, Tagged, etag_of};
use super::page::{Page, PageParams, limit};
use super::read::{Body, Name, Names, Params, unprocessable};
use crate::error::{ApiError, ErrorKind};
use crate::pipeline::now_ms;
use crate::problem::{Problem, hint};

/// Longest that a call waits for what it asked for.
const WAIT_MAX_S: u64 = 600;

/// How long a reconciliation may take.
const RECONCILE: Duration = Duration::from_secs(30);

/// Which expert a plan is asked for.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PlanParams {
    /// An expert of the pool.
    expert: String,
}

/// Which decisions of a pool.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RecordParams {
    /// At most so many, 1 to 1000; 100 when not given.
    limit: Option<usize>,
    /// Only decisions older than this one: `next` of the page before.
    before: Option<u64>,
}

/// A part of a pool's decisions.
#[derive(Serialize, ToSchema)]
#[schema(as = ResidencyDecisions)]
pub(super) struct Records {
    /// Newest first. The last 1000 are kept.
    items: Vec<Record>,
    /// What to send as `before` to get older ones; null at the end.
    #[schema(required)]
    next: Option<u64>,
}

/// Where an expert shall be.
#[derive(Deserialize, ToSchema)]
#[schema(as = ResidencyWish)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    /// The tier of its nearest copy.
    tier: Tier,
    /// Seconds to wait for it, 0 to 600; 30 when not given. It stays wanted after that.
    #[serde(default = "half_a_minute")]
    wait_s: u64,
}

fn half_a_minute() -> u64 {
    30
}

/// How long an expert stays where it is.
#[derive(Deserialize, ToSchema)]
#[schema(as = ResidencyPin)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum PinWish {
    /// Until it is unpinned.
    Hard,
    /// For some time.
    Soft {
        /// Seconds, at least 1.
        ttl_s: u64,
    },
}

/// How a pool is scheduled.
#[derive(Serialize, ToSchema)]
#[schema(as = ResidencyPolicy)]
pub(super) struct PolicyView {
    #[serde(flatten)]
    policy: Policy,
    /// Until when this holds: `restart` for what was changed here, `changed in the configuration` for the rest.
    until: &'static str,
    /// Changes with the settings.
    etag: String,
}

impl PolicyView {
    fn tagged(admin: &Admin, id: &str, policy: Policy) -> Tagged<Self> {
        let config = admin.app.current.config();
        let configured = config.pools.iter().find(|pool| pool.id.as_str() == id);
        let same = configured.is_some_and(|pool| pool.policy == policy);
        let until = if same { "changed in the configuration" } else { "restart" };
        let etag = etag_of(&policy);
        Tagged::ok(etag.clone(), Self { policy, until, etag })
    }
}

fn find<'a>(admin: &'a Admin, id: &str) -> Result<&'a Pool, ApiError> {
    let pools = &admin.app.pipeline.pools;
    pools.get(id).ok_or_else(|| missing("pool", id, pools.all().iter().map(|pool| &**pool.id())))
}

/// A pool and one of its experts.
fn member<'a>(admin: &'a Admin, pool: &str, expert: &str) -> Result<(&'a Pool, ExpertId), ApiError> {
    let pool = find(admin, pool)?;
    let known = pool.experts().find(|id| id.as_str() == expert).cloned();
    let absent = || {
        let hint = hint(expert, pool.experts().map(ExpertId::as_str));
        let shown: String = expert.chars().take(128).collect();
        let message = format!("there is no expert `{shown}` in pool `{}`{hint}", pool.id());
        ApiError::new(ErrorKind::NotFound, message)
    };
    Ok((pool, known.ok_or_else(absent)?))
}

/// The answer for what was not done.
fn refusal(error: &OperationError) -> ApiError {
    let kind = match error {
        OperationError::NoExpert(_) => ErrorKind::NotFound,
        OperationError::NoTier { .. } => return unprocessable(Problem::at("tier", error.to_string())),
        OperationError::InUse(_) | OperationError::NoRoom { .. } | OperationError::Superseded => {
            ErrorKind::Conflict
        }
        OperationError::Failed(_) => ErrorKind::UpstreamFailed,
        OperationError::UnderWay => ErrorKind::NoHealthyBackend,
    };
    ApiError::new(kind, error.to_string())
}

/// Writes down who asked for what. The work goes on when the client leaves.
async fn note(
    admin: &Admin,
    actor: &Actor,
    action: &str,
    object: String,
    detail: Value,
) -> Result<(), ApiError> {
    let (actor, action) = (actor.name().to_owned(), format!("tiers.{action}"));
    let entry = AuditEntry { time_ms: now_ms(), actor, action, object, detail };
    let store = admin.app.pipeline.catalog.store().clone();
    let change = Change { writes: Vec::new(), audit: vec![entry] };
    let written = tokio::task::spawn_blocking(move || store.commit(&change)).await;
    written.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
    Ok(())
}

fn place(pool: &Pool, expert: Option<&ExpertId>) -> String {
    match expert {
        Some(expert) => format!("tiers/{}/experts/{expert}", pool.id()),
        None => format!("tiers/{}", pool.id()),
    }
}

/// Lists the pools with their tiers, experts and drivers.
#[utoipa::path(
    get, path = "/tiers",
    operation_id = "listPools", tag = "residency",
    params(PageParams),
    responses((status = 200, description = "The pools", body = Page<PoolStatus>), Refused)
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(params): Params<PageParams>,
) -> Json<Page<PoolStatus>> {
    let mut pools: Vec<&Pool> = admin.app.pipeline.pools.all().iter().collect();
    pools.sort_by_key(|pool| pool.id().clone());
    Json(params.cut(pools.into_iter().map(|pool| (&**pool.id(), pool)), Pool::status))
}

/// Shows one pool. Every capacity says where it comes from.
#[utoipa::path(
    get, path = "/tiers/{pool}",
    operation_id = "getPool", tag = "residency",
    params(("pool" = String, Path)),
    responses((status = 200, description = "The pool", body = PoolStatus), Refused, Named)
)]
pub(super) async fn get(State(admin): State<Admin>, Name(id): Name) -> Result<Json<PoolStatus>, ApiError> {
    Ok(Json(find(&admin, &id)?.status()))
}

/// Says what would be done for a request that came now. Nothing is.
#[utoipa::path(
    get, path = "/tiers/{pool}/plan",
    operation_id = "planResidency", tag = "residency",
    params(("pool" = String, Path), PlanParams),
    responses((status = 200, description = "What would be done", body = Plan), Refused, Named)
)]
pub(super) async fn plan(
    State(admin): State<Admin>,
    Name(id): Name,
    Params(params): Params<PlanParams>,
) -> Result<Json<Plan>, ApiError> {
    let (pool, expert) = member(&admin, &id, &params.expert)?;
    pool.plan(&expert).map(Json).map_err(|error| refusal(&error))
}

/// Lists what was decided about a pool's experts and why, newest first.
#[utoipa::path(
    get, path = "/tiers/{pool}/decisions",
    operation_id = "listResidencyDecisions", tag = "residency",
    params(("pool" = String, Path), RecordParams),
    responses((status = 200, description = "The decisions", body = Records), Refused, Named)
)]
pub(super) async fn decisions(
    State(admin): State<Admin>,
    Name(id): Name,
    Params(params): Params<RecordParams>,
) -> Result<Json<Records>, ApiError> {
    let most = limit(params.limit);
    // One more than asked for tells whether there is more.
    let mut items = find(&admin, &id)?.decisions(most + 1, params.before);
    let more = items.len() > most;
    items.truncate(most);
    let next = items.last().filter(|_| more).map(|record| record.number);
    Ok(Json(Records { items, next }))
}

/// Brings an expert nearer, at anybody's expense but that of experts in use or pinned.
#[utoipa::path(
    post, path = "/tiers/{pool}/experts/{id}/promote",
    operation_id = "promoteExpert", tag = "residency",
    extensions(("x-required-role" = json!("operator"))),
    params(("pool" = String, Path), ("id" = ExpertId, Path)),
    request_body = Wish,
    responses(
        (status = 200, description = "It is there", body = ExpertStatus),
        (status = 202, description = "It is still wanted, or under way", body = ExpertStatus),
        (status = 502, description = "Its driver failed; the message has the cause", body = ErrorBody),
        (status = 503, description = "Its driver does not answer; it is still wanted", body = ErrorBody),
        Refused, Named, Unwritten
    )
)]
pub(super) async fn promote(
    State(admin): State<Admin>,
    actor: Actor,
    Names(pool, id): Names,
    Body(fields): Body,
) -> Result<Response, ApiError> {
    let start = |pool: &Pool, expert: &ExpertId, tier| pool.start_promote(expert, tier);
    go(&admin, &actor, "promote", (&pool, &id), Body(fields).read()?, start).await
}

/// Takes an expert farther away, unless it is in use or pinned.
#[utoipa::path(
    post, path = "/tiers/{pool}/experts/{id}/demote",
    operation_id = "demoteExpert", tag = "residency",
    extensions(("x-required-role" = json!("operator"))),
    params(("pool" = String, Path), ("id" = ExpertId, Path)),
    request_body = Wish,
    responses(
        (status = 200, description = "It is there", body = ExpertStatus),
        (status = 202, description = "It is still wanted, or under way", body = ExpertStatus),
        (status = 502, description = "Its driver failed; the message has the cause", body = ErrorBody),
        (status = 503, description = "Its driver does not answer; it is still wanted", body = ErrorBody),
        Refused, Named, Unwritten
    )
)]
pub(super) async fn demote(
    State(admin): State<Admin>,
    actor: Actor,
    Names(pool, id): Names,
    Body(fields): Body,
) -> Result<Response, ApiError> {
    let start = |pool: &Pool, expert: &ExpertId, tier| pool.start_demote(expert, tier);
    go(&admin, &actor, "demote", (&pool, &id), Body(fields).read()?, start).await
}

async fn go(
    admin: &Admin,
    actor: &Actor,
    action: &str,
    (pool, id): (&str, &str),
    Wish { tier, wait_s }: Wish,
    start: impl FnOnce(&Pool, &ExpertId, Tier) -> Result<Asked, OperationError>,
) -> Result<Response, ApiError> {
    let (pool, expert) = member(admin, pool, id)?;
    if wait_s > WAIT_MAX_S {
        let message = format!("must be from 0 to {WAIT_MAX_S} seconds");
        return Err(unprocessable(Problem::at("wait_s", message)));
    }
    let asked = start(pool, &expert, tier).map_err(|error| refusal(&error))?;
    note(admin, actor, action, place(pool, Some(&expert)), json!({ "tier": tier })).await?;
    let status = match asked.end(Duration::from_secs(wait_s)).await {
        Ok(()) => StatusCode::OK,
        Err(OperationError::UnderWay) => {
            if let Some(error) = pool.driver_error(&expert) {
                let message = format!(
                    "the driver of `{expert}` does not answer, and it stays wanted until it does: {error}"
                );
                return Err(ApiError::new(ErrorKind::NoHealthyBackend, message));
            }
            StatusCode::ACCEPTED
        }
        Err(OperationError::Failed(cause)) => {
            let message = format!("`{expert}` could not be brought to {tier}: {cause}");
            return Err(ApiError::new(ErrorKind::UpstreamFailed, message));
        }
        Err(error) => return Err(refusal(&error)),
    };
    Ok((status, shown(pool, &expert)?).into_response())
}

fn shown(pool: &Pool, expert: &ExpertId) -> Result<Json<ExpertStatus>, ApiError> {
    pool.expert(expert).map(Json).map_err(|error| refusal(&error))
}

/// Keeps an expert where it is: until it is unpinned (`hard`), or for some time (`soft`), and in any case not longer
/// than until the next restart. It is not brought anywhere by that.
#[utoipa::path(
    put, path = "/tiers/{pool}/experts/{id}/pin",
    operation_id = "pinExpert", tag = "residency",
    extensions(("x-required-role" = json!("operator"))),
    params(("pool" = String, Path), ("id" = ExpertId, Path)),
    request_body = PinWish,
    responses((status = 200, description = "The expert", body = ExpertStatus), Refused, Named, Unwritten)
)]
pub(super) async fn pin(
    State(admin): State<Admin>,
    actor: Actor,
    Names(pool, id): Names,
    Body(fields): Body,
) -> Result<Json<ExpertStatus>, ApiError> {
    let detail = Value::Object(fields.clone());
    let (pool, expert) = member(&admin, &pool, &id)?;
    let ttl = match Body(fields).read()? {
        PinWish::Hard => None,
        PinWish::Soft { ttl_s: 0 } => {
            return Err(unprocessable(Problem::at("ttl_s", "must be at least 1 second")));
        }
        PinWish::Soft { ttl_s } => Some(Duration::from_secs(ttl_s)),
    };
    pool.pin(&expert, ttl).map_err(|error| refusal(&error))?;
    note(&admin, &actor, "pin", place(pool, Some(&expert)), detail).await?;
    shown(pool, &expert)
}

/// Lets a pinned expert go.
#[utoipa::path(
    delete, path = "/tiers/{pool}/experts/{id}/pin",
    operation_id = "unpinExpert", tag = "residency",
    extensions(("x-required-role" = json!("operator"))),
    params(("pool" = String, Path), ("id" = ExpertId, Path)),
    responses((status = 200, description = "The expert", body = ExpertStatus), Refused, Named)
)]
pub(super) async fn unpin(
    State(admin): State<Admin>,
    actor: Actor,
    Names(pool, id): Names,
) -> Result<Json<ExpertStatus>, ApiError> {
    let (pool, expert) = member(&admin, &pool, &id)?;
    pool.unpin(&expert).map_err(|error| refusal(&error))?;
    note(&admin, &actor, "unpin", place(pool, Some(&expert)), Value::Null).await?;
    shown(pool, &expert)
}

/// Lets no more requests into a pool, and takes home what is not pinned when those under way have ended.
#[utoipa::path(
    post, path = "/tiers/{pool}/drain",
    operation_id = "drainPool", tag = "residency",
    extensions(("x-required-role" = json!("operator"))),
    params(("pool" = String, Path)),
    responses((status = 200, description = "The pool", body = PoolStatus), Refused, Named)
)]
pub(super) async fn drain(
    State(admin): State<Admin>,
    actor: Actor,
    Name(id): Name,
) -> Result<Json<PoolStatus>, ApiError> {
    switch(&admin, &actor, &id, true).await
}

/// Lets requests into a drained pool again.
#[utoipa::path(
    post, path = "/tiers/{pool}/resume",
    operation_id = "resumePool", tag = "residency",
    extensions(("x-required-role" = json!("operator"))),
    params(("pool" = String, Path)),
    responses((status = 200, description = "The pool", body = PoolStatus), Refused, Named)
)]
pub(super) async fn resume(
    State(admin): State<Admin>,
    actor: Actor,
    Name(id): Name,
) -> Result<Json<PoolStatus>, ApiError> {
    switch(&admin, &actor, &id, false).await
}

async fn switch(admin: &Admin, actor: &Actor, id: &str, drains: bool) -> Result<Json<PoolStatus>, ApiError> {
    let pool = find(admin, id)?;
    pool.drain(drains);
    let action = if drains { "drain" } else { "resume" };
    note(admin, actor, action, place(pool, None), Value::Null).await?;
    Ok(Json(pool.status()))
}

/// Asks the drivers of a pool what is where, and takes that over. They are asked now and then without this.
#[utoipa::path(
    post, path = "/tiers/{pool}/reconcile",
    operation_id = "reconcilePool", tag = "residency",
    extensions(("x-required-role" = json!("operator"))),
    params(("pool" = String, Path)),
    responses(
        (status = 200, description = "The pool, as the drivers know it", body = PoolStatus),
        (status = 502, description = "A driver cannot tell; the message has the cause", body = ErrorBody),
        (status = 503, description = "They have not answered within 30 seconds", body = ErrorBody),
        Refused, Named
    )
)]
pub(super) async fn reconcile(
    State(admin): State<Admin>,
    actor: Actor,
    Name(id): Name,
) -> Result<Json<PoolStatus>, ApiError> {
    let pool = find(&admin, &id)?;
    note(&admin, &actor, "reconcile", place(pool, None), Value::Null).await?;
    match pool.reconcile(RECONCILE).await {
        Ok(()) => Ok(Json(pool.status())),
        Err(OperationError::UnderWay) => {
            let message =
                "the pool's drivers have not said within 30 seconds what is where; see `drivers` of the pool";
            Err(ApiError::new(ErrorKind::NoHealthyBackend, message))
        }
        Err(error) => {
            let message = format!("a driver of the pool cannot tell what is where: {error}");
            Err(ApiError::new(ErrorKind::UpstreamFailed, message))
        }
    }
}

/// Shows how a pool is scheduled.
#[utoipa::path(
    get, path = "/tiers/{pool}/policy",
    operation_id = "getPoolPolicy", tag = "residency",
    params(("pool" = String, Path)),
    responses((status = 200, description = "The policy", body = PolicyView), Refused, Named)
)]
pub(super) async fn policy(
    State(admin): State<Admin>,
    Name(id): Name,
) -> Result<Tagged<PolicyView>, ApiError> {
    let policy = find(&admin, &id)?.status().policy;
    Ok(PolicyView::tagged(&admin, &id, policy))
}

/// Replaces how a pool is scheduled, until the next restart: the configuration file has it for good. Settings that
/// are left out get their defaults. Requests that wait already keep the bound that they came with.
#[utoipa::path(
    put, path = "/tiers/{pool}/policy",
    operation_id = "replacePoolPolicy", tag = "residency",
    params(("pool" = String, Path), ("if-match" = Option<String>, Header), WriteParams),
    request_body = Policy,
    responses((status = 200, description = "The policy, or what it would be", body = PolicyView), Refused, Named, Unwritten)
)]
pub(super) async fn set_policy(
    State(admin): State<Admin>,
    actor: Actor,
    if_match: IfMatch,
    Name(id): Name,
    Params(WriteParams { dry_run }): Params<WriteParams>,
    Body(mut fields): Body,
) -> Result<Tagged<PolicyView>, ApiError> {
    let pool = find(&admin, &id)?;
    for added in ["until", "etag"] {
        fields.remove(added);
    }
    let policy: Policy = Body(fields).read()?;
    if_match.check(&format!("the policy of pool `{id}`"), &etag_of(&pool.status().policy))?;
    let done = if dry_run { policy.check() } else { pool.set_policy(policy.clone()) };
    done.map_err(|error| match error {
        PoolError::Policy { name, range } => unprocessable(Problem::at(name, format!("must be {range}"))),
        other => unprocessable(Problem::at("", other.to_string())),
    })?;
    if !dry_run {
        note(&admin, &actor, "policy", place(pool, None), json!(policy)).await?;
    }
    Ok(PolicyView::tagged(&admin, &id, policy))
}
