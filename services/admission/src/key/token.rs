use std::fmt;
use std::hint::black_box;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

/// What every token begins with.
const PREFIX: &str = "sk-guildhall-";

/// Digits of a secret.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Length of a secret: base62 digits that hold 256 bits.
const SECRET_LENGTH: usize = 43;

/// Lengths of secrets that are accepted; other lengths than ours come with keys made elsewhere.
const ACCEPTED: std::ops::RangeInclusive<usize> = 32..=128;

/// A token as handed to its owner, once. `Debug` does not show it.
#[derive(Clone)]
pub struct Token {
    text: String,
    hash: SecretHash,
}

impl Token {
    /// Makes the token of the key `id` from random bytes, which must come from the operating system's
    /// generator.
    pub fn from_random(id: &str, random: [u8; 32]) -> Self {
        let mut number = random;
        let digits = std::iter::repeat_with(|| char::from(BASE62[divide_by_62(&mut number)]));
        let secret: String = digits.take(SECRET_LENGTH).collect();
        Self { text: format!("{PREFIX}{id}-{secret}"), hash: SecretHash::of(&secret) }
    }

    /// The token, to be shown to its owner and to nobody else.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// What is kept of it.
    pub fn hash(&self) -> SecretHash {
        self.hash
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Divides a big-endian number and returns the remainder.
fn divide_by_62(number: &mut [u8; 32]) -> usize {
    let mut remainder = 0;
    for byte in number {
        let value = remainder << 8 | usize::from(*byte);
        *byte = (value / 62) as u8;
        remainder = value % 62;
    }
    remainder
}

/// A token's id and secret; `None` when it has not the form of one.
pub(super) fn parse(token: &str) -> Option<(&str, &str)> {
    // An id may hold dashes, a secret does not.
    let (id, secret) = token.strip_prefix(PREFIX)?.rsplit_once('-')?;
    let well_formed = (1..=64).contains(&id.len())
        && ACCEPTED.contains(&secret.len())
        && secret.bytes().all(|b| b.is_ascii_alphanumeric());
    well_formed.then_some((id, secret))
}

/// The SHA-256 of a token's secret, written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, pattern = "^sha256:[0-9a-f]{64}$")]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash of a secret, the part of a token after its last dash.
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Compares in a time that does not depend on where the hashes differ.
    pub(super) fn matches(&self, other: &Self) -> bool {
        let different = self.0.iter().zip(&other.0).fold(0, |different, (a, b)| different | (a ^ b));
        black_box(different) == 0
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:")?.as_bytes();
        let mut hash = [0; 32];
        if digits.len() != 2 * hash.len() {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Some(Self(hash))
    }
}

// What is kept secret at rest is kept out of logs, too.
impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

impl Serialize for SecretHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in self.0 {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
            }
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for SecretHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // The text stays out of the message: it could be the secret itself.
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom("a secret's hash must be `sha256:` and 64 hexadecimal digits")
        })
    }
}
