//! `/admin/v1/keys`: who may send requests, and how much.
//!
//! A key's token is in the answer that makes it and nowhere else: only the hash of its secret is kept, and not
//! even that is shown.

use admission::key::SecretSpec;
use admission::{KeySpec, KeyView, Token};
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Admin;
use super::change::{Write, WriteParams};
use super::document::{Named, Refused, Unwritten};
use super::etag::Tagged;
use super::page::{Page, PageParams};
use super::read::{Body, Name, Params, unprocessable};
use super::resource::{self, Fields, Resource};
use super::teams::Access;
use crate::catalog::{Desired, Edit, Entry, Origin, View};
use crate::error::ApiError;
use crate::pipeline::now_ms;
use crate::problem::Problem;

/// How long a rotated key's old secrets go on, when the caller does not say.
const OVERLAP_MS: u64 = 24 * 60 * 60 * 1_000;

/// A key with what the gateway knows of it.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
pub(super) struct KeyObject {
    /// Its settings. `created_ms` and `secrets` are the gateway's own.
    #[serde(flatten)]
    spec: KeyView,
    /// Who owns it.
    origin: Origin,
    /// Whether requests can use it now.
    status: KeyStatus,
    /// Changes with the object.
    etag: String,
}

/// Whether requests can use a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum KeyStatus {
    /// They can.
    Active,
    /// It, or the last of its secrets, has ended.
    Expired,
    /// It, or its team, is disabled.
    Disabled,
}

/// A key that was made or rotated, with its token.
#[derive(Serialize, ToSchema)]
#[schema(as = NewKey)]
pub(super) struct NewKey {
    #[serde(flatten)]
    object: KeyObject,
    /// The token, shown this once; absent in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// What changes for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    notice: Option<&'static str>,
}

/// How a key is rotated.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Rotation {
    /// How long the old secrets go on beside the new one, in milliseconds; 0 ends them at once.
    #[schema(default = 86_400_000)]
    overlap_ms: u64,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { overlap_ms: OVERLAP_MS }
    }
}

impl KeyStatus {
    fn of(key: &KeySpec, desired: &Desired, now_ms: u64) -> Self {
        let team = key.team.as_deref().and_then(|team| desired.teams.get(team));
        let secrets_end = key.secrets.iter().map(|secret| secret.expires_ms.unwrap_or(u64::MAX)).max();
        let ends = key.expires_ms.unwrap_or(u64::MAX).min(secrets_end.unwrap_or(0));
        if key.disabled || team.is_some_and(|team| team.value.disabled) {
            Self::Disabled
        } else if now_ms >= ends {
            Self::Expired
        } else {
            Self::Active
        }
    }
}

impl Resource for KeySpec {
    type Shown = KeyObject;

    const ADDED: &'static [&'static str] = &["status", "created_ms"];

    fn shown(_: &View, desired: &Desired, entry: &Entry<Self>) -> KeyObject {
        KeyObject {
            spec: entry.value.view(),
            origin: entry.origin,
            status: KeyStatus::of(&entry.value, desired, now_ms()),
            etag: desired.etag(entry),
        }
    }

    /// Without what is the gateway's own, which a patch must not reach.
    fn settings(&self) -> Value {
        let mut settings = serde_json::to_value(self.view()).unwrap_or_default();
        if let Value::Object(fields) = &mut settings {
            fields.remove("secrets");
            fields.remove("created_ms");
        }
        settings
    }

    /// With the secrets of the key it replaces; those that were shown may be sent back as they are.
    fn read(mut fields: Fields, old: Option<&Self>) -> Result<Self, ApiError> {
        let sent = fields.remove("secrets");
        let shown = old.and_then(|old| serde_json::to_value(old.view().0.secrets).ok());
        if sent.is_some() && sent != shown {
            let message = "are made by the gateway: creating a key makes one, POST /keys/{id}/rotate another";
            return Err(unprocessable(Problem::at("secrets", message)));
        }
        let read: KeyView = Body(fields).read()?;
        let mut key = read.with_secrets(old.map(|old| old.secrets.clone()).unwrap_or_default());
        key.created_ms = old.map_or(0, |old| old.created_ms);
        Ok(key)
    }

    fn problems_when_written(&self, old: Option<&Self>, desired: &Desired) -> Vec<Problem> {
        let access = |key: &Self| Access { routes: key.routes.clone(), experts: key.experts.clone() };
        access(self).unknown(old.map(access), desired)
    }
}

/// A new token for a key.
fn new_token(id: &str) -> Result<Token, ApiError> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)
        .map_err(|e| ApiError::internal(format_args!("the system gives no random bytes: {e}")))?;
    Ok(Token::from_random(id, random))
}

/// Lists the keys by id.
#[utoipa::path(
    get, path = "/keys",
    operation_id = "listKeys", tag = "keys",
    params(PageParams),
    responses((status = 200, description = "The keys", body = Page<KeyObject>), Refused)
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Params(params): Params<PageParams>,
) -> Json<Page<KeyObject>> {
    resource::list::<KeySpec>(&admin, &params)
}

/// Makes a key. The answer has its token as `key`; it is never shown again. As soon as there is one key,
/// requests of the data plane need one.
#[utoipa::path(
    post, path = "/keys",
    operation_id = "createKey", tag = "keys",
    params(WriteParams),
    request_body = KeyView,
    responses(
        (status = 201, description = "The key as it was made, with its token", body = NewKey),
        (status = 200, description = "Dry run: the key that would be, without a token", body = NewKey),
        Refused, Unwritten
    )
)]
pub(super) async fn create(write: Write, Body(mut fields): Body) -> Result<Response, ApiError> {
    resource::strip::<KeySpec>(&mut fields);
    let mut key = KeySpec::read(fields, None)?;
    let (id, now_ms) = (key.id.clone(), now_ms());
    let token = new_token(&id)?;
    key.created_ms = now_ms;
    key.secrets = vec![SecretSpec { hash: token.hash(), created_ms: now_ms, expires_ms: None }];
    let desired = resource::insert(&write, key).await?;
    let Tagged { object, etag, .. } = resource::show::<KeySpec>(&write.admin, &desired, &id)?;
    let notice = "this is the first key: from now on requests of the data plane need one";
    let new = NewKey {
        object,
        key: (!write.dry_run).then(|| token.expose().to_owned()),
        notice: (desired.keys.len() == 1).then_some(notice),
    };
    Ok(resource::made::<KeySpec, _>(&write, &id, &etag, new))
}

/// Shows one key.
#[utoipa::path(
    get, path = "/keys/{id}",
    operation_id = "getKey", tag = "keys",
    params(("id" = String, Path)),
    responses((status = 200, description = "The key", body = KeyObject), Refused, Named)
)]
pub(super) async fn get(State(admin): State<Admin>, Name(id): Name) -> Result<Tagged<KeyObject>, ApiError> {
    resource::get::<KeySpec>(&admin, &id)
}

/// Replaces a key's settings; its secrets stay. New limits hold from the next request on; what was used counts
/// against them.
#[utoipa::path(
    put, path = "/keys/{id}",
    operation_id = "replaceKey", tag = "keys",
    params(("id" = String, Path), ("if-match" = Option<String>, Header), WriteParams),
    request_body = KeyView,
    responses((status = 200, description = "The key", body = KeyObject), Refused, Named, Unwritten)
)]
pub(super) async fn replace(
    Name(id): Name,
    write: Write,
    Body(fields): Body,
) -> Result<Tagged<KeyObject>, ApiError> {
    resource::replace::<KeySpec>(write, id, fields).await
}

/// Changes settings of a key by JSON merge patch (RFC 7396): null removes a field. `{"disabled": true}` refuses
/// its requests until it is set back.
#[utoipa::path(
    patch, path = "/keys/{id}",
    operation_id = "patchKey", tag = "keys",
    params(("id" = String, Path), ("if-match" = Option<String>, Header), WriteParams),
    request_body(content = Object, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "The key", body = KeyObject), Refused, Named, Unwritten)
)]
pub(super) async fn patch(
    Name(id): Name,
    write: Write,
    Body(fields): Body,
) -> Result<Tagged<KeyObject>, ApiError> {
    resource::patch::<KeySpec>(write, id, fields).await
}

/// Revokes a key: its next request is refused, requests under way go on. When the last key goes, the data plane
/// needs none any more; disable it instead to let nobody in.
#[utoipa::path(
    delete, path = "/keys/{id}",
    operation_id = "deleteKey", tag = "keys",
    params(("id" = String, Path), ("if-match" = Option<String>, Header), WriteParams),
    responses((status = 204, description = "Revoked, or could be"), Refused, Named, Unwritten)
)]
pub(super) async fn delete(Name(id): Name, write: Write) -> Result<StatusCode, ApiError> {
    resource::delete::<KeySpec>(&write, id).await
}

/// Gives a key another secret. The answer has the new token as `key`; it is never shown again. The old secrets
/// go on for a while, so that every client can change over.
#[utoipa::path(
    post, path = "/keys/{id}/rotate",
    operation_id = "rotateKey", tag = "keys",
    params(("id" = String, Path), ("if-match" = Option<String>, Header), WriteParams),
    request_body = Option<Rotation>,
    responses((status = 200, description = "The key, with its new token", body = NewKey), Refused, Named, Unwritten)
)]
pub(super) async fn rotate(
    Name(id): Name,
    write: Write,
    body: Option<Body>,
) -> Result<Tagged<NewKey>, ApiError> {
    let Rotation { overlap_ms } = body.unwrap_or(Body(Map::new())).read()?;
    let token = new_token(&id)?;
    let hash = token.hash();
    let change = move |_: &Desired, key: &KeySpec| {
        let mut key = key.clone();
        key.rotate(hash, now_ms(), overlap_ms);
        Ok(Edit::RotateKey(Box::new(key)))
    };
    let Tagged { object, etag, .. } = resource::update::<KeySpec>(&write, id, change).await?;
    let key = (!write.dry_run).then(|| token.expose().to_owned());
    Ok(Tagged::ok(etag, NewKey { object, key, notice: None }))
}
