//! Policies and modifiers over a running gateway with the real router: signals through the admin API, answers, replay.

use e2e::{Answer, Client, Gateway};
use mock_expert::Mock;
use serde_json::{Value, json};

use crate::support::{ask, llm, mock, until};

const CODE: &str = "Write a Python function that reverses a linked list.";
/// The shipped router's space.
const SPACE: &str = "guildhall-minilm-l6";
const LAW: &str = "Is a verbal contract for the sale of land binding under English law?";

/// A route for every policy, each under other modifiers.
const ROUTES: &[(&str, &str, &str)] = &[
    ("coe", "{kind: coe}", "{ties: {within: 0.01, by: [load, latency, price]}, stickiness: {rho: 0.2}}"),
    ("quality", "{kind: cost_quality, lambda: 0.0}", "{balance: {window: 2}}"),
    ("gates", "{kind: gates, robust: {expert: general}}", "{adaptive: {mass: 0.6}}"),
    ("glider", "{kind: glider, p: 0.95}", "{explore: {share: 0.5}}"),
    ("past", "{kind: knn, k: 2, pseudo_counts: 1.0}", "{stickiness: {rho: 0.1}, explore: {share: 0.3}}"),
    (
        "pilots",
        "{kind: router_retriever}",
        "{adaptive: {mass: 0.9, by: categories}, explore: {share: 0.2, within: 0.01}}",
    ),
    (
        "drawn",
        "{kind: static, order: [{expert: coder, weight: 1.0}, {expert: lawyer, weight: 1.0}]}",
        "{explore: {share: 0.1}}",
    ),
];

struct Bed {
    gateway: Gateway,
    client: Client,
    _mock: Mock,
}

impl Bed {
    async fn start() -> Self {
        let mock = mock().await;
        let experts = [
            (
                "coder",
                "description: writes and mends programs, skills: {coding: 0.9}, cost: {input: 4.0, output: 4.0}",
            ),
            (
                "general",
                "description: answers anything, skills: {coding: 0.8, legal: 0.6}, cost: {input: 1.0, output: 1.0}",
            ),
            ("lawyer", "description: knows the law, skills: {legal: 0.9}"),
        ];
        let experts: String = experts.iter().map(|(id, rest)| llm(id, &mock.url(), rest)).collect();
        let routes: Vec<String> = ROUTES
            .iter()
            .map(|(id, policy, modifiers)| {
                format!("  - {{id: {id}, policy: {policy}, modifiers: {modifiers}, default: general}}\n")
            })
            .collect();
        let routes = routes.concat();
        let gateway = Gateway::start(&format!("experts:\n{experts}routes:\n{routes}")).unwrap();
        Self { gateway, client: Client::default(), _mock: mock }
    }

    async fn admin(&self, method: &str, path: &str, body: &str) -> Answer {
        let bearer = self.gateway.bearer();
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        self.client.send(method, &self.gateway.admin_v1(path), &headers, body.to_owned()).await.unwrap()
    }

    async fn chat(&self, route: &str, text: &str, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        let body = ask(route, text).to_string();
        let answer =
            self.client.send("POST", &self.gateway.v1("chat/completions"), &all, body).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer
    }

    async fn embedding(&self, text: &str) -> Value {
        let body = json!({"model": SPACE, "input": text});
        let answer = self.client.post(&self.gateway.v1("embeddings"), &body).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["data"][0]["embedding"].clone()
    }

    /// Whom a dry run would ask, and why.
    async fn explain(&self, route: &str, text: &str) -> Value {
        let body = json!({"model": route, "prompt": text}).to_string();
        let answer = self.admin("POST", "route", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["planned"].clone()
    }
}

/// A vector as wide as the router's with one bump; its mean is not zero, as a gate's need not be.
fn bump(at: usize) -> Vec<f32> {
    (0..384).map(|i| if i % 16 == at { 1.0 } else { 0.1 }).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pilots_decide_as_soon_as_they_are_set_and_the_write_tells_what_changes() {
    let bed = Bed::start().await;
    let first = bed.chat("pilots", CODE, &[]).await;
    assert_eq!(first.header("x-guildhall-path"), "fallback", "nobody has pilots");
    let pilots =
        async |text: &str| json!({"encoder": SPACE, "vectors": [bed.embedding(text).await]}).to_string();
    let coder = pilots("a function in Python that sorts a list").await;
    let dry = bed.admin("PUT", "pilots/coder?dry_run=true", &coder).await;
    assert_eq!(dry.status, 200, "{}", dry.text());
    assert_eq!(dry.json()["changes"]["examples"][0]["decision"], first.header("x-guildhall-decision"));
    assert_eq!(dry.json()["changes"]["examples"][0]["after"], "coder");
    assert_eq!(bed.chat("pilots", CODE, &[]).await.header("x-guildhall-path"), "fallback");

    assert_eq!(bed.admin("PUT", "pilots/coder", &coder).await.status, 200);
    let lawyer = pilots("whether a contract is binding in law").await;
    assert_eq!(bed.admin("PUT", "pilots/lawyer", &lawyer).await.status, 200);
    let lead = async |text: &str| bed.explain("pilots", text).await["candidates"][0]["reason"].clone();
    assert_eq!(lead(CODE).await, "pilots");
    // Exploration may let the other one lead, but only one that is as similar.
    assert_eq!(bed.chat("pilots", CODE, &[]).await.header("x-guildhall-expert"), "coder");
    assert_eq!(bed.chat("pilots", LAW, &[]).await.header("x-guildhall-expert"), "lawyer");

    let narrow = json!({"encoder": SPACE, "vectors": [[1.0, 2.0]]}).to_string();
    let refused = bed.admin("PUT", "pilots/general", &narrow).await;
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (422, &json!("vectors[0]")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_may_weigh_the_price_by_itself() {
    let bed = Bed::start().await;
    assert_eq!(bed.chat("quality", CODE, &[]).await.header("x-guildhall-expert"), "coder");
    let thrifty = bed.chat("quality", CODE, &[("x-guildhall-lambda", "0.5")]).await;
    assert_eq!(thrifty.header("x-guildhall-expert"), "general");
    let record = bed.admin("GET", &format!("decisions/{}", thrifty.header("x-guildhall-decision")), "").await;
    assert_eq!(record.json()["planned"]["lambda"], 0.5);
    let odd = bed.chat("quality", CODE, &[("x-guildhall-lambda", "cheap")]).await;
    assert_eq!(odd.header("x-guildhall-expert"), "coder", "what cannot be understood was not sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_policy_under_modifiers_is_replayed_to_the_same_plan() {
    let bed = Bed::start().await;
    for (at, id) in ["coder", "general", "lawyer"].into_iter().enumerate() {
        let vector = bump(at);
        for (path, body) in [
            ("gates", json!({"encoder": SPACE, "vector": vector})),
            ("pilots", json!({"encoder": SPACE, "vectors": [vector]})),
            ("scorers", json!({"encoder": SPACE, "weights": vector, "bias": 0.5})),
        ] {
            let answer = bed.admin("PUT", &format!("{path}/{id}"), &body.to_string()).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    let past = json!({"text": CODE, "outcomes": {"coder": 0.9, "general": 0.5, "lawyer": 0.2}});
    assert_eq!(bed.admin("POST", "memory", &past.to_string()).await.status, 200);
    // Descriptions are embedded beside the requests.
    until("the descriptions are embedded", async || {
        bed.explain("glider", CODE).await["candidates"].as_array().is_some_and(|all| all.len() == 3)
    })
    .await;
    for round in 0..3 {
        for (route, ..) in ROUTES {
            for text in [CODE, LAW] {
                let answer = bed.chat(route, text, &[("x-guildhall-session", "one conversation")]).await;
                let id = answer.header("x-guildhall-decision").to_owned();
                let replay = bed.admin("POST", &format!("decisions/{id}/replay"), "").await.json();
                assert_eq!(replay["same"], true, "{route}, round {round}: {replay}");
                assert_eq!(replay["replayed"], replay["recorded"]);
                let candidates = replay["recorded"]["candidates"].as_array().unwrap();
                assert!(!candidates.is_empty(), "{route}: {replay}");
                if ["glider", "drawn"].contains(route) {
                    let sum: f64 = candidates.iter().map(|c| c["propensity"].as_f64().unwrap()).sum();
                    assert!((sum - 1.0).abs() < 1e-5, "{replay}");
                }
            }
        }
    }
    // The route's settings are part of what a replay is made with.
    let cut = bed.explain("gates", CODE).await;
    assert_eq!(cut["changed_by"], json!(["adaptive"]), "{cut}");
    assert!(cut["rejected"].as_array().unwrap().iter().any(|r| r["obstacle"] == "improbable"), "{cut}");
}
