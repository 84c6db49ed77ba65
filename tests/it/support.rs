//! What several tests need.

use std::process::Command;
use std::time::Duration;

use e2e::{Answer, Client, Gateway, binary, repository};
use mock_expert::{Mock, Settings};
use serde_json::{Value, json};
use tokio::net::TcpSocket;

/// A mock with default settings that remembers its last requests.
pub(crate) async fn mock() -> Mock {
    Mock::start(Settings { record: 200, ..Settings::default() }).await.expect("a mock starts")
}

/// A URL where nobody listens, as long as the socket is kept: its port is taken, so that no other test's server gets it.
pub(crate) fn nobody() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let url = format!("http://{}/v1", socket.local_addr().unwrap());
    (socket, url)
}

/// The configuration of one llm expert.
pub(crate) fn llm(id: &str, url: &str, rest: &str) -> String {
    format!("  - {{id: {id}, backend: {{kind: llm, endpoints: [{{url: '{url}'}}], model: {id}}}, {rest}}}\n")
}

/// One route `auto` that always takes these experts, in this order.
pub(crate) fn fixed(experts: &[&str]) -> String {
    let order: Vec<String> = experts.iter().map(|e| format!("{{expert: {e}}}")).collect();
    format!("routes:\n  - {{id: auto, policy: {{kind: static, order: [{}]}}}}\n", order.join(", "))
}

/// A chat body with one user message.
pub(crate) fn ask(model: &str, text: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": text}]})
}

/// The body of the last request that a mock saw.
pub(crate) fn last_body(mock: &Mock) -> String {
    mock.stats().recent.last().map(|seen| seen.body.clone()).unwrap_or_default()
}

/// The token of the key `id`: the same in every test, and different for every key.
pub(crate) fn token(id: &str) -> String {
    let secret: String = id.chars().filter(char::is_ascii_alphanumeric).cycle().take(43).collect();
    format!("sk-guildhall-{id}-{secret}")
}

/// The configuration of one API key.
pub(crate) fn key(id: &str, rest: &str) -> String {
    format!("  - {{id: {id}, secrets: [{{token: {}}}], {rest}}}\n", token(id))
}

/// Runs the program to its end: its exit code, what it says and what it complains of.
pub(crate) fn guildhall(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary("guildhall").unwrap())
        .args(arguments)
        .current_dir(repository())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Sends a chat with the token of the key `id` and these headers.
pub(crate) async fn chat(
    client: &Client,
    gateway: &Gateway,
    id: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> Answer {
    let bearer = format!("Bearer {}", token(id));
    let mut all = vec![("authorization", bearer.as_str()), ("content-type", "application/json")];
    all.extend(headers);
    client.send("POST", &gateway.v1("chat/completions"), &all, body.to_string()).await.unwrap()
}

/// Waits until something holds that must come soon.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..2_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: not within ten seconds");
}

/// The value of a metric without labels.
pub(crate) async fn metric(client: &Client, gateway: &Gateway, name: &str) -> f64 {
    let text = client.get(&format!("{}/metrics", gateway.admin)).await.unwrap().text();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// Waits until so many requests are in progress, those that wait for a place included.
pub(crate) async fn in_flight(client: &Client, gateway: &Gateway, wanted: u32) {
    until(&format!("{wanted} requests in progress"), async || {
        let now = metric(client, gateway, "guildhall_in_flight_requests").await;
        (now - f64::from(wanted)).abs() < 0.5
    })
    .await;
}
