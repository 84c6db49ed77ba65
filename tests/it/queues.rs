//! How many requests may be in progress, who waits, and for how long.

use std::time::{Duration, Instant};

use e2e::{Answer, Client, Gateway};
use mock_expert::{Mock, Step};
use tokio::task::JoinHandle;

use crate::support::{ask, chat, fixed, in_flight, key, llm, metric, mock, token};

/// One place and a queue of one, at each of the four places where there can be a limit.
const SITES: [&str; 4] = ["key", "team", "route", "expert"];

fn config(mock: &Mock, site: &str) -> String {
    let own = |wanted, text: &str| if site == wanted { text.to_owned() } else { String::new() };
    let gate = "concurrency: {concurrent: 1, queue: 1}";
    let limits = "limits: {concurrent: 1, queue: 1}";
    let expert = llm("coder", &mock.url(), &own("expert", gate));
    let route =
        fixed(&["coder"]).replace("id: auto,", &format!("id: auto, {}", own("route", &format!("{gate},"))));
    let key = key("ci", &format!("team: red, {}", own("key", limits)));
    format!("experts:\n{expert}{route}teams:\n  - {{id: red, {}}}\nkeys:\n{key}", own("team", limits))
}

/// A request that is under way on a connection of its own.
fn send(gateway: &Gateway, id: &str, text: &str, priority: Option<&str>) -> JoinHandle<Answer> {
    let (url, bearer) = (gateway.v1("chat/completions"), format!("Bearer {}", token(id)));
    let body = ask("auto", text).to_string();
    let priority = priority.map(str::to_owned);
    tokio::spawn(async move {
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(priority.as_deref().map(|p| ("x-guildhall-priority", p)));
        Client::default().send("POST", &url, &headers, body).await.unwrap()
    })
}

/// A request that the expert has and does not answer.
async fn hold(mock: &Mock, gateway: &Gateway, id: &str) -> JoinHandle<Answer> {
    mock.script(vec![Step::times("stall".parse().unwrap(), 1)]);
    let seen = mock.stats().requests;
    let held = send(gateway, id, "held", None);
    while mock.stats().requests == seen {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    held
}

/// The user messages that the expert saw, in order.
fn order(mock: &Mock) -> Vec<String> {
    let body = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let text =
        |seen: &mock_expert::Seen| body(&seen.body)["messages"][0]["content"].as_str().unwrap().to_owned();
    mock.stats().recent.iter().map(text).collect()
}

#[tokio::test]
async fn one_waits_for_a_place_and_the_next_is_refused_at_once() {
    for site in SITES {
        let mock = mock().await;
        let gateway = Gateway::start(&config(&mock, site)).unwrap();
        let client = Client::default();
        let held = hold(&mock, &gateway, "ci").await;
        let waiting = send(&gateway, "ci", "waits", None);
        in_flight(&client, &gateway, 2).await;
        let started = Instant::now();
        let refused = chat(&client, &gateway, "ci", &[], &ask("auto", "one too many")).await;
        assert!(started.elapsed() < Duration::from_secs(5), "{site}: not at once");
        let (status, code) = match site {
            "key" | "team" => (429, "rate_limit_exceeded"),
            _ => (503, "overloaded"),
        };
        assert_eq!(refused.status, status, "{site}: {}", refused.text());
        assert_eq!(refused.json()["error"]["code"], code, "{site}");
        assert!(refused.text().contains(site), "{site}: {}", refused.text());
        assert!((1..=30).contains(&refused.header("retry-after").parse().unwrap()), "{site}");
        assert_eq!(refused.header("x-should-retry"), "", "{site}");
        // The client that holds the place leaves: its place goes to the one that waits.
        held.abort();
        let served = waiting.await.unwrap();
        assert_eq!(served.status, 200, "{site}: {}", served.text());
        assert_eq!(order(&mock), ["held", "waits"], "{site}");
        assert!(metric(&client, &gateway, "guildhall_queue_wait_seconds_count").await >= 1.0, "{site}");
        in_flight(&client, &gateway, 0).await;
    }
}

#[tokio::test]
async fn a_waiting_client_that_leaves_or_is_out_of_time_frees_its_place_in_the_queue() {
    for site in SITES {
        let mock = mock().await;
        let gateway = Gateway::start(&config(&mock, site)).unwrap();
        let client = Client::default();
        let held = hold(&mock, &gateway, "ci").await;
        let leaves = send(&gateway, "ci", "leaves", None);
        in_flight(&client, &gateway, 2).await;
        leaves.abort();
        in_flight(&client, &gateway, 1).await;

        let started = Instant::now();
        let timeout = [("x-guildhall-timeout-ms", "300")];
        let late = chat(&client, &gateway, "ci", &timeout, &ask("auto", "late")).await;
        let took = started.elapsed();
        assert!((300..5_000).contains(&took.as_millis()), "{site}: {took:?}");
        assert!(matches!(late.status, 429 | 503), "{site}: {}", late.text());
        assert!(late.text().contains("cannot wait"), "{site}: {}", late.text());

        let waiting = send(&gateway, "ci", "waits", None);
        in_flight(&client, &gateway, 2).await;
        held.abort();
        assert_eq!(waiting.await.unwrap().status, 200, "{site}");
        assert_eq!(order(&mock), ["held", "waits"], "{site}");
    }
}

/// A route with one place for these keys.
fn shared(mock: &Mock, queue: &str, keys: &str) -> String {
    let gate = format!("concurrency: {{concurrent: 1, {queue}}}");
    let route = fixed(&["coder"]).replace("id: auto,", &format!("id: auto, {gate},"));
    format!("experts:\n{}{route}keys:\n{keys}", llm("coder", &mock.url(), ""))
}

#[tokio::test]
async fn a_key_with_fifty_waiting_does_not_delay_the_first_of_another() {
    let mock = mock().await;
    let keys = key("busy", "") + &key("quiet", "");
    let gateway = Gateway::start(&shared(&mock, "queue: 100, queue_per_key: 60", &keys)).unwrap();
    let client = Client::default();
    let held = hold(&mock, &gateway, "busy").await;
    let mut waiting: Vec<_> = (0..50).map(|_| send(&gateway, "busy", "busy", None)).collect();
    in_flight(&client, &gateway, 51).await;
    waiting.push(send(&gateway, "quiet", "quiet", None));
    in_flight(&client, &gateway, 52).await;
    held.abort();
    for served in waiting {
        assert_eq!(served.await.unwrap().status, 200);
    }
    let order = order(&mock);
    assert_eq!(order.len(), 52);
    let place = order.iter().position(|text| text == "quiet").unwrap();
    assert!(place <= 2, "served as number {place}");
}

#[tokio::test]
async fn urgent_requests_go_first_as_far_as_their_key_may_say_so() {
    let mock = mock().await;
    let keys = key("urgent", "highest_priority: interactive") + &key("patient", "priority: batch");
    let gateway = Gateway::start(&shared(&mock, "queue: 10, queue_per_key: 5", &keys)).unwrap();
    let client = Client::default();
    let held = hold(&mock, &gateway, "patient").await;
    // They came first and say that they are urgent, which their key may not.
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(send(&gateway, "patient", "patient", Some("interactive")));
    }
    in_flight(&client, &gateway, 4).await;
    waiting.push(send(&gateway, "urgent", "standard", None));
    in_flight(&client, &gateway, 5).await;
    waiting.push(send(&gateway, "urgent", "interactive", Some("interactive")));
    in_flight(&client, &gateway, 6).await;
    held.abort();
    for served in waiting {
        assert_eq!(served.await.unwrap().status, 200);
    }
    assert_eq!(order(&mock), ["held", "interactive", "standard", "patient", "patient", "patient"]);
}

#[tokio::test]
async fn in_a_full_queue_the_urgent_take_the_place_of_the_patient() {
    let mock = mock().await;
    let keys = key("urgent", "priority: interactive") + &key("patient", "priority: batch");
    let gateway = Gateway::start(&shared(&mock, "queue: 1, queue_per_key: 1", &keys)).unwrap();
    let client = Client::default();
    let held = hold(&mock, &gateway, "patient").await;
    let patient = send(&gateway, "patient", "patient", None);
    in_flight(&client, &gateway, 2).await;
    let urgent = send(&gateway, "urgent", "urgent", None);
    let evicted = patient.await.unwrap();
    assert_eq!(evicted.status, 503, "{}", evicted.text());
    assert!(!evicted.header("retry-after").is_empty());
    held.abort();
    assert_eq!(urgent.await.unwrap().status, 200);
    assert_eq!(order(&mock), ["held", "urgent"]);
}
