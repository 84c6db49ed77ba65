//! Trace context (W3C Trace Context) and the decision whether a request is traced.
//!
//! Nothing is recorded while a request runs. A traced one carries a [`TraceContext`]; when its answer has
//! ended, its facts go as one [`RequestSpans`] to [`super::export`], where spans are made of them.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::export::Exporter;
use super::spans::RequestSpans;
use crate::config::TracesConfig;
use crate::ids::mix;

/// `traceparent`.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `tracestate`.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Flag: the caller records the trace.
const SAMPLED: u8 = 0x01;
/// Flag: the trace id's low 56 bits are random (Trace Context Level 2).
const RANDOM: u8 = 0x02;

/// Where a request stands in its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    /// The gateway's span for the whole request.
    span_id: u64,
    /// The caller's span.
    parent_id: Option<u64>,
    flags: u8,
    state: Option<HeaderValue>,
    recording: Recording,
}

/// Whether a request becomes spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recording {
    Yes,
    WhenItFails,
    No,
}

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parent {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

/// Takes the facts of requests that are traced, and says which those are.
#[derive(Debug)]
pub struct Tracer {
    exporter: Exporter,
    sampler: Sampler,
    /// The most bytes of each text of the content; `None` where content is not wanted.
    content_limit: Option<usize>,
}

/// Decides which requests are traced.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// Of 2^56: how much of the range of trace ids is not sampled.
    rejected: u64,
    sample_errors: bool,
    salt: u64,
}

impl Sampler {
    /// A sampler. The random `salt` keeps the trace ids of processes apart.
    pub fn new(config: &TracesConfig, salt: u64) -> Self {
        Self {
            rejected: ((1.0 - config.sample_ratio.clamp(0.0, 1.0)) * (1_u64 << 56) as f64) as u64,
            sample_errors: config.sample_errors,
            salt,
        }
    }

    /// The context of a request that arrives with these headers. `seed` is the request's own: no other of
    /// this process has it. `None`: the request is not traced and has no trace to pass on.
    ///
    /// A caller's decision is kept. Without one, the trace id decides, as everywhere where traces are
    /// sampled consistently (`OpenTelemetry`, "`TraceState`: Probability Sampling").
    pub fn begin(&self, headers: &HeaderMap, seed: u64) -> Option<TraceContext> {
        let unsampled = if self.sample_errors { Recording::WhenItFails } else { Recording::No };
        if let Some(parent) = only(headers, &TRACEPARENT).and_then(|value| Parent::parse(value.as_bytes())) {
            let sampled = parent.flags & SAMPLED != 0;
            return Some(TraceContext {
                trace_id: parent.trace_id,
                span_id: nonzero(mix(self.salt ^ mix(seed))),
                parent_id: Some(parent.span_id),
                flags: parent.flags & (SAMPLED | RANDOM),
                state: state(headers),
                recording: if sampled { Recording::Yes } else { unsampled },
            });
        }
        let low = nonzero(mix(mix(self.salt).wrapping_add(seed)));
        let sampled = low & ((1 << 56) - 1) >= self.rejected;
        let recording = if sampled { Recording::Yes } else { unsampled };
        (recording != Recording::No).then(|| TraceContext {
            trace_id: u128::from(mix(self.salt.wrapping_add(mix(seed)))) << 64 | u128::from(low),
            span_id: nonzero(mix(self.salt ^ mix(seed))),
            parent_id: None,
            flags: if sampled { SAMPLED | RANDOM } else { RANDOM },
            state: None,
            recording,
        })
    }
}

impl Tracer {
    /// A tracer that hands finished requests to `exporter`; `salt` as in [`Sampler::new`].
    pub fn new(config: &TracesConfig, exporter: Exporter, salt: u64) -> Self {
        Self {
            exporter,
            sampler: Sampler::new(config, salt),
            content_limit: config.capture_content.then_some(config.content_limit_bytes),
        }
    }

    /// As [`Sampler::begin`].
    pub fn begin(&self, headers: &HeaderMap, seed: u64) -> Option<TraceContext> {
        self.sampler.begin(headers, seed)
    }

    /// Whether the facts of a finished request are wanted; asked before they are put together.
    pub fn wants(&self, context: &TraceContext, failed: bool) -> bool {
        match context.recording {
            Recording::Yes => true,
            Recording::WhenItFails => failed,
            Recording::No => false,
        }
    }

    /// Whether prompt and answer are wanted among the facts, and then how many bytes of each text. Only of sampled
    /// requests: of one that is traced because it failed, that was not known in time.
    pub fn content_limit(&self, context: &TraceContext) -> Option<usize> {
        self.content_limit.filter(|_| context.is_sampled())
    }

    /// Takes the facts of a finished request. Never waits: with a full queue they are left out and counted.
    pub fn finish(&self, request: RequestSpans) {
        self.exporter.push(request);
    }
}

impl TraceContext {
    /// The `traceparent` for the call of an expert: its parent is the span of this attempt, counted from 0.
    pub fn traceparent(&self, attempt: usize) -> HeaderValue {
        let parent = Parent { trace_id: self.trace_id, span_id: self.attempt_id(attempt), flags: self.flags };
        // Hexadecimal digits and dashes always make a header's value.
        HeaderValue::from_bytes(&parent.format()).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// The `tracestate` for such a call: the caller's, as it is.
    pub fn tracestate(&self) -> Option<&HeaderValue> {
        self.state.as_ref()
    }

    /// The caller's headers as an expert gets them: in the place of the caller's span stands this attempt's.
    pub fn headers(&self, callers: &HeaderMap, attempt: usize) -> HeaderMap {
        let mut headers = callers.clone();
        headers.insert(TRACEPARENT, self.traceparent(attempt));
        match self.tracestate() {
            Some(state) => headers.insert(TRACESTATE, state.clone()),
            None => headers.remove(TRACESTATE),
        };
        headers
    }

    /// Whether the request becomes spans however it ends.
    pub fn is_sampled(&self) -> bool {
        self.recording == Recording::Yes
    }

    /// The trace's id, for logs and exemplars.
    pub fn trace_id(&self) -> u128 {
        self.trace_id
    }

    pub(super) fn span_id(&self) -> u64 {
        self.span_id
    }

    pub(super) fn parent_id(&self) -> Option<u64> {
        self.parent_id
    }

    pub(super) fn flags(&self) -> u8 {
        self.flags
    }

    /// The id of an attempt's span. Derived, so that it need not be kept until the request has ended.
    pub(super) fn attempt_id(&self, attempt: usize) -> u64 {
        self.child_id(attempt as u64 * 2)
    }

    /// The id of a phase's span.
    pub(super) fn phase_id(&self, phase: usize) -> u64 {
        self.child_id(phase as u64 * 2 + 1)
    }

    fn child_id(&self, child: u64) -> u64 {
        nonzero(mix(self.span_id ^ mix(child + 1)))
    }
}

impl Parent {
    /// Reads a `traceparent` as section 3.2 of the recommendation has it: lower-case hexadecimal digits, no
    /// id of zeros, version 00 with nothing after the flags, later ones with nothing or a dash.
    fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(55)?;
        let [version_high, version_low, b'-', ..] = *known else { return None };
        if known[35] != b'-' || known[52] != b'-' {
            return None;
        }
        match (version_high, version_low) {
            (b'f', b'f') => return None,
            (b'0', b'0') if !rest.is_empty() => return None,
            _ if !rest.is_empty() && rest[0] != b'-' => return None,
            _ => {}
        }
        hex(&known[..2])?;
        let trace_id = hex(&known[3..35]).filter(|id| *id != 0)?;
        let span_id = hex(&known[36..52]).filter(|id| *id != 0)? as u64;
        Some(Self { trace_id, span_id, flags: hex(&known[53..55])? as u8 })
    }

    /// Writes it in version 00.
    fn format(&self) -> [u8; 55] {
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        digits(&mut out[3..35], self.trace_id);
        digits(&mut out[36..52], u128::from(self.span_id));
        digits(&mut out[53..55], u128::from(self.flags));
        out
    }
}

/// A number of lower-case hexadecimal digits, at most 32 of them.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

fn digits(out: &mut [u8], mut number: u128) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 0xf) as usize];
        number >>= 4;
    }
}

/// The one value of a header; of a `traceparent` that comes twice, none can be believed.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// The `tracestate`, which may come in several headers. Copied only then.
fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    if let Some(value) = only(headers, &TRACESTATE) {
        return Some(value.clone());
    }
    let values: Vec<&[u8]> = headers.get_all(&TRACESTATE).iter().map(HeaderValue::as_bytes).collect();
    if values.is_empty() { None } else { HeaderValue::from_bytes(&values.join(&b',')).ok() }
}

/// An id of zeros is no id.
fn nonzero(id: u64) -> u64 {
    id.max(1)
}

#[cfg(test)]
mod tests;
