use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version};
use tokio::time::Instant;

use super::guard::Trust;
use super::origin::Origin;
use super::payload::Payload;
use super::peer::{Peer, Times};
use super::{Client, Exchange, chain};
use crate::error::{CallError, CallErrorKind, Phase};

/// A small request outside of chat traffic: a key set, a health check, an export of traces.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// What to do.
    pub method: Method,
    /// An `http` or `https` URL; may have a query.
    pub url: String,
    /// The headers besides `host`, `user-agent` and what frames the body.
    pub headers: HeaderMap,
    /// The body; empty for none.
    pub body: Bytes,
    /// For everything: name lookup to the last byte.
    pub timeout: Duration,
    /// The largest answer.
    pub max_bytes: usize,
    /// Who named the URL.
    pub trust: Trust,
}

impl Fetch {
    /// A GET of a URL that the operator configured: 10 seconds, 1 MiB.
    pub fn get(url: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            url: url.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            timeout: Duration::from_secs(10),
            max_bytes: 1 << 20,
            trust: Trust::Operator,
        }
    }

    /// A POST, as [`Fetch::get`] otherwise.
    pub fn post(url: impl Into<String>, body: Bytes) -> Self {
        Self { method: Method::POST, body, ..Self::get(url) }
    }
}

/// An answer that was read whole.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Its status, whatever it is. Redirects are not followed.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Client {
    /// Sends one request and reads the answer whole. The guard applies, and nothing is tried again. The
    /// connection is kept only where an expert is served at the same address.
    ///
    /// # Errors
    /// [`CallError`]: of the kind [`CallErrorKind::Request`] when the URL cannot be used.
    pub async fn fetch(&self, fetch: Fetch) -> Result<Fetched, CallError> {
        let wrong = |message: String| CallError::with(CallErrorKind::Request, format!("the URL {message}"));
        let uri: Uri = fetch.url.parse().map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let origin = Origin::of(&uri, "give one such as https://host/path").map_err(wrong)?;
        let peer = self.peer(origin.address(None, false, fetch.trust, None).map_err(wrong)?);
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let mut request = Request::new(Payload::new(&[fetch.body]));
        *request.method_mut() = fetch.method;
        *request.uri_mut() = path.parse().map_err(|_| wrong("has a path that cannot be sent".to_owned()))?;
        *request.headers_mut() = fetch.headers;
        let headers = request.headers_mut();
        let host = HeaderValue::try_from(origin.authority.as_str());
        headers.insert(HOST, host.map_err(|_| wrong("has a host that cannot be sent".to_owned()))?);
        headers
            .insert(USER_AGENT, HeaderValue::from_static(concat!("guildhall/", env!("CARGO_PKG_VERSION"))));
        let request = |version| {
            let mut request = request.clone();
            *request.version_mut() = version;
            request
        };
        exchange(&peer, request, fetch.timeout, fetch.max_bytes).await
    }
}

/// Sends one request to a peer and reads the answer whole.
pub(crate) async fn exchange(
    peer: &Arc<Peer>,
    request: impl Fn(Version) -> Request<Payload>,
    timeout: Duration,
    max_bytes: usize,
) -> Result<Fetched, CallError> {
    let end = Instant::now() + timeout;
    let (parts, exchange) = peer.send(request, Times { connect: timeout, head: end, end }).await?;
    let body = read(exchange, end, max_bytes).await?;
    Ok(Fetched { status: parts.status, headers: parts.headers, body })
}

/// Reads a body whole.
async fn read(mut exchange: Exchange, end: Instant, max_bytes: usize) -> Result<Bytes, CallError> {
    let large = || CallError::with(CallErrorKind::TooLarge, format!("more than {max_bytes} bytes"));
    if exchange.length().is_some_and(|length| length > max_bytes as u64) {
        return Err(large());
    }
    let mut body = BytesMut::new();
    loop {
        let piece = poll_fn(|cx| match exchange.poll(cx) {
            Poll::Ready(piece) => Poll::Ready(Ok(piece)),
            Poll::Pending => exchange
                .poll_deadline(end, cx)
                .map(|()| Err(CallError::new(CallErrorKind::Timeout(Phase::Total)))),
        });
        match piece.await? {
            Some(Ok(bytes)) if body.len() + bytes.len() > max_bytes => return Err(large()),
            Some(Ok(bytes)) => body.extend_from_slice(&bytes),
            Some(Err(error)) => return Err(CallError::with(CallErrorKind::Reset, chain(&error))),
            None => return Ok(body.freeze()),
        }
    }
}
