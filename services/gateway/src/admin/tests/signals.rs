use std::sync::Arc;

use routing::{Features, Request};
use serde_json::{Value, json};

use super::fixture::Api;
use crate::decision::{Decision, DecisionId, Planned};

/// A route by each signal, and two experts that may have some. The router's space is `tiny`, 4 wide.
async fn api() -> Api {
    let api = Api::new();
    for id in ["a", "b"] {
        let expert = json!({"id": id, "backend": {"kind": "constant", "text": "x"}, "skills": {"code": 0.5}});
        api.post("/experts", expert).await.object(201);
    }
    for (id, kind) in [("g", "gates"), ("p", "router_retriever"), ("q", "cost_quality")] {
        api.post("/routes", json!({"id": id, "policy": {"kind": kind}})).await.object(201);
    }
    api
}

/// Records a decision on a prompt whose embedding and state point along one axis.
fn decide(api: &Api, route: &str, id: u64, axis: usize) {
    let mut vector = [0.0_f32; 4];
    vector[axis] = 1.0;
    let features = Features {
        embedding: vector.into(),
        state: vector.into(),
        probabilities: [0.0, 1.0, 0.0].into(),
        ..Features::default()
    };
    let request = Request { features: Some(features), ..Request::default() };
    let view = api.app.pipeline.catalog.view();
    let planned = Planned::new(view.routes[route].clone(), request, view.experts.fleet(), DecisionId(id));
    let decision = Decision { planned: Some(Arc::new(planned)), ..Decision::example(DecisionId(id)) };
    api.app.pipeline.decisions.push(Arc::new(decision));
}

fn leader(api: &Api, id: u64) -> Option<String> {
    let decision = api.app.pipeline.decisions.get(DecisionId(id)).unwrap();
    decision.planned.as_ref().unwrap().plan.first().map(|c| c.expert.to_string())
}

#[tokio::test]
async fn a_gate_is_set_read_used_and_removed() {
    let api = api().await;
    let gate = |v: [f32; 4]| json!({"encoder": "tiny", "vector": v});
    let set = api.put("/gates/a", gate([1.0, 0.0, 0.0, 0.0])).await;
    assert_eq!((&set.object(200)["expert"], &set.body["unused_because"]), (&json!("a"), &json!(null)));
    api.put("/gates/b", gate([0.0, 1.0, 0.0, 0.0])).await.object(200);
    decide(&api, "g", 1, 0);
    decide(&api, "g", 2, 1);
    assert_eq!((leader(&api, 1).as_deref(), leader(&api, 2).as_deref()), (Some("a"), Some("b")));

    let read = api.get("/gates/a").await;
    assert_eq!(read.object(200)["vector"], json!([1.0, 0.0, 0.0, 0.0]));
    assert_eq!(api.get("/gates").await.body["items"].as_array().unwrap().len(), 2);
    let again = api.put("/gates/a", read.body.clone()).await;
    assert_eq!(again.object(200)["etag"], read.body["etag"], "what was read can be written");
    api.with("PUT", "/gates/a", Some("\"old\""), Some(gate([0.0; 4])))
        .await
        .refused(412, "precondition_failed");

    assert_eq!(api.delete("/gates/a").await.status, 204);
    api.get("/gates/a").await.refused(404, "not_found");
    decide(&api, "g", 3, 0);
    assert_eq!(leader(&api, 3).as_deref(), Some("b"), "nobody else has a gate");
    api.with("PUT", "/gates/a", Some("\"any\""), Some(gate([0.0; 4])))
        .await
        .refused(412, "precondition_failed");
}

#[tokio::test]
async fn a_write_tells_which_decisions_it_changes_also_when_it_only_tries() {
    let api = api().await;
    let pilots = |v: [f32; 4]| json!({"encoder": "tiny", "vectors": [v]});
    api.put("/pilots/a", pilots([1.0, 0.2, 0.0, 0.0])).await.object(200);
    decide(&api, "p", 1, 0);
    decide(&api, "p", 2, 1);
    let dry = api.put("/pilots/b?dry_run=true", pilots([0.0, 1.0, 0.0, 0.0])).await;
    let expected = json!({"replayed": 2, "changed": 1, "examples": [
        {"decision": DecisionId(2).to_string(), "before": "a", "after": "b"},
    ]});
    assert_eq!(dry.object(200)["changes"], expected);
    api.get("/pilots/b").await.refused(404, "not_found");
    let real = api.put("/pilots/b", pilots([0.0, 1.0, 0.0, 0.0])).await;
    assert_eq!(real.object(200)["changes"], expected);
    let same = api.put("/pilots/b", pilots([0.0, 1.0, 0.0, 0.0])).await;
    assert_eq!(same.object(200)["changes"], json!({"replayed": 2, "changed": 0, "examples": []}));
}

#[tokio::test]
async fn a_scorer_and_the_mapping_move_predicted_quality() {
    let api = api().await;
    decide(&api, "q", 1, 0);
    assert_eq!(leader(&api, 1).as_deref(), Some("a"), "equals go by name");
    let scorer = json!({"encoder": "tiny", "weights": [1.0, 0.0, 0.0, 0.0], "bias": 0.0});
    let set = api.put("/scorers/b", scorer).await;
    assert_eq!(set.object(200)["changes"]["examples"][0]["after"], "b");
    let mapped = api.patch("/mapping?dry_run=true", json!({"experts": {"a": {"code": 1.0}}})).await;
    assert_eq!(mapped.object(200)["changes"]["examples"][0]["after"], "a", "1.0 against (0.5 + 1) / 2");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_its_place_and_another_encoder_s_is_kept_unused() {
    let api = api().await;
    let refused = async |path: &str, body: Value| {
        let (message, param) = api.put(path, body).await.refused(422, "invalid_value");
        (message, param.unwrap_or_default())
    };
    let (message, param) = refused("/gates/a", json!({"encoder": "tiny", "vector": [1.0]})).await;
    assert_eq!(param, "vector");
    assert!(message.contains("must be 4 wide"), "{message}");
    let vectors = json!({"encoder": "tiny", "vectors": [[1.0, 0.0, 0.0, 0.0], [1.0]]});
    assert_eq!(refused("/pilots/a", vectors).await.1, "vectors[1]");
    assert_eq!(refused("/pilots/a", json!({"encoder": "tiny", "vectors": []})).await.1, "vectors");
    let unknown = json!({"encoder": "tiny", "weights": [0.0, 0.0, 0.0, 0.0], "bias": 0.0, "slope": 1.0});
    assert_eq!(refused("/scorers/a", unknown).await.1, "slope");
    let other = json!({"expert": "b", "encoder": "tiny", "vector": [0.0, 0.0, 0.0, 1.0]});
    assert_eq!(refused("/gates/a", other).await.1, "expert");
    let (message, _) = api
        .put("/gates/aa", json!({"encoder": "tiny", "vector": [0.0, 0.0, 0.0, 1.0]}))
        .await
        .refused(404, "not_found");
    assert!(message.contains("there is no expert `aa`"), "{message}");

    let foreign = api.put("/gates/a", json!({"encoder": "large", "vector": [1.0, 2.0]})).await;
    let why = foreign.object(200)["unused_because"].as_str().unwrap();
    assert!(why.contains("`large`") && why.contains("`tiny`"), "{why}");
    decide(&api, "g", 1, 0);
    assert_eq!(leader(&api, 1), None);
    let plan = api.app.pipeline.decisions.get(DecisionId(1)).unwrap();
    let rejected = &plan.planned.as_ref().unwrap().plan.rejected;
    assert!(rejected.iter().any(|r| r.expert.as_str() == "a" && r.obstacle == routing::Obstacle::NoGate));
}

#[tokio::test]
async fn what_was_learnt_goes_with_its_expert() {
    let api = api().await;
    api.put("/gates/a", json!({"encoder": "tiny", "vector": [1.0, 0.0, 0.0, 0.0]})).await.object(200);
    assert_eq!(api.delete("/experts/a").await.status, 204);
    api.get("/gates/a").await.refused(404, "not_found");
    assert!(api.store().load(stores::Kind::Gate, "a").unwrap().is_none());
}
