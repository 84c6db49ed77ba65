//! Who may use the admin API: whoever shows the token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::app::App;
use crate::error::{ApiError, ErrorKind};

/// Lets only those pass who show the token.
pub(super) async fn require(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    match bearer(request.headers()) {
        Some(token) if app.token.matches(token) => Ok(next.run(request).await),
        Some(_) => Err(ApiError::new(ErrorKind::Unauthorized, "this is not the admin token")),
        None => Err(ApiError::new(
            ErrorKind::Unauthorized,
            "the admin API needs `Authorization: Bearer TOKEN`, with the token that the gateway printed at its \
             first start or the one of `admin.token` in its configuration",
        )),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_read_as_rfc_6750_has_it() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, http::HeaderValue::from_static(value));
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(read("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(read("bearer  abc").as_deref(), Some("abc"));
        assert_eq!(read("Basic abc"), None);
        assert_eq!(read("abc"), None);
    }
}
