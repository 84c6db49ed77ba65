//! Keys that come late, change, or do not come.

use tokio::time::Instant;

use super::*;
use crate::auth::jwks::KeySet;
use crate::auth::jwt::JwtError;

fn token(signer: &Signer, id: &str) -> String {
    signer.token(&header("EdDSA", id), &claims())
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_fetched_when_a_token_names_it() {
    let (old, new) = (Signer::ed25519(1), Signer::ed25519(2));
    let rotated = set(&[old.jwk("k1"), new.jwk("k2")]);
    let running =
        Running::start(config(""), [Answer::Body(set(&[old.jwk("k1")])), Answer::Body(rotated)]).await;
    let late = token(&new, "k2");
    assert_eq!(running.verifier.verify(&late, NOW), Err(JwtError::UnknownKey));
    // The keys were read a moment ago: nobody waits, nobody asks.
    let begun = Instant::now();
    assert_eq!(running.verifier.verify_renewed(&late, NOW).await, Err(JwtError::UnknownKey));
    assert_eq!((begun.elapsed(), running.fake.calls()), (Duration::ZERO, 1));
    tokio::time::sleep(Duration::from_secs(10)).await;
    running.verifier.verify_renewed(&late, NOW).await.unwrap();
    running.verifier.verify_renewed(&token(&old, "k1"), NOW).await.unwrap();
    assert_eq!(running.fake.calls(), 2);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn however_many_ask_the_issuer_is_asked_once_in_ten_seconds() {
    let signer = Signer::ed25519(1);
    let answer = Answer::Late(Duration::from_millis(100), set(&[signer.jwk("k1")]));
    let running = Running::start(config(""), [answer]).await;
    let unknown = token(&signer, "k9");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_mins(1) {
        let asked = (0..20).map(|_| running.verifier.verify_renewed(&unknown, NOW));
        for answer in futures_util::future::join_all(asked).await {
            assert_eq!(answer, Err(JwtError::UnknownKey));
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    assert!((4..=7).contains(&running.fake.calls()), "{}", running.fake.calls());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_key_takes_its_remembered_tokens_with_it() {
    let (old, new) = (Signer::ed25519(1), Signer::ed25519(2));
    let running = Running::start(
        config(", refresh_s: 20"),
        [Answer::Body(set(&[old.jwk("k1")])), Answer::Body(set(&[new.jwk("k2")]))],
    )
    .await;
    let token = token(&old, "k1");
    running.verifier.verify(&token, NOW).unwrap();
    running.verifier.verify(&token, NOW).unwrap();
    tokio::time::sleep(Duration::from_secs(21)).await;
    assert_eq!(running.verifier.verify(&token, NOW), Err(JwtError::UnknownKey));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_or_dead_issuer_holds_nobody_for_long() {
    for answer in [Answer::Never, Answer::Late(Duration::from_secs(4), set(&[]))] {
        let signer = Signer::ed25519(1);
        let running = Running::start(config(""), [answer]).await;
        let token = token(&signer, "k1");
        assert_eq!(running.verifier.verify(&token, NOW), Err(JwtError::NoKeys));
        for _ in 0..5 {
            let begun = Instant::now();
            assert_eq!(running.verifier.verify_renewed(&token, NOW).await, Err(JwtError::NoKeys));
            assert!(begun.elapsed() <= Duration::from_millis(501), "{:?}", begun.elapsed());
        }
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_good_keys_stay_while_the_issuer_fails() {
    let signer = Signer::ed25519(1);
    let oversized = Bytes::from(vec![b' '; 300 << 10]);
    let failures = [
        Answer::Status(500),
        Answer::Body("<html>".into()),
        Answer::Body(set(&[])),
        Answer::Body(set(&[json!({"kty": "oct", "kid": "k1", "k": "c2VjcmV0"})])),
        Answer::Body(oversized),
        Answer::Never,
    ];
    let answers = std::iter::once(Answer::Body(set(&[signer.jwk("k1")]))).chain(failures);
    let running = Running::start(config(", refresh_s: 10"), answers).await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert!(running.fake.calls() > 7, "{}", running.fake.calls());
    running.verifier.verify(&token(&signer, "k1"), NOW).unwrap();
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_oversized_set_is_not_read() {
    let signer = Signer::ed25519(1);
    let mut text = set(&[signer.jwk("k1")]).to_vec();
    text.resize(300 << 10, b' ');
    let running = Running::start(config(""), [Answer::Body(text.into())]).await;
    assert_eq!(running.verifier.verify(&token(&signer, "k1"), NOW), Err(JwtError::NoKeys));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_address_of_the_keys_is_asked_of_the_provider() {
    let signer = Signer::ed25519(1);
    let discovered = |metadata: Value, at: &str| {
        let answers = [Answer::Body(metadata.to_string().into()), Answer::Body(set(&[signer.jwk("k1")]))];
        let mut config = config("");
        config.jwks_url = None;
        let (token, at) = (token(&signer, "k1"), at.to_owned());
        async move {
            let running = Running::start(config, answers).await;
            let urls = running.fake.urls.lock().unwrap().clone();
            assert_eq!(urls[0], format!("{ISSUER}/.well-known/openid-configuration"));
            let good = urls.get(1) == Some(&at) && running.verifier.verify(&token, NOW).is_ok();
            running.stop().await;
            good
        }
    };
    let keys = "https://issuer.example/keys";
    assert!(discovered(json!({"issuer": ISSUER, "jwks_uri": keys}), keys).await);
    assert!(!discovered(json!({"issuer": "https://other.example", "jwks_uri": keys}), keys).await);
    let plain = "http://issuer.example/keys";
    assert!(!discovered(json!({"issuer": ISSUER, "jwks_uri": plain}), plain).await);
}

#[tokio::test(start_paused = true)]
async fn keys_may_come_from_a_file() {
    let (old, new) = (Signer::ed25519(1), Signer::ed25519(2));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, set(&[old.jwk("k1")])).unwrap();
    let mut config = config(", refresh_s: 10");
    (config.jwks_url, config.jwks_file) = (None, Some(file.clone()));
    let running = Running::start(config, []).await;
    running.verifier.verify_renewed(&token(&old, "k1"), NOW).await.unwrap();
    std::fs::write(&file, set(&[new.jwk("k2")])).unwrap();
    tokio::time::sleep(Duration::from_secs(21)).await;
    running.verifier.verify_renewed(&token(&new, "k2"), NOW).await.unwrap();
    assert_eq!(running.fake.calls(), 0);
    running.stop().await;
}

#[test]
fn keys_that_are_no_use_are_passed_over() {
    let rsa = Signer::rsa().jwk("k1");
    let parse = |keys: &[Value]| KeySet::parse(&set(keys));
    let changed = |key: &str, value: Value| {
        let mut jwk = rsa.clone();
        jwk[key] = value;
        jwk
    };
    let good = parse(std::slice::from_ref(&rsa)).unwrap();
    for useless in [
        changed("use", json!("enc")),
        changed("key_ops", json!(["encrypt"])),
        changed("n", json!("not base64!")),
        changed("kty", json!("new")),
        json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        json!("no object"),
    ] {
        assert_eq!(parse(&[useless.clone(), rsa.clone()]).as_ref(), Ok(&good), "{useless}");
        parse(&[useless]).unwrap_err();
    }
}
