use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::call::{Tries, Try};

/// Why an expert gave no answer at all. An answer with an error status is a [`crate::Reply`], not this.
#[derive(Debug, thiserror::Error)]
#[error("{}{}", .kind.message(), .detail.as_deref().map(|d| format!(": {d}")).unwrap_or_default())]
pub struct CallError {
    kind: CallErrorKind,
    detail: Option<Box<str>>,
    retry_after: Option<Duration>,
    /// Boxed, because an error is moved more often than it is read.
    tries: Option<Box<Tries>>,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallErrorKind {
    /// The request is not one that the expert can answer.
    Request,
    /// The endpoint's name has no address.
    Dns,
    /// The endpoint's address is one that is never called.
    Forbidden,
    /// No connection could be opened.
    Connect,
    /// The connection could not be secured.
    Tls,
    /// Something took too long.
    Timeout(Phase),
    /// The connection broke before the answer began.
    Reset,
    /// The answer is not HTTP.
    Protocol,
    /// The answer's head is larger than allowed.
    HeadersTooLarge,
    /// The answer is neither JSON nor an event stream, or not the one that was asked for.
    BadContentType,
    /// The answer's status is neither success nor an error. Redirects are among these: none is followed.
    UnexpectedStatus,
    /// The answer is larger than allowed.
    TooLarge,
    /// All endpoints have asked to be left alone for a while.
    Busy,
    /// No endpoint is fit to be called now.
    Unhealthy,
    /// The request asks for what the expert's protocol cannot say.
    Untranslatable,
    /// The answer is not one of the expert's protocol, or it is not whole.
    BadAnswer,
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Opening the connection.
    Connect,
    /// The head of the answer.
    FirstByte,
    /// The next piece of the answer.
    Idle,
    /// The whole request.
    Total,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The client's: the same request fails again.
    Client,
    /// This gateway's or its configuration's.
    Gateway,
    /// The upstream's.
    Upstream,
}

impl CallError {
    pub(crate) fn new(kind: CallErrorKind) -> Self {
        Self { kind, detail: None, retry_after: None, tries: None }
    }

    pub(crate) fn with(kind: CallErrorKind, detail: impl std::fmt::Display) -> Self {
        Self { detail: Some(detail.to_string().into()), ..Self::new(kind) }
    }

    /// Names the endpoint that failed.
    pub(crate) fn at(mut self, endpoint: &str) -> Self {
        let detail = match self.detail {
            Some(detail) => format!("{endpoint}: {detail}"),
            None => endpoint.to_owned(),
        };
        self.detail = Some(detail.into());
        self
    }

    pub(crate) fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    pub(crate) fn having_tried(mut self, tries: Tries) -> Self {
        self.tries = Some(Box::new(tries));
        self
    }

    /// When the expert may be called again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The tries that were made, in order.
    pub fn tries(&self) -> impl Iterator<Item = &Try> {
        self.tries.iter().flat_map(|tries| tries.iter())
    }

    /// What went wrong.
    pub fn kind(&self) -> CallErrorKind {
        self.kind
    }

    /// What a client may know, as the end of a sentence that begins with the expert's name. For
    /// [`CallErrorKind::Request`] and [`CallErrorKind::Untranslatable`] the detail is about the client's own
    /// request and is part of it.
    pub fn message(&self) -> &str {
        match (&self.detail, self.kind) {
            (Some(detail), CallErrorKind::Request | CallErrorKind::Untranslatable) => detail,
            _ => self.kind.message(),
        }
    }

    /// What only the operator may know: addresses and system errors. Holds no secret and no prompt.
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self.kind {
            CallErrorKind::Request | CallErrorKind::Untranslatable => Blame::Client,
            CallErrorKind::Forbidden => Blame::Gateway,
            _ => Blame::Upstream,
        }
    }

    /// Whether another expert may do better.
    pub fn is_retryable(&self) -> bool {
        !matches!(self.kind, CallErrorKind::Request | CallErrorKind::Timeout(Phase::Total))
    }

    /// Whether no connection was made, so that the request cannot have been seen.
    pub(crate) fn is_connect(&self) -> bool {
        use CallErrorKind::{Connect, Dns, Forbidden, Timeout, Tls};
        matches!(self.kind, Connect | Dns | Forbidden | Tls | Timeout(Phase::Connect))
    }
}

impl CallErrorKind {
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::Request => "cannot answer this kind of request",
            Self::Dns => "cannot be reached: its host name was not found",
            Self::Forbidden => "cannot be reached: its address is not allowed",
            Self::Connect => "cannot be reached: the connection failed",
            Self::Tls => "cannot be reached: the connection could not be secured",
            Self::Timeout(phase) => phase.message(),
            Self::Reset => "closed the connection before it answered",
            Self::Protocol => "gave an answer that is not valid HTTP",
            Self::HeadersTooLarge => "gave an answer whose headers are too large",
            Self::BadContentType => "gave an answer of the wrong content type",
            Self::UnexpectedStatus => "gave an answer with an unexpected status",
            Self::TooLarge => "gave an answer that is larger than allowed",
            Self::Busy => "asked not to be called for a while",
            Self::Unhealthy => "has no endpoint that works at the moment",
            Self::Untranslatable => "speaks a protocol that cannot say this request",
            Self::BadAnswer => "gave an answer that cannot be read",
        }
    }
}

impl Phase {
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::Connect => "cannot be reached: the connection timed out",
            Self::FirstByte => "did not begin to answer in time",
            Self::Idle => "stopped in the middle of its answer",
            Self::Total => "did not finish its answer in time",
        }
    }
}

/// Why an answer's body ended before its end.
///
/// Only answers that are not streamed fail like this, and the connection to the client has to be aborted; a
/// stream ends with an error event instead.
#[derive(Debug, thiserror::Error)]
#[error("the expert's answer was cut: {0}")]
pub struct BodyError(pub(crate) String);

/// An upstream's error body as an OpenAI error object with all four keys.
///
/// Objects of other shapes (`{"detail": ..}`, `{"message": ..}`, `{"error": ".."}`) keep their message; what is
/// not JSON is replaced by a plain statement of the status. Names of the account's organisation are removed.
pub fn normalise_error(status: StatusCode, body: &[u8]) -> Bytes {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let found = match &parsed {
        Some(Value::Object(object)) => match object.get("error") {
            Some(Value::Object(inner)) => Some((text_of(inner), inner)),
            Some(Value::String(text)) => Some((Some(text.clone()), object)),
            _ => Some((text_of(object), object)),
        },
        _ => None,
    };
    let none = Map::new();
    let (message, fields) = found.unwrap_or((None, &none));
    let message = message.unwrap_or_else(|| format!("the expert answered {status}"));
    // Anthropic's types are words that OpenAI has others for.
    let words = match &parsed {
        Some(Value::Object(outer)) if outer.get("type").is_some_and(|kind| kind == "error") => {
            fields.get("type").and_then(Value::as_str).map(protocols::over_messages::error_words)
        }
        _ => None,
    };
    let own = |key: &str| match fields.get(key) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let (kind, code) = match words {
        Some((kind, code)) => (Some(kind.to_owned()), code.map(str::to_owned)),
        None => (own("type"), own("code")),
    };
    let error = json!({
        "message": without_organisation(&message),
        "type": kind.unwrap_or_else(|| type_of(status).to_owned()),
        "param": own("param"),
        "code": code,
    });
    Bytes::from(json!({ "error": error }).to_string())
}

/// The message of an error object, wherever the usual servers put it.
fn text_of(object: &Map<String, Value>) -> Option<String> {
    let value = ["message", "detail", "error_message"].iter().find_map(|key| object.get(*key))?;
    match value {
        Value::String(text) => Some(text.clone()),
        // FastAPI's validation errors: a list of objects with `msg` and `loc`.
        Value::Array(items) => {
            let texts: Vec<&str> = items.iter().filter_map(|i| i.get("msg")?.as_str()).collect();
            (!texts.is_empty()).then(|| texts.join("; "))
        }
        Value::Object(inner) => text_of(inner),
        _ => None,
    }
}

fn type_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        s if s.is_server_error() => "server_error",
        _ => "invalid_request_error",
    }
}

/// Replaces `org-...` and `proj_...` names, which providers like to quote.
fn without_organisation(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some((at, mark)) = ["org-", "proj_"].iter().filter_map(|m| Some((rest.find(m)?, *m))).min() {
        let (before, from) = rest.split_at(at);
        let name = &from[mark.len()..];
        let end = name.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(name.len());
        out.push_str(before);
        out.push_str(mark);
        let inside_word = before.ends_with(|c: char| c.is_ascii_alphanumeric());
        out.push_str(if end >= 8 && !inside_word { "***" } else { &name[..end] });
        rest = &name[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(status: u16, body: &str) -> Value {
        let bytes = normalise_error(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        serde_json::from_slice::<Value>(&bytes).unwrap()["error"].clone()
    }

    #[test]
    fn every_shape_becomes_one_object_with_four_keys() {
        let cases = [
            (
                404,
                r#"{"error":{"message":"no such model","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#,
                json!({"message": "no such model", "type": "invalid_request_error", "param": "model", "code": "model_not_found"}),
            ),
            (
                400,
                r#"{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}"#,
                json!({"message": "too long", "type": "BadRequestError", "param": null, "code": "400"}),
            ),
            (
                503,
                r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#,
                json!({"message": "Loading model", "type": "unavailable_error", "param": null, "code": "503"}),
            ),
            (
                422,
                r#"{"detail":[{"loc":["body"],"msg":"field required","type":"missing"}]}"#,
                json!({"message": "field required", "type": "invalid_request_error", "param": null, "code": null}),
            ),
            (
                500,
                r#"{"error":"out of memory"}"#,
                json!({"message": "out of memory", "type": "server_error", "param": null, "code": null}),
            ),
            (
                529,
                r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}"#,
                json!({"message": "Overloaded", "type": "server_error", "param": null, "code": "overloaded"}),
            ),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: too large"}}"#,
                json!({"message": "max_tokens: too large", "type": "invalid_request_error", "param": null, "code": null}),
            ),
            (
                502,
                "<html>bad gateway at 10.0.0.3</html>",
                json!({"message": "the expert answered 502 Bad Gateway", "type": "server_error", "param": null, "code": null}),
            ),
            (
                429,
                "",
                json!({"message": "the expert answered 429 Too Many Requests", "type": "rate_limit_error", "param": null, "code": null}),
            ),
        ];
        for (status, body, expected) in cases {
            assert_eq!(normalised(status, body), expected, "{body}");
        }
    }

    #[test]
    fn organisations_are_not_told() {
        let body = r#"{"error":{"message":"Rate limit reached in organization org-AbCdEf123456 on proj_abcdefgh1: cyborg-like"}}"#;
        let error = normalised(429, body);
        assert_eq!(error["message"], "Rate limit reached in organization org-*** on proj_***: cyborg-like");
    }
}
