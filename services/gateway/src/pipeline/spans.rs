//! A finished request as its trace shows it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::decode::Decoded;
use super::front::Front;
use super::route::Trace;
use super::{Context, Pipeline};
use crate::decision::{Attempt, Decision, End, Outcome};
use crate::metrics::timing::Seen;
use crate::telemetry::content::Recorder;
use crate::telemetry::spans::{AnswerFacts, AttemptSpan, GenAiOperation, PhaseSpan, RequestSpans};
use crate::telemetry::trace::{TraceContext, Tracer};

/// What of a request only its trace needs, kept until the request is over.
pub(super) struct Traced {
    context: TraceContext,
    started_ns: u64,
    phases: Vec<PhaseSpan>,
    content: Option<Box<Recorder>>,
}

impl Pipeline {
    /// What takes down prompt and answer, for a request that is sampled where the operator wants that.
    pub(super) fn recorder(
        &self,
        front: Front,
        request: &Decoded,
        context: &Context,
    ) -> Option<Box<Recorder>> {
        let limit = self.tracer.as_ref()?.content_limit(context.span.as_ref()?)?;
        let own_system = !matches!(front, Front::OpenAi(_));
        Recorder::new(request.operation, &request.body, own_system, limit).map(Box::new)
    }
}

impl Traced {
    /// `None` for a request that is not traced.
    pub(super) fn new(context: &Context, trace: &mut Trace) -> Option<Box<Self>> {
        let span = context.span.clone()?;
        let phases = std::mem::take(&mut trace.marks);
        Some(Box::new(Self {
            context: span,
            started_ns: context.arrival_ms.saturating_mul(1_000_000),
            phases,
            content: trace.content.take(),
        }))
    }

    /// Where a request is to be found that was measured so long after its arrival; `None` when it is not sampled.
    pub(super) fn seen(&self, decision: &Decision, after: Duration) -> Option<Seen> {
        let at_ms = decision.time_ms.saturating_add(after.as_millis() as u64);
        self.context.is_sampled().then(|| Seen { trace_id: self.context.trace_id(), at_ms })
    }

    /// Takes down a piece of the answer, where that is wanted.
    pub(super) fn read(&mut self, piece: &Bytes) {
        if let Some(content) = &mut self.content {
            content.read(piece);
        }
    }

    /// Hands the request's facts to the tracer, if it wants them.
    pub(super) fn finish(mut self, tracer: &Tracer, decision: &Decision, outcome: &Outcome) {
        let error = match (decision.error, outcome.end) {
            (Some(code), _) => Some(code.into()),
            (None, End::Complete) if decision.status < 500 => None,
            (None, End::Complete) => Some(decision.status.to_string().into()),
            (None, end) => Some(end.as_str().into()),
        };
        if !tracer.wants(&self.context, error.is_some()) {
            return;
        }
        let duration = Duration::from_micros(outcome.duration_us);
        if let Some(first) = outcome.first_byte_us {
            self.phases.push(PhaseSpan {
                name: "stream",
                start: Duration::from_micros(first),
                end: duration,
            });
        }
        let content = self.content.map(|content| content.finish());
        let answered = decision.expert.is_some().then(|| decision.attempts.len().saturating_sub(1));
        let attempts = decision.attempts.iter().enumerate();
        let attempts = attempts.map(|(at, attempt)| {
            let facts = (answered == Some(at)).then(|| AnswerFacts {
                input_tokens: outcome.prompt_tokens,
                output_tokens: outcome.completion_tokens,
                finish_reasons: content.as_ref().map(|c| c.finish_reasons.clone()).unwrap_or_default(),
                time_to_first_chunk: outcome
                    .first_byte_us
                    .filter(|_| decision.stream)
                    .map(|first| Duration::from_micros(first.saturating_sub(attempt.started_us))),
                ..AnswerFacts::default()
            });
            attempt_span(attempt, duration, facts)
        });
        let (endpoint, operation) = match decision.operation {
            "completions" => ("/v1/completions", GenAiOperation::TextCompletion),
            "embeddings" => ("/v1/embeddings", GenAiOperation::Embeddings),
            "messages" => ("/v1/messages", GenAiOperation::Chat),
            "responses" => ("/v1/responses", GenAiOperation::Chat),
            _ => ("/v1/chat/completions", GenAiOperation::Chat),
        };
        tracer.finish(RequestSpans {
            context: self.context,
            started_ns: self.started_ns,
            duration,
            endpoint,
            operation,
            stream: decision.stream,
            status: decision.status,
            error,
            decision: decision.id,
            model: decision.model.as_str().into(),
            route: decision.route.clone(),
            policy: decision.policy,
            category: decision.category.clone(),
            expert: decision.expert.clone(),
            path: decision.path,
            phases: self.phases,
            attempts: attempts.collect(),
            content,
        });
    }
}

/// The try that answered lasts until its last byte.
fn attempt_span(attempt: &Attempt, request: Duration, answer: Option<AnswerFacts>) -> AttemptSpan {
    let start = Duration::from_micros(attempt.started_us);
    let end = start + Duration::from_micros(attempt.duration_us);
    AttemptSpan {
        expert: attempt.expert.clone(),
        model: attempt.expert.as_str().into(),
        provider: "openai",
        server: attempt.endpoint.as_deref().and_then(server),
        status: attempt.status,
        error: attempt.error.clone(),
        start,
        end: if answer.is_some() { request.max(end) } else { end },
        answer,
    }
}

/// Host and port of an endpoint's URL.
fn server(url: &str) -> Option<(Arc<str>, u16)> {
    // A discovered endpoint names its address after its URL.
    let uri: http::Uri = url.split_whitespace().next()?.parse().ok()?;
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    Some((uri.host()?.into(), port))
}
