//! Tokens and keys as issuers make them, and an issuer that misbehaves on command.

mod keys;
mod tokens;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaKeyPair, RsaPublicKeyComponents,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Verifier;
use crate::config::{JwtConfig, parse};
use crate::outbound::{Bounds, Exchanged, Outbound, OutboundError};

const ISSUER: &str = "https://issuer.example/realms/chat";
const NOW: u64 = 1_800_000_000;

/// A private key of an issuer.
enum Signer {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    fn ed25519(seed: u8) -> Self {
        Self::from_seed(&[seed; 32])
    }

    fn from_seed(seed: &[u8; 32]) -> Self {
        Self::Ed25519(Ed25519KeyPair::from_seed_unchecked(seed).unwrap())
    }

    fn p256() -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random);
        Self::P256(key.unwrap())
    }

    fn rsa() -> Self {
        let key = PrivatePkcs8KeyDer::from_pem_slice(include_bytes!("tests/rsa.pem")).unwrap();
        Self::Rsa(RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap())
    }

    fn jwk(&self, id: &str) -> Value {
        match self {
            Self::Ed25519(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": encode(key.public_key())})
            }
            Self::P256(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": id, "use": "sig", "x": encode(x), "y": encode(y)})
            }
            Self::Rsa(key) => {
                let public: RsaPublicKeyComponents<Vec<u8>> = key.public().into();
                json!({"kty": "RSA", "kid": id, "use": "sig", "n": encode(public.n), "e": encode(public.e)})
            }
        }
    }

    fn sign(&self, message: &[u8], algorithm: &str) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Self::P256(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                if algorithm == "PS256" {
                    key.sign(&RSA_PSS_SHA256, &random, message, &mut signature).unwrap();
                } else {
                    key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                }
                signature
            }
        }
    }

    /// A token with this header and these claims.
    fn token(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self.sign(message.as_bytes(), header["alg"].as_str().unwrap());
        format!("{message}.{}", encode(signature))
    }
}

fn header(algorithm: &str, id: &str) -> Value {
    json!({"alg": algorithm, "kid": id, "typ": "JWT"})
}

/// Claims that are good at [`NOW`].
fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "guildhall", "sub": "ada", "exp": NOW + 300, "iat": NOW})
}

/// The same with some changed; null takes one away.
fn with(changes: Value) -> Value {
    let mut claims = claims();
    let (Value::Object(all), Value::Object(changes)) = (&mut claims, changes) else { unreachable!() };
    for (key, value) in changes {
        if value.is_null() {
            all.remove(&key)
        } else {
            all.insert(key, value)
        };
    }
    claims
}

fn set(keys: &[Value]) -> Bytes {
    json!({"keys": keys}).to_string().into()
}

fn config(more: &str) -> JwtConfig {
    let text = format!(
        "auth: {{jwt: [{{issuer: '{ISSUER}', audience: [guildhall], jwks_url: 'https://issuer.example/keys'{more}}}]}}"
    );
    parse(&text, &|_| None).unwrap().auth.jwt.remove(0)
}

/// An issuer that gives prepared answers, the last one for ever.
struct Fake {
    answers: Mutex<VecDeque<Answer>>,
    calls: AtomicUsize,
    urls: Mutex<Vec<String>>,
}

#[derive(Clone)]
enum Answer {
    Body(Bytes),
    Status(u16),
    /// This body, this late.
    Late(Duration, Bytes),
    Never,
}

impl Fake {
    fn new(answers: impl IntoIterator<Item = Answer>) -> Arc<Self> {
        let answers = Mutex::new(answers.into_iter().collect());
        Arc::new(Self { answers, calls: AtomicUsize::new(0), urls: Mutex::default() })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Outbound for Fake {
    fn exchange(&self, request: Request<Bytes>, _bounds: Bounds) -> Exchanged<'_> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.urls.lock().unwrap().push(request.uri().to_string());
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        Box::pin(async move {
            match answer {
                None => Err(OutboundError::Failed("connection refused".into())),
                Some(Answer::Body(body)) => Ok(Response::new(body)),
                Some(Answer::Late(time, body)) => {
                    tokio::time::sleep(time).await;
                    Ok(Response::new(body))
                }
                Some(Answer::Status(status)) => {
                    Ok(Response::builder().status(status).body(Bytes::new()).unwrap())
                }
                Some(Answer::Never) => std::future::pending().await,
            }
        })
    }
}

/// A verifier with its tasks.
struct Running {
    verifier: Verifier,
    fake: Arc<Fake>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Running {
    /// Waits until the keys were asked for and answered once, when the answer comes at once.
    async fn start(config: JwtConfig, answers: impl IntoIterator<Item = Answer>) -> Self {
        let (fake, tasks, stop) = (Fake::new(answers), TaskTracker::new(), CancellationToken::new());
        let verifier = Verifier::new(&[config]);
        let outbound: Arc<dyn Outbound> = fake.clone();
        verifier.spawn(&outbound, &tasks, &stop);
        tokio::time::sleep(Duration::from_millis(1)).await;
        Self { verifier, fake, tasks, stop }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
