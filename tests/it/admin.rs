//! The admin plane from outside: experts live and lasting, by HTTP and by the command line.

use std::process::Command;

use e2e::{Client, Gateway, binary};
use serde_json::{Value, json};

use crate::support::{ask, fixed, llm, mock};

fn headers(bearer: &str) -> [(&str, &str); 2] {
    [("authorization", bearer), ("content-type", "application/json")]
}

#[tokio::test]
async fn a_registered_expert_gets_traffic_at_once_and_survives_kill_9() {
    let mock = mock().await;
    let folder = tempfile::tempdir().unwrap();
    let config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
    let mut gateway = Gateway::start_in(folder.path(), &config).unwrap();
    let client = Client::default();
    let bearer = gateway.bearer();
    let spec = json!({
        "id": "late", "description": "came later",
        "backend": {"kind": "llm", "endpoints": [{"url": mock.url()}], "api_key": "sk-secret-of-late"},
    });
    let created =
        client.send("POST", &gateway.admin_v1("experts"), &headers(&bearer), spec.to_string()).await.unwrap();
    assert_eq!(created.status, 201, "{}", created.text());
    assert!(!created.header("etag").is_empty());
    assert!(!created.text().contains("sk-secret"), "secrets are not echoed");
    let answer = client.post(&gateway.v1("chat/completions"), &ask("late", "hi")).await.unwrap();
    assert_eq!((answer.status, answer.header("x-guildhall-expert")), (200, "late"));
    gateway.kill().unwrap();
    drop(gateway);
    let gateway = Gateway::start_in(folder.path(), &config).unwrap();
    let answer = client.post(&gateway.v1("chat/completions"), &ask("late", "hi")).await.unwrap();
    assert_eq!((answer.status, answer.header("x-guildhall-expert")), (200, "late"));
    let seen = mock.stats().recent.last().unwrap().headers.clone();
    assert_eq!(seen.get("authorization").map(String::as_str), Some("Bearer sk-secret-of-late"));
    let audit = client.send("GET", &gateway.admin_v1("audit"), &headers(&bearer), "").await.unwrap();
    assert!(
        audit.text().contains("expert.create") && audit.text().contains("experts/late"),
        "{}",
        audit.text()
    );
}

#[tokio::test]
async fn a_bad_registration_changes_nothing() {
    let mock = mock().await;
    let config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let bearer = gateway.bearer();
    let url = gateway.admin_v1("experts");
    let cases = [
        (json!({"id": "x"}), 422, "backend"),
        (json!({"id": "x y", "backend": {"kind": "constant", "text": "t"}}), 422, "id"),
        (json!({"id": "x", "backend": {"kind": "constant", "text": "t"}, "skils": {}}), 422, "skils"),
        (
            json!({"id": "x", "backend": {"kind": "llm", "endpoints": [{"url": "nonsense"}]}}),
            422,
            "backend.endpoints[0].url",
        ),
        (json!({"id": "coder", "backend": {"kind": "constant", "text": "t"}}), 409, ""),
        (json!({"id": "auto", "backend": {"kind": "constant", "text": "t"}}), 422, "auto"),
    ];
    for (spec, status, param) in cases {
        let answer = client.send("POST", &url, &headers(&bearer), spec.to_string()).await.unwrap();
        assert_eq!(answer.status, status, "{spec}: {}", answer.text());
        let place = answer.json()["error"]["param"].as_str().unwrap_or_default().to_owned();
        assert!(place.contains(param), "{spec}: {place}");
    }
    let malformed = client.send("POST", &url, &headers(&bearer), "{").await.unwrap();
    assert_eq!((malformed.status, malformed.json()["error"]["code"].as_str()), (400, Some("invalid_json")));
    let file =
        client.send("DELETE", &gateway.admin_v1("experts/coder"), &headers(&bearer), "").await.unwrap();
    assert_eq!(file.status, 409, "{}", file.text());
    assert!(file.text().contains("configuration file"));
    let wrong = client.send("GET", &url, &headers("Bearer wrong"), "").await.unwrap();
    assert_eq!(wrong.status, 401);
    let list = client.send("GET", &url, &headers(&bearer), "").await.unwrap();
    let text = list.text();
    assert!(text.contains("coder") && !text.contains("\"x\""), "{text}");
}

#[tokio::test]
async fn decisions_can_be_looked_up() {
    let mock = mock().await;
    let config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let bearer = gateway.bearer();
    let prompt = "a prompt that must not be stored 4711";
    let answer = client.post(&gateway.v1("chat/completions"), &ask("auto", prompt)).await.unwrap();
    let id = answer.header("x-guildhall-decision").to_owned();
    let url = gateway.admin_v1(&format!("decisions/{id}"));
    let decision = client.send("GET", &url, &headers(&bearer), "").await.unwrap();
    let record = decision.json();
    assert_eq!(record["expert"], "coder", "{}", decision.text());
    assert_eq!(record["attempts"][0]["status"], 200);
    assert_eq!(record["planned"]["candidates"][0]["expert"], "coder");
    assert!(record["outcome"]["completion_tokens"].as_u64().unwrap() > 0, "{}", decision.text());
    assert!(!decision.text().contains("4711"));
    assert!(!gateway.errors().contains("4711"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_manages_experts() {
    let mock = mock().await;
    let config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
    let gateway = Gateway::start(&config).unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(binary("guildhall").unwrap())
            .arg("experts")
            .args(arguments)
            .env("GUILDHALL_ADMIN_URL", &gateway.admin)
            .env("GUILDHALL_ADMIN_TOKEN", gateway.token())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("extra.yaml");
    std::fs::write(&file, "id: extra\nbackend: {kind: constant, text: hello}\n").unwrap();
    let (code, _, errors) = run(&["add", "--file", file.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{errors}");
    let (code, out, errors) = run(&["list", "--json"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(serde_json::from_str::<Value>(&out).unwrap().to_string().contains("extra"));
    let (code, out, _) = run(&["list"]);
    assert!(code == Some(0) && out.contains("extra") && out.contains("coder"), "{out}");
    assert_eq!(run(&["drain", "extra"]).0, Some(0));
    assert_eq!(run(&["undrain", "extra"]).0, Some(0));
    assert_eq!(run(&["remove", "extra"]).0, Some(0));
    let (code, _, errors) = run(&["remove", "extra"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("extra"), "{errors}");
}
