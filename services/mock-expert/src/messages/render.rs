//! Messages as the bytes of their wire format.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::{Value, json};

use super::Message;
use crate::answer::tokens;

/// The whole answer.
pub(crate) fn whole(message: &Message) -> String {
    let Message { id, model, blocks, stop_reason, stop_sequence, usage } = message;
    json!({
        "id": id, "type": "message", "role": "assistant", "model": model, "content": blocks,
        "stop_reason": stop_reason, "stop_sequence": stop_sequence, "usage": usage,
    })
    .to_string()
}

/// The parts of a streamed answer: the first opens the message, then comes one part for each token and for each
/// block's ends, and the last says why the answer ended.
pub(crate) struct Stream {
    parts: VecDeque<String>,
    count: usize,
}

impl Stream {
    pub(crate) fn new(message: &Message) -> Self {
        let Message { id, model, blocks, stop_reason, stop_sequence, usage } = message;
        let mut begun = usage.clone();
        begun["output_tokens"] = 1.into();
        let start = json!({"type": "message_start", "message": {
            "id": id, "type": "message", "role": "assistant", "model": model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": begun,
        }});
        let mut parts = VecDeque::from([event(&start) + &event(&json!({"type": "ping"}))]);
        for (index, block) in blocks.iter().enumerate() {
            let delta =
                |delta: Value| event(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
            let (empty, deltas) = pieces(block);
            let start =
                event(&json!({"type": "content_block_start", "index": index, "content_block": empty}));
            parts.push_back(start);
            parts.extend(deltas.into_iter().map(delta));
            parts.push_back(event(&json!({"type": "content_block_stop", "index": index})));
        }
        let delta = json!({"stop_reason": stop_reason, "stop_sequence": stop_sequence});
        parts.push_back(event(&json!({"type": "message_delta", "delta": delta, "usage": usage})));
        parts.push_back(event(&json!({"type": "message_stop"})));
        Self { count: parts.len(), parts }
    }

    /// Leaves the last event out.
    pub(crate) fn without_stop(mut self) -> Self {
        self.parts.pop_back();
        self
    }

    /// How many parts there are, at least two.
    pub(crate) fn parts(&self) -> usize {
        self.count
    }
}

impl Iterator for Stream {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.parts.pop_front().map(Bytes::from)
    }
}

/// A block as it begins, and what its deltas add.
fn pieces(block: &Value) -> (Value, Vec<Value>) {
    let text = |key: &str| block[key].as_str().unwrap_or_default().to_owned();
    match block["type"].as_str() {
        Some("text") => {
            let all = text("text");
            let deltas = tokens(&all).map(|token| json!({"type": "text_delta", "text": token}));
            (json!({"type": "text", "text": ""}), deltas.collect())
        }
        Some("thinking") => {
            let all = text("thinking");
            let thinking = tokens(&all).map(|token| json!({"type": "thinking_delta", "thinking": token}));
            let signature = json!({"type": "signature_delta", "signature": block["signature"]});
            (
                json!({"type": "thinking", "thinking": "", "signature": ""}),
                thinking.chain([signature]).collect(),
            )
        }
        Some("tool_use" | "server_tool_use") => {
            let mut empty = block.clone();
            let input = std::mem::replace(&mut empty["input"], json!({}));
            let arguments = if input == json!({}) { String::new() } else { input.to_string() };
            let first = json!({"type": "input_json_delta", "partial_json": ""});
            let rest =
                tokens(&arguments).map(|token| json!({"type": "input_json_delta", "partial_json": token}));
            (empty, std::iter::once(first).chain(rest).collect())
        }
        _ => (block.clone(), Vec::new()),
    }
}

fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())
}

/// An event that is no JSON.
pub(crate) fn garbage() -> Bytes {
    Bytes::from_static(
        b"event: content_block_delta\ndata: {\"type\": \"content_block_delta\", \"index\": oops\n\n",
    )
}

/// The beginning and the end of an event whose text may have any length.
pub(crate) fn oversize_event() -> (Bytes, Bytes) {
    let head = b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"";
    (Bytes::from_static(head), Bytes::from_static(b"\"}}\n\n"))
}

/// The beginning and the end of an answer whose text may have any length.
pub(crate) fn oversize_message() -> (Bytes, Bytes) {
    let head = b"{\"id\":\"msg_mock\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"mock\",\"stop_reason\":\"end_turn\",\"stop_sequence\":null,\"usage\":{\"input_tokens\":1,\"output_tokens\":1},\"content\":[{\"type\":\"text\",\"text\":\"";
    (Bytes::from_static(head), Bytes::from_static(b"\"}]}"))
}

/// The list of models.
pub(crate) fn models(names: &[String]) -> String {
    let model = |name: &String| json!({"type": "model", "id": name, "display_name": name, "created_at": "2023-11-14T22:13:20Z"});
    let data: Vec<Value> = names.iter().map(model).collect();
    json!({"data": data, "has_more": false, "first_id": names.first(), "last_id": names.last()}).to_string()
}

/// An error.
pub(crate) fn error(message: &str, kind: &str) -> String {
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_mock"})
        .to_string()
}

/// The type of the error that has a status.
pub(crate) fn status_kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}
