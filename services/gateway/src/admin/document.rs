//! The parts of the `OpenAPI` document that no handler owns.

use crate::config::FileSecret;
use admission::key::SecretView;
use serde::Serialize;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoResponses, Modify, OpenApi, ToSchema};

/// The document's head. The paths and schemas come from the handlers.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Guildhall admin API",
        version = "1",
        description = "Experts, routes, the mapping from categories to experts, router models, keys and teams, while the \
                       gateway runs. \
                       A write is durable and live before it is answered. `dry_run=true` checks a write and \
                       shows what would be. Every object has an `etag`; send it as `If-Match` and a write fails \
                       with 412 when the object has changed meanwhile. Objects with `origin: file` are defined \
                       in the configuration file and read-only here. Names may contain slashes, which are sent \
                       as `%2F` in a path. A token has a role: `viewer` reads everything, `operator` also drains and \
                       probes experts, moves weights, pins and borrows them, checks bundles, reports outcomes and tries prompts, `admin` changes \
                       everything; `x-required-role` of an operation names the one it needs.",
        license(name = "Apache-2.0")
    ),
    tags(
        (name = "experts", description = "What can answer"),
        (name = "routing", description = "Routes, router models, categories and the mapping between categories and experts"),
        (name = "learnt", description = "What was learnt of experts from data: gates, pilots, scorers, and the memory of past prompts"),
        (name = "residency", description = "Where the weights of experts are that share an accelerator, and why"),
        (name = "keys", description = "Who may send requests, and how much"),
        (name = "operation", description = "What was decided and how good it was, what is configured, what was changed")
    ),
    components(schemas(ErrorBody, ErrorObject, FileSecret, SecretView)),
    security(("admin_token" = [])),
    modifiers(&Scheme)
)]
pub(super) struct Document;

struct Scheme;

impl Modify for Scheme {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("admin_token", SecurityScheme::Http(scheme));
    }
}

/// What is answered when something is wrong.
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorBody {
    /// What is wrong.
    error: ErrorObject,
}

/// What is wrong with a request.
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorObject {
    /// For people: what is wrong and what would be right.
    message: String,
    /// A class of errors.
    r#type: String,
    /// The JSON path of the value that is to blame, such as `backend.endpoints[0].url`.
    param: Option<String>,
    /// For programs: which error.
    code: Option<String>,
}

/// Errors that any call may answer.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only described in the document")]
pub(super) enum Refused {
    /// The body is not JSON, or a parameter is not known.
    #[response(status = 400)]
    Malformed(#[to_schema] ErrorBody),
    /// The token is missing or wrong.
    #[response(status = 401)]
    Unauthorized(#[to_schema] ErrorBody),
    /// The token's role does not suffice.
    #[response(status = 403)]
    Forbidden(#[to_schema] ErrorBody),
}

/// Errors of calls that name an object.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only described in the document")]
pub(super) enum Named {
    /// There is no such object.
    #[response(status = 404)]
    NotFound(#[to_schema] ErrorBody),
}

/// Errors of writes.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only described in the document")]
pub(super) enum Unwritten {
    /// The object exists already, is used by another one, or belongs to the configuration file.
    #[response(status = 409)]
    Conflict(#[to_schema] ErrorBody),
    /// The object is not at the etag of `If-Match`.
    #[response(status = 412)]
    Changed(#[to_schema] ErrorBody),
    /// The body is not usable; `param` names the place.
    #[response(status = 422)]
    Invalid(#[to_schema] ErrorBody),
}
