//! Tokens of `OpenID` Connect providers and the like (JWT, RFC 7519), checked as RFC 8725 advises.
//!
//! Checking is synchronous and works on keys that [`super::jwks`] keeps. A token that was found good is
//! remembered until it expires, so that its next request costs a hash and a look-up.

mod token;

use std::sync::Arc;
use std::time::Duration;

use admission::{Limits, Permissions, Priority};
use quick_cache::sync::Cache;
use routing::ExpertId;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::jwks::{Checked, Jwks, KeySet};
use crate::config::JwtConfig;
use crate::outbound::Outbound;
use token::{Token, Unverified};

/// Good tokens that are remembered.
const REMEMBERED: usize = 8_192;

/// How long a token with an unknown key waits for the issuer's keys to be read again.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a good token says of its holder.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// Who issued the token.
    pub issuer: Arc<str>,
    /// Who calls: unique with the issuer.
    pub subject: Arc<str>,
    /// For which team.
    pub team: Option<Arc<str>>,
    /// In which roles.
    pub roles: Vec<Box<str>>,
    /// The routes that the holder may use; `None` when all.
    pub routes: Option<Arc<[ExpertId]>>,
    /// What its issuer's callers may use and do.
    pub grant: Arc<Grant>,
    /// When the token expires, in seconds since 1970.
    pub expires: u64,
}

/// What the callers of one issuer may use and do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grant {
    /// How much each of them may use.
    pub limits: Limits,
    /// What they may do beyond sending requests to routes.
    pub permissions: Permissions,
    /// How urgent their requests are.
    pub priority: Priority,
}

/// Why a token is refused. The texts are for the caller and give nothing away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// It cannot be read.
    #[error("the token is malformed")]
    Malformed,
    /// Its algorithm is not accepted.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// Nobody we know issued it.
    #[error("the token's issuer is not accepted")]
    Issuer,
    /// It was issued for somebody else.
    #[error("the token was issued for another audience")]
    Audience,
    /// It has expired, or never says when it does.
    #[error("the token has expired")]
    Expired,
    /// It is not valid yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The issuer has no such key.
    #[error("the token's key is not known")]
    UnknownKey,
    /// The issuer's keys could not be read so far. The one reason that is not the caller's.
    #[error("the issuer's keys are not available")]
    NoKeys,
    /// The issuer did not sign it, or not this.
    #[error("the token's signature is wrong")]
    Signature,
    /// It does not say who calls.
    #[error("the token does not say who its holder is")]
    Subject,
    /// It names no team that is known.
    #[error("the token names no team that is known here")]
    Team,
    /// It has none of the roles that are needed.
    #[error("the token's holder lacks the role that is needed")]
    Role,
}

impl JwtError {
    /// A word for metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::UnknownKey => "unknown_key",
            Self::NoKeys => "no_keys",
            Self::Signature => "signature",
            Self::Subject => "subject",
            Self::Team => "team",
            Self::Role => "role",
        }
    }
}

/// Checks tokens.
pub struct Verifier {
    issuers: Vec<Issuer>,
    /// By the token's SHA-256: tokens themselves are not kept.
    good: Cache<[u8; 32], Good>,
}

struct Issuer {
    config: JwtConfig,
    name: Arc<str>,
    routes: Option<Arc<[ExpertId]>>,
    grant: Arc<Grant>,
    jwks: Arc<Jwks>,
}

/// A token that was found good, under these keys of this issuer.
#[derive(Clone)]
struct Good {
    claims: Arc<Claims>,
    keys: Arc<KeySet>,
    issuer: usize,
}

impl Verifier {
    /// A verifier for these issuers. Knows no keys until [`Verifier::spawn`].
    pub fn new(issuers: &[JwtConfig]) -> Self {
        let issuer = |config: &JwtConfig| Issuer {
            config: config.clone(),
            name: config.issuer.as_str().into(),
            routes: (!config.routes.is_empty()).then(|| config.routes.as_slice().into()),
            grant: Arc::new(Grant {
                limits: config.limits.clone(),
                permissions: config.permissions,
                priority: config.priority,
            }),
            jwks: Arc::new(Jwks::new(config)),
        };
        Self { issuers: issuers.iter().map(issuer).collect(), good: Cache::new(REMEMBERED) }
    }

    /// Starts the tasks that keep the issuers' keys fresh; they end at `stop`.
    pub fn spawn(&self, outbound: &Arc<dyn Outbound>, tracker: &TaskTracker, stop: &CancellationToken) {
        for issuer in &self.issuers {
            tracker.spawn(issuer.jwks.clone().run(outbound.clone(), stop.clone()));
        }
    }

    /// Whether a bearer token has a JWT's form, so that it is not taken for an API key.
    pub fn is_jwt(token: &str) -> bool {
        token.starts_with("eyJ") && token.bytes().filter(|b| *b == b'.').count() == 2
    }

    /// Checks a token at `now`, in seconds since 1970, with the keys at hand.
    ///
    /// # Errors
    /// [`JwtError`]. After [`JwtError::UnknownKey`] and [`JwtError::NoKeys`], [`Verifier::verify_renewed`] may
    /// know better.
    pub fn verify(&self, token: &str, now: u64) -> Result<Arc<Claims>, JwtError> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(good) = self.good.get(&digest) {
            let issuer = &self.issuers[good.issuer];
            // A key that was withdrawn takes its tokens with it.
            if issuer.jwks.keys().is_some_and(|keys| Arc::ptr_eq(&keys, &good.keys)) {
                let valid = now < good.claims.expires.saturating_add(issuer.config.leeway_s);
                return if valid { Ok(good.claims) } else { Err(JwtError::Expired) };
            }
        }
        let token = Token::parse(token)?;
        let (at, issuer) = self.issuer(&token.claims)?;
        let expires = issuer.valid_until(&token, now)?;
        let keys = issuer.jwks.keys().ok_or(JwtError::NoKeys)?;
        match keys.check(token.key_id.as_deref(), token.algorithm, token.message, &token.signature) {
            Checked::Good => {}
            Checked::Bad => return Err(JwtError::Signature),
            Checked::UnknownKey => return Err(JwtError::UnknownKey),
        }
        let claims = Arc::new(issuer.claims(&token.claims, expires)?);
        self.good.insert(digest, Good { claims: claims.clone(), keys, issuer: at });
        Ok(claims)
    }

    /// As [`Verifier::verify`]; for a token whose key is not known, the issuer's keys are read again, which
    /// is waited for half a second at most.
    ///
    /// # Errors
    /// [`JwtError`].
    pub async fn verify_renewed(&self, token: &str, now: u64) -> Result<Arc<Claims>, JwtError> {
        let verified = self.verify(token, now);
        if !matches!(verified, Err(JwtError::UnknownKey | JwtError::NoKeys)) {
            return verified;
        }
        let (_, issuer) = self.issuer(&Token::parse(token)?.claims)?;
        issuer.jwks.renew(PATIENCE).await;
        self.verify(token, now)
    }

    /// The first entry with the token's issuer and one of its audiences.
    fn issuer(&self, claims: &Unverified) -> Result<(usize, &Issuer), JwtError> {
        let name = claims.text("iss").ok_or(JwtError::Issuer)?;
        let mut error = JwtError::Issuer;
        for (at, issuer) in self.issuers.iter().enumerate().filter(|(_, i)| *i.name == *name) {
            if claims.texts("aud").any(|a| issuer.config.audience.iter().any(|own| own == a)) {
                return Ok((at, issuer));
            }
            error = JwtError::Audience;
        }
        Err(error)
    }
}

impl Issuer {
    /// When the token expires, if its algorithm and times are acceptable.
    fn valid_until(&self, token: &Token<'_>, now: u64) -> Result<u64, JwtError> {
        if !self.config.algorithms.contains(&token.algorithm) {
            return Err(JwtError::Algorithm);
        }
        let leeway = self.config.leeway_s;
        for begin in ["nbf", "iat"] {
            if token.claims.time(begin)?.is_some_and(|begin| now.saturating_add(leeway) < begin) {
                return Err(JwtError::NotYetValid);
            }
        }
        let expires = token.claims.time("exp")?.ok_or(JwtError::Expired)?;
        if now < expires.saturating_add(leeway) { Ok(expires) } else { Err(JwtError::Expired) }
    }

    /// What the claims of a good token mean here.
    fn claims(&self, token: &Unverified, expires: u64) -> Result<Claims, JwtError> {
        let config = &self.config;
        let subject = token.text(&config.subject_claim).filter(|s| !s.is_empty()).ok_or(JwtError::Subject)?;
        let roles: Vec<Box<str>> = match token.text(&config.roles_claim) {
            Some(words) => words.split_whitespace().map(Into::into).collect(),
            None => token.texts(&config.roles_claim).map(Into::into).collect(),
        };
        let needed = &config.required_roles;
        if !needed.is_empty() && !roles.iter().any(|role| needed.iter().any(|n| **n == **role)) {
            return Err(JwtError::Role);
        }
        let known = |value: &'_ str| {
            if config.teams.is_empty() {
                (!value.is_empty()).then(|| value.into())
            } else {
                config.teams.get(value).map(|team| team.as_str().into())
            }
        };
        let named = config.team_claim.as_deref().and_then(|claim| token.texts(claim).find_map(known));
        let team: Option<Arc<str>> = named.or_else(|| config.default_team.as_deref().map(Into::into));
        if config.team_claim.is_some() && team.is_none() {
            return Err(JwtError::Team);
        }
        Ok(Claims {
            issuer: self.name.clone(),
            subject: subject.into(),
            team,
            roles,
            routes: self.routes.clone(),
            grant: self.grant.clone(),
            expires,
        })
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let issuers: Vec<&str> = self.issuers.iter().map(|i| &*i.name).collect();
        f.debug_struct("Verifier").field("issuers", &issuers).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
