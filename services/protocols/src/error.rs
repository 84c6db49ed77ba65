use std::borrow::Cow;
use std::fmt::Write;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json;

/// A request that cannot be translated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{message}", .path, if .path.is_empty() { "" } else { ": " })]
pub struct BadRequest {
    /// The JSON path of the field that is to blame, as in `messages[2].content[0].source`; empty for the body.
    pub path: String,
    /// What is wrong with it, and what would be right.
    pub message: Cow<'static, str>,
    /// Whether the request is a good one nevertheless, and only the other protocol cannot say it.
    pub(crate) unsupported: bool,
}

impl BadRequest {
    pub(crate) fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self { path: String::new(), message: message.into(), unsupported: false }
    }

    /// About the field `key`, which asks for what only experts of the client's own protocol can do.
    pub(crate) fn unsupported(key: &str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { unsupported: true, ..Self::at(key, message) }
    }

    /// About the field `key` of the value that is being read.
    pub(crate) fn at(key: &str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(message).below(key)
    }

    /// Seen from the value that has the present one under `key`.
    #[must_use]
    pub(crate) fn below(mut self, key: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{key}{dot}{}", self.path);
        self
    }

    /// Seen from the array that has the present value at `index`.
    #[must_use]
    pub(crate) fn item(self, index: usize) -> Self {
        self.below(&format!("[{index}]"))
    }
}

/// An expert's answer that is no chat completion.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the expert's answer cannot be translated: {message}")]
pub struct BadAnswer {
    /// What is wrong with it: what the expert said of its failure, or nothing of its content.
    pub message: Cow<'static, str>,
}

impl BadAnswer {
    pub(crate) fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self { message: message.into() }
    }
}

/// What kind of failure an error is, by its status or, inside a stream, by what its object says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Invalid,
    Authentication,
    Billing,
    Permission,
    NotFound,
    TooLarge,
    RateLimit,
    Timeout,
    Overloaded,
    Server,
}

impl Class {
    pub(crate) fn of_status(status: u16) -> Self {
        match status {
            401 => Self::Authentication,
            402 => Self::Billing,
            403 => Self::Permission,
            404 => Self::NotFound,
            408 | 504 => Self::Timeout,
            413 => Self::TooLarge,
            429 => Self::RateLimit,
            503 | 529 => Self::Overloaded,
            400..=499 => Self::Invalid,
            _ => Self::Server,
        }
    }
}

/// A string that says something.
fn text(raw: Option<&RawValue>) -> Option<Cow<'_, str>> {
    raw.and_then(json::text).filter(|text| !text.is_empty())
}

/// An OpenAI error object, or what can be made of something like it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    pub(crate) message: Cow<'static, str>,
}

impl Failure {
    pub(crate) fn server(message: &'static str) -> Self {
        Self { class: Class::Server, message: Cow::Borrowed(message) }
    }

    /// Reads an error object, or the string that some experts send in its place.
    pub(crate) fn read(error: &RawValue, status: Option<u16>) -> Self {
        #[derive(Deserialize)]
        struct Wire<'a> {
            #[serde(borrow)]
            message: Option<&'a RawValue>,
            #[serde(borrow)]
            r#type: Option<&'a RawValue>,
            #[serde(borrow)]
            code: Option<&'a RawValue>,
            #[serde(borrow)]
            param: Option<&'a RawValue>,
        }
        const UNSAID: &str = "the expert failed and did not say why";
        let Ok(wire) = serde_json::from_str::<Wire<'_>>(error.get()) else {
            let message =
                json::text(error).map_or(Cow::Borrowed(UNSAID), |text| Cow::Owned(text.into_owned()));
            return Self { class: status.map_or(Class::Server, Class::of_status), message };
        };
        let (kind, code) = (text(wire.r#type), text(wire.code));
        // vLLM writes the status where OpenAI has a word.
        let number = wire.code.and_then(|raw| raw.get().parse().ok());
        let class = match status.or(number) {
            Some(status) => Class::of_status(status),
            None => Self::class_of_words(kind.as_deref().unwrap_or(""), code.as_deref().unwrap_or("")),
        };
        let mut message = text(wire.message).map_or_else(|| UNSAID.to_owned(), Cow::into_owned);
        if let Some(param) = text(wire.param)
            && !message.contains(&*param)
        {
            // Only here can an Anthropic error say which field it is about.
            let said = std::mem::take(&mut message);
            write!(message, "{param}: {said}").unwrap_or_default();
        }
        Self { class, message: Cow::Owned(message) }
    }

    fn class_of_words(kind: &str, code: &str) -> Class {
        match (kind, code) {
            (_, "rate_limit_exceeded" | "insufficient_quota")
            | ("rate_limit_error" | "rate_limit_exceeded", _) => Class::RateLimit,
            (_, "overloaded" | "no_healthy_backend" | "router_not_ready") | ("overloaded_error", _) => {
                Class::Overloaded
            }
            (_, "upstream_timeout" | "deadline_exceeded" | "request_timeout") | ("timeout_error", _) => {
                Class::Timeout
            }
            (_, "invalid_api_key") | ("authentication_error", _) => Class::Authentication,
            ("permission_error", _) => Class::Permission,
            (_, "model_not_found" | "not_found") | ("not_found_error", _) => Class::NotFound,
            (_, "request_too_large") => Class::TooLarge,
            ("invalid_request_error" | "BadRequestError", _) => Class::Invalid,
            _ => Class::Server,
        }
    }
}
