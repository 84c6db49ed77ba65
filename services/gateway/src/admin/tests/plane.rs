use std::collections::BTreeSet;

use axum::body::Body;
use http::{Request, header};
use serde_json::Value;

use super::fixture::{Api, OPERATOR, TOKEN, VIEWER};

fn document() -> Value {
    crate::documents::openapi(&crate::admin::openapi()).unwrap()
}

/// Each documented operation as (method, path), with names put in.
fn operations() -> Vec<(String, String)> {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            let path = path.replace("{id}", "x").replace("{name}", "x");
            item.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect()
}

fn plain(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path)
}

#[tokio::test]
async fn every_operation_needs_the_token() {
    let api = Api::new();
    let operations = operations();
    assert!(operations.len() > 20, "{operations:?}");
    for (method, path) in operations {
        for credential in [None, Some("Bearer wrong"), Some("Basic dGhlIHRva2Vu"), Some(TOKEN)] {
            let mut request = plain(&method, &path);
            if let Some(credential) = credential {
                request = request.header(header::AUTHORIZATION, credential);
            }
            let answer = api.send(request.body(Body::empty()).unwrap()).await;
            answer.refused(401, "invalid_api_key");
            assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer", "{method} {path}");
        }
        let request = plain(&method, &path).header(header::AUTHORIZATION, format!("Bearer {TOKEN}"));
        let answer = api.send(request.body(Body::empty()).unwrap()).await;
        assert!(![401, 405].contains(&answer.status.as_u16()), "{method} {path}: {}", answer.text);
        assert_ne!(answer.body["error"]["code"], "unknown_url", "{method} {path}");
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    }
}

/// Each operation with each role: the document says who may, and nobody else passes.
#[tokio::test]
async fn every_operation_asks_for_its_role() {
    let (document, api) = (document(), Api::new());
    let mut operators = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let required = operation["x-required-role"].as_str().unwrap();
            let id = operation["operationId"].as_str().unwrap();
            match (method.as_str(), required) {
                ("get", role) => assert_eq!(role, "viewer", "{id}"),
                (_, "operator") => operators.push(id),
                (_, role) => assert!(role == "admin" || id == "replayDecision", "{id}: {role}"),
            }
            let rank = |role: &str| ["viewer", "operator", "admin"].iter().position(|r| *r == role).unwrap();
            // What it names does not exist and its body is missing, so that nothing comes of it.
            let path = path.replace("{id}", "x").replace("{name}", "x");
            for (role, token) in [("viewer", VIEWER), ("operator", OPERATOR), ("admin", TOKEN)] {
                let request = plain(&method.to_uppercase(), &path)
                    .header(header::AUTHORIZATION, format!("Bearer {token}"));
                let answer = api.send(request.body(Body::empty()).unwrap()).await;
                if rank(role) >= rank(required) {
                    assert!(![401, 403].contains(&answer.status.as_u16()), "{id} as {role}: {}", answer.text);
                } else {
                    let (message, _) = answer.refused(403, "forbidden");
                    assert_eq!(answer.body["error"]["type"], "permission_error");
                    assert!(message.contains(&format!("the role `{required}`")), "{id} as {role}: {message}");
                }
            }
        }
    }
    operators.sort_unstable();
    let expected = [
        "acquireLease",
        "demoteExpert",
        "drainExpert",
        "drainPool",
        "explainRoute",
        "giveFeedback",
        "pinExpert",
        "probeExpert",
        "promoteExpert",
        "reconcilePool",
        "releaseLease",
        "renewLeases",
        "resumePool",
        "suspectExpert",
        "undrainExpert",
        "unpinExpert",
        "validateBundle",
    ];
    assert_eq!(operators, expected);
}

#[tokio::test]
async fn the_audit_log_names_who_acted() {
    let api = Api::new();
    let drain = plain("POST", "/admin/v1/experts/general/drain")
        .header(header::AUTHORIZATION, format!("Bearer {OPERATOR}"));
    assert_eq!(api.send(drain.body(Body::empty()).unwrap()).await.status, 200);
    api.with("POST", "/experts/general/undrain", None, None).await.object(200);
    let audit = api.get("/audit").await.body;
    let actors: Vec<&Value> = audit["items"].as_array().unwrap().iter().map(|e| &e["actor"]).collect();
    assert_eq!(actors, ["admin", "night-shift"]);
    let config = api.get("/config").await;
    assert_eq!(config.body["admin"]["tokens"][1]["token"], "***");
    assert!(!config.text.contains(OPERATOR) && !config.text.contains(VIEWER));
}

#[tokio::test]
async fn a_viewer_may_ask_for_heads_and_the_document() {
    let api = Api::new();
    let status = async |method: &str, path: &str| {
        let request = plain(method, path).header(header::AUTHORIZATION, format!("Bearer {VIEWER}"));
        api.send(request.body(Body::empty()).unwrap()).await.status.as_u16()
    };
    assert_eq!(status("GET", "/admin/v1/openapi.json").await, 200);
    assert_eq!(status("HEAD", "/admin/v1/experts").await, 200);
    assert_eq!(status("POST", "/admin/v1/experts").await, 403);
}

#[tokio::test]
async fn probes_need_no_token() {
    let api = Api::new();
    let status =
        async |path: &str| api.send(plain("GET", path).body(Body::empty()).unwrap()).await.status.as_u16();
    assert_eq!(status("/livez").await, 200);
    assert_eq!(status("/readyz").await, 503);
    api.app.ready.set(true);
    assert_eq!(status("/readyz").await, 200);
    assert_eq!(status("/health").await, 200);
    let metrics = api.send(plain("GET", "/metrics").body(Body::empty()).unwrap()).await;
    assert!(metrics.text.contains("guildhall_in_flight_requests"), "{}", metrics.text);
}

#[tokio::test]
async fn what_is_not_there_is_an_error_object() {
    let api = Api::new();
    api.get("/nothing").await.refused(404, "unknown_url");
    api.with("POST", "/experts/general", None, None).await.refused(405, "method_not_allowed");
    api.send(plain("GET", "/").body(Body::empty()).unwrap()).await.refused(404, "unknown_url");
}

#[tokio::test]
async fn malformed_bodies_are_named_by_line_and_column() {
    let api = Api::new();
    let send = async |kind: &str, body: &'static [u8]| {
        let request = plain("POST", "/admin/v1/experts")
            .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header(header::CONTENT_TYPE, kind);
        api.send(request.body(Body::from(body)).unwrap()).await
    };
    let (message, _) =
        send("application/json", b"{\"id\": \"a\",\n \"backend\" 1}").await.refused(400, "invalid_json");
    assert!(message.contains("line 2 column"), "{message}");
    send("application/json", b"").await.refused(400, "invalid_json");
    send("application/json", b"\xff").await.refused(400, "invalid_json");
    send("application/json", b"[]").await.refused(422, "invalid_value");
    send("text/yaml", b"id: a").await.refused(415, "unsupported_media_type");
}

#[tokio::test]
async fn the_document_is_served_and_names_each_operation_once() {
    let api = Api::new();
    let served = api.get("/openapi.json").await;
    let document = document();
    assert_eq!(served.body, document);
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} twice");
            assert!(
                operation["summary"].as_str().is_some_and(|s| !s.is_empty()),
                "{method} {path} says nothing"
            );
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.contains_key("401"), "{method} {path}");
            assert!(responses.values().all(|r| r["description"].is_string()), "{method} {path}");
        }
    }
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name} is not described");
    }
}
