//! Chat completions over experts that speak Messages.

use std::fmt::Write;

use proptest::collection::vec;
use proptest::prelude::*;
use protocols::over_messages::{Echo, Ended, Stream, Target, Tokens, answer, request};
use protocols::{Limits, messages};
use serde_json::{Value, json};

use crate::support::{cut, pretty, shown, stamp};

const TARGET: Target<'_> = Target { model: "claude", shown: "expert/one", max_tokens: 4096 };

fn translated(body: &Value) -> String {
    shown(request(body.to_string().as_bytes(), &TARGET))
}

fn refusal(body: &Value) -> String {
    request(body.to_string().as_bytes(), &TARGET).expect_err("it cannot be carried over").to_string()
}

/// A request with these fields and one user turn.
fn with(fields: &Value) -> Value {
    let mut body = json!({"model": "auto", "messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

fn echo(include_usage: bool) -> Echo {
    let body = with(&json!({"stream": true, "stream_options": {"include_usage": include_usage}}));
    request(body.to_string().as_bytes(), &TARGET).unwrap().echo
}

/// A stream's events, each with its name, as the API has them.
fn sse(events: &[Value]) -> String {
    let mut out = String::new();
    for event in events {
        write!(out, "event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap()).unwrap();
    }
    out
}

fn start() -> Value {
    json!({"type": "message_start", "message": {
        "id": "msg_01", "type": "message", "role": "assistant", "model": "claude-1", "content": [],
        "stop_reason": null, "stop_sequence": null,
        "usage": {"input_tokens": 20, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 30, "output_tokens": 1},
    }})
}

fn open(index: u64, block: &Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn delta(index: u64, delta: &Value) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}

fn close(index: u64) -> Value {
    json!({"type": "content_block_stop", "index": index})
}

fn end(reason: &str) -> [Value; 2] {
    let delta = json!({"stop_reason": reason, "stop_sequence": null});
    [
        json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 17}}),
        json!({"type": "message_stop"}),
    ]
}

/// A stream with everything in it.
fn rich() -> Vec<Value> {
    let mut all = vec![
        start(),
        json!({"type": "ping"}),
        open(0, &json!({"type": "thinking", "thinking": "", "signature": ""})),
        delta(0, &json!({"type": "thinking_delta", "thinking": "Let me"})),
        delta(0, &json!({"type": "signature_delta", "signature": "c2ln"})),
        close(0),
        open(1, &json!({"type": "redacted_thinking", "data": "eHl6"})),
        close(1),
        open(2, &json!({"type": "text", "text": ""})),
        delta(2, &json!({"type": "text_delta", "text": "I look,\n\u{1F30D}"})),
        delta(2, &json!({"type": "citations_delta", "citation": {"type": "char_location"}})),
        close(2),
        open(3, &json!({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}})),
        delta(3, &json!({"type": "input_json_delta", "partial_json": "{\"query\":\"x\"}"})),
        close(3),
        open(4, &json!({"type": "tool_use", "id": "toolu_a", "name": "weather", "input": {}})),
        delta(4, &json!({"type": "input_json_delta", "partial_json": ""})),
        delta(4, &json!({"type": "input_json_delta", "partial_json": "{\"city\": \"S\u{e3}o"})),
        delta(4, &json!({"type": "input_json_delta", "partial_json": " Paulo\"}"})),
        close(4),
        open(5, &json!({"type": "tool_use", "id": "toolu_b", "name": "time", "input": {}})),
        close(5),
        json!({"type": "a_later_kind", "data": 1}),
    ];
    all.extend(end("tool_use"));
    all
}

fn chunks(echo: &Echo, pieces: &[&[u8]], limits: Limits) -> (String, Ended, Option<Tokens>) {
    let (mut stream, mut out) = (Stream::new(echo.clone(), stamp("chatcmpl-1"), limits), Vec::new());
    for piece in pieces {
        stream.push(piece, &mut out);
    }
    let ended = stream.finish("the stream broke off", &mut out);
    assert_eq!(stream.is_broken(), ended == Ended::Cut);
    (String::from_utf8(out).unwrap(), ended, stream.tokens())
}

fn relayed(pieces: &[&[u8]], limits: Limits) -> (String, Ended, Option<Tokens>) {
    let (mut relay, mut out) = (messages::Relay::new(Some("expert/one".to_owned()), limits), Vec::new());
    for piece in pieces {
        relay.push(piece, &mut out);
    }
    let ended = relay.finish("the stream broke off", &mut out);
    (String::from_utf8(out).unwrap(), ended, relay.tokens())
}

#[test]
fn a_plain_request() {
    insta::assert_snapshot!(translated(&with(&json!({
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]},
            {"role": "user", "content": "Hi", "name": "ann"},
        ],
        "max_completion_tokens": 100, "max_tokens": 50,
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "stop": "END", "user": "u-1",
        "stream": true, "stream_options": {"include_usage": true},
        "seed": 7, "frequency_penalty": 0, "presence_penalty": 0.5, "logprobs": false, "service_tier": "auto",
        "response_format": {"type": "json_schema", "json_schema": {"name": "out", "strict": true, "schema": {"type": "object"}}},
        "reasoning_effort": "minimal", "n": 1, "modalities": ["text"],
    }))));
}

#[test]
fn an_agents_request() {
    insta::assert_snapshot!(translated(&with(&json!({
        "tools": [
            {"type": "function", "cache_control": {"type": "ephemeral"}, "function": {
                "name": "weather", "description": "Looks up", "strict": true,
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
            }},
            {"type": "function", "function": {"name": "time"}},
        ],
        "tool_choice": {"type": "function", "function": {"name": "time"}},
        "parallel_tool_calls": false,
        "reasoning_effort": "high",
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "user", "content": "And time?"},
            {"role": "assistant", "content": "I look.", "reasoning_content": "Two calls.",
             "thinking_blocks": [{"type": "thinking", "thinking": "Two calls.", "signature": "c2ln"}],
             "tool_calls": [
                {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"S\u{e3}o\"}"}},
                {"id": "functions.time:1", "type": "function", "function": {"name": "time", "arguments": ""}},
             ]},
            {"role": "tool", "tool_call_id": "call_a", "content": "rain"},
            {"role": "tool", "tool_call_id": "functions.time:1", "content": [{"type": "text", "text": "noon"}]},
            {"role": "user", "content": "Go on."},
            {"role": "system", "content": "Mind the time."},
            {"role": "assistant", "content": "", "reasoning": "unsigned", "tool_calls": [
                {"id": "call_c", "type": "function", "function": {"name": "time", "arguments": "no JSON"}},
            ]},
            {"role": "tool", "tool_call_id": "call_c", "content": ""},
        ],
    }))));
}

#[test]
fn all_kinds_of_content() {
    insta::assert_snapshot!(translated(&with(&json!({"messages": [
        {"role": "user", "content": [
            {"type": "text", "text": " \n"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBOR", "detail": "high"}},
            {"type": "image_url", "image_url": {"url": "https://a.example/b.png", "detail": "auto"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBER"}},
            {"type": "text", "text": "What is this?", "mark": 1},
        ]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    ]}))));
}

#[test]
fn what_cannot_be_carried_over_is_refused_with_its_place() {
    let part = |part: Value| with(&json!({"messages": [{"role": "user", "content": [part]}]}));
    let cases = [
        (with(&json!({"n": 2})), "n: must be 1"),
        (with(&json!({"modalities": ["text", "audio"]})), "modalities: must be"),
        (with(&json!({"functions": [{"name": "f"}]})), "functions: is not understood"),
        (with(&json!({"messages": []})), "messages: has nothing to answer"),
        (with(&json!({"messages": [{"role": "system", "content": "a"}]})), "messages: has nothing to answer"),
        (with(&json!({"messages": [{"role": "function", "content": "a"}]})), "messages[0].role: `function`"),
        (part(json!({"type": "input_audio"})), "messages[0].content[0].type: `input_audio`"),
        (
            part(json!({"type": "file", "file": {"file_id": "f"}})),
            "messages[0].content[0].file.file_data: experts cannot",
        ),
        (
            part(json!({"type": "image_url", "image_url": {"url": "data:x"}})),
            "messages[0].content[0].image_url.url: must be",
        ),
        (
            with(&json!({"tools": [{"type": "custom", "custom": {"name": "c"}}]})),
            "tools[0].type: must be `function`",
        ),
        (with(&json!({"tool_choice": "required"})), "tool_choice: forces a tool"),
        (with(&json!({"response_format": {"type": "grammar"}})), "response_format.type: must be"),
        (with(&json!({"stop": [1]})), "stop: must be a string"),
        (
            with(
                &json!({"messages": [{"role": "assistant", "content": "a", "tool_calls": [{"id": "c", "type": "custom"}]}]}),
            ),
            "messages[0].tool_calls[0].type: must be",
        ),
    ];
    for (body, expected) in cases {
        let refused = refusal(&body);
        assert!(refused.starts_with(expected), "{body}: {refused}");
    }
}

#[test]
fn tools_may_be_allowed_and_forbidden() {
    let tools = json!([
        {"type": "function", "function": {"name": "a"}},
        {"type": "function", "function": {"name": "b"}},
    ]);
    let sent = |choice: Value| {
        let body = with(&json!({"tools": tools, "tool_choice": choice}));
        let sent = request(body.to_string().as_bytes(), &TARGET).unwrap().body;
        let sent: Value = serde_json::from_slice(&sent).unwrap();
        (sent["tools"].as_array().unwrap().len(), sent["tool_choice"].clone())
    };
    assert_eq!(sent(json!("required")), (2, json!({"type": "any"})));
    assert_eq!(sent(json!("none")), (2, json!({"type": "none"})));
    let b = json!({"type": "function", "function": {"name": "b"}});
    let allowed = json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [b]}});
    assert_eq!(sent(allowed), (1, json!({"type": "auto"})));
}

#[test]
fn a_warm_temperature_is_cut_and_named() {
    let read = request(with(&json!({"temperature": 1.7})).to_string().as_bytes(), &TARGET).unwrap();
    let sent: Value = serde_json::from_slice(&read.body).unwrap();
    assert_eq!((&sent["temperature"], &sent["max_tokens"]), (&json!(1), &json!(4096)));
    assert_eq!(read.lossy, ["temperature"]);
}

#[test]
fn a_whole_answer() {
    let body = json!({
        "id": "msg_01", "type": "message", "role": "assistant", "model": "claude-1",
        "content": [
            {"type": "thinking", "thinking": "Let me", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "eHl6"},
            {"type": "text", "text": "I look", "citations": null},
            {"type": "text", "text": " it up."},
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
            {"type": "tool_use", "id": "toolu_a", "name": "weather", "input": {"city": "S\u{e3}o"}},
        ],
        "stop_reason": "tool_use", "stop_sequence": null,
        "usage": {"input_tokens": 20, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 30,
                  "output_tokens": 17, "output_tokens_details": {"thinking_tokens": 3}},
    });
    let (chat, tokens) = answer(body.to_string().as_bytes(), &echo(false), &stamp("chatcmpl-1")).unwrap();
    insta::assert_snapshot!(pretty(&chat));
    assert_eq!(tokens, Some(Tokens { prompt: 55, completion: 17, cached: 30 }));
}

#[test]
fn answers_end_for_the_same_reasons() {
    for (reason, met, expected) in [
        ("end_turn", json!(null), "stop"),
        ("stop_sequence", json!("END"), "stop"),
        ("max_tokens", json!(null), "length"),
        ("model_context_window_exceeded", json!(null), "length"),
        ("refusal", json!(null), "content_filter"),
        ("pause_turn", json!(null), "stop"),
    ] {
        let body =
            json!({"content": [{"type": "text", "text": "a"}], "stop_reason": reason, "stop_sequence": met});
        let (chat, tokens) = answer(body.to_string().as_bytes(), &echo(false), &stamp("chatcmpl-1")).unwrap();
        let chat: Value = serde_json::from_slice(&chat).unwrap();
        let choice = &chat["choices"][0];
        assert_eq!(
            (&choice["finish_reason"], choice.get("stop_reason")),
            (&json!(expected), met.as_str().map(|_| &met))
        );
        assert_eq!((&chat["id"], tokens), (&json!("chatcmpl-1"), None));
    }
}

#[test]
fn what_is_no_message_is_no_answer() {
    for body in [
        "",
        "[]",
        "{}",
        "{\"content\": [{}]}",
        "{\"content\": [{\"type\": \"tool_use\", \"id\": \"a\"}]}",
        r#"{"type":"error","error":{"type":"api_error","message":"broken"}}"#,
    ] {
        assert!(answer(body.as_bytes(), &echo(false), &stamp("chatcmpl-1")).is_err(), "{body}");
    }
}

#[test]
fn a_streamed_answer() {
    let stream = sse(&rich());
    let (out, ended, tokens) = chunks(&echo(true), &[stream.as_bytes()], Limits::default());
    insta::assert_snapshot!(out);
    assert_eq!((ended, tokens), (Ended::Complete, Some(Tokens { prompt: 55, completion: 17, cached: 30 })));
    let (without, ..) = chunks(&echo(false), &[stream.as_bytes()], Limits::default());
    assert!(!without.contains("usage") && without.ends_with("data: [DONE]\n\n"), "{without}");
}

#[test]
fn a_streamed_answer_comes_back_as_it_was() {
    // What the other direction makes of it is what the expert said, as far as chat completions can say it.
    let stream = sse(&rich());
    let (out, ..) = chunks(&echo(true), &[stream.as_bytes()], Limits::default());
    let asked = json!({"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}], "thinking": {"type": "adaptive"}});
    let back = messages::request(asked.to_string().as_bytes()).unwrap().echo;
    let out = crate::support::messages_stream(&back, &[out.as_bytes()], Limits::default());
    let events = crate::support::events(&out);
    let arguments: String =
        events.iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
    assert_eq!(arguments, "{\"city\": \"S\u{e3}o Paulo\"}{}");
    let last = events.iter().find(|event| event["type"] == "message_delta").unwrap();
    assert_eq!(last["delta"]["stop_reason"], "tool_use");
    assert_eq!(
        last["usage"],
        json!({"input_tokens": 20, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 30, "output_tokens": 17})
    );
}

#[test]
fn a_stream_never_ends_silently() {
    let told = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    let cases = [
        (sse(&[start()]), "the stream broke off", "server_error"),
        (String::new(), "the stream broke off", "server_error"),
        (sse(&[start(), told]), "Overloaded", "server_error"),
        (sse(&[start(), json!({"type": "error"})]), "the expert failed", "server_error"),
        (sse(&[start()]) + "data: {oops\n\n", "the expert sent an event", "server_error"),
        (
            sse(&[open(0, &json!({"type": "tool_use", "id": "a"}))]),
            "the expert called a tool",
            "server_error",
        ),
        (
            format!("data: {}\n\n", "x".repeat(2000)),
            "the expert sent an event that is too long",
            "server_error",
        ),
    ];
    for (stream, expected, kind) in cases {
        let (out, ended, _) = chunks(&echo(true), &[stream.as_bytes()], Limits { event: 1000, answer: 1000 });
        let last = out.split_terminator("\n\n").last().unwrap();
        let last: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
        assert!(last["error"]["message"].as_str().unwrap().starts_with(expected), "{last}");
        assert_eq!((&last["error"]["type"], ended), (&json!(kind), Ended::Cut));
        let (out, ended, _) = relayed(&[stream.as_bytes()], Limits { event: 1000, answer: 1000 });
        if !stream.contains("tool_use") {
            assert_eq!(ended, Ended::Cut);
        }
        assert!(out.split_terminator("\n\n").last().unwrap().starts_with("event: error\n"), "{out}");
    }
}

#[test]
fn a_last_event_that_is_missing_is_added() {
    let mut events = rich();
    events.pop();
    let stream = sse(&events);
    let (out, ended, _) = chunks(&echo(false), &[stream.as_bytes()], Limits::default());
    assert!(out.ends_with("data: [DONE]\n\n") && ended == Ended::Repaired, "{out}");
    let (out, ended, _) = relayed(&[stream.as_bytes()], Limits::default());
    assert!(out.ends_with("data: {\"type\":\"message_stop\"}\n\n") && ended == Ended::Repaired, "{out}");
}

#[test]
fn a_relayed_stream_changes_in_nothing_but_the_model() {
    let stream = sse(&rich());
    let (out, ended, tokens) = relayed(&[stream.as_bytes()], Limits::default());
    assert_eq!(out, stream.replace("\"claude-1\"", "\"expert/one\""));
    assert_eq!((ended, tokens), (Ended::Complete, Some(Tokens { prompt: 55, completion: 17, cached: 30 })));
    let mut relay = messages::Relay::new(None, Limits::default());
    let mut out = Vec::new();
    relay.push(stream.as_bytes(), &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), stream);
}

/// A stream that may be anything between good and broken.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let text = "[a-c{}\"\\\\\u{e4}\u{1F30D} \n]{0,6}";
    let event = prop_oneof![
        2 => Just(start()),
        2 => (0u64..3, prop::sample::select(vec!["text", "thinking", "tool_use", "server_tool_use", "x"])).prop_map(
            |(index, kind)| open(index, &json!({"type": kind, "text": "", "name": "f", "input": {"a": 1}}))),
        2 => (0u64..3, text).prop_map(|(index, text)| delta(index, &json!({"text": text}))),
        2 => (0u64..3, text).prop_map(|(index, text)| delta(index, &json!({"partial_json": text}))),
        1 => (0u64..3, text).prop_map(|(index, text)| delta(index, &json!({"thinking": text, "signature": text}))),
        2 => (0u64..3).prop_map(close),
        1 => Just(end("end_turn")[0].clone()),
        1 => Just(end("end_turn")[1].clone()),
        1 => Just(json!({"type": "ping"})),
        1 => Just(json!({"type": "error", "error": "odd"})),
    ];
    let line = prop_oneof![
        12 => event.prop_map(|event| sse(&[event])),
        1 => Just(": comment\n\n".to_owned()),
        1 => Just("event: x\rdata:\r\r".to_owned()),
        1 => Just("data: {\"type\":\ndata: \"message_stop\"}\r\n\r\n".to_owned()),
        1 => "[ -~\n\u{e4}]{0,20}",
    ];
    vec(line, 0..14).prop_map(|lines| lines.concat().into_bytes())
}

/// Checks that every chunk is JSON, and that the last thing, and only the last, is `[DONE]` or an error.
fn check_chunks(out: &str) -> Result<(), TestCaseError> {
    let mut ended = false;
    for event in out.split_terminator("\n\n").filter(|event| !event.starts_with(':')) {
        prop_assert!(!ended, "{}", out);
        let data = event.strip_prefix("data: ").unwrap();
        if data == "[DONE]" {
            ended = true;
            continue;
        }
        let chunk: Value = serde_json::from_str(data).unwrap();
        ended = chunk.get("error").is_some();
        prop_assert!(ended || chunk["choices"].is_array(), "{}", out);
    }
    prop_assert!(ended, "{}", out);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn cuts_do_not_matter(stream in any_stream(), places in vec(any::<usize>(), 0..6)) {
        let limits = Limits { event: 400, answer: 300 };
        let pieces = cut(&stream, &places);
        prop_assert_eq!(chunks(&echo(true), &pieces, limits), chunks(&echo(true), &[&stream], limits));
        prop_assert_eq!(relayed(&pieces, limits), relayed(&[&stream], limits));
    }

    #[test]
    fn streams_end_once(stream in any_stream()) {
        for limits in [Limits::default(), Limits { event: 200, answer: 10 }] {
            check_chunks(&chunks(&echo(true), &[&stream], limits).0)?;
            let events = crate::support::events(&relayed(&[&stream], limits).0);
            let is_last = |event: &Value| matches!(event["type"].as_str(), Some("message_stop" | "error"));
            prop_assert!(events.last().is_some_and(is_last));
            prop_assert_eq!(events.iter().filter(|event| is_last(event)).count(), 1);
        }
    }

    #[test]
    fn any_bytes_end_well(bytes in vec(any::<u8>(), 0..200)) {
        check_chunks(&chunks(&echo(true), &[&bytes], Limits::default()).0)?;
        let _ = request(&bytes, &TARGET);
        let _ = answer(&bytes, &echo(true), &stamp("chatcmpl-1"));
    }

    #[test]
    fn texts_survive(turns in vec((any::<bool>(), "[a-z \\\\\"\u{e4}]{0,6}x"), 1..6)) {
        let role = |user: bool| if user { "user" } else { "assistant" };
        let all: Vec<Value> = turns.iter().map(|(user, text)| json!({"role": role(*user), "content": text})).collect();
        let sent = request(with(&json!({"messages": all})).to_string().as_bytes(), &TARGET).unwrap().body;
        let sent: Value = serde_json::from_slice(&sent).unwrap();
        let mut said = Vec::new();
        let mut last = "";
        for turn in sent["messages"].as_array().unwrap() {
            let role = turn["role"].as_str().unwrap();
            prop_assert_ne!(role, last);
            last = role;
            said.extend(turn["content"].as_array().unwrap().iter().map(|block| (role == "user", block["text"].as_str().unwrap().to_owned())));
        }
        prop_assert_eq!(said, turns);
    }
}
