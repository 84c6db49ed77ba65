//! The one error type of both planes: what went wrong, whose fault it is, and the HTTP answer.
//!
//! The answer is an OpenAI error object with all four keys. [`ErrorKind::answer`] is the only place that
//! maps a kind to a status, a type and a code. The message is for the client; what only the operator may
//! see goes to `internal`, which is logged once where the error is answered and never sent.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The request cannot be answered as it is.
    Client,
    /// The gateway cannot take it now, or failed itself.
    Gateway,
    /// Whoever should have answered did not.
    Upstream,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is described by its row in `answer`")]
pub enum ErrorKind {
    InvalidJson,
    InvalidRequest,
    UnsupportedCapability,
    Unauthorized,
    Forbidden,
    ModelNotFound,
    NotFound,
    UnknownUrl,
    MethodNotAllowed,
    RequestTimeout,
    Conflict,
    ReadOnly,
    PreconditionFailed,
    BodyTooLarge,
    UnsupportedMediaType,
    UnsupportedEncoding,
    Unprocessable,
    RateLimited,
    BudgetExceeded,
    Overloaded,
    NoHealthyBackend,
    RouterNotReady,
    IssuerUnavailable,
    UpstreamFailed,
    UpstreamTimeout,
    DeadlineExceeded,
    Internal,
}

impl ErrorKind {
    /// Status, OpenAI error type, code, and who is to blame.
    pub fn answer(self) -> (StatusCode, &'static str, &'static str, Blame) {
        use Blame::{Client, Gateway, Upstream};
        const REQUEST: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        match self {
            Self::InvalidJson => (StatusCode::BAD_REQUEST, REQUEST, "invalid_json", Client),
            Self::InvalidRequest => (StatusCode::BAD_REQUEST, REQUEST, "invalid_value", Client),
            Self::UnsupportedCapability => {
                (StatusCode::BAD_REQUEST, REQUEST, "unsupported_capability", Client)
            }
            Self::Unauthorized => {
                (StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", Client)
            }
            Self::Forbidden => (StatusCode::FORBIDDEN, "permission_error", "forbidden", Client),
            Self::ModelNotFound => (StatusCode::NOT_FOUND, REQUEST, "model_not_found", Client),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found_error", "not_found", Client),
            Self::UnknownUrl => (StatusCode::NOT_FOUND, REQUEST, "unknown_url", Client),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, REQUEST, "method_not_allowed", Client),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, REQUEST, "request_timeout", Client),
            Self::Conflict => (StatusCode::CONFLICT, REQUEST, "conflict", Client),
            Self::ReadOnly => (StatusCode::CONFLICT, REQUEST, "read_only", Client),
            Self::PreconditionFailed => {
                (StatusCode::PRECONDITION_FAILED, REQUEST, "precondition_failed", Client)
            }
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, REQUEST, "request_too_large", Client),
            Self::UnsupportedMediaType | Self::UnsupportedEncoding => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, REQUEST, "unsupported_media_type", Client)
            }
            Self::Unprocessable => (StatusCode::UNPROCESSABLE_ENTITY, REQUEST, "invalid_value", Client),
            Self::RateLimited => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded", Client)
            }
            Self::BudgetExceeded => {
                (StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", "budget_exceeded", Client)
            }
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, SERVER, "overloaded", Gateway),
            Self::NoHealthyBackend => {
                (StatusCode::SERVICE_UNAVAILABLE, SERVER, "no_healthy_backend", Upstream)
            }
            Self::RouterNotReady => (StatusCode::SERVICE_UNAVAILABLE, SERVER, "router_not_ready", Gateway),
            Self::IssuerUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, SERVER, "issuer_unavailable", Gateway)
            }
            Self::UpstreamFailed => (StatusCode::BAD_GATEWAY, SERVER, "upstream_failed", Upstream),
            Self::UpstreamTimeout => (StatusCode::GATEWAY_TIMEOUT, SERVER, "upstream_timeout", Upstream),
            Self::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, SERVER, "deadline_exceeded", Gateway),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, SERVER, "internal_error", Gateway),
        }
    }
}

/// An error on its way to a client.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What went wrong.
    pub kind: ErrorKind,
    /// For the client: what is wrong and what would be right.
    pub message: Cow<'static, str>,
    /// The JSON path of the field that is to blame.
    pub param: Option<String>,
    /// Seconds after which another try makes sense; sent as `Retry-After`.
    pub retry_after: Option<u32>,
    /// Whether the same request will fail the same way, so that clients should not try it again by
    /// themselves; sent as `x-should-retry: false`.
    pub pointless: bool,
    /// For the log only.
    pub internal: Option<String>,
}

impl ApiError {
    /// An error with a message for the client.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        let retry_after = match kind {
            ErrorKind::Overloaded
            | ErrorKind::NoHealthyBackend
            | ErrorKind::RouterNotReady
            | ErrorKind::IssuerUnavailable => Some(1),
            _ => None,
        };
        let pointless = kind == ErrorKind::BudgetExceeded;
        Self { kind, message: message.into(), param: None, retry_after, pointless, internal: None }
    }

    /// A failure of our own: the client learns that it happened, the log learns what.
    pub fn internal(detail: impl std::fmt::Display) -> Self {
        let message = "the gateway failed to handle this request; its log names the reason";
        Self { internal: Some(detail.to_string()), ..Self::new(ErrorKind::Internal, message) }
    }

    /// Names the field that is to blame.
    #[must_use]
    pub fn with_param(mut self, path: impl Into<String>) -> Self {
        self.param = Some(path.into()).filter(|p| !p.is_empty());
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.kind.answer().0
    }

    /// For programs: which error.
    pub fn code(&self) -> &'static str {
        self.kind.answer().2
    }

    /// The JSON body.
    pub fn body(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Envelope<'a> {
            error: Object<'a>,
        }
        #[derive(Serialize)]
        struct Object<'a> {
            message: &'a str,
            r#type: &'a str,
            param: Option<&'a str>,
            code: Option<&'a str>,
        }
        let (_, kind, code, _) = self.kind.answer();
        let error =
            Object { message: &self.message, r#type: kind, param: self.param.as_deref(), code: Some(code) };
        serde_json::to_vec(&Envelope { error }).unwrap_or_default()
    }
}

/// A wait as `Retry-After` has it: in whole seconds, one at least, rounded up, so that who comes back then is
/// not early.
pub(crate) fn whole_seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u32::MAX).max(1)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Some(detail) = &self.internal {
            tracing::error!(error = %detail, code = self.kind.answer().2, "request failed");
        }
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.pointless {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        match self.kind {
            ErrorKind::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // What would have been accepted (RFC 9110 section 15.5.16).
            ErrorKind::UnsupportedEncoding => {
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_all_four_keys() {
        let error = ApiError::new(ErrorKind::InvalidRequest, "must be an array").with_param("messages");
        let body = String::from_utf8(error.body()).unwrap();
        assert_eq!(
            body,
            r#"{"error":{"message":"must be an array","type":"invalid_request_error","param":"messages","code":"invalid_value"}}"#
        );
        let body = String::from_utf8(ApiError::internal("secret detail").body()).unwrap();
        assert!(body.contains(r#""param":null"#) && !body.contains("secret detail"));
    }

    #[test]
    fn a_wait_is_told_in_seconds_that_suffice_and_no_more() {
        for (wait, seconds) in [
            (Duration::ZERO, 1),
            (Duration::from_millis(1), 1),
            (Duration::from_mins(1), 60),
            (Duration::from_nanos(60_000_000_001), 61),
            (Duration::from_millis(61_993), 62),
            (Duration::MAX, u32::MAX),
        ] {
            assert_eq!(whole_seconds(wait), seconds, "{wait:?}");
        }
    }

    #[test]
    fn overload_says_when_to_come_back() {
        let response = ApiError::new(ErrorKind::Overloaded, "full").into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
    }
}
