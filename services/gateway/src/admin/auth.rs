//! Who may use the admin API: whoever shows a token whose role suffices.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, Method};
use serde_json::json;
use utoipa::openapi::OpenApi;
use utoipa::openapi::extensions::Extensions;

pub(super) use super::token::Actor;
use super::token::Credentials;
use crate::config::Role;
use crate::error::{ApiError, ErrorKind};

/// Where an operation of the `OpenAPI` document says which role it needs.
const REQUIRED_ROLE: &str = "x-required-role";

/// Who may do what.
pub(super) struct Guard {
    credentials: Credentials,
    /// The role that each operation needs, by method and path template.
    roles: HashMap<(Method, String), Role>,
}

impl Guard {
    /// For the operations of a document that [`declare_roles`] has been over.
    pub(super) fn new(credentials: Credentials, document: &mut OpenApi) -> Self {
        let mut roles = HashMap::new();
        each_operation(document, |method, path, extensions| {
            roles.insert((method, path.to_owned()), said(extensions).unwrap_or(Role::Admin));
        });
        Self { credentials, roles }
    }

    /// What nobody described is read by everybody and changed by nobody but admins.
    fn required(&self, method: &Method, path: Option<&str>) -> Role {
        let method = if method == Method::HEAD { Method::GET } else { method.clone() };
        let by_method = usual(&method);
        path.and_then(|path| self.roles.get(&(method, path.to_owned()))).copied().unwrap_or(by_method)
    }
}

/// The role that an operation needs when its handler does not say otherwise.
fn usual(method: &Method) -> Role {
    if method == Method::GET { Role::Viewer } else { Role::Admin }
}

/// Writes down for each operation which role it needs.
pub(super) fn declare_roles(document: &mut OpenApi) {
    each_operation(document, |method, _, extensions| {
        if said(extensions).is_none() {
            extensions.insert(REQUIRED_ROLE.to_owned(), json!(usual(&method)));
        }
    });
}

fn said(extensions: &Extensions) -> Option<Role> {
    extensions.get(REQUIRED_ROLE).and_then(|role| serde_json::from_value(role.clone()).ok())
}

fn each_operation(document: &mut OpenApi, mut visit: impl FnMut(Method, &str, &mut Extensions)) {
    for (path, item) in &mut document.paths.paths {
        let operations = [
            (Method::GET, &mut item.get),
            (Method::POST, &mut item.post),
            (Method::PUT, &mut item.put),
            (Method::PATCH, &mut item.patch),
            (Method::DELETE, &mut item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                visit(method, path, operation.extensions.get_or_insert_default());
            }
        }
    }
}

/// Lets only those pass who show a token whose role suffices, and notes who they are.
pub(super) async fn require(
    State(guard): State<Arc<Guard>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let Some(token) = bearer(request.headers()) else {
        return Err(ApiError::new(
            ErrorKind::Unauthorized,
            "the admin API needs `Authorization: Bearer TOKEN`, with the token that the gateway printed at its \
             first start or one of `admin.token` and `admin.tokens` in its configuration",
        ));
    };
    let Some((actor, role)) = guard.credentials.holder(token) else {
        return Err(ApiError::new(ErrorKind::Unauthorized, "this is not an admin token"));
    };
    let path = request.extensions().get::<MatchedPath>();
    let required = guard.required(request.method(), path.map(MatchedPath::as_str));
    if role < required {
        let message = format!(
            "this needs the role `{}`; the token of `{}` has the role `{}`",
            required.name(),
            actor.name(),
            role.name()
        );
        return Err(ApiError::new(ErrorKind::Forbidden, message));
    }
    let actor = actor.clone();
    request.extensions_mut().insert(actor);
    Ok(next.run(request).await)
}

impl<S: Sync> FromRequestParts<S> for Actor {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let actor = parts.extensions.get::<Self>().cloned();
        actor.ok_or_else(|| ApiError::internal("a request came to a handler past the check of its token"))
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
