//! A token's parts, read but not yet believed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::JwtError;
use crate::auth::jwks::name;
use crate::config::JwtAlgorithm;

/// Longest token that is looked at, in bytes. Headers are limited anyway; claims are a few hundred bytes.
const LONGEST: usize = 16 << 10;

/// A signed token in compact form (RFC 7515 section 3.1), its signature not yet checked.
pub(super) struct Token<'a> {
    pub(super) algorithm: JwtAlgorithm,
    pub(super) key_id: Option<String>,
    /// What was signed.
    pub(super) message: &'a [u8],
    pub(super) signature: Vec<u8>,
    pub(super) claims: Unverified,
}

/// What a token says.
pub(super) struct Unverified(Map<String, Value>);

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

impl<'a> Token<'a> {
    /// Takes a token apart. The key that it may carry or point to is not looked at.
    pub(super) fn parse(text: &'a str) -> Result<Self, JwtError> {
        let malformed = |_| JwtError::Malformed;
        if text.len() > LONGEST {
            return Err(JwtError::Malformed);
        }
        let (message, signature) = text.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(JwtError::Malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Malformed);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(malformed)?;
        let algorithm = ALGORITHMS.into_iter().find(|a| name(*a) == header.alg);
        // Extensions that must be understood (RFC 7515 section 4.1.11): we understand none.
        if header.crit.is_some() || !header.typ.as_deref().is_none_or(is_access_token) {
            return Err(JwtError::Malformed);
        }
        Ok(Self {
            algorithm: algorithm.ok_or(JwtError::Algorithm)?,
            key_id: header.kid,
            message: message.as_bytes(),
            signature: decode(signature)?,
            claims: Unverified(serde_json::from_slice(&decode(claims)?).map_err(malformed)?),
        })
    }
}

const ALGORITHMS: [JwtAlgorithm; 9] = {
    use JwtAlgorithm as A;
    [A::RS256, A::RS384, A::RS512, A::PS256, A::PS384, A::PS512, A::ES256, A::ES384, A::EdDSA]
};

/// Tokens of a stated other type, such as logout tokens, are not for us (RFC 8725 section 3.11).
fn is_access_token(kind: &str) -> bool {
    ["jwt", "at+jwt", "application/at+jwt"].iter().any(|known| kind.eq_ignore_ascii_case(known))
}

impl Unverified {
    /// A claim by its key, or by a JSON pointer (RFC 6901).
    pub(super) fn get(&self, claim: &str) -> Option<&Value> {
        let Some(path) = claim.strip_prefix('/') else { return self.0.get(claim) };
        let (first, rest) =
            path.split_once('/').map_or((path, ""), |(first, _)| (first, &path[first.len()..]));
        self.0.get(&first.replace("~1", "/").replace("~0", "~"))?.pointer(rest)
    }

    /// A claim that is a text.
    pub(super) fn text(&self, claim: &str) -> Option<&str> {
        self.get(claim)?.as_str()
    }

    /// A claim that is one text or several.
    pub(super) fn texts(&self, claim: &str) -> impl Iterator<Item = &str> {
        let value = self.get(claim);
        let several = value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        value.and_then(Value::as_str).into_iter().chain(several)
    }

    /// A claim that is a time (RFC 7519 section 2, `NumericDate`), in whole seconds since 1970.
    ///
    /// # Errors
    /// When it is there and is no time: it must not pass for absent.
    pub(super) fn time(&self, claim: &str) -> Result<Option<u64>, JwtError> {
        let Some(value) = self.get(claim) else { return Ok(None) };
        let seconds = value.as_f64().filter(|s| (0.0..1e15).contains(s)).ok_or(JwtError::Malformed)?;
        Ok(Some(seconds as u64))
    }
}
