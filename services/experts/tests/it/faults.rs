//! Upstreams that are missing, slow or wrong.

use std::time::Duration;

use experts::{Blame, CallErrorKind as Kind, Phase};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::support::*;

/// A URL where nothing listens.
pub(crate) async fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}/v1", listener.local_addr().unwrap())
}

#[tokio::test]
async fn a_name_that_does_not_resolve() {
    let expert = expert_with(&["http://does-not-resolve.invalid/v1".to_owned()], &json!({}), &json!({}));
    let error = ask(&expert, PLAIN).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Dns);
    assert_eq!(error.message(), "cannot be reached: its host name was not found");
    assert!(error.detail().unwrap().starts_with("does-not-resolve.invalid:80: "), "{error}");
    assert!(error.is_retryable());
    assert_eq!(error.blame(), Blame::Upstream);
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_left_out() {
    let good = Upstream::answering(whole("200 OK", "application/json", "{}")).await;
    let expert = expert_with(&[nowhere().await, good.url()], &json!({}), &json!({}));
    for seed in 0..12 {
        assert_eq!(ask_seeded(&expert, PLAIN, seed).await.unwrap().status, 200);
    }
    let state = expert.endpoints();
    assert!(state[0].resting && !state[1].resting);
    assert_eq!(state[0].connect_failures, 1, "it was asked once and then spared");
}

#[tokio::test]
async fn with_no_endpoint_left_the_call_fails() {
    let once_each = json!({ "retries": { "max_attempts": 2 } });
    let expert = expert_with(&[nowhere().await, nowhere().await], &once_each, &json!({}));
    for failures in 1..=2 {
        let error = ask(&expert, PLAIN).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Connect);
        assert_eq!(expert.endpoints()[0].connect_failures, failures, "resting ones are better than none");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come() {
    let upstream = Upstream::start(|mut connection, _| async move {
        connection.request().await;
        connection.write("HTTP/1.1 200 OK\r\ncontent-").await;
        connection.closed().await;
    })
    .await;
    let start = Instant::now();
    let error = ask(&expert(&upstream), PLAIN).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout(Phase::FirstByte));
    assert!(error.is_retryable());
    assert_eq!(start.elapsed().as_secs(), 60);
    // The limits of the expert and of the request count, whichever is first.
    let quick = expert_with(&[upstream.url()], &json!({}), &json!({ "first_byte_timeout_ms": 5000 }));
    let start = Instant::now();
    assert_eq!(ask(&quick, PLAIN).await.unwrap_err().kind(), Kind::Timeout(Phase::FirstByte));
    assert_eq!(start.elapsed().as_secs(), 5);
    let mut asking = Asking::new(PLAIN);
    let start = Instant::now();
    asking.deadline = Some(start + Duration::from_secs(2));
    let error = asking.of(&quick).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout(Phase::Total));
    assert!(!error.is_retryable());
    assert_eq!(start.elapsed().as_secs(), 2);
}

#[tokio::test]
async fn answers_of_the_wrong_type() {
    for (kind, body, asked) in [
        ("text/html", "<p>login</p>", PLAIN),
        ("text/event-stream", "data: {}\n\n", PLAIN),
        ("text/html; charset=utf-8", "<p>login</p>", STREAMED),
        ("application/json", "{}", STREAMED),
    ] {
        let upstream = Upstream::answering(whole("200 OK", kind, body)).await;
        let error = ask(&expert(&upstream), asked).await.unwrap_err();
        assert_eq!(error.kind(), Kind::BadContentType);
        assert!(error.is_retryable());
        assert!(error.detail().unwrap().starts_with(kind), "{error}");
    }
    for kind in ["application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"] {
        let upstream = Upstream::answering(whole("200 OK", kind, "{}")).await;
        assert_eq!(ask(&expert(&upstream), PLAIN).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn answers_that_are_not_http_or_too_large() {
    let many = |count: usize| "x-n: y\r\n".repeat(count);
    let long = format!("x: {}\r\n", "y".repeat(70_000));
    let cases = [
        ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), Kind::Protocol),
        (format!("HTTP/1.1 200 OK\r\n{}\r\n", many(200)), Kind::HeadersTooLarge),
        (format!("HTTP/1.1 200 OK\r\n{long}\r\n"), Kind::HeadersTooLarge),
        (
            "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n".to_owned(),
            Kind::UnexpectedStatus,
        ),
    ];
    for (answer, kind) in cases {
        let upstream = Upstream::answering(answer).await;
        let error = ask(&expert(&upstream), PLAIN).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.is_retryable());
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_head() {
    let upstream = Upstream::start(|mut connection, _| async move {
        connection.request().await;
        connection.reset();
    })
    .await;
    let careful = json!({ "retries": { "after_send": false } });
    let error = ask(&expert_with(&[upstream.url()], &careful, &json!({})), PLAIN).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Reset);
    assert_eq!(upstream.connections(), 1, "a fresh connection is no stale one");
    assert_eq!(ask(&expert(&upstream), PLAIN).await.unwrap_err().tries().count(), 3);
    assert_eq!(upstream.connections(), 4);
}
