//! Phase `stream`: the expert's answer with our headers, its bytes passed on as they come.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use experts::normalise_error;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::BodyExt;

use super::account::{Accounted, Source, Watch};
use super::admit::Hold;
use super::call::Answer;
use super::decode::Decoded;
use super::front::{Dialect, Front, lossy_header};
use super::route::Trace;
use super::spans::Traced;
use super::{Context, Pipeline, micros};
use crate::decision::{Decision, Reading};
use crate::error::{ApiError, ErrorKind};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const DECISION: HeaderName = HeaderName::from_static("x-guildhall-decision");
const ROUTE: HeaderName = HeaderName::from_static("x-guildhall-route");
const POLICY: HeaderName = HeaderName::from_static("x-guildhall-policy");
const CATEGORY: HeaderName = HeaderName::from_static("x-guildhall-category");
const CONFIDENCE: HeaderName = HeaderName::from_static("x-guildhall-confidence");
const EXPERT: HeaderName = HeaderName::from_static("x-guildhall-expert");
const PATH: HeaderName = HeaderName::from_static("x-guildhall-path");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-guildhall-attempts");
const CACHE: HeaderName = HeaderName::from_static("x-guildhall-cache");
const OVERHEAD: HeaderName = HeaderName::from_static("x-guildhall-overhead-ms");
const TIMING: HeaderName = HeaderName::from_static("server-timing");
const BASIS: HeaderName = HeaderName::from_static("x-guildhall-basis");
const CANDIDATES: HeaderName = HeaderName::from_static("x-guildhall-candidates");
const CATEGORIES: HeaderName = HeaderName::from_static("x-guildhall-categories");
const ROUTER: HeaderName = HeaderName::from_static("x-guildhall-router");
const LIMITS_REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const LIMITS_TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];
const LOSSY: HeaderName = HeaderName::from_static("x-guildhall-lossy");
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// An expert's answer, and what becomes of it.
pub(super) struct Outgoing {
    pub(super) front: Front,
    pub(super) dialect: Option<Dialect>,
    pub(super) answer: Answer,
    pub(super) hold: Hold,
}

impl Pipeline {
    /// Makes the client's answer of an expert's.
    ///
    /// # Errors
    /// 502 when the expert's answer cannot be translated into the client's protocol.
    pub(super) async fn respond(
        self: &Arc<Self>,
        context: &Context,
        request: &Decoded,
        trace: &mut Trace,
        outgoing: Outgoing,
    ) -> Result<Response<Body>, ApiError> {
        let Outgoing { front, dialect, answer: Answer { expert, reply }, hold } = outgoing;
        let own_words = reply.is_message;
        if own_words {
            // Nothing was translated.
            trace.lossy.clear();
        }
        trace.lossy.extend(reply.lossy);
        let status = reply.status;
        let error = status.is_client_error() || status.is_server_error();
        let (mut headers, mut body) = (reply.headers, Source::Reply(reply.body));
        match (body, &dialect) {
            (Source::Reply(reply), _) if error => {
                // An error is small, and its form is ours to promise: it is read whole and put into shape.
                let bytes = http_body_util::Limited::new(reply, 64 << 10).collect().await;
                let bytes = bytes.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                body = Source::Whole(normalise_error(status, &bytes), None);
                headers.remove(header::CONTENT_LENGTH);
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
            (Source::Reply(mut reply), Some(dialect)) if !request.stream && !own_words => {
                let waited = Instant::now();
                let chat = (&mut reply).collect().await;
                trace.waited += waited.elapsed();
                let chat =
                    chat.map_err(|error| ApiError::new(ErrorKind::UpstreamFailed, error.to_string()))?;
                let chat = chat.to_bytes();
                if let Some(content) = &mut trace.content {
                    content.read_whole(&chat);
                }
                body = Source::Whole(dialect.answer(&chat, context)?, reply.usage());
            }
            (source, _) => body = source,
        }
        let mut decision = trace.decision(context);
        decision.status = status.as_u16();
        decision.overhead_us = micros(trace.overhead(context.arrival.elapsed()));
        let decision = Arc::new(decision);
        let traced = Traced::new(context, trace);
        let series = trace.view.as_ref().map(|view| view.series.expert(expert.id().as_str()));
        let series = series.unwrap_or_default();
        let watch = Watch { expert: series.clone(), duration: self.timing(trace), traced };
        let body = Accounted::new(self.clone(), decision.clone(), expert, context.arrival, body, hold, watch);
        if let Some(dialect) = &dialect {
            dialect.mark(&mut headers, context);
        }
        let mut response = match dialect {
            Some(dialect) if request.stream && !error && !own_words => {
                Response::new(Body::new(dialect.stream(body, context)))
            }
            _ => Response::new(Body::new(body)),
        };
        *response.headers_mut() = headers;
        *response.status_mut() = status;
        if request.stream {
            // Proxies in front must not hold the stream back.
            let headers = response.headers_mut();
            headers.insert(BUFFERING, HeaderValue::from_static("no"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        if let Some(lossy) = lossy_header(&trace.lossy) {
            response.headers_mut().insert(LOSSY, lossy);
        }
        let response = self.record(context, trace, decision, Some(&series), response);
        Ok(if error { front.error(response, context).await } else { response })
    }
}

/// A header value of text that we made ourselves.
pub(super) fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// Says in headers what was decided.
pub(super) fn put_headers(headers: &mut HeaderMap, context: &Context, trace: &Trace, decision: &Decision) {
    // One growth instead of three.
    headers.reserve(16);
    headers.insert(REQUEST_ID, context.request_id.clone());
    if let Ok(id) = HeaderValue::from_str(&decision.id.text()) {
        headers.insert(DECISION, id);
    }
    if let Some(route) = &trace.route {
        headers.insert(ROUTE, route.header.clone());
        headers.insert(POLICY, route.policy_header.clone());
    }
    let category = trace.category.and_then(|at| trace.view.as_ref()?.categories.get(at));
    if let Some((_, name)) = category {
        headers.insert(CATEGORY, name.clone());
    }
    let features = decision.planned.as_ref().and_then(|p| p.request.features.as_ref());
    if let Some((_, confidence)) = features.and_then(routing::Features::top) {
        headers.insert(CONFIDENCE, value(format!("{confidence:.3}")));
    }
    if let Some(expert) = decision.expert.as_ref().and_then(|e| HeaderValue::from_str(e.as_str()).ok()) {
        headers.insert(EXPERT, expert);
    }
    if let Some(path) = decision.path {
        headers.insert(PATH, HeaderValue::from_static(path.as_str()));
    }
    headers.insert(ATTEMPTS, HeaderValue::from(decision.attempts.len()));
    headers.insert(CACHE, HeaderValue::from_static("bypass"));
    let mut text = String::with_capacity(64);
    push_millis(&mut text, decision.overhead_us);
    if let Ok(overhead) = HeaderValue::from_str(&text) {
        headers.insert(OVERHEAD, overhead);
    }
    text.clear();
    for (part, micros) in [
        ("route;dur=", micros(trace.reading_took)),
        (", expert;dur=", micros(trace.waited)),
        (", gateway;dur=", decision.overhead_us),
    ] {
        text.push_str(part);
        push_millis(&mut text, micros);
    }
    if let Some(residency) = &decision.residency {
        text.push_str(", weights;dur=");
        push_millis(&mut text, residency.waited_us);
    }
    if let Ok(timing) = HeaderValue::from_str(&text) {
        headers.insert(TIMING, timing);
    }
    let quotas = [(&trace.headroom.requests, LIMITS_REQUESTS), (&trace.headroom.tokens, LIMITS_TOKENS)];
    for (quota, [limit, remaining, reset]) in quotas {
        if let Some(quota) = quota {
            headers.insert(limit, HeaderValue::from(quota.limit));
            headers.insert(remaining, HeaderValue::from(quota.remaining));
            headers.insert(reset, value(quota.reset.to_string()));
        }
    }
    let may_debug = trace.caller.as_ref().is_none_or(|key| key.permissions().debug_headers);
    if may_debug && context.header("x-guildhall-debug") == Some("true") {
        put_debug_headers(headers, decision);
    }
}

/// Says in headers why it was decided so.
fn put_debug_headers(headers: &mut HeaderMap, decision: &Decision) {
    if let Some(planned) = &decision.planned {
        headers.insert(BASIS, HeaderValue::from_static(planned.plan.basis.as_str()));
        let scores = planned.plan.candidates.iter().take(10);
        let scores: Vec<String> = scores.map(|c| format!("{}={:.3}", c.expert, c.score)).collect();
        headers.insert(CANDIDATES, value(scores.join(", ")));
        let top = planned.top_categories(5);
        let top: Vec<String> = top.iter().map(|s| format!("{}={:.3}", s.category, s.probability)).collect();
        headers.insert(CATEGORIES, value(top.join(", ")));
    }
    let router = match &decision.reading {
        Reading::NotNeeded => "not-needed".to_owned(),
        Reading::Read { stage, cache, tokens, truncated_tokens, queue_us, forward_us, .. } => format!(
            "{stage};cache={cache};tokens={tokens};truncated={truncated_tokens};queue-us={queue_us};forward-us={forward_us}"
        ),
        Reading::Failed { reason } => {
            format!("failed;reason={}", reason.replace(|c: char| !c.is_ascii_graphic(), "-"))
        }
    };
    headers.insert(ROUTER, value(router));
}

/// Appends microseconds as milliseconds with three places. Every answer has four of them: the standard
/// formatter would take as long as the rest of its headers.
fn push_millis(text: &mut String, micros: u64) {
    text.push_str(itoa::Buffer::new().format(micros / 1000));
    text.push('.');
    let rest = micros % 1000;
    for digit in [rest / 100, rest / 10 % 10, rest % 10] {
        text.push(char::from(b'0' + digit as u8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_have_three_places() {
        let text = |micros| {
            let mut text = String::new();
            push_millis(&mut text, micros);
            text
        };
        assert_eq!(text(0), "0.000");
        assert_eq!(text(7), "0.007");
        assert_eq!(text(12_345), "12.345");
        assert_eq!(text(60_000_980), "60000.980");
    }
}
