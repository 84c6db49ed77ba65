use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::call::StreamOptions;

fn settings(json: &Value) -> LlmBackend {
    let mut fields = json!({"endpoints": [{"url": "http://localhost/v1"}]});
    for (name, value) in json.as_object().unwrap() {
        fields[name] = value.clone();
    }
    serde_json::from_value(fields).unwrap()
}

fn expert() -> ExpertId {
    ExpertId::new("expert/one").unwrap()
}

fn span_of(body: &str, name: &str) -> Option<Range<usize>> {
    members(body.as_bytes()).unwrap().into_iter().find(|(n, _)| n == name).map(|(_, at)| at)
}

/// The call that the gateway makes of a body.
fn composed(settings: &LlmBackend, body: &str) -> (String, bool) {
    let parsed: Value = serde_json::from_str(body).unwrap();
    let options = span_of(body, "stream_options").filter(|_| parsed["stream_options"].is_object());
    let (headers, id) = (HeaderMap::new(), HeaderValue::from_static("r"));
    let call = Call {
        operation: Operation::ChatCompletions,
        body: Bytes::copy_from_slice(body.as_bytes()),
        model_span: span_of(body, "model").unwrap(),
        messages: None,
        stream: parsed["stream"] == json!(true),
        stream_options: StreamOptions {
            span: options,
            include_usage: parsed["stream_options"]["include_usage"].as_bool(),
        },
        headers: &headers,
        request_id: &id,
        deadline: None,
        timeouts: crate::Timeouts::default(),
        affinity: None,
        seed: 0,
    };
    let composed = Composer::new(settings, "up\"stream", &expert()).compose(&call).unwrap();
    let Wanted::Chat { strip_usage } = composed.wanted else { panic!("a chat completion is wanted") };
    (String::from_utf8(composed.payload.joined()).unwrap(), strip_usage)
}

#[test]
fn only_the_model_is_replaced() {
    let (body, strip) =
        composed(&settings(&json!({})), "{ \"model\" :\t\"auto\", \"x\": 1.0e1, \"messages\":[] }\n");
    assert_eq!(body, "{ \"model\" :\t\"up\\\"stream\", \"x\": 1.0e1, \"messages\":[] }\n");
    assert!(!strip);
}

#[test]
fn usage_is_asked_for_in_streams_unless_the_client_did() {
    let s = settings(&json!({}));
    let cases = [
        (
            r#"{"model":"a","stream":true}"#,
            r#"{"model":"M","stream":true,"stream_options":{"include_usage":true}}"#,
            true,
        ),
        (
            r#"{"stream_options":{},"model":"a","stream":true}"#,
            r#"{"stream_options":{"include_usage":true},"model":"M","stream":true}"#,
            true,
        ),
        (
            r#"{"stream_options": { "x": 1 },"model":"a","stream":true}"#,
            r#"{"stream_options": {"include_usage":true, "x": 1 },"model":"M","stream":true}"#,
            true,
        ),
        (
            r#"{"stream_options":{"include_usage": false},"model":"a","stream":true}"#,
            r#"{"stream_options":{"include_usage": true},"model":"M","stream":true}"#,
            true,
        ),
        (
            r#"{"stream_options":null,"model":"a","stream":true}"#,
            r#"{"stream_options":{"include_usage":true},"model":"M","stream":true}"#,
            true,
        ),
        (
            r#"{"stream_options":{"include_usage":true},"model":"a","stream":true}"#,
            r#"{"stream_options":{"include_usage":true},"model":"M","stream":true}"#,
            false,
        ),
        (r#"{"model":"a","stream":false}"#, r#"{"model":"M","stream":false}"#, false),
    ];
    for (body, expected, stripped) in cases {
        let expected = expected.replace("\"M\"", "\"up\\\"stream\"");
        assert_eq!(composed(&s, body), (expected, stripped), "{body}");
    }
    let off = settings(&json!({"stream_usage": false}));
    assert_eq!(composed(&off, r#"{"model":"a","stream":true}"#).0, r#"{"model":"up\"stream","stream":true}"#);
}

#[test]
fn extra_fields_yield_to_the_client_and_overrides_do_not() {
    let s =
        settings(&json!({"extra_body": {"top_k": 5, "a\"b": 1}, "override_body": {"seed": 7, "user": null}}));
    let (body, _) = composed(&s, r#"{"seed": 1, "model":"a", "top_k": 9 , "seed" : 2}"#);
    assert_eq!(body, r#"{"seed": 7, "model":"up\"stream", "top_k": 9 , "seed" : 7,"a\"b":1,"user":null}"#);
}

#[test]
fn a_span_outside_of_the_body_is_an_error() {
    let (headers, id) = (HeaderMap::new(), HeaderValue::from_static("r"));
    let call = Call {
        operation: Operation::Completions,
        body: Bytes::from_static(b"{}"),
        model_span: 1..9,
        messages: None,
        stream: false,
        stream_options: StreamOptions::default(),
        headers: &headers,
        request_id: &id,
        deadline: None,
        timeouts: crate::Timeouts::default(),
        affinity: None,
        seed: 0,
    };
    let error = Composer::new(&settings(&json!({})), "m", &expert()).compose(&call).err().unwrap();
    assert_eq!(error.kind(), CallErrorKind::Request);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().collect()))
        ]
    })
}

proptest! {
    /// Composing equals parsing, changing and writing, for any body and any configured fields.
    #[test]
    fn composing_equals_editing_the_parsed_body(
        fields in prop::collection::btree_map("[a-e]{1,2}", any_json(), 0..6),
        extra in prop::collection::btree_map("[a-e]{1,2}", any_json(), 0..4),
        overrides in prop::collection::btree_map("[a-e]{1,2}", any_json(), 0..4),
        stream in any::<bool>(),
        options in prop_oneof![Just(None), Just(Some(json!(null))), Just(Some(json!({}))), Just(Some(json!({"include_usage": true}))), Just(Some(json!({"z": [1], "include_usage": false})))],
        pretty in any::<bool>(),
    ) {
        let mut body: serde_json::Map<String, Value> = fields.into_iter().collect();
        body.insert("model".into(), json!("client"));
        body.insert("stream".into(), json!(stream));
        if let Some(options) = options {
            body.insert("stream_options".into(), options);
        }
        let body = Value::Object(body);
        let text = if pretty { serde_json::to_string_pretty(&body).unwrap() } else { body.to_string() };
        let (out, _) = composed(&settings(&json!({"extra_body": extra, "override_body": overrides})), &text);
        let mut expected = body;
        expected["model"] = json!("up\"stream");
        if stream {
            if !expected["stream_options"].is_object() {
                expected["stream_options"] = json!({});
            }
            expected["stream_options"]["include_usage"] = json!(true);
        }
        for (name, value) in extra {
            if expected.get(&name).is_none() && !overrides.contains_key(&name) {
                expected[name] = value;
            }
        }
        for (name, value) in overrides {
            expected[name] = value;
        }
        prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected);
    }
}
