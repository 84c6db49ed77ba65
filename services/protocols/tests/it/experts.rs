//! What experts say, whole and streamed, in the forms that are met.

use serde_json::{Value, json};

/// A whole answer.
pub(crate) fn whole(message: &Value, finish: &str) -> Vec<u8> {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "expert/one",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": null}],
        "usage": {
            "prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 70,
            "prompt_tokens_details": {"cached_tokens": 30},
            "completion_tokens_details": {"reasoning_tokens": 5},
        },
    })
    .to_string()
    .into_bytes()
}

/// A stream of these deltas, with an ending as OpenAI has it.
pub(crate) fn stream(deltas: &[Value], finish: &str) -> String {
    let mut all: Vec<Value> = deltas.iter().map(|delta| json!({"index": 0, "delta": delta})).collect();
    all.push(json!({"index": 0, "delta": {}, "finish_reason": finish}));
    let mut out = String::new();
    for choice in all {
        out += &event(&json!({"choices": [choice]}));
    }
    out += &event(&json!({
        "choices": [],
        "usage": {
            "prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 70,
            "prompt_tokens_details": {"cached_tokens": 30},
            "completion_tokens_details": {"reasoning_tokens": 5},
        },
    }));
    out + "data: [DONE]\n\n"
}

/// One event with a chunk that has these fields and the usual ones.
pub(crate) fn event(fields: &Value) -> String {
    let mut chunk = json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "expert/one",
    });
    chunk.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    format!("data: {chunk}\n\n")
}

pub(crate) fn text() -> Vec<Value> {
    vec![
        json!({"role": "assistant", "content": ""}),
        json!({"content": "Hel"}),
        json!({"content": "lo, \u{1F30D}!\n\"quoted\""}),
    ]
}

pub(crate) fn reasoning() -> Vec<Value> {
    vec![
        json!({"role": "assistant", "content": null, "reasoning_content": "Let me", "reasoning": "Let me"}),
        json!({"reasoning": " think."}),
        json!({"content": "42"}),
    ]
}

/// A piece of a tool call's arguments.
pub(crate) fn arguments(index: u64, arguments: &str) -> Value {
    json!({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]})
}

/// The beginning of a tool call.
pub(crate) fn call(index: u64, id: &str, name: &str) -> Value {
    json!({"tool_calls": [{
        "index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""},
    }]})
}

/// Text, then two calls whose arguments come interleaved.
pub(crate) fn parallel_calls() -> Vec<Value> {
    vec![
        json!({"role": "assistant", "content": "I look."}),
        call(0, "call_a", "weather"),
        arguments(0, "{\"city\": \"S\\u00e3o"),
        call(1, "call_b", "time"),
        arguments(1, "{\"zone\":"),
        arguments(0, " Paulo\"}"),
        arguments(1, " \"BRT\" }"),
    ]
}
