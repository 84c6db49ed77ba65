//! The admin API's bearer tokens: shown once, kept as hashes.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

use experts::Secret;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::{AdminTokenConfig, OWNER, Role};

/// A new token, before it is shown.
pub struct AdminToken(Secret);

/// What is kept of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenHash {
    /// SHA-256, as hexadecimal digits. A token has 192 random bits, so that no slow hash is needed.
    sha256: String,
}

impl AdminToken {
    /// Makes a token out of random bytes.
    pub fn from_random(random: [u8; 24]) -> Self {
        Self(Secret::new(format!("gh-admin-{}", hex(&random))))
    }

    /// The token itself.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl TokenHash {
    /// The hash of a token.
    pub fn of(token: &str) -> Self {
        Self { sha256: hex(&Sha256::digest(token.as_bytes())) }
    }

    /// Whether both are hashes of the same token. The comparison's time does not depend on where they differ.
    fn matches(&self, other: &Self) -> bool {
        let pairs = self.sha256.bytes().zip(other.sha256.bytes());
        let different = pairs.fold(0, |different, (a, b)| different | (a ^ b));
        self.sha256.len() == other.sha256.len() && black_box(different) == 0
    }
}

/// All tokens that open the admin API.
#[derive(Clone, Debug)]
pub struct Credentials(Vec<Credential>);

/// A token's holder.
#[derive(Clone, Debug)]
struct Credential {
    actor: Actor,
    role: Role,
    hash: TokenHash,
}

/// Who acts, as the audit log names them.
#[derive(Clone, Debug)]
pub(super) struct Actor(Arc<str>);

impl Actor {
    pub(super) fn name(&self) -> &str {
        &self.0
    }
}

impl Credentials {
    /// The owner's token, and the configured ones.
    pub fn new(owner: TokenHash, configured: &[AdminTokenConfig]) -> Self {
        let owner = Credential { actor: Actor(OWNER.into()), role: Role::Admin, hash: owner };
        let configured = configured.iter().map(|token| Credential {
            actor: Actor(token.name.as_str().into()),
            role: token.role,
            hash: TokenHash::of(token.token.expose()),
        });
        Self(std::iter::once(owner).chain(configured).collect())
    }

    /// Who holds a token, and what they may do.
    pub(super) fn holder(&self, token: &str) -> Option<(&Actor, Role)> {
        let given = TokenHash::of(token);
        // All are compared, so that the time does not tell which of them it is.
        let found =
            self.0.iter().fold(None, |found, one| if one.hash.matches(&given) { Some(one) } else { found });
        found.map(|one| (&one.actor, one.role))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_hash() {
        let token = AdminToken::from_random([7; 24]);
        let hash = TokenHash::of(token.expose());
        assert!(!serde_json::to_string(&hash).unwrap().contains(token.expose()));
        let viewer = AdminTokenConfig {
            name: "board".into(),
            role: Role::Viewer,
            token: Secret::new("a-token-of-the-board".to_owned()),
        };
        let credentials = Credentials::new(hash, &[viewer]);
        let holder = |token: &str| credentials.holder(token).map(|(actor, role)| (actor.name(), role));
        assert_eq!(holder(token.expose()), Some(("admin", Role::Admin)));
        assert_eq!(holder("a-token-of-the-board"), Some(("board", Role::Viewer)));
        assert_eq!(holder("gh-admin-"), None);
        assert_eq!(holder(""), None);
    }
}
