//! Traffic through the whole pipeline in simulated time, while everything goes wrong at random.
//!
//! *Real*: the pipeline from the request's head to the last byte of the answer's body, with keys, limits, the
//! ledger, the gates of keys, route and experts, the policy, the experts' client with its retries, budgets,
//! breakers and time-outs, the decision log, and TCP over loopback. *Modelled*: the endpoints, which answer as
//! their mood is, and the clients, which send, wait, leave, and drop whatever is under way then. *Time* is
//! tokio's, paused: it moves when everybody waits, so that a run is the same each time. The ledger alone goes
//! by the wall clock, by which a whole run falls into one minute.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use admission::{LimitKind, Priority, Subject};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::upstream::{Endpoint, MOODS, Mood, usage};
use crate::world::{End, Event, Log, Visit, gateway, in_paused_time, token};

const KEYS: usize = 3;
/// Places: of each key, of the route, of each expert.
const OF_KEY: usize = 3;
const OF_ROUTE: usize = 6;
const OF_EXPERT: u32 = 4;
/// Requests of a key within a minute, which is longer than a run.
const PER_MINUTE: usize = 40;
/// Of each expert: retries for each request, for each second, and saved up.
const SHARE: f64 = 0.1;
const PER_SECOND: f64 = 0.5;
const SAVED: f64 = 10.0 * PER_SECOND;
/// USD per million tokens, of everybody and for prompts as for answers: a token costs 1000 nano-dollars.
const TOKEN_NANOS: u64 = 1000;
/// What a request of these simulations reserves: a prompt of a few bytes, and at most 20 tokens of answer.
const ANSWER_TOKENS: u64 = 20;

fn config(endpoints: &[Endpoint]) -> String {
    let expert = |id: &str, endpoints: &[Endpoint]| {
        let urls: Vec<_> = endpoints.iter().map(|e| format!("{{url: '{}'}}", e.url)).collect();
        format!(
            "  - {{id: {id}, backend: {{kind: llm, endpoints: [{}], retries: {{backoff: {{base_ms: 20, max_ms: 1500}}, \
             budget: {{share: {SHARE}, per_second: {PER_SECOND}}}}}, breaker: {{consecutive_failures: 3, open_ms: 800}}}}, \
             limits: {{first_byte_timeout_ms: 400, idle_timeout_ms: 400}}, cost: {{input: 1.0, output: 1.0}}, \
             concurrency: {{concurrent: {OF_EXPERT}, queue: 3, max_wait_ms: 300}}}}\n",
            urls.join(", ")
        )
    };
    let key = |n: usize| {
        format!(
            "  - {{id: k{n}, secrets: [{{token: {}}}], priority: standard, highest_priority: interactive, \
             limits: {{concurrent: {OF_KEY}, queue: 6, requests_per_minute: {PER_MINUTE}, usd_total: 100.0}}}}\n",
            token(n)
        )
    };
    format!(
        "experts:\n{}{}routes:\n  - {{id: auto, policy: {{kind: static, order: [{{expert: one}}, {{expert: two}}]}}, \
         concurrency: {{concurrent: {OF_ROUTE}, queue: 8}}}}\nkeys:\n{}",
        expert("one", &endpoints[..2]),
        expert("two", &endpoints[2..]),
        (0..KEYS).map(key).collect::<String>()
    )
}

fn visit() -> impl Strategy<Value = Visit> {
    let class = prop::sample::select(Priority::ALL.to_vec());
    let leaves = prop_oneof![2 => Just(None), 1 => (0_u64..600).prop_map(Some)];
    // Some come at any time, and many at once.
    let at = prop_oneof![1 => 0_u64..8_000, 1 => (0_u64..8, 0_u64..50).prop_map(|(second, ms)| second * 1_000 + ms)];
    let visit = (at, 0..KEYS, class, any::<bool>(), 1_u64..3_000, leaves);
    visit.prop_map(|(at, key, class, stream, timeout, leaves)| Visit {
        at,
        key,
        class,
        stream,
        timeout,
        leaves,
    })
}

/// When an endpoint's mood changes, whose, and to what.
fn changes() -> impl Strategy<Value = Vec<(u64, usize, Mood)>> {
    prop::collection::vec((0_u64..8_000, 0_usize..3, prop::sample::select(MOODS.to_vec())), 0..20)
}

/// A run, and then all that must hold.
async fn simulate(
    folder: &Path,
    visits: Vec<Visit>,
    changes: Vec<(u64, usize, Mood)>,
    seed: u64,
) -> Result<(), TestCaseError> {
    let (log, latency) = (Log::default(), Duration::from_millis(40));
    let mut endpoints = Vec::new();
    for expert in ["one", "one", "two"] {
        endpoints.push(Endpoint::start(expert, latency, log.clone()).await);
    }
    let app = gateway(&config(&endpoints), folder, seed);
    let pipeline = app.pipeline.clone();
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for (number, visit) in visits.iter().cloned().enumerate() {
        let (pipeline, log) = (pipeline.clone(), log.clone());
        clients.spawn(async move { (number, visit.make(number, start, pipeline, log).await) });
    }
    let mut changes = changes;
    changes.sort_by_key(|(at, ..)| *at);
    for (at, endpoint, mood) in changes {
        sleep_until(start + Duration::from_millis(at)).await;
        endpoints[endpoint].set(mood);
    }
    let mut ends = vec![End::LeftEarly; visits.len()];
    for (number, end) in clients.join_all().await {
        ends[number] = end;
    }
    let seconds = start.elapsed().as_secs_f64();

    nothing_is_sent_too_late(&visits, start, &log)?;
    deadlines_are_named(&visits, &ends, start, &log)?;
    limits_hold(&visits, &log)?;
    let view = pipeline.catalog.view();
    for id in ["one", "two"] {
        let expert = view.experts.get(id).unwrap();
        let calls = log.events().iter().filter(|(_, e)| matches!(e, Event::Sends { .. })).count() as f64;
        let retries = expert.stats().retries as f64;
        prop_assert!(retries <= SHARE * calls + PER_SECOND * seconds + SAVED, "{retries} retries of {calls}");
        prop_assert!(expert.endpoints().iter().all(|e| e.outstanding == 0));
    }
    for (subject, gate) in pipeline.catalog.gates().stats() {
        prop_assert_eq!((gate.in_use, gate.waiting), (0, [0; 3]), "{}", subject);
    }
    prop_assert_eq!(pipeline.places.available_permits(), pipeline.limits.max_in_flight);
    let mut metrics = String::new();
    prometheus_client::encoding::text::encode(&mut metrics, &app.metrics).unwrap();
    prop_assert!(metrics.lines().any(|line| line == "guildhall_in_flight_requests 0"));
    accounts_are_right(&visits, &ends, &pipeline)
}

/// No endpoint ever sees a request whose deadline has passed, or whose client has left.
fn nothing_is_sent_too_late(visits: &[Visit], start: Instant, log: &Log) -> Result<(), TestCaseError> {
    let mut over = HashMap::new();
    for (at, event) in log.events() {
        match event {
            Event::Arrives { request, .. } => {
                let visit = &visits[request];
                let deadline = start + Duration::from_millis(visit.at + visit.timeout);
                prop_assert!(at < deadline, "request {request} was sent {:?} too late", at - deadline);
                // What was sent in the moment in which the client left is on its way.
                let left = over.get(&request).is_some_and(|left| *left < at);
                prop_assert!(!left, "request {request} was sent for nobody");
            }
            Event::Ends { request } => {
                over.insert(request, at);
            }
            Event::Sends { .. } => {}
        }
    }
    Ok(())
}

/// A request whose own time is up is told so, whoever was asked then.
fn deadlines_are_named(
    visits: &[Visit],
    ends: &[End],
    start: Instant,
    log: &Log,
) -> Result<(), TestCaseError> {
    for (at, event) in log.events() {
        let Event::Ends { request } = event else { continue };
        let deadline = start + Duration::from_millis(visits[request].at + visits[request].timeout);
        if let End::Error(504, code) = &ends[request] {
            prop_assert_eq!(code == "deadline_exceeded", at >= deadline, "request {}: {}", request, code);
        }
    }
    Ok(())
}

/// At no time are more requests of a key, or in all, with the experts than may be, and never more of a key in
/// the minute.
fn limits_hold(visits: &[Visit], log: &Log) -> Result<(), TestCaseError> {
    let (mut inside, mut ever, mut over) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (_, event) in log.events() {
        match event {
            Event::Arrives { request, .. } => {
                if !over.contains(&request) {
                    inside.insert(request);
                }
                ever.insert(request);
            }
            Event::Ends { request } => {
                inside.remove(&request);
                over.insert(request);
            }
            Event::Sends { .. } => {}
        }
        prop_assert!(inside.len() <= OF_ROUTE, "{} at the route", inside.len());
        for key in 0..KEYS {
            let own = inside.iter().filter(|request| visits[**request].key == key).count();
            prop_assert!(own <= OF_KEY, "{own} of key {key}");
        }
    }
    for key in 0..KEYS {
        let sent = ever.iter().filter(|request| visits[**request].key == key).count();
        prop_assert!(sent <= PER_MINUTE, "{sent} requests of key {key} in a minute");
    }
    Ok(())
}

/// What a key is charged is what its answers used, and for answers that were not counted to their end, what
/// was reserved for them.
fn accounts_are_right(
    visits: &[Visit],
    ends: &[End],
    pipeline: &Arc<gateway::pipeline::Pipeline>,
) -> Result<(), TestCaseError> {
    let view = pipeline.catalog.view();
    let prompt = {
        let decode = gateway::pipeline::decode::decode;
        let body = r#"{"model":"auto","messages":[{"role":"user","content":"n"}]}"#;
        decode(experts::Operation::ChatCompletions, body.into(), 64).unwrap().prompt_tokens
    };
    let mut tokens: HashMap<usize, u64> = HashMap::new();
    for (number, (visit, end)) in visits.iter().zip(ends).enumerate() {
        *tokens.entry(visit.key).or_default() += match end {
            End::Whole => usage(number).0 + usage(number).1,
            End::Cut | End::LeftLate => prompt + ANSWER_TOKENS,
            End::Error(..) | End::LeftEarly => 0,
        };
    }
    for key in 0..KEYS {
        let owner = view.keys.key(&format!("k{key}")).unwrap();
        let account = owner.accounts(None).key.unwrap();
        prop_assert_eq!(account.subject(), &Subject::Key(owner.id().clone()));
        let used = pipeline.ledger.usage(account, 0);
        let money = used.iter().find(|(rule, _)| rule.kind == LimitKind::UsdTotal).unwrap().1;
        prop_assert_eq!(money, tokens.get(&key).copied().unwrap_or(0) * TOKEN_NANOS, "key {}", key);
    }
    Ok(())
}

#[test]
fn whatever_happens_the_rules_hold() {
    let folder = tempfile::tempdir().unwrap();
    let config = ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(32) };
    let runs = (prop::collection::vec(visit(), 1..160), changes(), any::<u64>());
    let run = |(visits, changes, seed)| in_paused_time(simulate(folder.path(), visits, changes, seed));
    TestRunner::new(config).run(&runs, run).unwrap();
}
