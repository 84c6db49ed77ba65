//! Experts that speak Anthropic's Messages.

use experts::{Backend, CallErrorKind, ExpertSpec, Operation, Registry, Trust, Wanted};
use http_body_util::BodyExt;
use routing::Availability;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::*;

const ANSWER: &str = r#"{"type":"message","content":[{"type":"text","text":"a"}],"stop_reason":"end_turn"}"#;
const CHAT: &str = r#"{"model":"auto","messages":[{"role":"user","content":"Hi"}],"max_tokens":9}"#;

/// A server that tells what it is asked.
async fn telling() -> (Upstream, mpsc::UnboundedReceiver<Seen>) {
    let (told, asked) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |mut connection, _| {
        let told = told.clone();
        async move {
            while let Some(seen) = connection.request().await {
                let _ = told.send(seen);
                connection.write(whole("200 OK", "application/json", ANSWER)).await;
            }
        }
    })
    .await;
    (upstream, asked)
}

fn speaking(upstream: &Upstream, fields: &Value) -> experts::Expert {
    let mut backend = json!({"protocol": "messages", "model": "claude"});
    backend.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    expert_with(&[upstream.url()], &backend, &json!({}))
}

#[tokio::test]
async fn keys_and_versions_are_headers_of_the_protocols_own() {
    let (upstream, mut asked) = telling().await;
    let expert = speaking(&upstream, &json!({"api_key": "k-1"}));
    assert!(expert.speaks_messages());
    assert_eq!(ask(&expert, CHAT).await.unwrap().status, 200);
    let seen = asked.recv().await.unwrap();
    assert!(seen.head.starts_with("POST /v1/messages HTTP/1.1\r\n"), "{}", seen.head);
    let shown = ["x-api-key", "anthropic-version", "authorization"].map(|name| seen.header(name));
    assert_eq!(shown, [Some("k-1"), Some("2023-06-01"), None]);

    let own = json!({"headers": {"authorization": "Bearer k-2", "anthropic-version": "2099-01-01"}});
    ask(&speaking(&upstream, &own), CHAT).await.unwrap();
    let seen = asked.recv().await.unwrap();
    let shown = ["x-api-key", "anthropic-version", "authorization"].map(|name| seen.header(name));
    assert_eq!(shown, [None, Some("2099-01-01"), Some("Bearer k-2")]);
}

#[tokio::test]
async fn bodies_are_added_to_in_the_experts_words() {
    let (upstream, mut asked) = telling().await;
    let fields = json!({
        "default_max_tokens": 77, "extra_body": {"top_k": 5}, "override_body": {"temperature": 0},
    });
    let expert = speaking(&upstream, &fields);
    ask(&expert, r#"{"model":"auto","messages":[{"role":"user","content":"Hi"}],"temperature":1}"#)
        .await
        .unwrap();
    let sent: Value = serde_json::from_slice(&asked.recv().await.unwrap().body).unwrap();
    assert_eq!(
        sent,
        json!({"model": "claude", "max_tokens": 77, "temperature": 0, "top_k": 5,
               "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]})
    );
}

#[tokio::test(start_paused = true)]
async fn active_checks_show_the_key() {
    let (upstream, mut asked) = telling().await;
    let spec: ExpertSpec = serde_json::from_value(json!({"id": "e", "backend": {
        "kind": "llm", "protocol": "messages", "endpoints": [{"url": upstream.url()}], "api_key": "k-1", "health": {},
    }}))
    .unwrap();
    let registry = Registry::new(client());
    let wanted = Wanted {
        spec,
        trust: Trust::Operator,
        availability: Availability::Ready,
        signals: std::sync::Arc::default(),
    };
    registry.replace(vec![wanted], [].into()).unwrap();
    registry.start();
    let seen = asked.recv().await.unwrap();
    assert!(seen.head.starts_with("GET /v1/models HTTP/1.1\r\n"), "{}", seen.head);
    assert_eq!(
        (seen.header("x-api-key"), seen.header("anthropic-version")),
        (Some("k-1"), Some("2023-06-01"))
    );
}

#[tokio::test]
async fn a_stream_that_cannot_be_read_is_not_read_on() {
    // The server would go on for ever.
    let upstream = Upstream::start(|mut connection, _| async move {
        connection.request().await;
        connection.write(STREAM).await;
        connection.write(chunk("data: {\"type\":\"message_start\"}\n\ndata: oops\n\n")).await;
        connection.closed().await;
    })
    .await;
    let streamed = CHAT.replacen("{\"model\"", "{\"stream\":true,\"model\"", 1);
    let reply = ask(&speaking(&upstream, &json!({})), &streamed).await.unwrap();
    let body = reply.body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&body);
    assert!(text.ends_with("\"code\":\"upstream_stream_failed\"}}\n\n"), "{text}");
}

#[tokio::test]
async fn what_messages_do_not_know_is_refused_before_anybody_is_asked() {
    let (upstream, _asked) = telling().await;
    let expert = speaking(&upstream, &json!({}));
    for operation in [Operation::Completions, Operation::Embeddings] {
        let asking = Asking { operation, ..Asking::new(CHAT) };
        let error = asking.of(&expert).await.unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::Untranslatable);
        assert!(error.is_retryable() && error.message().contains("speaks Messages"), "{}", error.message());
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn settings_that_do_not_fit_the_protocol_are_named() {
    let problems = |fields: Value| {
        let mut backend = json!({"kind": "llm", "endpoints": [{"url": "http://host/v1"}]});
        backend.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let spec: ExpertSpec = serde_json::from_value(json!({"id": "e", "backend": backend})).unwrap();
        spec.validate().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for (fields, expected) in [
        (json!({"default_max_tokens": 5}), "backend.default_max_tokens: is for `protocol: messages` only"),
        (json!({"protocol": "messages", "default_max_tokens": 0}), "backend.default_max_tokens: is 0"),
        (
            json!({"protocol": "messages", "extra_body": {"max_tokens": 5}}),
            "backend.extra_body.max_tokens: never counts",
        ),
        (
            json!({"protocol": "messages", "endpoints": [{"url": "http://host/v1/messages"}]}),
            "backend.endpoints[0].url: ends with `/messages`; give the base URL, ending with `/v1`",
        ),
        (json!({"headers": {"authorization": "x"}}), "backend.headers.authorization: cannot be set here"),
    ] {
        let found = problems(fields);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    }
    assert_eq!(problems(json!({"protocol": "messages", "headers": {"authorization": "x"}})), [""; 0]);
    // The default is not written out.
    let spec: ExpertSpec = serde_json::from_value(
        json!({"id": "e", "backend": {"kind": "llm", "endpoints": [{"url": "http://host/v1"}], "protocol": "chat_completions"}}),
    )
    .unwrap();
    assert!(
        matches!(spec.backend, Backend::Llm(_))
            && !serde_json::to_string(&spec).unwrap().contains("protocol")
    );
}
