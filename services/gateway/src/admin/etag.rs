//! Optimistic concurrency: every object has an etag, and a write may say which one it was made for.

use axum::Json;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::header::{ETAG, IF_MATCH, LOCATION};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::{ApiError, ErrorKind};

/// What a write says about the object it was made for: the header `If-Match`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum IfMatch {
    /// Nothing.
    #[default]
    Unsaid,
    /// That it exists.
    Any,
    /// That it has one of these etags.
    OneOf(Vec<String>),
}

impl IfMatch {
    /// Reads the header's value. Weak tags are kept with their mark, so that they match nothing, as RFC 9110
    /// wants it; a tag without quotes is understood.
    fn parse(value: &str) -> Self {
        let tags: Vec<&str> = value.split(',').map(str::trim).filter(|t| !t.is_empty()).collect();
        match tags.as_slice() {
            [] => Self::Unsaid,
            tags if tags.contains(&"*") => Self::Any,
            tags => {
                let bare =
                    |t: &&str| t.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(t).to_owned();
                Self::OneOf(tags.iter().map(bare).collect())
            }
        }
    }

    /// The same, or, when the header said nothing, the etag that came in the body.
    pub(super) fn or_body(self, etag: Option<String>) -> Self {
        match (self, etag) {
            (Self::Unsaid, Some(etag)) => Self::OneOf(vec![etag]),
            (said, _) => said,
        }
    }

    /// Refuses the write when the object is not as the caller believes.
    pub(super) fn check(&self, object: &str, actual: &str) -> Result<(), ApiError> {
        match self {
            Self::OneOf(tags) if !tags.iter().any(|t| t == actual) => Err(ApiError::new(
                ErrorKind::PreconditionFailed,
                format!(
                    "{object} has changed since you read it; read it again and repeat the change (its etag is now {actual})"
                ),
            )),
            _ => Ok(()),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut said = Vec::new();
        for value in parts.headers.get_all(IF_MATCH) {
            let text = value
                .to_str()
                .map_err(|_| ApiError::new(ErrorKind::InvalidRequest, "If-Match must be ASCII"))?;
            said.push(text);
        }
        Ok(Self::parse(&said.join(",")))
    }
}

/// The etag of what has none of its own: a digest of all that is shown of it.
pub(super) fn etag_of(shown: &impl Serialize) -> String {
    let json = serde_json::to_vec(shown).unwrap_or_default();
    Sha256::digest(json).iter().take(8).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

/// An answer that carries its object's etag as a header.
pub(super) struct Tagged<T> {
    pub(super) status: StatusCode,
    pub(super) etag: String,
    pub(super) object: T,
}

impl<T> Tagged<T> {
    /// 200 with the object.
    pub(super) fn ok(etag: impl Into<String>, object: T) -> Self {
        Self { status: StatusCode::OK, etag: etag.into(), object }
    }
}

/// 201 with the object and its address, or 200 when it was not really made.
pub(super) fn created<T: Serialize>(dry_run: bool, place: String, etag: &str, object: T) -> Response {
    let status = if dry_run { StatusCode::OK } else { StatusCode::CREATED };
    let mut response = Tagged { status, etag: etag.to_owned(), object }.into_response();
    if !dry_run && let Ok(value) = HeaderValue::try_from(place) {
        response.headers_mut().insert(LOCATION, value);
    }
    response
}

/// A name as one segment of a path.
pub(crate) fn segment(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.object)).into_response();
        if let Ok(value) = HeaderValue::try_from(format!("\"{}\"", self.etag)) {
            response.headers_mut().insert(ETAG, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_read_as_rfc_9110_has_it() {
        assert_eq!(IfMatch::parse(""), IfMatch::Unsaid);
        assert_eq!(IfMatch::parse(" * "), IfMatch::Any);
        assert_eq!(IfMatch::parse(r#""a", "b""#), IfMatch::OneOf(vec!["a".into(), "b".into()]));
        assert_eq!(IfMatch::parse("a"), IfMatch::OneOf(vec!["a".into()]));
        let weak = IfMatch::parse(r#"W/"a""#);
        assert_eq!(weak.check("expert `x`", "a").unwrap_err().kind, ErrorKind::PreconditionFailed);
    }

    #[test]
    fn a_name_is_one_segment() {
        assert_eq!(segment("Qwen/Qwen2.5:7b é"), "Qwen%2FQwen2.5:7b%20%C3%A9");
    }

    #[test]
    fn only_another_etag_refuses() {
        for said in [IfMatch::Unsaid, IfMatch::Any, IfMatch::OneOf(vec!["z".into(), "a".into()])] {
            assert!(said.check("expert `x`", "a").is_ok());
        }
        let stale = IfMatch::OneOf(vec!["z".into()]).check("expert `x`", "a").unwrap_err();
        assert!(stale.message.contains("etag is now a"));
        assert_eq!(IfMatch::Unsaid.or_body(Some("b".into())), IfMatch::OneOf(vec!["b".into()]));
        assert_eq!(IfMatch::Any.or_body(Some("b".into())), IfMatch::Any);
    }
}
