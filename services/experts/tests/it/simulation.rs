//! Minutes of traffic in paused time, with endpoints that die, stall, reset and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use experts::{Expert, Trust, Try};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::support::*;

/// What an endpoint does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Works,
    /// Resets the connection when the request has come.
    Resets,
    /// Resets it in the middle of the head.
    ResetsInHead,
    /// Says nothing.
    Stalls,
    /// Answers 503.
    Fails,
    /// Answers 429 and asks to be left alone.
    Limits,
}

const MOODS: [Mood; 6] =
    [Mood::Works, Mood::Resets, Mood::ResetsInHead, Mood::Stalls, Mood::Fails, Mood::Limits];

struct Server {
    upstream: Upstream,
    mood: Arc<AtomicU8>,
}

impl Server {
    async fn start(latency: Duration) -> Self {
        let mood = Arc::new(AtomicU8::new(0));
        let shared = mood.clone();
        let upstream = Upstream::start(move |mut connection, _| {
            let mood = shared.clone();
            async move {
                while connection.request().await.is_some() {
                    sleep(latency).await;
                    match MOODS[usize::from(mood.load(Ordering::SeqCst))] {
                        Mood::Works => connection.write(ok()).await,
                        Mood::Fails => connection.write(whole("503 x", "application/json", "{}")).await,
                        Mood::Limits => {
                            let head = "HTTP/1.1 429 x\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
                            connection.write(head).await;
                        }
                        Mood::Resets => return connection.reset(),
                        Mood::ResetsInHead => {
                            connection.write("HTTP/1.1 200 OK\r\ncontent-ty").await;
                            return connection.reset();
                        }
                        Mood::Stalls => return connection.closed().await,
                    }
                }
            }
        })
        .await;
        Self { upstream, mood }
    }

    fn set(&self, mood: Mood) {
        let at = MOODS.iter().position(|m| *m == mood).unwrap();
        self.mood.store(at as u8, Ordering::SeqCst);
    }
}

/// How one request ended.
struct End {
    status: Option<u16>,
    tries: Vec<Try>,
    took: Duration,
}

const EVERY: Duration = Duration::from_millis(50);
const DEADLINE: Duration = Duration::from_secs(10);

/// Sends a request every [`EVERY`] while `act` happens.
async fn traffic(expert: &Arc<Expert>, seed: u64, count: u64, act: impl Future<Output = ()>) -> Vec<End> {
    let start = Instant::now();
    let mut calls = JoinSet::new();
    let requests = async {
        for n in 0..count {
            sleep_until(start + EVERY * n as u32).await;
            let expert = expert.clone();
            calls.spawn(async move {
                let begun = Instant::now();
                let mut asking = Asking { seed: seed.wrapping_mul(1_000_003) + n, ..Asking::new(PLAIN) };
                asking.deadline = Some(begun + DEADLINE);
                match asking.of(&expert).await {
                    Ok(reply) => End {
                        status: Some(reply.status.as_u16()),
                        tries: reply.tries.iter().cloned().collect(),
                        took: begun.elapsed(),
                    },
                    Err(error) => {
                        End { status: None, tries: error.tries().cloned().collect(), took: begun.elapsed() }
                    }
                }
            });
        }
    };
    tokio::join!(requests, act);
    calls.join_all().await
}

/// The rules that hold whatever happens.
fn check_rules(expert: &Expert, ends: &[End], seconds: f64) {
    let requests = ends.len() as f64;
    let made: usize =
        ends.iter().map(|e| e.tries.iter().filter(|t| !t.hedge).count().saturating_sub(1)).sum();
    let hedges = ends.iter().flat_map(|e| &e.tries).filter(|t| t.hedge).count();
    let stats = expert.stats();
    assert!(made as f64 <= 0.2 * requests + 10.0 * seconds + 100.0, "{made} retries of {requests}");
    assert!(hedges as f64 <= 0.05 * requests + 10.0, "{hedges} hedges of {requests}");
    assert_eq!((stats.retries, stats.hedges), (made as u64, hedges as u64));
    for end in ends {
        assert!(end.tries.len() <= 6, "three tries, each with a hedge");
        assert!(end.tries.iter().all(|t| t.started < DEADLINE));
        assert!(end.took <= DEADLINE + Duration::from_millis(5), "{:?}", end.took);
    }
    assert!(expert.endpoints().iter().all(|e| e.outstanding == 0), "{:?}", expert.endpoints());
}

async fn fleet(hedge: bool) -> (Vec<Server>, Arc<Expert>) {
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(Server::start(Duration::from_millis(30)).await);
    }
    let endpoints: Vec<_> = servers.iter().map(|s| json!({ "url": s.upstream.url() })).collect();
    let mut backend = json!({ "kind": "llm", "endpoints": endpoints });
    if hedge {
        backend["hedge"] = json!({ "after_percentile": 0.95 });
    }
    let limits = json!({ "first_byte_timeout_ms": 1000 });
    let spec = spec(json!({ "id": "e", "backend": backend, "limits": limits }));
    (servers, Arc::new(Expert::new(spec, Trust::Operator, &client()).unwrap()))
}

/// One of three endpoints fails in every way there is, for a while, and comes back.
#[tokio::test(start_paused = true)]
async fn nothing_is_lost_when_one_of_three_fails() {
    for (seed, mood) in MOODS[1..].iter().enumerate() {
        for hedge in [false, true] {
            let (servers, expert) = fleet(hedge).await;
            let act = async {
                sleep(Duration::from_secs(5)).await;
                servers[1].set(*mood);
                sleep(Duration::from_secs(20)).await;
                servers[1].set(Mood::Works);
            };
            let start = Instant::now();
            let ends = traffic(&expert, seed as u64, 1_600, act).await;
            let lost = ends.iter().filter(|e| e.status != Some(200)).count();
            assert_eq!(lost, 0, "{mood:?}, hedged: {hedge}");
            check_rules(&expert, &ends, start.elapsed().as_secs_f64());
            // At the end, when its bad times have faded, it takes its share again.
            let at_last = &ends[1_400..];
            let back = at_last
                .iter()
                .filter(|e| e.tries.last().is_some_and(|t| *t.endpoint == *servers[1].upstream.url()));
            assert!(back.count() > 25, "{mood:?}, hedged: {hedge}: {:?}", expert.endpoints());
        }
    }
}

/// Everything fails at random. Requests are lost then, but no rule is broken, and in the end all is well.
#[tokio::test(start_paused = true)]
async fn the_rules_hold_in_chaos() {
    for seed in 0..4u64 {
        let (servers, expert) = fleet(seed % 2 == 0).await;
        let act = async {
            let mut rng = fastrand::Rng::with_seed(seed);
            for _ in 0..60 {
                sleep(Duration::from_millis(rng.u64(10..1_000))).await;
                servers[rng.usize(0..3)].set(MOODS[rng.usize(0..MOODS.len())]);
            }
            for server in &servers {
                server.set(Mood::Works);
            }
        };
        let start = Instant::now();
        let ends = traffic(&expert, seed, 800, act).await;
        check_rules(&expert, &ends, start.elapsed().as_secs_f64());
        sleep(Duration::from_mins(1)).await;
        let after = traffic(&expert, seed + 100, 200, async {}).await;
        assert!(after.iter().all(|e| e.status == Some(200)), "seed {seed}: {:?}", expert.endpoints());
    }
}

/// All endpoints fail for long: each request costs few tries, and it is over as soon as they work.
#[tokio::test(start_paused = true)]
async fn an_outage_is_not_made_worse() {
    let (servers, expert) = fleet(false).await;
    for server in &servers {
        server.set(Mood::Fails);
    }
    let start = Instant::now();
    let ends = traffic(&expert, 1, 1_200, async {}).await;
    check_rules(&expert, &ends, start.elapsed().as_secs_f64());
    let tries: usize = ends.iter().map(|e| e.tries.len()).sum();
    assert!(tries <= 1_200 + 240 + 700, "{tries}");
    for server in &servers {
        server.set(Mood::Works);
    }
    let ends = traffic(&expert, 2, 1_500, async {}).await;
    let lost = ends.iter().filter(|e| e.status != Some(200)).count();
    assert_eq!(lost, 0);
    assert!(expert.endpoints().iter().all(|e| e.breaker == experts::BreakerState::Closed));
}
