//! Keys and teams from outside, on the admin plane: made, rotated and revoked, by HTTP and by the command line.

use std::process::Command;

use e2e::{Answer, Client, Gateway, binary};
use serde_json::{Value, json};

use crate::support::fixed;

const ONE_EXPERT: &str = "experts:\n  - {id: fixed, backend: {kind: constant, text: hello}}\n";

fn config() -> String {
    format!("{ONE_EXPERT}{}", fixed(&["fixed"]))
}

/// Asks the admin API with the owner's token.
async fn ask(gateway: &Gateway, method: &str, path: &str, body: Value) -> Answer {
    as_holder(gateway, gateway.token(), method, path, body).await
}

async fn as_holder(gateway: &Gateway, token: &str, method: &str, path: &str, body: Value) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Client::default().send(method, &gateway.admin_v1(path), &headers, body).await.unwrap()
}

/// The store's file holds no part of a token that could be used.
fn keeps_no_secret(folder: &std::path::Path, token: &str) -> bool {
    let secret = token.rsplit('-').next().unwrap().as_bytes();
    let store = std::fs::read(folder.join("store.redb")).unwrap();
    !store.windows(secret.len()).any(|bytes| bytes == secret)
}

#[tokio::test]
async fn an_answered_key_survives_kill_9_and_its_token_is_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start_in(folder.path(), &config()).unwrap();
    let team = ask(&gateway, "POST", "teams", json!({"id": "red", "limits": {"usd_per_day": 5.0}})).await;
    assert_eq!(team.status, 201, "{}", team.text());
    let mut made = Vec::new();
    for n in 0..5 {
        let key = json!({"id": format!("k{n}"), "team": "red", "limits": {"requests_per_minute": 600}});
        let answer = ask(&gateway, "POST", "keys", key).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        made.push(answer.json());
    }
    let rotated = ask(&gateway, "POST", "keys/k0/rotate", json!({"overlap_ms": 60_000})).await.json();
    assert_eq!(ask(&gateway, "DELETE", "keys/k4", Value::Null).await.status, 204);
    gateway.kill().unwrap();
    let log = gateway.errors();
    drop(gateway);

    let gateway = Gateway::start_in(folder.path(), &config()).unwrap();
    for object in [&rotated, &made[1], &made[2], &made[3]] {
        let id = object["id"].as_str().unwrap();
        let now = ask(&gateway, "GET", &format!("keys/{id}"), Value::Null).await;
        assert_eq!((now.status, &now.json()["etag"]), (200, &object["etag"]), "{}", now.text());
        let token = object["key"].as_str().unwrap();
        assert!(token.starts_with(&format!("sk-guildhall-{id}-")), "{token}");
        assert!(!now.text().contains(token) && !now.text().contains("sha256"), "{}", now.text());
        assert!(!log.contains(token) && !gateway.errors().contains(token));
        assert!(keeps_no_secret(folder.path(), token));
    }
    assert_eq!(ask(&gateway, "GET", "keys/k4", Value::Null).await.status, 404);
    let used = ask(&gateway, "DELETE", "teams/red", Value::Null).await;
    assert_eq!(used.status, 409);
    assert!(used.text().contains("key `k0`"), "{}", used.text());
    let audit = ask(&gateway, "GET", "audit", Value::Null).await.text();
    for action in ["team.create", "key.create", "key.rotate", "key.delete"] {
        assert!(audit.contains(action), "{action} is missing in {audit}");
    }
}

#[tokio::test]
async fn a_viewer_sees_and_does_not_touch() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("viewer-token");
    std::fs::write(&file, "token-of-the-wall-board\n").unwrap();
    let gateway = Gateway::start_with_tokens(
        folder.path(),
        &config(),
        &format!("{{name: board, role: viewer, token: 'file:{}'}}", file.display()),
    )
    .unwrap();
    let viewer = "token-of-the-wall-board";
    assert_eq!(as_holder(&gateway, viewer, "GET", "keys", Value::Null).await.status, 200);
    let refused = as_holder(&gateway, viewer, "POST", "keys", json!({"id": "mine"})).await;
    assert_eq!((refused.status, &refused.json()["error"]["type"]), (403, &json!("permission_error")));
    assert!(refused.text().contains("the role `admin`"), "{}", refused.text());
    assert_eq!(as_holder(&gateway, "someone-else-entirely", "GET", "keys", Value::Null).await.status, 401);
    let config = as_holder(&gateway, viewer, "GET", "config", Value::Null).await;
    assert!(config.status == 200 && !config.text().contains(viewer), "{}", config.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_manages_keys() {
    let gateway = Gateway::start(&config()).unwrap();
    let run = |line: &str| {
        let output = Command::new(binary("guildhall").unwrap())
            .args(line.split_whitespace())
            .env("GUILDHALL_ADMIN_URL", &gateway.admin)
            .env("GUILDHALL_ADMIN_TOKEN", gateway.token())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(run("teams create --id red --usd-per-month 200").0, Some(0));
    let (code, out, errors) = run("keys create --id ci --team red --rpm 600 --routes auto --expires 90d");
    assert_eq!(code, Some(0), "{errors}");
    assert!(out.lines().any(|line| line.starts_with("sk-guildhall-ci-")), "{out}");
    let (code, out, _) = run("keys rotate ci --overlap 1h --json");
    let rotated: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, rotated["secrets"].as_array().unwrap().len()), (Some(0), 2));
    assert!(rotated["key"].as_str().unwrap().starts_with("sk-guildhall-ci-"));
    let (code, out, _) = run("keys list");
    assert!(code == Some(0) && out.contains("ci") && out.contains("red") && !out.contains("sk-"), "{out}");
    let (code, out, _) = run("keys get ci --json");
    assert_eq!((code, &serde_json::from_str::<Value>(&out).unwrap()["status"]), (Some(0), &json!("active")));
    assert_eq!(run("keys create --id ci").0, Some(1), "it is there already");
    assert_eq!(run("keys create --id other --routes nowhere").0, Some(2), "bad usage");
    assert_eq!(run("keys revoke ci").0, Some(0));
    let (code, _, errors) = run("keys get ci");
    assert!(code == Some(1) && errors.contains("there is no key `ci`"), "{errors}");
    assert_eq!(run("teams remove red").0, Some(0));
    let (code, out, _) = run("keys generate batch-jobs --json");
    let generated: Value = serde_json::from_str(&out).unwrap();
    assert!(code == Some(0) && generated["hash"].as_str().unwrap().starts_with("sha256:"), "{out}");
}
