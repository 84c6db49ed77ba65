use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const LIMIT: usize = 16_384;

fn chat(messages: &Value, own_system: bool, limit: usize) -> Content {
    let body = json!({"model": "auto", "messages": messages}).to_string();
    Recorder::new(Operation::ChatCompletions, body.as_bytes(), own_system, limit).unwrap().finish()
}

/// What is taken down of an answer that comes in these pieces.
fn answer(pieces: &[&[u8]], limit: usize) -> Content {
    let body = br#"{"messages":[{"role":"user","content":"hi"}]}"#;
    let mut recorder = Recorder::new(Operation::ChatCompletions, body, false, limit).unwrap();
    for piece in pieces {
        recorder.read(&Bytes::copy_from_slice(piece));
    }
    recorder.finish()
}

fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn output(content: &Content) -> Value {
    read(content.output.as_deref().unwrap())
}

fn events(chunks: &[Value]) -> Vec<u8> {
    let mut stream: Vec<u8> = chunks.iter().flat_map(|c| format!("data: {c}\n\n").into_bytes()).collect();
    stream.extend_from_slice(b"data: [DONE]\n\n");
    stream
}

fn delta(index: u64, delta: &Value) -> Value {
    json!({"object": "chat.completion.chunk", "choices": [{"index": index, "delta": delta, "finish_reason": null}]})
}

#[test]
fn a_chat_takes_the_form_of_the_conventions() {
    let messages = json!([
        {"role": "system", "content": "Be \"brief\".\n"},
        {"role": "user", "name": "ann", "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAABBBB"}},
            {"type": "input_audio", "input_audio": {"data": "CCCC", "format": "wav"}},
            {"type": "file", "file": {"file_id": "f-1"}},
            {"type": "new", "data": "DDDD"},
        ]},
        {"role": "assistant", "content": null, "reasoning_content": "Hm.", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{\"at\": 1}"}},
            {"id": "c2", "type": "function", "function": {"name": "look", "arguments": "{\"at"}},
        ]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "a cat"}]},
    ]);
    let content = chat(&messages, false, LIMIT);
    assert_eq!(
        read(&content.input),
        json!([
            {"role": "system", "parts": [{"type": "text", "content": "Be \"brief\".\n"}]},
            {"role": "user", "name": "ann", "parts": [
                {"type": "text", "content": "What is this?"},
                {"type": "uri", "modality": "image", "uri": "https://example.com/a.png"},
                {"type": "blob", "modality": "image", "mime_type": "image/png", "omitted": true, "content": ""},
                {"type": "blob", "modality": "audio", "mime_type": "audio/wav", "omitted": true, "content": ""},
                {"type": "file", "modality": "file", "file_id": "f-1"},
                {"type": "other", "kind": "new"},
            ]},
            {"role": "assistant", "parts": [
                {"type": "reasoning", "content": "Hm."},
                {"type": "tool_call", "id": "c1", "name": "look", "arguments": {"at": 1}},
                {"type": "tool_call", "id": "c2", "name": "look", "arguments": "{\"at"},
            ]},
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "a cat"}]},
        ])
    );
    assert_eq!((content.system, content.output, content.truncated), (None, None, vec![]));
}

#[test]
fn instructions_with_a_field_of_their_own_stand_apart() {
    let user = json!({"role": "user", "content": "hi"});
    let content = chat(&json!([{"role": "system", "content": "Be brief."}, user]), true, LIMIT);
    assert_eq!(read(content.system.as_deref().unwrap()), json!([{"type": "text", "content": "Be brief."}]));
    let hi = json!([{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]);
    assert_eq!(read(&content.input), hi);
    let content = chat(&json!([user]), true, LIMIT);
    assert_eq!((content.system.clone(), read(&content.input)), (None, hi));
}

#[test]
fn older_completions_have_prompts_and_embeddings_have_nothing() {
    let record =
        |operation, body: &Value| Recorder::new(operation, body.to_string().as_bytes(), false, LIMIT);
    let content = record(Operation::Completions, &json!({"prompt": ["one", "two"]})).unwrap().finish();
    assert_eq!(
        read(&content.input),
        json!([
            {"role": "user", "parts": [{"type": "text", "content": "one"}]},
            {"role": "user", "parts": [{"type": "text", "content": "two"}]},
        ])
    );
    let mut recorder = record(Operation::Completions, &json!({"prompt": "one"})).unwrap();
    recorder.read_whole(br#"{"choices":[{"index":0,"text":"two","finish_reason":"length"}]}"#);
    let said = json!([{"role": "assistant", "parts": [{"type": "text", "content": "two"}], "finish_reason": "length"}]);
    assert_eq!(output(&recorder.finish()), said);
    assert!(record(Operation::Embeddings, &json!({"input": "one"})).is_none());
}

#[test]
fn a_stream_is_put_together_whatever_its_pieces_are() {
    let mut chunks = vec![
        delta(0, &json!({"role": "assistant", "content": ""})),
        delta(0, &json!({"reasoning_content": "Let me "})),
        delta(0, &json!({"reasoning_content": "see."})),
        delta(0, &json!({"content": "Hä"})),
        delta(1, &json!({"content": "Other"})),
        delta(0, &json!({"content": "llo"})),
        delta(
            0,
            &json!({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{\"a"}}]}),
        ),
        delta(
            0,
            &json!({"tool_calls": [{"index": 1, "id": "c2", "function": {"name": "g", "arguments": ""}}]}),
        ),
        delta(0, &json!({"tool_calls": [{"index": 0, "function": {"arguments": "\":[1]}"}}]})),
    ];
    chunks.push(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}));
    chunks.push(json!({"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]}));
    chunks.push(json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}));
    let stream = events(&chunks);
    let expected = json!([
        {"role": "assistant", "finish_reason": "tool_call", "parts": [
            {"type": "reasoning", "content": "Let me see."},
            {"type": "text", "content": "Hällo"},
            {"type": "tool_call", "id": "c1", "name": "f", "arguments": {"a": [1]}},
            {"type": "tool_call", "id": "c2", "name": "g", "arguments": ""},
        ]},
        {"role": "assistant", "finish_reason": "stop", "parts": [{"type": "text", "content": "Other"}]},
    ]);
    for size in [1, 7, 100, stream.len()] {
        let content = answer(&stream.chunks(size).collect::<Vec<_>>(), LIMIT);
        assert_eq!(output(&content), expected, "in pieces of {size}");
        assert_eq!(content.finish_reasons, ["tool_calls".into(), "stop".into()] as [Box<str>; 2]);
        assert!(content.truncated.is_empty());
    }
}

#[test]
fn a_document_is_read_in_pieces_and_a_broken_answer_as_far_as_it_came() {
    let document = json!({"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}]});
    let document = document.to_string().into_bytes();
    let hello = |finish| json!([{"role": "assistant", "parts": [{"type": "text", "content": "Hello"}], "finish_reason": finish}]);
    let (a, b) = document.split_at(20);
    assert_eq!(output(&answer(&[b" ", a, b], LIMIT)), hello("stop"));
    let stream = events(&[delta(0, &json!({"content": "Hello"}))]);
    assert_eq!(output(&answer(&[&stream[..stream.len() - 14]], LIMIT)), hello("error"));
    // Nothing that could be an answer.
    for said in ["", "{\"error\": {\"message\": \"no\"}}", "<html>", "{\"choices\": 1}", "data: {}\n\n"] {
        assert_eq!(answer(&[said.as_bytes()], LIMIT).output, None, "{said}");
    }
}

#[test]
fn what_is_too_long_is_cut_between_characters_and_marked() {
    let long = "ä".repeat(1_000);
    let messages = json!([{"role": "user", "content": "oldest"}, {"role": "user", "content": long}, {"role": "user", "content": "last"}]);
    let content = chat(&messages, false, 1_000);
    let input = read(&content.input);
    let [cut, last] = &input.as_array().unwrap()[..] else { panic!("{input}") };
    assert_eq!(last["parts"][0], json!({"type": "text", "content": "last"}));
    assert_eq!(cut["parts"][0]["truncated"], true);
    assert!(long.starts_with(cut["parts"][0]["content"].as_str().unwrap()));
    assert_eq!(content.truncated, ["gen_ai.input.messages"]);

    let chunks: Vec<Value> = (0..1_000).map(|_| delta(0, &json!({"content": "ää"}))).collect();
    let mut chunks = chunks;
    chunks.push(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}));
    let content = answer(&[&events(&chunks)], 1_000);
    let said = output(&content);
    let part = &said[0]["parts"][0];
    assert_eq!((&part["truncated"], &said[0]["finish_reason"]), (&json!(true), &json!("length")));
    assert!(part["content"].as_str().unwrap().chars().count() > 300);
    assert_eq!(content.truncated, ["gen_ai.output.messages"]);
    assert!(content.output.unwrap().len() <= 1_000);

    // More than is ever read is left out, and that is said.
    let huge = format!("{{\"choices\": \"{}\"}}", "x".repeat(MOST));
    let content = answer(&[&huge.as_bytes()[..100], &huge.as_bytes()[100..]], 1_000);
    assert_eq!(
        (content.output.as_deref(), &*content.truncated),
        (Some("[]"), &["gen_ai.output.messages"][..])
    );
    let huge = format!("data: {huge}\n\n");
    assert_eq!(answer(&[huge.as_bytes()], 1_000).truncated, ["gen_ai.output.messages"]);
}

#[test]
fn nobody_reads_content_in_a_log() {
    let content = Content { input: "secret".into(), output: Some("secret".into()), ..Content::default() };
    assert_eq!(format!("{content:?}"), "Content(6 and 6 bytes)");
    let body = br#"{"messages":[{"role":"user","content":"secret"}]}"#;
    let mut recorder = Recorder::new(Operation::ChatCompletions, body, false, LIMIT).unwrap();
    recorder.read(&events(&[delta(0, &json!({"content": "secret"}))]).into());
    assert!(!format!("{recorder:?}").contains("secret"));
}

proptest! {
    #[test]
    fn every_text_is_json_within_its_limit(
        texts in prop::collection::vec("[a-z\"\\\\\n\u{1}ä€𝄞]{0,60}", 1..12),
        limit in 512_usize..2_000,
        system: bool,
    ) {
        let message = |(at, text): (usize, &String)| match at % 3 {
            0 => json!({"role": text, "name": text, "content": text}),
            1 => json!({"role": "tool", "tool_call_id": text, "content": text}),
            _ => json!({"role": "assistant", "tool_calls": [{"id": text, "function": {"name": text, "arguments": text}}]}),
        };
        let mut messages: Vec<Value> = texts.iter().enumerate().map(message).collect();
        if system {
            messages.insert(0, json!({"role": "system", "content": texts.concat()}));
        }
        let content = chat(&messages.into(), true, limit);
        let chunks: Vec<Value> = texts.iter().enumerate().map(|(at, text)| match at % 3 {
            0 => delta(at as u64 % 2, &json!({"content": text})),
            1 => delta(0, &json!({"tool_calls": [{"index": at / 3, "id": text, "function": {"name": text, "arguments": text}}]})),
            _ => delta(1, &json!({"reasoning": text})),
        }).collect();
        let said = answer(&[&events(&chunks)], limit);
        for text in content.system.iter().chain([&content.input]).chain(&said.output) {
            prop_assert!(text.len() <= limit, "{} > {limit}: {text}", text.len());
            prop_assert!(serde_json::from_str::<Value>(text).is_ok_and(|json| json.is_array()), "{text}");
        }
    }
}

#[test]
fn a_message_is_read_like_a_chat_completion() {
    let whole = json!({"type": "message", "stop_reason": "tool_use", "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "text", "text": "I look."},
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}},
    ]});
    let stream = events(&[
        json!({"type": "message_start", "message": {"type": "message", "content": []}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm."}}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "I lo"}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "ok."}}),
        json!({"type": "content_block_start", "index": 2, "content_block": {"type": "server_tool_use", "id": "s1"}}),
        json!({"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "{}"}}),
        json!({"type": "content_block_start", "index": 3, "content_block": {"type": "tool_use", "id": "t1", "name": "look", "input": {}}}),
        json!({"type": "content_block_delta", "index": 3, "delta": {"type": "input_json_delta", "partial_json": "{\"at\":"}}),
        json!({"type": "content_block_delta", "index": 3, "delta": {"type": "input_json_delta", "partial_json": "1}"}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}}),
        json!({"type": "message_stop"}),
    ]);
    let expected = json!([{"role": "assistant", "finish_reason": "tool_call", "parts": [
        {"type": "reasoning", "content": "Hm."},
        {"type": "text", "content": "I look."},
        {"type": "tool_call", "id": "t1", "name": "look", "arguments": {"at": 1}},
    ]}]);
    for said in [whole.to_string().into_bytes(), stream] {
        let content = answer(&[&said], LIMIT);
        assert_eq!(output(&content), expected);
        assert_eq!(content.finish_reasons, [Box::from("tool_use")]);
    }
}
