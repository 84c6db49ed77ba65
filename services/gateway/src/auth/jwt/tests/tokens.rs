//! Which tokens are believed.

use proptest::prelude::*;
use tokio::runtime::Builder;

use super::*;
use crate::auth::jwt::{Claims, JwtError};

async fn started(signer: &Signer, more: &str) -> Running {
    Running::start(config(more), [Answer::Body(set(&[signer.jwk("k1")]))]).await
}

fn verify(running: &Running, token: &str) -> Result<Claims, JwtError> {
    running.verifier.verify(token, NOW).map(|claims| (*claims).clone())
}

#[tokio::test(start_paused = true)]
async fn good_tokens_of_each_kind_are_believed() {
    let all = ", algorithms: [RS256, PS256, ES256, EdDSA]";
    for (signer, algorithm) in [
        (Signer::rsa(), "RS256"),
        (Signer::rsa(), "PS256"),
        (Signer::p256(), "ES256"),
        (Signer::ed25519(1), "EdDSA"),
    ] {
        let running = started(&signer, all).await;
        let token = signer.token(&header(algorithm, "k1"), &claims());
        assert!(Verifier::is_jwt(&token));
        for _ in 0..2 {
            let claims = verify(&running, &token).unwrap();
            assert_eq!((&*claims.issuer, &*claims.subject, claims.expires), (ISSUER, "ada", NOW + 300));
            assert_eq!((claims.team, claims.roles.len(), claims.routes), (None, 0, None));
        }
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_wrong_claim_is_refused_for_its_reason() {
    let signer = Signer::ed25519(1);
    let running = started(&signer, "").await;
    for (changes, error) in [
        (json!({"iss": "https://other.example"}), JwtError::Issuer),
        (json!({"iss": null}), JwtError::Issuer),
        (json!({"iss": [ISSUER]}), JwtError::Issuer),
        (json!({"aud": "billing"}), JwtError::Audience),
        (json!({"aud": ["billing", "guild"]}), JwtError::Audience),
        (json!({"aud": null}), JwtError::Audience),
        (json!({"exp": NOW - 61}), JwtError::Expired),
        (json!({"exp": null}), JwtError::Expired),
        (json!({"exp": (NOW + 300).to_string()}), JwtError::Malformed),
        (json!({"nbf": NOW + 61}), JwtError::NotYetValid),
        (json!({"iat": NOW + 61}), JwtError::NotYetValid),
        (json!({"nbf": "soon"}), JwtError::Malformed),
        (json!({"sub": null}), JwtError::Subject),
        (json!({"sub": ""}), JwtError::Subject),
    ] {
        let token = signer.token(&header("EdDSA", "k1"), &with(changes.clone()));
        assert_eq!(verify(&running, &token).unwrap_err(), error, "{changes}");
    }
    let near =
        json!({"aud": ["billing", "guildhall"], "exp": NOW - 59, "nbf": NOW + 60, "iat": NOW as f64 + 0.5});
    verify(&running, &signer.token(&header("EdDSA", "k1"), &with(near))).unwrap();
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_remembered_token_expires() {
    let signer = Signer::ed25519(1);
    let running = started(&signer, "").await;
    let token = signer.token(&header("EdDSA", "k1"), &claims());
    running.verifier.verify(&token, NOW + 359).unwrap();
    assert_eq!(running.verifier.verify(&token, NOW + 360), Err(JwtError::Expired));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn tricks_with_the_algorithm_do_not_help() {
    let rsa = Signer::rsa();
    let running = started(&rsa, "").await;
    let good = rsa.token(&header("RS256", "k1"), &claims());
    verify(&running, &good).unwrap();

    let unsigned = format!("{}.{}.", encode(header("none", "k1").to_string()), encode(claims().to_string()));
    assert_eq!(verify(&running, &unsigned), Err(JwtError::Algorithm));

    // The public key, which everybody has, as a shared secret.
    let Value::String(modulus) = rsa.jwk("k1")["n"].take() else { unreachable!() };
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, modulus.as_bytes());
    let message = format!("{}.{}", encode(header("HS256", "k1").to_string()), encode(claims().to_string()));
    let tag = ring::hmac::sign(&key, message.as_bytes());
    let forged = format!("{message}.{}", encode(tag));
    assert_eq!(verify(&running, &forged), Err(JwtError::Algorithm));

    // An accepted algorithm that is not this key's, and a known one that is not accepted.
    let message = format!("{}.{}", encode(header("EdDSA", "k1").to_string()), encode(claims().to_string()));
    let mixed = format!("{message}.{}", encode([0; 64]));
    assert_eq!(verify(&running, &mixed), Err(JwtError::Signature));
    let unwanted = rsa.token(&header("PS256", "k1"), &claims());
    assert_eq!(verify(&running, &unwanted), Err(JwtError::Algorithm));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_the_token_brings_along_is_not_used() {
    let (own, foreign) = (Signer::ed25519(1), Signer::ed25519(2));
    let running = started(&own, "").await;
    let mut header = header("EdDSA", "k1");
    header["jwk"] = foreign.jwk("k1");
    header["jku"] = json!("https://attacker.example/keys");
    assert_eq!(verify(&running, &foreign.token(&header, &claims())), Err(JwtError::Signature));
    assert_eq!(running.fake.calls(), 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn headers_that_are_not_understood_are_refused() {
    let signer = Signer::ed25519(1);
    let running = started(&signer, "").await;
    for (key, value) in [("crit", json!(["exp"])), ("typ", json!("logout+jwt")), ("kid", json!(7))] {
        let mut header = header("EdDSA", "k1");
        header[key] = value;
        assert_eq!(verify(&running, &signer.token(&header, &claims())), Err(JwtError::Malformed), "{key}");
    }
    for text in ["", ".", "..", "eyJ.eyJ", "a.b.c", "e30.e30.e30", &format!("eyJ{}.a.b", "x".repeat(20_000))]
    {
        assert_eq!(verify(&running, text), Err(JwtError::Malformed), "{text:.20}");
    }
    let token = signer.token(&header("EdDSA", "k1"), &claims());
    assert_eq!(verify(&running, &format!("{token}=")), Err(JwtError::Malformed));
    // Without a key id, the key is found by trying.
    verify(&running, &signer.token(&json!({"alg": "EdDSA"}), &claims())).unwrap();
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn claims_are_mapped() {
    let signer = Signer::ed25519(1);
    let sign = |changes| signer.token(&header("EdDSA", "k1"), &with(changes));
    let running = started(
        &signer,
        ", team_claim: /realm/groups, teams: {'/platform': platform, '/search': search}, subject_claim: email, \
         roles_claim: 'https://claims.example/roles', required_roles: [chat user, admin], routes: [auto, cheap]",
    )
    .await;
    let full = json!({
        "email": "ada@guild.example", "https://claims.example/roles": ["other", "chat user"],
        "realm": {"groups": ["/unknown", "/search", "/platform"]},
    });
    let claims = verify(&running, &sign(full.clone())).unwrap();
    assert_eq!((&*claims.subject, claims.team.as_deref()), ("ada@guild.example", Some("search")));
    assert_eq!(claims.roles, ["other".into(), "chat user".into()]);
    assert_eq!(
        claims.routes.unwrap().iter().map(routing::ExpertId::as_str).collect::<Vec<_>>(),
        ["auto", "cheap"]
    );
    for (key, value, error) in [
        ("realm", json!({"groups": "/unknown"}), JwtError::Team),
        ("realm", json!(null), JwtError::Team),
        ("https://claims.example/roles", json!("chat user"), JwtError::Role),
        ("email", json!(1), JwtError::Subject),
    ] {
        let mut changed = full.clone();
        changed[key] = value;
        assert_eq!(verify(&running, &sign(changed)).unwrap_err(), error, "{key}");
    }
    running.stop().await;

    let running = started(&signer, ", team_claim: team, default_team: guests, required_roles: [chat]").await;
    let team = |changes| verify(&running, &sign(changes)).unwrap().team;
    assert_eq!(team(json!({"scope": "openid chat"})).as_deref(), Some("guests"));
    assert_eq!(team(json!({"scope": "chat", "team": "core"})).as_deref(), Some("core"));
    running.stop().await;
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_token_of_another_key_is_never_believed(
        own: [u8; 32], foreign: [u8; 32], named in prop::option::of("[a-z0-9]{1,4}"),
    ) {
        prop_assume!(own != foreign);
        let refused = block_on(async {
            let running = started(&Signer::from_seed(&own), "").await;
            let mut header = json!({"alg": "EdDSA"});
            if let Some(named) = named {
                header["kid"] = named.into();
            }
            let refused = verify(&running, &Signer::from_seed(&foreign).token(&header, &claims())).is_err();
            running.stop().await;
            refused
        });
        prop_assert!(refused);
    }

    #[test]
    fn a_changed_token_is_never_believed(at: prop::sample::Index, byte in 0x21_u8..0x7f) {
        let signer = Signer::ed25519(1);
        let token = signer.token(&header("EdDSA", "k1"), &claims());
        let mut changed = token.clone().into_bytes();
        let at = at.index(changed.len());
        prop_assume!(changed[at] != byte);
        changed[at] = byte;
        let refused = block_on(async {
            let running = started(&signer, "").await;
            verify(&running, &token).unwrap();
            let refused = verify(&running, std::str::from_utf8(&changed).unwrap()).is_err();
            running.stop().await;
            refused
        });
        prop_assert!(refused);
    }

    #[test]
    fn any_text_is_survived(text in "\\PC{0,200}") {
        prop_assert!(Verifier::new(&[config("")]).verify(&text, NOW).is_err());
    }
}
