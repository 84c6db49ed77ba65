//! Reading requests: every refusal is an error object that names the place.

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Path, Query, Request};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{ApiError, ErrorKind};
use crate::problem::{Problem, from_value, with_suggestion};

/// Longest body. An expert takes a few hundred bytes, a whole mapping a few hundred kilobytes.
const MAX_BODY_BYTES: usize = 4 << 20;

/// A JSON object as it came.
pub(super) struct Body(pub(super) Map<String, Value>);

impl Body {
    /// Reads the object as a `T`.
    pub(super) fn read<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        from_value(Value::Object(self.0)).map_err(unprocessable)
    }
}

/// 422 for one problem.
pub(super) fn unprocessable(problem: Problem) -> ApiError {
    ApiError::new(ErrorKind::Unprocessable, problem.to_string()).with_param(problem.path)
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        parse(&collect(request).await?).map(Self)
    }
}

/// `None` for an empty body.
impl<S: Send + Sync> OptionalFromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Option<Self>, ApiError> {
        let bytes = collect(request).await?;
        if bytes.is_empty() { Ok(None) } else { parse(&bytes).map(|fields| Some(Self(fields))) }
    }
}

async fn collect(request: Request) -> Result<Bytes, ApiError> {
    if let Some(given) = request.headers().get(CONTENT_TYPE)
        && !is_json(given.as_bytes())
    {
        let message = "the body must be JSON: send `Content-Type: application/json`";
        return Err(ApiError::new(ErrorKind::UnsupportedMediaType, message));
    }
    axum::body::to_bytes(request.into_body(), MAX_BODY_BYTES).await.map_err(|error| {
        // The source tells the limit from a connection that broke.
        let too_long = std::error::Error::source(&error)
            .is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>);
        if too_long {
            let message = format!("the body is longer than {MAX_BODY_BYTES} bytes");
            ApiError::new(ErrorKind::BodyTooLarge, message)
        } else {
            ApiError::new(ErrorKind::InvalidRequest, "the body could not be read to its end")
        }
    })
}

fn is_json(content_type: &[u8]) -> bool {
    let essence = content_type.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    essence.eq_ignore_ascii_case(b"application/json") || essence.to_ascii_lowercase().ends_with(b"+json")
}

fn parse(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let invalid = |message: String| ApiError::new(ErrorKind::InvalidJson, message);
    if bytes.trim_ascii().is_empty() {
        return Err(invalid("the body is empty; a JSON object is expected".into()));
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => {
            Err(unprocessable(Problem::at("", format!("must be a JSON object, not {}", name(&other)))))
        }
        Err(error) => Err(invalid(format!("the body is not valid JSON: {error}"))),
    }
}

fn name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The query string. Unknown parameters are refused: a misspelt `dry_run` must not change anything.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(QueryRejection::FailedToDeserializeQueryString(error)) => {
                // The source reads "PARAMETER: REASON".
                let detail = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
                let (param, reason) = detail.split_once(": ").unwrap_or(("", &detail));
                let message = format!("query parameter `{param}`: {}", with_suggestion(reason));
                Err(ApiError::new(ErrorKind::InvalidRequest, message).with_param(param))
            }
            Err(error) => Err(ApiError::new(ErrorKind::InvalidRequest, error.body_text())),
        }
    }
}

/// The name in the path, percent-decoded: names may contain slashes, which are sent as `%2F`.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(error) => Err(ApiError::new(ErrorKind::InvalidRequest, error.body_text())),
        }
    }
}

/// Two names in the path, as [`Name`].
pub(super) struct Names(pub(super) String, pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Names {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<(String, String)>::from_request_parts(parts, state).await {
            Ok(Path((first, second))) => Ok(Self(first, second)),
            Err(error) => Err(ApiError::new(ErrorKind::InvalidRequest, error.body_text())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body as HttpBody;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Flags {
        #[serde(default)]
        dry_run: bool,
    }

    async fn body(content_type: Option<&str>, bytes: Vec<u8>) -> Result<Map<String, Value>, ApiError> {
        let mut request = Request::new(HttpBody::from(bytes));
        if let Some(text) = content_type {
            request.headers_mut().insert(CONTENT_TYPE, text.parse().unwrap());
        }
        <Body as FromRequest<()>>::from_request(request, &()).await.map(|b| b.0)
    }

    #[tokio::test]
    async fn a_body_is_an_object_or_an_error_that_says_where() {
        assert!(body(None, b"{}".to_vec()).await.unwrap().is_empty());
        assert!(body(Some("application/merge-patch+json"), b"{}".to_vec()).await.is_ok());
        assert!(body(Some("Application/JSON; charset=utf-8"), b"{}".to_vec()).await.is_ok());
        let error = body(None, b"{\n  \"a\": ,\n}".to_vec()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidJson);
        assert!(error.message.ends_with("at line 2 column 8"), "{error}");
        assert_eq!(body(None, b" ".to_vec()).await.unwrap_err().kind, ErrorKind::InvalidJson);
        assert_eq!(body(None, vec![b'{', 0xff]).await.unwrap_err().kind, ErrorKind::InvalidJson);
        let error = body(None, b"[1]".to_vec()).await.unwrap_err();
        assert_eq!(
            (error.kind, &*error.message),
            (ErrorKind::Unprocessable, "must be a JSON object, not an array")
        );
        let error = body(Some("text/plain"), b"{}".to_vec()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::UnsupportedMediaType);
        let error = body(None, vec![b' '; MAX_BODY_BYTES + 1]).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::BodyTooLarge);
        let deep = "{\"a\":".repeat(1000);
        assert_eq!(body(None, deep.into_bytes()).await.unwrap_err().kind, ErrorKind::InvalidJson);
    }

    #[tokio::test]
    async fn a_misspelt_parameter_is_refused() {
        let flags = async |uri: &str| {
            let (mut parts, ()) = http::Request::get(uri).body(()).unwrap().into_parts();
            Params::<Flags>::from_request_parts(&mut parts, &()).await.map(|p| p.0.dry_run)
        };
        assert!(flags("/x?dry_run=true").await.unwrap());
        assert!(!flags("/x").await.unwrap());
        let error = flags("/x?dryrun=true").await.unwrap_err();
        assert!(error.message.contains("did you mean `dry_run`?"), "{error}");
        assert_eq!(error.param.as_deref(), Some("dryrun"));
        let error = flags("/x?dry_run=maybe").await.unwrap_err();
        assert_eq!((error.kind, error.param.as_deref()), (ErrorKind::InvalidRequest, Some("dry_run")));
    }
}
