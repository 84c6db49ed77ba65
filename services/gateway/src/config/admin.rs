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
    /// The bearer token of the admin API, as `${ENV}` or `file:PATH`. Without it one is made and shown at
    /// the first start, and only its hash is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub token: Option<Secret>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8081)), tls: None, token: None }
    }
}

impl AdminConfig {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        problems.extend(self.tls.iter().flat_map(TlsConfig::problems).map(|p| p.below("tls")));
        if self.token.as_ref().is_some_and(|t| t.expose().len() < 16) {
            problems.push(Problem::at(
                "token",
                "must have at least 16 characters; `openssl rand -hex 24` makes a good one",
            ));
        }
        problems
    }
}
