//! Bad input is refused by place, in one shape, and stops nothing that worked.

use e2e::{Client, Gateway, repository};
use serde_json::{Value, json};

use crate::support::{ask, fixed, guildhall, llm, mock};

/// Method, path, body; and what is expected: status, code, place.
type Case<'a> = (&'a str, &'a str, Vec<u8>, u16, &'a str, Option<&'a str>);

/// What the error must name, and the damage done to a bundle's folder.
type Damage<'a> = (&'a str, &'a dyn Fn(&std::path::Path));

#[tokio::test]
async fn every_refusal_is_an_error_object_that_names_the_place() {
    let mock = mock().await;
    let config = format!(
        "data: {{listen: '127.0.0.1:0', max_body_bytes: 4096}}\nexperts:\n{}{}",
        llm("coder", &mock.url(), ""),
        fixed(&["coder"])
    );
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let image = json!([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]);
    let good = ask("auto", "hi").to_string();
    let huge = ask("auto", &"x".repeat(5000)).to_string();
    let deep = format!(r#"{{"model":"auto","x":{}{},"messages":[]}}"#, "[".repeat(300), "]".repeat(300));
    let cases: Vec<Case<'_>> = vec![
        ("POST", "chat/completions", b"{\"model\":".to_vec(), 400, "invalid_json", None),
        ("POST", "chat/completions", b"".to_vec(), 400, "invalid_json", None),
        ("POST", "chat/completions", b"{\"model\":\"a\xff\"}".to_vec(), 400, "invalid_json", None),
        ("POST", "chat/completions", deep.into_bytes(), 400, "invalid_json", None),
        ("POST", "chat/completions", br#"{"model":"auto"}"#.to_vec(), 400, "invalid_value", Some("messages")),
        (
            "POST",
            "chat/completions",
            br#"{"model":"auto","messages":[]}"#.to_vec(),
            400,
            "invalid_value",
            Some("messages"),
        ),
        (
            "POST",
            "chat/completions",
            br#"{"model":3,"messages":[{"role":"user","content":"x"}]}"#.to_vec(),
            400,
            "invalid_value",
            Some("model"),
        ),
        (
            "POST",
            "chat/completions",
            br#"{"model":"auto","messages":[{"role":"user","content":3}]}"#.to_vec(),
            400,
            "invalid_value",
            Some("messages[0].content"),
        ),
        (
            "POST",
            "chat/completions",
            ask("codr", "hi").to_string().into_bytes(),
            404,
            "model_not_found",
            Some("model"),
        ),
        (
            "POST",
            "chat/completions",
            json!({"model": "auto", "messages": [{"role": "user", "content": image}]})
                .to_string()
                .into_bytes(),
            400,
            "unsupported_capability",
            Some("messages"),
        ),
        ("POST", "chat/completions", huge.into_bytes(), 413, "request_too_large", None),
        ("POST", "completions", br#"{"model":"auto"}"#.to_vec(), 400, "invalid_value", Some("prompt")),
        ("POST", "embeddings", br#"{"model":"coder"}"#.to_vec(), 400, "invalid_value", Some("input")),
        ("GET", "chat/completions", Vec::new(), 405, "method_not_allowed", None),
        ("POST", "chats", good.clone().into_bytes(), 404, "unknown_url", None),
        ("GET", "models/none", Vec::new(), 404, "model_not_found", Some("model")),
    ];
    for (method, path, body, status, code, param) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let answer = client.send(method, &gateway.v1(path), &[], body).await.unwrap();
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, error["code"].as_str()),
            (status, Some(code)),
            "{path} {shown}: {}",
            answer.text()
        );
        assert_eq!(error["param"].as_str(), param, "{path} {shown}");
        let keys: Vec<&str> = error.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys.len(), 4, "{keys:?}");
        assert!(error["message"].as_str().unwrap().len() > 10);
    }
    let long = "x".repeat(64 << 10);
    let head = client.send("POST", &gateway.v1("chat/completions"), &[("x-long", &long)], good.clone()).await;
    // The server may close before all of the head is sent; what counts is that it does not take it.
    assert!(head.is_err() || head.is_ok_and(|a| a.status == 431));
    let after = client.send("POST", &gateway.v1("chat/completions"), &[], good).await.unwrap();
    assert_eq!(after.status, 200, "what worked before still works");
}

#[tokio::test]
async fn an_expert_whose_name_does_not_resolve_is_told_apart() {
    let config =
        format!("experts:\n{}{}", llm("lost", "http://does-not-resolve.invalid/v1", ""), fixed(&["lost"]));
    let gateway = Gateway::start(&config).unwrap();
    let answer = Client::default().post(&gateway.v1("chat/completions"), &ask("auto", "hi")).await.unwrap();
    assert_eq!(answer.status, 502);
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("`lost`") && message.contains("host name was not found"), "{message}");
    assert!(!message.contains("does-not-resolve"), "addresses are the operator's: {message}");
}

/// Runs `guildhall` and gives exit code, standard output and standard error.
fn with_file(text: &str, check: impl FnOnce(&str)) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("guildhall.yaml");
    // A store of its own: tests run side by side.
    let store = folder.path().join("store.redb");
    std::fs::write(&file, format!("{text}\nstore: {{path: '{}'}}\n", store.display())).unwrap();
    check(file.to_str().unwrap());
}

#[test]
fn a_bad_configuration_ends_with_code_2_before_a_socket_is_bound() {
    let cases = [
        ("data: {listne: x}", "data.listne: unknown field `listne`", "did you mean `listen`?"),
        (
            "experts:\n  - {id: a, backend: {kind: constant, text: x}}\n  - {id: a, backend: {kind: constant, text: x}}",
            "experts[1].id",
            "already defined at experts[0]",
        ),
        (
            "experts:\n  - {id: a, backend: {kind: llm, endpoints: [{url: 'ftp://x'}]}}",
            "experts[0].backend.endpoints[0].url",
            "http",
        ),
        (
            "routes:\n  - {id: auto, policy: {kind: static, order: [{expert: coder}]}}\nexperts:\n  - {id: coders, backend: {kind: constant, text: x}}",
            "routes.auto",
            "did you mean `coders`?",
        ),
        (
            "experts:\n  - {id: a, backend: {kind: constant, text: x}, skills: {codeing: 0.5}}\nrouter: {load: always}",
            "skills.codeing",
            "did you mean `coding`?",
        ),
        ("admin: {token: '${GUILDHALL_NOT_SET_ANYWHERE}'}", "admin.token", "is not set"),
    ];
    for (text, place, says) in cases {
        with_file(text, |path| {
            for command in [vec!["check-config", path], vec!["serve", "--config", path]] {
                let (code, _, errors) = guildhall(&command);
                assert_eq!(code, Some(2), "{text}: {errors}");
                assert!(errors.contains(place) && errors.contains(says), "{text}: {errors}");
            }
        });
    }
    let (code, _, errors) = guildhall(&["check-config", "/does/not/exist.yaml"]);
    assert_eq!(code, Some(2));
    assert!(errors.contains("cannot read"), "{errors}");
    let (code, out, _) = guildhall(&["check-config", "config/guildhall.yaml", "--json"]);
    assert_eq!(code, Some(0));
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["valid"], true);
}

#[test]
fn a_broken_bundle_is_named_and_not_served() {
    let source = repository().join("router-models/default");
    let damage: [Damage<'_>; 3] = [
        ("sha256", &|folder| {
            let file = folder.join("tokenizer.json");
            let mut text = std::fs::read(&file).unwrap();
            let last = text.len() - 1;
            text[last] ^= 1;
            std::fs::write(file, text).unwrap();
        }),
        ("model.onnx", &|folder| std::fs::remove_file(folder.join("model.onnx")).unwrap()),
        ("bundle.yaml", &|folder| std::fs::write(folder.join("bundle.yaml"), "format: 1\nna").unwrap()),
    ];
    for (says, break_it) in damage {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&source).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        break_it(folder.path());
        let text = format!("router: {{load: always, bundle: '{}'}}", folder.path().display());
        with_file(&text, |path| {
            let (code, _, errors) = guildhall(&["serve", "--config", path]);
            assert_eq!(code, Some(2), "{errors}");
            assert!(errors.contains(says), "{says}: {errors}");
        });
    }
}

#[tokio::test]
async fn a_compressed_body_is_unpacked_or_refused() {
    let mock = mock().await;
    let config = format!(
        "data: {{listen: '127.0.0.1:0', max_body_bytes: 4096}}\nexperts:\n{}{}",
        llm("coder", &mock.url(), ""),
        fixed(&["coder"])
    );
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let good = ask("auto", "hi").to_string();
    let compressed = async |coding: &str, body: &[u8]| {
        let headers = [("content-encoding", coding)];
        client.send("POST", &gateway.v1("chat/completions"), &headers, body.to_vec()).await.unwrap()
    };
    let plain: &[u8] = good.as_ref();
    let small = gzip(plain);
    let answer = compressed("gzip", &small).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(compressed("identity", plain).await.status, 200);
    for (coding, body, status, part) in [
        ("br", plain, 415, "gzip or deflate"),
        ("gzip", plain, 400, "is damaged"),
        ("gzip", &small[..small.len() - 9], 400, "ends too early"),
        ("gzip", &gzip(&[b' '; 5000]), 413, "data.max_body_bytes"),
    ] {
        let answer = compressed(coding, body).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(answer.text().contains(part), "{}", answer.text());
        if status == 415 {
            assert_eq!(answer.header("accept-encoding"), "gzip, deflate");
        }
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    to.write_all(body).unwrap();
    to.finish().unwrap()
}
