//! Who is let in, and what a key may use.

use std::fmt::Write;

use e2e::{Answer, Client, Gateway};
use serde_json::Value;

use crate::support::{ask, chat, fixed, key, llm, mock, token, until};

/// Whether an answer is an error of that status, in OpenAI's form and without anybody's secret.
fn is_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let body = answer.json();
    let error = body["error"].as_object().unwrap_or_else(|| panic!("{body}"));
    let keys: Vec<_> = error.keys().map(String::as_str).collect();
    assert_eq!(keys, ["code", "message", "param", "type"], "{body}");
    assert_eq!(error["code"], code, "{body}");
    assert!(!error["message"].as_str().unwrap().contains("sk-guildhall-ci-ci"), "{body}");
}

#[tokio::test]
async fn without_keys_the_machine_itself_is_let_in() {
    let mock = mock().await;
    let config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    assert_eq!(client.post(&gateway.v1("chat/completions"), &ask("auto", "hi")).await.unwrap().status, 200);
    // Client libraries insist on some key; it means nothing, and is not passed on.
    assert_eq!(chat(&client, &gateway, "whoever", &[], &ask("coder", "hi")).await.status, 200);
    let seen = mock.stats().recent;
    assert!(seen.iter().all(|seen| !seen.headers.contains_key("authorization")), "{seen:?}");
}

#[tokio::test]
async fn from_the_first_key_on_every_request_needs_one() {
    let mock = mock().await;
    let mut config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
    config.push_str("teams:\n  - {id: closed, disabled: true}\nkeys:\n");
    for (id, rest) in
        [("ci", ""), ("old", "expires_ms: 1000"), ("off", "disabled: true"), ("of-closed", "team: closed")]
    {
        config.push_str(&key(id, rest));
    }
    let _ =
        writeln!(config, "  - {{id: rotated, secrets: [{{token: {}, expires_ms: 5}}]}}", token("rotated"));
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let (url, body) = (gateway.v1("chat/completions"), ask("auto", "hi").to_string());
    let bearer = |token: &str| format!("Bearer {token}");
    let cases = [
        ("host", "x".to_owned(), "needed"),
        ("authorization", "Basic abc".into(), "needed"),
        ("authorization", bearer("sk-of-somebody-else"), "not an API key of this gateway"),
        ("authorization", bearer(&token("nobody")), "not known"),
        ("authorization", bearer(&token("ci").replace("-cici", "-icic")), "not known"),
        ("x-api-key", token("nobody"), "not known"),
        ("api-key", token("old"), "expired"),
        ("authorization", bearer(&token("rotated")), "expired"),
        ("authorization", bearer(&token("off")), "disabled"),
        ("authorization", bearer(&token("of-closed")), "disabled"),
    ];
    for (header, value, says) in &cases {
        let answer = client.send("POST", &url, &[(header, value)], body.clone()).await.unwrap();
        is_error(&answer, 401, "invalid_api_key");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        assert_eq!(answer.json()["error"]["type"], "authentication_error");
        assert!(answer.text().contains(says), "{says}: {}", answer.text());
        assert!(!answer.text().contains(&**value) || *header == "host", "{}", answer.text());
        for path in ["models", "models/auto", "embeddings", "completions", "responses"] {
            let method = if path.starts_with("models") { "GET" } else { "POST" };
            let answer = client.send(method, &gateway.v1(path), &[(header, value)], body.clone()).await;
            is_error(&answer.unwrap(), 401, "invalid_api_key");
        }
    }
    assert_eq!(mock.stats().requests, 0, "somebody got through");
    for (header, value) in
        [("authorization", bearer(&token("ci"))), ("x-api-key", token("ci")), ("api-key", token("ci"))]
    {
        let answer = client.send("POST", &url, &[(header, &value)], body.clone()).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    for seen in mock.stats().recent {
        let names = ["authorization", "x-api-key", "api-key"];
        assert!(names.iter().all(|name| !seen.headers.contains_key(*name)), "{seen:?}");
    }
}

/// Two experts behind two routes, and one more route that tries both.
async fn two_experts(keys: &str) -> (mock_expert::Mock, Gateway) {
    let mock = mock().await;
    let mut config = format!("experts:\n{}{}", llm("a", &mock.url(), ""), llm("b", &mock.url(), ""));
    config.push_str(&fixed(&["a"]));
    config.push_str("  - {id: other, policy: {kind: static, order: [{expert: b}]}}\n");
    config
        .push_str("  - {id: both, policy: {kind: static, order: [{expert: a}, {expert: b}]}, default: a}\n");
    config.push_str(keys);
    let gateway = Gateway::start(&config).unwrap();
    (mock, gateway)
}

#[tokio::test]
async fn a_key_uses_only_what_it_may() {
    let mut keys = "teams:\n  - {id: team-b, experts: [b]}\nkeys:\n".to_owned();
    keys.push_str(&key("narrow", "routes: [auto], experts: [a]"));
    keys.push_str(&key("namer", "experts: [a], permissions: {name_experts: true}"));
    keys.push_str(&key("only-b", "experts: [b]"));
    keys.push_str(&key("member", "team: team-b"));
    keys.push_str(&key("nothing", "routes: [], experts: []"));
    let (mock, gateway) = two_experts(&keys).await;
    let client = Client::default();
    let plain: &[(&str, &str)] = &[];
    let force_a: &[_] = &[("x-guildhall-force-expert", "a")];
    let force_b: &[_] = &[("x-guildhall-force-expert", "b")];
    // Key, model, headers, and who answers, or nobody.
    let cases = [
        ("narrow", "auto", plain, Some("a")),
        ("narrow", "other", plain, None),
        ("narrow", "a", plain, None),
        ("narrow", "auto", force_a, None),
        ("namer", "a", plain, Some("a")),
        ("namer", "auto", force_a, Some("a")),
        ("namer", "b", plain, None),
        ("namer", "auto", force_b, None),
        ("namer", "other", plain, None),
        ("only-b", "both", plain, Some("b")),
        ("only-b", "auto", plain, None),
        ("member", "both", plain, Some("b")),
        ("member", "auto", plain, None),
        ("nothing", "auto", plain, None),
    ];
    for (key, model, headers, expert) in cases {
        let before = mock.stats().requests;
        let answer = chat(&client, &gateway, key, headers, &ask(model, "hi")).await;
        let case = format!("{key} {model} {headers:?}: {}", answer.text());
        if let Some(expert) = expert {
            assert_eq!((answer.status, answer.header("x-guildhall-expert")), (200, expert), "{case}");
        } else {
            is_error(&answer, 403, "forbidden");
            assert_eq!(mock.stats().requests, before, "{case}");
        }
    }
}

#[tokio::test]
async fn the_list_of_models_is_what_the_key_may_use() {
    let mut keys = "keys:\n".to_owned();
    keys.push_str(&key("narrow", "routes: [auto], experts: [a]"));
    keys.push_str(&key("namer", "experts: [a], permissions: {name_experts: true}"));
    let (_mock, gateway) = two_experts(&keys).await;
    let client = Client::default();
    let get = async |key: &str, path: &str| {
        let bearer = format!("Bearer {}", token(key));
        client.send("GET", &gateway.v1(path), &[("authorization", &bearer)], "").await.unwrap()
    };
    for (key, expected) in [("narrow", vec!["auto"]), ("namer", vec!["auto", "both", "other", "a"])] {
        let list = get(key, "models").await.json();
        let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|m| m["id"].clone()).collect();
        assert_eq!(ids, expected, "{key}");
    }
    assert_eq!(get("namer", "models/a").await.json()["id"], "a");
    let hidden = get("narrow", "models/other").await;
    is_error(&hidden, 404, "model_not_found");
    assert!(!hidden.text().contains("did you mean `other`"), "{}", hidden.text());
}

#[tokio::test]
async fn debug_headers_are_a_permission() {
    let mut keys = "keys:\n".to_owned();
    keys.push_str(&key("plain", ""));
    keys.push_str(&key("curious", "permissions: {debug_headers: true}"));
    let (_mock, gateway) = two_experts(&keys).await;
    let client = Client::default();
    let debug = [("x-guildhall-debug", "true")];
    for (key, shown) in [("plain", false), ("curious", true)] {
        let answer = chat(&client, &gateway, key, &debug, &ask("both", "hi")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers.contains_key("x-guildhall-candidates"), shown, "{:?}", answer.headers);
        assert_eq!(answer.headers.contains_key("x-guildhall-router"), shown, "{:?}", answer.headers);
    }
}

#[tokio::test]
async fn an_address_that_others_can_reach_is_closed_until_there_is_a_key() {
    let mock = mock().await;
    let config = format!(
        "data: {{listen: '0.0.0.0:0'}}\nexperts:\n{}{}",
        llm("coder", &mock.url(), ""),
        fixed(&["coder"])
    );
    let mut gateway = Gateway::start(&config).unwrap();
    gateway.url = gateway.url.replace("0.0.0.0", "127.0.0.1");
    let client = Client::default();
    let url = gateway.v1("chat/completions");
    for answer in [
        client.post(&url, &ask("auto", "hi")).await.unwrap(),
        chat(&client, &gateway, "ci", &[], &ask("auto", "hi")).await,
        client.get(&gateway.v1("models")).await.unwrap(),
    ] {
        is_error(&answer, 401, "invalid_api_key");
        assert!(answer.text().contains("keys create"), "{}", answer.text());
    }
    gateway.rewrite(&format!("{config}keys:\n{}", key("ci", ""))).unwrap();
    gateway.signal("HUP").unwrap();
    until("the key is in use", async || {
        chat(&client, &gateway, "ci", &[], &ask("auto", "hi")).await.status == 200
    })
    .await;
    is_error(&client.post(&url, &ask("auto", "hi")).await.unwrap(), 401, "invalid_api_key");
    let list: Value = client.get(&gateway.v1("models")).await.unwrap().json();
    assert_eq!(list["error"]["code"], "invalid_api_key");
}
