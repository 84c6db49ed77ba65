use std::sync::Arc;

use serde_json::json;

use super::fixture::{Api, KEY, TOKEN};
use crate::decision::{Caller, Decision, DecisionId, Planned};

fn decision(id: u64, route: &str, status: u16) -> Arc<Decision> {
    Arc::new(Decision {
        request_id: format!("req-{id}"),
        time_ms: id,
        model: route.into(),
        route: routing::ExpertId::new(route).ok(),
        policy: Some("static"),
        expert: routing::ExpertId::new("general").ok(),
        status,
        ..Decision::example(DecisionId(id))
    })
}

#[tokio::test]
async fn decisions_are_found_newest_first() {
    let api = Api::new();
    for (id, route, status) in [(1, "auto", 200), (2, "fast", 200), (3, "auto", 502)] {
        api.app.pipeline.decisions.push(decision(id, route, status));
    }
    let times = async |query: &str| -> Vec<u64> {
        let answer = api.get(&format!("/decisions{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.body["items"].as_array().unwrap().iter().map(|d| d["time_ms"].as_u64().unwrap()).collect()
    };
    assert_eq!(times("").await, [3, 2, 1]);
    assert_eq!(times("?limit=1").await, [3]);
    assert_eq!(times("?route=auto").await, [3, 1]);
    assert_eq!(times("?route=auto&status=200").await, [1]);
    assert_eq!(times("?request_id=req-2").await, [2]);
    assert_eq!(times("?expert=nobody").await, [0; 0]);
    let caller = |key: &str, team: Option<&str>| Some(Caller { key: key.into(), team: team.map(Into::into) });
    for (id, caller, error) in
        [(4, caller("ci", Some("red")), Some("rate_limit_exceeded")), (5, caller("web", None), None)]
    {
        let recorded = Decision { caller, error, ..Decision::clone(&decision(id, "auto", 429)) };
        api.app.pipeline.decisions.push(Arc::new(recorded));
    }
    assert_eq!(times("?error=rate_limit_exceeded").await, [4]);
    assert_eq!(times("?key=web").await, [5]);
    assert_eq!(times("?team=red").await, [4]);
    assert_eq!(times("?team=red&key=web").await, [0; 0]);
    api.get("/decisions?rout=auto").await.refused(400, "invalid_value");

    let one = api.get("/decisions/d-0000000000000002").await;
    assert_eq!((one.status.as_u16(), &one.body["route"]), (200, &json!("fast")));
    for id in ["d-0000000000000009", "nonsense"] {
        let (message, _) = api.get(&format!("/decisions/{id}")).await.refused(404, "not_found");
        assert!(message.contains("only the most recent ones are kept"), "{message}");
    }
}

#[tokio::test]
async fn a_dry_run_explains_and_calls_nobody() {
    let api = Api::new();
    let answer = api.post("/route", json!({"prompt": "hello"})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!((&answer.body["route"], &answer.body["expert"]), (&json!("auto"), &json!("general")));
    assert_eq!(answer.body["planned"]["candidates"][0]["reason"], "listed");
    assert_eq!(answer.body["attempts"], json!([]));
    assert_eq!(answer.body["text"], "hello");
    assert!(api.app.pipeline.decisions.recent(9, |_| true).is_empty());

    let whole = json!({"model": "keyed", "messages": [{"role": "user", "content": "hello"}], "unknown": 1});
    assert_eq!(api.post("/route", whole).await.body["expert"], "keyed");
    let both = json!({"prompt": "x", "messages": []});
    let (_, param) = api.post("/route", both).await.refused(400, "invalid_value");
    assert_eq!(param.as_deref(), Some("prompt"));
    let (_, param) = api.post("/route", json!({"prompt": 7})).await.refused(400, "invalid_value");
    assert_eq!(param.as_deref(), Some("prompt"));
    let (message, param) =
        api.post("/route", json!({"prompt": "x", "model": "generl"})).await.refused(404, "model_not_found");
    assert!(message.contains("did you mean `general`?") && param.as_deref() == Some("model"), "{message}");
}

#[tokio::test]
async fn the_configuration_is_shown_without_its_secrets() {
    let api = Api::new();
    let answer = api.get("/config").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body["experts"][0]["id"], "general");
    assert_eq!(answer.body["data"]["max_in_flight"], 10_000, "defaults included");
    assert_eq!(answer.body["admin"]["token"], "***");
    assert_eq!(answer.body["experts"][1]["backend"]["api_key"], "***");
    assert!(!answer.text.contains(TOKEN) && !answer.text.contains(KEY));
}

#[tokio::test]
async fn changes_are_on_record_and_come_in_pages() {
    let api = Api::new();
    for id in ["a", "b", "c"] {
        let expert = json!({"id": id, "backend": {"kind": "constant", "text": "secret words"}});
        api.post("/experts", expert).await.object(201);
    }
    assert_eq!(api.delete("/experts/b").await.status, 204);
    api.delete("/experts/nobody").await.refused(404, "not_found");
    let first = api.get("/audit?limit=3").await;
    let told: Vec<(&str, &str)> = first.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["action"].as_str().unwrap(), e["object"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [("expert.delete", "experts/b"), ("expert.create", "experts/c"), ("expert.create", "experts/b")]
    );
    assert_eq!(first.body["items"][0]["actor"], "admin");
    assert!(!first.text.contains("secret words"));
    let next = first.body["next"].as_u64().unwrap();
    let rest = api.get(&format!("/audit?limit=3&before={next}")).await.body;
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next"]), (1, &json!(null)));
}

#[tokio::test]
async fn a_decision_is_computed_again() {
    let api = Api::new();
    let split = json!({"kind": "static", "order": [
        {"expert": "general", "weight": 1.0}, {"expert": "keyed", "weight": 1.0},
    ]});
    api.post("/routes", json!({"id": "split", "policy": split})).await.object(201);
    let view = api.app.pipeline.catalog.view();
    for seed in 1..=8 {
        let fleet = view.experts.fleet().clone();
        let planned =
            Planned::new(view.routes["split"].clone(), routing::Request::default(), fleet, DecisionId(seed));
        let planned = Some(Arc::new(planned));
        let recorded = Decision { planned, ..Decision::clone(&decision(seed, "split", 200)) };
        api.app.pipeline.decisions.push(Arc::new(recorded));
    }
    let replay = async |seed: u64| {
        let path = format!("/decisions/{}/replay", DecisionId(seed));
        let answer = api.with("POST", &path, None, None).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.body
    };
    let mut leaders = std::collections::BTreeSet::new();
    for seed in 1..=8 {
        let now = replay(seed).await;
        assert_eq!((&now["policy"], &now["same"]), (&json!("unchanged"), &json!(true)));
        assert_eq!(now["replayed"], now["recorded"]);
        leaders.insert(now["recorded"]["candidates"][0]["expert"].as_str().unwrap().to_owned());
    }
    assert_eq!(leaders.len(), 2, "the seed matters");

    // Draining an expert changes the fleet, and a description no plan; neither is the policy's.
    api.with("POST", "/experts/general/drain", None, None).await.object(200);
    api.patch("/routes/split", json!({"description": "halves"})).await.object(200);
    assert_eq!(replay(1).await["same"], true);

    let order = json!({"policy": {"order": [{"expert": "keyed"}]}});
    api.patch("/routes/split", order).await.object(200);
    let now = replay(1).await;
    assert_eq!((&now["policy"], &now["same"]), (&json!("changed"), &json!(false)));
    assert_eq!(now["replayed"]["candidates"].as_array().unwrap().len(), 1);

    assert_eq!(api.delete("/routes/split").await.status, 204);
    let now = replay(1).await;
    assert_eq!((&now["policy"], &now["same"]), (&json!("removed"), &json!(true)));

    api.app.pipeline.decisions.push(decision(9, "auto", 200));
    let path = format!("/decisions/{}/replay", DecisionId(9));
    api.with("POST", &path, None, None).await.refused(409, "conflict");
}
