//! The admin API's bearer token: shown once, kept as a hash.

use std::fmt::Write as _;

use experts::Secret;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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

    /// Whether a token is the one that this is the hash of. The comparison's time does not depend on where
    /// the hashes differ.
    pub fn matches(&self, token: &str) -> bool {
        let given = Self::of(token).sha256;
        given.len() == self.sha256.len()
            && given.bytes().zip(self.sha256.bytes()).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
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
    fn only_the_token_matches_its_hash() {
        let token = AdminToken::from_random([7; 24]);
        let hash = TokenHash::of(token.expose());
        assert!(hash.matches(token.expose()));
        assert!(!hash.matches("gh-admin-"));
        assert!(!hash.matches(""));
        assert!(!serde_json::to_string(&hash).unwrap().contains(token.expose()));
    }
}
