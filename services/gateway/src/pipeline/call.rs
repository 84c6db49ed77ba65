//! Phase `call`: the plan's candidates in order, until one has sent its head.
//!
//! The next candidate is taken only before a byte has reached the client, and only for a failure that
//! another expert may not share: a connection that fails, a time-out, an answer of 408, 429 or 5xx.

use std::sync::Arc;

use admission::{Outcome, Permit, Sample};
use experts::{Call, CallError, CallErrorKind, Expert, Phase, Reply, Try};
use routing::{Availability, Obstacle, Plan};
use tokio::time::Instant;

use super::admit::{Hold, no_place};
use super::decode::Decoded;
use super::front;
use super::route::{self, Target, Trace, candidates, session_key};
use super::{Context, Pipeline, micros};
use crate::catalog::View;
use crate::decision::{Attempt, Path, Planned};
use crate::error::{ApiError, ErrorKind, whole_seconds};
use crate::metrics::{Name, OfExpert, OfRoute};

/// An expert's answer, up to its head.
pub(super) struct Answer {
    pub(super) expert: Arc<Expert>,
    pub(super) reply: Reply,
}

impl Pipeline {
    /// Tries the candidates.
    ///
    /// # Errors
    /// 400 when no expert can do what the request needs, 503 when none takes requests, 502 or 504 when those
    /// that were tried failed.
    #[expect(clippy::too_many_arguments, reason = "a phase's signature says all that it may touch")]
    pub(super) async fn call(
        &self,
        view: &View,
        target: &Target,
        planned: Option<Arc<Planned>>,
        request: &Decoded,
        context: &Context,
        trace: &mut Trace,
        hold: &mut Hold,
    ) -> Result<Answer, ApiError> {
        let order = order(view, target, planned.as_deref().map(|p| &p.plan), request, trace)?;
        let last = order.len() - 1;
        let mut failure = None;
        for (at, candidate) in order.iter().enumerate() {
            let Some(expert) = view.experts.get(candidate.expert.as_str()) else { continue };
            let place = match self.expert_place(view, expert, trace).await {
                Ok(place) => place,
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            };
            let lease = match self.acquire(expert, request, trace).await {
                Ok(lease) => lease,
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            };
            // Nothing is sent whose answer would come too late.
            let started = Instant::now();
            if trace.deadline.is_some_and(|d| d <= started) {
                failure = Some(out_of_time());
                break;
            }
            let traced =
                context.span.as_ref().map(|span| span.headers(&context.headers, trace.attempts.len()));
            let result = expert
                .call(Call {
                    operation: request.operation,
                    body: request.body.clone(),
                    model_span: request.model_span.clone(),
                    messages: request.messages.clone(),
                    stream: request.stream,
                    stream_options: request.stream_options.clone(),
                    headers: traced.as_ref().unwrap_or(&context.headers),
                    request_id: &context.request_id,
                    deadline: trace.deadline,
                    timeouts: target.timeouts(),
                    affinity: request.affinity(),
                    seed: context.id.0,
                })
                .await;
            let duration = started.elapsed();
            trace.waited += duration;
            let attempt = Attempt {
                started_us: micros(started.into_std().duration_since(context.arrival)),
                duration_us: micros(duration),
                ..Attempt::new(expert.id().clone())
            };
            match result {
                Ok(reply) => {
                    let own = Attempt { status: Some(reply.status.as_u16()), ..attempt };
                    self.note(expert, reply.tries.iter(), own, trace);
                    let busy = reply.is_retryable();
                    if let Some(permit) = place {
                        hold.put(permit, duration, busy);
                    }
                    hold.lease = lease;
                    if at < last && busy {
                        // Its place is not kept while the next one's is waited for.
                        hold.give_back_expert();
                        continue;
                    }
                    trace.expert = Some(expert.id().clone());
                    if at > 0 || candidate.fallback {
                        let route = trace.route.as_ref().map(|r| Name(r.spec.id.clone()));
                        self.metrics.fallbacks.get_or_create(&OfRoute { route }).inc();
                    }
                    trace.path = Some(if candidate.fallback { Path::Fallback } else { path_of(expert) });
                    if request.needs.tools {
                        self.sessions.hold(session_key(request, context, trace), expert.id());
                    }
                    return Ok(Answer { expert: expert.clone(), reply });
                }
                Err(error) => {
                    let own = Attempt { error: Some(error.message().to_owned().into()), ..attempt };
                    self.note(expert, error.tries(), own, trace);
                    if let Some(permit) = place {
                        permit.release(Sample { latency: duration, outcome: Outcome::Overload });
                    }
                    if lease.is_some() {
                        self.suspect(expert, &error);
                    }
                    let retryable = error.is_retryable();
                    failure = Some(explain(expert, &error, trace.deadline));
                    if !retryable {
                        break;
                    }
                }
            }
        }
        Err(failure.unwrap_or_else(|| {
            ApiError::new(
                ErrorKind::NoHealthyBackend,
                "the experts of this plan were removed while it was made",
            )
        }))
    }

    /// A place among the requests that an expert may have in progress; `None` when it has no limit.
    async fn expert_place(
        &self,
        view: &View,
        expert: &Expert,
        trace: &mut Trace,
    ) -> Result<Option<Permit>, ApiError> {
        let Some(gate) = view.expert_gates.get(expert.id()) else { return Ok(None) };
        match self.place_at(gate, trace.ticket()).await {
            Ok(permit) => {
                trace.queue += permit.waited();
                Ok(Some(permit))
            }
            Err(rejected) => {
                let mut attempt = Attempt::new(expert.id().clone());
                attempt.error = Some(rejected.reason.name().into());
                trace.attempts.push(attempt);
                Err(no_place(&format!("expert `{}`", expert.id()), rejected))
            }
        }
    }

    /// Takes the tries of a call into the record and counts them. An expert without an upstream makes none;
    /// `call`, the call as a whole, then stands for it.
    fn note<'a>(
        &self,
        expert: &Expert,
        tries: impl Iterator<Item = &'a Try>,
        call: Attempt,
        trace: &mut Trace,
    ) {
        let of = || OfExpert { expert: Name(expert.id().clone()) };
        let before = trace.attempts.len();
        for one in tries {
            let attempt = Attempt {
                expert: expert.id().clone(),
                endpoint: Some(one.endpoint.clone()),
                status: one.status,
                error: one.error.map(Into::into),
                started_us: call.started_us + micros(one.started),
                duration_us: micros(one.duration),
                hedge: one.hedge,
                backoff_us: micros(one.backoff),
            };
            if one.failed() {
                self.metrics.failed_attempts.get_or_create(&of()).inc();
            }
            if one.hedge {
                self.metrics.hedges.get_or_create(&of()).inc();
            } else if trace.attempts.len() > before {
                self.metrics.retries.get_or_create(&of()).inc();
            }
            trace.attempts.push(attempt);
        }
        if trace.attempts.len() == before {
            trace.attempts.push(call);
        }
    }
}

/// Who is asked, in order: at least one.
fn order(
    view: &View,
    target: &Target,
    plan: Option<&Plan>,
    request: &Decoded,
    trace: &Trace,
) -> Result<Vec<route::Try>, ApiError> {
    let caller = trace.caller.as_deref();
    let mut order = candidates(target, plan, caller);
    if order.is_empty() && caller.is_some_and(|key| !key.may_use_all_experts()) {
        let message = "none of the experts that this request would go to may answer this API key";
        return Err(ApiError::new(ErrorKind::Forbidden, message));
    }
    order.retain(|t| may_answer(view, target, t.fallback, t.expert.as_str(), request));
    if order.is_empty() {
        return Err(nobody(target, plan, trace));
    }
    if let Some(refused) = &request.refused {
        order.retain(|t| view.experts.get(t.expert.as_str()).is_some_and(|e| e.speaks_messages()));
        if order.is_empty() {
            return Err(front::bad(refused.clone()));
        }
    }
    Ok(order)
}

fn path_of(expert: &Expert) -> Path {
    if expert.is_reject() {
        Path::Reject
    } else if expert.is_local() {
        Path::Constant
    } else {
        Path::Upstream
    }
}

/// A planned candidate was checked by the policy. An expert that the client named is asked unless it is
/// drained, whatever it declares; the default expert must be able to answer.
fn may_answer(view: &View, target: &Target, fallback: bool, expert: &str, request: &Decoded) -> bool {
    let named = matches!(target, Target::Expert(_));
    if !named && !fallback {
        return true;
    }
    let fleet = view.experts.fleet();
    let Some(facts) = fleet.get(expert) else { return false };
    // One whose endpoints fail is asked where there is nobody else: it may work again.
    let open = facts.availability != Availability::Draining || request.in_tool_loop;
    open && (named || request.needs.unmet_by(facts).is_none())
}

/// Why nobody may answer: the request asks for what no expert offers, or all of them are closed.
fn nobody(target: &Target, plan: Option<&Plan>, trace: &Trace) -> ApiError {
    if let Target::Expert(id) = target {
        return ApiError::new(ErrorKind::NoHealthyBackend, format!("the expert `{id}` is being drained"));
    }
    if let Some(crate::decision::Reading::Failed { reason }) = &trace.reading {
        let message = format!(
            "the router did not decide ({reason}) and the route has no default expert that can answer"
        );
        return ApiError::new(ErrorKind::RouterNotReady, message);
    }
    let rejected = plan.map(|p| p.rejected.as_slice()).unwrap_or_default();
    let lacking = |o: Obstacle| {
        matches!(
            o,
            Obstacle::Tools
                | Obstacle::Vision
                | Obstacle::JsonSchema
                | Obstacle::Streaming
                | Obstacle::Context
        )
    };
    // Another try helps only where somebody who could answer is not there now.
    let hopeless = rejected.iter().all(|r| lacking(r.obstacle));
    match rejected.first() {
        Some(first) if hopeless => {
            let what = first.obstacle.describe();
            let message = format!(
                "no expert of this route can answer the request; the expert `{}` for one {what}",
                first.expert
            );
            let param = match first.obstacle {
                Obstacle::Tools => "tools",
                Obstacle::JsonSchema => "response_format",
                Obstacle::Streaming => "stream",
                _ => "messages",
            };
            ApiError::new(ErrorKind::UnsupportedCapability, message).with_param(param)
        }
        _ => {
            let why = rejected.first().map_or_else(
                || "none is registered for it".to_owned(),
                |r| format!("`{}` for one {}", r.expert, r.obstacle.describe()),
            );
            ApiError::new(ErrorKind::NoHealthyBackend, format!("no expert takes this request now: {why}"))
        }
    }
}

/// The last failed try, as the client is told of it.
fn explain(expert: &Expert, error: &CallError, deadline: Option<Instant>) -> ApiError {
    let late = deadline.is_some_and(|deadline| deadline <= Instant::now());
    let kind = match error.kind() {
        // The request's own time is up, not the expert's.
        CallErrorKind::Timeout(Phase::Total) if late => return out_of_time(),
        CallErrorKind::Timeout(_) => ErrorKind::UpstreamTimeout,
        CallErrorKind::Request => ErrorKind::InvalidRequest,
        CallErrorKind::Untranslatable => ErrorKind::UnsupportedCapability,
        CallErrorKind::Busy | CallErrorKind::Unhealthy => ErrorKind::NoHealthyBackend,
        _ => ErrorKind::UpstreamFailed,
    };
    let mut answer = ApiError::new(kind, format!("the expert `{}` {}", expert.id(), error.message()));
    if kind == ErrorKind::NoHealthyBackend {
        answer.retry_after = Some(error.retry_after().map_or(1, whole_seconds));
    }
    answer.internal = error.detail().map(|d| format!("expert {}: {d}", expert.id()));
    answer
}

fn out_of_time() -> ApiError {
    ApiError::new(ErrorKind::DeadlineExceeded, "the request's time was up before an expert answered")
}
