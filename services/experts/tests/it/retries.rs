//! Requests that are sent again, and those that are not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use experts::{CallErrorKind as Kind, Phase, Reply, Timeouts};
use serde_json::json;
use tokio::time::Instant;

use crate::faults::nowhere;
use crate::support::*;

fn refusal(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}")
}

/// Statuses and whether each was a hedge.
fn statuses(reply: &Reply) -> Vec<Option<u16>> {
    reply.tries.iter().map(|t| t.status).collect()
}

#[tokio::test(start_paused = true)]
async fn a_failing_status_is_tried_again_until_the_tries_are_used_up() {
    for status in ["408 x", "500 x", "502 x", "503 x", "504 x"] {
        let (upstream, count) = scripted(&[refusal(status, ""), refusal(status, ""), ok()]).await;
        let reply = ask(&expert(&upstream), PLAIN).await.unwrap();
        assert_eq!(reply.status, 200, "{status}");
        assert_eq!((count.load(Ordering::SeqCst), upstream.connections()), (3, 1), "the connection is kept");
        let tries: Vec<_> = reply.tries.iter().collect();
        assert_eq!(tries.len(), 3);
        assert_eq!(&*tries[0].endpoint, upstream.url());
        assert!(
            tries[1].backoff <= Duration::from_millis(50) && tries[2].backoff <= Duration::from_millis(100)
        );
        assert!(tries[2].started >= tries[1].backoff + tries[2].backoff);
    }
    let (upstream, count) = scripted(&[refusal("503 x", "")]).await;
    let reply = ask(&expert(&upstream), PLAIN).await.unwrap();
    assert_eq!(
        (reply.status.as_u16(), count.load(Ordering::SeqCst)),
        (503, 3),
        "the last answer is given on"
    );
    assert_eq!(text(reply.body).await, "{}");
    for status in ["400 x", "404 x", "409 x", "501 x"] {
        let (upstream, count) = scripted(&[refusal(status, "")]).await;
        let reply = ask(&expert(&upstream), PLAIN).await.unwrap();
        assert_eq!((reply.tries.len(), count.load(Ordering::SeqCst)), (1, 1), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_endpoint_comes_first() {
    let (bad, _) = scripted(&[refusal("500 x", "")]).await;
    let (good, _) = scripted(&[ok()]).await;
    let expert = expert_with(&[bad.url(), good.url()], &json!({}), &json!({}));
    for seed in 0..30 {
        let reply = ask_seeded(&expert, PLAIN, seed).await.unwrap();
        assert_eq!(reply.status, 200);
        let tries = statuses(&reply);
        assert!(tries == [Some(200)] || tries == [Some(500), Some(200)], "{tries:?}");
    }
    assert_eq!(expert.endpoints()[0].openings, 1);
    assert_eq!(expert.stats().retries, 5, "then the breaker was open");
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_out_or_handed_on() {
    let start = Instant::now();
    let wait = refusal("429 x", "retry-after: 1\r\n");
    let (upstream, _) = scripted(&[wait.clone(), ok()]).await;
    let expert = expert(&upstream);
    let reply = ask(&expert, PLAIN).await.unwrap();
    assert_eq!(reply.status, 200);
    let waited = start.elapsed();
    assert!((1_000..=1_060).contains(&waited.as_millis()), "{waited:?}");
    // Longer than it is worth waiting: the answer itself, and none of the next calls goes there.
    let (upstream, count) = scripted(&[refusal("429 x", "retry-after-ms: 30000\r\n"), ok()]).await;
    let expert = crate::support::expert(&upstream);
    let reply = ask(&expert, PLAIN).await.unwrap();
    assert_eq!((reply.status.as_u16(), &reply.headers["retry-after-ms"]), (429, &"30000".parse().unwrap()));
    let busy = ask(&expert, PLAIN).await.unwrap_err();
    assert_eq!((busy.kind(), busy.is_retryable()), (Kind::Busy, true));
    assert_eq!(
        busy.retry_after().unwrap().as_secs(),
        29 + u64::from(busy.retry_after().unwrap().as_millis() >= 30_000)
    );
    assert!(expert.endpoints()[0].resting);
    assert_eq!(count.load(Ordering::SeqCst), 1);
    tokio::time::advance(Duration::from_secs(29)).await;
    assert_eq!(ask(&expert, PLAIN).await.unwrap().status, 200, "the rest of the time is waited for");
    // Another endpoint is asked at once.
    let (limited, _) = scripted(&[wait]).await;
    let (good, _) = scripted(&[ok()]).await;
    let both = expert_with(&[limited.url(), good.url()], &json!({}), &json!({}));
    let start = Instant::now();
    for seed in 0..20 {
        assert_eq!(ask_seeded(&both, PLAIN, seed).await.unwrap().status, 200);
    }
    assert!(start.elapsed() < Duration::from_millis(5), "{:?}", start.elapsed());
    assert_eq!(both.endpoints()[0].openings, 0, "a limit of the rate is no failure");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_tried_past_the_deadline() {
    let (upstream, count) = scripted(&[refusal("429 x", "retry-after: 1\r\n"), ok()]).await;
    let mut asking = Asking::new(PLAIN);
    asking.deadline = Some(Instant::now() + Duration::from_millis(900));
    assert_eq!(asking.of(&expert(&upstream)).await.unwrap().status, 429);
    assert_eq!(count.load(Ordering::SeqCst), 1);
    asking.deadline = Some(Instant::now());
    let late = asking.of(&expert(&upstream)).await.unwrap_err();
    assert_eq!((late.kind(), late.tries().count()), (Kind::Timeout(Phase::Total), 0));
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn the_budget_ends_retries() {
    let (upstream, count) = scripted(&[refusal("500 x", "")]).await;
    let settings = json!({
        "retries": { "budget": { "share": 0.5, "per_second": 0.2 } },
        "breaker": { "enabled": false },
    });
    let expert = expert_with(&[upstream.url()], &settings, &json!({}));
    for _ in 0..100 {
        ask(&expert, PLAIN).await.unwrap();
    }
    let retries = count.load(Ordering::SeqCst) - 100;
    let stats = expert.stats();
    assert_eq!(stats.retries, retries as u64);
    // A half of the requests, two that were saved, and one for each five seconds.
    assert!((50..=54).contains(&retries), "{retries}");
    assert!(stats.retries_refused >= 50, "{stats:?}");
}

/// Answers nothing at all.
async fn silent() -> Upstream {
    Upstream::start(|mut connection, _| async move {
        connection.request().await;
        connection.closed().await;
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_stalled_endpoint_costs_its_time_once() {
    let stalled = silent().await;
    let (good, _) = scripted(&[ok()]).await;
    let limits = json!({ "first_byte_timeout_ms": 3000 });
    let expert = expert_with(&[stalled.url(), good.url()], &json!({}), &limits);
    let start = Instant::now();
    let mut stalls = 0;
    for seed in 0..40 {
        let reply = ask_seeded(&expert, PLAIN, seed).await.unwrap();
        assert_eq!(reply.status, 200);
        stalls += reply.tries.len() - 1;
    }
    assert!((1..=5).contains(&stalls), "{stalls}");
    assert!(start.elapsed() < Duration::from_millis(3_100 * stalls as u64 + 100));
    // A route's limit is the smaller one.
    let alone = expert_with(&[stalled.url()], &json!({}), &limits);
    let mut asking = Asking::new(PLAIN);
    asking.timeouts = Timeouts { first_byte: Some(Duration::from_secs(1)), ..Timeouts::default() };
    let start = Instant::now();
    let error = asking.of(&alone).await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed().as_secs()), (Kind::Timeout(Phase::FirstByte), 1));
    assert_eq!(error.tries().count(), 1, "the same endpoint would be late again");
    let careful = json!({ "retries": { "after_send": false } });
    let careful = expert_with(&[silent().await.url(), stalled.url()], &careful, &limits);
    assert_eq!(ask(&careful, PLAIN).await.unwrap_err().tries().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_back_is_found() {
    let url = nowhere().await;
    let address = url["http://".len()..url.len() - "/v1".len()].parse().unwrap();
    let waiting = json!({ "retries": { "max_attempts": 10, "backoff": { "base_ms": 1000 } } });
    let expert = expert_with(&[url], &waiting, &json!({}));
    let restart = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Upstream::start_at(address, |mut connection, _| async move {
            while connection.request().await.is_some() {
                connection.write(ok()).await;
            }
        })
        .await
    };
    let (reply, _server) = tokio::join!(ask(&expert, PLAIN), restart);
    let reply = reply.unwrap();
    assert!(reply.status == 200 && reply.tries.len() > 1);
    assert!(reply.tries.iter().next().unwrap().error.unwrap().contains("cannot be reached"));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (target, count) = scripted(&[ok()]).await;
    for status in ["301", "302", "303", "307", "308"] {
        let moved = format!(
            "HTTP/1.1 {status} x\r\nlocation: {}/chat/completions\r\ncontent-length: 0\r\n\r\n",
            target.url()
        );
        let (upstream, _) = scripted(&[moved]).await;
        let error = ask(&expert(&upstream), PLAIN).await.unwrap_err();
        assert_eq!(error.kind(), Kind::UnexpectedStatus);
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn answers_that_are_too_large() {
    let limits = json!({ "max_response_bytes": 100, "max_event_bytes": 100 });
    let body = format!(r#"{{"x":"{}"}}"#, "y".repeat(100));
    let (upstream, _) = scripted(&[whole("200 OK", "application/json", &body)]).await;
    let error = ask(&expert_with(&[upstream.url()], &json!({}), &limits), PLAIN).await.unwrap_err();
    assert_eq!((error.kind(), error.tries().count()), (Kind::TooLarge, 1));
    // Without a length it is found out on the way.
    let chunked = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let (upstream, _) = scripted(&[format!("{chunked}{}{END}", chunk(&body))]).await;
    let expert = expert_with(&[upstream.url()], &json!({}), &limits);
    let mut reply = ask(&expert, PLAIN).await.unwrap();
    assert!(
        http_body_util::BodyExt::collect(&mut reply.body)
            .await
            .unwrap_err()
            .to_string()
            .contains("larger than 100")
    );
    assert!(reply.body.was_cut());
    // A stream may be as long as it likes, but not one event of it.
    let event = format!("data: {{\"x\":\"{}\"}}\n\n", "y".repeat(60));
    let fine = format!("{STREAM}{}{}{}{END}", chunk(&event), chunk(&event), chunk("data: [DONE]\n\n"));
    let (upstream, _) = scripted(&[fine]).await;
    let expert = expert_with(&[upstream.url()], &json!({}), &limits);
    let told = text(ask(&expert, STREAMED).await.unwrap().body).await;
    assert!(told.ends_with("data: [DONE]\n\n") && told.len() > 150, "{told}");
    let long = format!("data: {{\"x\":\"{}\"}}\n\n", "y".repeat(150));
    let (upstream, _) = scripted(&[format!("{STREAM}{}{END}", chunk(&long))]).await;
    let expert = expert_with(&[upstream.url()], &json!({}), &limits);
    assert!(text(ask(&expert, STREAMED).await.unwrap().body).await.contains("upstream_stream_failed"));
}
