//! What holds for any input.

use proptest::collection::vec;
use proptest::prelude::*;
use protocols::{Limits, Stamp, messages, over_messages, responses};
use serde_json::{Value, json};

use crate::experts;
use crate::support::{cut, events, messages_echo, messages_stream, responses_echo, responses_stream};

const TARGET: over_messages::Target<'_> = over_messages::Target { model: "m", shown: "m", max_tokens: 5 };

fn message() -> messages::Echo {
    messages_echo(&json!({
        "model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}],
        "thinking": {"type": "adaptive"},
    }))
}

fn response() -> responses::Echo {
    responses_echo(&json!({"model": "auto", "input": "Hi", "tools": [{"type": "custom", "name": "c"}]}))
}

/// Deltas of any order, as experts may send them.
fn delta() -> impl Strategy<Value = Value> {
    let text = "[a-c{}\"\\\\\u{e4}\u{1F30D} \n]{0,6}";
    prop_oneof![
        text.prop_map(|t| json!({"content": t})),
        text.prop_map(|t| json!({"reasoning_content": t})),
        text.prop_map(|t| json!({"refusal": t})),
        (0u64..4, text).prop_map(|(i, t)| experts::arguments(i, &t)),
        (0u64..4, "[ab]{0,2}", "[cf]?").prop_map(|(i, id, name)| experts::call(i, &id, &name)),
        Just(json!({"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]})),
    ]
}

/// A stream that may be anything between good and broken.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        4 => delta().prop_map(|delta| experts::event(&json!({"choices": [{"index": 0, "delta": delta}]}))),
        1 => Just(experts::event(&json!({"choices": [], "usage": {"prompt_tokens": 3}}))),
        1 => Just("data: {\"choices\":[{\"index\":0,\"delta\":{},\ndata: \"finish_reason\":\"stop\"}]}\r\n\r\n".to_owned()),
        1 => Just(": comment\n\n".to_owned()),
        1 => Just("event: x\rdata:\r\r".to_owned()),
        1 => Just("data: [DONE]\n\n".to_owned()),
        1 => Just("data: {\"error\":{\"message\":\"m\"}}\n\n".to_owned()),
        1 => "[ -~\n\u{e4}]{0,20}",
    ];
    vec(line, 0..14).prop_map(|lines| lines.concat().into_bytes())
}

fn is_terminal(event: &Value) -> bool {
    let kind = event["type"].as_str().unwrap();
    matches!(
        kind,
        "message_stop" | "error" | "response.completed" | "response.incomplete" | "response.failed"
    )
}

/// Checks that a stream ends once, and that its blocks or items are well nested.
fn check(out: &str) -> Result<(), TestCaseError> {
    let events = events(out);
    prop_assert!(events.last().is_some_and(is_terminal), "{}", out);
    prop_assert_eq!(events.iter().filter(|event| is_terminal(event)).count(), 1);
    let (mut open, mut opened) = (false, 0);
    for event in &events {
        match event["type"].as_str().unwrap() {
            "content_block_start" | "response.output_item.added" => {
                prop_assert!(!open);
                open = true;
                let index = event.get("index").or(event.get("output_index")).unwrap();
                prop_assert_eq!(index.as_u64(), Some(opened));
                opened += 1;
            }
            "content_block_delta" => prop_assert!(open),
            "content_block_stop" | "response.output_item.done" => {
                prop_assert!(open);
                open = false;
            }
            "message_stop" | "response.completed" | "response.incomplete" => prop_assert!(!open),
            _ => {}
        }
    }
    Ok(())
}

const WORDS: &[&str] = &[
    "text",
    "image",
    "user",
    "assistant",
    "tool_use",
    "tool_result",
    "function_call",
    "message",
    "input_text",
    "reasoning",
    "thinking",
    "function",
    "custom",
    "auto",
    "base64",
    "url",
    "json_schema",
    "enabled",
    "system",
    "function_call_output",
    "document",
    "unsigned",
    "allowed_tools",
    "image_url",
    "file",
    "tool",
    "required",
];
const KEYS: &[&str] = &[
    "type",
    "role",
    "content",
    "text",
    "source",
    "data",
    "media_type",
    "id",
    "name",
    "input",
    "tool_use_id",
    "call_id",
    "arguments",
    "output",
    "summary",
    "thinking",
    "signature",
    "url",
    "image_url",
    "input_schema",
    "parameters",
    "format",
    "schema",
    "tools",
    "mode",
    "messages",
    "title",
    "function",
    "tool_calls",
    "tool_call_id",
    "thinking_blocks",
    "json_schema",
    "file",
];
const TOP: &[&str] = &[
    "messages",
    "system",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "stop_sequences",
    "stream",
    "input",
    "instructions",
    "text",
    "reasoning",
    "include",
    "metadata",
    "temperature",
    "response_format",
    "reasoning_effort",
    "stop",
    "x",
];

/// JSON that looks like a request.
fn request() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        6 => prop::sample::select(WORDS).prop_map(Value::from),
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => (-2i64..70_000).prop_map(Value::from),
        1 => any::<String>().prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((prop::sample::select(KEYS), inner), 0..6).prop_map(|fields| fields
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect::<serde_json::Map<_, _>>()
                .into()),
        ]
    });
    vec((prop::sample::select(TOP), value), 0..6).prop_map(|fields| {
        let mut body = json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "a"}], "input": "a"});
        body.as_object_mut().unwrap().extend(fields.into_iter().map(|(k, v)| (k.to_owned(), v)));
        body
    })
}

/// All texts of a chat completions body's messages, with their roles.
fn texts(body: &[u8]) -> Vec<(String, String)> {
    let body: Value = serde_json::from_slice(body).unwrap();
    let text = |content: &Value| match content {
        Value::String(text) => text.clone(),
        parts => parts.as_array().unwrap().iter().map(|part| part["text"].as_str().unwrap()).collect(),
    };
    let role = |message: &Value| message["role"].as_str().unwrap().to_owned();
    body["messages"].as_array().unwrap().iter().map(|m| (role(m), text(&m["content"]))).collect()
}

#[test]
fn nothing_of_a_conversation_shows_in_debug_output() {
    let body = json!({
        "model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "secret"}], "system": "secret",
        "stop_sequences": ["secret"], "input": "secret", "instructions": "secret", "user": "secret",
    });
    let (message, response) = (
        messages::request(body.to_string().as_bytes()).unwrap(),
        responses::request(body.to_string().as_bytes()).unwrap(),
    );
    let requests = format!("{message:?}{:?}{response:?}{:?}", message.echo, response.echo);
    let chunk = experts::event(&json!({"choices": [{"index": 0, "delta": {"content": "secret"}}]}));
    let mut first = messages::Stream::new(message.echo, Stamp::default(), Limits::default());
    first.push(chunk.as_bytes(), &mut Vec::new());
    let mut second = responses::Stream::new(response.echo, Stamp::default(), Limits::default());
    second.push(chunk.as_bytes(), &mut Vec::new());
    let shown = format!("{requests}{first:?}{second:?}");
    assert!(shown.contains("Stream") && !shown.contains("secret"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn cuts_do_not_matter(stream in stream(), places in vec(any::<usize>(), 0..6)) {
        let limits = Limits { event: 400, answer: 300 };
        let pieces = cut(&stream, &places);
        prop_assert_eq!(messages_stream(&message(), &pieces, limits), messages_stream(&message(), &[&stream], limits));
        prop_assert_eq!(responses_stream(&response(), &pieces, limits), responses_stream(&response(), &[&stream], limits));
    }

    #[test]
    fn streams_end_once_and_are_well_nested(stream in stream()) {
        for limits in [Limits::default(), Limits { event: 300, answer: 100 }] {
            check(&messages_stream(&message(), &[&stream], limits))?;
            check(&responses_stream(&response(), &[&stream], limits))?;
        }
    }

    #[test]
    fn any_bytes_end_well(bytes in vec(any::<u8>(), 0..200)) {
        check(&messages_stream(&message(), &[&bytes], Limits::default()))?;
        check(&responses_stream(&response(), &[&bytes], Limits::default()))?;
        let _ = messages::request(&bytes);
        let _ = responses::request(&bytes);
    }

    #[test]
    fn arguments_survive_whatever_their_order(
        calls in vec(vec("[ -~\u{e4}\u{1F30D}]{0,5}", 0..5), 1..5),
        order in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        // Whole JSON objects, in pieces that may be cut anywhere between characters.
        let whole: Vec<String> = calls.iter().map(|pieces| json!({"v": pieces}).to_string()).collect();
        let mut left: Vec<(usize, Vec<char>)> = whole.iter().map(|w| w.chars().rev().collect()).enumerate().collect();
        let mut deltas: Vec<Value> = (0..whole.len()).map(|i| experts::call(i as u64, &format!("call_{i}"), "f")).collect();
        for at in order {
            let (index, rest) = &mut left[at.index(whole.len())];
            let piece: String = (0..4).filter_map(|_| rest.pop()).collect();
            deltas.push(experts::arguments(*index as u64, &piece));
        }
        for (index, rest) in left {
            deltas.push(experts::arguments(index as u64, &rest.into_iter().rev().collect::<String>()));
        }
        let stream = experts::stream(&deltas, "tool_calls");

        let mut said = vec![String::new(); whole.len()];
        for event in events(&messages_stream(&message(), &[stream.as_bytes()], Limits::default())) {
            if let Some(piece) = event["delta"].get("partial_json") {
                said[event["index"].as_u64().unwrap() as usize] += piece.as_str().unwrap();
            }
        }
        prop_assert_eq!(&said, &whole);
        let events = events(&responses_stream(&response(), &[stream.as_bytes()], Limits::default()));
        let output = events.last().unwrap()["response"]["output"].as_array().unwrap().clone();
        let said: Vec<_> = output.iter().map(|item| item["arguments"].as_str().unwrap()).collect();
        prop_assert_eq!(said, whole);
    }

    #[test]
    fn any_request_is_translated_or_refused(body in request()) {
        let body = body.to_string();
        for (sent, lossy) in [
            messages::request(body.as_bytes()).map(|t| (t.body, t.lossy)),
            responses::request(body.as_bytes()).map(|t| (t.body, t.lossy)),
            over_messages::request(body.as_bytes(), &TARGET).map(|t| (t.body, t.lossy)),
        ].into_iter().flatten() {
            let sent: Value = serde_json::from_slice(&sent).expect("the translation is JSON");
            prop_assert!(sent["messages"].is_array());
            prop_assert!(lossy.len() <= 33 && lossy.iter().all(|path| path.bytes().all(|b| b.is_ascii_graphic())));
        }
    }

    #[test]
    fn texts_survive(turns in vec((any::<bool>(), any::<String>()), 1..6)) {
        let role = |user: bool| if user { "user" } else { "assistant" };
        let all: Vec<Value> = turns.iter().map(|(user, text)| json!({"role": role(*user), "content": text})).collect();
        let expected: Vec<_> = turns.iter().map(|(user, text)| (role(*user).to_owned(), text.clone())).collect();
        let body = json!({"model": "m", "max_tokens": 5, "messages": all}).to_string();
        prop_assert_eq!(&texts(&messages::request(body.as_bytes()).unwrap().body), &expected);
        let body = json!({"model": "m", "input": all}).to_string();
        prop_assert_eq!(&texts(&responses::request(body.as_bytes()).unwrap().body), &expected);
    }
}
