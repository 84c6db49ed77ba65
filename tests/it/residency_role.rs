//! Several gateways and one owner of their pools: each a process of its own.

use std::time::Duration;

use e2e::{Answer, Client, Gateway};
use mock_expert::{Mock, Settings, SleepMode, Step};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::{ask, fixed, guildhall, in_flight, llm, metric, mock, until};

/// Room for one of `a` and `b`, which take a fifth of a second to load.
fn pool(driver: &str) -> String {
    format!(
        "
pools:
  - id: gpu0
    tiers: [{{tier: hbm, capacity: 12GB}}, {{tier: dram, capacity: 100GB}}]
    links: [{{from: dram, to: hbm, bytes_per_second: 50e9}}]
    experts:
      - {{id: a, bytes: {{hbm: 10GB, dram: 10GB}}}}
      - {{id: b, bytes: {{hbm: 10GB, dram: 10GB}}}}
    timing: {{reconcile_every_s: 1}}
    drivers:
      - driver:
{driver}
"
    )
}

fn simulated() -> String {
    pool(
        "          kind: sim
          experts:
            a: {hbm: 10000000000, dram: 10000000000}
            b: {hbm: 10000000000, dram: 10000000000}
          links: [{from: dram, to: hbm, bytes_per_second: 50e9}]",
    )
}

/// The owner of pools, with its own folder, so that it can be started again.
struct Owner {
    process: Gateway,
    folder: tempfile::TempDir,
    config: String,
}

impl Owner {
    fn start(pools: &str, lease_s: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!("residency: {{lease_s: {lease_s}}}\n{pools}");
        let process = Gateway::start_role(folder.path(), &config, "tiers").unwrap();
        Self { process, folder, config }
    }

    /// Starts again at the same address, after it was killed.
    fn restart(&mut self) {
        let address = self.process.admin.trim_start_matches("http://");
        let token = Gateway::TOKEN;
        let config = format!("admin: {{listen: '{address}', token: {token}}}\n{}", self.config);
        self.process = Gateway::start_role(self.folder.path(), &config, "tiers").unwrap();
    }

    /// A gateway that uses its pools, with experts in front of these mocks and a route `auto` over them.
    fn gateway(&self, experts: &[(&str, &Mock)]) -> Gateway {
        let specs: String = experts.iter().map(|(id, mock)| llm(id, &mock.url(), "")).collect();
        let order: Vec<_> = experts.iter().map(|(id, _)| *id).collect();
        let (url, token) = (&self.process.admin, Gateway::TOKEN);
        let config = format!(
            "residency: {{remote: {{url: '{url}', token: {token}}}}}\nexperts:\n{specs}{}",
            fixed(&order)
        );
        Gateway::start(&config).unwrap()
    }

    async fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        let bearer = self.process.bearer();
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let url = self.process.admin_v1(path);
        Client::default().send(method, &url, &headers, body.to_owned()).await.unwrap()
    }

    /// The term, and the experts that are lent.
    async fn leases(&self) -> (u64, Vec<String>) {
        let list = self.send("GET", "tiers/leases", "").await.json();
        let experts = list["items"].as_array().unwrap().iter();
        (
            list["term"].as_u64().unwrap(),
            experts.map(|item| item["expert"].as_str().unwrap().into()).collect(),
        )
    }
}

async fn chat(gateway: &Gateway, model: &str) -> Answer {
    Client::default().post(&gateway.v1("chat/completions"), &ask(model, "hello")).await.unwrap()
}

fn chat_later(gateway: &Gateway, model: &'static str) -> JoinHandle<Answer> {
    let url = gateway.v1("chat/completions");
    tokio::spawn(async move { Client::default().post(&url, &ask(model, "hello")).await.unwrap() })
}

fn is_from(answer: &Answer, expert: &str) {
    assert_eq!((answer.status, answer.header("x-guildhall-expert")), (200, expert), "{}", answer.text());
}

#[tokio::test]
async fn an_expert_that_one_gateway_uses_is_not_removed_for_another() {
    let (a, b) = (mock().await, mock().await);
    let owner = Owner::start(&simulated(), 15);
    let experts = [("a", &a), ("b", &b)];
    let (one, two) = (owner.gateway(&experts), owner.gateway(&experts));
    is_from(&chat(&one, "a").await, "a");
    a.script(vec![Step::times("stall".parse().unwrap(), 1)]);
    let held = chat_later(&one, "a");
    until("a has its request", async || a.stats().requests == 2).await;
    assert_eq!(owner.leases().await.1, ["a"]);
    let client = Client::default();
    assert!((metric(&client, &one, "guildhall_pool_leases_held").await - 1.0).abs() < 0.1);
    let waiting = chat_later(&two, "b");
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!waiting.is_finished() && b.stats().requests == 0);
    // The client leaves, and its expert may go.
    held.abort();
    is_from(&waiting.await.unwrap(), "b");
    until("nothing is held", async || owner.leases().await.1.is_empty()).await;
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_turn_up() {
    let (a, b) = (mock().await, mock().await);
    let owner = Owner::start(&simulated(), 15);
    let gateway = owner.gateway(&[("a", &a), ("b", &b)]);
    a.script(vec![Step::times("stall".parse().unwrap(), 1)]);
    let held = chat_later(&gateway, "a");
    until("a has its request", async || a.stats().requests == 1).await;
    let left = chat_later(&gateway, "b");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!left.is_finished());
    left.abort();
    let client = Client::default();
    in_flight(&client, &gateway, 1).await;
    held.abort();
    until("nothing is held", async || owner.leases().await.1.is_empty()).await;
    is_from(&chat(&gateway, "a").await, "a");
    let outlook = owner.send("GET", "tiers/outlook", "").await.json();
    let away: Vec<_> = outlook["experts"].as_array().unwrap().iter().map(|e| e["away"].as_u64()).collect();
    assert_eq!(away, [Some(0), Some(1)], "nobody made room for b: {outlook}");
    assert_eq!(b.stats().requests, 0);
}

#[tokio::test]
async fn a_gateway_that_was_killed_holds_nothing_for_ever() {
    let (a, b) = (mock().await, mock().await);
    let owner = Owner::start(&simulated(), 1);
    let experts = [("a", &a), ("b", &b)];
    let (mut one, two) = (owner.gateway(&experts), owner.gateway(&experts));
    a.script(vec![Step::times("stall".parse().unwrap(), 1)]);
    let url = one.v1("chat/completions");
    let _held = tokio::spawn(async move { Client::default().post(&url, &ask("a", "hello")).await });
    until("a has its request", async || a.stats().requests == 1).await;
    one.kill().unwrap();
    is_from(&chat(&two, "b").await, "b");
    until("nothing is held", async || owner.leases().await.1.is_empty()).await;
    assert!(owner.process.errors().contains("a lease was not renewed in time"));
}

#[tokio::test]
async fn an_answer_survives_the_restart_of_the_owner_and_keeps_its_expert() {
    let engine = async || {
        let sleep_mode = Some(SleepMode { asleep: true, ..SleepMode::default() });
        Mock::start(Settings { sleep_mode, ..Settings::default() }).await.unwrap()
    };
    let (a, b) = (engine().await, engine().await);
    let server = |mock: &Mock| mock.url().trim_end_matches("/v1").to_owned();
    let driver = format!(
        "          {{kind: vllm_sleep, warm_up: false, engines: {{a: {{url: '{}'}}, b: {{url: '{}'}}}}}}",
        server(&a),
        server(&b)
    );
    let mut owner = Owner::start(&pool(&driver), 2);
    let gateway = owner.gateway(&[("a", &a), ("b", &b)]);
    is_from(&chat(&gateway, "a").await, "a");
    a.script(vec![Step::times("delay:9s".parse().unwrap(), 1)]);
    let held = chat_later(&gateway, "a");
    until("a has its request", async || a.stats().requests == 2).await;
    let (term, _) = owner.leases().await;
    owner.process.kill().unwrap();
    owner.restart();
    until("the lease is made anew", async || owner.leases().await.1 == ["a"]).await;
    assert_eq!(owner.leases().await.0, term + 1);
    // A call of the term before means no lease of this one, and one of a later term is another owner's.
    let lease = owner.send("GET", "tiers/leases", "").await.json()["items"][0]["lease"].as_u64().unwrap();
    let late = owner.send("DELETE", &format!("tiers/leases/{lease}?term={term}"), "").await;
    assert_eq!((late.status, late.json()["error"]["param"].clone()), (409, "term".into()), "{}", late.text());
    let wish = format!(r#"{{"holder": "test", "term": {}, "leases": []}}"#, term + 2);
    assert_eq!(owner.send("POST", "tiers/leases/renew", &wish).await.status, 409);
    assert_eq!(owner.leases().await.1, ["a"]);
    // Longer than the owner keeps what it found, the lease keeps what is in use.
    let waiting = chat_later(&gateway, "b");
    is_from(&held.await.unwrap(), "a");
    assert!(!waiting.is_finished() && b.stats().requests == 0);
    is_from(&waiting.await.unwrap(), "b");
    let spans = a.stats().sleep.unwrap().awake;
    assert_eq!(spans.len(), 1, "it was awake all the time: {spans:?}");
}

#[tokio::test]
async fn without_the_owner_the_next_candidate_answers() {
    let (a, b, c) = (mock().await, mock().await, mock().await);
    let mut owner = Owner::start(&simulated(), 15);
    let gateway = owner.gateway(&[("a", &a), ("b", &b), ("c", &c)]);
    is_from(&chat(&gateway, "auto").await, "a");
    owner.process.kill().unwrap();
    for _ in 0..3 {
        is_from(&chat(&gateway, "auto").await, "c");
    }
    is_from(&chat(&gateway, "c").await, "c");
    let refused = chat(&gateway, "a").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"), "{}", refused.text());
    assert!(refused.text().contains("the owner of its pool does not answer"), "{}", refused.text());
    let client = Client::default();
    assert!(metric(&client, &gateway, "guildhall_pool_owner_up").await < 0.5);
    assert_eq!(gateway.errors().matches("the owner of the pools does not answer").count(), 1, "said once");
    owner.restart();
    until("a is to be had again", async || chat(&gateway, "a").await.status == 200).await;
    assert!(metric(&client, &gateway, "guildhall_pool_owner_up").await > 0.5);
}

#[tokio::test]
async fn the_owner_has_no_data_plane_and_lends_to_operators_alone() {
    let owner = Owner::start(&simulated(), 15);
    assert!(
        owner.process.url.is_empty() && !owner.process.said().contains("chat "),
        "{}",
        owner.process.said()
    );
    let client = Client::default();
    let ready = client.get(&format!("{}/readyz", owner.process.admin)).await.unwrap();
    assert_eq!((ready.status, ready.text().as_str()), (200, "ready: owns pools, and has no data plane\n"));
    let outlook = owner.send("GET", "tiers/outlook", "").await.json();
    let experts: Vec<_> = outlook["experts"].as_array().unwrap().iter().map(|e| &e["expert"]).collect();
    assert_eq!(experts, ["a", "b"]);
    let acquire = async |body: &str| owner.send("POST", "tiers/leases", body).await;
    let granted = acquire(r#"{"expert": "a", "holder": "test", "deadline_ms": 20000}"#).await;
    assert_eq!(granted.status, 200, "{}", granted.text());
    // It would take 200 ms to load b, if a could go.
    let refused = acquire(r#"{"expert": "b", "holder": "test", "deadline_ms": 100}"#).await;
    assert_eq!(
        (refused.status, &refused.json()["why"]),
        (503, &Value::from("deadline")),
        "{}",
        refused.text()
    );
    assert!(!refused.header("retry-after").is_empty());
    let unknown = acquire(r#"{"expert": "c", "holder": "test"}"#).await;
    assert_eq!((unknown.status, unknown.json()["error"]["code"].as_str()), (404, Some("not_found")));
    let wrong = acquire(r#"{"expert": "a", "holder": ""}"#).await;
    assert_eq!((wrong.status, wrong.json()["error"]["param"].as_str()), (422, Some("holder")));
    let (lease, term) = (granted.json()["lease"].clone(), granted.json()["term"].clone());
    let path = format!("tiers/leases/{lease}?term={term}");
    assert_eq!(owner.send("DELETE", &path, "").await.status, 204);
    assert_eq!(owner.send("DELETE", &path, "").await.status, 404);
    // A process that answers chats keeps its pools for itself.
    let alone = Gateway::start(&simulated()).unwrap();
    let bearer = alone.bearer();
    let url = alone.admin_v1("tiers/outlook");
    let answer = client.send("GET", &url, &[("authorization", &bearer)], "").await.unwrap();
    assert_eq!(answer.status, 409, "{}", answer.text());
    assert!(answer.text().contains("--role tiers"), "{}", answer.text());
}

#[test]
fn a_role_that_does_not_fit_the_configuration_is_refused() {
    let remote = "residency: {remote: {url: 'http://127.0.0.1:1', token: sixteen-characters}}\n";
    let (both, nothing) = (format!("{remote}{}", simulated()), "router: {load: never}\n".to_owned());
    let cases = [
        ("nobody", nothing.as_str(), "invalid value 'nobody'"),
        ("tiers", &nothing, "pools: the role `tiers` needs pools to own"),
        ("tiers", remote, "residency.remote: the role `tiers` owns the pools itself"),
        ("gateway", &nothing, "residency.remote: the role `gateway` needs the owner of the pools"),
        ("gateway", &simulated(), "pools: the role `gateway` owns no pools"),
        ("all", &both, "residency.remote: the pools are owned either here or elsewhere"),
        ("all", "residency: {lease_s: 0}\n", "residency.lease_s: must be from 1 to 3600 seconds"),
        ("all", &remote.replace("http:", "tcp:"), "residency.remote.url: `tcp://127.0.0.1:1` is no address"),
        ("all", &simulated().replace("id: gpu0", "id: leases"), "pools[0].id: `leases` means something else"),
    ];
    for (role, config, message) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guildhall.yaml");
        std::fs::write(&path, config).unwrap();
        let (code, _, errors) = guildhall(&["serve", "--role", role, "--config", path.to_str().unwrap()]);
        assert_eq!(code, Some(2), "{role} {config}: {errors}");
        assert!(errors.contains(message), "{role} {config}: {errors}");
    }
}
