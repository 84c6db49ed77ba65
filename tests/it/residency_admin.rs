//! What operators see of pools and do with them: the admin API, the metrics and the command line.

use std::process::Command;

use e2e::{Answer, Client, Gateway, binary};
use mock_expert::Mock;
use serde_json::{Value, json};

use crate::support::{ask, fixed, llm, mock, until};

/// A pool of simulated servers with room for one of `a` and `b`, which take a fifth of a second to load, and one
/// whose server is not there.
const POOLS: &str = "
pools:
  - id: gpu0
    tiers: [{tier: hbm, capacity: 12GB, source: simulated}, {tier: dram, capacity: 100GB}]
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
  - id: gone
    tiers: [{tier: hbm, capacity: 12GB}, {tier: disk, capacity: 100GB}]
    links: [{from: disk, to: hbm, bytes_per_second: 1e9}]
    experts: [{id: lost, bytes: {hbm: 10GB, disk: 10GB}}]
    drivers: [{driver: {kind: ollama, server: {url: 'http://127.0.0.1:1'}, models: {lost: lost}}}]
";

const TOKENS: &str = "{name: board, role: viewer, token: the token of a viewer}, \
                      {name: night-shift, role: operator, token: the token of an operator}";

struct World {
    gateway: Gateway,
    client: Client,
    _folder: tempfile::TempDir,
    _mocks: [Mock; 2],
}

impl World {
    async fn start() -> Self {
        let (a, b) = (mock().await, mock().await);
        let experts = format!("experts:\n{}{}", llm("a", &a.url(), ""), llm("b", &b.url(), ""));
        let folder = tempfile::tempdir().unwrap();
        let config = format!("{experts}{POOLS}{}", fixed(&["a"]));
        let gateway = Gateway::start_with_tokens(folder.path(), &config, TOKENS).unwrap();
        let world = Self { gateway, client: Client::default(), _folder: folder, _mocks: [a, b] };
        until("the first probe", async || {
            let pool = world.get("tiers/gpu0").await;
            pool["experts"].as_array().unwrap().iter().all(|expert| expert["phase"] == "warm")
        })
        .await;
        world
    }

    async fn send_as(&self, token: &str, method: &str, path: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.client.send(method, &self.gateway.admin_v1(path), &headers, body).await.unwrap()
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.send_as(self.gateway.token(), method, path, body).await
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.send("GET", path, &Value::Null).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// Does something that must succeed.
    async fn done(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = self.send(method, path, &body).await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
        answer.json()
    }

    /// Does something that must be refused; the message.
    async fn refused(&self, method: &str, path: &str, body: Value, status: u16, place: &str) -> String {
        let answer = self.send(method, path, &body).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, error["param"].as_str().unwrap_or("")), (status, place), "{error}");
        error["message"].as_str().unwrap().to_owned()
    }

    async fn chat(&self, model: &str) {
        let url = self.gateway.v1("chat/completions");
        let answer = self.client.post(&url, &ask(model, "hello")).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    fn cli(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(binary("guildhall").unwrap())
            .arg("tiers")
            .args(words)
            .env("GUILDHALL_ADMIN_URL", &self.gateway.admin)
            .env("GUILDHALL_ADMIN_TOKEN", self.gateway.token())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }
}

#[tokio::test]
async fn operators_see_and_move_weights() {
    let world = World::start().await;
    let pools = world.get("tiers").await;
    let ids: Vec<&str> =
        pools["items"].as_array().unwrap().iter().map(|pool| pool["id"].as_str().unwrap()).collect();
    assert_eq!((ids, &pools["next"]), (vec!["gone", "gpu0"], &Value::Null));
    let pool = world.get("tiers/gpu0").await;
    assert_eq!(pool["tiers"][0]["source"], "simulated", "{pool}");
    assert_eq!(pool["tiers"][1]["source"], "declared", "{pool}");

    let plan = world.get("tiers/gpu0/plan?expert=a").await;
    assert_eq!(
        (&plan["at_once"], &plan["actions"][0]["action"]),
        (&json!(false), &json!("promote")),
        "{plan}"
    );
    let moved = world.done("POST", "tiers/gpu0/experts/a/promote", json!({"tier": "hbm"})).await;
    assert_eq!((&moved["tier"], &moved["phase"]), (&json!("hbm"), &json!("hot")), "{moved}");
    assert_eq!(world.get("tiers/gpu0/plan?expert=a").await["at_once"], true);
    let expert = world.get("experts/a").await["status"]["residency"].clone();
    assert_eq!((&expert["pool"], &expert["phase"]), (&json!("gpu0"), &json!("hot")), "{expert}");

    let pinned = world.done("PUT", "tiers/gpu0/experts/a/pin", json!({"kind": "hard"})).await;
    assert_eq!(pinned["pin"], "hard");
    let message =
        world.refused("POST", "tiers/gpu0/experts/b/promote", json!({"tier": "hbm"}), 409, "").await;
    assert!(message.contains("unpin or demote something first"), "{message}");
    let message =
        world.refused("POST", "tiers/gpu0/experts/a/demote", json!({"tier": "dram"}), 409, "").await;
    assert!(message.contains("drain or unpin it first"), "{message}");
    let soft = json!({"kind": "soft", "ttl_s": 600});
    assert_eq!(world.done("PUT", "tiers/gpu0/experts/a/pin", soft).await["pin"], "soft");
    assert_eq!(world.done("DELETE", "tiers/gpu0/experts/a/pin", Value::Null).await["pin"], "none");

    // It takes a fifth of a second, and nobody waits for it.
    let hasty = json!({"tier": "hbm", "wait_s": 0});
    let answer = world.send("POST", "tiers/gpu0/experts/b/promote", &hasty).await;
    assert_eq!((answer.status, &answer.json()["tier"]), (202, &json!("dram")), "{}", answer.text());
    until("b is there", async || world.get("experts/b").await["status"]["residency"]["phase"] == "hot").await;
    let moved = world.done("POST", "tiers/gpu0/experts/b/demote", json!({"tier": "dram"})).await;
    assert_eq!(moved["phase"], "warm");

    let page = world.get("tiers/gpu0/decisions?limit=2").await;
    let (items, next) = (page["items"].as_array().unwrap(), page["next"].as_u64().unwrap());
    assert_eq!((items.len(), &items[0]["action"], &items[0]["expert"]), (2, &json!("demote"), &json!("b")));
    assert_eq!(
        (&items[0]["why"], next),
        (&json!("an operator asked for it"), items[1]["number"].as_u64().unwrap())
    );
    let rest = world.get(&format!("tiers/gpu0/decisions?before={next}")).await;
    assert!(rest["items"].as_array().unwrap().iter().all(|record| record["number"].as_u64().unwrap() < next));
    assert_eq!(rest["next"], Value::Null);

    let drained = world.done("POST", "tiers/gpu0/drain", Value::Null).await;
    assert_eq!(drained["draining"], true);
    let url = world.gateway.v1("chat/completions");
    let answer = world.client.post(&url, &ask("a", "hello")).await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(world.done("POST", "tiers/gpu0/resume", Value::Null).await["draining"], false);
    world.chat("a").await;
    let asked = world.done("POST", "tiers/gpu0/reconcile", Value::Null).await;
    assert!(asked["drivers"][0]["answered_ms_ago"].as_u64().unwrap() < 5_000, "{asked}");

    let log = world.get("audit").await;
    let actions: Vec<String> = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| format!("{} {}", entry["action"].as_str().unwrap(), entry["object"].as_str().unwrap()))
        .collect();
    let mut expected = vec!["tiers.promote tiers/gpu0/experts/a", "tiers.pin tiers/gpu0/experts/a"];
    // What was refused later, for want of room, had been asked for; what was refused at once was not.
    expected.extend(["tiers.promote tiers/gpu0/experts/b", "tiers.pin tiers/gpu0/experts/a"]);
    expected.extend(["tiers.unpin tiers/gpu0/experts/a", "tiers.promote tiers/gpu0/experts/b"]);
    expected.extend([
        "tiers.demote tiers/gpu0/experts/b",
        "tiers.drain tiers/gpu0",
        "tiers.resume tiers/gpu0",
    ]);
    expected.push("tiers.reconcile tiers/gpu0");
    expected.reverse();
    assert_eq!(actions, expected);
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_its_place() {
    let world = World::start().await;
    let hbm = || json!({"tier": "hbm"});
    for (method, path, body, status, place, part) in [
        ("GET", "tiers/gpu1", Value::Null, 404, "", "did you mean `gpu0`?"),
        ("GET", "tiers/gpu0/plan?expert=c", Value::Null, 404, "", "there is no expert `c` in pool `gpu0`"),
        ("GET", "tiers/gpu0/plan", Value::Null, 400, "", "missing field `expert`"),
        ("GET", "tiers/gpu0/decisions?limt=1", Value::Null, 400, "limt", "did you mean `limit`?"),
        (
            "POST",
            "tiers/gpu0/experts/lost/promote",
            hbm(),
            404,
            "",
            "there is no expert `lost` in pool `gpu0`",
        ),
        ("POST", "tiers/gpu0/experts/a/promote", json!({"tier": "disk"}), 422, "tier", "it has hbm, dram"),
        ("POST", "tiers/gpu0/experts/a/promote", json!({"tier": "hbn"}), 422, "tier", "did you mean `hbm`?"),
        ("POST", "tiers/gpu0/experts/a/promote", json!({}), 422, "tier", "missing field"),
        ("POST", "tiers/gpu0/experts/a/demote", json!({"tier": "dram", "wait_s": 601}), 422, "wait_s", "600"),
        ("PUT", "tiers/gpu0/experts/a/pin", json!({"kind": "soft"}), 422, "ttl_s", "missing field"),
        ("PUT", "tiers/gpu0/experts/a/pin", json!({"kind": "soft", "ttl_s": 0}), 422, "ttl_s", "at least 1"),
        ("PUT", "tiers/gpu0/policy", json!({"executors": 0}), 422, "executors", "at least 1"),
        ("PUT", "tiers/gpu0/policy", json!({"executor": 1}), 422, "executor", "did you mean `executors`?"),
        ("POST", "tiers/gone/reconcile", Value::Null, 502, "", "cannot tell what is where"),
        ("POST", "tiers/gone/experts/lost/promote", json!({"tier": "hbm", "wait_s": 0}), 503, "", "ollama"),
    ] {
        let message = world.refused(method, path, body, status, place).await;
        assert!(message.contains(part), "{method} {path}: {message}");
    }
}

#[tokio::test]
async fn a_policy_is_tried_changed_and_shown() {
    let world = World::start().await;
    let before = world.get("tiers/gpu0/policy").await;
    assert_eq!(
        (&before["executors"], &before["until"]),
        (&json!(64), &json!("changed in the configuration"))
    );
    let wish = json!({"executors": 2, "order": "kept"});
    let dry = world.done("PUT", "tiers/gpu0/policy?dry_run=true", wish.clone()).await;
    assert_eq!((&dry["executors"], &dry["queue_max"]), (&json!(2), &json!(10_000)), "{dry}");
    assert_eq!(world.get("tiers/gpu0/policy").await, before);
    let changed = world.done("PUT", "tiers/gpu0/policy", wish).await;
    assert_eq!((&changed["order"], &changed["until"]), (&json!("kept"), &json!("restart")));
    assert_eq!(world.get("tiers/gpu0").await["policy"]["executors"], 2);
    assert_eq!(world.get("tiers/gpu0/policy").await, changed);
    // What was read can be sent back.
    assert_eq!(world.done("PUT", "tiers/gpu0/policy", changed.clone()).await, changed);
    world.chat("b").await;
}

#[tokio::test]
async fn viewers_look_and_operators_act() {
    let world = World::start().await;
    let (viewer, operator) = ("the token of a viewer", "the token of an operator");
    for path in
        ["tiers", "tiers/gpu0", "tiers/gpu0/plan?expert=a", "tiers/gpu0/decisions", "tiers/gpu0/policy"]
    {
        assert_eq!(world.send_as(viewer, "GET", path, &Value::Null).await.status, 200, "{path}");
        assert_eq!(world.send_as("nobody", "GET", path, &Value::Null).await.status, 401, "{path}");
    }
    let member = |rest: &str| format!("tiers/gpu0/experts/a/{rest}");
    for (method, path, body) in [
        ("POST", member("promote"), json!({"tier": "hbm"})),
        ("PUT", member("pin"), json!({"kind": "hard"})),
        ("DELETE", member("pin"), Value::Null),
        ("POST", member("demote"), json!({"tier": "dram"})),
        ("POST", "tiers/gpu0/drain".into(), Value::Null),
        ("POST", "tiers/gpu0/resume".into(), Value::Null),
        ("POST", "tiers/gpu0/reconcile".into(), Value::Null),
    ] {
        assert_eq!(world.send_as(viewer, method, &path, &body).await.status, 403, "{method} {path}");
        let answer = world.send_as(operator, method, &path, &body).await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
    }
    let policy = json!({"executors": 3});
    assert_eq!(world.send_as(operator, "PUT", "tiers/gpu0/policy", &policy).await.status, 403);
    let log = world.get("audit?limit=1").await;
    assert_eq!(
        (&log["items"][0]["actor"], &log["items"][0]["action"]),
        (&json!("night-shift"), &json!("tiers.reconcile"))
    );
}

#[tokio::test]
async fn requests_and_moves_are_counted() {
    let world = World::start().await;
    for model in ["a", "a", "b"] {
        world.chat(model).await;
    }
    let text = world.client.get(&format!("{}/metrics", world.gateway.admin)).await.unwrap().text();
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    };
    let of = |name: &str, labels: &str| value(&format!("guildhall_tier_{name}{{pool=\"gpu0\"{labels}}}"));
    let near =
        |actual: f64, expected: f64| assert!((actual - expected).abs() < 0.5, "{actual} {expected}\n{text}");
    near(of("hits_total", ",found=\"hot\""), 1.0);
    near(of("hits_total", ",found=\"warm\""), 2.0);
    near(of("wait_seconds_count", ""), 3.0);
    assert!(of("stall_seconds_total", "") > 0.3, "two loads of a fifth of a second");
    near(of("transitions_total", ",from=\"dram\",to=\"hbm\",cause=\"prefetch\",outcome=\"done\""), 2.0);
    near(of("bytes_moved_total", ",from=\"dram\",to=\"hbm\"") / 1e10, 2.0);
    near(of("capacity_bytes", ",tier=\"hbm\",source=\"simulated\"") / 1e9, 12.0);
    near(of("used_bytes", ",tier=\"hbm\"") / 1e9, 10.0);
    near(of("experts", ",phase=\"hot\""), 1.0);
    near(of("expert_tier", ",expert=\"a\""), 2.0);
    near(of("expert_tier", ",expert=\"b\""), 1.0);
    near(of("driver_answers", ",driver=\"sim\""), 1.0);
    near(value("guildhall_tier_driver_answers{pool=\"gone\",driver=\"ollama\"}"), 0.0);
    assert!(value("guildhall_tier_driver_errors_total{pool=\"gone\",op=\"probe\",kind=\"gone\"}") > 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_and_moves() {
    let world = World::start().await;
    let said = |words: &[&str]| {
        let (code, out, errors) = world.cli(words);
        assert_eq!(code, Some(0), "{words:?}: {errors}");
        out
    };
    assert_eq!(said(&["promote", "gpu0", "a", "hbm"]), "a is in hbm (hot)\n");
    let listed = said(&["list"]);
    assert!(
        listed.contains("gone  open   0 of 1") && listed.contains("ollama does not answer: "),
        "{listed}"
    );
    assert!(listed.contains("gpu0  open   1 of 2  0        hbm 9.3 GiB of 11.2 GiB simulated"), "{listed}");
    assert_eq!(said(&["pin", "gpu0", "a", "--ttl", "60"]), "a stays in hbm for 60 s\n");
    let shown = said(&["show", "gpu0"]);
    assert!(shown.starts_with("gpu0 takes requests: 0 under way, 0 waiting\n\nTIER"), "{shown}");
    assert!(shown.contains("a       hot    hbm   soft"), "{shown}");
    assert_eq!(said(&["unpin", "gpu0", "a"]), "a may go\n");
    // What was just loaded stays as long as its load took.
    until("a may go for b", async || {
        let planned = said(&["plan", "gpu0", "b"]);
        assert!(planned.starts_with("a request for b would wait about 0."), "{planned}");
        planned.contains("\n  demote a: nobody waits for it")
    })
    .await;
    assert_eq!(said(&["demote", "gpu0", "a", "dram"]), "a is in dram (warm)\n");
    let decided = said(&["decisions", "gpu0", "--limit", "1"]);
    assert!(decided.contains("demote  a       hbm   dram  an operator asked for it"), "{decided}");
    let json: Value = serde_json::from_str(&said(&["decisions", "gpu0", "--json"])).unwrap();
    assert_eq!(json["items"][0]["expert"], "a", "{json}");
    assert_eq!(said(&["drain", "gpu0"]), "gpu0 takes nothing new\n");
    assert!(said(&["reconcile", "gpu0"]).starts_with("gpu0 takes nothing new: 0 under way"));
    assert_eq!(said(&["resume", "gpu0"]), "gpu0 takes requests again\n");
    let (code, _, errors) = world.cli(&["promote", "gpu0", "a", "disk"]);
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("it has hbm, dram"), "{errors}");
    let (code, _, errors) = world.cli(&["show", "gpu7"]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("there is no pool `gpu7`; did you mean `gpu0`?"), "{errors}");
}
