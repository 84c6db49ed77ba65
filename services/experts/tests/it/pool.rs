//! Connections: kept, given back, found dead, spread over endpoints.

use std::sync::Arc;
use std::time::Duration;

use experts::CallErrorKind;
use serde_json::json;
use tokio::sync::{Notify, Semaphore};

use crate::support::*;

fn answer() -> String {
    whole("200 OK", "application/json", r#"{"model":"m"}"#)
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let upstream = Upstream::answering(answer()).await;
    let expert = expert(&upstream);
    for _ in 0..5 {
        // A complete short answer has given its connection back before its body is read.
        let reply = ask(&expert, PLAIN).await.unwrap();
        let other = ask(&expert, PLAIN).await.unwrap();
        assert_eq!(text(reply.body).await, text(other.body).await);
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_stream_gives_its_connection_back_at_its_end() {
    let stream = format!("{STREAM}{}{END}", chunk("data: [DONE]\n\n"));
    let upstream = Upstream::answering(stream).await;
    let expert = expert(&upstream);
    for _ in 0..3 {
        let reply = ask(&expert, STREAMED).await.unwrap();
        assert_eq!(text(reply.body).await, "data: [DONE]\n\n");
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn answers_at_the_same_time_have_a_connection_each() {
    let gate = Arc::new(Semaphore::new(0));
    let (arrived, open) = (Arc::new(Semaphore::new(0)), gate.clone());
    let count = arrived.clone();
    let upstream = Upstream::start(move |mut connection, _| {
        let (count, open) = (count.clone(), open.clone());
        async move {
            while connection.request().await.is_some() {
                count.add_permits(1);
                open.acquire().await.unwrap().forget();
                connection.write(answer()).await;
            }
        }
    })
    .await;
    let expert = expert(&upstream);
    let both = async { tokio::join!(ask(&expert, PLAIN), ask(&expert, PLAIN)) };
    let release = async {
        arrived.acquire_many(2).await.unwrap().forget();
        gate.add_permits(2);
    };
    let ((first, second), ()) = tokio::join!(both, release);
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(upstream.connections(), 2);
    assert_eq!(expert.endpoints()[0].outstanding, 0, "both answers are complete");
}

#[tokio::test]
async fn a_connection_that_the_peer_closed_is_not_used() {
    let closed = Arc::new(Notify::new());
    let tell = closed.clone();
    let upstream = Upstream::start(move |mut connection, _| {
        let tell = tell.clone();
        async move {
            connection.request().await;
            connection.write(answer()).await;
            drop(connection);
            tell.notify_one();
        }
    })
    .await;
    let expert = expert(&upstream);
    for turn in 1..=3 {
        assert!(ask(&expert, PLAIN).await.is_ok());
        closed.notified().await;
        assert_eq!(upstream.connections(), turn);
    }
}

/// Answers the first request of the first connection and closes on the second; answers all others.
async fn closing_on_the_second() -> Upstream {
    Upstream::start(move |mut connection, at| async move {
        let mut count = 0;
        while connection.request().await.is_some() {
            count += 1;
            if at == 0 && count == 2 {
                return;
            }
            connection.write(answer()).await;
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_request_that_met_a_closing_connection_is_sent_again_once() {
    let upstream = closing_on_the_second().await;
    let expert = expert(&upstream);
    ask(&expert, PLAIN).await.unwrap();
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(ask(&expert, PLAIN).await.unwrap().status, 200);
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_broke_a_busy_connection_is_not_sent_again() {
    let upstream = closing_on_the_second().await;
    let careful = json!({ "retries": { "after_send": false } });
    let expert = expert_with(&[upstream.url()], &careful, &json!({}));
    ask(&expert, PLAIN).await.unwrap();
    let error = ask(&expert, PLAIN).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Reset);
    assert!(error.is_retryable());
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed_in_time() {
    let closed = Arc::new(Notify::new());
    let tell = closed.clone();
    let upstream = Upstream::start(move |mut connection, _| {
        let tell = tell.clone();
        async move {
            connection.request().await;
            connection.write(answer()).await;
            connection.closed().await;
            tell.notify_one();
        }
    })
    .await;
    let expert = expert(&upstream);
    ask(&expert, PLAIN).await.unwrap();
    let start = tokio::time::Instant::now();
    closed.notified().await;
    assert!(start.elapsed() >= Duration::from_secs(49), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_answer_that_closes_the_connection_is_complete() {
    let body = r#"{"model":"m"}"#;
    let close =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{body}");
    let upstream = Upstream::start(move |mut connection, _| {
        let close = close.clone();
        async move {
            connection.request().await;
            connection.write(&close).await;
        }
    })
    .await;
    let expert = expert(&upstream);
    for turn in 1..=2 {
        assert_eq!(text(ask(&expert, PLAIN).await.unwrap().body).await, body);
        assert_eq!(upstream.connections(), turn);
    }
}

#[tokio::test]
async fn dropping_a_call_or_a_body_closes_the_connection() {
    let (seen, closed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (see, close) = (seen.clone(), closed.clone());
    let upstream = Upstream::start(move |mut connection, at| {
        let (see, close) = (see.clone(), close.clone());
        async move {
            connection.request().await;
            if at == 1 {
                connection.write(format!("{STREAM}{}", chunk("data: {}\n\n"))).await;
            }
            see.notify_one();
            connection.closed().await;
            close.notify_one();
        }
    })
    .await;
    let expert = expert(&upstream);
    tokio::select! {
        _ = ask(&expert, PLAIN) => panic!("there is no answer"),
        () = seen.notified() => {}
    }
    closed.notified().await;
    let mut body = ask(&expert, STREAMED).await.unwrap().body;
    assert_eq!(piece(&mut body).await.as_deref(), Some("data: {}\n\n"));
    drop(body);
    closed.notified().await;
    assert_eq!(expert.endpoints()[0].outstanding, 0);
}

#[tokio::test]
async fn calls_go_to_the_least_busy_endpoint() {
    let held = || {
        Upstream::start(|mut connection, _| async move {
            while connection.request().await.is_some() {
                connection.write(format!("{STREAM}{}", chunk("data: {}\n\n"))).await;
            }
        })
    };
    let (a, b) = (held().await, held().await);
    let least = json!({ "balancing": "least_outstanding" });
    let expert = expert_with(&[a.url(), b.url()], &least, &json!({}));
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(ask(&expert, STREAMED).await.unwrap());
    }
    let load: Vec<usize> = expert.endpoints().iter().map(|e| e.outstanding).collect();
    assert_eq!(load, [3, 3]);
    drop(open);
    assert_eq!(expert.endpoints().iter().map(|e| e.outstanding).sum::<usize>(), 0);
}
