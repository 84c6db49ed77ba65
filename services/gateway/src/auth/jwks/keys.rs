//! An issuer's public keys, and signatures checked with them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;
use serde_json::Value;

use crate::config::JwtAlgorithm;

/// Keys that are kept of a set. No issuer has more than a few.
const MOST: usize = 64;

/// The keys of a JWK set (RFC 7517) that can check a token's signature.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
}

#[derive(Debug, PartialEq, Eq)]
struct Key {
    id: Option<String>,
    /// The only algorithm that the issuer uses it with, where it says so.
    algorithm: Option<String>,
    material: Material,
}

/// A public key. What kind it is decides which algorithms it can check, whatever a token says.
#[derive(Debug, PartialEq, Eq)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// What came of checking a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// One of the keys made it.
    Good,
    /// None of the keys that the token may mean made it.
    Bad,
    /// There is no key with the token's key id.
    UnknownKey,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Reads a JWK set. Keys of kinds that we have no use for are passed over, as RFC 7517 section 5 asks.
    ///
    /// # Errors
    /// When it is no JWK set, or holds no key that can be used.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, &'static str> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(json).map_err(|_| "is no JWK set")?;
        let jwks = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<Key> = jwks.filter_map(Key::of).take(MOST).collect();
        if keys.is_empty() { Err("holds no key that can be used") } else { Ok(Self { keys }) }
    }

    /// Checks a signature with the key of this id, or with all keys when the token names none.
    pub(crate) fn check(
        &self,
        key_id: Option<&str>,
        algorithm: JwtAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Checked {
        let mut known = false;
        for key in self.keys.iter().filter(|key| key_id.is_none() || key.id.as_deref() == key_id) {
            known = true;
            if key.made(algorithm, message, signature) {
                return Checked::Good;
            }
        }
        if known { Checked::Bad } else { Checked::UnknownKey }
    }
}

impl Key {
    fn of(jwk: Jwk) -> Option<Self> {
        let signs = jwk.usage.as_deref().is_none_or(|u| u == "sig")
            && jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        let bytes = |text: Option<&String>| URL_SAFE_NO_PAD.decode(text?).ok();
        let point = |coordinate: usize| {
            let (x, y) = (bytes(jwk.x.as_ref())?, bytes(jwk.y.as_ref())?);
            let fits = x.len() == coordinate && y.len() == coordinate;
            fits.then(|| [&[4], x.as_slice(), y.as_slice()].concat())
        };
        let material = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => Material::Rsa { n: bytes(jwk.n.as_ref())?, e: bytes(jwk.e.as_ref())? },
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(jwk.x.as_ref()).filter(|x| x.len() == 32)?),
            _ => return None,
        };
        signs.then_some(Self { id: jwk.kid, algorithm: jwk.alg, material })
    }

    /// Whether the signature of the message was made with this key's other half.
    fn made(&self, algorithm: JwtAlgorithm, message: &[u8], signature: &[u8]) -> bool {
        use JwtAlgorithm as A;
        if self.algorithm.as_deref().is_some_and(|only| only != name(algorithm)) {
            return false;
        }
        let rsa = |parameters: &'static RsaParameters, n: &[u8], e: &[u8]| {
            RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
        };
        let other = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
        };
        match (algorithm, &self.material) {
            (A::RS256, Material::Rsa { n, e }) => rsa(&signature::RSA_PKCS1_2048_8192_SHA256, n, e),
            (A::RS384, Material::Rsa { n, e }) => rsa(&signature::RSA_PKCS1_2048_8192_SHA384, n, e),
            (A::RS512, Material::Rsa { n, e }) => rsa(&signature::RSA_PKCS1_2048_8192_SHA512, n, e),
            (A::PS256, Material::Rsa { n, e }) => rsa(&signature::RSA_PSS_2048_8192_SHA256, n, e),
            (A::PS384, Material::Rsa { n, e }) => rsa(&signature::RSA_PSS_2048_8192_SHA384, n, e),
            (A::PS512, Material::Rsa { n, e }) => rsa(&signature::RSA_PSS_2048_8192_SHA512, n, e),
            (A::ES256, Material::P256(point)) => other(&signature::ECDSA_P256_SHA256_FIXED, point),
            (A::ES384, Material::P384(point)) => other(&signature::ECDSA_P384_SHA384_FIXED, point),
            (A::EdDSA, Material::Ed25519(key)) => other(&signature::ED25519, key),
            _ => false,
        }
    }
}

/// The name of an algorithm in tokens and keys.
pub(crate) fn name(algorithm: JwtAlgorithm) -> &'static str {
    use JwtAlgorithm as A;
    match algorithm {
        A::RS256 => "RS256",
        A::RS384 => "RS384",
        A::RS512 => "RS512",
        A::PS256 => "PS256",
        A::PS384 => "PS384",
        A::PS512 => "PS512",
        A::ES256 => "ES256",
        A::ES384 => "ES384",
        A::EdDSA => "EdDSA",
    }
}
