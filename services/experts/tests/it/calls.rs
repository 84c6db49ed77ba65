//! What is sent, and what comes back.

use std::sync::{Arc, Mutex};

use experts::{Operation, Usage};
use http_body::Body;
use serde_json::{Value, json};

use crate::support::*;

const ANSWER: &str = r#"{ "id":"1", "model" : "upstream-name",  "choices":[{"message":{"content":"\"model\": \"x\""}}],"usage":{"prompt_tokens":3,"completion_tokens":4}, "odd" : 1.50}"#;

/// An upstream that keeps what it sees.
async fn recording(answer: String) -> (Upstream, Arc<Mutex<Vec<Seen>>>) {
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let keep = seen.clone();
    let upstream = Upstream::start(move |mut connection, _| {
        let (keep, answer) = (keep.clone(), answer.clone());
        async move {
            while let Some(request) = connection.request().await {
                keep.lock().unwrap().push(request);
                connection.write(&answer).await;
            }
        }
    })
    .await;
    (upstream, seen)
}

#[tokio::test]
async fn an_answer_passes_byte_for_byte_when_the_name_is_the_same() {
    let (upstream, seen) = recording(whole("200 OK", "application/json", ANSWER)).await;
    let reply = ask(&expert(&upstream), r#"{ "model":"auto", "messages" : [],"x":1e2}"#).await.unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["content-type"], "application/json");
    assert_eq!(reply.body.size_hint().exact(), Some(ANSWER.len() as u64));
    assert_eq!(reply.body.usage(), Some(Usage { prompt_tokens: 3, completion_tokens: 4, cached_tokens: 0 }));
    assert_eq!(text(reply.body).await, ANSWER);
    let seen = seen.lock().unwrap();
    assert!(seen[0].head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{}", seen[0].head);
    assert_eq!(seen[0].body, br#"{ "model":"e", "messages" : [],"x":1e2}"#);
}

#[tokio::test]
async fn the_model_is_called_by_each_sides_name() {
    let (upstream, seen) = recording(whole("200 OK", "application/json", ANSWER)).await;
    let expert = expert_with(&[upstream.url()], &json!({ "model": "up/m" }), &json!({}));
    let reply = ask(&expert, PLAIN).await.unwrap();
    let expected = ANSWER.replace("\"upstream-name\"", "\"e\"");
    assert_eq!(reply.body.size_hint().exact(), Some(expected.len() as u64), "the length is corrected");
    assert_eq!(text(reply.body).await, expected);
    assert_eq!(seen.lock().unwrap()[0].body, PLAIN.replace("auto", "up/m").as_bytes());
}

#[tokio::test]
async fn headers_are_sent_on_by_name_only() {
    let (upstream, seen) = recording(whole("200 OK", "application/json", "{}")).await;
    let settings = json!({ "api_key": "sk-1", "headers": { "X-Team": "a", "openai-beta": "ours" } });
    let expert = expert_with(&[upstream.url()], &settings, &json!({}));
    let mut asking = Asking::new(r#"{"model":"auto","input":"x"}"#);
    asking.operation = Operation::Embeddings;
    for (name, value) in [
        ("authorization", "Bearer client-key"),
        ("cookie", "secret"),
        ("x-forwarded-for", "10.0.0.1"),
        ("traceparent", "00-1-1-01"),
        ("openai-beta", "theirs"),
        ("x-guildhall-session", "s"),
    ] {
        asking.headers.insert(name, value.parse().unwrap());
    }
    asking.of(&expert).await.unwrap();
    let seen = seen.lock().unwrap();
    let seen = &seen[0];
    assert!(seen.head.starts_with("POST /v1/embeddings "), "{}", seen.head);
    assert_eq!(seen.header("host"), Some(upstream.address.to_string().as_str()));
    assert_eq!(seen.header("authorization"), Some("Bearer sk-1"));
    assert_eq!(seen.header("x-team"), Some("a"));
    assert_eq!(seen.header("openai-beta"), Some("ours"));
    assert_eq!(seen.header("traceparent"), Some("00-1-1-01"));
    assert_eq!(seen.header("x-request-id"), Some("req-1"));
    for dropped in ["cookie", "x-forwarded-for", "x-guildhall-session"] {
        assert_eq!(seen.header(dropped), None);
    }
}

#[tokio::test]
async fn headers_of_answers_are_shown_by_name_only() {
    let head = "HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\nretry-after: 3\r\nx-ratelimit-remaining-tokens: 0\r\nset-cookie: a=b\r\nopenai-organization: org-1\r\nx-guildhall-expert: fake\r\nserver: secret\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\n{}";
    let upstream = Upstream::answering(head).await;
    let reply = ask(&expert(&upstream), PLAIN).await.unwrap();
    assert_eq!(reply.status, 429);
    assert!(reply.is_retryable());
    let mut names: Vec<&str> = reply.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-type", "retry-after", "x-ratelimit-remaining-tokens"]);
}

#[tokio::test]
async fn error_statuses_are_answers() {
    for (status, retryable) in
        [("400 Bad Request", false), ("404 Not Found", false), ("500 Oops", true), ("503 Busy", true)]
    {
        let upstream = Upstream::answering(whole(status, "text/html", "<p>no</p>")).await;
        let reply = ask(&expert(&upstream), PLAIN).await.unwrap();
        assert_eq!((reply.status.as_str(), reply.is_retryable()), (&status[..3], retryable));
        assert_eq!(text(reply.body).await, "<p>no</p>");
    }
}

#[tokio::test]
async fn large_bodies_go_through_in_both_directions() {
    let long = "x".repeat(3 << 20);
    let answer = json!({ "model": "m", "data": long }).to_string();
    let (upstream, seen) = recording(whole("200 OK", "application/json", &answer)).await;
    let expert = expert_with(&[upstream.url()], &json!({ "model": "m" }), &json!({}));
    let body = format!(r#"{{"model":"auto","messages":["{long}"],"z":1}}"#);
    let reply = ask(&expert, &body).await.unwrap();
    let shown: Value = serde_json::from_str(&text(reply.body).await).unwrap();
    assert_eq!(shown, json!({ "model": "e", "data": long }));
    assert_eq!(seen.lock().unwrap()[0].body, body.replace("auto", "m").as_bytes());
}
