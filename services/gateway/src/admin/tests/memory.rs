use std::sync::Arc;

use axum::body::Body;
use http::{Request, header};
use serde_json::{Value, json};
use stores::{EmbeddedStore, Options};

use super::fixture::{Answer, Api, FILE, OPERATOR, TOKEN};

async fn add_as(api: &Api, token: &str, query: &str, lines: &[Value]) -> Answer {
    let text = lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    let request = Request::post(format!("/admin/v1/memory{query}"))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/x-ndjson");
    api.send(request.body(Body::from(text)).unwrap()).await
}

async fn add(api: &Api, query: &str, lines: &[Value]) -> Answer {
    add_as(api, TOKEN, query, lines).await
}

fn line(id: &str, vector: [f32; 4]) -> Value {
    json!({"id": id, "embedding": vector, "outcomes": {"general": 0.5}})
}

#[tokio::test]
async fn prompts_are_added_counted_listed_shown_and_removed() {
    let api = Api::new();
    let two = [line("b/1", [2.0, 0.0, 0.0, 0.0]), line("a", [0.0, 1.0, 0.0, 0.0])];
    let dry = add(&api, "?dry_run=true", &two).await;
    let counts = |added: u32, replaced: u32, prompts: u32| json!({"added": added, "replaced": replaced, "prompts": prompts, "unknown_experts": []});
    assert_eq!((dry.status.as_u16(), &dry.body), (200, &counts(2, 0, 2)));
    assert_eq!(api.get("/memory").await.body, json!({"prompts": 0, "spaces": {}, "items": [], "next": null}));
    assert_eq!(add(&api, "", &two).await.body, counts(2, 0, 2));
    let foreign =
        json!({"id": "c", "embedding": [1, 1], "encoder": "large", "outcomes": {"general": 1, "nobody": 0}});
    let answer = add(&api, "", &[line("a", [0.0, 0.0, 1.0, 0.0]), foreign]).await;
    assert_eq!((&answer.body["added"], &answer.body["replaced"]), (&json!(1), &json!(1)));
    assert_eq!(answer.body["unknown_experts"], json!(["nobody"]));

    let page = api.get("/memory?limit=2").await.body;
    assert_eq!((&page["prompts"], &page["spaces"]), (&json!(3), &json!({"tiny": 2, "large": 1})));
    assert_eq!((&page["items"][1]["id"], &page["next"]), (&json!("b/1"), &json!("b/1")));
    assert!(page["items"][0].get("embedding").is_none(), "{page}");
    let rest = api.get("/memory?limit=2&after=b%2F1").await.body;
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next"]), (1, &json!(null)));
    let why = rest["items"][0]["unused_because"].as_str().unwrap();
    assert!(why.contains("`large`") && why.contains("`tiny`"), "{why}");

    let one = api.get("/memory/b%2F1").await;
    assert_eq!(one.object(200)["embedding"], json!([1.0, 0.0, 0.0, 0.0]), "at length 1");
    assert_eq!(one.body["unused_because"], json!(null));
    api.with("DELETE", "/memory/b%2F1", Some("\"old\""), None).await.refused(412, "precondition_failed");
    let tag = format!("\"{}\"", one.body["etag"].as_str().unwrap());
    assert_eq!(api.with("DELETE", "/memory/b%2F1?dry_run=true", Some(&tag), None).await.status, 204);
    assert_eq!(api.with("DELETE", "/memory/b%2F1", Some(&tag), None).await.status, 204);
    api.get("/memory/b%2F1").await.refused(404, "not_found");
    api.delete("/memory/b%2F1").await.refused(404, "not_found");
    assert_eq!(api.delete("/memory?dry_run=true").await.body, json!({"removed": 2}));
    assert_eq!(api.delete("/memory").await.body, json!({"removed": 2}));
    assert_eq!(api.get("/memory").await.body["prompts"], 0);
    let log = api.get("/audit").await.body;
    let actions: Vec<&str> =
        log["items"].as_array().unwrap().iter().map(|e| e["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["memory.clear", "memory.delete", "memory.add", "memory.add"]);
    assert_eq!(log["items"][3]["detail"], json!({"lines": 2}));
}

#[tokio::test]
async fn an_upload_with_one_bad_line_adds_none_and_names_the_line() {
    let api = Api::new();
    let bad = json!({"embedding": [1, 0, 0, 0], "outcomes": {"general": 2}});
    let (message, place) = add(&api, "", &[line("a", [1.0; 4]), bad]).await.refused(422, "invalid_value");
    assert!(message.starts_with("line 2: outcomes.general: "), "{message}");
    assert_eq!(place.as_deref(), Some("lines[1].outcomes.general"));
    let narrow = json!({"embedding": [1, 0], "outcomes": {"general": 1}});
    assert!(add(&api, "", &[narrow]).await.refused(422, "invalid_value").0.contains("must be 4 wide"));
    let text = json!({"text": "hi", "outcomes": {"general": 1}});
    assert!(add(&api, "", &[text]).await.refused(422, "invalid_value").0.contains("no encoder is loaded"));
    add(&api, "", &[]).await.refused(422, "invalid_value");
    add_as(&api, OPERATOR, "", &[line("a", [1.0; 4])]).await.refused(403, "forbidden");
    assert_eq!(api.get("/memory").await.body["prompts"], 0);
}

#[tokio::test]
async fn a_full_memory_says_which_setting_it_is() {
    let store = Arc::new(EmbeddedStore::in_memory(Options::default()).unwrap());
    let api = Api::with_file(&format!("{FILE}memory: {{max_prompts: 2}}\n"), &["chat"], store);
    let unit = [1.0, 0.0, 0.0, 0.0];
    assert_eq!(add(&api, "", &[line("a", unit), line("b", unit)]).await.status, 200);
    let (message, _) = add(&api, "", &[line("c", unit)]).await.refused(409, "conflict");
    assert!(message.contains("memory.max_prompts") && message.contains("would be 3"), "{message}");
    assert_eq!(add(&api, "", &[line("b", unit)]).await.body["replaced"], 1);
}
