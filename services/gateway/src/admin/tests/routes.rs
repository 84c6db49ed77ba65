use serde_json::json;

use super::fixture::Api;

#[tokio::test]
async fn a_route_lives_through_its_life() {
    let api = Api::new();
    let spec = json!({"id": "fast", "policy": {"kind": "static", "order": [{"expert": "general"}]}});
    let created = api.post("/routes", spec.clone()).await;
    assert_eq!(created.object(201)["origin"], "admin");
    assert_eq!(created.headers["location"], "/admin/v1/routes/fast");
    assert!(api.app.pipeline.catalog.view().routes.contains_key("fast"), "clients can name it");
    api.post("/routes", spec.clone()).await.refused(409, "conflict");

    let patched = api.patch("/routes/fast", json!({"description": "quick", "timeout_ms": 500})).await;
    assert_eq!(
        (&patched.object(200)["description"], &patched.body["timeout_ms"]),
        (&json!("quick"), &json!(500))
    );
    let etag = patched.body["etag"].as_str().unwrap().to_owned();
    let stale = api.with("PUT", "/routes/fast", created.body["etag"].as_str(), Some(spec.clone())).await;
    stale.refused(412, "precondition_failed");
    let replaced = api.with("PUT", "/routes/fast", Some(&etag), Some(spec)).await;
    assert_eq!(replaced.object(200), &created.body);
    assert_eq!(api.get("/routes/fast").await.object(200), &created.body);
    let ids: Vec<_> =
        api.get("/routes").await.body["items"].as_array().unwrap().iter().map(|r| r["id"].clone()).collect();
    assert_eq!(ids, ["auto", "fast"]);
    assert_eq!(api.delete("/routes/fast").await.status, 204);
    api.get("/routes/fast").await.refused(404, "not_found");
    assert!(!api.app.pipeline.catalog.view().routes.contains_key("fast"));
}

#[tokio::test]
async fn bad_routes_are_named_by_their_place() {
    let api = Api::new();
    let order = |expert: &str| json!({"kind": "static", "order": [{"expert": expert}]});
    let cases = [
        (json!({"id": "r", "policy": order("generl")}), "policy", "did you mean `general`?"),
        (
            json!({"id": "r", "policy": order("general"), "default": "nobody"}),
            "default",
            "there is no expert `nobody`",
        ),
        (json!({"id": "r", "policy": order("general"), "timeout_ms": 0}), "timeout_ms", "above 0"),
        (json!({"id": "r", "policy": {"kind": "statc"}}), "policy.kind", "did you mean `static`?"),
        (json!({"id": "r", "policy": {"kind": "coe", "lambda": -1.0}}), "policy.lambda", "at least 0"),
        (json!({"id": "general", "policy": order("general")}), "id", "name of an expert"),
        (
            json!({"id": "r", "policy": order("general"), "defalt": "general"}),
            "defalt",
            "did you mean `default`?",
        ),
    ];
    for (body, place, words) in cases {
        let (message, param) = api.post("/routes", body.clone()).await.refused(422, "invalid_value");
        assert_eq!(param.unwrap_or_default(), place, "{body}: {message}");
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(api.store().revision().unwrap(), 0);
}

#[tokio::test]
async fn the_files_routes_are_read_only() {
    let api = Api::new();
    for (method, body) in [("PUT", Some(json!({}))), ("PATCH", Some(json!({}))), ("DELETE", None)] {
        let (message, _) = api.with(method, "/routes/auto", None, body).await.refused(409, "read_only");
        assert!(message.contains("route `auto` is defined in the configuration file"), "{message}");
    }
    let (message, _) = api.get("/routes/aut").await.refused(404, "not_found");
    assert!(message.contains("did you mean `auto`?"), "{message}");
}
