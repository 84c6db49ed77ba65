//! Small exchanges with servers that are no experts: issuers of tokens, collectors of traces.

use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use experts::{CallErrorKind, Client, Fetch, Trust};
use http::uri::Scheme;
use http::{Request, Response, Uri};

/// What an exchange may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Time from the call to the last byte of the answer.
    pub timeout: Duration,
    /// Bytes of the answer's body.
    pub max_body_bytes: usize,
}

/// Why there is no answer. The texts are for logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// The answer is longer than it may be.
    #[error("the answer is too long")]
    TooLong,
    /// The exchange failed.
    #[error("{0}")]
    Failed(String),
}

/// The future of an exchange.
pub type Exchanged<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, OutboundError>> + Send + 'a>>;

/// Sends a request and reads the whole answer, within bounds. Redirects are not followed.
pub trait Outbound: Send + Sync + 'static {
    /// One exchange. Any status is an answer.
    fn exchange(&self, request: Request<Bytes>, bounds: Bounds) -> Exchanged<'_>;
}

/// The client of experts, for addresses that the operator configured.
impl Outbound for Client {
    fn exchange(&self, request: Request<Bytes>, bounds: Bounds) -> Exchanged<'_> {
        let (parts, body) = request.into_parts();
        let fetch = Fetch {
            method: parts.method,
            url: parts.uri.to_string(),
            headers: parts.headers,
            body,
            timeout: bounds.timeout,
            max_bytes: bounds.max_body_bytes,
            trust: Trust::Operator,
        };
        Box::pin(async move {
            let fetched = self.fetch(fetch).await.map_err(|error| match error.kind() {
                CallErrorKind::Timeout(_) => OutboundError::Timeout,
                CallErrorKind::TooLarge => OutboundError::TooLong,
                _ => OutboundError::Failed(error.detail().unwrap_or(error.message()).to_owned()),
            })?;
            let mut response = Response::new(fetched.body);
            *response.status_mut() = fetched.status;
            *response.headers_mut() = fetched.headers;
            Ok(response)
        })
    }
}

/// Whether what is read from an address can be trusted: over TLS, or from this machine.
pub fn is_trusted(uri: &Uri) -> bool {
    let Some(host) = uri.host() else { return false };
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let own = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
    uri.scheme() == Some(&Scheme::HTTPS) || (uri.scheme() == Some(&Scheme::HTTP) && own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_trusted_on_this_machine_only() {
        let trusted = |text: &str| text.parse().is_ok_and(|uri| is_trusted(&uri));
        for good in ["https://a.example/x", "http://127.0.0.1:9/x", "http://[::1]/x", "http://localhost:1/"] {
            assert!(trusted(good), "{good}");
        }
        for bad in ["http://a.example/x", "http://127.0.0.1.example/", "ftp://localhost/", "/x", "localhost"]
        {
            assert!(!trusted(bad), "{bad}");
        }
    }
}
