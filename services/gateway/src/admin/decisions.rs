//! `/admin/v1/decisions`: what was decided, and whether it would be again.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use routing::{ExpertId, Plan};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Admin;
use super::change::missing;
use super::document::{ErrorBody, Named, Refused};
use super::page::limit;
use super::read::{Name, Params};
use super::schema::DecisionSchema;
use crate::decision::{Decision, DecisionId};
use crate::error::{ApiError, ErrorKind};

/// Which decisions.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DecisionParams {
    /// At most so many, 1 to 1000; 100 when not given.
    limit: Option<usize>,
    /// Only those of this route.
    route: Option<String>,
    /// Only those that this expert answered.
    expert: Option<String>,
    /// Only the one of this request.
    request_id: Option<String>,
    /// Only those answered with this HTTP status.
    status: Option<u16>,
    /// Only those that ended in this error of the gateway's own, such as `rate_limit_exceeded`.
    error: Option<String>,
    /// Only those of this key.
    key: Option<String>,
    /// Only those of this team's keys.
    team: Option<String>,
}

impl DecisionParams {
    fn wants(&self, decision: &Decision) -> bool {
        let caller = decision.caller.as_ref();
        let is = |wish: &Option<String>, actual: Option<&str>| wish.is_none() || wish.as_deref() == actual;
        is(&self.route, decision.route.as_ref().map(routing::ExpertId::as_str))
            && is(&self.expert, decision.expert.as_ref().map(routing::ExpertId::as_str))
            && is(&self.request_id, Some(&decision.request_id))
            && self.status.is_none_or(|status| status == decision.status)
            && is(&self.error, decision.error)
            && is(&self.key, caller.map(|caller| &*caller.key))
            && is(&self.team, caller.and_then(|caller| caller.team.as_deref()))
    }
}

/// Recent decisions.
#[derive(Serialize, ToSchema)]
pub(super) struct Decisions {
    /// Newest first.
    #[schema(value_type = Vec<DecisionSchema>)]
    items: Vec<Arc<Decision>>,
}

/// Lists recent decisions, newest first. Prompts are never kept.
#[utoipa::path(
    get, path = "/decisions",
    operation_id = "listDecisions", tag = "operation",
    params(DecisionParams),
    responses((status = 200, description = "The decisions", body = Decisions), Refused)
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(params): Params<DecisionParams>,
) -> Json<Decisions> {
    let log = &admin.app.pipeline.decisions;
    Json(Decisions { items: log.recent(limit(params.limit), |d| params.wants(d)) })
}

/// Shows one decision, by the id of `x-guildhall-decision`.
#[utoipa::path(
    get, path = "/decisions/{id}",
    operation_id = "getDecision", tag = "operation",
    params(("id" = String, Path)),
    responses((status = 200, description = "The decision", body = DecisionSchema), Refused, Named)
)]
pub(super) async fn get(State(admin): State<Admin>, Name(id): Name) -> Result<Json<Arc<Decision>>, ApiError> {
    find(&admin, &id).map(Json)
}

fn find(admin: &Admin, id: &str) -> Result<Arc<Decision>, ApiError> {
    let found = DecisionId::parse(id).and_then(|id| admin.app.pipeline.decisions.get(id));
    found.ok_or_else(|| {
        let mut error = missing("decision", id, []);
        error.message = format!("{}; only the most recent ones are kept", error.message).into();
        error
    })
}

/// A decision computed again.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Replay {
    /// The decision's id.
    id: String,
    /// The route whose policy planned.
    route: ExpertId,
    /// What became of the policy since.
    policy: PolicySince,
    /// Whether both plans are the same. They always are when the policy is unchanged.
    same: bool,
    /// The plan on record.
    recorded: Plan,
    /// What the policy makes now of the recorded request, fleet and seed.
    replayed: Plan,
}

/// What became of a route's policy since a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum PolicySince {
    /// Its settings are the same.
    Unchanged,
    /// Its settings are others now; they were used.
    Changed,
    /// The route is gone; its settings of then were used.
    Removed,
}

/// Computes a decision's plan again, with the recorded request, fleet and seed and the route's policy as it is
/// now. Shows what a change of the policy would have meant for a request that was really made.
#[utoipa::path(
    post, path = "/decisions/{id}/replay",
    operation_id = "replayDecision", tag = "operation",
    extensions(("x-required-role" = json!("viewer"))),
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "Both plans", body = Replay),
        (status = 409, description = "No policy was asked: the client named an expert, or the router failed", body = ErrorBody),
        Refused, Named
    )
)]
pub(super) async fn replay(State(admin): State<Admin>, Name(id): Name) -> Result<Json<Replay>, ApiError> {
    let decision = find(&admin, &id)?;
    let Some(planned) = &decision.planned else {
        let message =
            "no policy was asked for this decision: the client named an expert, or the router failed";
        return Err(ApiError::new(ErrorKind::Conflict, message));
    };
    let then = &planned.route;
    let view = admin.view();
    let (policy, route) = match view.routes.get(&then.spec.id) {
        Some(now) if now.spec.policy == then.spec.policy && now.spec.modifiers == then.spec.modifiers => {
            (PolicySince::Unchanged, now)
        }
        Some(now) => (PolicySince::Changed, now),
        None => (PolicySince::Removed, then),
    };
    let replayed = planned.replay(route.policy.as_ref(), decision.id);
    Ok(Json(Replay {
        id: decision.id.to_string(),
        route: then.spec.id.clone(),
        policy,
        same: replayed == planned.plan,
        recorded: planned.plan.clone(),
        replayed,
    }))
}
