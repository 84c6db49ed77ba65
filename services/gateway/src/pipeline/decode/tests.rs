use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn chat(body: &str) -> Result<Decoded, ApiError> {
    decode(Operation::ChatCompletions, Bytes::copy_from_slice(body.as_bytes()), 64)
}

fn refused(body: &str) -> (ErrorKind, String, String) {
    let error = chat(body).expect_err("the body is bad");
    (error.kind, error.param.unwrap_or_default(), error.message.into_owned())
}

#[test]
fn the_place_of_the_model_is_found_and_nothing_else_is_touched() {
    let body =
        r#"{ "unknown": {"model": 1}, "model" : "auto" , "messages":[{"role":"user","content":"hi"}]}"#;
    let decoded = chat(body).unwrap();
    assert_eq!(&decoded.body[decoded.model_span.clone()], br#""auto""#);
    assert_eq!((decoded.model.as_str(), decoded.text.as_str()), ("auto", "hi"));
    assert_eq!(decoded.body, body);
}

#[test]
fn a_body_without_a_model_is_for_the_default_route() {
    for body in [
        r#"{"messages":[{"role":"user","content":"hi"}],"stream_options":{"include_usage":true}}"#,
        r#"{"model":null,"messages":[{"role":"user","content":"hi"}],"stream_options":{"include_usage":true}}"#,
    ] {
        let decoded = chat(body).unwrap();
        assert_eq!(decoded.model, "auto");
        let options = decoded.stream_options.span.clone().unwrap();
        assert_eq!(&decoded.body[options], br#"{"include_usage":true}"#);
        let mut sent: Value = serde_json::from_slice(&decoded.body).unwrap();
        let replaced = &decoded.body[decoded.model_span.clone()];
        assert!(replaced == br#""auto""# || replaced == b"null");
        sent.as_object_mut().unwrap().remove("model");
        let mut given: Value = serde_json::from_str(body).unwrap();
        given.as_object_mut().unwrap().remove("model");
        assert_eq!(sent, given);
    }
}

#[test]
fn needs_are_read_off_the_body() {
    let decoded = chat(
        r#"{"model":"auto","stream":true,"max_tokens":100,"tools":[{"type":"function"}],
            "response_format":{"type":"json_schema","json_schema":{}},
            "messages":[{"role":"user","content":[{"type":"text","text":"what is \u201cthis\u201d?"},
            {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}]}"#,
    )
    .unwrap();
    let expected =
        Needs { tools: true, vision: true, json_schema: true, streaming: true, context_tokens: 100 + 19 / 4 };
    assert_eq!(decoded.needs, expected);
    assert_eq!(decoded.text, "what is \u{201c}this\u{201d}?");
    let plain = chat(
        r#"{"model":"a","tools":[],"response_format":{"type":"text"},"messages":[{"role":"user","content":"x"}]}"#,
    )
    .unwrap();
    assert_eq!(plain.needs, Needs::default());
}

#[test]
fn the_router_reads_the_last_user_turn_and_a_short_one_with_its_predecessor() {
    let talk = |last: &str| {
        json!({"model": "auto", "tools": [{"type": "function"}], "messages": [
            {"role": "system", "content": "You are helpful."},
            {"role": "user", "content": "Write a sonnet about rivers"},
            {"role": "assistant", "content": "Shall I rhyme?"},
            {"role": "user", "content": last},
        ]})
        .to_string()
    };
    assert_eq!(chat(&talk("Yes, please")).unwrap().text, "Write a sonnet about rivers\nYes, please");
    let other = "Now prove that there are infinitely many primes";
    assert_eq!(chat(&talk(other)).unwrap().text, other);
    assert_eq!(chat(&talk("a")).unwrap().conversation, chat(&talk(other)).unwrap().conversation);
}

#[test]
fn a_tool_result_is_recognised() {
    let body = json!({"model": "auto", "messages": [
        {"role": "user", "content": "What is the weather in Paris today?"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]});
    let decoded = chat(&body.to_string()).unwrap();
    assert!(decoded.in_tool_loop);
    assert_eq!(decoded.text, "What is the weather in Paris today?");
}

#[test]
fn bad_bodies_are_refused_by_place() {
    use ErrorKind::{InvalidJson, InvalidRequest};
    for (body, kind, param, says) in [
        ("", InvalidJson, "", "EOF"),
        ("{", InvalidJson, "", "line 1"),
        (r#"{"model":"a","messages":[{"role":"user","content":"hi"}],}"#, InvalidJson, "", "trailing comma"),
        (r#"{"messages":[{"role":"user","content":"hi"}]} x"#, InvalidJson, "", "trailing"),
        ("[]", InvalidRequest, "", ""),
        (r#"{"model":"a"}"#, InvalidRequest, "messages", "at least one message"),
        (r#"{"model":"a","messages":[]}"#, InvalidRequest, "messages", "at least one message"),
        (r#"{"model":"a","messages":"hi"}"#, InvalidRequest, "messages", "expected a sequence"),
        (
            r#"{"model":"a","messages":[{"content":"hi"}]}"#,
            InvalidRequest,
            "messages[0].role",
            "missing field `role`",
        ),
        (
            r#"{"model":"a","messages":[{"role":"user","content":7}]}"#,
            InvalidRequest,
            "messages[0].content",
            "a string, an array",
        ),
        (
            r#"{"model":7,"messages":[{"role":"user","content":"hi"}]}"#,
            InvalidRequest,
            "model",
            "non-empty string",
        ),
        (
            r#"{"model":"a","stream":"yes","messages":[{"role":"user","content":"hi"}]}"#,
            InvalidRequest,
            "stream",
            "boolean",
        ),
        (
            r#"{"model":"a","stream_options":7,"messages":[{"role":"user","content":"hi"}]}"#,
            InvalidRequest,
            "stream_options",
            "object",
        ),
    ] {
        let (k, p, message) = refused(body);
        assert_eq!((k, p.as_str()), (kind, param), "{body}");
        assert!(message.contains(says), "{body}: {message}");
    }
    let error =
        decode(Operation::ChatCompletions, Bytes::from_static(b"{\"model\":\"\xff\"}"), 64).unwrap_err();
    assert!(error.message.contains("not valid UTF-8"));
    let deep = format!(r#"{{"model":"a","x":{}{}}}"#, "[".repeat(100), "]".repeat(100));
    assert!(refused(&deep).2.contains("nested deeper than 64"));
}

#[test]
fn brackets_in_strings_are_no_nesting() {
    let content = "[{\\\"".repeat(200);
    let body = format!(r#"{{"model":"a","messages":[{{"role":"user","content":"{content}"}}]}}"#);
    assert!(chat(&body).is_ok());
}

#[test]
fn a_legacy_completion_may_carry_several_prompts_or_tokens() {
    let read = |prompt: &str| {
        let body = Bytes::from(format!(r#"{{"model":"a","prompt":{prompt}}}"#));
        decode(Operation::Completions, body, 64).unwrap().text
    };
    assert_eq!(read(r#""one""#), "one");
    assert_eq!(read(r#"["one","two"]"#), "one\ntwo");
    assert_eq!(read("[1,2,3]"), "");
    assert_eq!(read("[[1,2],[3]]"), "");
    let missing = decode(Operation::Completions, Bytes::from_static(b"{\"model\":\"a\"}"), 64).unwrap_err();
    assert_eq!(missing.param.as_deref(), Some("prompt"));
}

fn any_json(depth: u32) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(depth, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,8}|model|messages|content", inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        for operation in [Operation::ChatCompletions, Operation::Completions, Operation::Embeddings] {
            let _ = decode(operation, Bytes::from(body.clone()), 64);
        }
    }

    #[test]
    fn any_json_is_read_or_refused_and_a_read_one_keeps_its_bytes(mut value in any_json(4), model in ".{1,20}") {
        if let Some(fields) = value.as_object_mut() {
            fields.insert("messages".into(), json!([{"role": "user", "content": "hello"}]));
            fields.insert("model".into(), model.clone().into());
        }
        let text = value.to_string();
        if let Ok(decoded) = chat(&text) {
            prop_assert_eq!(&decoded.body, &text);
            prop_assert_eq!(&decoded.model, &model);
            let named: String = serde_json::from_slice(&decoded.body[decoded.model_span.clone()]).unwrap();
            prop_assert_eq!(named, model);
        }
    }
}
