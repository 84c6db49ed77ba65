//! Finished requests as spans of the `OpenTelemetry` protocol (OTLP).
//!
//! One server span for the request, and below it one internal span for each phase and one client span for each
//! expert that was tried. Tokens stand on the attempt that answered and nowhere else, so that nobody counts
//! them twice.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use super::content::Content;
use super::spans::{AttemptSpan, PhaseSpan, RequestSpans};
use crate::config::{SemConv, TracesConfig};

/// Longest text of a client or an expert that becomes an attribute, in characters.
const LONGEST: usize = 256;

/// Bits 8 and 9 of a span's flags: whether it is known that the parent is remote, and whether it is.
const PARENT_KNOWN: u32 = 0x100;
const PARENT_REMOTE: u32 = 0x200;

/// How requests become spans.
pub(super) struct Form {
    resource: Resource,
    scope: InstrumentationScope,
    semconv: SemConv,
    content: bool,
}

impl Form {
    pub(super) fn new(config: &TracesConfig) -> Self {
        let mut attributes = Attributes::default();
        attributes.text("service.name", &config.service_name);
        attributes.text("service.version", env!("CARGO_PKG_VERSION"));
        for (key, value) in &config.resource {
            attributes.text(key, value);
        }
        let scope = InstrumentationScope {
            name: "guildhall".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..InstrumentationScope::default()
        };
        let resource = Resource { attributes: attributes.0, ..Resource::default() };
        Self { resource, scope, semconv: config.semconv, content: config.capture_content }
    }

    /// The body of a post.
    pub(super) fn export(&self, batch: &[RequestSpans]) -> ExportTraceServiceRequest {
        let scope_spans = ScopeSpans {
            scope: Some(self.scope.clone()),
            spans: batch.iter().flat_map(|request| self.spans(request)).collect(),
            schema_url: String::new(),
        };
        let resource_spans = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![scope_spans],
            schema_url: String::new(),
        };
        ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
    }

    fn spans<'a>(&'a self, request: &'a RequestSpans) -> impl Iterator<Item = Span> + 'a {
        let phases = request.phases.iter().enumerate().map(|(at, phase)| phase_span(request, at, phase));
        let attempts =
            request.attempts.iter().enumerate().map(|(at, attempt)| self.attempt_span(request, at, attempt));
        std::iter::once(root(request)).chain(phases).chain(attempts)
    }

    /// The span of a try, by the conventions for calls of generative models.
    fn attempt_span(&self, request: &RequestSpans, at: usize, attempt: &AttemptSpan) -> Span {
        let latest = self.semconv == SemConv::Latest;
        let mut a = Attributes::default();
        a.text("gen_ai.operation.name", request.operation.name());
        a.text(if latest { "gen_ai.provider.name" } else { "gen_ai.system" }, attempt.provider);
        a.text("gen_ai.request.model", &attempt.model);
        if latest && request.stream {
            a.add("gen_ai.request.stream", Value::BoolValue(true));
        }
        if let Some((host, port)) = &attempt.server {
            a.text("server.address", host);
            a.number("server.port", u64::from(*port));
        }
        if let Some(status) = attempt.status {
            a.number("http.response.status_code", u64::from(status));
        }
        a.number("guildhall.attempt", at as u64 + 1);
        a.text("guildhall.expert", attempt.expert.as_str());
        if let Some(answer) = &attempt.answer {
            a.maybe_text("gen_ai.response.model", answer.model.as_deref());
            a.maybe_text("gen_ai.response.id", answer.id.as_deref());
            if !answer.finish_reasons.is_empty() {
                a.texts("gen_ai.response.finish_reasons", &answer.finish_reasons);
            }
            a.maybe_number("gen_ai.usage.input_tokens", answer.input_tokens);
            a.maybe_number("gen_ai.usage.output_tokens", answer.output_tokens);
            if latest {
                a.maybe_number("gen_ai.usage.cache_read.input_tokens", answer.cached_tokens);
                a.maybe_number("gen_ai.usage.reasoning.output_tokens", answer.reasoning_tokens);
                if let Some(time) = answer.time_to_first_chunk {
                    a.add("gen_ai.response.time_to_first_chunk", Value::DoubleValue(time.as_secs_f64()));
                }
            }
        }
        let tells = attempt.answer.is_some()
            || (at + 1 == request.attempts.len() && request.attempts.iter().all(|a| a.answer.is_none()));
        if let Some(content) = request.content.as_ref().filter(|_| self.content && latest && tells) {
            a.content(content);
        }
        let refused = attempt.status.filter(|status| *status >= 400).map(|status| status.to_string());
        let error = attempt.error.as_deref().or(refused.as_deref());
        a.maybe_text("error.type", error);
        let kind = if attempt.server.is_some() { SpanKind::Client } else { SpanKind::Internal };
        let mut span = span(request, request.context.attempt_id(at), kind, (attempt.start, attempt.end));
        span.name = format!("{} {}", request.operation.name(), shortened(&attempt.model));
        span.status = status(error.is_some());
        span.attributes = a.0;
        span
    }
}

/// The span of the whole request, by the conventions for HTTP servers.
fn root(request: &RequestSpans) -> Span {
    let context = &request.context;
    let mut a = Attributes::default();
    a.text("http.request.method", "POST");
    a.text("http.route", request.endpoint);
    a.number("http.response.status_code", u64::from(request.status));
    a.text("guildhall.decision", &request.decision.to_string());
    a.text("guildhall.model", &request.model);
    a.maybe_text("guildhall.route", request.route.as_ref().map(routing::ExpertId::as_str));
    a.maybe_text("guildhall.policy", request.policy);
    a.maybe_text("guildhall.category", request.category.as_deref());
    a.maybe_text("guildhall.expert", request.expert.as_ref().map(routing::ExpertId::as_str));
    a.maybe_text("guildhall.path", request.path.map(crate::decision::Path::as_str));
    a.number("guildhall.attempts", request.attempts.len() as u64);
    a.add("guildhall.stream", Value::BoolValue(request.stream));
    a.maybe_text("error.type", request.error.as_deref());
    let mut span = span(request, context.span_id(), SpanKind::Server, (Duration::ZERO, request.duration));
    span.parent_span_id = context.parent_id().map(|id| id.to_be_bytes().to_vec()).unwrap_or_default();
    if context.parent_id().is_some() {
        span.flags |= PARENT_REMOTE;
    }
    span.name = format!("POST {}", request.endpoint);
    // A client's mistake is no failure of the server; what broke off after its head is.
    span.status = status(request.status >= 500 || (request.status < 400 && request.error.is_some()));
    span.attributes = a.0;
    span
}

fn phase_span(request: &RequestSpans, at: usize, phase: &PhaseSpan) -> Span {
    let id = request.context.phase_id(at);
    Span { name: phase.name.into(), ..span(request, id, SpanKind::Internal, (phase.start, phase.end)) }
}

/// What all spans of a request have, as a child of its root.
fn span(request: &RequestSpans, id: u64, kind: SpanKind, (start, end): (Duration, Duration)) -> Span {
    let context = &request.context;
    let at = |offset: Duration| request.started_ns.saturating_add(offset.as_nanos() as u64);
    Span {
        trace_id: context.trace_id().to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        parent_span_id: context.span_id().to_be_bytes().to_vec(),
        trace_state: context.tracestate().and_then(|s| s.to_str().ok()).unwrap_or_default().into(),
        flags: u32::from(context.flags()) | PARENT_KNOWN,
        kind: kind.into(),
        start_time_unix_nano: at(start),
        end_time_unix_nano: at(end.max(start)),
        ..Span::default()
    }
}

fn status(failed: bool) -> Option<Status> {
    failed.then(|| Status { code: StatusCode::Error.into(), message: String::new() })
}

fn shortened(text: &str) -> &str {
    text.char_indices().nth(LONGEST).map_or(text, |(end, _)| &text[..end])
}

#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn add(&mut self, key: &str, value: Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.0.push(KeyValue { key: key.into(), value, ..KeyValue::default() });
    }

    fn text(&mut self, key: &str, value: &str) {
        self.add(key, Value::StringValue(shortened(value).into()));
    }

    fn maybe_text(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn texts(&mut self, key: &str, values: &[Box<str>]) {
        let value = |text: &str| AnyValue { value: Some(Value::StringValue(shortened(text).into())) };
        let values = values.iter().take(LONGEST).map(|text| value(text)).collect();
        self.add(key, Value::ArrayValue(ArrayValue { values }));
    }

    /// What was said, whole: it was cut to its limit before.
    fn content(&mut self, content: &Content) {
        let texts = [
            ("gen_ai.system_instructions", content.system.as_ref()),
            ("gen_ai.input.messages", Some(&content.input)),
            ("gen_ai.output.messages", content.output.as_ref()),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                self.add(key, Value::StringValue(text.clone()));
            }
        }
        if !content.truncated.is_empty() {
            let truncated: Vec<Box<str>> = content.truncated.iter().map(|key| (*key).into()).collect();
            self.texts("guildhall.content.truncated", &truncated);
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        self.add(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn maybe_number(&mut self, key: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.number(key, value);
        }
    }
}
