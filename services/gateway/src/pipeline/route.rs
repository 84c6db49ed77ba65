//! Phases `encode` and `route`: which experts may answer, in which order, and why.

use std::sync::Arc;
use std::time::Duration;

use admission::{Headroom, Key, Priority};
use experts::Timeouts;
use routing::{ExpertId, Plan, Reads};
use serde::Serialize;

use super::decode::Decoded;
use super::{Context, Pipeline, headers, micros};
use crate::catalog::{Route, RouterModel, View};
use crate::config::WhenRouterFails;
use crate::decision::{Attempt, Caller, Decision, Path, Planned, Reading, Residency};
use crate::error::{ApiError, ErrorKind};
use crate::metrics::series::RouteSeries;
use crate::problem::nearest;
use crate::session::SessionKey;
use crate::telemetry::content::Recorder;
use crate::telemetry::spans::PhaseSpan;

/// What a request's `model` stands for.
pub(super) enum Target {
    /// A route, whose policy decides.
    Route(Arc<Route>),
    /// An expert that the client named.
    Expert(ExpertId),
}

/// What is learnt about a request on its way, for its record.
#[derive(Default)]
pub(super) struct Trace {
    pub(super) operation: &'static str,
    pub(super) stream: bool,
    /// The phases so far, where the request is traced.
    pub(super) marks: Vec<PhaseSpan>,
    /// Takes down prompt and answer, where that is wanted.
    pub(super) content: Option<Box<Recorder>>,
    /// Fields of the request that another protocol's words could not carry over.
    pub(super) lossy: Vec<String>,
    pub(super) caller: Option<Arc<Key>>,
    /// The class that the request asked for.
    pub(super) priority: Option<Priority>,
    /// When an answer is of no more use.
    pub(super) deadline: Option<tokio::time::Instant>,
    /// What is left of the tightest limits.
    pub(super) headroom: Headroom,
    pub(super) model: String,
    pub(super) route: Option<Arc<Route>>,
    pub(super) reading: Option<Reading>,
    pub(super) planned: Option<Arc<Planned>>,
    pub(super) category: Option<usize>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) expert: Option<ExpertId>,
    pub(super) path: Option<Path>,
    pub(super) view: Option<Arc<View>>,
    /// Time spent waiting for experts.
    pub(super) waited: Duration,
    /// Time spent waiting for places.
    pub(super) queue: Duration,
    /// The wait for weights, where an expert in a pool was tried.
    pub(super) residency: Option<Residency>,
    /// Time spent waiting for the client's body.
    pub(super) arriving: Duration,
    /// Time spent waiting for the router's reading.
    pub(super) reading_took: Duration,
}

/// The expert of that name, if the caller may name it.
fn named(view: &View, caller: Option<&Key>, name: &str) -> Result<Target, ApiError> {
    let expert = view.experts.get(name).ok_or_else(|| unknown(view, caller, name))?;
    match caller {
        Some(key) if !key.permissions().name_experts => {
            Err(forbidden("this API key may use routes only, and may not name the expert", name))
        }
        Some(key) if !key.may_use_expert(name) => Err(forbidden("this API key may not use the expert", name)),
        _ => Ok(Target::Expert(expert.id().clone())),
    }
}

fn forbidden(what: &str, name: &str) -> ApiError {
    ApiError::new(ErrorKind::Forbidden, format!("{what} `{name}`")).with_param("model")
}

impl Target {
    /// What the route says of how long each part of an answer may take.
    pub(super) fn timeouts(&self) -> Timeouts {
        match self {
            Self::Route(route) => route.spec.timeouts.into(),
            Self::Expert(_) => Timeouts::default(),
        }
    }

    /// When an answer is of no more use: by the client's word or the route's limit.
    pub(super) fn deadline(&self, context: &Context) -> Option<tokio::time::Instant> {
        let route = match self {
            Self::Route(route) => route.spec.timeout_ms,
            Self::Expert(_) => None,
        };
        let route = route.map(|ms| context.arrival + Duration::from_millis(ms));
        [context.deadline, route].into_iter().flatten().min().map(Into::into)
    }
}

/// A dry run's result: the decision and all it rests on, nothing called.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The decision record; no expert was tried.
    #[serde(flatten)]
    pub decision: Decision,
    /// The text that the router read.
    pub text: String,
    /// All categories with their probabilities, best first.
    pub probabilities: Vec<crate::decision::Scored>,
}

impl Trace {
    /// Nothing is known but what is asked for.
    pub(super) fn new(operation: &'static str) -> Self {
        Self { operation, ..Self::default() }
    }

    /// What the gateway itself took of the time since the arrival: without what it waited for.
    pub(super) fn overhead(&self, elapsed: Duration) -> Duration {
        let residency = self.residency.map_or(Duration::ZERO, |r| Duration::from_micros(r.waited_us));
        elapsed.saturating_sub(self.arriving + self.queue + self.reading_took + self.waited + residency)
    }

    /// Where the request is counted; `None` as long as it is not known what it is for.
    pub(super) fn series(&self) -> Option<&RouteSeries> {
        match &self.route {
            Some(route) => Some(&route.series),
            None => self.view.as_ref().map(|view| &**view.series.unrouted()),
        }
    }

    /// The record of what is known so far. Takes over what only the record needs.
    pub(super) fn decision(&mut self, context: &Context) -> Decision {
        let category = self.category.zip(self.planned.as_ref());
        let category = category.and_then(|(at, planned)| planned.fleet.categories.get(at).cloned());
        Decision {
            id: context.id,
            request_id: context.request_id.to_str().unwrap_or_default().to_owned(),
            time_ms: context.arrival_ms,
            operation: self.operation,
            stream: self.stream,
            caller: self
                .caller
                .as_ref()
                .map(|key| Caller { key: key.id().clone(), team: key.team().map(|team| team.id().clone()) }),
            tags: context.ours().map(headers::tags).unwrap_or_default(),
            trace_id: context.span.as_ref().map(|span| format!("{:032x}", span.trace_id())),
            model: std::mem::take(&mut self.model),
            route: self.route.as_ref().map(|r| r.spec.id.clone()),
            policy: self.route.as_ref().map(|r| r.spec.policy.name()),
            reading: self.reading.take().unwrap_or(Reading::NotNeeded),
            category,
            planned: self.planned.take(),
            attempts: std::mem::take(&mut self.attempts),
            expert: self.expert.clone(),
            path: self.path,
            status: 200,
            error: None,
            overhead_us: 0,
            queue_us: micros(self.queue),
            residency: self.residency,
            outcome: std::sync::OnceLock::new(),
        }
    }
}

impl Pipeline {
    /// Finds what the request's model name stands for; `x-guildhall-force-expert` goes first.
    ///
    /// # Errors
    /// 404 `model_not_found`, with the nearest known name.
    pub(super) fn resolve(
        view: &Arc<View>,
        request: &Decoded,
        context: &Context,
        trace: &mut Trace,
    ) -> Result<Target, ApiError> {
        trace.model.clone_from(&request.model);
        trace.view = Some(view.clone());
        let caller = trace.caller.as_deref();
        if let Some(name) = context.header("x-guildhall-force-expert") {
            return named(view, caller, name);
        }
        if let Some(route) = view.routes.get(request.model.as_str()) {
            if caller.is_some_and(|key| !key.may_use_route(&request.model)) {
                return Err(forbidden("this API key may not use the route", &request.model));
            }
            trace.route = Some(route.clone());
            return Ok(Target::Route(route.clone()));
        }
        named(view, caller, &request.model)
    }

    /// Reads the prompt, if the policy wants that, and makes the plan. `None` when the client named the
    /// expert, or when the router failed and the default expert is to answer.
    ///
    /// # Errors
    /// 503 `router_not_ready` when the router failed and the route is to refuse then.
    pub(super) async fn plan(
        &self,
        view: &Arc<View>,
        target: &Target,
        request: &Decoded,
        context: &Context,
        trace: &mut Trace,
    ) -> Result<Option<Arc<Planned>>, ApiError> {
        let Target::Route(route) = target else { return Ok(None) };
        let started = std::time::Instant::now();
        let mut features = None;
        let mut neighbours = Arc::default();
        let (reads, wants) = (route.policy.reads(), route.policy.wants());
        if reads > Reads::Nothing && !request.text.is_empty() {
            let (mut reading, read) = self.encode(&view.router, &request.text, reads).await;
            if let Some(read) = read.as_ref().filter(|_| wants.neighbours > 0) {
                match self.recall(&view.router, read, wants.neighbours, started).await {
                    Ok(near) => neighbours = near,
                    Err(reason) => reading = Reading::Failed { reason },
                }
            }
            trace.reading_took = started.elapsed();
            self.metrics.router_wait.observe(trace.reading_took.as_secs_f64());
            context.mark(trace, "encode", started);
            let refuse = route.spec.when_router_fails == WhenRouterFails::Refuse;
            let failed = match &reading {
                Reading::Failed { reason } if refuse => Some(Err(ApiError::new(
                    ErrorKind::RouterNotReady,
                    format!(
                        "the router did not decide ({reason}) and this route refuses what it has not seen"
                    ),
                ))),
                Reading::Failed { .. } => Some(Ok(None)),
                Reading::NotNeeded | Reading::Read { .. } => None,
            };
            trace.reading = Some(reading);
            if let Some(failed) = failed {
                return failed;
            }
            features = read;
        }
        trace.category = features.as_ref().and_then(routing::Features::top).map(|(index, _)| index);
        let session = (request.in_tool_loop || wants.previous).then(|| session_key(request, context, trace));
        let held_by = session.filter(|_| request.in_tool_loop).and_then(|key| self.sessions.holder(key));
        let previous = session.filter(|_| wants.previous).and_then(|key| self.sessions.scores(key));
        let fleet = view.experts.fleet();
        let asked = routing::Request {
            features,
            needs: request.needs,
            held_by,
            lambda: context.ours().and_then(headers::lambda),
            neighbours,
            live: if wants.live { route.live(view, &self.pools) } else { Arc::default() },
            previous: previous.unwrap_or_default(),
        };
        if let Some((at, name)) = trace.category.and_then(|at| Some((at, fleet.categories.get(at)?))) {
            self.metrics.category(&view.series, at, name);
        }
        let began = std::time::Instant::now();
        let planned = Arc::new(Planned::new(route.clone(), asked, fleet, context.id));
        self.metrics.planned(&route.series, route.spec.policy.name(), planned.plan.basis);
        route.observe(&planned.plan);
        if let Some(key) = session.filter(|_| wants.previous) {
            self.sessions.remember(key, &planned.plan);
        }
        context.mark(trace, "route", began);
        trace.planned = Some(planned.clone());
        Ok(Some(planned))
    }

    /// Asks the encoder, no longer than the router's deadline.
    async fn encode(
        &self,
        router: &RouterModel,
        text: &str,
        reads: Reads,
    ) -> (Reading, Option<routing::Features>) {
        let failed = |reason: String| (Reading::Failed { reason }, None);
        let Some(encoder) = &router.encoder else { return failed("no router model is loaded".into()) };
        match tokio::time::timeout(self.router_deadline, encoder.features(text, reads)).await {
            Err(_) => {
                failed(format!("the router gave no answer within {} ms", self.router_deadline.as_millis()))
            }
            Ok(Err(error)) => failed(error.to_string()),
            Ok(Ok(read)) => {
                let reading = Reading::Read {
                    bundle: router.bundle.clone(),
                    stage: read.stage.name(),
                    cache: read.cache.name(),
                    tokens: read.features.tokens,
                    truncated_tokens: read.truncated_tokens,
                    queue_us: super::micros(read.queue),
                    forward_us: super::micros(read.forward),
                };
                (reading, Some(read.features))
            }
        }
    }

    /// Looks past prompts up that are near one that has been read, no longer than the router's deadline, which began
    /// with the reading.
    async fn recall(
        &self,
        router: &RouterModel,
        features: &routing::Features,
        k: usize,
        since: std::time::Instant,
    ) -> Result<Arc<[routing::Neighbour]>, String> {
        let left = self.router_deadline.saturating_sub(since.elapsed());
        let search = self.memory.nearest(router.space.as_ref(), features, k);
        match tokio::time::timeout(left, search).await {
            Ok(found) => found.map_err(|error| format!("the memory of past prompts failed: {error}")),
            Err(_) => Err(format!(
                "the memory of past prompts gave no answer within the router's {} ms",
                self.router_deadline.as_millis()
            )),
        }
    }

    /// Decides about a request as [`Pipeline::answer`] would, and calls nobody.
    ///
    /// # Errors
    /// As for a request: 400 for a bad body, 404 for an unknown model.
    pub async fn explain(&self, body: bytes::Bytes) -> Result<Explanation, ApiError> {
        let context = Context::new(http::HeaderMap::new(), self.ids.decision(), None);
        let mut trace = Trace::new("chat");
        let request =
            super::decode::decode(experts::Operation::ChatCompletions, body, self.limits.max_json_depth)?;
        let view = self.catalog.view();
        let target = Self::resolve(&view, &request, &context, &mut trace)?;
        let planned = self.plan(&view, &target, &request, &context, &mut trace).await?;
        let probabilities = planned.as_ref().map(|p| p.top_categories(usize::MAX)).unwrap_or_default();
        let order = candidates(&target, planned.as_deref().map(|p| &p.plan), None);
        trace.expert = order.first().map(|c| c.expert.clone());
        trace.path = order.first().filter(|c| c.fallback).map(|_| Path::Fallback);
        let mut decision = trace.decision(&context);
        decision.overhead_us = super::micros(trace.overhead(context.arrival.elapsed()));
        Ok(Explanation { decision, text: request.text, probabilities })
    }
}

/// Names the request's conversation.
pub(super) fn session_key(request: &Decoded, context: &Context, trace: &Trace) -> SessionKey {
    let flow = trace.caller.as_ref().map_or(0, |key| key.flow());
    SessionKey::new(flow, context.header("x-guildhall-session"), request.conversation)
}

/// One expert to try.
pub(super) struct Try {
    pub(super) expert: ExpertId,
    /// Whether it is tried only because the plan gave nobody.
    pub(super) fallback: bool,
}

/// Candidates of a plan that are tried for one request at most; the route's default comes after them.
const MAX_PLANNED: usize = 3;

/// The order of tries: the expert that the client named, or the plan's first candidates and then the route's
/// default, if it is not among them. Experts that may not answer the caller's key are left out.
pub(super) fn candidates(target: &Target, plan: Option<&Plan>, caller: Option<&Key>) -> Vec<Try> {
    let may = |expert: &ExpertId| caller.is_none_or(|key| key.may_use_expert(expert.as_str()));
    match target {
        Target::Expert(expert) => vec![Try { expert: expert.clone(), fallback: false }],
        Target::Route(route) => {
            let planned = plan.into_iter().flat_map(|p| &p.candidates);
            let planned = planned.filter(|c| may(&c.expert)).take(MAX_PLANNED);
            let mut order: Vec<Try> =
                planned.map(|c| Try { expert: c.expert.clone(), fallback: false }).collect();
            if let Some(default) = &route.spec.default
                && may(default)
                && !order.iter().any(|t| t.expert == *default)
            {
                order.push(Try { expert: default.clone(), fallback: true });
            }
            order
        }
    }
}

/// Whether a caller may name this expert in place of a route.
pub(crate) fn may_name(caller: Option<&Key>, expert: &str) -> bool {
    caller.is_none_or(|key| key.permissions().name_experts && key.may_use_expert(expert))
}

/// 404 for a name that is neither route nor expert, or is none as far as the caller is to know.
pub(crate) fn unknown(view: &View, caller: Option<&Key>, name: &str) -> ApiError {
    let routes = view.routes.keys().map(ExpertId::as_str);
    let routes = routes.filter(|route| caller.is_none_or(|key| key.may_use_route(route)));
    let known = routes.chain(view.expert_ids().filter(|expert| may_name(caller, expert)));
    let hint = match nearest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "GET /v1/models lists the models; `auto` lets the router choose".into(),
    };
    let name: String = name.chars().take(128).collect();
    ApiError::new(ErrorKind::ModelNotFound, format!("the model `{name}` does not exist; {hint}"))
        .with_param("model")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overhead_is_what_the_gateway_did_while_it_did_not_wait() {
        let ms = Duration::from_millis;
        let mut trace = Trace::new("chat");
        assert_eq!(trace.overhead(ms(100)), ms(100));
        (trace.arriving, trace.queue, trace.reading_took, trace.waited) = (ms(1), ms(10), ms(20), ms(60));
        assert_eq!(trace.overhead(ms(100)), ms(9));
        // Parts are measured one by one; rounding must not turn them around.
        assert_eq!(trace.overhead(ms(90)), Duration::ZERO);
    }
}
