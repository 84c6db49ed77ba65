//! Streams: passed on as they come, and always ended well.

use std::sync::Arc;
use std::time::Duration;

use experts::Usage;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::support::*;

const FIRST: &str =
    "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
const LAST: &str = "data: {\"model\":\"m\",\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str = "data: {\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":1,\"total_tokens\":3}}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const ASKED: &str = r#"{"model":"auto","messages":[],"stream":true}"#;

/// Sends these pieces as chunks, then closes without the end of the chunked coding where `cut`.
async fn streaming(pieces: &[&str], cut: bool) -> Upstream {
    let mut answer = STREAM.to_owned();
    for piece in pieces {
        answer += &chunk(piece);
    }
    if !cut {
        answer += END;
    }
    Upstream::start(move |mut connection, _| {
        let answer = answer.clone();
        async move {
            connection.request().await;
            connection.write(&answer).await;
        }
    })
    .await
}

/// The data of a stream's last event as an error, which must have all four keys.
fn error_of(stream: &str) -> Value {
    let last = stream.trim_end().rsplit("\n\n").next().unwrap();
    let event: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
    let error = &event["error"];
    assert!(error["message"].is_string() && error.get("param").unwrap().is_null());
    assert_eq!(
        (error["type"].as_str(), error["code"].as_str()),
        (Some("server_error"), Some("upstream_stream_failed"))
    );
    error.clone()
}

#[tokio::test]
async fn a_stream_passes_byte_for_byte() {
    let upstream = streaming(&[": hello\n\n", FIRST, LAST, USAGE, DONE], false).await;
    let mut body = ask(&expert(&upstream), STREAMED).await.unwrap().body;
    let mut all = String::new();
    while let Some(piece) = piece(&mut body).await {
        all += &piece;
    }
    assert_eq!(all, format!(": hello\n\n{FIRST}{LAST}{USAGE}{DONE}"));
    assert_eq!(body.bytes(), all.len() as u64);
    assert_eq!(body.usage(), Some(Usage { prompt_tokens: 2, completion_tokens: 1, cached_tokens: 0 }));
    assert!(!body.was_cut());
}

#[tokio::test]
async fn the_names_are_changed_and_unwanted_usage_is_kept_back() {
    let upstream = streaming(&[FIRST, LAST, USAGE, DONE], false).await;
    let expert = expert_with(&[upstream.url()], &json!({ "model": "m" }), &json!({}));
    let mut body = ask(&expert, ASKED).await.unwrap().body;
    let mut all = String::new();
    while let Some(piece) = piece(&mut body).await {
        all += &piece;
    }
    assert_eq!(all, format!("{FIRST}{LAST}{DONE}").replace("\"m\"", "\"e\""));
    assert_eq!(body.usage().unwrap().prompt_tokens, 2);
}

#[tokio::test]
async fn every_piece_is_passed_on_when_it_comes() {
    let go = Arc::new(Notify::new());
    let wait = go.clone();
    let upstream = Upstream::start(move |mut connection, _| {
        let wait = wait.clone();
        async move {
            connection.request().await;
            connection.write(STREAM).await;
            for piece in [FIRST, "data: {\"model\":\"m\",\"choi", "ces\":[{}]}\n\n", LAST, DONE] {
                wait.notified().await;
                connection.write(chunk(piece)).await;
            }
            connection.write(END).await;
        }
    })
    .await;
    let expert = expert(&upstream);
    // The head is there before any piece of the body.
    let mut body = ask(&expert, STREAMED).await.unwrap().body;
    for expected in [FIRST, "data: {\"model\":\"m\",\"choi", "ces\":[{}]}\n\n", LAST, DONE] {
        go.notify_one();
        assert_eq!(piece(&mut body).await.as_deref(), Some(expected));
    }
    assert_eq!(piece(&mut body).await, None);
}

#[tokio::test]
async fn a_missing_end_is_added_after_a_finished_answer() {
    let upstream = streaming(&[FIRST, LAST], false).await;
    let reply = ask(&expert(&upstream), STREAMED).await.unwrap();
    assert_eq!(text(reply.body).await, format!("{FIRST}{LAST}{DONE}"));
}

#[tokio::test]
async fn a_stream_that_stops_early_ends_with_an_error() {
    let half = "data: {\"model\":\"m\",\"choices\":[{\"del";
    for (pieces, cut, whole) in [
        (vec![FIRST], false, true),
        (vec![FIRST], true, true),
        (vec![FIRST, LAST], true, true),
        (vec![FIRST, half], true, false),
        (vec![FIRST, half], false, false),
    ] {
        let upstream = streaming(&pieces, cut).await;
        let mut body = ask(&expert(&upstream), STREAMED).await.unwrap().body;
        let mut all = String::new();
        while let Some(piece) = piece(&mut body).await {
            all += &piece;
        }
        let sent = pieces.concat();
        let boundary = if whole { "" } else { "\n\n" };
        assert!(all.starts_with(&format!("{sent}{boundary}data: {{\"error\":")), "{all}");
        error_of(&all);
        assert!(body.was_cut());
    }
}

#[tokio::test]
async fn a_failure_after_the_end_is_none() {
    let upstream = streaming(&[FIRST, LAST, DONE], true).await;
    let mut body = ask(&expert(&upstream), STREAMED).await.unwrap().body;
    let mut all = String::new();
    while let Some(piece) = piece(&mut body).await {
        all += &piece;
    }
    assert_eq!(all, format!("{FIRST}{LAST}{DONE}"));
    assert!(!body.was_cut());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_stalls_ends_with_an_error() {
    let upstream = Upstream::start(|mut connection, _| async move {
        connection.request().await;
        connection.write(format!("{STREAM}{}", chunk(FIRST))).await;
        tokio::time::sleep(Duration::from_secs(50)).await;
        connection.write(chunk(FIRST)).await;
        connection.closed().await;
    })
    .await;
    let start = Instant::now();
    let all = text(ask(&expert(&upstream), STREAMED).await.unwrap().body).await;
    assert!(all.starts_with(&format!("{FIRST}{FIRST}data: {{\"error\"")), "{all}");
    error_of(&all);
    assert_eq!(start.elapsed().as_secs(), 110, "50 to the second piece, 60 of silence");
    let start = Instant::now();
    let limited = expert_with(&[upstream.url()], &json!({}), &json!({ "timeout_ms": 30_000 }));
    error_of(&text(ask(&limited, STREAMED).await.unwrap().body).await);
    assert_eq!(start.elapsed().as_secs(), 30, "the whole answer has a limit as well");
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_not_the_upstreams_fault() {
    let go = Arc::new(Notify::new());
    let wait = go.clone();
    let upstream = Upstream::start(move |mut connection, _| {
        let wait = wait.clone();
        async move {
            connection.request().await;
            connection.write(format!("{STREAM}{}", chunk(FIRST))).await;
            wait.notified().await;
            tokio::time::sleep(Duration::from_secs(50)).await;
            connection.write(format!("{}{END}", chunk(DONE))).await;
        }
    })
    .await;
    let mut body = ask(&expert(&upstream), STREAMED).await.unwrap().body;
    assert_eq!(piece(&mut body).await.as_deref(), Some(FIRST));
    tokio::time::sleep(Duration::from_secs(200)).await;
    go.notify_one();
    assert_eq!(text(body).await, DONE);
}

#[tokio::test]
async fn a_plain_answer_that_breaks_off_breaks_the_connection() {
    let upstream = Upstream::start(|mut connection, _| async move {
        connection.request().await;
        connection
            .write("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"id\":")
            .await;
    })
    .await;
    let mut body = ask(&expert(&upstream), PLAIN).await.unwrap().body;
    assert_eq!(piece(&mut body).await.as_deref(), Some("{\"id\":"));
    assert!(body.frame().await.unwrap().is_err());
    assert!(body.frame().await.is_none());
    assert!(body.was_cut());
}

#[tokio::test]
async fn a_burst_is_joined() {
    let pieces = vec![FIRST; 50];
    let upstream = streaming(&pieces.iter().copied().chain([LAST, DONE]).collect::<Vec<_>>(), false).await;
    let mut body = ask(&expert(&upstream), STREAMED).await.unwrap().body;
    let (mut all, mut count) = (String::new(), 0);
    while let Some(piece) = piece(&mut body).await {
        all += &piece;
        count += 1;
    }
    assert_eq!(all, format!("{}{LAST}{DONE}", pieces.concat()));
    assert!(count <= 10, "{count} pieces");
}
