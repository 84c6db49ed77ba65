//! Exchanges with the owner of pools.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::OwnerConfig;
use crate::outbound::{Bounds, Outbound, OutboundError};

/// How long a small exchange with the owner may take.
pub(super) const EXCHANGE: Duration = Duration::from_secs(2);
/// Largest answer of the owner.
const ANSWER_BYTES: usize = 8 << 20;

/// How the owner is reached.
pub(super) struct Link {
    outbound: Arc<dyn Outbound>,
    /// Of its API for pools.
    pub(super) base: String,
    bearer: HeaderValue,
    /// This process's own name.
    pub(super) holder: Arc<str>,
}

impl Link {
    /// To the owner that the configuration names.
    ///
    /// # Errors
    /// What is wrong with the token, which cannot be sent.
    pub(super) fn new(
        config: &OwnerConfig,
        outbound: Arc<dyn Outbound>,
        holder: &str,
    ) -> Result<Self, String> {
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", config.token.expose()))
            .map_err(|_| "the token has characters that no header can carry".to_owned())?;
        bearer.set_sensitive(true);
        let base = format!("{}/admin/v1/tiers", config.url.trim_end_matches('/'));
        Ok(Self { outbound, base, bearer, holder: holder.into() })
    }

    /// One exchange; any status is an answer.
    pub(super) async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<Response<Bytes>, OutboundError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/{path}", self.base))
            .header(header::AUTHORIZATION, self.bearer.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| OutboundError::Failed(error.to_string()))?;
        let bounds = Bounds { timeout: patience, max_body_bytes: ANSWER_BYTES };
        self.outbound.exchange(request, bounds).await
    }

    /// Sends something as JSON.
    pub(super) async fn post(
        &self,
        path: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<Response<Bytes>, OutboundError> {
        let body = serde_json::to_vec(body).map_err(|error| OutboundError::Failed(error.to_string()))?;
        self.exchange(Method::POST, path, body.into(), patience).await
    }

    /// Asks for something.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, OutboundError> {
        read(&self.exchange(Method::GET, path, Bytes::new(), EXCHANGE).await?)
    }
}

/// What an answer says.
pub(super) fn read<T: DeserializeOwned>(answer: &Response<Bytes>) -> Result<T, OutboundError> {
    serde_json::from_slice(answer.body()).map_err(|_| unexpected(answer))
}

/// Which error it is.
pub(super) fn code(answer: &Response<Bytes>) -> String {
    let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    body["error"]["code"].as_str().unwrap_or_default().to_owned()
}

/// For the log, what the owner said: mostly that the token or the address is wrong.
pub(super) fn unexpected(answer: &Response<Bytes>) -> OutboundError {
    let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    let message = body["error"]["message"].as_str().unwrap_or("something that was not expected");
    OutboundError::Failed(format!("it answered {}: {message}", answer.status()))
}
