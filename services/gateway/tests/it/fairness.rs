//! Who is next when a route is full.
//!
//! *Real* and *modelled* as in `simulation.rs`; the route has one place and the endpoint works, so that the
//! order in which requests come to it is the order in which they were let in.

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::time::Duration;

use admission::Priority;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::upstream::Endpoint;
use crate::world::{Event, Log, Visit, gateway, in_paused_time, token};

const KEYS: usize = 4;

fn config(endpoint: &Endpoint) -> String {
    let key = |n: usize| {
        format!(
            "  - {{id: k{n}, secrets: [{{token: {}}}]}}
",
            token(n)
        )
    };
    let keys: String = (0..KEYS).map(key).collect();
    format!(
        "experts:\n  - {{id: one, backend: {{kind: llm, endpoints: [{{url: '{}'}}]}}}}\nroutes:\n  - {{id: auto, \
         policy: {{kind: static, order: [{{expert: one}}]}}, concurrency: {{concurrent: 1, queue: 1000, queue_per_key: 1000, \
         max_wait_ms: 3000000}}}}\nkeys:\n{keys}",
        endpoint.url
    )
}

/// Keys that send seldom, and one, the first, that sends most of all; some clients leave.
fn visit() -> impl Strategy<Value = Visit> {
    let key = prop_oneof![3 => Just(0), 1 => 1..KEYS];
    let leaves = prop_oneof![4 => Just(None), 1 => (0_u64..2_000).prop_map(Some)];
    (0_u64..2_000, key, leaves).prop_map(|(at, key, leaves)| Visit {
        at,
        key,
        class: Priority::Standard,
        stream: false,
        timeout: 3_000_000,
        leaves,
    })
}

/// A key's requests that wait.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<usize>,
    since: Option<Instant>,
    turns: [usize; KEYS],
}

impl Queue {
    fn first_from(&mut self, at: Instant) {
        (self.since, self.turns) = (Some(at), [0; KEYS]);
    }
}

async fn simulate(folder: &Path, visits: Vec<Visit>) -> Result<(), TestCaseError> {
    let log = Log::default();
    let endpoint = Endpoint::start("one", Duration::from_millis(15), log.clone()).await;
    let app = gateway(&config(&endpoint), folder, 1);
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for (number, visit) in visits.iter().cloned().enumerate() {
        clients.spawn(visit.make(number, start, app.pipeline.clone(), log.clone()));
    }
    clients.join_all().await;

    // For each key those who wait, in order, since when the first of them has been the first, and how often
    // each other key had its turn since then.
    let mut queues: [Queue; KEYS] = Default::default();
    let mut served = 0;
    let mut over = HashSet::new();
    for (at, event) in log.events() {
        match event {
            Event::Sends { request } => {
                let own = &mut queues[visits[request].key];
                own.waiting.push_back(request);
                if own.waiting.len() == 1 {
                    own.first_from(at);
                }
            }
            // Let in, and left in the same moment.
            Event::Arrives { request, .. } if over.contains(&request) => {}
            Event::Arrives { request, .. } => {
                let key = visits[request].key;
                let own = &mut queues[key];
                prop_assert_eq!(own.waiting.pop_front(), Some(request), "another of key {} was first", key);
                own.first_from(at);
                served += 1;
                // What comes in the moment of a grant may have come just after it.
                let others = queues.iter_mut().filter(|q| !q.waiting.is_empty() && q.since < Some(at));
                for other in others {
                    other.turns[key] += 1;
                    prop_assert!(other.turns[key] <= 1, "key {key} twice before {:?}", other.waiting);
                }
            }
            Event::Ends { request } => {
                let own = &mut queues[visits[request].key];
                if own.waiting.front() == Some(&request) {
                    own.first_from(at);
                }
                own.waiting.retain(|waits| *waits != request);
                over.insert(request);
            }
        }
    }
    prop_assert!(queues.iter().all(|queue| queue.waiting.is_empty()), "somebody waits for ever");
    let stayed = visits.iter().filter(|visit| visit.leaves.is_none()).count();
    prop_assert!(served >= stayed, "{served} of {stayed} were served");
    Ok(())
}

/// Requests of one key are served in their order, and between two requests of a key that waits every other
/// key has at most one turn, however much it has waiting.
#[test]
fn keys_take_turns_and_nobody_starves() {
    let folder = tempfile::tempdir().unwrap();
    let config = ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(32) };
    let runs = prop::collection::vec(visit(), 1..80);
    let run = |visits| in_paused_time(simulate(folder.path(), visits));
    TestRunner::new(config).run(&runs, run).unwrap();
}
