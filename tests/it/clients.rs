//! The official OpenAI and Anthropic Python clients against the gateway: the suites are in `tests/clients`.

use std::collections::BTreeMap;
use std::process::Command;

use e2e::{Gateway, repository};
use mock_expert::{Mock, Protocol, Settings};
use serde_json::json;

use crate::support::mock;

/// Experts, routes and keys that the suites know by name.
///
/// `coder` passes failures on as they are, so that the clients' own retries can be counted; `sturdy` tries
/// again by itself. Nobody listens where `gone` should be. `claude` speaks Messages. Every key's secret is the same.
const CONFIG: &str = r"
telemetry: {access_log: 'off'}
router: {load: ROUTER, bundle: 'BUNDLE'}
keys:
  - id: all
    secrets: [{token: sk-guildhall-all-SECRET}]
    permissions: {name_experts: true}
    limits: {requests_per_minute: 100000, tokens_per_minute: 9000000}
  - {id: routes, secrets: [{token: sk-guildhall-routes-SECRET}], routes: [auto]}
  - {id: few, secrets: [{token: sk-guildhall-few-SECRET}], limits: {requests_per_minute: 1}}
  - {id: poor, secrets: [{token: sk-guildhall-poor-SECRET}], limits: {usd_per_day: 0.000001}}
  - {id: old, secrets: [{token: sk-guildhall-old-SECRET, expires_ms: 1}]}
experts:
  - id: coder
    backend:
      {kind: llm, endpoints: [{url: 'MOCK/v1'}], retries: {max_attempts: 1}, breaker: {enabled: false}}
    cost: {input: 1.0, output: 1.0}
    capabilities: {tools: true, json_schema: true, vision: true}
  - id: sturdy
    backend:
      {kind: llm, endpoints: [{url: 'MOCK/v1'}], retries: {max_attempts: 3, backoff: {base_ms: 1, max_ms: 5}}}
  - id: hasty
    backend:
      {kind: llm, endpoints: [{url: 'MOCK/v1'}], retries: {max_attempts: 1}, breaker: {enabled: false}}
    limits: {first_byte_timeout_ms: 1000, idle_timeout_ms: 500}
  - id: gone
    backend:
      {kind: llm, endpoints: [{url: 'http://127.0.0.1:1/v1'}], retries: {max_attempts: 1}, breaker: {enabled: false}}
  - id: claude
    backend:
      kind: llm
      protocol: messages
      endpoints: [{url: 'MESSAGES/v1'}]
      model: claude-1
      api_key: sk-ant-1
      retries: {max_attempts: 1}
      breaker: {enabled: false}
    capabilities: {tools: true, json_schema: true, vision: true}
routes:
  - {id: auto, policy: {kind: static, order: [{expert: coder}]}}
";
const SECRET: &str = "0123456789abcdefghijklmnopqrstuv";

/// Runs one suite and gives what it says: a line for each of its tests. `router` says when the gateway loads the
/// router's model.
async fn passes(suite: &str, router: &str) -> String {
    let python = repository().join(".guildhall/venv/bin/python");
    assert!(python.is_file(), "{} is missing; run `make deps-test`, or `make test`", python.display());
    let mock = mock().await;
    let mock_url = mock.url().replace("/v1", "");
    let settings = Settings { protocol: Protocol::Messages, record: 200, ..Settings::default() };
    let claude = Mock::start(settings).await.expect("a mock starts");
    let claude_url = claude.url().replace("/v1", "");
    let config = CONFIG
        .replace("ROUTER", router)
        .replace("BUNDLE", &repository().join("router-models/default").display().to_string())
        .replace("MOCK", &mock_url)
        .replace("MESSAGES", &claude_url)
        .replace("SECRET", SECRET);
    let gateway = Gateway::start(&config).unwrap();
    let keys: BTreeMap<_, _> =
        ["all", "routes", "few", "poor", "old"].map(|id| (id, format!("sk-guildhall-{id}-{SECRET}"))).into();
    let place = json!({"gateway": gateway.url, "mock": mock_url, "messages": claude_url, "keys": keys});
    let mut command = Command::new(python);
    command.arg("-B").arg(repository().join("tests/clients").join(suite)).arg(place.to_string());
    // Nothing of the developer's own settings for these clients counts here.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("OPENAI_")
            || text.starts_with("ANTHROPIC_")
            || text.to_lowercase().ends_with("_proxy")
        {
            command.env_remove(&name);
        }
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\nthe gateway logged:\n{}", gateway.errors());
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openai_client_chats() {
    println!("{}", passes("openai_chat.py", "always").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openai_client_uses_responses() {
    println!("{}", passes("openai_responses.py", "never").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_anthropic_client_uses_messages() {
    println!("{}", passes("anthropic_messages.py", "never").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_clients_use_experts_that_speak_messages() {
    println!("{}", passes("messages_experts.py", "never").await);
}
