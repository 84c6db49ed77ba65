use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::header::{HOST, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use tokio::sync::Notify;

use super::settings::{Base, Endpoint, LlmBackend, Protocol};
use crate::call::{Call, Operation};
use crate::resilience::balance;
use crate::upstream::{Address, Client, Identity, Origin, Payload, Peer, Trust};
use crate::vitals::Vitals;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Whether upstreams get a header of clients: tracing, idempotency, and wishes about latency that inference
/// gateways understand.
fn is_sent_on(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "traceparent"
            | "tracestate"
            | "idempotency-key"
            | "openai-beta"
            | "x-slo-ttft-ms"
            | "x-slo-tpot-ms"
            | "x-gateway-inference-objective"
            | "x-gateway-inference-fairness-id"
    )
}

/// What upstreams that speak Messages get besides: features that a client turns on.
const BETA: &str = "anthropic-beta";

/// A configured endpoint with everything about it that does not change from request to request.
pub(super) struct Server {
    pub(super) url: String,
    pub(super) weight: f64,
    /// How often its addresses are looked up, where each is a site of its own.
    pub(super) refresh: Option<Duration>,
    /// Asks for a look at once.
    pub(super) look: Notify,
    pub(super) origin: Origin,
    http2: bool,
    protocol: Protocol,
    trust: Trust,
    /// Who calls; changes when its files do.
    identity: ArcSwapOption<Identity>,
    headers: HeaderMap,
    host: HeaderValue,
    /// By operation: the path alone, for HTTP/1, and the whole URL, for HTTP/2.
    targets: [(Uri, Uri); Operation::ALL.len()],
    /// What active checks ask for.
    health: Option<(Uri, Uri)>,
}

/// A server at an address: what a request is sent to.
pub(super) struct Site {
    pub(super) server: Arc<Server>,
    /// Where it was discovered; `None` where any address of the host will do.
    pub(super) address: Option<IpAddr>,
    pub(super) peer: Arc<Peer>,
    pub(super) vitals: Arc<Vitals>,
    /// For rendezvous hashing.
    pub(super) key: u64,
}

impl Server {
    pub(super) fn new(
        endpoint: &Endpoint,
        settings: &LlmBackend,
        template: &HeaderMap,
        trust: Trust,
        identity: Option<Arc<Identity>>,
    ) -> Result<Self, String> {
        let base = Base::parse(&endpoint.url)?;
        let [chat, completions, embeddings] = Operation::ALL;
        let target = |operation: Operation| match (settings.protocol, operation) {
            (Protocol::Messages, Operation::ChatCompletions) => base.target("/messages"),
            _ => base.target(operation.path()),
        };
        let health = settings.health.as_ref().map(|h| base.target(&h.path)).transpose()?;
        Ok(Self {
            url: endpoint.url.clone(),
            weight: f64::from(endpoint.weight),
            refresh: endpoint.discover.map(|_| Duration::from_millis(endpoint.refresh_ms)),
            look: Notify::new(),
            http2: settings.http2,
            protocol: settings.protocol,
            trust,
            identity: ArcSwapOption::new(identity),
            headers: template.clone(),
            host: HeaderValue::try_from(base.origin.authority.as_str()).map_err(|e| e.to_string())?,
            targets: [target(chat)?, target(completions)?, target(embeddings)?],
            health,
            origin: base.origin,
        })
    }

    pub(super) fn is_discovered(&self) -> bool {
        self.refresh.is_some()
    }

    /// A request's frame for a version of HTTP.
    fn frame(&self, (path, whole): &(Uri, Uri), version: Version, payload: Payload) -> Request<Payload> {
        let mut request = Request::new(payload);
        *request.version_mut() = version;
        *request.headers_mut() = self.headers.clone();
        if version == Version::HTTP_2 {
            *request.uri_mut() = whole.clone();
        } else {
            request.headers_mut().insert(HOST, self.host.clone());
            *request.uri_mut() = path.clone();
        }
        request
    }

    pub(super) fn request(&self, call: &Call<'_>, payload: &Payload, version: Version) -> Request<Payload> {
        let target = &self.targets[call.operation as usize];
        let mut request = self.frame(target, version, payload.clone());
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        headers.insert(REQUEST_ID, call.request_id.clone());
        // Few requests have any of them: their names are compared where they stand, and not looked up.
        for (name, value) in call.headers {
            let sent_on = is_sent_on(name) || (name.as_str() == BETA && self.protocol == Protocol::Messages);
            if sent_on && !headers.contains_key(name) {
                headers.insert(name, value.clone());
            }
        }
        request
    }

    /// What an active check sends.
    pub(super) fn health_request(&self, version: Version) -> Option<Request<Payload>> {
        Some(self.get(self.health.as_ref()?, version))
    }

    /// A request without a body.
    pub(super) fn get(&self, target: &(Uri, Uri), version: Version) -> Request<Payload> {
        let mut request = self.frame(target, version, Payload::default());
        request.headers_mut().remove(http::header::CONTENT_TYPE);
        request
    }

    /// Who calls, where the expert has files for that.
    pub(super) fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.load_full()
    }

    /// From now on, who calls is this. Sites that exist go on as they are.
    pub(super) fn set_identity(&self, identity: Arc<Identity>) {
        self.identity.store(Some(identity));
    }

    /// Where to connect to: to one of its host's addresses, or to any of them.
    pub(super) fn address(&self, at: Option<IpAddr>) -> Result<Address, String> {
        self.origin.address(at, self.http2, self.trust, self.identity.load_full())
    }
}

impl Site {
    /// The same site, called by who calls its server now; `None` while that is who has called all along. What
    /// is known of the site stays. Connections of before are closed when the last call on them has ended.
    pub(super) fn renewed(&self, client: &Client) -> Option<Self> {
        if self.peer.identity() == self.server.identity().as_deref() {
            return None;
        }
        Some(Self {
            server: self.server.clone(),
            address: self.address,
            peer: client.peer(self.server.address(self.address).ok()?),
            vitals: self.vitals.clone(),
            key: self.key,
        })
    }

    pub(super) fn new(
        server: &Arc<Server>,
        address: Option<IpAddr>,
        client: &Client,
        vitals: impl FnOnce(Arc<str>) -> Vitals,
    ) -> Result<Self, String> {
        let to = server.address(address)?;
        let name: Arc<str> = match address {
            Some(ip) => format!("{} ({ip})", server.url).into(),
            None => server.url.as_str().into(),
        };
        let key = balance::key(&name);
        Ok(Self {
            server: server.clone(),
            address,
            peer: client.peer(to),
            vitals: Arc::new(vitals(name)),
            key,
        })
    }
}
