use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::report::{DriverError, ErrorKind};

/// Most bytes of an answer: lists of models and pages of metrics are far below.
const LONGEST_ANSWER: usize = 4 << 20;

/// How often a server is asked whether it is done.
const POLL: Duration = Duration::from_millis(250);

/// Where a server's control API is.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Its base URL, `http://host:port`, with a path where one stands before all routes. Control APIs can stop a
    /// server and belong on a private network, so there is no TLS here.
    pub url: String,
    /// The key for its `authorization: Bearer` header, where the server wants one. Never written out.
    #[serde(default, skip_serializing)]
    #[schema(value_type = Option<String>)]
    pub api_key: Option<SecretString>,
}

impl PartialEq for Server {
    fn eq(&self, other: &Self) -> bool {
        let key = |server: &Self| server.api_key.as_ref().map(|key| key.expose_secret().to_owned());
        self.url == other.url && key(self) == key(other)
    }
}

/// How connections are opened.
#[derive(Clone)]
pub(crate) enum Network {
    /// With TCP.
    Tcp,
    /// In the process, so that a paused clock does not run ahead of the sockets.
    #[cfg(test)]
    Fake(crate::driver::tests::FakeNetwork),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Network {
    async fn open(&self, authority: &str) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp => {
                let stream = TcpStream::connect(authority).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            #[cfg(test)]
            Self::Fake(network) => Box::new(network.open(authority)?),
        })
    }
}

/// A server that can be asked.
#[derive(Clone)]
pub(crate) struct Endpoint {
    /// For messages.
    url: Arc<str>,
    /// Host and port.
    authority: Arc<str>,
    /// What stands before every path.
    prefix: Arc<str>,
    host: HeaderValue,
    key: Option<HeaderValue>,
    network: Network,
}

/// What a server answered.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    place: String,
}

impl Endpoint {
    pub(crate) fn new(server: &Server, network: &Network) -> Result<Self, DriverError> {
        let wrong = |what: &str| {
            DriverError::unsupported(format!("url {:?}: {what}; write http://host:port", server.url))
        };
        let uri: Uri = server.url.parse().map_err(|_| wrong("is not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("control APIs are called without TLS, on a private network"));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("has no host"))?;
        if uri.query().is_some() {
            return Err(wrong("must not have a query"));
        }
        let key = server.api_key.as_ref().map(|key| {
            let value = HeaderValue::try_from(format!("Bearer {}", key.expose_secret()));
            value.map_err(|_| DriverError::unsupported("api_key: has characters that no header can have"))
        });
        let mut key = key.transpose()?;
        if let Some(key) = &mut key {
            key.set_sensitive(true);
        }
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        Ok(Self {
            url: server.url.as_str().into(),
            host: HeaderValue::try_from(&authority).map_err(|_| wrong("has a bad host"))?,
            authority: authority.into(),
            prefix: uri.path().trim_end_matches('/').into(),
            key,
            network: network.clone(),
        })
    }

    /// Asks without changing anything: a failure leaves all as it was.
    pub(crate) async fn get(&self, path: &str, deadline: Instant) -> Result<Answer, DriverError> {
        self.call(Method::GET, path, None, ErrorKind::Busy, deadline).await
    }

    /// Asks by POST without changing anything.
    pub(crate) async fn query(
        &self,
        path: &str,
        body: &Value,
        deadline: Instant,
    ) -> Result<Answer, DriverError> {
        self.call(Method::POST, path, Some(body), ErrorKind::Busy, deadline).await
    }

    /// Asks for a change: once it was sent, a failure leaves nobody knowing.
    pub(crate) async fn post(
        &self,
        path: &str,
        body: Option<&Value>,
        deadline: Instant,
    ) -> Result<Answer, DriverError> {
        self.call(Method::POST, path, body, ErrorKind::HalfDone, deadline).await
    }

    /// Has an expert that is there compute one token: its first may take long, and shows whether it works.
    pub(crate) async fn one_token(
        &self,
        path: &str,
        body: &Value,
        deadline: Instant,
    ) -> Result<(), DriverError> {
        let answer = self.post(path, Some(body), deadline).await.and_then(Answer::done);
        answer.map(drop).map_err(|error| {
            DriverError::half_done(format!("it is there, and did not compute a token: {error}"))
        })
    }

    /// As [`Self::get`], for a server that changes something at a GET.
    pub(crate) async fn get_to_change(&self, path: &str, deadline: Instant) -> Result<Answer, DriverError> {
        self.call(Method::GET, path, None, ErrorKind::HalfDone, deadline).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        unanswered: ErrorKind,
        deadline: Instant,
    ) -> Result<Answer, DriverError> {
        let place = format!("{method} {}{path}", self.url.trim_end_matches('/'));
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header(HOST, self.host.clone());
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key.clone());
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = request.body(Full::new(body));
        let request = request.map_err(|error| DriverError::refused(format!("{place}: {error}")))?;

        let gone = |error: &dyn std::error::Error| {
            DriverError::new(ErrorKind::Gone, format!("{place}: cannot connect: {error}"))
        };
        let stream = match timeout_at(deadline, self.network.open(&self.authority)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(gone(&error)),
            Err(late) => return Err(gone(&late)),
        };
        let exchange = Box::pin(exchange(stream, request));
        match timeout_at(deadline, exchange).await {
            Ok(Ok((status, body))) => Ok(Answer { status, body, place }),
            Ok(Err(error)) => Err(DriverError::new(unanswered, format!("{place}: {error}"))),
            Err(_) => Err(DriverError::new(unanswered, format!("{place}: no answer before the deadline"))),
        }
    }
}

/// One request on a connection of its own. Dropping this closes it, so that nothing outlives the caller.
async fn exchange(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut answer = pin!(async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await?.to_bytes();
        Ok((status, body))
    });
    // The connection ends before the answer is read where the server closes it; the answer is then in memory.
    tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

impl Answer {
    /// The answer as JSON.
    pub(crate) fn json(&self) -> Result<Value, DriverError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            DriverError::unsupported(format!(
                "{}: the answer is not the documented JSON: {error}",
                self.place
            ))
        })
    }

    /// The answer's list under `key`.
    pub(crate) fn list(&self, key: &str) -> Result<Vec<Value>, DriverError> {
        match self.json()?.get_mut(key).map(Value::take) {
            Some(Value::Array(list)) => Ok(list),
            _ => Err(DriverError::unsupported(format!("{}: the answer has no list {key:?}", self.place))),
        }
    }

    /// An error that says what the server answered.
    pub(crate) fn error(&self, kind: ErrorKind) -> DriverError {
        let text = String::from_utf8_lossy(&self.body);
        let text: String = text.trim().chars().take(300).collect();
        DriverError::new(kind, format!("{}: {} {text}", self.place, self.status.as_u16()))
    }

    /// The answer to a question, where it is one.
    pub(crate) fn told(self) -> Result<Self, DriverError> {
        match self.status {
            status if status.is_success() => Ok(self),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Err(self.error(ErrorKind::Unsupported)),
            status if status.is_client_error() => Err(self.error(ErrorKind::Refused)),
            _ => Err(self.error(ErrorKind::Busy)),
        }
    }

    /// The answer to a demand, where it was met. What a server's own failure left behind, nobody knows.
    pub(crate) fn done(self) -> Result<Self, DriverError> {
        match self.status {
            status if status.is_success() => Ok(self),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Err(self.error(ErrorKind::Busy))
            }
            status if status.is_client_error() => Err(self.error(ErrorKind::Refused)),
            _ => Err(self.error(ErrorKind::HalfDone)),
        }
    }
}

/// Waits until it is worth asking again; an error when the deadline comes first.
pub(crate) async fn pause(deadline: Instant, waiting_for: &str) -> Result<(), DriverError> {
    let next = Instant::now() + POLL;
    sleep_until(next.min(deadline)).await;
    if next >= deadline {
        return Err(DriverError::half_done(format!("the deadline passed before {waiting_for}")));
    }
    Ok(())
}

/// A part of a path, with everything escaped that could end it.
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(HEX[usize::from(byte >> 4)].into());
                out.push(HEX[usize::from(byte & 15)].into());
            }
        }
    }
    out
}
