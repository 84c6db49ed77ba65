//! The Messages API.

use protocols::Limits;
use protocols::messages::{answer, request};
use serde_json::{Value, json};

use crate::experts;
use crate::support::{events, message, messages_echo, messages_stream, pretty, shown};

fn translated(body: &Value) -> String {
    shown(request(body.to_string().as_bytes()))
}

fn refusal(body: &Value) -> String {
    match request(body.to_string().as_bytes()) {
        Err(error) => error.to_string(),
        Ok(translated) => translated.refused.expect("the request cannot be carried over").to_string(),
    }
}

/// A request with these fields and one user turn.
fn with(fields: &Value) -> Value {
    let mut body =
        json!({"model": "auto", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

/// A request that turns thinking on.
fn thinking() -> Value {
    with(&json!({"thinking": {"type": "adaptive"}, "stop_sequences": ["END"], "stream": true}))
}

#[test]
fn a_plain_request() {
    insta::assert_snapshot!(translated(&with(&json!({
        "system": "Be brief.",
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "stop_sequences": ["END"],
        "stream": true,
        "metadata": {"user_id": "u-1"},
        "min_p": 0.1,
        "service_tier": "auto",
        "stream_options": {"include_usage": false},
    }))));
}

#[test]
fn an_agents_request() {
    insta::assert_snapshot!(translated(&json!({
        "model": "auto",
        "max_tokens": 32000,
        "system": [
            {"type": "text", "text": "You are an agent."},
            {"type": "text", "text": "Rules.", "cache_control": {"type": "ephemeral"}},
        ],
        "thinking": {"type": "enabled", "budget_tokens": 5000},
        "context_management": {"edits": []},
        "tools": [
            {
                "name": "weather",
                "description": "Looks up the weather",
                "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
                "strict": true,
                "cache_control": {"type": "ephemeral"},
            },
            {"type": "custom", "name": "time", "input_schema": {"type": "object"}, "defer_loading": false},
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
        ],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": true},
        "messages": [
            {"role": "user", "content": "Earlier."},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Old thoughts.", "signature": "unsigned"},
                {"type": "text", "text": "Done.", "citations": null},
            ]},
            {"role": "user", "content": [
                {"type": "text", "text": "What is the weather?"},
                {"type": "text", "text": "And the time?", "cache_control": {"type": "ephemeral"}},
            ]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Two calls.", "signature": "unsigned"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_a", "name": "weather", "input": {"city": "S\u{e3}o \"Paulo\""}, "caller": {"type": "direct"}},
                {"type": "tool_use", "id": "toolu_b", "name": "time", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "text", "text": "Here you are."},
                {"type": "tool_result", "tool_use_id": "toolu_a", "content": "rain"},
                {"type": "tool_result", "tool_use_id": "toolu_b", "is_error": true, "content": [
                    {"type": "text", "text": "no clock"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBOR"}},
                ]},
            ]},
        ],
    })));
}

#[test]
fn all_kinds_of_content() {
    insta::assert_snapshot!(translated(&with(&json!({"messages": [
        {"role": "user", "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9j/"}},
            {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png?c=\"d\""}},
            {"type": "document", "title": "Notes", "context": "From a meeting", "citations": {"enabled": true},
             "source": {"type": "text", "media_type": "text/plain", "data": "Agreed."}},
            {"type": "document", "title": "a.pdf",
             "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBER"}},
            {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "Inner."}]}},
            {"type": "search_result", "title": "T", "source": "https://a.example", "content": [
                {"type": "text", "text": "Found."},
            ]},
            {"type": "container_upload", "file_id": "file_1"},
        ]},
        {"role": "system", "content": [{"type": "text", "text": "From now on, rhyme."}]},
        {"role": "assistant", "content": [
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}},
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
            {"type": "text", "text": "I"},
        ]},
    ]}))));
}

#[test]
fn thinking_effort_and_format() {
    let sent = |fields: Value| -> (Value, Vec<String>) {
        let translated = request(with(&fields).to_string().as_bytes()).unwrap();
        (serde_json::from_slice(&translated.body).unwrap(), translated.lossy)
    };
    for (budget, effort) in [(1024, "low"), (4096, "medium"), (16384, "high"), (60000, "high")] {
        let (body, lossy) = sent(json!({"thinking": {"type": "enabled", "budget_tokens": budget}}));
        assert_eq!(body["reasoning_effort"], effort, "{budget}");
        assert_eq!(lossy, ["thinking.budget_tokens"]);
    }
    let (body, lossy) = sent(json!({"thinking": {"type": "disabled"}}));
    assert_eq!((body.get("reasoning_effort"), lossy), (None, vec!["thinking.type".to_owned()]));
    let (body, lossy) = sent(json!({
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "output_config": {
            "effort": "max",
            "format": {"type": "json_schema", "schema": {"type": "object", "additionalProperties": false}},
        },
    }));
    assert_eq!(body["reasoning_effort"], "high");
    assert_eq!(
        body["response_format"],
        json!({"type": "json_schema", "json_schema": {
            "name": "output", "schema": {"type": "object", "additionalProperties": false}, "strict": true,
        }})
    );
    assert_eq!(lossy, ["thinking.budget_tokens", "output_config.effort"]);
}

#[test]
fn tool_choices() {
    let tools = json!([{"name": "a", "input_schema": {"type": "object"}}]);
    let cases = [
        (json!({"type": "auto"}), json!("auto")),
        (json!({"type": "any"}), json!("required")),
        (json!({"type": "none"}), json!("none")),
        (json!({"type": "tool", "name": "a"}), json!({"type": "function", "function": {"name": "a"}})),
    ];
    for (choice, expected) in cases {
        let body = with(&json!({"tools": tools, "tool_choice": choice}));
        let translated = request(body.to_string().as_bytes()).unwrap();
        let sent: Value = serde_json::from_slice(&translated.body).unwrap();
        assert_eq!((&sent["tool_choice"], sent.get("parallel_tool_calls")), (&expected, None));
    }
    // Chat completions refuse a choice among no tools.
    let translated = request(with(&json!({"tool_choice": {"type": "auto"}})).to_string().as_bytes()).unwrap();
    let sent: Value = serde_json::from_slice(&translated.body).unwrap();
    assert_eq!(sent.get("tool_choice"), None);
}

#[test]
fn what_cannot_be_carried_over_is_refused() {
    let user = |content: Value| with(&json!({"messages": [{"role": "user", "content": content}]}));
    let all = [
        json!([]),
        json!({"model": "auto"}),
        json!({"model": "", "max_tokens": 1, "messages": []}),
        json!({"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}),
        with(&json!({"max_tokens": 0})),
        with(&json!({"max_tokens": "many"})),
        with(&json!({"messages": []})),
        with(&json!({"messages": [{"role": "user", "content": "Hi"}, {"role": "tool", "content": "x"}]})),
        with(&json!({"n": 2})),
        with(&json!({"temperature": "hot"})),
        with(&json!({"stop_sequences": "END"})),
        with(&json!({"thinking": {"type": "sometimes"}})),
        with(&json!({"tools": [{"type": "bash_20250124", "name": "bash"}]})),
        with(&json!({"tools": [{"name": "a"}]})),
        with(
            &json!({"tools": [{"type": "web_search_20250305", "name": "w"}], "tool_choice": {"type": "any"}}),
        ),
        user(json!([{"type": "image", "source": {"type": "file", "file_id": "file_1"}}])),
        user(
            json!([{"type": "text", "text": "a"}, {"type": "image", "source": {"type": "base64", "media_type": "image/\"", "data": ""}}]),
        ),
        user(json!([{"type": "document", "source": {"type": "url", "url": "https://a.example/a.pdf"}}])),
        user(json!([{"type": "tool_use", "id": "a", "name": "b", "input": {}}])),
        user(json!([{"type": "tool_result", "content": "no id"}])),
        user(json!([{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "video"}]}])),
        with(
            &json!({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": "c"}]}]}),
        ),
    ];
    let shown: Vec<String> = all.iter().map(refusal).collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn values_keep_their_bytes() {
    let schema = r#"{ "type":"object", "properties":{"z":{"type":"number","default":1.0e0},"a":{}} }"#;
    let body = format!(
        r#"{{"model":"auto","max_tokens":5,"extra":{{"z":1,"a":[1.50]}},
            "messages":[{{"role":"user","content":"\u00e4\/"}}],
            "tools":[{{"name":"t","input_schema":{schema}}}]}}"#
    );
    let translated = request(body.as_bytes()).unwrap();
    let sent = String::from_utf8(translated.body).unwrap();
    for kept in [schema, r#""content":"\u00e4\/""#, r#""extra":{"z":1,"a":[1.50]}"#] {
        assert!(sent.contains(kept), "{kept} is not in {sent}");
    }
}

#[test]
fn what_only_experts_of_the_protocol_can_do_does_not_hide_the_rest() {
    let body = with(&json!({
        "max_tokens": 0,
        "tools": [{"type": "bash_20250124", "name": "bash"}, {"name": "time", "input_schema": {"type": "object"}}],
        "messages": [
            {"role": "user", "content": "Before."},
            {"role": "user", "content": [
                {"type": "document", "source": {"type": "url", "url": "https://a.example/b.pdf"}},
                {"type": "text", "text": "What is this?"},
            ]},
            {"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]},
        ],
    }));
    let translated = request(body.to_string().as_bytes()).unwrap();
    let first = translated.refused.unwrap();
    assert!(
        first.to_string().starts_with("messages[1].content[0].source.type: experts cannot fetch"),
        "{first}"
    );
    let sent: Value = serde_json::from_slice(&translated.body).unwrap();
    assert_eq!(sent["messages"][1]["content"][1]["text"], "What is this?");
    assert_eq!(sent["messages"][2], json!({"role": "user", "content": ""}));
    assert_eq!(sent["tools"].as_array().unwrap().len(), 1);
}

#[test]
fn a_field_that_stands_twice_is_refused() {
    let body = r#"{"model":"auto","max_tokens":5,"messages":[{"role":"user","content":"a"}],"messages":[]}"#;
    assert_eq!(request(body.as_bytes()).unwrap_err().to_string(), "messages: stands twice in its object");
}

#[test]
fn a_backslash_at_the_end_of_image_data_stays_inside_its_string() {
    let body = r#"{"model":"auto","max_tokens":5,"messages":[{"role":"user","content":[
        {"type":"image","source":{"type":"base64","media_type":"image/png","data":"A\\\""}}]}]}"#;
    let translated = request(body.as_bytes()).unwrap();
    let sent: Value = serde_json::from_slice(&translated.body).unwrap();
    assert_eq!(sent["messages"][0]["content"][0]["image_url"]["url"], "data:image/png;base64,A\\\"");
}

#[test]
fn whole_answers() {
    let echo = messages_echo(&thinking());
    let call = |arguments: &str| {
        json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": arguments}},
            {"type": "function", "function": {"name": "time", "arguments": ""}},
        ]})
    };
    let stamp = message();
    let shown = |message: &Value, finish: &str| {
        pretty(&answer(&experts::whole(message, finish), &echo, &stamp).unwrap())
    };
    insta::assert_snapshot!("answer_text", shown(&json!({"role": "assistant", "content": "Hello"}), "stop"));
    insta::assert_snapshot!(
        "answer_reasoning",
        shown(&json!({"role": "assistant", "content": "42", "reasoning": "Let me think."}), "length")
    );
    insta::assert_snapshot!("answer_tools", shown(&call(r#"{"z": 1.0, "a": "\u00e4"}"#), "stop"));
    insta::assert_snapshot!("answer_broken_arguments", shown(&call(r#"{"z": "#), "length"));
    insta::assert_snapshot!(
        "answer_refusal",
        shown(&json!({"role": "assistant", "content": null, "refusal": "No."}), "stop")
    );
}

#[test]
fn reasoning_is_for_those_who_asked() {
    let body = experts::whole(&json!({"content": "42", "reasoning_content": "Hm."}), "stop");
    for hidden in [json!({}), json!({"thinking": {"type": "adaptive", "display": "omitted"}})] {
        let echo = messages_echo(&with(&hidden));
        let answer: Value = serde_json::from_slice(&answer(&body, &echo, &message()).unwrap()).unwrap();
        assert_eq!(answer["content"], json!([{"type": "text", "text": "42"}]));
        let stream = experts::stream(&experts::reasoning(), "stop");
        let stream = messages_stream(&echo, &[stream.as_bytes()], Limits::default());
        assert!(!stream.contains("Let me"), "{stream}");
    }
}

#[test]
fn a_stop_sequence_that_was_asked_for_is_named() {
    let echo = messages_echo(&thinking());
    for (met, reason, named) in [("END", "stop_sequence", json!("END")), ("other", "end_turn", json!(null))] {
        let body = json!({"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop", "stop_reason": met}]});
        let answer = answer(body.to_string().as_bytes(), &echo, &message()).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!((&answer["stop_reason"], &answer["stop_sequence"]), (&json!(reason), &named));
        assert_eq!(answer["model"], "auto", "the expert did not say which model it is");
    }
}

#[test]
fn what_is_no_answer_is_refused() {
    let echo = messages_echo(&thinking());
    for body in [
        "",
        "{}",
        "[]",
        r#"{"choices":[]}"#,
        r#"{"choices":[{"index":0}]}"#,
        r#"{"error":{"message":"full"}}"#,
    ] {
        answer(body.as_bytes(), &echo, &message()).expect_err(body);
    }
}

#[test]
fn streams() {
    let echo = messages_echo(&thinking());
    let shown = |deltas: &[Value], finish: &str| {
        messages_stream(&echo, &[experts::stream(deltas, finish).as_bytes()], Limits::default())
    };
    insta::assert_snapshot!("stream_text", shown(&experts::text(), "stop"));
    insta::assert_snapshot!("stream_reasoning", shown(&experts::reasoning(), "length"));
    insta::assert_snapshot!("stream_tools", shown(&experts::parallel_calls(), "tool_calls"));
    insta::assert_snapshot!("stream_refusal", shown(&[json!({"refusal": "No."})], "stop"));
    insta::assert_snapshot!("stream_empty", shown(&[], "stop"));
}

#[test]
fn streams_that_break() {
    let echo = messages_echo(&thinking());
    let begun = experts::event(&json!({"choices": [{"index": 0, "delta": {"content": "Hel"}}]}));
    let error =
        r#"data: {"error":{"message":"no capacity","type":"server_error","param":null,"code":"overloaded"}}"#;
    for (name, stream) in [
        ("stream_cut", begun.clone()),
        ("stream_error", format!("{begun}: ping\n\n{error}\n\ndata: [DONE]\n\n")),
        ("stream_garbage", format!("{begun}data: <html>\n\n{begun}")),
        ("stream_nothing", String::new()),
    ] {
        insta::assert_snapshot!(name, messages_stream(&echo, &[stream.as_bytes()], Limits::default()));
    }
}

#[test]
fn blocks_come_one_after_the_other() {
    let echo = messages_echo(&thinking());
    let deltas = [
        experts::call(0, "call_a", "a"),
        experts::call(1, "call_b", "b"),
        experts::arguments(1, "{\"b\":[1,"),
        json!({"content": "between"}),
        experts::arguments(0, "{\"a\":\"}\"}"),
        experts::arguments(1, "2]}"),
        experts::arguments(0, "\n"),
    ];
    let stream = messages_stream(&echo, &[experts::stream(&deltas, "stop").as_bytes()], Limits::default());
    let (mut open, mut blocks) = (None, Vec::new());
    for event in events(&stream) {
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(open.replace(event["index"].clone()), None, "two blocks are open");
                blocks.push((
                    event["content_block"]["name"].as_str().unwrap_or("text").to_owned(),
                    String::new(),
                ));
            }
            "content_block_delta" => {
                assert_eq!(open.as_ref(), Some(&event["index"]));
                let delta = &event["delta"];
                let text = delta.get("partial_json").or(delta.get("text")).unwrap();
                blocks.last_mut().unwrap().1 += text.as_str().unwrap();
            }
            "content_block_stop" => assert_eq!(open.take(), Some(event["index"].clone())),
            "message_delta" => assert_eq!(event["delta"]["stop_reason"], "tool_use"),
            _ => {}
        }
    }
    let expected = [("a", "{\"a\":\"}\"}"), ("b", "{\"b\":[1,2]}"), ("text", "between")];
    assert_eq!(blocks, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
}

#[test]
fn calls_that_share_a_number_are_told_apart_by_their_ids() {
    let echo = messages_echo(&thinking());
    let call = |id: &str, arguments: &str| json!({"tool_calls": [{"index": 0, "id": id, "function": {"name": "f", "arguments": arguments}}]});
    let deltas = [call("call_a", "{\"a\":1}"), call("call_b", "{\"b\":2}")];
    let stream = messages_stream(&echo, &[experts::stream(&deltas, "stop").as_bytes()], Limits::default());
    let starts: Vec<_> = events(&stream).into_iter().filter(|e| e["type"] == "content_block_start").collect();
    let ids: Vec<_> = starts.iter().map(|e| e["content_block"]["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["call_a", "call_b"]);
}

#[test]
fn memory_is_bounded() {
    let echo = messages_echo(&thinking());
    let small = Limits { event: 2000, answer: 1000 };
    let ends_with_error = |stream: &str, pieces: &[&[u8]]| {
        let out = messages_stream(&echo, pieces, small);
        let last = events(&out).pop().unwrap();
        assert_eq!(last["type"], "error", "{stream}: {out}");
        last["error"]["message"].as_str().unwrap().to_owned()
    };
    // An event that does not end.
    let piece = vec![b'x'; 500];
    let endless: Vec<&[u8]> =
        std::iter::once(&b"data: "[..]).chain(std::iter::repeat_n(&piece[..], 10)).collect();
    assert!(ends_with_error("endless", &endless).contains("too long"));
    // A call that waits for one that does not end.
    let mut deltas = vec![experts::call(0, "a", "a"), experts::arguments(0, "{"), experts::call(1, "b", "b")];
    deltas.extend(std::iter::repeat_n(experts::arguments(1, &"x".repeat(300)), 10));
    let stream = experts::stream(&deltas, "stop");
    assert!(ends_with_error("waiting", &[stream.as_bytes()]).contains("put in order"));
    // Calls without end.
    let deltas: Vec<Value> = (0..500).map(|index| experts::call(index, "", "f")).collect();
    let stream = experts::stream(&deltas, "stop");
    let large = messages_stream(&echo, &[stream.as_bytes()], Limits::default());
    assert_eq!(events(&large).pop().unwrap()["type"], "error");
    // Text needs no memory.
    let deltas: Vec<Value> = std::iter::repeat_n(json!({"content": "x".repeat(500)}), 20).collect();
    let out = messages_stream(&echo, &[experts::stream(&deltas, "stop").as_bytes()], small);
    assert_eq!(events(&out).pop().unwrap()["type"], "message_stop");
}
