//! Who may use the data plane.
//!
//! Before there is any key, requests from the machine itself are let in, and others where the operator has
//! said that a proxy in front does the checking. From the first key on, every request needs one.

pub mod jwks;
pub mod jwt;

use std::sync::Arc;

use admission::{Gates, Key, KeyRing, KeySpec, Refused};
use http::{HeaderMap, header};
use quick_cache::sync::Cache;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::jwt::{Claims, JwtError, Verifier};
use crate::error::{ApiError, ErrorKind};
use crate::outbound::Outbound;

/// Holders of issuers' tokens that are remembered with their limits.
const HOLDERS: usize = 8_192;

/// Decides whether a request's sender may use the gateway.
pub struct Gatekeeper {
    /// Whether requests without a key are welcome as long as there is no key at all.
    open: bool,
    issuers: Option<Issuers>,
}

struct Issuers {
    verifier: Verifier,
    /// By issuer and subject, with what they were made from.
    holders: Cache<Box<str>, Holder>,
}

#[derive(Clone)]
struct Holder {
    revision: u64,
    claims: Arc<Claims>,
    key: Arc<Key>,
}

/// The keys at one moment, and what belongs to them.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// The keys and teams.
    pub keys: &'a KeyRing,
    /// Where requests of keys and teams wait.
    pub gates: &'a Gates,
    /// Counts the changes of the keys.
    pub revision: u64,
}

impl Gatekeeper {
    /// A gatekeeper. With `open`, and as long as there is neither key nor verifier, everybody is let in.
    pub fn new(open: bool, verifier: Option<Verifier>) -> Self {
        Self { open, issuers: verifier.map(|verifier| Issuers { verifier, holders: Cache::new(HOLDERS) }) }
    }

    /// Starts the tasks that keep issuers' keys fresh.
    pub fn spawn(&self, outbound: &Arc<dyn Outbound>, tracker: &TaskTracker, stop: &CancellationToken) {
        if let Some(issuers) = &self.issuers {
            issuers.verifier.spawn(outbound, tracker, stop);
        }
    }

    /// The key that a request comes with, or the one that stands for the holder of an issuer's token; `None`
    /// where none is needed.
    ///
    /// # Errors
    /// 401 with what is missing or wrong, 403 where an issuer's token is good and not enough, 503 while its
    /// issuer's keys are not there. An unknown key and a wrong secret are not told apart.
    pub async fn caller(
        &self,
        known: Known<'_>,
        headers: &HeaderMap,
        now_ms: u64,
    ) -> Result<Option<Arc<Key>>, ApiError> {
        let refused = |message: &'static str| Err(ApiError::new(ErrorKind::Unauthorized, message));
        if known.keys.is_empty() && self.issuers.is_none() {
            // Client libraries insist on sending some key; it means nothing here.
            return if self.open {
                Ok(None)
            } else {
                refused(
                    "no API key exists yet and this address can be reached by other machines, so nobody is let in; make a key \
                     with `guildhall keys create` or POST /admin/v1/keys",
                )
            };
        }
        let Some(token) = presented(headers) else {
            return refused(
                "an API key is needed: send it as `Authorization: Bearer KEY`, or as `x-api-key: KEY`",
            );
        };
        if let Some(issuers) = &self.issuers
            && Verifier::is_jwt(token)
        {
            let claims = issuers.verifier.verify_renewed(token, now_ms / 1000).await.map_err(not_accepted)?;
            return issuers.holder(known, claims).map(Some);
        }
        match known.keys.authenticate(token, now_ms) {
            Ok(key) => Ok(Some(key.clone())),
            Err(Refused::Malformed) => {
                refused("this is not an API key of this gateway; they have the form sk-guildhall-ID-SECRET")
            }
            Err(Refused::Unknown) => refused("this API key is not known; it may have been revoked"),
            Err(Refused::Expired) => refused("this API key has expired"),
            Err(Refused::Disabled) => refused("this API key is disabled"),
        }
    }
}

impl Issuers {
    /// The key that stands for a token's holder.
    fn holder(&self, known: Known<'_>, claims: Arc<Claims>) -> Result<Arc<Key>, ApiError> {
        // What an issuer calls its users is unique with the issuer only.
        let name = format!("{}#{}", claims.issuer, claims.subject);
        if let Some(holder) = self.holders.get(name.as_str())
            && holder.revision == known.revision
            && Arc::ptr_eq(&holder.claims, &claims)
        {
            return Ok(holder.key);
        }
        let team = claims.team.as_deref().map(|id| known.keys.team(id).cloned().ok_or(id)).transpose();
        let team = team.map_err(|id| {
            let message = format!("the token is for the team `{id}`, which is not known here");
            ApiError::new(ErrorKind::Forbidden, message)
        })?;
        let routes = claims.routes.as_deref().map(|all| all.iter().map(ToString::to_string).collect());
        let spec = KeySpec {
            id: name.clone(),
            description: String::new(),
            team: claims.team.as_deref().map(str::to_owned),
            created_ms: 0,
            expires_ms: None,
            disabled: false,
            secrets: Vec::new(),
            routes,
            experts: None,
            permissions: claims.grant.permissions,
            priority: claims.grant.priority,
            highest_priority: None,
            limits: claims.grant.limits.clone(),
        };
        let key = Arc::new(Key::new(&spec, team, known.gates));
        self.holders.insert(name.into(), Holder { revision: known.revision, claims, key: key.clone() });
        Ok(key)
    }
}

fn not_accepted(error: JwtError) -> ApiError {
    let kind = match error {
        JwtError::NoKeys => ErrorKind::IssuerUnavailable,
        JwtError::Role | JwtError::Team => ErrorKind::Forbidden,
        _ => ErrorKind::Unauthorized,
    };
    ApiError::new(kind, error.to_string())
}

/// The credential of a request: a bearer token, or the header of Anthropic's or Azure's clients. Not checked in
/// any way.
pub fn presented(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim());
    }
    let value = headers.get("x-api-key").or_else(|| headers.get("api-key"))?;
    value.to_str().ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use admission::key::SecretSpec;
    use admission::{Gates, KeySpec, Token};

    use super::*;

    fn ring() -> (KeyRing, Token) {
        let token = Token::from_random("ci", [7; 32]);
        let key: KeySpec = serde_json::from_value(serde_json::json!({"id": "ci"})).unwrap();
        let secret = SecretSpec { hash: token.hash(), created_ms: 0, expires_ms: Some(1_000) };
        let ring = KeyRing::build(&[key.with(vec![secret])], &[], &Gates::default()).unwrap();
        (ring, token)
    }

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    async fn caller(
        open: bool,
        keys: &KeyRing,
        headers: &HeaderMap,
        now_ms: u64,
    ) -> Result<Option<Arc<Key>>, ApiError> {
        let known = Known { keys, gates: &Gates::default(), revision: 1 };
        Gatekeeper::new(open, None).caller(known, headers, now_ms).await
    }

    #[tokio::test]
    async fn before_there_is_a_key_only_the_machine_itself_is_let_in() {
        let none = KeyRing::default();
        assert!(caller(true, &none, &HeaderMap::new(), 0).await.unwrap().is_none());
        let dummy = headers("authorization", "Bearer anything");
        assert!(caller(true, &none, &dummy, 0).await.unwrap().is_none());
        let error = caller(false, &none, &dummy, 0).await.unwrap_err();
        assert!(error.message.contains("keys create"), "{error}");
    }

    #[tokio::test]
    async fn from_the_first_key_on_one_is_needed() {
        let (ring, token) = ring();
        let caller = async |headers: &HeaderMap, now| {
            caller(true, &ring, headers, now).await.map(|key| key.unwrap().id().to_string())
        };
        for (name, value) in [
            ("authorization", format!("Bearer {}", token.expose())),
            ("authorization", format!("bearer  {}", token.expose())),
            ("x-api-key", token.expose().to_owned()),
            ("api-key", token.expose().to_owned()),
        ] {
            assert_eq!(caller(&headers(name, &value), 0).await.unwrap(), "ci");
        }
        let wrong = token.expose().replace("-ci-", "-cd-");
        for (headers, now, part) in [
            (HeaderMap::new(), 0, "is needed"),
            (headers("authorization", "Basic abc"), 0, "is needed"),
            (headers("authorization", "Bearer sk-other"), 0, "not an API key of this gateway"),
            (headers("authorization", &format!("Bearer {wrong}")), 0, "not known"),
            (headers("x-api-key", token.expose()), 2_000, "expired"),
        ] {
            let error = caller(&headers, now).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unauthorized);
            assert!(error.message.contains(part), "{error}");
            assert!(!error.message.contains(token.expose()), "the secret is told");
        }
    }
}
