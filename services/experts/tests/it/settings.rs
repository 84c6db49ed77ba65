//! Settings: checked, shown without secrets, stored with them.

use experts::{Cost, ExpertSpec};
use routing::Availability;
use serde_json::{Value, json};

fn parse(json: Value) -> ExpertSpec {
    serde_json::from_value(json).unwrap()
}

fn llm(fields: &Value) -> ExpertSpec {
    let mut backend = json!({ "kind": "llm", "endpoints": [{ "url": "http://host/v1" }] });
    for (name, value) in fields.as_object().unwrap() {
        backend[name] = value.clone();
    }
    parse(json!({ "id": "e", "backend": backend }))
}

fn problems(spec: &ExpertSpec) -> Vec<String> {
    spec.validate().iter().map(ToString::to_string).collect()
}

#[test]
fn urls_that_cannot_work_are_named_with_a_remedy() {
    let cases = [
        ("ftp://host/v1", "only http and https"),
        ("host:8000/v1", "such as http://"),
        ("/v1", "no scheme"),
        ("http://user:secret@host/v1", "api_key"),
        ("http://host/v1?key=1", "query"),
        ("http://host/v1#x", "fragment"),
        ("http://host:0/v1", "port 0"),
        ("http://host:99999/v1", "port"),
        ("http://host:/v1", "port"),
        ("http://host/v1/chat/completions", "ending with `/v1`"),
        ("", "URL"),
        ("http://ho st/v1", "URL"),
    ];
    for (url, remedy) in cases {
        let found = problems(&llm(&json!({ "endpoints": [{ "url": url }] })));
        assert_eq!(found.len(), 1, "{url}: {found:?}");
        assert!(
            found[0].starts_with("backend.endpoints[0].url: ") && found[0].contains(remedy),
            "{url}: {found:?}"
        );
        assert!(!found[0].contains("secret"));
    }
    for url in
        ["http://localhost:8000", "https://api.openai.com/v1/", "http://[::1]:8000/v1", "http://10.0.0.7/a/b"]
    {
        assert_eq!(problems(&llm(&json!({ "endpoints": [{ "url": url }] }))), [""; 0], "{url}");
    }
}

#[test]
fn every_problem_is_found_at_once() {
    let spec = parse(json!({
        "id": "e",
        "description": "x",
        "backend": {
            "kind": "llm",
            "endpoints": [{ "url": "http://a/v1", "weight": 0 }, { "url": "http://a/v1" }],
            "model": "",
            "api_key": "a\nb",
            "headers": { "authorization": "x", "Host": "x", "bad name": "x", "x-ok": "***", "transfer-encoding": "x" },
            "extra_body": { "model": "x", "top_k": 1 },
            "override_body": { "stream": true, "top_k": 1 },
        },
        "skills": { "math": 1.5, "code": 0.5 },
        "cost": { "input": -1, "output": 1 },
        "limits": { "timeout_ms": 0 },
    }));
    let paths: Vec<String> = spec.validate().into_iter().map(|p| p.path).collect();
    let expected = [
        "skills.math",
        "cost.input",
        "limits.timeout_ms",
        "backend.endpoints[0].weight",
        "backend.endpoints[1].url",
        "backend.model",
        "backend.api_key",
        "backend.headers.Host",
        "backend.headers.authorization",
        "backend.headers.bad name",
        "backend.headers.transfer-encoding",
        "backend.headers.x-ok",
        "backend.extra_body.model",
        "backend.override_body.stream",
        "backend.extra_body.top_k",
    ];
    assert_eq!(paths, expected);
    assert_eq!(problems(&llm(&json!({ "endpoints": [] }))).len(), 1);
    let reject = parse(json!({ "id": "r", "backend": { "kind": "reject", "reason": " ", "status": 429 } }));
    assert_eq!(
        reject.validate().into_iter().map(|p| p.path).collect::<Vec<_>>(),
        ["backend.reason", "backend.status"]
    );
}

#[test]
fn unknown_names_are_refused() {
    for bad in [
        json!({ "id": "e", "backend": { "kind": "llm", "endpoints": [], "modell": "x" } }),
        json!({ "id": "e", "backend": { "kind": "lmm", "endpoints": [] } }),
        json!({ "id": "e", "backend": { "kind": "constant", "text": "x" }, "skill": {} }),
        json!({ "id": "e e", "backend": { "kind": "constant", "text": "x" } }),
    ] {
        assert!(serde_json::from_value::<ExpertSpec>(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn secrets_are_stored_and_never_shown() {
    let spec = llm(&json!({ "api_key": "sk-secret", "headers": { "api-key": "hush", "x~/": "tilde" } }));
    let shown = serde_json::to_string(&spec).unwrap() + &format!("{spec:?}");
    for secret in ["sk-secret", "hush", "tilde"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(shown.contains("***"));
    let stored = spec.to_stored_json();
    assert_eq!(stored["backend"]["api_key"], "sk-secret");
    assert_eq!(parse(stored), spec);
    // What was read can be written back.
    let mut back = parse(serde_json::to_value(&spec).unwrap());
    assert!(problems(&back).iter().any(|p| p.starts_with("backend.api_key: is `***`")));
    back.inherit_secrets(&spec);
    assert_eq!(back, spec);
    // A new secret is not overwritten.
    let mut changed = llm(&json!({ "api_key": "sk-new" }));
    changed.inherit_secrets(&spec);
    assert_eq!(changed.to_stored_json()["backend"]["api_key"], "sk-new");
}

#[test]
fn facts_are_in_the_order_of_the_categories() {
    let mut spec = llm(&json!({}));
    spec.skills = [("b".to_owned(), 0.25), ("x".to_owned(), 1.0)].into();
    spec.cost = Cost { input: 2.0, output: 6.0 };
    let categories = ["a".into(), "b".into()];
    let facts = spec.facts(&categories, Availability::Draining);
    assert_eq!(facts.skills, [0.0, 0.25]);
    assert!((facts.cost - 3.0).abs() < 1e-6);
    assert_eq!(facts.availability, Availability::Draining);
    let unknown = spec.unknown_skills(&categories);
    assert_eq!(unknown.iter().map(|p| p.path.as_str()).collect::<Vec<_>>(), ["skills.x"]);
}
