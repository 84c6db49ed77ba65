use std::sync::atomic::{AtomicU64, Ordering};

use experts::Secret;
use http::{Request, Response};
use serde_json::{Value, json};

use super::*;
use crate::outbound::{Bounds, Exchanged};

/// An owner with the experts `a` and `b`, both always ready. Its leases last three seconds.
#[derive(Default)]
struct FakeOwner {
    term: AtomicU64,
    next: AtomicU64,
    /// What it was asked: method, path and body.
    seen: Mutex<Vec<String>>,
    /// How it fails.
    fails: Mutex<Option<OutboundError>>,
    /// What a renewal takes.
    slow: Duration,
}

impl FakeOwner {
    fn answer(&self, method: &Method, path: &str, body: &Value) -> (u16, Value) {
        let term = self.term.load(Ordering::Relaxed);
        let number = || self.next.fetch_add(1, Ordering::Relaxed);
        match (method.as_str(), path) {
            ("GET", "outlook") => {
                let expert = |id: &str| json!({"expert": id, "pool": "p", "away": 0, "wait_ms": 5});
                (200, json!({"term": term, "expires_in_ms": 3000, "experts": [expert("a"), expert("b")]}))
            }
            ("POST", "leases") => {
                let grant = json!({"lease": number(), "term": term, "expires_in_ms": 3000, "found": "hot", "waited_us": 0});
                (200, grant)
            }
            ("POST", "leases/renew") => {
                let leases = body["leases"].as_array().unwrap().iter().map(|lease| {
                    let now = if body["term"] == term { lease["lease"].clone() } else { number().into() };
                    json!({"lease": lease["lease"], "now": now})
                });
                let leases: Vec<_> = leases.collect();
                let renewal =
                    json!({"term": term, "expires_in_ms": 3000, "leases": leases, "lost": [], "unknown": []});
                (200, renewal)
            }
            _ => (204, Value::Null),
        }
    }

    fn seen(&self, what: &str) -> Vec<String> {
        self.seen.lock().unwrap().iter().filter(|line| line.starts_with(what)).cloned().collect()
    }
}

impl Outbound for FakeOwner {
    fn exchange(&self, request: Request<Bytes>, _: Bounds) -> Exchanged<'_> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().unwrap().as_str().strip_prefix("/admin/v1/tiers/").unwrap();
        self.seen.lock().unwrap().push(format!("{} {path}", parts.method));
        let body = serde_json::from_slice(&body).unwrap_or_default();
        let failure = self.fails.lock().unwrap().clone();
        let (status, answer) = self.answer(&parts.method, path, &body);
        let slow = if path == "leases/renew" { self.slow } else { Duration::ZERO };
        Box::pin(async move {
            tokio::time::sleep(slow).await;
            if let Some(failure) = failure {
                return Err(failure);
            }
            Ok(Response::builder().status(status).body(answer.to_string().into()).unwrap())
        })
    }
}

struct World {
    owner: Arc<FakeOwner>,
    remote: Remote,
    stop: CancellationToken,
}

impl World {
    async fn new(owner: FakeOwner) -> Self {
        let owner = Arc::new(owner);
        let config = OwnerConfig { url: "http://owner:1/".into(), token: Secret::new("token".to_owned()) };
        let remote = Remote::new(&config, owner.clone(), "test", OwnerMetrics::default()).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(remote.clone().run(stop.clone()));
        tokio::time::sleep(Duration::from_millis(1)).await;
        Self { owner, remote, stop }
    }

    async fn acquire(&self, expert: &str) -> Result<Option<RemoteLease>, Why> {
        let expert = ExpertId::new(expert).unwrap();
        let ask = Ask { expert: &expert, tenant: 0, session: None, deadline: None };
        self.remote.acquire(ask).await.map_err(|denied| denied.why)
    }
}

async fn seconds(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn leases_are_renewed_together_and_given_back_once() {
    let world = World::new(FakeOwner::default()).await;
    let held = [world.acquire("a").await.unwrap().unwrap(), world.acquire("b").await.unwrap().unwrap()];
    seconds(10.0).await;
    let renewals = world.owner.seen("POST leases/renew").len();
    assert!((9..=11).contains(&renewals), "three times in three seconds: {renewals}");
    drop(held);
    seconds(1.0).await;
    assert_eq!(world.owner.seen("DELETE"), ["DELETE leases/0?term=0", "DELETE leases/1?term=0"]);
    seconds(10.0).await;
    assert_eq!(world.owner.seen("POST leases/renew").len(), renewals, "nothing is left to renew");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_made_anew_is_given_back_under_its_new_number() {
    let slow = Duration::from_millis(500);
    let world = World::new(FakeOwner { slow, ..FakeOwner::default() }).await;
    let (a, b) = (world.acquire("a").await.unwrap(), world.acquire("b").await.unwrap());
    // The owner starts anew, and the request for b ends while the owner is being told of its lease.
    world.owner.term.store(1, Ordering::Relaxed);
    let renewals = world.owner.seen("POST leases/renew").len();
    while world.owner.seen("POST leases/renew").len() == renewals {
        seconds(0.1).await;
    }
    drop(b);
    seconds(1.0).await;
    let mut given_back = world.owner.seen("DELETE");
    assert_eq!(given_back.remove(0), "DELETE leases/1?term=0");
    let [new] = &given_back[..] else { panic!("{given_back:?}") };
    assert!(new == "DELETE leases/2?term=1" || new == "DELETE leases/3?term=1", "{new}");
    drop(a);
    seconds(1.0).await;
    assert!(world.owner.seen("DELETE").last().unwrap().ends_with("?term=1"));
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_does_not_answer_is_not_waited_for() {
    let world = World::new(FakeOwner::default()).await;
    let a = ExpertId::new("a").unwrap();
    assert_eq!(world.remote.outlook(&a).map(|outlook| outlook.away), Some(Some(0)));
    *world.owner.fails.lock().unwrap() = Some(OutboundError::Timeout);
    // One late answer may be the network.
    seconds(1.1).await;
    assert_eq!(world.acquire("a").await.err(), Some(Why::Deadline));
    seconds(5.0).await;
    let asked = world.owner.seen("POST leases").len();
    assert_eq!(world.acquire("a").await.err(), Some(Why::NoOwner));
    assert_eq!(world.owner.seen("POST leases").len(), asked, "nobody was asked");
    assert_eq!(world.remote.outlook(&a).map(|outlook| outlook.away), Some(None), "what is old says nothing");
    assert!(world.remote.may_have(&a) && !world.remote.may_have(&ExpertId::new("c").unwrap()));
    *world.owner.fails.lock().unwrap() = None;
    seconds(1.1).await;
    assert!(world.acquire("a").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn what_requests_held_is_given_back_at_the_stop() {
    let world = World::new(FakeOwner::default()).await;
    let held = world.acquire("a").await.unwrap();
    world.stop.cancel();
    drop(held);
    seconds(2.0).await;
    assert_eq!(world.owner.seen("DELETE"), ["DELETE leases/0?term=0"]);
}
