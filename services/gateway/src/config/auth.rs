use std::collections::BTreeMap;
use std::path::PathBuf;

use admission::{Limits, Permissions, Priority};
use routing::ExpertId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::outbound::is_trusted;
use crate::problem::Problem;

/// Who may call the data plane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Issuers whose tokens (JWT) are accepted as `Authorization: Bearer`, with what their claims mean here.
    /// For a token, the first entry with its issuer and one of its audiences counts.
    pub jwt: Vec<JwtConfig>,
}

/// An issuer of tokens, in most cases an `OpenID` Connect provider.
///
/// A claim is named by its key, or by a JSON pointer such as `/realm_access/roles` for one inside another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JwtConfig {
    /// The tokens' `iss`, to the letter.
    pub issuer: String,
    /// Accepted values of the tokens' `aud`: tokens that were issued for others are refused.
    pub audience: Vec<String>,
    /// Where the issuer publishes its keys. Without this and `jwks_file`, the address is asked of
    /// `ISSUER/.well-known/openid-configuration`. `https`, unless it is on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// A file with the issuer's keys (a JWK set), read again every `refresh_s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub jwks_file: Option<PathBuf>,
    /// Accepted signatures.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<JwtAlgorithm>,
    /// By how many seconds the issuer's clock may differ from ours.
    #[serde(default = "leeway")]
    pub leeway_s: u64,
    /// After how many seconds the keys are read again. A token with an unknown key id has them read at once,
    /// but not more often than every 10 seconds.
    #[serde(default = "refresh")]
    pub refresh_s: u64,
    /// The claim that says who calls.
    #[serde(default = "subject")]
    pub subject_claim: String,
    /// The claim that says for which team: a text, or several of which the first that is known counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_claim: Option<String>,
    /// Teams by values of `team_claim`. Empty: the value itself names the team.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub teams: BTreeMap<String, String>,
    /// The team of tokens that name none that is known. Without it, such tokens are refused where
    /// `team_claim` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_team: Option<String>,
    /// The claim with the caller's roles: a list, or words with spaces between, as `scope` has them.
    #[serde(default = "roles")]
    pub roles_claim: String,
    /// Roles of which a caller must have at least one. Empty: none is needed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required_roles: Vec<String>,
    /// The routes that these callers may use. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<ExpertId>,
    /// How much each of these callers may use; their team's limits hold as well.
    #[serde(default)]
    pub limits: Limits,
    /// What these callers may do beyond sending requests to routes.
    #[serde(default)]
    pub permissions: Permissions,
    /// How urgent their requests are.
    #[serde(default)]
    pub priority: Priority,
}

/// A signature algorithm (RFC 7518 section 3.1, RFC 8037 section 3.1). Those that anyone can make, `none`
/// and the ones with a shared secret, are not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "these are the standard's names")]
pub enum JwtAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

fn algorithms() -> Vec<JwtAlgorithm> {
    vec![JwtAlgorithm::RS256, JwtAlgorithm::ES256, JwtAlgorithm::EdDSA]
}

fn leeway() -> u64 {
    60
}

fn refresh() -> u64 {
    600
}

fn subject() -> String {
    "sub".into()
}

fn roles() -> String {
    "scope".into()
}

impl AuthConfig {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let each = self.jwt.iter().enumerate();
        each.flat_map(|(i, issuer)| issuer.problems().into_iter().map(move |p| p.below(&format!("jwt[{i}]"))))
            .collect()
    }
}

impl JwtConfig {
    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let limits = self.limits.problems().into_iter().map(|p| Problem::at(p.path, p.message));
        problems.extend(limits.map(|p| p.below("limits")));
        let mut wrong = |place: &str, message: &str| problems.push(Problem::at(place, message));
        let trusted = |url: &str| url.parse().is_ok_and(|uri| is_trusted(&uri));
        if self.issuer.is_empty() {
            wrong("issuer", "must be the `iss` of the tokens");
        }
        if self.audience.is_empty() || self.audience.iter().any(String::is_empty) {
            wrong(
                "audience",
                "must name at least one audience; tokens that were issued for others are refused",
            );
        }
        match (&self.jwks_url, &self.jwks_file) {
            (Some(_), Some(_)) => wrong("jwks_file", "and jwks_url are both set; keep one of them"),
            (Some(url), None) if !trusted(url) => {
                wrong(
                    "jwks_url",
                    "must be an https address (http only on this machine): whoever can change the \
                                   keys on their way here can make tokens",
                );
            }
            (None, None) if !trusted(&self.issuer) => {
                wrong("issuer", "is not an https address to find the keys by; set jwks_url or jwks_file");
            }
            _ => {}
        }
        if self.algorithms.is_empty() {
            wrong("algorithms", "must name at least one");
        }
        if self.leeway_s > 600 {
            wrong("leeway_s", "must be at most 600");
        }
        if !(10..=86_400).contains(&self.refresh_s) {
            wrong("refresh_s", "must lie in 10..=86400");
        }
        if self.team_claim.is_none() && !self.teams.is_empty() {
            wrong("teams", "needs team_claim, which says where the values come from");
        }
        for (place, claim) in [
            ("subject_claim", Some(&self.subject_claim)),
            ("roles_claim", Some(&self.roles_claim)),
            ("team_claim", self.team_claim.as_ref()),
        ] {
            if claim.is_some_and(String::is_empty) {
                wrong(place, "must name a claim");
            }
        }
        problems
    }
}
