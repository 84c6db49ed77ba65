use std::sync::Arc;

use admission::Refused;
use serde_json::{Value, json};
use stores::{EmbeddedStore, Kind, Options};

use super::fixture::{Answer, Api};
use crate::pipeline::now_ms;

/// The token in an answer, after a look at what else is there.
fn token(answer: &Answer, status: u16) -> String {
    let object = answer.object(status);
    let token = object["key"].as_str().unwrap().to_owned();
    let prefix = format!("sk-guildhall-{}-", object["id"].as_str().unwrap());
    assert!(token.starts_with(&prefix), "{}", answer.text);
    assert!(!answer.text.contains("sha256"), "{}", answer.text);
    token
}

fn admitted(api: &Api, token: &str, now_ms: u64) -> Result<(), Refused> {
    api.app.pipeline.catalog.view().keys.authenticate(token, now_ms).map(drop)
}

#[tokio::test]
async fn a_key_lives_through_its_life() {
    let store = Arc::new(EmbeddedStore::in_memory(Options::default()).unwrap());
    let api = Api::over(&["chat", "code"], store.clone());
    let before = now_ms();
    let created = api.post("/keys", json!({"id": "ci", "limits": {"requests_per_minute": 600}})).await;
    let old = token(&created, 201);
    assert_eq!(created.headers["location"], "/admin/v1/keys/ci");
    assert_eq!((&created.body["origin"], &created.body["status"]), (&json!("admin"), &json!("active")));
    assert!(created.body["created_ms"].as_u64().unwrap() >= before);
    assert_eq!(admitted(&api, &old, before), Ok(()));

    let shown = api.get("/keys/ci").await;
    assert!(shown.object(200).get("key").is_none(), "the token is shown once");
    assert!(!shown.text.contains("sha256") && !shown.text.contains(&old), "{}", shown.text);
    let replaced = api.put("/keys/ci", shown.body.clone()).await;
    assert_eq!(replaced.object(200), &shown.body, "what was read can be written back");
    let patched = api.patch("/keys/ci", json!({"description": "nightly", "limits": null})).await;
    assert_eq!(
        (&patched.object(200)["description"], &patched.body["limits"]),
        (&json!("nightly"), &json!({}))
    );
    assert_eq!(admitted(&api, &old, before), Ok(()), "its secrets stay");

    let restarted = Api::over(&["chat", "code"], store);
    assert_eq!(restarted.get("/keys/ci").await.object(200), &patched.body);
    assert_eq!(admitted(&restarted, &old, before), Ok(()));

    assert_eq!(api.delete("/keys/ci").await.status, 204);
    assert_eq!(admitted(&api, &old, before), Err(Refused::Unknown));
    api.get("/keys/ci").await.refused(404, "not_found");
    assert_eq!(api.store().load(Kind::Key, "ci").unwrap(), None);
}

#[tokio::test]
async fn a_rotated_key_has_both_secrets_for_a_while() {
    let api = Api::new();
    let first = token(&api.post("/keys", json!({"id": "ci"})).await, 201);
    let now = now_ms();
    let rotated = api.with("POST", "/keys/ci/rotate", None, None).await;
    let second = token(&rotated, 200);
    assert_eq!(rotated.body["secrets"].as_array().unwrap().len(), 2);
    let day = 24 * 3_600_000;
    assert_eq!(admitted(&api, &first, now + day - 60_000), Ok(()));
    assert_eq!(admitted(&api, &first, now_ms() + day), Err(Refused::Expired));
    assert_eq!(admitted(&api, &second, now + 400 * day), Ok(()));

    let stale = api.with("POST", "/keys/ci/rotate", Some("\"0\""), None).await;
    stale.refused(412, "precondition_failed");
    let tried = api.with("POST", "/keys/ci/rotate?dry_run=true", None, Some(json!({}))).await;
    assert!(tried.object(200).get("key").is_none());
    assert_eq!(admitted(&api, &second, now), Ok(()));

    let third = token(&api.post("/keys/ci/rotate", json!({"overlap_ms": 0})).await, 200);
    assert_eq!(admitted(&api, &second, now_ms()), Err(Refused::Unknown), "the old ones end at once");
    assert_eq!(admitted(&api, &third, now_ms()), Ok(()));
    let (message, param) =
        api.post("/keys/ci/rotate", json!({"overlap": 1})).await.refused(422, "invalid_value");
    assert!(
        message.contains("did you mean `overlap_ms`?") && param.as_deref() == Some("overlap"),
        "{message}"
    );
    let (message, _) = api.post("/keys/cii/rotate", json!({})).await.refused(404, "not_found");
    assert!(message.contains("did you mean `ci`?"), "{message}");
    let audit = api.get("/audit").await.body;
    let actions: Vec<&str> =
        audit["items"].as_array().unwrap().iter().map(|e| e["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["key.rotate", "key.rotate", "key.create"]);
}

#[tokio::test]
async fn the_first_key_tells_what_it_changes_and_a_dry_run_makes_none() {
    let api = Api::new();
    let tried = api.post("/keys?dry_run=true", json!({"id": "a"})).await;
    assert!(tried.object(200).get("key").is_none());
    assert!(tried.body["notice"].as_str().unwrap().contains("first key"));
    assert!(api.app.pipeline.catalog.view().keys.is_empty());
    assert!(api.post("/keys", json!({"id": "a"})).await.object(201)["notice"].is_string());
    assert!(api.post("/keys", json!({"id": "b"})).await.object(201).get("notice").is_none());
    api.post("/keys", json!({"id": "a"})).await.refused(409, "conflict");
}

#[tokio::test]
async fn a_keys_status_is_what_requests_would_meet() {
    let api = Api::new();
    api.post("/teams", json!({"id": "red"})).await.object(201);
    api.post("/keys", json!({"id": "ci", "team": "red"})).await.object(201);
    let status = async |path: &str, patch: Value| {
        api.patch(path, patch).await.object(200);
        api.get("/keys/ci").await.body["status"].clone()
    };
    assert_eq!(status("/keys/ci", json!({"disabled": true})).await, "disabled");
    assert_eq!(status("/keys/ci", json!({"disabled": false})).await, "active");
    assert_eq!(status("/teams/red", json!({"disabled": true})).await, "disabled");
    assert_eq!(status("/teams/red", json!({"disabled": null})).await, "active");
    assert_eq!(status("/keys/ci", json!({"expires_ms": 1})).await, "expired");
    assert_eq!(status("/keys/ci", json!({"expires_ms": null})).await, "active");
}

#[tokio::test]
async fn bad_keys_and_teams_are_named_by_their_place() {
    let api = Api::new();
    let cases = [
        ("/keys", json!({}), "id", "missing field"),
        ("/keys", json!({"id": "Big Key"}), "id", ""),
        ("/keys", json!({"id": "k", "team": "rad"}), "team", "did you mean `red`?"),
        ("/keys", json!({"id": "k", "routes": ["auto", "atuo"]}), "routes[1]", "did you mean `auto`?"),
        ("/keys", json!({"id": "k", "experts": ["generl"]}), "experts[0]", "did you mean `general`?"),
        ("/keys", json!({"id": "k", "limits": {"rpm": 1}}), "limits.rpm", "unknown field"),
        ("/keys", json!({"id": "k", "limits": {"queue": 1}}), "limits.queue", "without `concurrent`"),
        ("/keys", json!({"id": "k", "priority": "urgent"}), "priority", "unknown variant"),
        ("/keys", json!({"id": "k", "secrets": [{"hash": "x"}]}), "secrets", "rotate"),
        (
            "/keys",
            json!({"id": "k", "priority": "interactive", "highest_priority": "batch"}),
            "highest_priority",
            "less urgent",
        ),
        ("/teams", json!({"id": "x_y"}), "id", ""),
        ("/teams", json!({"id": "t", "experts": ["nobody"]}), "experts[0]", "there is no expert `nobody`"),
        ("/teams", json!({"id": "t", "limits": {"concurrent": 0}}), "limits.concurrent", "above 0"),
    ];
    api.post("/teams", json!({"id": "red"})).await.object(201);
    for (path, body, place, words) in cases {
        let (message, param) = api.post(path, body.clone()).await.refused(422, "invalid_value");
        assert_eq!(param.unwrap_or_default(), place, "{body}: {message}");
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(api.store().revision().unwrap(), 1);
    api.post("/keys", json!({"id": "k"})).await.object(201);
    let (_, param) = api.patch("/keys/k", json!({"secrets": []})).await.refused(422, "invalid_value");
    assert_eq!(param.as_deref(), Some("secrets"));
    let (_, param) = api.patch("/keys/k", json!({"routes": ["x"]})).await.refused(422, "invalid_value");
    assert_eq!(param.as_deref(), Some("routes[0]"));
}

#[tokio::test]
async fn a_name_that_lost_its_bearer_stands_in_nobodys_way() {
    let api = Api::new();
    let route = json!({"id": "fast", "policy": {"kind": "static", "order": [{"expert": "general"}]}});
    api.post("/routes", route).await.object(201);
    api.post("/keys", json!({"id": "k", "routes": ["fast"]})).await.object(201);
    assert_eq!(api.delete("/routes/fast").await.status, 204);
    api.patch("/keys/k", json!({"description": "still mine"})).await.object(200);
    api.patch("/keys/k", json!({"routes": ["fast", "auto"]})).await.object(200);
}

#[tokio::test]
async fn a_team_is_removed_when_no_key_names_it() {
    let api = Api::new();
    let created = api.post("/teams", json!({"id": "red", "limits": {"usd_per_month": 200.0}})).await;
    assert_eq!(created.object(201)["limits"]["usd_per_month"], 200.0);
    assert_eq!(api.get("/teams").await.body["items"], json!([created.body]));
    for id in ["a", "b"] {
        api.post("/keys", json!({"id": id, "team": "red"})).await.object(201);
    }
    let (message, _) = api.delete("/teams/red").await.refused(409, "conflict");
    assert!(message.contains("key `a`, key `b`"), "{message}");
    api.patch("/keys/a", json!({"team": null})).await.object(200);
    assert_eq!(api.delete("/keys/b").await.status, 204);
    assert_eq!(api.delete("/teams/red?dry_run=true").await.status, 204);
    assert_eq!(api.delete("/teams/red").await.status, 204);
    api.get("/teams/red").await.refused(404, "not_found");
}

#[tokio::test]
async fn the_files_keys_and_teams_are_read_only() {
    let file = format!(
        "{}{}",
        super::fixture::FILE,
        concat!(
            "teams: [{id: blue}]\n",
            "keys: [{id: filed, team: blue, secrets: [{hash: 'sha256:",
            "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'}]}]\n",
        )
    );
    let store = EmbeddedStore::in_memory(Options::default()).unwrap();
    let api = Api::with_file(&file, &["chat"], store.into());
    let shown = api.get("/keys/filed").await;
    assert_eq!((&shown.object(200)["origin"], &shown.body["status"]), (&json!("file"), &json!("active")));
    assert!(!shown.text.contains("0123456789abcdef"), "{}", shown.text);
    for path in ["/keys/filed", "/teams/blue"] {
        for (method, body) in [("PUT", Some(json!({}))), ("PATCH", Some(json!({}))), ("DELETE", None)] {
            api.with(method, path, None, body).await.refused(409, "read_only");
        }
    }
    api.post("/keys/filed/rotate", json!({})).await.refused(409, "read_only");
    assert!(api.post("/keys", json!({"id": "a"})).await.object(201).get("notice").is_none());
}
