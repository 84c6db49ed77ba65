//! Experts that answer without an upstream.

use std::time::{Duration, UNIX_EPOCH};

use experts::{CallErrorKind, Expert, Operation, Trust};
use serde_json::{Value, json};

use crate::support::*;

fn local(backend: &Value) -> Expert {
    let client = client().with_clock(|| UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    Expert::new(spec(json!({ "id": "demo", "backend": backend })), Trust::Operator, &client).unwrap()
}

fn constant() -> Expert {
    local(&json!({ "kind": "constant", "text": "Hello there, friend." }))
}

#[tokio::test]
async fn a_fixed_text_is_a_chat_completion() {
    let expert = constant();
    assert!(expert.is_local() && !expert.is_reject());
    let reply = ask(&expert, r#"{"model":"auto","n":2,"messages":[]}"#).await.unwrap();
    assert_eq!(reply.headers["content-type"], "application/json");
    let usage = reply.body.usage().unwrap();
    let answer: Value = serde_json::from_str(&text(reply.body).await).unwrap();
    let choice = |index: u32| {
        json!({
            "index": index,
            "message": { "role": "assistant", "content": "Hello there, friend.", "refusal": null },
            "logprobs": null,
            "finish_reason": "stop",
        })
    };
    let expected = json!({
        "id": "chatcmpl-req-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "demo",
        "choices": [choice(0), choice(1)],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": 10,
            "total_tokens": usage.prompt_tokens + 10,
        },
    });
    assert_eq!(answer, expected);
    assert!(usage.prompt_tokens > 0);
}

#[tokio::test]
async fn a_fixed_text_is_a_completion() {
    let mut asking = Asking::new(r#"{"model":"auto","prompt":"x"}"#);
    asking.operation = Operation::Completions;
    let answer: Value =
        serde_json::from_str(&text(asking.of(&constant()).await.unwrap().body).await).unwrap();
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["choices"][0]["text"], "Hello there, friend.");
}

/// The events of a stream, without its end.
fn events(stream: &str) -> Vec<Value> {
    let events = stream.strip_suffix("data: [DONE]\n\n").unwrap();
    let data = events.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap());
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_fixed_text_is_streamed_word_by_word() {
    let expert = local(&json!({ "kind": "constant", "text": "Hello there, friend.", "chunk_delay_ms": 100 }));
    let start = tokio::time::Instant::now();
    let reply = ask(&expert, STREAMED).await.unwrap();
    assert_eq!(reply.headers["content-type"], "text/event-stream; charset=utf-8");
    let events = events(&text(reply.body).await);
    assert_eq!(start.elapsed().as_millis(), 700, "seven pieces");
    let text: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "Hello there, friend.");
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(events[4]["choices"][0]["finish_reason"], "stop");
    assert_eq!(events[5]["choices"], json!([]));
    assert_eq!(events[5]["usage"]["completion_tokens"], 5);
    for event in &events {
        assert_eq!(event["id"], events[0]["id"]);
        assert_eq!(
            (event["object"].as_str(), event["model"].as_str()),
            (Some("chat.completion.chunk"), Some("demo"))
        );
        assert!(event.get("usage").is_some());
    }
}

#[tokio::test]
async fn usage_is_streamed_only_when_asked_for() {
    let body = ask(&constant(), r#"{"model":"auto","messages":[],"stream":true}"#).await.unwrap().body;
    let events = events(&text(body).await);
    assert!(events.iter().all(|e| e.get("usage").is_none() && e["choices"] != json!([])));
}

#[tokio::test]
async fn what_a_fixed_text_cannot_do_is_the_clients_error() {
    let mut asking = Asking::new(r#"{"model":"auto","input":"x"}"#);
    asking.operation = Operation::Embeddings;
    let error = asking.of(&constant()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (CallErrorKind::Request, false));
    let error = ask(&constant(), r#"{"model":"auto","n":0,"messages":[]}"#).await.unwrap_err();
    assert!(error.message().contains("`n` must be between 1 and 128"), "{error}");
}

#[tokio::test]
async fn a_refusal_is_an_error_object() {
    for (status, kind) in [(403, "permission_error"), (451, "invalid_request_error")] {
        let expert = local(&json!({ "kind": "reject", "reason": "Not here.", "status": status }));
        assert!(expert.is_reject());
        let reply = ask(&expert, STREAMED).await.unwrap();
        assert_eq!(reply.status, status);
        assert!(!reply.is_retryable());
        let body: Value = serde_json::from_str(&text(reply.body).await).unwrap();
        let expected =
            json!({ "message": "Not here.", "type": kind, "param": null, "code": "request_rejected" });
        assert_eq!(body, json!({ "error": expected }));
    }
}
