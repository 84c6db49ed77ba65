//! The registry: changed while it is read, all at once or not at all.

use std::sync::Arc;

use experts::{Registry, Trust, Wanted};
use routing::Availability;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::*;

fn categories() -> Arc<[Arc<str>]> {
    ["code".into(), "math".into()].into()
}

fn wanted(spec: Value) -> Wanted {
    let spec = serde_json::from_value(spec).unwrap();
    Wanted {
        spec,
        trust: Trust::Operator,
        availability: Availability::Ready,
        signals: std::sync::Arc::default(),
    }
}

fn constant(id: &str, text: &str) -> Wanted {
    let skills = json!({ "math": 0.5 });
    wanted(json!({ "id": id, "backend": { "kind": "constant", "text": text }, "skills": skills }))
}

#[test]
fn unchanged_experts_stay_the_same_objects() {
    let registry = Registry::new(client());
    let first = registry.replace(vec![constant("b", "1"), constant("a", "1")], categories()).unwrap();
    let ids: Vec<&str> = first.ids().map(routing::ExpertId::as_str).collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(first.fleet().experts[0].skills, [0.0, 0.5]);
    let mut drained = constant("a", "1");
    drained.availability = Availability::Draining;
    let second =
        registry.replace(vec![drained, constant("b", "2"), constant("c", "1")], categories()).unwrap();
    assert!(second.revision() > first.revision());
    assert!(
        Arc::ptr_eq(first.get("a").unwrap(), second.get("a").unwrap()),
        "draining is no change of the expert"
    );
    assert!(!Arc::ptr_eq(first.get("b").unwrap(), second.get("b").unwrap()));
    assert_eq!(second.fleet().get("a").unwrap().availability, Availability::Draining);
    assert!(first.get("c").is_none() && registry.get("c").is_some());
}

#[test]
fn a_bad_expert_changes_nothing() {
    let registry = Registry::new(client());
    registry.replace(vec![constant("a", "1")], categories()).unwrap();
    let mut bad = constant("b", "1");
    bad.spec.skills.insert("code".to_owned(), 7.0);
    let problems =
        registry.replace(vec![bad, constant("c", "1"), constant("c", "2")], categories()).unwrap_err();
    let paths: Vec<&str> = problems.iter().map(|p| p.path.as_str()).collect();
    assert_eq!(paths, ["b.skills.code", "c.id"]);
    assert!(registry.get("a").is_some() && registry.get("c").is_none());
}

#[test]
fn skills_without_a_category_are_reported() {
    let registry = Registry::new(client());
    let mut odd = constant("a", "1");
    odd.spec.skills.insert("cooking".to_owned(), 1.0);
    let snapshot = registry.replace(vec![odd], categories()).unwrap();
    assert_eq!(snapshot.warnings()[0].path, "a.skills.cooking");
    assert!(snapshot.get("a").is_some());
}

fn llm(id: &str, url: &str, description: &str) -> Wanted {
    let backend: Value = json!({ "kind": "llm", "endpoints": [{ "url": url }] });
    wanted(json!({ "id": id, "description": description, "backend": backend }))
}

#[tokio::test]
async fn connections_survive_changes_and_calls_survive_removals() {
    let (seen, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (see, wait) = (seen.clone(), go.clone());
    let upstream = Upstream::start(move |mut connection, _| {
        let (see, wait) = (see.clone(), wait.clone());
        async move {
            while connection.request().await.is_some() {
                see.notify_one();
                wait.notified().await;
                connection.write(whole("200 OK", "application/json", "{}")).await;
            }
        }
    })
    .await;
    let registry = Arc::new(Registry::new(client()));
    let url = upstream.url();
    for (id, description) in [("e", "one"), ("e", "two"), ("f", "one")] {
        registry.replace(vec![llm(id, &url, description)], categories()).unwrap();
        let expert = registry.get(id).unwrap();
        let call = tokio::spawn(async move { text(ask(&expert, PLAIN).await.unwrap().body).await });
        seen.notified().await;
        registry.replace(Vec::new(), categories()).unwrap();
        assert!(registry.get(id).is_none());
        // The call in progress keeps the peer and its connections alive across the removal.
        registry.replace(vec![llm(id, &url, description)], categories()).unwrap();
        go.notify_one();
        assert_eq!(call.await.unwrap(), "{}");
    }
    assert_eq!(upstream.connections(), 1);
}
