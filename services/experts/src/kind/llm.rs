mod check;
mod compose;
mod discover;
mod look;
mod rotate;
mod settings;
mod site;
mod translated;
mod tries;

pub use check::HealthCheck;
pub use discover::Discovery;
pub use look::{Listing, Look};
pub use settings::{Endpoint, LlmBackend, Protocol};

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderName, USER_AGENT};
use http::{HeaderMap, HeaderValue, response};
use protocols::Stamp;
use routing::ExpertId;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Chore, literal};
use crate::body::{Live, ReplyBody, Sizes};
use crate::call::{Call, Reply, Timeouts};
use crate::error::{CallError, CallErrorKind as ErrorKind};
use crate::resilience::budget::Bucket;
use crate::resilience::hedge::Hedging;
use crate::resilience::{Balancing, BreakerSettings, BreakerState, Retries};
use crate::spec::{ExpertSpec, Limits, Problem};
use crate::splice::{Editor, EventFilter, Filter, Recast};
use crate::upstream::{Client, Identity, TlsFiles, Trust};
use crate::vitals::{Standing, Vitals};
use compose::{Composer, Wanted};
use site::{Server, Site};
use tries::Ask;

/// Requests that an endpoint is taken to work on at a time, for the load of an expert that has no limit.
const USUAL_CAPACITY: usize = 8;

/// An upstream's endpoint, as the admin API shows its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct EndpointStatus {
    /// Its base URL.
    pub url: String,
    /// Its address, where that was discovered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Calls in progress at its host, from all experts that it serves.
    pub outstanding: usize,
    /// Connections that failed since one succeeded.
    pub connect_failures: u32,
    /// Whether it is left alone for a while: because of failed connections, or because it asked for that.
    pub resting: bool,
    /// Its circuit breaker.
    pub breaker: BreakerState,
    /// How often the breaker has opened.
    pub openings: u64,
    /// Whether it gets no requests because it fails. One that fails and is not ejected, because too many
    /// others are, is called after all others.
    pub ejected: bool,
    /// What active checks say; null without them.
    #[schema(required)]
    pub healthy: Option<bool>,
    /// The recent time to its first byte, in microseconds, as balancing sees it: it follows a rise at once,
    /// and fades while nothing is asked; null when not known.
    #[schema(required)]
    pub latency_us: Option<u64>,
}

/// What an expert's calls met since it was set up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Stats {
    /// Requests that were sent again.
    pub retries: u64,
    /// Retries that the budget refused.
    pub retries_refused: u64,
    /// Requests that were sent a second time beside the first.
    pub hedges: u64,
    /// Hedges that the budget refused.
    pub hedges_refused: u64,
    /// Hedges that answered first.
    pub hedges_won: u64,
}

#[derive(Debug, Default)]
struct Counters {
    retries: AtomicU64,
    retries_refused: AtomicU64,
    hedges: AtomicU64,
    hedges_refused: AtomicU64,
    hedges_won: AtomicU64,
}

pub(crate) struct Llm {
    id: ExpertId,
    client: Client,
    /// As configured.
    servers: Vec<Arc<Server>>,
    /// What they are found to be: one for each server, or for each of its addresses.
    sites: ArcSwap<Vec<Arc<Site>>>,
    composer: Composer,
    /// The expert's id as a JSON string, when the upstream calls the model something else.
    shown_model: Option<Bytes>,
    limits: Limits,
    balancing: Balancing,
    retries: Retries,
    breaker: BreakerSettings,
    health: Option<HealthCheck>,
    tls: Option<TlsFiles>,
    /// What retries may cost.
    allowance: Mutex<Bucket>,
    hedging: Option<Mutex<Hedging>>,
    counters: Counters,
}

/// What goes on beside the calls: looking addresses up, asking endpoints whether they work, reading TLS files
/// again.
pub(super) fn chores(llm: &Arc<Llm>, stop: &CancellationToken) -> Vec<Chore> {
    let mut chores: Vec<Chore> = Vec::new();
    for (at, server) in llm.servers.iter().enumerate() {
        if server.is_discovered() {
            chores.push(Box::pin(discover::run(Arc::downgrade(llm), at, stop.clone())));
        }
    }
    if let Some(files) = &llm.tls {
        chores.push(Box::pin(rotate::run(Arc::downgrade(llm), files.clone(), stop.clone())));
    }
    if let Some(settings) = &llm.health {
        chores.push(Box::pin(check::run(Arc::downgrade(llm), settings.clone(), stop.clone())));
    }
    chores
}

impl Llm {
    pub(super) fn new(
        settings: &LlmBackend,
        spec: &ExpertSpec,
        trust: Trust,
        client: &Client,
    ) -> Result<Self, Problem> {
        if let Some(refused) = spec.refused(client.guard(), trust).into_iter().next() {
            return Err(refused);
        }
        let template = template(settings).map_err(|message| problem("headers", message))?;
        let identity = identity(settings, client)?;
        let server = |(index, endpoint): (usize, &Endpoint)| {
            let server = Server::new(endpoint, settings, &template, trust, identity.clone());
            server.map(Arc::new).map_err(|message| problem(&format!("endpoints[{index}].url"), message))
        };
        let servers: Vec<_> = settings.endpoints.iter().enumerate().map(server).collect::<Result<_, _>>()?;
        let model = settings.model.as_deref().unwrap_or(spec.id.as_str());
        let now = Instant::now();
        let llm = Self {
            id: spec.id.clone(),
            client: client.clone(),
            servers,
            sites: ArcSwap::default(),
            composer: Composer::new(settings, model, &spec.id),
            shown_model: (model != spec.id.as_str()).then(|| literal(spec.id.as_str())),
            limits: spec.limits,
            balancing: settings.balancing,
            retries: settings.retries.clone(),
            breaker: settings.breaker.clone(),
            health: settings.health.clone(),
            tls: settings.tls.clone(),
            allowance: Mutex::new(settings.retries.budget.bucket(now)),
            hedging: settings.hedge.clone().map(|hedge| Mutex::new(Hedging::new(hedge, now))),
            counters: Counters::default(),
        };
        let sites: Result<Vec<_>, String> = llm.servers.iter().map(|s| llm.site(s, None)).collect();
        llm.sites.store(Arc::new(sites.map_err(|message| problem("endpoints", message))?));
        Ok(llm)
    }

    /// A site of a server that is nowhere known yet.
    fn site(&self, server: &Arc<Server>, address: Option<std::net::IpAddr>) -> Result<Arc<Site>, String> {
        let vitals = |name| Vitals::new(self.id.clone(), name, &self.breaker, self.client.board().clone());
        Site::new(server, address, &self.client, vitals).map(Arc::new)
    }

    /// Whether it takes a client's own Messages request.
    pub(super) fn speaks_messages(&self) -> bool {
        self.composer.speaks_messages()
    }

    pub(super) async fn call(&self, call: Call<'_>) -> Result<Reply, CallError> {
        let start = Instant::now();
        let composed = self.composer.compose(&call)?;
        let own = self.limits;
        let asked = |limit: Duration, wish: Option<Duration>| wish.map_or(limit, |wish| wish.min(limit));
        let Timeouts { connect, first_byte, idle, total } = call.timeouts;
        let end = start + asked(own.total(), total);
        let ask = Ask {
            call: &call,
            composed: &composed,
            connect: asked(own.connect(), connect),
            first_byte: asked(own.first_byte(), first_byte),
            start,
            end: call.deadline.map_or(end, |deadline| deadline.min(end)),
        };
        let answer = self.send(&ask).await?;
        let sizes = Sizes {
            body: if call.stream { u64::MAX } else { own.max_response_bytes },
            event: own.max_event_bytes,
        };
        let live =
            Live::new(answer.exchange, answer.filter, asked(own.idle(), idle), ask.end, sizes, answer.ticket);
        let reply = Reply {
            status: answer.parts.status,
            headers: shown_headers(&answer.parts.headers),
            body: ReplyBody::live(live, answer.at),
            tries: answer.tries,
            is_message: matches!(composed.wanted, Wanted::Message),
            lossy: composed.lossy,
        };
        match composed.wanted {
            Wanted::Translation(echo) => {
                let stamp = self.stamp(&call);
                Box::pin(translated::chat(reply, call.stream, &echo, &stamp)).await
            }
            Wanted::Chat { .. } | Wanted::Message => Ok(reply),
        }
    }

    /// What an answer is known by whose expert does not say.
    fn stamp(&self, call: &Call<'_>) -> Stamp {
        let id = format!("chatcmpl-{}", call.request_id.to_str().unwrap_or("0"));
        Stamp { id, created: self.client.now() }
    }

    /// What happens to the answer's bytes; an answer of the wrong type is none.
    fn filter(&self, call: &Call<'_>, parts: &response::Parts, wanted: &Wanted) -> Result<Filter, CallError> {
        let status = parts.status;
        if status.is_client_error() || status.is_server_error() {
            return Ok(Filter::Pass);
        }
        if !status.is_success() {
            return Err(CallError::with(ErrorKind::UnexpectedStatus, status));
        }
        let kind = parts.headers.get(CONTENT_TYPE).map(|v| v.to_str().unwrap_or_default());
        let is_it = match kind {
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
        if !is_it {
            let expected = if call.stream { "text/event-stream" } else { "application/json" };
            let message = format!("{} instead of {expected}", kind.unwrap_or_default());
            return Err(CallError::with(ErrorKind::BadContentType, message));
        }
        let encoding = parts.headers.get(http::header::CONTENT_ENCODING);
        if encoding.is_some_and(|e| !e.as_bytes().eq_ignore_ascii_case(b"identity")) {
            // It was told not to. Compressed bytes cannot be looked into.
            return Ok(Filter::Pass);
        }
        let length = parts.headers.get(http::header::CONTENT_LENGTH);
        let length = length.and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
        if !call.stream && length.is_some_and(|length| length > self.limits.max_response_bytes) {
            let message = format!("more than {} bytes", self.limits.max_response_bytes);
            return Err(CallError::with(ErrorKind::TooLarge, message));
        }
        let limits = || protocols::Limits {
            event: usize::try_from(self.limits.max_event_bytes).unwrap_or(usize::MAX),
            ..protocols::Limits::default()
        };
        let editor = || Editor::new(self.shown_model.clone());
        Ok(match (wanted, call.stream) {
            (Wanted::Chat { strip_usage }, true) => {
                Filter::Events(Box::new(EventFilter::new(editor(), *strip_usage)))
            }
            (Wanted::Chat { .. } | Wanted::Message, false) => Filter::Document(editor()),
            // It is read whole before it is translated.
            (Wanted::Translation(_), false) => Filter::Pass,
            (Wanted::Translation(echo), true) => {
                Filter::Recast(Box::new(Recast::chat((**echo).clone(), self.stamp(call), limits())))
            }
            (Wanted::Message, true) => {
                let model = self.shown_model.is_some().then(|| self.id.to_string());
                Filter::Recast(Box::new(Recast::relay(model, limits())))
            }
        })
    }

    pub(super) fn status(&self) -> Vec<EndpointStatus> {
        let now = Instant::now();
        let now_ms = self.client.board().ms(now);
        let sites = self.sites.load_full();
        let status = |site: &Arc<Site>| EndpointStatus {
            url: site.server.url.clone(),
            address: site.address.map(|ip| ip.to_string()),
            outstanding: site.peer.outstanding(),
            connect_failures: site.peer.failures(),
            resting: site.peer.is_resting()
                || matches!(site.vitals.standing(now_ms), Standing::Resting { .. }),
            breaker: site.vitals.breaker(now),
            openings: site.vitals.openings(),
            ejected: self.is_ejected(&sites, site, now_ms),
            healthy: self.health.as_ref().map(|_| !site.vitals.is_sick()),
            latency_us: site.vitals.latency(now_ms).map(|seconds| (seconds * 1e6) as u64),
        };
        sites.iter().map(status).collect()
    }

    /// Load and latency over the endpoints that work.
    pub(super) fn live(&self, now: Instant, capacity: Option<u32>) -> routing::Live {
        let now_ms = self.client.board().ms(now);
        let sites = self.sites.load();
        let outstanding: usize = sites.iter().map(|site| site.peer.outstanding()).sum();
        let capacity = capacity.map_or(sites.len().max(1) * USUAL_CAPACITY, |c| c.max(1) as usize);
        let well = sites.iter().filter(|site| site.vitals.standing(now_ms) == Standing::Well);
        let latency = well.filter_map(|site| site.vitals.latency(now_ms)).reduce(f64::min);
        routing::Live {
            load: outstanding as f32 / capacity as f32,
            latency_ms: latency.map(|seconds| (seconds * 1e3) as f32),
            ..routing::Live::default()
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            retries: read(&self.counters.retries),
            retries_refused: read(&self.counters.retries_refused),
            hedges: read(&self.counters.hedges),
            hedges_refused: read(&self.counters.hedges_refused),
            hedges_won: read(&self.counters.hedges_won),
        }
    }

    /// Whether any endpoint works, as far as is known, or is worth a try. A short rest is waited out and
    /// does not count.
    pub(super) fn is_available(&self, now: Instant) -> bool {
        let soon = self.client.board().ms(now + self.retries.backoff.longest());
        let now_ms = self.client.board().ms(now);
        self.sites.load().iter().any(|site| match site.vitals.standing(now_ms) {
            Standing::Well => true,
            Standing::Resting { until_ms } => until_ms <= soon,
            Standing::Out { .. } => false,
        })
    }

    pub(super) fn due_ms(&self, now: Instant) -> Option<u64> {
        let now_ms = self.client.board().ms(now);
        self.sites.load().iter().filter_map(|site| site.vitals.due_ms(now_ms)).min()
    }

    /// Whether a site that fails gets nothing at all. Those that failed first are, as many as may be.
    fn is_ejected(&self, sites: &[Arc<Site>], site: &Site, now_ms: u64) -> bool {
        let Standing::Out { since_ms } = site.vitals.standing(now_ms) else { return false };
        let mine = (since_ms, site.key);
        let before = sites.iter().filter(|other| match other.vitals.standing(now_ms) {
            Standing::Out { since_ms } => (since_ms, other.key) < mine,
            _ => false,
        });
        before.count() < self.breaker.most_ejected(sites.len())
    }
}

/// Who calls, where the expert has files of its own for that.
fn identity(settings: &LlmBackend, client: &Client) -> Result<Option<Arc<Identity>>, Problem> {
    let read = settings.tls.as_ref().map(|files| client.identity(files).map(Arc::new));
    read.transpose().map_err(|(field, message)| problem(&format!("tls.{field}"), message))
}

/// Where Messages want the key, and the version of the API.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// The headers that every request of the expert has.
fn template(settings: &LlmBackend) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::with_capacity(16);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("guildhall/", env!("CARGO_PKG_VERSION"))));
    let messages = settings.protocol == Protocol::Messages;
    if messages {
        headers.insert(VERSION, HeaderValue::from_static("2023-06-01"));
    }
    if let Some(key) = &settings.api_key {
        let (name, text) = if messages {
            (API_KEY, key.expose().to_owned())
        } else {
            (AUTHORIZATION, format!("Bearer {}", key.expose()))
        };
        let mut value = HeaderValue::try_from(text).map_err(|e| e.to_string())?;
        value.set_sensitive(true);
        headers.insert(name, value);
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
