//! One GET on a connection of its own, with everything about the way there that an operator wants to know.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::connect::Host;
use super::exchange::explain;
use super::{Address, Client, Payload};
use crate::error::{CallError, CallErrorKind as Kind, Phase};

/// The largest body that is read; the longest lists of models have some 2 MB.
const MAX_BODY_BYTES: usize = 16 << 20;

/// What was learnt on the way to an answer; filled in as far as it got.
#[derive(Debug, Default)]
pub(crate) struct Way {
    /// What the host's name stands for.
    pub(crate) addresses: Vec<IpAddr>,
    /// When the certificate ends, in seconds since 1970 UTC.
    pub(crate) certificate_ends: Option<u64>,
    /// From the beginning to the head of the answer, or to the failure.
    pub(crate) elapsed: Duration,
}

impl Client {
    /// Opens a connection and sends one request on it: connected to as calls are, but outside the pool, so
    /// that the whole way is seen.
    pub(crate) async fn look(
        &self,
        to: &Address,
        request: impl FnOnce(Version) -> Request<Payload>,
        limit: Duration,
    ) -> (Way, Result<(StatusCode, Bytes), CallError>) {
        let begun = Instant::now();
        let mut way = Way::default();
        let mut head = None;
        let exchange = self.exchange(to, request, &mut way, &mut head, begun + limit);
        let result = match timeout_at(begun + limit, exchange).await {
            Ok(result) => result,
            Err(_) => Err(CallError::new(Kind::Timeout(Phase::FirstByte))),
        };
        way.elapsed = head.unwrap_or_else(Instant::now).duration_since(begun);
        (way, result)
    }

    async fn exchange(
        &self,
        to: &Address,
        request: impl FnOnce(Version) -> Request<Payload>,
        way: &mut Way,
        head: &mut Option<Instant>,
        deadline: Instant,
    ) -> Result<(StatusCode, Bytes), CallError> {
        way.addresses = match &to.host {
            Host::Ip(ip) => vec![*ip],
            Host::Name(name) => {
                self.resolver().resolve(name).await.map_err(|e| CallError::with(Kind::Dns, e))?
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let io = self.shared.connector.connect(to, left).await?;
        way.certificate_ends = io.certificate().and_then(super::certificate::not_after);
        // Ends the connection's task when this returns or is dropped.
        let mut connection = JoinSet::new();
        let answer = if io.is_http2().unwrap_or(to.http2) {
            let handshake = http2::handshake(TokioExecutor::new(), io).await;
            let (mut sender, driver) = handshake.map_err(|e| explain(&e))?;
            connection.spawn(driver);
            sender.send_request(request(Version::HTTP_2)).await
        } else {
            let (mut sender, driver) = http1::Builder::new()
                .max_headers(self.shared.max_headers)
                .max_header_size(self.shared.max_head_bytes as usize)
                .handshake(io)
                .await
                .map_err(|e| explain(&e))?;
            connection.spawn(driver);
            sender.send_request(request(Version::HTTP_11)).await
        };
        let answer = answer.map_err(|e| explain(&e))?;
        *head = Some(Instant::now());
        let status = answer.status();
        Ok((status, read(answer.into_body()).await?))
    }
}

/// The body, as far as it is not too long.
async fn read(mut body: Incoming) -> Result<Bytes, CallError> {
    let mut whole = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|e| explain(&e))?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > MAX_BODY_BYTES {
                break;
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.into())
}
