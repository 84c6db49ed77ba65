use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::token::SecretHash;
use crate::limit::Limits;
use crate::priority::Priority;
use crate::problem::{ID_RULE, Problem, is_id};

/// A virtual API key: whose it is, what it may do and how much it may use.
// The default is the stored form, with the hashes of the secrets; `KeyView` shows the same without them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeySpec<S = SecretSpec> {
    /// The public part of its tokens: 1 to 64 characters out of `a-z 0-9 -`.
    pub id: String,
    /// Whose it is or what it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The team whose limits and access hold as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// When it was made, in milliseconds since the Unix epoch; for people.
    #[serde(default)]
    pub created_ms: u64,
    /// When it ends, in milliseconds since the Unix epoch; without it never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// Refuses every request until it is set back.
    #[serde(default)]
    pub disabled: bool,
    /// The secrets of its tokens: one, or more while it is rotated.
    #[serde(default = "Vec::new")]
    pub secrets: Vec<S>,
    /// The routes that it may use; without it all, when empty none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<String>>,
    /// The experts that may answer it; without it all, when empty none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<Vec<String>>,
    /// What it may do beyond sending requests to routes.
    #[serde(default)]
    pub permissions: Permissions,
    /// How urgent its requests are when they do not say.
    #[serde(default)]
    pub priority: Priority,
    /// The most urgent that its requests may say they are; without it `priority`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest_priority: Option<Priority>,
    /// How much it may use.
    #[serde(default)]
    pub limits: Limits,
}

/// A key as the admin API shows and takes it: without the hashes of its secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyView(pub KeySpec<SecretView>);

// By hand, because a derived schema would have the name of the stored form.
impl PartialSchema for KeyView {
    fn schema() -> RefOr<Schema> {
        KeySpec::<SecretView>::schema()
    }
}

impl ToSchema for KeyView {
    fn name() -> Cow<'static, str> {
        "KeyView".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        KeySpec::<SecretView>::schemas(schemas);
    }
}

/// One secret of a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretSpec {
    /// Its SHA-256.
    pub hash: SecretHash,
    /// When it was made, in milliseconds since the Unix epoch; for people.
    #[serde(default)]
    pub created_ms: u64,
    /// When it ends, in milliseconds since the Unix epoch; without it with the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

/// What is shown of a secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretView {
    /// When it was made, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub created_ms: u64,
    /// When it ends, in milliseconds since the Unix epoch; without it with the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

/// What a key may do beyond sending requests to routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Permissions {
    /// Name an expert as `model`, or by the header that forces one.
    pub name_experts: bool,
    /// Ask for debug headers.
    pub debug_headers: bool,
    /// Pass the response cache by.
    pub bypass_cache: bool,
}

/// Limits and access that keys share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TeamSpec {
    /// Its name in keys: 1 to 64 characters out of `a-z 0-9 -`.
    pub id: String,
    /// Who it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Refuses every request of its keys until it is set back.
    #[serde(default)]
    pub disabled: bool,
    /// The routes that its keys may use; without it all, when empty none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<String>>,
    /// The experts that may answer its keys; without it all, when empty none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<Vec<String>>,
    /// How much its keys may use together.
    #[serde(default)]
    pub limits: Limits,
}

impl KeySpec {
    /// All that is wrong with the key by itself; whether its team exists is for
    /// [`KeyRing::build`](super::KeyRing::build) to say.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !is_id(&self.id) {
            problems.push(Problem::at("id", ID_RULE));
        }
        if self.secrets.is_empty() {
            problems.push(Problem::at(
                "secrets",
                "must hold at least one secret's hash, or nobody can use the key",
            ));
        }
        for (i, secret) in self.secrets.iter().enumerate() {
            if self.secrets[..i].iter().any(|other| other.hash == secret.hash) {
                problems.push(Problem::at(format!("secrets[{i}].hash"), "is there twice"));
            }
        }
        if self.highest_priority.is_some_and(|highest| highest < self.priority) {
            let message = "must not be less urgent than `priority`, the default of the key's requests";
            problems.push(Problem::at("highest_priority", message));
        }
        problems.extend(self.limits.problems().into_iter().map(|problem| problem.below("limits")));
        problems
    }

    /// The key without the hashes of its secrets.
    pub fn view(&self) -> KeyView {
        let secrets = self.secrets.iter();
        let secrets =
            secrets.map(|s| SecretView { created_ms: s.created_ms, expires_ms: s.expires_ms }).collect();
        KeyView(self.clone().with(secrets))
    }

    /// Adds a secret and ends the others `overlap_ms` from now, or when they would have ended anyway.
    /// Secrets that have ended already are dropped.
    pub fn rotate(&mut self, hash: SecretHash, now_ms: u64, overlap_ms: u64) {
        let end = now_ms.saturating_add(overlap_ms);
        self.secrets.retain_mut(|secret| {
            let expires_ms = secret.expires_ms.map_or(end, |expires_ms| expires_ms.min(end));
            secret.expires_ms = Some(expires_ms);
            expires_ms > now_ms
        });
        self.secrets.push(SecretSpec { hash, created_ms: now_ms, expires_ms: None });
    }
}

impl KeyView {
    /// The stored form: what the admin API received, with the secrets that the store holds.
    pub fn with_secrets(self, secrets: Vec<SecretSpec>) -> KeySpec {
        self.0.with(secrets)
    }
}

impl<S> KeySpec<S> {
    /// The same key with secrets in another form.
    pub fn with<T>(self, secrets: Vec<T>) -> KeySpec<T> {
        KeySpec {
            id: self.id,
            description: self.description,
            team: self.team,
            created_ms: self.created_ms,
            expires_ms: self.expires_ms,
            disabled: self.disabled,
            secrets,
            routes: self.routes,
            experts: self.experts,
            permissions: self.permissions,
            priority: self.priority,
            highest_priority: self.highest_priority,
            limits: self.limits,
        }
    }
}

impl TeamSpec {
    /// All that is wrong with the team by itself.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !is_id(&self.id) {
            problems.push(Problem::at("id", ID_RULE));
        }
        problems.extend(self.limits.problems().into_iter().map(|problem| problem.below("limits")));
        problems
    }
}
