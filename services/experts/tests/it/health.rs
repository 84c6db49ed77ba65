//! Endpoints that fail and recover, and what policies see of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use experts::{BreakerState, Client, ClientConfig, Registry, Snapshot, Trust, Wanted};
use routing::Availability;
use serde_json::{Value, json};

use crate::support::*;

/// A server that works or fails, as it is told, also when it is asked for its models.
struct Moody {
    upstream: Upstream,
    works: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
}

async fn moody() -> Moody {
    let (works, requests) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (w, r) = (works.clone(), requests.clone());
    let upstream = Upstream::start(move |mut connection, _| {
        let (works, requests) = (w.clone(), r.clone());
        async move {
            while connection.request().await.is_some() {
                requests.fetch_add(1, Ordering::SeqCst);
                let failure = whole("500 x", "application/json", "{}");
                connection.write(if works.load(Ordering::SeqCst) { ok() } else { failure }).await;
            }
        }
    })
    .await;
    Moody { upstream, works, requests }
}

impl Moody {
    fn set(&self, works: bool) {
        self.works.store(works, Ordering::SeqCst);
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn wanted(id: &str, urls: &[String], backend: &Value, description: &str) -> Wanted {
    let endpoints: Vec<Value> = urls.iter().map(|url| json!({ "url": url })).collect();
    let mut settings = json!({ "kind": "llm", "endpoints": endpoints, "retries": { "max_attempts": 1 } });
    for (name, value) in backend.as_object().unwrap() {
        settings[name] = value.clone();
    }
    let spec = spec(json!({ "id": id, "backend": settings, "description": description }));
    Wanted {
        spec,
        trust: Trust::Operator,
        availability: Availability::Ready,
        signals: std::sync::Arc::default(),
    }
}

fn availability(snapshot: &Snapshot) -> Availability {
    snapshot.fleet().get("e").unwrap().availability
}

#[tokio::test(start_paused = true)]
async fn an_only_endpoint_fails_and_recovers_by_itself() {
    let server = moody().await;
    let registry = Registry::new(client());
    let one = wanted("e", &[server.upstream.url()], &json!({}), "");
    let snapshot = registry.replace(vec![one], [].into()).unwrap();
    let expert = registry.get("e").unwrap();
    let fleet = snapshot.fleet();
    assert!(Arc::ptr_eq(&fleet, &snapshot.fleet()), "nothing has changed");
    server.set(false);
    for failures in 0..5 {
        assert_eq!(availability(&snapshot), Availability::Ready, "{failures}");
        assert_eq!(ask(&expert, PLAIN).await.unwrap().status, 500);
    }
    assert_eq!(availability(&snapshot), Availability::Unhealthy);
    assert_eq!(
        fleet.get("e").unwrap().availability,
        Availability::Ready,
        "a plan keeps the fleet it was made of"
    );
    let state = &expert.endpoints()[0];
    assert_eq!((state.breaker, state.openings, state.ejected), (BreakerState::Open, 1, false));
    // Whoever asks all the same is served: the only endpoint is never refused.
    assert_eq!(ask(&expert, PLAIN).await.unwrap().status, 500);
    tokio::time::advance(Duration::from_millis(4_900)).await;
    assert_eq!(availability(&snapshot), Availability::Unhealthy);
    tokio::time::advance(Duration::from_millis(101)).await;
    assert_eq!(availability(&snapshot), Availability::Ready, "the next request is the probe");
    assert_eq!(ask(&expert, PLAIN).await.unwrap().status, 500);
    assert_eq!(availability(&snapshot), Availability::Unhealthy, "for twice the time");
    tokio::time::advance(Duration::from_millis(9_900)).await;
    assert_eq!(availability(&snapshot), Availability::Unhealthy);
    tokio::time::advance(Duration::from_millis(101)).await;
    server.set(true);
    assert_eq!(availability(&snapshot), Availability::Ready);
    assert_eq!(ask(&expert, PLAIN).await.unwrap().status, 200);
    assert_eq!(availability(&snapshot), Availability::Ready);
    assert_eq!(expert.endpoints()[0].breaker, BreakerState::Closed);
}

#[tokio::test]
async fn a_failure_is_known_also_while_others_look() {
    const EXPERTS: usize = 300;
    let server = moody().await;
    server.set(false);
    let registry = Registry::new(client());
    let urls = [server.upstream.url()];
    let at_once = json!({ "breaker": { "consecutive_failures": 1 } });
    let all = (0..EXPERTS).map(|n| wanted(&format!("e{n}"), &urls, &at_once, "")).collect();
    let snapshot = registry.replace(all, [].into()).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let others: Vec<_> = (0..3)
        .map(|_| {
            let (snapshot, done) = (snapshot.clone(), done.clone());
            std::thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    std::hint::black_box(snapshot.fleet());
                }
            })
        })
        .collect();
    let mut stale = 0;
    for n in 0..EXPERTS {
        let id = format!("e{n}");
        assert_eq!(ask(&registry.get(&id).unwrap(), PLAIN).await.unwrap().status, 500);
        stale += usize::from(snapshot.fleet().get(&id).unwrap().availability != Availability::Unhealthy);
    }
    done.store(true, Ordering::Relaxed);
    for other in others {
        other.join().unwrap();
    }
    assert_eq!(stale, 0, "experts whose failure the next look did not see");
}

#[tokio::test(start_paused = true)]
async fn while_a_probe_is_under_way_policies_go_elsewhere() {
    let stalled = Upstream::start(|mut connection, at| async move {
        connection.request().await;
        if at < 5 {
            connection.reset();
        } else {
            connection.closed().await;
        }
    })
    .await;
    let registry = Registry::new(client());
    let one = wanted("e", &[stalled.url()], &json!({}), "");
    let snapshot = registry.replace(vec![one], [].into()).unwrap();
    let expert = registry.get("e").unwrap();
    for _ in 0..5 {
        ask(&expert, PLAIN).await.unwrap_err();
    }
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(availability(&snapshot), Availability::Ready);
    let probe = tokio::spawn({
        let expert = expert.clone();
        async move { ask(&expert, PLAIN).await }
    });
    while expert.endpoints()[0].outstanding == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(availability(&snapshot), Availability::Unhealthy);
    // A client that leaves says nothing about the endpoint: the next request may try.
    probe.abort();
    assert!(probe.await.unwrap_err().is_cancelled());
    assert_eq!(availability(&snapshot), Availability::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_failing_endpoint_gets_only_probes_and_the_expert_stays_ready() {
    let (bad, good) = (moody().await, moody().await);
    bad.set(false);
    let registry = Registry::new(client());
    let retrying = json!({ "retries": {} });
    let urls = [bad.upstream.url(), good.upstream.url()];
    let snapshot = registry.replace(vec![wanted("e", &urls, &retrying, "")], [].into()).unwrap();
    let expert = registry.get("e").unwrap();
    for seed in 0..300 {
        assert_eq!(ask_seeded(&expert, PLAIN, seed).await.unwrap().status, 200, "{seed}");
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(availability(&snapshot), Availability::Ready);
    }
    // Five to open it, then after 5 and 10 seconds: half a minute has no room for more.
    assert!((6..=8).contains(&bad.requests()), "{}", bad.requests());
    let state = &expert.endpoints()[0];
    assert!(state.ejected && state.openings >= 2, "{state:?}");
    bad.set(true);
    for seed in 0..600 {
        assert_eq!(ask_seeded(&expert, PLAIN, seed).await.unwrap().status, 200);
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    assert!(!expert.endpoints()[0].ejected && bad.requests() > 100, "{}", bad.requests());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_off_is_a_failure_and_a_client_that_leaves_is_none() {
    let cut = Upstream::start(|mut connection, _| async move {
        connection.request().await;
        connection.write(format!("{STREAM}{}", chunk("data: {}\n\n"))).await;
    })
    .await;
    let expert = expert_with(&[cut.url()], &json!({ "retries": { "max_attempts": 1 } }), &json!({}));
    for _ in 0..4 {
        let reply = ask(&expert, STREAMED).await.unwrap();
        assert!(text(reply.body).await.contains("upstream_stream_failed"));
    }
    assert_eq!(expert.endpoints()[0].breaker, BreakerState::Closed);
    let reply = ask(&expert, STREAMED).await.unwrap();
    text(reply.body).await;
    assert_eq!(expert.endpoints()[0].breaker, BreakerState::Open);
    // A stream that stalls, and one whose client leaves.
    let stalling = || async {
        Upstream::start(|mut connection, _| async move {
            connection.request().await;
            connection.write(format!("{STREAM}{}", chunk("data: {}\n\n"))).await;
            connection.closed().await;
        })
        .await
    };
    let (stalls, waits) = (stalling().await, stalling().await);
    let stalled = crate::support::expert(&stalls);
    let left = crate::support::expert(&waits);
    for _ in 0..5 {
        text(ask(&stalled, STREAMED).await.unwrap().body).await;
        for _ in 0..3 {
            let mut body = ask(&left, STREAMED).await.unwrap().body;
            piece(&mut body).await;
        }
    }
    assert_eq!(stalled.endpoints()[0].breaker, BreakerState::Open);
    assert_eq!(left.endpoints()[0].breaker, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_outlives_changes_of_other_things() {
    let server = moody().await;
    server.set(false);
    let registry = Registry::new(client());
    let urls = [server.upstream.url()];
    registry.replace(vec![wanted("e", &urls, &json!({}), "one")], [].into()).unwrap();
    let before = registry.get("e").unwrap();
    for _ in 0..5 {
        ask(&before, PLAIN).await.unwrap();
    }
    for (backend, state) in
        [(json!({}), BreakerState::Open), (json!({ "model": "new" }), BreakerState::Closed)]
    {
        let other = wanted("other", &urls, &json!({}), "");
        let snapshot = registry.replace(vec![wanted("e", &urls, &backend, "two"), other], [].into()).unwrap();
        let expert = registry.get("e").unwrap();
        assert_eq!(expert.spec().description, "two");
        assert_eq!(expert.endpoints()[0].breaker, state);
        let expected =
            if state == BreakerState::Open { Availability::Unhealthy } else { Availability::Ready };
        assert_eq!(availability(&snapshot), expected);
        assert_eq!(
            snapshot.fleet().get("other").unwrap().availability,
            Availability::Ready,
            "a breaker is the expert's own"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_rest_makes_an_expert_unavailable_and_a_short_one_does_not() {
    let limited = |ms: u32| format!("HTTP/1.1 429 x\r\nretry-after-ms: {ms}\r\ncontent-length: 0\r\n\r\n");
    for (ms, expected) in [(1_000, Availability::Ready), (10_000, Availability::Unhealthy)] {
        let (upstream, _) = scripted(&[limited(ms), ok()]).await;
        let registry = Registry::new(client());
        let snapshot =
            registry.replace(vec![wanted("e", &[upstream.url()], &json!({}), "")], [].into()).unwrap();
        ask(&registry.get("e").unwrap(), PLAIN).await.unwrap();
        assert_eq!(availability(&snapshot), expected, "{ms}");
        tokio::time::advance(Duration::from_millis(u64::from(ms))).await;
        assert_eq!(availability(&snapshot), Availability::Ready);
    }
}

#[tokio::test(start_paused = true)]
async fn active_checks_find_out_without_traffic() {
    let server = moody().await;
    let registry = Registry::new(Client::new(&ClientConfig::default()).unwrap());
    let checked = json!({ "health": { "interval_ms": 1000 } });
    let snapshot =
        registry.replace(vec![wanted("e", &[server.upstream.url()], &checked, "")], [].into()).unwrap();
    registry.start();
    let expert = registry.get("e").unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!((9..=10).contains(&server.requests()), "{}", server.requests());
    assert_eq!(expert.endpoints()[0].healthy, Some(true));
    server.set(false);
    tokio::time::sleep(Duration::from_millis(1_900)).await;
    assert_eq!(availability(&snapshot), Availability::Ready, "one or two failures are no verdict");
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(availability(&snapshot), Availability::Unhealthy);
    assert_eq!(expert.endpoints()[0].healthy, Some(false));
    server.set(true);
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(availability(&snapshot), Availability::Ready);
    server.set(false);
    tokio::time::sleep(Duration::from_millis(3_100)).await;
    assert_eq!(availability(&snapshot), Availability::Unhealthy);
    // Stopped checks leave no verdict behind, and ask no more.
    registry.shutdown().await;
    assert_eq!(availability(&snapshot), Availability::Ready);
    let asked = server.requests();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(server.requests(), asked);
}

#[tokio::test(start_paused = true)]
async fn checks_end_with_their_expert() {
    let server = moody().await;
    let registry = Registry::new(client());
    registry.start();
    let checked = json!({ "health": { "interval_ms": 1000 } });
    let one = || wanted("e", &[server.upstream.url()], &checked, "");
    registry.replace(vec![one()], [].into()).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let running = server.requests();
    assert!((2..=3).contains(&running), "{running}");
    for _ in 0..20 {
        registry
            .replace(
                vec![one(), wanted("f", &[], &json!({ "endpoints": [{ "url": "http://127.0.0.1:9" }] }), "")],
                [].into(),
            )
            .unwrap();
        registry.replace(vec![one()], [].into()).unwrap();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(server.requests() - running, 3, "one task, whatever else changed");
    registry.replace(Vec::new(), [].into()).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(server.requests() - running, 3);
    registry.shutdown().await;
}
