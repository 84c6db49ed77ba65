//! Answers that a request dictates, for what the mock does not say of its own accord: several tool calls in
//! odd pieces, reasoning, a refusal, a given usage.

use serde::Deserialize;
use serde_json::{Map, Value};

/// Members of a piece that name something: they are repeated rather than continued.
const NAMES: [&str; 4] = ["id", "name", "role", "type"];

/// The field `mock_answer` of a chat.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dictated {
    /// What a stream's events say, one `delta` each. A whole answer's message is made of all of them.
    deltas: Vec<Map<String, Value>>,
    #[serde(default = "stop")]
    pub(crate) finish_reason: String,
    /// What vLLM says beside the finish reason: the stop sequence that was met.
    pub(crate) stop_reason: Option<Value>,
    /// In place of the mock's own count.
    pub(crate) usage: Option<Value>,
}

fn stop() -> String {
    "stop".to_owned()
}

impl Dictated {
    /// How many pieces the answer has.
    pub(crate) fn pieces(&self) -> usize {
        self.deltas.len()
    }

    /// One piece as the JSON object that is streamed.
    pub(crate) fn piece(&self, number: usize) -> Option<String> {
        self.deltas.get(number).map(json)
    }

    /// The whole message as a JSON object.
    pub(crate) fn message(&self) -> String {
        let mut message = Map::new();
        message.insert("role".to_owned(), "assistant".into());
        message.insert("content".to_owned(), Value::Null);
        for delta in &self.deltas {
            extend(&mut message, delta);
        }
        for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(call) = call.as_object_mut() {
                call.remove("index");
            }
        }
        json(&message)
    }

    /// The text of the whole message.
    pub(crate) fn text(&self) -> String {
        self.deltas.iter().filter_map(|delta| delta.get("content")?.as_str()).collect()
    }
}

fn json(object: &Map<String, Value>) -> String {
    // Writing an object with text for keys into memory cannot fail.
    serde_json::to_string(object).unwrap_or_default()
}

/// Puts a piece to what came before, as clients of streams do.
fn extend(whole: &mut Map<String, Value>, piece: &Map<String, Value>) {
    for (key, value) in piece {
        match (whole.get_mut(key), value) {
            (_, Value::Null) => {}
            (Some(Value::String(text)), Value::String(more)) if !NAMES.contains(&key.as_str()) => {
                text.push_str(more);
            }
            (Some(Value::Object(members)), Value::Object(more)) => extend(members, more),
            (Some(Value::Array(items)), Value::Array(more)) => more.iter().for_each(|m| merge(items, m)),
            _ => {
                whole.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Puts an item to the one with the same `index`, or to the end.
fn merge(items: &mut Vec<Value>, item: &Value) {
    let known = items.iter_mut().find(|i| i.get("index").is_some() && i.get("index") == item.get("index"));
    match (known.and_then(Value::as_object_mut), item.as_object()) {
        (Some(known), Some(piece)) => extend(known, piece),
        _ => items.push(item.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(deltas: &Value) -> Value {
        let dictated: Dictated = serde_json::from_value(json!({ "deltas": deltas })).unwrap();
        serde_json::from_str(&dictated.message()).unwrap()
    }

    #[test]
    fn a_message_is_what_its_pieces_add_up_to() {
        let whole = message(&json!([
            {"reasoning_content": "let me "},
            {"reasoning_content": "see"},
            {"content": "one "},
            {"content": "two"},
            {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]},
            {"tool_calls": [{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{"}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}, {"index": 1, "id": "b", "function": {"arguments": "}"}}]},
        ]));
        assert_eq!(
            (&whole["content"], &whole["reasoning_content"]),
            (&json!("one two"), &json!("let me see"))
        );
        let call = |id: &str, name: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}});
        assert_eq!(whole["tool_calls"], json!([call("a", "f"), call("b", "g")]));
    }

    #[test]
    fn an_answer_may_have_no_text() {
        let whole = message(&json!([{"refusal": "no"}, {"content": null}]));
        assert_eq!(whole, json!({"role": "assistant", "content": null, "refusal": "no"}));
    }
}
