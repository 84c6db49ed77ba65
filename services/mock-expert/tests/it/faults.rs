//! Everything that can be made to go wrong.

use std::io::ErrorKind;
use std::time::Duration;

use mock_expert::{Fault, Mock, Settings, Step};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::client::{Got, chat, exchange, mock, send, until};

fn question(stream: bool) -> Value {
    json!({"model": "coder", "stream": stream, "messages": [{"role": "user", "content": "why?"}]})
}

async fn struck(mock: &Mock, fault: &str, stream: bool) -> Got {
    chat(mock, &format!("x-mock-fault: {fault}\r\n"), &question(stream)).await
}

#[tokio::test]
async fn a_status_comes_as_an_error_object_with_its_header() {
    let mock = mock().await;
    let got = struck(&mock, "status:429,retry-after=2", true).await;
    assert_eq!(got.status, 429);
    assert!(got.head.contains("retry-after: 2"));
    assert_eq!(got.json()["error"]["type"], "rate_limit_error");
    assert_eq!(mock.stats().faults["status"], 1);
}

#[tokio::test]
async fn an_unknown_fault_is_refused() {
    let got = struck(&mock().await, "explode", false).await;
    assert_eq!(got.status, 400);
    assert!(got.body.contains("explode") && got.body.contains("stall-mid"), "{}", got.body);
}

#[tokio::test]
async fn a_reset_comes_before_or_amid_the_answer() {
    let mock = mock().await;
    let before = struck(&mock, "reset", false).await;
    assert_eq!(before.end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(before.head.is_empty());
    for stream in [false, true] {
        let inside = struck(&mock, "reset-head", stream).await;
        assert_eq!(inside.end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(inside.body.is_empty());
    }
    for stream in [false, true] {
        let amid = struck(&mock, "reset-mid", stream).await;
        assert_eq!(amid.end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!((amid.status, amid.complete), (200, false));
        assert!(!amid.body.is_empty());
    }
    assert_eq!(mock.stats().cancelled, 0, "the mock left, not the client");
}

#[tokio::test]
async fn half_an_event_ends_in_an_orderly_close() {
    let mock = mock().await;
    let got = struck(&mock, "half-event", true).await;
    assert!(got.end.is_ok() && !got.complete);
    assert!(!got.body.ends_with("\n\n"), "{:?}", got.body);
    assert!(got.events().len() > 2 && !got.body.contains("[DONE]"));
    let whole = struck(&mock, "half-event", false).await;
    assert!(whole.end.is_ok() && !whole.complete && !whole.body.is_empty());
}

#[tokio::test]
async fn a_stall_lasts_until_the_client_leaves() {
    let mock = mock().await;
    for (number, fault) in [(1, "stall"), (2, "stall-mid")] {
        let headers = format!("x-mock-fault: {fault}\r\n");
        let body = question(true).to_string();
        let mut stream = send(&mock, "POST", "/v1/chat/completions", &headers, &body).await;
        until(&mock, |stats| stats.in_flight == 1).await;
        if fault == "stall-mid" {
            stream.read_exact(&mut [0; 16]).await.unwrap();
        }
        drop(stream);
        until(&mock, |stats| stats.cancelled == number && stats.in_flight == 0).await;
    }
}

#[tokio::test]
async fn content_can_be_of_the_wrong_type_or_broken() {
    let mock = mock().await;
    let page = struck(&mock, "wrong-content-type", true).await;
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-type: text/html"));

    let garbage = struck(&mock, "garbage", false).await;
    assert!(garbage.complete && garbage.head.contains("application/json"));
    assert!(serde_json::from_str::<Value>(&garbage.body).is_err());
    let garbage = struck(&mock, "garbage", true).await;
    let broken = garbage.events().iter().filter(|e| serde_json::from_str::<Value>(e).is_err()).count();
    assert_eq!(broken, 2, "the spoilt event and [DONE]");
}

#[tokio::test]
async fn a_stream_can_lack_its_end() {
    let got = struck(&mock().await, "missing-done", true).await;
    assert!(got.complete && !got.body.contains("[DONE]"));
    assert!(got.body.contains("\"finish_reason\":\"stop\""));
}

#[tokio::test]
async fn heads_can_be_slow_or_huge() {
    let mock = mock().await;
    let start = std::time::Instant::now();
    let slow = struck(&mock, "slow-headers:1ms", false).await;
    assert!(slow.complete && slow.json()["object"] == "chat.completion");
    let least = Duration::from_millis(slow.head.len() as u64);
    assert!(start.elapsed() >= least, "{:?} for {} bytes", start.elapsed(), slow.head.len());

    let huge = struck(&mock, "huge-headers:20000", false).await;
    assert!((19_000..21_000).contains(&huge.head.len()), "{}", huge.head.len());
    assert!(huge.complete);
}

#[tokio::test]
async fn a_body_can_be_oversize_and_still_be_valid() {
    let mock = mock().await;
    let big = struck(&mock, "oversize-body:1000000", false).await;
    assert!(big.body.len() > 1_000_000);
    assert!(big.json()["choices"][0]["message"]["content"].is_string());
    let stream = struck(&mock, "oversize-body:1000000", true).await;
    assert!(stream.complete && stream.body.len() > 1_000_000);
}

#[tokio::test]
async fn a_script_is_changed_while_running_and_spent_in_order() {
    let settings = Settings { script: vec![Step::times(Fault::Reset, 1)], ..Settings::default() };
    let mock = Mock::start(settings).await.unwrap();
    let steps = json!([
        {"fault": "status:503", "times": 1},
        {"fault": "status:500", "model": "coder", "times": 1},
    ]);
    assert_eq!(exchange(&mock, "POST", "/__script", "", &steps.to_string()).await.status, 200);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(chat(&mock, "", &question(false)).await.status);
    }
    assert_eq!(statuses, [503, 500, 200]);

    let bad = exchange(&mock, "POST", "/__script", "", r#"[{"fault": "explode"}]"#).await;
    assert_eq!(bad.status, 400);
    assert_eq!(chat(&mock, "", &question(false)).await.status, 200, "the old script stays");

    exchange(&mock, "POST", "/__reset", "", "").await;
    assert_eq!(chat(&mock, "", &question(false)).await.status, 0, "the script of the settings is back");
}

#[tokio::test]
async fn a_delay_leaves_the_answer_as_it_is() {
    let mock = mock().await;
    let start = std::time::Instant::now();
    let got = struck(&mock, "delay:30ms", false).await;
    assert_eq!(got.status, 200);
    assert!(start.elapsed() >= Duration::from_millis(30));
}
