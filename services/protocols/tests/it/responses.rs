//! The Responses API.

use protocols::Limits;
use protocols::responses::{answer, request};
use serde_json::{Value, json};

use crate::experts;
use crate::support::{events, pretty, response, responses_echo, responses_stream, shown};

fn translated(body: &Value) -> String {
    shown(request(body.to_string().as_bytes()))
}

fn refusal(body: &Value) -> String {
    request(body.to_string().as_bytes()).expect_err("the request cannot be carried over").to_string()
}

/// A request with these fields and a short input.
fn with(fields: &Value) -> Value {
    let mut body = json!({"model": "auto", "input": "Hi"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

/// A request whose answer shows what it repeats.
fn asking() -> Value {
    with(&json!({
        "stream": true,
        "instructions": "Be brief.",
        "temperature": 0.5,
        "metadata": {"a": "b"},
        "tools": [
            {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": false},
            {"type": "custom", "name": "patch"},
        ],
    }))
}

#[test]
fn a_plain_request() {
    insta::assert_snapshot!(translated(&with(&json!({
        "instructions": "Be brief.",
        "max_output_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_logprobs": 3,
        "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
        "stream": true,
        "stream_options": {"include_obfuscation": true},
        "store": true,
        "truncation": "auto",
        "metadata": {"a": "b"},
        "user": "u-1",
        "prompt_cache_key": "k",
        "service_tier": "flex",
        "reasoning": {"effort": "high", "summary": "auto", "context": "all_turns"},
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "max_tool_calls": 3,
        "min_p": 0.1,
        "max_tokens": 7,
        "background": false,
        "previous_response_id": null,
    }))));
}

#[test]
fn an_agents_request() {
    insta::assert_snapshot!(translated(&json!({
        "model": "auto",
        "instructions": "You are an agent.",
        "parallel_tool_calls": false,
        "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [
            {"type": "function", "name": "weather"}, {"type": "custom", "name": "patch"},
        ]},
        "tools": [
            {"type": "function", "name": "weather", "description": "Looks", "strict": true,
             "parameters": {"type": "object", "properties": {}}, "defer_loading": true},
            {"type": "function", "name": "left_out", "parameters": null, "strict": null},
            {"type": "custom", "name": "patch", "description": "Edits files.",
             "format": {"type": "grammar", "syntax": "lark", "definition": "start: \"*\""}},
            {"type": "web_search"},
        ],
        "input": [
            {"role": "developer", "content": "Rules."},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "Earlier."},
                {"type": "input_image", "image_url": "data:image/png;base64,iVBOR", "detail": "low"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBER"},
            ]},
            {"type": "reasoning", "id": "rs_0", "summary": [{"type": "summary_text", "text": "Old."}]},
            {"type": "message", "id": "msg_0", "status": "completed", "role": "assistant", "content": [
                {"type": "output_text", "text": "Done.", "annotations": [], "logprobs": []},
            ]},
            {"type": "web_search_call", "id": "ws_1", "status": "completed"},
            {"role": "user", "content": "Now?"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Calls."}]},
            {"role": "assistant", "content": "I look."},
            {"type": "function_call", "id": "fc_1", "call_id": "call_a", "name": "weather", "arguments": "{\"a\": 1}", "status": "completed"},
            {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_b", "name": "patch", "input": "*** \"x\"\n"},
            {"type": "function_call_output", "call_id": "call_a", "output": [
                {"type": "input_text", "text": "rain"},
                {"type": "input_image", "image_url": "https://a.example/rain.png"},
            ]},
            {"type": "custom_tool_call_output", "call_id": "call_b", "output": "ok"},
            {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "sealed"},
            {"type": "function_call", "call_id": "call_c", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_c", "output": "sun"},
        ],
    })));
}

#[test]
fn formats() {
    let sent = |text: Value| -> Value {
        let translated = request(with(&json!({"text": text})).to_string().as_bytes()).unwrap();
        serde_json::from_slice(&translated.body).unwrap()
    };
    assert_eq!(sent(json!({"format": {"type": "text"}})).get("response_format"), None);
    assert_eq!(
        sent(json!({"format": {"type": "json_object"}}))["response_format"],
        json!({"type": "json_object"})
    );
    assert_eq!(
        sent(json!({"format": {
            "type": "json_schema", "name": "n", "description": "d", "strict": true, "schema": {"type": "object"},
        }}))["response_format"],
        json!({"type": "json_schema", "json_schema": {
            "name": "n", "description": "d", "strict": true, "schema": {"type": "object"},
        }})
    );
}

#[test]
fn tool_choices() {
    let tools = json!([{"type": "function", "name": "a", "parameters": {}}, {"type": "custom", "name": "c"}]);
    let named = |name: &str| json!({"type": "function", "function": {"name": name}});
    for (choice, expected) in [
        (json!("none"), json!("none")),
        (json!("required"), json!("required")),
        (json!({"type": "function", "name": "a"}), named("a")),
        (json!({"type": "custom", "name": "c"}), named("c")),
    ] {
        let body = with(&json!({"tools": tools, "tool_choice": choice}));
        let sent: Value =
            serde_json::from_slice(&request(body.to_string().as_bytes()).unwrap().body).unwrap();
        assert_eq!(sent["tool_choice"], expected);
    }
}

#[test]
fn what_cannot_be_carried_over_is_refused() {
    let input = |items: Value| with(&json!({"input": items}));
    let all = [
        json!({"model": "auto"}),
        json!({"input": "Hi"}),
        with(&json!({"previous_response_id": "resp_0"})),
        with(&json!({"conversation": "conv_1"})),
        with(&json!({"prompt": {"id": "pmpt_1"}})),
        with(&json!({"background": true})),
        with(&json!({"max_output_tokens": "many"})),
        with(&json!({"tool_choice": "required"})),
        with(&json!({"tool_choice": {"type": "web_search_preview"}})),
        with(&json!({"tools": [{"type": "local_shell"}]})),
        with(&json!({"tools": [{"type": "function"}]})),
        with(&json!({"text": {"format": {"type": "xml"}}})),
        input(json!([])),
        input(json!([{"id": "msg_1"}])),
        input(json!([{"type": "item_reference", "id": "msg_1"}])),
        input(json!([{"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}])),
        input(
            json!([{"role": "user", "content": [{"type": "input_file", "file_url": "https://a.example"}]}]),
        ),
        input(json!([{"role": "robot", "content": "Hi"}])),
        input(json!([{"type": "function_call_output", "output": "no id"}])),
        input(json!([{"type": "compaction", "encrypted_content": "x"}])),
    ];
    let shown: Vec<String> = all.iter().map(refusal).collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn whole_answers() {
    let echo = responses_echo(&asking());
    let stamp = response();
    let shown = |message: &Value, finish: &str| {
        pretty(&answer(&experts::whole(message, finish), &echo, &stamp).unwrap())
    };
    insta::assert_snapshot!("answer_text", shown(&json!({"role": "assistant", "content": "Hello"}), "stop"));
    insta::assert_snapshot!(
        "answer_reasoning",
        shown(&json!({"role": "assistant", "content": "42", "reasoning": "Let me think."}), "length")
    );
    insta::assert_snapshot!(
        "answer_tools",
        shown(
            &json!({"role": "assistant", "content": null, "tool_calls": [
                {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": "{\"z\": 1.0}"}},
                {"type": "function", "function": {"name": "patch", "arguments": "{\"input\": \"*** \\\"x\\\"\"}"}},
            ]}),
            "tool_calls"
        )
    );
    insta::assert_snapshot!(
        "answer_refusal",
        shown(&json!({"role": "assistant", "content": null, "refusal": "No."}), "content_filter")
    );
}

#[test]
fn log_probabilities_are_shown() {
    let echo = responses_echo(&with(&json!({"top_logprobs": 1})));
    let tokens = json!([{"token": "\u{e4}", "logprob": -0.5, "bytes": null, "top_logprobs": [{"token": "b", "logprob": -1.5, "bytes": [98]}]}]);
    let expected = json!([{"token": "\u{e4}", "logprob": -0.5, "bytes": [195, 164], "top_logprobs": [{"token": "b", "logprob": -1.5, "bytes": [98]}]}]);
    let logprobs = json!({"content": tokens, "refusal": null});
    let whole = json!({"choices": [{"index": 0, "message": {"content": "\u{e4}"}, "finish_reason": "stop", "logprobs": logprobs}]});
    let whole: Value =
        serde_json::from_slice(&answer(whole.to_string().as_bytes(), &echo, &response()).unwrap()).unwrap();
    assert_eq!(whole["output"][0]["content"][0]["logprobs"], expected);

    let chunk = experts::event(
        &json!({"choices": [{"index": 0, "delta": {"content": "\u{e4}"}, "finish_reason": "stop", "logprobs": logprobs}]}),
    );
    let streamed = events(&responses_stream(&echo, &[chunk.as_bytes()], Limits::default()));
    let delta = streamed.iter().find(|e| e["type"] == "response.output_text.delta").unwrap();
    assert_eq!(delta["logprobs"], expected);
    assert_eq!(streamed.last().unwrap()["response"]["output"], whole["output"]);
}

#[test]
fn streams() {
    let echo = responses_echo(&asking());
    let shown = |deltas: &[Value], finish: &str| {
        responses_stream(&echo, &[experts::stream(deltas, finish).as_bytes()], Limits::default())
    };
    insta::assert_snapshot!("stream_text", shown(&experts::text(), "stop"));
    insta::assert_snapshot!("stream_reasoning", shown(&experts::reasoning(), "length"));
    insta::assert_snapshot!("stream_tools", shown(&experts::parallel_calls(), "tool_calls"));
    insta::assert_snapshot!("stream_refusal", shown(&[json!({"refusal": "No."})], "stop"));
    insta::assert_snapshot!("stream_empty", shown(&[], "stop"));
    let custom = [
        experts::call(0, "call_a", "patch"),
        experts::arguments(0, "{\"input\":\"*** "),
        experts::arguments(0, "\\\"x\\\"\"}"),
    ];
    insta::assert_snapshot!("stream_custom_tool", shown(&custom, "tool_calls"));

    let echo = responses_echo(&with(&json!({"reasoning": {"summary": "auto"}})));
    let stream = experts::stream(&experts::reasoning(), "stop");
    insta::assert_snapshot!(
        "stream_summary",
        responses_stream(&echo, &[stream.as_bytes()], Limits::default())
    );
}

#[test]
fn streams_that_break() {
    let echo = responses_echo(&with(&json!({})));
    let begun = experts::event(&json!({"choices": [{"index": 0, "delta": {"content": "Hel"}}]}));
    let error =
        r#"data: {"error":{"message":"slow down","type":"rate_limit_error","param":null,"code":null}}"#;
    for (name, stream) in [
        ("stream_cut", begun.clone()),
        ("stream_error", format!("{begun}: ping\n\n{error}\n\ndata: [DONE]\n\n")),
        ("stream_nothing", String::new()),
    ] {
        insta::assert_snapshot!(name, responses_stream(&echo, &[stream.as_bytes()], Limits::default()));
    }
}

#[test]
fn a_stream_ends_with_what_a_whole_answer_would_be() {
    let echo = responses_echo(&asking());
    let message = json!({"role": "assistant", "content": "I look.", "tool_calls": [
        {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"S\\u00e3o Paulo\"}"}},
        {"id": "call_b", "type": "function", "function": {"name": "time", "arguments": "{\"zone\": \"BRT\" }"}},
    ]});
    let whole = answer(&experts::whole(&message, "tool_calls"), &echo, &response()).unwrap();
    let stream = experts::stream(&experts::parallel_calls(), "tool_calls");
    let events = events(&responses_stream(&echo, &[stream.as_bytes()], Limits::default()));
    let whole: Value = serde_json::from_slice(&whole).unwrap();
    assert_eq!(events.last().unwrap()["response"], whole);
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
}

#[test]
fn what_is_repeated_fits_on_a_line() {
    let body = "{\"model\":\"auto\",\"input\":\"Hi\",\"metadata\":{\n\t\"a\":\r\n\"b\\n\"}}";
    let echo = request(body.as_bytes()).unwrap().echo;
    let stream = responses_stream(&echo, &[experts::stream(&[], "stop").as_bytes()], Limits::default());
    assert_eq!(events(&stream).last().unwrap()["response"]["metadata"], json!({"a": "b\n"}));
}

#[test]
fn memory_is_bounded() {
    let echo = responses_echo(&asking());
    let small = Limits { event: 10_000, answer: 1000 };
    for name in ["weather", "patch"] {
        let mut deltas = vec![experts::call(0, "a", name)];
        deltas.extend(std::iter::repeat_n(experts::arguments(0, &"x".repeat(300)), 10));
        let out = responses_stream(&echo, &[experts::stream(&deltas, "stop").as_bytes()], small);
        let last = events(&out).pop().unwrap();
        assert_eq!(
            (&last["type"], &last["response"]["status"]),
            (&json!("response.failed"), &json!("failed"))
        );
        assert!(last["response"]["error"]["message"].as_str().unwrap().contains("longer"), "{last}");
    }
}
