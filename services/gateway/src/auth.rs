//! Who may use the data plane.
//!
//! Before there is any key, requests from the machine itself are let in, and others where the operator has
//! said that a proxy in front does the checking. From the first key on, every request needs one.

pub mod jwks;
pub mod jwt;

use std::sync::Arc;

use admission::{Key, KeyRing, Refused};
use http::{HeaderMap, header};

use crate::error::{ApiError, ErrorKind};

/// What decides whether a request's sender may use the gateway.
#[derive(Clone, Copy, Debug)]
pub struct Gatekeeper {
    /// Whether requests without a key are welcome as long as there is no key at all.
    pub open: bool,
}

impl Gatekeeper {
    /// The key that a request comes with; `None` where none is needed.
    ///
    /// # Errors
    /// 401 with what is missing or wrong. An unknown key and a wrong secret are not told apart.
    pub fn caller(
        self,
        keys: &KeyRing,
        headers: &HeaderMap,
        now_ms: u64,
    ) -> Result<Option<Arc<Key>>, ApiError> {
        let refused = |message: &'static str| Err(ApiError::new(ErrorKind::Unauthorized, message));
        if keys.is_empty() {
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
        match keys.authenticate(token, now_ms) {
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

/// The credential of a request: a bearer token, or the header of Anthropic's or Azure's clients.
fn presented(headers: &HeaderMap) -> Option<&str> {
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

    #[test]
    fn before_there_is_a_key_only_the_machine_itself_is_let_in() {
        let none = KeyRing::default();
        assert!(Gatekeeper { open: true }.caller(&none, &HeaderMap::new(), 0).unwrap().is_none());
        let dummy = headers("authorization", "Bearer anything");
        assert!(Gatekeeper { open: true }.caller(&none, &dummy, 0).unwrap().is_none());
        let error = Gatekeeper { open: false }.caller(&none, &dummy, 0).unwrap_err();
        assert!(error.message.contains("keys create"), "{error}");
    }

    #[test]
    fn from_the_first_key_on_one_is_needed() {
        let (ring, token) = ring();
        let caller = |headers: &HeaderMap, now| {
            Gatekeeper { open: true }.caller(&ring, headers, now).map(|key| key.unwrap().id().to_string())
        };
        for (name, value) in [
            ("authorization", format!("Bearer {}", token.expose())),
            ("authorization", format!("bearer  {}", token.expose())),
            ("x-api-key", token.expose().to_owned()),
            ("api-key", token.expose().to_owned()),
        ] {
            assert_eq!(caller(&headers(name, &value), 0).unwrap(), "ci");
        }
        let wrong = token.expose().replace("-ci-", "-cd-");
        for (headers, now, part) in [
            (HeaderMap::new(), 0, "is needed"),
            (headers("authorization", "Basic abc"), 0, "is needed"),
            (headers("authorization", "Bearer sk-other"), 0, "not an API key of this gateway"),
            (headers("authorization", &format!("Bearer {wrong}")), 0, "not known"),
            (headers("x-api-key", token.expose()), 2_000, "expired"),
        ] {
            let error = caller(&headers, now).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unauthorized);
            assert!(error.message.contains(part), "{error}");
            assert!(!error.message.contains(token.expose()), "the secret is told");
        }
    }
}
