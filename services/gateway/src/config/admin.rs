use std::net::SocketAddr;

use experts::Secret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::TlsConfig;
use crate::problem::Problem;

/// The listener for the admin API, metrics and probes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Address and port. Port 0 picks a free one.
    #[schema(value_type = String)]
    pub listen: SocketAddr,
    /// TLS, with or without certificates of clients. Without it the listener speaks plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// The bearer token of the admin API with the role `admin`, as `${ENV}` or `file:PATH`. Without it one is
    /// made and shown at the first start, and only its hash is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub token: Option<Secret>,
    /// Further tokens, each with a name for the audit log and a role.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<AdminTokenConfig>,
}

/// A token of the admin API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminTokenConfig {
    /// Who holds it, as the audit log names them: letters, digits, `.`, `_`, `@` and `-`.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The token, as `${ENV}` or `file:PATH`.
    #[schema(value_type = String)]
    pub token: Secret,
}

/// What the holder of an admin token may do. Each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Read everything. Secrets are never shown.
    Viewer,
    /// Run what is there: drain, undrain and probe experts, try the router on prompts.
    Operator,
    /// Change everything: experts, routes, keys, teams.
    Admin,
}

impl Role {
    /// Its name in settings and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// Who acts with `admin.token`, or with the token that the gateway made itself.
pub const OWNER: &str = "admin";

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8081)), tls: None, token: None, tokens: Vec::new() }
    }
}

impl AdminConfig {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        problems.extend(self.tls.iter().flat_map(TlsConfig::problems).map(|p| p.below("tls")));
        problems.extend(self.token.as_ref().and_then(|token| short(token, "token".into())));
        for (i, token) in self.tokens.iter().enumerate() {
            let place = |field: &str| format!("tokens[{i}].{field}");
            let before = &self.tokens[..i];
            problems.extend(short(&token.token, place("token")));
            if !is_name(&token.name) {
                let message = "must be 1 to 64 letters, digits and characters out of `._@-`";
                problems.push(Problem::at(place("name"), message));
            } else if token.name == OWNER || before.iter().any(|other| other.name == token.name) {
                let message = format!("`{}` is the name of another token", token.name);
                problems.push(Problem::at(place("name"), message));
            }
            if self.token.as_ref() == Some(&token.token)
                || before.iter().any(|other| other.token == token.token)
            {
                problems.push(Problem::at(place("token"), "is the same as another token"));
            }
        }
        problems
    }
}

fn short(token: &Secret, place: String) -> Option<Problem> {
    let message = "must have at least 16 characters; `openssl rand -hex 24` makes a good one";
    (token.expose().len() < 16).then(|| Problem::at(place, message))
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@-".contains(&b))
}
