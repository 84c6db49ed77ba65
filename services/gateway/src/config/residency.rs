use std::time::Duration;

use experts::Secret;
use http::Uri;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::PoolConfig;
use crate::problem::Problem;

/// How processes share pools. Docs: docs/tiers.md, "Several gateways".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResidencyConfig {
    /// For the owner (`serve --role tiers`): how long a lease that it gives a gateway lasts without being renewed, in
    /// seconds. A gateway that was killed keeps its experts loaded for so long.
    #[schema(minimum = 1, maximum = 3600)]
    pub lease_s: u64,
    /// For a gateway that has no pools of its own: who owns them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<OwnerConfig>,
}

/// The process that owns the pools.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnerConfig {
    /// Where its admin listener is, such as `http://tiers:8081`.
    pub url: String,
    /// A token of its admin API with the role `operator`, as `${ENV}` or `file:PATH`.
    #[schema(value_type = String)]
    pub token: Secret,
}

impl Default for ResidencyConfig {
    fn default() -> Self {
        Self { lease_s: 15, remote: None }
    }
}

impl ResidencyConfig {
    /// How long a lease lasts.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_s)
    }

    pub(super) fn problems(&self, pools: &[PoolConfig]) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !(1..=3600).contains(&self.lease_s) {
            problems.push(Problem::at("lease_s", "must be from 1 to 3600 seconds"));
        }
        let Some(remote) = &self.remote else { return problems };
        if !is_base(&remote.url) {
            let message = format!(
                "`{}` is no address of an admin listener; give one such as http://tiers:8081",
                remote.url
            );
            problems.push(Problem::at("remote.url", message));
        }
        if !pools.is_empty() {
            let message = "the pools are owned either here or elsewhere: leave out `pools` to use those of the owner \
                           named here, or leave this out to own them";
            problems.push(Problem::at("remote", message));
        }
        problems
    }
}

/// Whether a text is the address of a server without a path.
fn is_base(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    scheme && uri.host().is_some_and(|host| !host.is_empty()) && uri.path() == "/" && uri.query().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_named_by_its_address_alone() {
        for good in ["http://tiers:8081", "https://tiers.example", "http://[::1]:8081/", "http://10.0.0.1:1"]
        {
            assert!(is_base(good), "{good}");
        }
        for bad in ["", "tiers", "tiers:8081", "ftp://tiers", "http://tiers/admin/v1", "http://tiers/?a=b"] {
            assert!(!is_base(bad), "{bad}");
        }
    }
}
