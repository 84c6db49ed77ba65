use http::header::LOCATION;
use routing::Availability;
use serde_json::{Value, json};
use stores::{EmbeddedStore, Kind, Options};

use super::fixture::{Api, request};

fn constant(id: &str) -> Value {
    json!({"id": id, "backend": {"kind": "constant", "text": "hello"}, "skills": {"code": 0.9}})
}

fn llm(id: &str) -> Value {
    let backend =
        json!({"kind": "llm", "endpoints": [{"url": "http://127.0.0.1:9/v1"}], "api_key": "sk-1234"});
    json!({"id": id, "backend": backend})
}

#[tokio::test]
async fn a_created_expert_is_live_and_durable() {
    let store = std::sync::Arc::new(EmbeddedStore::in_memory(Options::default()).unwrap());
    let api = Api::over(&["chat", "code"], store.clone());
    let answer = api.post("/experts", constant("coder")).await;
    let object = answer.object(201);
    assert_eq!(object["origin"], "admin");
    assert_eq!(object["status"]["availability"], "ready");
    assert_eq!(answer.headers[LOCATION], "/admin/v1/experts/coder");
    let view = api.app.pipeline.catalog.view();
    assert!(view.experts.get("coder").is_some(), "requests find it");
    assert_eq!(view.experts.fleet().get("coder").unwrap().skills, [0.0, 0.9]);
    assert_eq!(api.get("/experts/coder").await.object(200), answer.object(201));

    let restarted = Api::over(&["chat", "code"], store);
    assert_eq!(restarted.get("/experts/coder").await.object(200), answer.object(201));
}

#[tokio::test]
async fn an_id_is_taken_once() {
    let api = Api::new();
    api.post("/experts", constant("coder")).await.object(201);
    let (message, _) = api.post("/experts", constant("coder")).await.refused(409, "conflict");
    assert!(message.contains("already there; use PUT"), "{message}");
    api.post("/experts", constant("general")).await.refused(409, "conflict");
}

#[tokio::test]
async fn a_dry_run_checks_and_changes_nothing() {
    let api = Api::new();
    let would = api.post("/experts?dry_run=true", constant("coder")).await;
    assert_eq!(would.object(200)["id"], "coder");
    assert!(would.headers.get(LOCATION).is_none());
    api.get("/experts/coder").await.refused(404, "not_found");
    api.post("/experts?dry_run=true", json!({"id": "coder"})).await.refused(422, "invalid_value");
    assert_eq!(api.store().revision().unwrap(), 0);

    let real = api.post("/experts", constant("coder")).await;
    assert_eq!(would.body, real.body, "it said what would be");
    let patched = api.patch("/experts/coder?dry_run=true", json!({"description": "x"})).await;
    assert_eq!(patched.object(200)["description"], "x");
    assert_eq!(api.delete("/experts/coder?dry_run=true").await.status, 204);
    api.with("POST", "/experts/coder/drain?dry_run=true", None, None).await.object(200);
    assert_eq!(api.get("/experts/coder").await.object(200), &real.body);
    assert_eq!(api.store().revision().unwrap(), 1);
    let (message, _) = api.post("/experts?dryrun=true", constant("x")).await.refused(400, "invalid_value");
    assert!(message.contains("did you mean `dry_run`?"), "{message}");
}

#[tokio::test]
async fn bad_input_is_named_by_its_place() {
    let api = Api::new();
    let cases = [
        (
            json!({"id": "a", "backend": {"kind": "constant", "text": "x"}, "skils": {}}),
            "skils",
            "did you mean `skills`?",
        ),
        (json!({"id": "a"}), "backend", "missing field"),
        (
            json!({"id": "a", "backend": {"kind": "constnt", "text": "x"}}),
            "backend.kind",
            "did you mean `constant`?",
        ),
        (json!({"id": "a b", "backend": {"kind": "constant", "text": "x"}}), "id", "not a valid id"),
        (
            json!({"id": "a", "backend": {"kind": "constant", "text": "x"}, "skills": {"mth": 1}}),
            "skills.mth",
            "did you mean `math`?",
        ),
        (
            json!({"id": "a", "backend": {"kind": "constant", "text": "x"}, "skills": {"math": 2}}),
            "skills.math",
            "between 0 and 1",
        ),
        (
            json!({"id": "a", "backend": {"kind": "constant", "text": "x"}, "skills": {"math": "good"}}),
            "skills.math",
            "f32",
        ),
        (
            json!({"id": "a", "backend": {"kind": "constant", "text": "x"}, "cost": {"input": -1}}),
            "cost.input",
            "0 or more",
        ),
        (
            json!({"id": "a", "backend": {"kind": "llm", "endpoints": [{"url": "nowhere"}]}}),
            "backend.endpoints[0].url",
            "",
        ),
    ];
    for (body, place, words) in cases {
        let (message, param) = api.post("/experts", body.clone()).await.refused(422, "invalid_value");
        assert_eq!(param.unwrap_or_default(), place, "{body}: {message}");
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(api.store().revision().unwrap(), 0);
}

#[tokio::test]
async fn what_was_read_can_be_written_back() {
    let api = Api::new();
    let created = api.post("/experts", llm("remote")).await;
    assert_eq!(created.object(201)["backend"]["api_key"], "***");
    let replaced = api.put("/experts/remote", created.body.clone()).await;
    assert_eq!(replaced.object(200), &created.body);
    let kept = api.store().load(Kind::Expert, "remote").unwrap().unwrap().parse::<Value>().unwrap();
    assert_eq!(kept["backend"]["api_key"], "sk-1234", "the secret behind the stars");

    let patched = api.patch("/experts/remote", json!({"description": "far away"})).await;
    assert_eq!(patched.object(200)["description"], "far away");
    let kept = api.store().load(Kind::Expert, "remote").unwrap().unwrap().parse::<Value>().unwrap();
    assert_eq!(kept["backend"]["api_key"], "sk-1234");

    let mut stars = llm("other");
    stars["backend"]["api_key"] = "***".into();
    let (_, param) = api.post("/experts", stars).await.refused(422, "invalid_value");
    assert_eq!(param.as_deref(), Some("backend.api_key"));
}

#[tokio::test]
async fn a_write_for_another_version_is_refused() {
    let api = Api::new();
    let first =
        api.post("/experts", constant("coder")).await.object(201)["etag"].as_str().unwrap().to_owned();
    let quoted = format!("\"{first}\"");
    let second = api.with("PATCH", "/experts/coder", Some(&quoted), Some(json!({"description": "b"}))).await;
    assert_ne!(second.object(200)["etag"], first.as_str());

    let changes = [
        ("PUT", "/experts/coder", Some(constant("coder"))),
        ("PATCH", "/experts/coder", Some(json!({"description": "c"}))),
        ("DELETE", "/experts/coder", None),
        ("POST", "/experts/coder/drain", None),
    ];
    for (method, path, body) in changes {
        let stale = api.with(method, path, Some(&quoted), body).await;
        let (message, _) = stale.refused(412, "precondition_failed");
        assert!(message.contains(second.body["etag"].as_str().unwrap()), "{message}");
    }
    let mut in_body = constant("coder");
    in_body["etag"] = first.into();
    api.put("/experts/coder", in_body).await.refused(412, "precondition_failed");
    assert_eq!(api.get("/experts/coder").await.object(200), &second.body);
    api.with("PUT", "/experts/coder", Some("*"), Some(constant("coder"))).await.object(200);
}

#[tokio::test]
async fn a_merge_patch_changes_what_it_names() {
    let api = Api::new();
    let mut expert = constant("coder");
    expert["capabilities"] = json!({"tools": true});
    api.post("/experts", expert).await.object(201);
    let patch = json!({"skills": {"code": null, "math": 0.25}, "capabilities": {"vision": true}});
    let patched = api.patch("/experts/coder", patch).await;
    assert_eq!(patched.object(200)["skills"], json!({"math": 0.25}));
    assert_eq!(patched.body["capabilities"]["tools"], true);
    assert_eq!(patched.body["capabilities"]["vision"], true);
    let (_, param) =
        api.patch("/experts/coder", json!({"skills": {"math": 7}})).await.refused(422, "invalid_value");
    assert_eq!(param.as_deref(), Some("skills.math"));
    let (_, param) =
        api.patch("/experts/coder", json!({"id": "renamed"})).await.refused(422, "invalid_value");
    assert_eq!(param.as_deref(), Some("id"));
    let (_, param) =
        api.patch("/experts/coder", json!({"backend": null})).await.refused(422, "invalid_value");
    assert_eq!(param.as_deref(), Some("backend"));
}

#[tokio::test]
async fn the_files_experts_are_read_only_and_can_be_drained() {
    let api = Api::new();
    assert_eq!(api.get("/experts/general").await.object(200)["origin"], "file");
    let changes =
        [("PUT", Some(constant("general"))), ("PATCH", Some(json!({"nonsense": 1}))), ("DELETE", None)];
    for (method, body) in changes {
        let refused = api.with(method, "/experts/general", None, body).await;
        let (message, _) = refused.refused(409, "read_only");
        assert!(message.contains("configuration file"), "{message}");
    }
    let drained = api.with("POST", "/experts/general/drain", None, None).await;
    assert_eq!(drained.object(200)["status"]["availability"], "draining");
    let live = || api.app.pipeline.catalog.view().experts.fleet().get("general").unwrap().availability;
    assert_eq!(live(), Availability::Draining);
    let revision = api.store().revision().unwrap();
    api.with("POST", "/experts/general/drain", None, None).await.object(200);
    assert_eq!(api.store().audit(None, 9).unwrap().len(), 1, "draining what drains is no change");
    assert!(api.store().revision().unwrap() <= revision + 1);
    let back = api.with("POST", "/experts/general/undrain", None, None).await;
    assert_eq!(back.object(200)["status"]["availability"], "ready");
    assert_eq!(live(), Availability::Ready);
}

#[tokio::test]
async fn an_expert_is_removed_when_no_route_needs_it() {
    let api = Api::new();
    api.post("/experts", constant("coder")).await.object(201);
    let route = json!({"id": "fast", "policy": {"kind": "static", "order": [{"expert": "coder"}]}});
    api.post("/routes", route).await.object(201);
    let (message, _) = api.delete("/experts/coder").await.refused(409, "conflict");
    assert!(message.contains("route `fast`"), "{message}");
    assert_eq!(api.delete("/routes/fast").await.status, 204);
    assert_eq!(api.delete("/experts/coder").await.status, 204);
    let (message, _) = api.delete("/experts/coder").await.refused(404, "not_found");
    assert!(message.contains("there is no expert `coder`"), "{message}");
    assert!(api.app.pipeline.catalog.view().experts.get("coder").is_none());
    assert_eq!(api.store().load(Kind::Expert, "coder").unwrap(), None);
}

#[tokio::test]
async fn an_unknown_expert_is_answered_with_the_nearest_known_one() {
    let api = Api::new();
    for (method, path) in
        [("GET", "/experts/generl"), ("DELETE", "/experts/generl"), ("POST", "/experts/generl/drain")]
    {
        let (message, _) = api.with(method, path, None, None).await.refused(404, "not_found");
        assert!(message.contains("did you mean `general`?"), "{message}");
    }
}

#[tokio::test]
async fn names_with_slashes_are_sent_encoded() {
    let api = Api::new();
    let created = api.post("/experts", constant("Qwen/Qwen2.5:7b")).await;
    created.object(201);
    assert_eq!(created.headers[LOCATION], "/admin/v1/experts/Qwen%2FQwen2.5:7b");
    api.get("/experts/Qwen%2FQwen2.5:7b").await.object(200);
    api.with("POST", "/experts/Qwen%2FQwen2.5:7b/drain", None, None).await.object(200);
    assert_eq!(api.delete("/experts/Qwen%2FQwen2.5:7b").await.status, 204);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let api = Api::new();
    for id in ["a", "b", "z"] {
        api.post("/experts", constant(id)).await.object(201);
    }
    let ids = |body: &Value| -> Vec<String> {
        body["items"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap().to_owned()).collect()
    };
    let first = api.get("/experts?limit=3").await.body;
    assert_eq!(
        (ids(&first), &first["next"]),
        (vec!["a".into(), "b".into(), "general".into()], &json!("general"))
    );
    let rest = api.get("/experts?limit=3&after=general").await.body;
    assert_eq!((ids(&rest), &rest["next"]), (vec!["keyed".into(), "z".into()], &Value::Null));
    api.get("/experts?limt=3").await.refused(400, "invalid_value");
    api.get("/experts?limit=many").await.refused(400, "invalid_value");
}

#[tokio::test]
async fn writers_at_the_same_time_lose_nothing() {
    let names: Vec<String> = (0..24).map(|n| format!("c{n}")).collect();
    let categories: Vec<&str> = names.iter().map(String::as_str).chain(["chat"]).collect();
    let store = EmbeddedStore::in_memory(Options::default()).unwrap();
    let api = std::sync::Arc::new(Api::over(&categories, store.into()));
    let mut expert = constant("coder");
    expert["skills"] = json!({});
    api.post("/experts", expert).await.object(201);
    let writers: Vec<_> = names
        .iter()
        .map(|name| {
            let (api, patch) = (api.clone(), json!({"skills": {name: 0.5}}));
            tokio::spawn(async move { api.patch("/experts/coder", patch).await.status })
        })
        .collect();
    for writer in writers {
        assert_eq!(writer.await.unwrap(), 200);
    }
    let skills = api.get("/experts/coder").await.body["skills"].as_object().unwrap().len();
    assert_eq!(skills, names.len());
}

/// A client that leaves while its change is being made leaves no state that is on disk and not in use.
#[tokio::test]
async fn a_change_is_finished_when_its_client_leaves() {
    use futures_util::FutureExt;
    use tower::ServiceExt;

    let api = Api::new();
    let request = request("POST", "/experts", None, Some(constant("coder")));
    let mut left = Box::pin(crate::admin::router(api.app.clone()).oneshot(request));
    assert!((&mut left).now_or_never().is_none(), "the change has begun");
    drop(left);
    while api.store().revision().unwrap() == 0
        || api.app.pipeline.catalog.view().experts.get("coder").is_none()
    {
        tokio::task::yield_now().await;
    }
    api.get("/experts/coder").await.object(200);
}

#[tokio::test]
async fn a_probe_tells_whether_an_expert_answers() {
    let api = Api::new();
    let fine = api.with("POST", "/experts/general/probe", None, None).await;
    assert_eq!(
        (fine.status.as_u16(), &fine.body["ok"], &fine.body["status"]),
        (200, &json!(true), &json!(200))
    );
    let dead = api.with("POST", "/experts/keyed/probe", None, None).await;
    assert_eq!(
        (dead.status.as_u16(), &dead.body["ok"], &dead.body["status"]),
        (200, &json!(false), &json!(null))
    );
    assert!(dead.body["error"].as_str().unwrap().contains("127.0.0.1:9"), "{}", dead.text);
    let status = api.get("/experts/keyed").await.body["status"].clone();
    assert_eq!(status["endpoints"][0]["url"], "http://127.0.0.1:9/v1");
    assert_ne!(status["endpoints"][0]["connect_failures"], 0);
    api.with("POST", "/experts/nobody/probe", None, None).await.refused(404, "not_found");
}
