//! The life of a request, phase by phase.
//!
//! ```text
//! admit -> decode -> encode -> route -> acquire -> call -> stream -> account
//! ```
//!
//! - `admit`: a place among the requests in progress, a bounded body (`admit.rs`)
//! - `decode`: what the body asks for (`decode.rs`)
//! - `encode`: what the router reads in the prompt, within its deadline (`route.rs`)
//! - `route`: the policy's plan (`route.rs`)
//! - `acquire`: the weights of each candidate, where it is in a pool, just before it is called (`acquire.rs`)
//! - `call`: the plan's candidates in order, until one has sent its head (`call.rs`)
//! - `stream`: the expert's bytes as they are (`respond.rs`), or in another protocol's words (`front.rs`)
//! - `account`: usage, metrics and the record's outcome, when the last byte is through (`account.rs`)
//!
//! A phase that fails gives an [`ApiError`], which says whose fault it is and what the client is told.
//! Dropping the request at any point, because the client left, drops everything that was done for it.

mod account;
mod acquire;
mod admit;
mod call;
mod compressed;
pub mod decode;
mod front;
pub mod headers;
mod respond;
mod route;
mod spans;

use std::future::Ready;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use admission::{Embedded, Key};
use arc_swap::ArcSwapOption;
use axum::body::Body;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response};
use tokio::sync::Semaphore;

use crate::auth::{Gatekeeper, Known};
use crate::bundles::Shadow;
use crate::catalog::{Catalog, View};
use crate::config::DataConfig;
use crate::decision::{Decision, DecisionId, DecisionLog, End, Outcome, Reading};
use crate::error::ApiError;
use crate::feedback::Feedback;
use crate::ids::Ids;
use crate::memory::Memory;
use crate::metrics::series::ExpertSeries;
use crate::metrics::timing::Timing;
use crate::metrics::{Metrics, Refused};
use crate::residency::Pools;
use crate::session::Sessions;
use crate::telemetry::access::AccessLog;
use crate::telemetry::spans::PhaseSpan;
use crate::telemetry::trace::{TraceContext, Tracer};

pub use front::Front;
pub use route::Explanation;
pub(crate) use route::{may_name, unknown as unknown_model};

/// All that requests share.
pub struct Pipeline {
    /// Experts and routes.
    pub catalog: Arc<Catalog>,
    /// How long a request waits for the encoder.
    pub router_deadline: Duration,
    /// Who is let in.
    pub gatekeeper: Gatekeeper,
    /// What is counted against limits.
    pub ledger: Arc<Embedded>,
    /// Recent decisions.
    pub decisions: Arc<DecisionLog>,
    /// Takes reported outcomes of decisions.
    pub feedback: Feedback,
    /// Past prompts, for policies that look at those near the one at hand.
    pub memory: Arc<Memory>,
    /// Experts whose weights have to be brought where they answer from.
    pub pools: Pools,
    /// A second router model that reads some prompts beside the first, if there is one.
    pub shadow: Arc<ArcSwapOption<Shadow>>,
    /// Who answered which conversation.
    pub sessions: Arc<Sessions>,
    /// Counters.
    pub metrics: Metrics,
    /// What the data plane accepts.
    pub limits: DataConfig,
    /// Records requests as traces, if they are.
    pub tracer: Option<Tracer>,
    /// Where finished requests are logged, if they are.
    pub access: Option<Arc<AccessLog>>,
    /// Places for requests in progress.
    pub places: Arc<Semaphore>,
    /// Makes ids and seeds.
    pub ids: Ids,
}

/// What is known of a request from its head.
pub(crate) struct Context {
    /// When it arrived.
    arrival: Instant,
    /// The same by the wall clock, in milliseconds since 1970 UTC.
    arrival_ms: u64,
    /// Its decision's name.
    id: DecisionId,
    /// Its own name, the client's or ours.
    request_id: HeaderValue,
    /// The request's headers.
    headers: HeaderMap,
    /// Whether any of them is ours. Most requests have none, and nothing is looked up for them.
    ours: bool,
    /// When it is of no more use to the client.
    deadline: Option<Instant>,
    /// Its place in its trace, if it is in one.
    span: Option<TraceContext>,
}

impl Pipeline {
    /// Answers one inference request. Never fails: what goes wrong becomes an error answer, with the
    /// request's id and its record.
    pub async fn answer(self: &Arc<Self>, front: Front, parts: Parts, body: Body) -> Response<Body> {
        self.answer_or(front, parts, body, |_| None::<Ready<_>>).await
    }

    /// Answers a request by something of the gateway's own where `own` gives that for its body, and as
    /// [`Pipeline::answer`] otherwise. Keys, limits, headers, metrics and the record are the same.
    pub async fn answer_or<F>(
        self: &Arc<Self>,
        front: Front,
        parts: Parts,
        body: Body,
        own: impl FnOnce(&Bytes) -> Option<F>,
    ) -> Response<Body>
    where
        F: Future<Output = Result<Response<Body>, ApiError>>,
    {
        let context = Context::new(parts.headers, self.ids.decision(), self.tracer.as_ref());
        let trace = route::Trace::new(front.name());
        let mut underway = Underway { pipeline: self, context, trace, answered: false };
        let Underway { context, trace, .. } = &mut underway;
        let answer = self.phases(front, context, body, own, trace).await;
        // From here on the answer's body, or the refusal, completes the record.
        underway.answered = true;
        match answer {
            Ok(response) => response,
            Err(error) => {
                let response = self.refuse(&underway.context, &mut underway.trace, error);
                front.error(response, &underway.context).await
            }
        }
    }

    /// An answer of the gateway's own to a request that asks for no inference: with the request's id, and with no
    /// record.
    pub async fn own(&self, headers: HeaderMap, answer: Result<Response<Body>, ApiError>) -> Response<Body> {
        match answer {
            Ok(mut response) => {
                let context = Context::new(headers, self.ids.decision(), None);
                response.headers_mut().insert("x-request-id", context.request_id);
                response
            }
            Err(error) => {
                let front = Front::OpenAi(experts::Operation::ChatCompletions);
                self.unserved(front, headers, error).await
            }
        }
    }

    /// The answer to a request for what is not served: in the client's own words and with the request's id,
    /// but with no record.
    pub async fn unserved(&self, front: Front, headers: HeaderMap, error: ApiError) -> Response<Body> {
        use axum::response::IntoResponse;
        let context = Context::new(headers, self.ids.decision(), None);
        let mut response = error.into_response();
        response.headers_mut().insert("x-request-id", context.request_id.clone());
        front.error(response, &context).await
    }

    async fn phases<F>(
        self: &Arc<Self>,
        front: Front,
        context: &Context,
        body: Body,
        own: impl FnOnce(&Bytes) -> Option<F>,
        trace: &mut route::Trace,
    ) -> Result<Response<Body>, ApiError>
    where
        F: Future<Output = Result<Response<Body>, ApiError>>,
    {
        let view = self.catalog.view();
        trace.caller = self.caller(&view, &context.headers, context.arrival_ms).await?;
        context.mark(trace, "auth", context.arrival);
        trace.priority = context.ours().and_then(headers::priority);
        let mut hold = self.hold()?;
        let began = Instant::now();
        let (body, coding) = self.body(context, body).await?;
        trace.arriving = began.elapsed();
        let body = match coding {
            None => body,
            Some(coding) => Box::pin(compressed::expand(coding, body, self.limits.max_body_bytes)).await?,
        };
        if let Some(work) = own(&body) {
            let estimate = (body.len() as u64 / decode::BYTES_PER_TOKEN as u64, 0);
            self.reserve(&view, None, estimate, trace, &mut hold).await?;
            // The router's model answers here in the place of an expert, and is waited for like one.
            let began = Instant::now();
            let response = work.await;
            trace.waited += began.elapsed();
            let response = response?;
            hold.settle(None);
            let mut decision = trace.decision(context);
            decision.status = response.status().as_u16();
            return Ok(self.settle(context, trace, decision, response));
        }
        let began = Instant::now();
        let translated = front.translate(body)?;
        trace.lossy = translated.lossy;
        if let Some(refused) = &translated.refused
            && !view.experts.ids().filter_map(|id| view.experts.get(id.as_str())).any(|e| e.speaks_messages())
        {
            return Err(front::bad(refused.clone()));
        }
        let mut request = decode::decode(front.operation(), translated.body, self.limits.max_json_depth)?;
        request.messages = translated.messages;
        request.refused = translated.refused;
        context.mark(trace, "decode", began);
        trace.stream = request.stream;
        trace.content = self.recorder(front, &request, context);
        let target = Self::resolve(&view, &request, context, trace)?;
        trace.deadline = target.deadline(context);
        self.reserve(&view, Some(&target), request.estimate(), trace, &mut hold).await?;
        let began = Instant::now();
        self.queue(&target, trace, &mut hold).await?;
        if !trace.queue.is_zero() {
            context.mark(trace, "queue", began);
        }
        let planned = self.plan(&view, &target, &request, context, trace).await?;
        if let (Some(shadow), Some(planned)) = (&*self.shadow.load(), &planned) {
            shadow.offer(&request.text, context.id, planned, &self.memory);
        }
        let answer = self.call(&view, &target, planned, &request, context, trace, &mut hold).await?;
        let outgoing = respond::Outgoing { front, dialect: translated.dialect, answer, hold };
        self.respond(context, &request, trace, outgoing).await
    }

    /// Who sends a request with these headers.
    ///
    /// # Errors
    /// As [`Gatekeeper::caller`].
    pub(crate) async fn caller(
        &self,
        view: &View,
        headers: &HeaderMap,
        now_ms: u64,
    ) -> Result<Option<Arc<Key>>, ApiError> {
        let known = Known { keys: &view.keys, gates: self.catalog.gates(), revision: view.revision };
        self.gatekeeper.caller(known, headers, now_ms).await
    }

    /// The answer to a request that failed before an expert sent anything.
    fn refuse(&self, context: &Context, trace: &mut route::Trace, error: ApiError) -> Response<Body> {
        use axum::response::IntoResponse;
        let mut decision = trace.decision(context);
        decision.status = error.status().as_u16();
        decision.error = Some(error.code());
        self.metrics.refusals.get_or_create(&Refused { code: error.code() }).inc();
        let response = error.into_response();
        self.settle(context, trace, decision, response)
    }

    /// Completes the record of a request that no expert answered, and answers.
    fn settle(
        &self,
        context: &Context,
        trace: &mut route::Trace,
        mut decision: Decision,
        response: Response<Body>,
    ) -> Response<Body> {
        let elapsed = context.arrival.elapsed();
        decision.overhead_us = micros(trace.overhead(elapsed));
        let decision = Arc::new(decision);
        let response = self.record(context, trace, decision.clone(), None, response);
        let outcome = Outcome {
            duration_us: micros(elapsed),
            first_byte_us: None,
            end: End::Complete,
            prompt_tokens: None,
            completion_tokens: None,
            cost_usd: None,
        };
        let traced = spans::Traced::new(context, trace);
        self.finish(&decision, outcome, traced, &self.timing(trace));
        response
    }

    /// What takes the durations of requests like this one.
    fn timing(&self, trace: &route::Trace) -> Timing {
        let route = trace.route.as_ref().map(|route| &route.spec.id);
        match trace.series() {
            Some(series) => self.metrics.duration_of(series, route).clone(),
            None => self.metrics.duration.of(route),
        }
    }

    /// Puts our headers on an answer and its decision in the log. `expert` is who answered, if somebody did.
    fn record(
        &self,
        context: &Context,
        trace: &route::Trace,
        decision: Arc<Decision>,
        expert: Option<&ExpertSeries>,
        mut response: Response<Body>,
    ) -> Response<Body> {
        respond::put_headers(response.headers_mut(), context, trace, &decision);
        self.metrics.overhead.observe(decision.overhead_us as f64 / 1e6);
        self.metrics.time_to_head.observe(context.arrival.elapsed().as_secs_f64());
        self.log(trace, decision, expert);
        response
    }

    /// Counts a decision and puts it into the log.
    fn log(&self, trace: &route::Trace, decision: Arc<Decision>, expert: Option<&ExpertSeries>) {
        if let (Some(expert), Some(route)) = (expert, trace.series()) {
            self.metrics.answered(expert, route, trace.category, &decision);
        } else {
            self.metrics.unanswered(&decision);
        }
        if matches!(decision.reading, Reading::Failed { .. }) {
            self.metrics.router_failures.inc();
        }
        self.decisions.push(decision);
    }
}

/// What the record says of a request whose client left before there was an answer; nobody is sent it.
const CLIENT_LEFT: u16 = 499;

/// A request without an answer. Its client leaves by dropping it, and that goes into the record too.
struct Underway<'a> {
    pipeline: &'a Pipeline,
    context: Context,
    trace: route::Trace,
    answered: bool,
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let Self { pipeline, context, trace, .. } = self;
        let elapsed = context.arrival.elapsed();
        let mut decision = trace.decision(context);
        decision.status = CLIENT_LEFT;
        let decision = Arc::new(decision);
        pipeline.log(trace, decision.clone(), None);
        let outcome = Outcome {
            duration_us: micros(elapsed),
            first_byte_us: None,
            end: End::ClientLeft,
            prompt_tokens: None,
            completion_tokens: None,
            cost_usd: None,
        };
        let traced = spans::Traced::new(context, trace);
        pipeline.finish(&decision, outcome, traced, &pipeline.timing(trace));
    }
}

impl Context {
    fn new(headers: HeaderMap, id: DecisionId, tracer: Option<&Tracer>) -> Self {
        // By the clock that time-outs go by, which tests can hold still.
        let arrival = tokio::time::Instant::now().into_std();
        let span = tracer.and_then(|tracer| tracer.begin(&headers, id.0));
        let given = headers::request_id(&headers).cloned();
        let request_id = given.unwrap_or_else(|| respond::value(id.named("req-")));
        let ours = headers.keys().any(|name| name.as_str().starts_with("x-guildhall-"));
        let timeout = if ours { headers::timeout(&headers) } else { None };
        let deadline = timeout.map(|timeout| arrival + timeout);
        Self { arrival, arrival_ms: now_ms(), id, request_id, headers, ours, deadline, span }
    }

    /// Notes a phase that began at `start` and ends now, where the request is traced.
    fn mark(&self, trace: &mut route::Trace, name: &'static str, start: Instant) {
        if self.span.is_some() {
            let start = start.duration_since(self.arrival);
            trace.marks.push(PhaseSpan { name, start, end: self.arrival.elapsed() });
        }
    }

    /// The request's headers, if any of them is of ours.
    fn ours(&self) -> Option<&HeaderMap> {
        self.ours.then_some(&self.headers)
    }

    /// A request header of ours, when it is readable text.
    fn header(&self, name: &'static str) -> Option<&str> {
        headers::text(self.ours()?, name)
    }
}

/// The wall clock, for records only; nothing is decided by it.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
