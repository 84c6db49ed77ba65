use serde_json::{Value, json};

use super::fixture::Api;

/// A gateway with one more expert, `coder`, which the API may change.
async fn with_coder() -> Api {
    let api = Api::new();
    let expert =
        json!({"id": "coder", "backend": {"kind": "constant", "text": "x"}, "skills": {"code": 0.9}});
    api.post("/experts", expert).await.object(201);
    api
}

fn skills(api: &Api, id: &str) -> Vec<f32> {
    api.app.pipeline.catalog.view().experts.fleet().get(id).unwrap().skills.clone()
}

#[tokio::test]
async fn the_matrix_is_the_experts_skills() {
    let api = with_coder().await;
    let mapping = api.get("/mapping").await;
    assert_eq!(mapping.object(200)["categories"], json!(["chat", "code", "math"]));
    let expected = r#"{"coder":{"code":0.9},"general":{"chat":0.5},"keyed":{}}"#;
    assert_eq!(mapping.body["experts"].to_string(), expected);
    assert_eq!(mapping.body["read_only"], json!(["general", "keyed"]));
}

#[tokio::test]
async fn a_patch_changes_entries_and_a_put_the_whole() {
    let api = with_coder().await;
    let before = api.get("/mapping").await;
    let patched = api.patch("/mapping", json!({"experts": {"coder": {"math": 0.25}}})).await;
    assert_eq!(patched.object(200)["experts"]["coder"]["math"], 0.25);
    assert_eq!(skills(&api, "coder"), [0.0, 0.9, 0.25], "policies see it");
    assert_eq!(api.get("/experts/coder").await.body["skills"]["math"], 0.25);

    let back = api.put("/mapping", before.body.clone()).await;
    back.refused(412, "precondition_failed");
    let mut whole = before.body.clone();
    whole.as_object_mut().unwrap().remove("etag");
    let mut written = api.put("/mapping", whole).await.object(200).clone();
    let changes = written.as_object_mut().unwrap().remove("changes");
    assert_eq!(changes, Some(json!({"replayed": 0, "changed": 0, "examples": []})));
    assert_eq!(written, before.body, "what was read can be written");

    let cleared = api.put("/mapping", json!({"experts": {}})).await;
    assert_eq!(cleared.object(200)["experts"], json!({"coder": {}, "general": {"chat": 0.5}, "keyed": {}}));
    assert_eq!(skills(&api, "coder"), [0.0, 0.0, 0.0]);
}

#[tokio::test]
async fn rows_change_together_or_not_at_all() {
    let api = with_coder().await;
    let second = json!({"id": "other", "backend": {"kind": "constant", "text": "x"}});
    api.post("/experts", second).await.object(201);
    let revision = api.store().revision().unwrap();
    let rows = json!({"experts": {"coder": {"math": 0.5}, "other": {"chat": 0.5}}});
    api.patch("/mapping", rows).await.object(200);
    assert_eq!(api.store().revision().unwrap(), revision + 1);
    let half = json!({"experts": {"coder": {"math": 0.75}, "general": {"math": 0.5}}});
    let (message, param) = api.patch("/mapping", half).await.refused(409, "read_only");
    assert!(message.contains("expert `general` is defined in the configuration file"), "{message}");
    assert_eq!(param.as_deref(), Some("experts.general"));
    assert_eq!(skills(&api, "coder"), [0.0, 0.9, 0.5]);
    let dry = api.patch("/mapping?dry_run=true", json!({"experts": {"coder": null}})).await;
    assert_eq!(dry.body["experts"].get("coder"), Some(&json!({})));
    assert_eq!(skills(&api, "coder"), [0.0, 0.9, 0.5]);
}

#[tokio::test]
async fn unknown_names_are_named_by_their_place() {
    let api = with_coder().await;
    let cases = [
        (json!({"experts": {"coderr": {"code": 1}}}), "experts.coderr", "did you mean `coder`?"),
        (json!({"experts": {"coder": {"cod": 1}}}), "experts.coder.cod", "did you mean `code`?"),
        (json!({"experts": {"coder": {"code": 1.5}}}), "experts.coder.code", "must lie in 0..=1"),
        (json!({"experts": {"coder": {"code": "much"}}}), "experts.coder.code", "f32"),
        (json!({"experts": {"a.b/c": {"code": 1}}}), "experts[\"a.b/c\"]", "there is no expert"),
        (json!({"exprts": {}}), "exprts", "did you mean `experts`?"),
    ];
    for (body, place, words) in cases {
        for method in ["PUT", "PATCH"] {
            let answer = api.with(method, "/mapping", None, Some(body.clone())).await;
            let (message, param) = answer.refused(422, "invalid_value");
            assert_eq!(param.as_deref(), Some(place), "{message}");
            assert!(message.contains(words), "{message}");
        }
    }
    assert_eq!(skills(&api, "coder"), [0.0, 0.9, 0.0]);
}

#[tokio::test]
async fn categories_are_described() {
    let api = with_coder().await;
    let list = api.get("/categories").await.body;
    let names: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["chat", "code", "math"]);
    let before = api.get("/categories/code").await;
    assert_eq!(before.object(200)["description"], "about code");
    assert_eq!(before.body["experts"]["coder"].to_string(), "0.9");

    let after = api.put("/categories/code", json!({"description": "programs"})).await;
    assert_eq!(after.object(200)["description"], "programs");
    assert_eq!(api.get("/categories/code").await.object(200), &after.body);
    api.put("/categories/code", before.body).await.refused(412, "precondition_failed");
    let dry = api.put("/categories/code?dry_run=true", json!({"description": "other"})).await;
    assert_eq!(dry.object(200)["description"], "other");
    assert_eq!(api.get("/categories/code").await.body["description"], "programs");

    let (message, _) =
        api.put("/categories/cod", json!({"description": "x"})).await.refused(404, "not_found");
    assert!(message.contains("did you mean `code`?"), "{message}");
    let (_, param) = api.put("/categories/code", json!({"text": "x"})).await.refused(422, "invalid_value");
    assert_eq!(param.as_deref(), Some("text"));
}
