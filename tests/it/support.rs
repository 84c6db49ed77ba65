//! What several tests need.

use mock_expert::{Mock, Settings};
use serde_json::{Value, json};

/// A mock with default settings that remembers its last requests.
pub(crate) async fn mock() -> Mock {
    Mock::start(Settings { record: 50, ..Settings::default() }).await.expect("a mock starts")
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
