//! Writing: read, decide and apply as one step, and say why not.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Admin;
use super::auth::Actor;
use super::etag::IfMatch;
use super::read::Params;
use crate::catalog::{ChangeError, Desired, Edit, Origin};
use crate::error::{ApiError, ErrorKind};
use crate::pipeline::now_ms;
use crate::problem::{Problem, hint};

/// How a write is meant.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WriteParams {
    /// Check the change and show what would be, without changing anything.
    pub(super) dry_run: bool,
}

/// A write as it came, but for its body: how it is meant, for which version of the object, in whose name.
pub(super) struct Write {
    pub(super) admin: Admin,
    pub(super) dry_run: bool,
    if_match: IfMatch,
    actor: Actor,
}

impl FromRequestParts<Admin> for Write {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, ApiError> {
        let Params(WriteParams { dry_run }) = Params::from_request_parts(parts, admin).await?;
        let if_match = IfMatch::from_request_parts(parts, admin).await?;
        let actor = Actor::from_request_parts(parts, admin).await?;
        Ok(Self { admin: admin.clone(), dry_run, if_match, actor })
    }
}

impl Write {
    /// The same, for the version that the body named, where the header named none.
    #[must_use]
    pub(super) fn for_version(mut self, etag: Option<String>) -> Self {
        self.if_match = self.if_match.or_body(etag);
        self
    }

    /// Lets `plan` decide on edits with the present state before it, and applies them.
    ///
    /// Writers take turns from the reading to the publishing, so that what `plan` saw still holds when its
    /// edits are applied: a merge patch loses nobody's fields, and an etag is compared with the very
    /// object that is replaced. The lock is tokio's because the commit is awaited under it; readers and
    /// requests never meet it. The work goes on when the client leaves: a change that is on disk must not
    /// stay unpublished because nobody waits for the answer.
    ///
    /// `scope` is where the edited object stands among all objects; what is wrong with it is reported
    /// relative to that, as the client knows it.
    pub(super) async fn change<F>(&self, scope: impl Into<String>, plan: F) -> Result<Arc<Desired>, ApiError>
    where
        F: FnOnce(&Desired, &IfMatch) -> Result<Vec<Edit>, ApiError> + Send + 'static,
    {
        let (admin, scope, dry_run) = (self.admin.clone(), scope.into(), self.dry_run);
        let (if_match, actor) = (self.if_match.clone(), self.actor.clone());
        let work = tokio::spawn(async move {
            let _turn = admin.turn.lock().await;
            let catalog = &admin.app.pipeline.catalog;
            let edits = plan(&catalog.view().desired, &if_match)?;
            let applied = catalog.apply(edits, actor.name(), now_ms(), dry_run).await;
            applied.map_err(|error| refusal(error, &scope))
        });
        work.await.map_err(ApiError::internal)?
    }
}

/// The answer for a refused change.
fn refusal(error: ChangeError, scope: &str) -> ApiError {
    let kind = match &error {
        ChangeError::NotFound { .. } => ErrorKind::NotFound,
        ChangeError::Exists { .. } | ChangeError::InUse { .. } => ErrorKind::Conflict,
        ChangeError::Stale { .. } => ErrorKind::PreconditionFailed,
        ChangeError::ReadOnly { .. } => ErrorKind::ReadOnly,
        ChangeError::Invalid(problems) => return invalid(problems, scope),
        ChangeError::Store(_) | ChangeError::Aborted(_) => return ApiError::internal(error),
    };
    ApiError::new(kind, error.to_string())
}

/// 422 for all problems at once; `param` is the place of the first.
pub(super) fn invalid(problems: &[Problem], scope: &str) -> ApiError {
    let local: Vec<Problem> =
        problems.iter().map(|p| Problem::at(within(&p.path, scope), &p.message)).collect();
    let message = local.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let param = local.first().map_or_else(String::new, |p| p.path.clone());
    ApiError::new(ErrorKind::Unprocessable, message).with_param(param)
}

/// A path as it is seen from `scope`; one that lies elsewhere stays whole.
fn within<'a>(path: &'a str, scope: &str) -> &'a str {
    match path.strip_prefix(scope) {
        Some("") => "",
        Some(rest) if scope.is_empty() || rest.starts_with('[') => rest,
        Some(rest) => rest.strip_prefix('.').unwrap_or(path),
        None => path,
    }
}

/// 404 for a name, with the nearest known one.
pub(super) fn missing<'a>(kind: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> ApiError {
    let shown: String = name.chars().take(128).collect();
    let hint = hint(name, known);
    ApiError::new(ErrorKind::NotFound, format!("there is no {kind} `{shown}`{hint}"))
}

/// Refuses to change what the configuration file defines.
pub(super) fn writable(kind: &'static str, id: &str, origin: Origin) -> Result<(), ApiError> {
    match origin {
        Origin::Admin => Ok(()),
        Origin::File => Err(refusal(ChangeError::ReadOnly { kind, id: id.to_owned() }, "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_as_the_client_knows_them() {
        assert_eq!(within("experts.a.b.backend.url", "experts.a.b"), "backend.url");
        assert_eq!(within("experts.a.skills.x", "experts.a"), "skills.x");
        assert_eq!(within("experts.a[0]", "experts.a"), "[0]");
        assert_eq!(within("experts.ab.skills", "experts.a"), "experts.ab.skills");
        assert_eq!(within("routes.auto.policy", "experts.a"), "routes.auto.policy");
        assert_eq!(within("experts.a", "experts.a"), "");
        assert_eq!(within("experts.a", ""), "experts.a");
    }

    #[test]
    fn all_problems_are_told_and_the_first_is_the_param() {
        let problems = [Problem::at("experts.a.x", "one"), Problem::at("experts.a.y", "two")];
        let error = invalid(&problems, "experts.a");
        assert_eq!(&*error.message, "x: one; y: two");
        assert_eq!(error.param.as_deref(), Some("x"));
    }
}
