mod compose;
mod look;
mod settings;

pub use look::{Listing, Look};
pub use settings::{Endpoint, LlmBackend};

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, response};
use serde::Serialize;
use tokio::time::Instant;

use super::literal;
use crate::body::{Live, ReplyBody};
use crate::call::{Call, Operation, Reply};
use crate::error::{CallError, CallErrorKind as ErrorKind};
use crate::spec::{ExpertSpec, Limits, Problem};
use crate::splice::{Editor, EventFilter, Filter};
use crate::upstream::{Client, Payload, Peer, Times};
use compose::Composer;
use settings::Base;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers of clients that upstreams get: tracing, idempotency, and wishes about latency that inference
/// gateways understand.
const SENT_ON: [HeaderName; 8] = [
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("openai-beta"),
    HeaderName::from_static("x-slo-ttft-ms"),
    HeaderName::from_static("x-slo-tpot-ms"),
    HeaderName::from_static("x-gateway-inference-objective"),
    HeaderName::from_static("x-gateway-inference-fairness-id"),
];

/// An upstream's endpoint, as the admin API shows its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct EndpointStatus {
    /// Its base URL.
    pub url: String,
    /// Calls in progress at its host, from all experts that it serves.
    pub outstanding: usize,
    /// Connections that failed since one succeeded.
    pub connect_failures: u32,
    /// Whether it is left alone for a while because of them.
    pub resting: bool,
}

pub(crate) struct Llm {
    endpoints: Vec<Site>,
    /// Where the search for the least busy endpoint begins, so that equals take turns.
    turn: AtomicUsize,
    composer: Composer,
    /// The expert's id as a JSON string, when the upstream calls the model something else.
    shown_model: Option<Bytes>,
    limits: Limits,
}

/// An endpoint with everything about it that does not change from request to request.
struct Site {
    url: String,
    peer: Arc<Peer>,
    weight: f64,
    headers: HeaderMap,
    host: HeaderValue,
    /// By operation: the path alone, for HTTP/1, and the whole URL, for HTTP/2.
    targets: [(Uri, Uri); Operation::ALL.len()],
}

impl Llm {
    pub(super) fn new(settings: &LlmBackend, spec: &ExpertSpec, client: &Client) -> Result<Self, Problem> {
        let template = template(settings).map_err(|message| problem("headers", message))?;
        let site = |(index, endpoint): (usize, &Endpoint)| {
            Site::new(endpoint, &template, settings.http2, client)
                .map_err(|message| problem(&format!("endpoints[{index}].url"), message))
        };
        let model = settings.model.as_deref().unwrap_or(spec.id.as_str());
        Ok(Self {
            endpoints: settings.endpoints.iter().enumerate().map(site).collect::<Result<_, _>>()?,
            turn: AtomicUsize::new(0),
            composer: Composer::new(settings, literal(model)),
            shown_model: (model != spec.id.as_str()).then(|| literal(spec.id.as_str())),
            limits: spec.limits,
        })
    }

    pub(super) async fn call(&self, call: Call<'_>) -> Result<Reply, CallError> {
        let start = Instant::now();
        let end = start + self.limits.total();
        let times = Times {
            connect: self.limits.connect(),
            head: start + self.limits.first_byte(),
            end: call.deadline.map_or(end, |deadline| deadline.min(end)),
        };
        let composed = self.composer.compose(&call)?;
        let (parts, exchange) = self.send(&call, &composed.payload, times).await?;
        let filter = self.filter(&call, &parts, composed.strip_usage)?;
        let live = Live::new(exchange, filter, self.limits.idle(), times.end);
        Ok(Reply {
            status: parts.status,
            headers: shown_headers(&parts.headers),
            body: ReplyBody::live(live),
        })
    }

    /// Sends the request to the least busy endpoint. An endpoint that cannot be reached has not seen the
    /// request, so the others get it; every one is tried once at most.
    async fn send(
        &self,
        call: &Call<'_>,
        payload: &Payload,
        times: Times,
    ) -> Result<(response::Parts, crate::upstream::Exchange), CallError> {
        let mut tried = Vec::new();
        loop {
            let Some(at) = self.choose(&tried) else {
                return Err(CallError::with(ErrorKind::Connect, "the expert has no endpoint"));
            };
            let site = &self.endpoints[at];
            let result = site.peer.send(|version| site.request(call, payload, version), times).await;
            match result {
                Err(error) if error.is_connect() && tried.len() + 1 < self.endpoints.len() => {
                    tracing::warn!(
                        endpoint.url = %site.url,
                        error = %error,
                        "an endpoint cannot be reached, trying another"
                    );
                    tried.push(at);
                }
                other => return other,
            }
        }
    }

    /// The endpoint with the fewest calls in progress for its weight. Those that refused connections a
    /// short time ago come last.
    fn choose(&self, tried: &[usize]) -> Option<usize> {
        if let ([_], []) = (self.endpoints.as_slice(), tried) {
            return Some(0);
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.endpoints.len();
        let order = (0..count).map(|n| (first + n) % count).filter(|at| !tried.contains(at));
        let busy = |at: &usize| {
            let site = &self.endpoints[*at];
            (site.peer.is_resting(), (site.peer.outstanding() + 1) as f64 / site.weight)
        };
        // The first of equals wins.
        order.min_by(|a, b| {
            let ((a_rests, a_load), (b_rests, b_load)) = (busy(a), busy(b));
            a_rests.cmp(&b_rests).then(a_load.total_cmp(&b_load))
        })
    }

    /// What happens to the answer's bytes; an answer of the wrong type is none.
    fn filter(
        &self,
        call: &Call<'_>,
        parts: &response::Parts,
        strip_usage: bool,
    ) -> Result<Filter, CallError> {
        let status = parts.status;
        if status.is_client_error() || status.is_server_error() {
            return Ok(Filter::Pass);
        }
        if !status.is_success() {
            return Err(CallError::with(ErrorKind::UnexpectedStatus, status));
        }
        let kind = parts.headers.get(CONTENT_TYPE).map(|v| v.to_str().unwrap_or_default());
        let wanted = match kind {
            // Taken at its word: it was asked for one thing only.
            None => true,
            Some(kind) => {
                let essence = kind.split(';').next().unwrap_or_default().trim();
                if call.stream {
                    essence.eq_ignore_ascii_case("text/event-stream")
                } else {
                    essence.eq_ignore_ascii_case("application/json") || essence.ends_with("+json")
                }
            }
        };
        if !wanted {
            let expected = if call.stream { "text/event-stream" } else { "application/json" };
            let message = format!("{} instead of {expected}", kind.unwrap_or_default());
            return Err(CallError::with(ErrorKind::BadContentType, message));
        }
        let encoding = parts.headers.get(http::header::CONTENT_ENCODING);
        if encoding.is_some_and(|e| !e.as_bytes().eq_ignore_ascii_case(b"identity")) {
            // It was told not to. Compressed bytes cannot be looked into.
            return Ok(Filter::Pass);
        }
        let editor = Editor::new(self.shown_model.clone());
        Ok(if call.stream {
            Filter::Events(Box::new(EventFilter::new(editor, strip_usage)))
        } else {
            Filter::Document(editor)
        })
    }

    pub(super) fn status(&self) -> Vec<EndpointStatus> {
        let status = |site: &Site| EndpointStatus {
            url: site.url.clone(),
            outstanding: site.peer.outstanding(),
            connect_failures: site.peer.failures(),
            resting: site.peer.is_resting(),
        };
        self.endpoints.iter().map(status).collect()
    }
}

impl Site {
    fn new(endpoint: &Endpoint, template: &HeaderMap, http2: bool, client: &Client) -> Result<Self, String> {
        let base = Base::parse(&endpoint.url)?;
        let target = |operation: Operation| -> Result<(Uri, Uri), String> {
            let path = format!("{}{}", base.path, operation.path());
            let whole = format!("{}://{}{path}", base.scheme, base.authority);
            let parse = |text: &str| Uri::try_from(text).map_err(|e| e.to_string());
            Ok((parse(&path)?, parse(&whole)?))
        };
        let [chat, completions, embeddings] = Operation::ALL;
        Ok(Self {
            url: endpoint.url.clone(),
            weight: f64::from(endpoint.weight),
            headers: template.clone(),
            host: HeaderValue::try_from(base.authority.as_str()).map_err(|e| e.to_string())?,
            targets: [target(chat)?, target(completions)?, target(embeddings)?],
            peer: client.peer(base.address(http2)?),
        })
    }

    fn request(&self, call: &Call<'_>, payload: &Payload, version: Version) -> Request<Payload> {
        let mut request = Request::new(payload.clone());
        *request.method_mut() = Method::POST;
        *request.version_mut() = version;
        let (path, whole) = &self.targets[call.operation as usize];
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        if version == Version::HTTP_2 {
            *request.uri_mut() = whole.clone();
        } else {
            headers.insert(HOST, self.host.clone());
            *request.uri_mut() = path.clone();
        }
        let headers = request.headers_mut();
        headers.insert(REQUEST_ID, call.request_id.clone());
        for name in &SENT_ON {
            if let Some(value) = call.headers.get(name)
                && !headers.contains_key(name)
            {
                headers.insert(name, value.clone());
            }
        }
        request
    }
}

/// The headers that every request of the expert has.
fn template(settings: &LlmBackend) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::with_capacity(16);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("guildhall/", env!("CARGO_PKG_VERSION"))));
    if let Some(key) = &settings.api_key {
        let mut value =
            HeaderValue::try_from(format!("Bearer {}", key.expose())).map_err(|e| e.to_string())?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    for (name, text) in &settings.headers {
        let name = HeaderName::try_from(name.as_str()).map_err(|e| e.to_string())?;
        let mut value = HeaderValue::try_from(text.expose()).map_err(|e| e.to_string())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// The headers of an answer that clients may see: what describes the body, and what tells a client how to
/// behave. Cookies, the provider's organisation and the upstream's infrastructure stay here.
fn shown_headers(upstream: &HeaderMap) -> HeaderMap {
    // Room for the gateway's own, so that the map does not grow.
    let mut shown = HeaderMap::with_capacity(32);
    for (name, value) in upstream {
        let keep = match name.as_str() {
            "content-type"
            | "content-encoding"
            | "content-language"
            | "retry-after"
            | "retry-after-ms"
            | "x-should-retry"
            | "openai-processing-ms"
            | "openai-version"
            | "openai-model" => true,
            name => name.starts_with("x-ratelimit-"),
        };
        if keep {
            shown.append(name, value.clone());
        }
    }
    shown
}

fn problem(field: &str, message: String) -> Problem {
    Problem { path: format!("backend.{field}"), message }
}
