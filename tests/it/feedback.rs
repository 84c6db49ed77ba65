//! Outcomes of decisions: reported by callers and operators, kept, and exported for training.

use e2e::{Answer, Client, Gateway};
use serde_json::{Value, json};

use crate::support::{ask, chat, key, llm, mock, token};

const PROMPT: &str = "Write a Python function that reverses a linked list.";

fn config(url: &str, more: &str) -> String {
    format!(
        "{more}telemetry: {{decisions: 5}}\nkeys:\n{}{}experts:\n{}{}routes:\n  - {{id: auto, policy: {{kind: coe}}, default: spare}}\n",
        key("one", ""),
        key("two", ""),
        llm("coder", url, "skills: {coding: 1.0}"),
        llm("spare", url, ""),
    )
}

async fn report(client: &Client, gateway: &Gateway, id: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {}", token(id));
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    client.send("POST", &gateway.v1("feedback"), &headers, body.to_string()).await.unwrap()
}

async fn admin(client: &Client, gateway: &Gateway, method: &str, path: &str, body: &str) -> Answer {
    let bearer = gateway.bearer();
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    client.send(method, &gateway.admin_v1(path), &headers, body.to_owned()).await.unwrap()
}

/// The lines of the export.
async fn exported(client: &Client, gateway: &Gateway, query: &str) -> Vec<Value> {
    let answer = admin(client, gateway, "GET", &format!("feedback{query}"), "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"));
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_is_reported_kept_over_a_crash_and_exported_with_what_training_needs() {
    let mock = mock().await;
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start_in(folder.path(), &config(&mock.url(), "")).unwrap();
    let client = Client::default();
    let answer = chat(&client, &gateway, "one", &[], &ask("auto", PROMPT)).await;
    let decision = answer.header("x-guildhall-decision").to_owned();

    let good = report(&client, &gateway, "one", &json!({"decision": decision, "label": "good"})).await;
    assert_eq!(good.status, 200, "{}", good.text());
    let expected = json!({"object": "feedback", "decision": decision, "expert": "coder", "score": 1.0});
    assert_eq!(good.json(), expected);
    assert!(!good.header("x-request-id").is_empty());
    // The later word counts, and an operator may judge another expert as well.
    let body = json!({"decision": decision, "score": 0.25, "comment": "does not handle the empty list"});
    assert_eq!(report(&client, &gateway, "one", &body).await.status, 200);
    let other = json!({"decision": decision, "score": 0.75, "expert": "spare"}).to_string();
    let judged = admin(&client, &gateway, "POST", "feedback", &other).await;
    assert_eq!(judged.status, 201, "{}", judged.text());

    let metrics = client.get(&format!("{}/metrics", gateway.admin)).await.unwrap().text();
    assert!(metrics.contains("guildhall_feedback_score_count{expert=\"coder\"} 2"), "{metrics}");
    // Judged decisions are remembered longer than others.
    for _ in 0..6 {
        chat(&client, &gateway, "one", &[], &ask("auto", "hi")).await;
    }
    let kept = admin(&client, &gateway, "POST", &format!("decisions/{decision}/replay"), "").await;
    assert_eq!((kept.status, &kept.json()["same"]), (200, &json!(true)), "{}", kept.text());

    let before = exported(&client, &gateway, "").await;
    gateway.kill().unwrap();
    drop(gateway);
    let gateway = Gateway::start_in(folder.path(), &config(&mock.url(), "")).unwrap();
    let lines = exported(&client, &gateway, "").await;
    assert_eq!(lines, before, "what was answered is durable");
    assert_eq!(lines.len(), 2);
    let of = |expert: &str| lines.iter().find(|line| line["expert"] == expert).unwrap();
    let line = of("coder");
    assert_eq!((&line["score"], &line["decision"]), (&json!(0.25), &json!(decision)));
    assert_eq!(line["by"], json!({"plane": "data", "key": "one"}));
    assert_eq!(of("spare")["by"], json!({"plane": "admin", "actor": "admin"}));
    assert_eq!((&line["bundle"], &line["route"]), (&json!(*super::bundles::SHIPPED), &json!("auto")));
    assert!(line.get("embedding").is_none(), "embeddings are kept only where that is wanted");
    let probabilities = line["probabilities"].as_object().unwrap();
    let sum: f64 = probabilities.values().map(|p| p.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-3 && probabilities["coding"].as_f64().unwrap() > 0.5, "{line}");
    let time = line["time_ms"].as_u64().unwrap();
    assert_eq!(exported(&client, &gateway, &format!("?since_ms={time}")).await.len(), 2);
    assert_eq!(exported(&client, &gateway, &format!("?since_ms={}", time + 1)).await.len(), 0);
    assert_eq!(exported(&client, &gateway, "?limit=1").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_is_for_a_decision_of_the_same_key_that_is_remembered() {
    let mock = mock().await;
    let gateway = Gateway::start(&config(
        &mock.url(),
        "feedback: {embeddings: true}\nrouter: {cascade: {enabled: false}}\n",
    ))
    .unwrap();
    let client = Client::default();
    let answer = chat(&client, &gateway, "one", &[], &ask("auto", PROMPT)).await;
    let decision = answer.header("x-guildhall-decision").to_owned();
    let good = json!({"decision": decision, "label": "good"});
    let others = report(&client, &gateway, "two", &good).await;
    let unknown = json!({"decision": "d-0123456789abcdef", "label": "good"});
    let unknown = report(&client, &gateway, "two", &unknown).await;
    assert_eq!((others.status, unknown.status), (404, 404));
    let told = |answer: &Answer, id: &str| answer.text().replace(id, "ID");
    assert_eq!(
        told(&others, &decision),
        told(&unknown, "d-0123456789abcdef"),
        "nobody learns of others' decisions"
    );
    assert!(others.text().contains("the latest 5 are (telemetry.decisions)"), "{}", others.text());
    let nobody = client.post(&gateway.v1("feedback"), &good).await.unwrap();
    assert_eq!(nobody.status, 401);
    for (body, status, param) in [
        (json!({"decision": decision}), 422, "score"),
        (json!({"decision": decision, "score": 1.5}), 422, "score"),
        (json!({"decision": decision, "score": 1, "label": "good"}), 422, "label"),
        (json!({"decision": decision, "score": 1, "expert": "spare"}), 422, "expert"),
        (json!({"decision": decision, "score": 1, "comment": "x".repeat(2001)}), 422, "comment"),
        (json!({"decision": decision, "stars": 5}), 400, "stars"),
        (json!({"score": 1}), 400, "decision"),
    ] {
        let refused = report(&client, &gateway, "one", &body).await;
        assert_eq!(refused.status, status, "{body}: {}", refused.text());
        assert_eq!(refused.json()["error"]["param"], param, "{body}: {}", refused.text());
    }
    let named = json!({"decision": decision, "score": 1, "expert": "codr"}).to_string();
    let refused = admin(&client, &gateway, "POST", "feedback", &named).await;
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("did you mean `coder`?"), "{}", refused.text());
    assert!(exported(&client, &gateway, "").await.is_empty());

    assert_eq!(report(&client, &gateway, "one", &good).await.status, 200);
    let line = exported(&client, &gateway, "").await.remove(0);
    let embedding: Vec<f64> =
        line["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert!((embedding.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-3);
    // A decision that nobody judged in time is gone.
    let late = chat(&client, &gateway, "one", &[], &ask("auto", PROMPT)).await;
    let late = late.header("x-guildhall-decision").to_owned();
    for _ in 0..6 {
        chat(&client, &gateway, "one", &[], &ask("auto", "hi")).await;
    }
    let late = report(&client, &gateway, "one", &json!({"decision": late, "label": "bad"})).await;
    assert_eq!(late.status, 404, "{}", late.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_of_an_explored_plan_says_how_probable_its_expert_was() {
    let mock = mock().await;
    let config = format!(
        "keys:\n{}experts:\n{}{}routes:\n  - {{id: auto, policy: {{kind: coe}}, modifiers: {{explore: {{share: 0.4}}}}}}\n",
        key("one", ""),
        llm("coder", &mock.url(), "skills: {coding: 1.0}"),
        llm("spare", &mock.url(), "skills: {coding: 0.5}"),
    );
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    for _ in 0..60 {
        let answer = chat(&client, &gateway, "one", &[], &ask("auto", PROMPT)).await;
        let judged = json!({"decision": answer.header("x-guildhall-decision"), "label": "good"});
        assert_eq!(report(&client, &gateway, "one", &judged).await.status, 200);
    }
    let lines = exported(&client, &gateway, "").await;
    assert_eq!(lines.len(), 60);
    let of = |expert: &str| {
        let mut all =
            lines.iter().filter(|l| l["expert"] == expert).map(|l| l["propensity"].as_f64().unwrap());
        let first = all.next().unwrap_or_else(|| panic!("{expert} never led"));
        assert!(all.all(|p| (p - first).abs() < 1e-6));
        first
    };
    let (coder, spare) = (of("coder"), of("spare"));
    assert!((coder + spare - 1.0).abs() < 1e-6 && coder > spare, "{coder} {spare}");

    // Who only stands in for the leader was not drawn.
    let answer = chat(&client, &gateway, "one", &[], &ask("auto", PROMPT)).await;
    let led = if answer.header("x-guildhall-expert") == "coder" { "spare" } else { "coder" };
    let judged = json!({"decision": answer.header("x-guildhall-decision"), "label": "bad", "expert": led});
    let taken = admin(&client, &gateway, "POST", "feedback", &judged.to_string()).await;
    assert_eq!(taken.status, 201, "{}", taken.text());
    let stood_in = exported(&client, &gateway, "").await.into_iter().find(|l| l["score"] == 0.0).unwrap();
    assert!(stood_in.get("propensity").is_none_or(Value::is_null), "{stood_in}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feedback_can_be_turned_off() {
    let gateway = Gateway::start(
        "feedback: {max_entries: 0}\nexperts:\n  - {id: a, backend: {kind: constant, text: x}}\nroutes:\n  - {id: auto, policy: {kind: static, order: [{expert: a}]}}\n",
    )
    .unwrap();
    let client = Client::default();
    let answer = client.post(&gateway.v1("chat/completions"), &ask("auto", "hi")).await.unwrap();
    let body = json!({"decision": answer.header("x-guildhall-decision"), "label": "good"});
    let refused = client.post(&gateway.v1("feedback"), &body).await.unwrap();
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("feedback.max_entries: 0"), "{}", refused.text());
}
