//! A second try beside a slow one.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::support::*;

/// Answers after a pause; tells when a client has left before.
async fn slow(pause: Duration, left: Arc<Notify>) -> Upstream {
    Upstream::start(move |mut connection, _| {
        let left = left.clone();
        async move {
            while connection.request().await.is_some() {
                tokio::select! {
                    () = tokio::time::sleep(pause) => connection.write(ok()).await,
                    () = connection.closed() => return left.notify_one(),
                }
            }
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn the_first_usable_head_wins_and_the_loser_is_cancelled() {
    let left = Arc::new(Notify::new());
    let slow = slow(Duration::from_secs(20), left.clone()).await;
    let (fast, _) = scripted(&[ok()]).await;
    let hedge = json!({ "hedge": { "after_ms": 200 }, "balancing": "weighted" });
    let expert = expert_with(&[slow.url(), fast.url()], &hedge, &json!({}));
    let mut hedged = 0;
    for seed in 0..10 {
        let start = Instant::now();
        let reply = ask_seeded(&expert, PLAIN, seed).await.unwrap();
        assert_eq!(reply.status, 200);
        let tries: Vec<_> = reply.tries.iter().cloned().collect();
        if let [first, second] = tries.as_slice() {
            hedged += 1;
            assert!((200..250).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
            assert_eq!((&*first.endpoint, first.status, first.hedge), (slow.url().as_str(), None, false));
            assert!(first.error.unwrap().contains("cancelled"));
            assert_eq!(
                (&*second.endpoint, second.status, second.hedge),
                (fast.url().as_str(), Some(200), true)
            );
            assert_eq!(second.started.as_millis(), 200);
            left.notified().await;
        }
    }
    let stats = expert.stats();
    assert!(hedged >= 2, "{hedged}");
    assert_eq!((stats.hedges, stats.hedges_won, stats.retries), (hedged, hedged, 0));
    let slowest = &expert.endpoints()[0];
    assert_eq!((slowest.outstanding, slowest.openings), (0, 0), "losing is no failure");
    assert!(slowest.latency_us.unwrap() > 150_000, "but it is known to be slow");
}

#[tokio::test(start_paused = true)]
async fn a_failing_hedge_loses_and_a_failing_first_try_waits_for_its_hedge() {
    let left = Arc::new(Notify::new());
    let slow = slow(Duration::from_secs(1), left).await;
    let failing = whole("500 x", "application/json", "{}");
    let (bad, _) = scripted(&[failing]).await;
    let hedge = json!({ "hedge": { "after_ms": 200, "budget": 1 }, "balancing": "weighted", "retries": { "max_attempts": 1 }, "breaker": { "enabled": false } });
    let expert = expert_with(&[slow.url(), bad.url()], &hedge, &json!({}));
    let mut both = 0;
    for seed in 0..12 {
        let reply = ask_seeded(&expert, PLAIN, seed).await.unwrap();
        let statuses: Vec<_> = reply.tries.iter().map(|t| (t.hedge, t.status)).collect();
        if reply.tries.len() == 2 {
            both += 1;
            assert_eq!(reply.status, 200, "the first try was waited for");
            assert_eq!(statuses, [(false, Some(200)), (true, Some(500))]);
        } else {
            assert_eq!(statuses, [(false, Some(500))]);
        }
    }
    assert!(both >= 2, "{both}");
}

#[tokio::test(start_paused = true)]
async fn hedges_have_a_budget_and_need_another_endpoint() {
    let left = Arc::new(Notify::new());
    let (a, b) = (slow(Duration::from_secs(1), left.clone()).await, slow(Duration::from_secs(1), left).await);
    let hedge = json!({ "hedge": { "after_ms": 100, "budget": 0.1 } });
    let expert = expert_with(&[a.url(), b.url()], &hedge, &json!({}));
    for seed in 0..200 {
        assert_eq!(ask_seeded(&expert, PLAIN, seed).await.unwrap().status, 200);
    }
    let stats = expert.stats();
    assert!((28..=30).contains(&stats.hedges), "{stats:?}");
    assert_eq!(stats.hedges + stats.hedges_refused, 200);
    let alone = expert_with(&[a.url()], &hedge, &json!({}));
    assert_eq!(ask(&alone, PLAIN).await.unwrap().tries.len(), 1);
    assert_eq!(alone.stats().hedges, 0);
}
