//! Experts that share an accelerator: who is loaded, who waits, who is told to come back.

use std::time::{Duration, Instant};

use e2e::{Client, Gateway};
use mock_expert::{Mock, Step};
use serde_json::Value;

use crate::support::{ask, fixed, guildhall, llm, mock, until};

/// A pool of simulated servers with room for one of `a` and `b`, which take a fifth of a second to load.
const POOL: &str = "
pools:
  - id: gpu0
    tiers: [{tier: hbm, capacity: 12GB}, {tier: dram, capacity: 100GB}]
    links: [{from: dram, to: hbm, bytes_per_second: 50e9}]
    experts:
      - {id: a, bytes: {hbm: 10GB, dram: 10GB}}
      - {id: b, bytes: {hbm: 10GB, dram: 10GB}}
    drivers:
      - driver:
          kind: sim
          experts:
            a: {hbm: 10000000000, dram: 10000000000}
            b: {hbm: 10000000000, dram: 10000000000}
          links: [{from: dram, to: hbm, bytes_per_second: 50e9}]
";

fn config(a: &Mock, b: &Mock, routes: &str) -> String {
    format!("experts:\n{}{}{POOL}{routes}", llm("a", &a.url(), ""), llm("b", &b.url(), ""))
}

async fn last_decision(client: &Client, gateway: &Gateway) -> Value {
    let bearer = gateway.bearer();
    let url = gateway.admin_v1("decisions?limit=1");
    let page = client.send("GET", &url, &[("authorization", &bearer)], String::new()).await.unwrap();
    page.json()["items"][0].clone()
}

#[tokio::test]
async fn an_expert_is_loaded_before_it_is_called() {
    let (a, b) = (mock().await, mock().await);
    let gateway = Gateway::start(&config(&a, &b, &fixed(&["a"]))).unwrap();
    let client = Client::default();
    let chat =
        async |model: &str| client.post(&gateway.v1("chat/completions"), &ask(model, "hello")).await.unwrap();
    for (model, found) in [("a", ""), ("a", "hot"), ("b", "warm"), ("b", "hot"), ("a", "warm")] {
        let answer = chat(model).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let residency = last_decision(&client, &gateway).await["residency"].clone();
        if !found.is_empty() {
            assert_eq!(residency["found"], found, "{model}: {residency}");
        }
        let waited = residency["waited_us"].as_u64().unwrap();
        assert_eq!(waited > 100_000, found != "hot", "{model} {found}: {waited}");
        // Waiting for weights is not the gateway's own work.
        assert!(answer.header("x-guildhall-overhead-ms").parse::<f64>().unwrap() < 100.0);
        assert!(
            answer.header("server-timing").contains("weights;dur="),
            "{}",
            answer.header("server-timing")
        );
    }
}

#[tokio::test]
async fn who_cannot_be_had_in_time_leaves_it_to_the_next() {
    let (a, b) = (mock().await, mock().await);
    let gateway = Gateway::start(&config(&a, &b, &fixed(&["b", "a"]))).unwrap();
    let client = Client::default();
    let url = gateway.v1("chat/completions");
    assert_eq!(client.post(&url, &ask("a", "hello")).await.unwrap().status, 200);
    // It would take 200 ms to load b, and the client has 150.
    let hurried = [("x-guildhall-timeout-ms", "150"), ("content-type", "application/json")];
    let answer = client.send("POST", &url, &hurried, ask("auto", "hello").to_string()).await.unwrap();
    assert_eq!((answer.status, answer.header("x-guildhall-expert")), (200, "a"), "{}", answer.text());
    let decision = last_decision(&client, &gateway).await;
    assert_eq!(decision["attempts"][0]["error"], "deadline", "{decision}");
    // Asked for by name there is nobody else: refused at once, with the time that it would take.
    let began = Instant::now();
    let answer = client.send("POST", &url, &hurried, ask("b", "hello").to_string()).await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "no_healthy_backend");
    assert_eq!(answer.header("retry-after"), "1");
    assert!(answer.text().contains("cannot be loaded before"), "{}", answer.text());
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(b.stats().requests, 0, "it was never called");
}

#[tokio::test]
async fn an_answer_keeps_its_expert_until_its_end() {
    let (a, b) = (mock().await, mock().await);
    let gateway = Gateway::start(&config(&a, &b, &fixed(&["a"]))).unwrap();
    let client = Client::default();
    let url = gateway.v1("chat/completions");
    assert_eq!(client.post(&url, &ask("a", "hello")).await.unwrap().status, 200);
    a.script(vec![Step::times("stall".parse().unwrap(), 1)]);
    let ask_later = |model: &'static str| {
        let url = url.clone();
        tokio::spawn(async move { Client::default().post(&url, &ask(model, "hello")).await.unwrap() })
    };
    let held = ask_later("a");
    until("a has its request", async || a.stats().requests == 2).await;
    let waiting = ask_later("b");
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!waiting.is_finished() && b.stats().requests == 0);
    // The client leaves, and its expert may go.
    held.abort();
    let answer = waiting.await.unwrap();
    assert_eq!((answer.status, answer.header("x-guildhall-expert")), (200, "b"));
}

#[tokio::test]
async fn among_equals_the_one_that_is_there_is_preferred_where_that_is_wanted() {
    let (a, b) = (mock().await, mock().await);
    let route = |id: &str, modifiers: &str| format!("  - {{id: {id}, policy: {{kind: coe}}{modifiers}}}\n");
    let ties = ", modifiers: {ties: {within: 0.05, by: [residency]}}";
    let routes = format!("routes:\n{}{}", route("auto", ""), route("near", ties));
    let skills = |skill: &str| format!("skills: {{coding: {skill}}}");
    let experts = [llm("a", &a.url(), &skills("0.70")), llm("b", &b.url(), &skills("0.71"))].concat();
    let gateway = Gateway::start(&format!("experts:\n{experts}{POOL}{routes}")).unwrap();
    let client = Client::default();
    let url = gateway.v1("chat/completions");
    for (model, expert) in [("a", "a"), ("near", "a"), ("auto", "b"), ("near", "b")] {
        let answer =
            client.post(&url, &ask(model, "Fix this Rust function: fn add(a: i32) { a + b }")).await.unwrap();
        assert_eq!((answer.status, answer.header("x-guildhall-expert")), (200, expert), "{}", answer.text());
        // What policies see is up to 20 ms old.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_pool_that_cannot_be_is_refused_with_its_place() {
    let broken = [
        ("capacity: 12GB", "capacity: 12 gigs", "pools[0].tiers[0].capacity: `12 gigs` is no size"),
        ("capacity: 12GB", "capacity: 8GB", "pools[0]: expert `a`: needs 10000000000 bytes in tier `hbm`"),
        ("- {id: b, bytes", "- {id: c, bytes", "pools[0]: expert `c`: no driver of the pool has it"),
        ("kind: sim", "kind: simm", "pools[0].drivers[0].driver"),
        ("    links: [{from: dram", "    linkz: [{from: dram", "unknown field `linkz`"),
    ];
    for (good, bad, message) in broken {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guildhall.yaml");
        std::fs::write(&path, POOL.replacen(good, bad, 1)).unwrap();
        let (code, _, errors) = guildhall(&["check-config", path.to_str().unwrap()]);
        assert_eq!(code, Some(2), "{bad}: {errors}");
        assert!(errors.contains(message), "{bad}: {errors}");
    }
}
