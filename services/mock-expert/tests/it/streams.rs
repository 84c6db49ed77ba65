//! Streamed answers.

use std::time::Duration;

use mock_expert::{Latency, Mock, Settings};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::client::{Got, chat, exchange, mock, send, until};

fn question(extra: Value) -> Value {
    let mut body =
        json!({"model": "coder", "stream": true, "messages": [{"role": "user", "content": "why?"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn chunks(got: &Got) -> Vec<Value> {
    let events = got.events();
    assert_eq!(events.last(), Some(&"[DONE]"));
    events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

fn joined(chunks: &[Value], pointer: &str) -> String {
    chunks.iter().filter_map(|chunk| chunk.pointer(pointer)?.as_str()).collect()
}

#[tokio::test]
async fn a_stream_gives_the_same_text_as_a_whole_answer() {
    let mock = mock().await;
    let streamed = chat(&mock, "", &question(json!({}))).await;
    assert!(streamed.head.contains("content-type: text/event-stream"));
    assert!(streamed.complete);
    let chunks = chunks(&streamed);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"] && chunk.get("usage").is_none()));
    let whole = chat(&mock, "", &question(json!({"stream": false}))).await.json();
    assert_eq!(joined(&chunks, "/choices/0/delta/content"), whole["choices"][0]["message"]["content"]);
}

#[tokio::test]
async fn usage_comes_in_a_chunk_of_its_own_when_asked_for() {
    let mock = mock().await;
    let got = chat(&mock, "", &question(json!({"stream_options": {"include_usage": true}}))).await;
    let chunks = chunks(&got);
    let (last, others) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert!(last["usage"]["total_tokens"].as_u64().unwrap() > 0);
    assert!(others.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));
}

#[tokio::test]
async fn a_tool_call_is_streamed_in_parts() {
    let mock = mock().await;
    let tools = json!([{"type": "function", "function": {"name": "find", "parameters":
        {"type": "object", "required": ["a", "b"],
         "properties": {"a": {"const": "one two three four"}, "b": {"type": "integer"}}}}}]);
    let chunks = chunks(&chat(&mock, "", &question(json!({"tools": tools}))).await);
    assert_eq!(chunks[0]["choices"][0]["delta"]["tool_calls"][0]["function"]["name"], "find");
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    assert!(chunks.len() > 4, "{}", chunks.len());
    let arguments = joined(&chunks, "/choices/0/delta/tool_calls/0/function/arguments");
    let arguments: Value = serde_json::from_str(&arguments).unwrap();
    assert_eq!(arguments, json!({"a": "one two three four", "b": 1}));
}

#[tokio::test]
async fn a_completion_streams_text_and_choices_are_kept_apart() {
    let mock = mock().await;
    let body = json!({"model": "m", "prompt": "hi", "stream": true, "n": 2}).to_string();
    let chunks = chunks(&exchange(&mock, "POST", "/v1/completions", "", &body).await);
    let text = |index: u64| {
        let own: Vec<Value> = chunks.iter().filter(|c| c["choices"][0]["index"] == index).cloned().collect();
        joined(&own, "/choices/0/text")
    };
    assert!(text(0).starts_with("[mock-expert m] You asked: \"hi\"."));
    assert!(text(1).contains("Choice 1."));
}

#[tokio::test]
async fn a_stream_keeps_its_pace() {
    let pace = Latency::Fixed(Duration::from_millis(20));
    let settings = Settings { ttft: pace, gap: pace, tokens: Some(3), ..Settings::default() };
    let mock = Mock::start(settings).await.unwrap();
    let start = std::time::Instant::now();
    let chunks = chunks(&chat(&mock, "", &question(json!({}))).await);
    assert_eq!(chunks.len(), 5);
    // The first token, two gaps between tokens, and one before the end; only a lower bound is certain.
    assert!(start.elapsed() >= Duration::from_millis(80), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_client_that_leaves_is_counted() {
    let settings = Settings { gap: Latency::Fixed(Duration::from_mins(1)), ..Settings::default() };
    let mock = Mock::start(settings).await.unwrap();
    let body = question(json!({})).to_string();
    let mut stream = send(&mock, "POST", "/v1/chat/completions", "", &body).await;
    let mut first = [0; 64];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(mock.stats().in_flight, 1);
    drop(stream);
    until(&mock, |stats| stats.cancelled == 1 && stats.in_flight == 0 && stats.open_connections == 0).await;
}

#[tokio::test]
async fn dictated_pieces_are_streamed_as_they_are() {
    let mock = mock().await;
    let deltas = json!([
        {"reasoning_content": "hm"},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{\"a"}}]},
        {"content": ""},
    ]);
    let asked = json!({
        "mock_answer": {"deltas": deltas, "finish_reason": "length", "stop_reason": "END", "usage": {"total_tokens": 3}},
        "stream_options": {"include_usage": true},
    });
    let chunks = chunks(&chat(&mock, "", &question(asked)).await);
    assert_eq!(chunks.len(), 6, "the role, three pieces, the end, the usage");
    for (chunk, delta) in chunks[1..4].iter().zip(deltas.as_array().unwrap()) {
        assert_eq!(&chunk["choices"][0]["delta"], delta);
    }
    let end = &chunks[4]["choices"][0];
    assert_eq!((&end["finish_reason"], &end["stop_reason"]), (&json!("length"), &json!("END")));
    assert_eq!(chunks[5]["usage"], json!({"total_tokens": 3}));
}
