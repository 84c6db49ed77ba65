//! Whole answers.

use std::sync::Arc;
use std::time::Duration;

use mock_expert::{Mock, Settings, SleepMode};
use serde_json::{Value, json};

use crate::client::{chat, exchange, get, mock};

fn question(extra: Value) -> Value {
    let mut body =
        json!({"model": "coder", "messages": [{"role": "user", "content": "why is the sky blue?"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_chat_says_who_was_asked_what_and_is_the_same_every_time() {
    let mock = mock().await;
    let first = chat(&mock, "", &question(json!({}))).await;
    assert_eq!(first.status, 200);
    let answer = first.json();
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.starts_with("[mock-expert coder] ") && text.contains("why is the sky blue?"), "{text}");
    assert_eq!(answer["model"], "coder");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let usage = &answer["usage"];
    let total = usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], total);
    assert_eq!(chat(&mock, "", &question(json!({}))).await.body, first.body);
}

#[tokio::test]
async fn several_choices_differ_and_a_limit_cuts_them() {
    let mock = mock().await;
    let answer = chat(&mock, "", &question(json!({"n": 3, "max_tokens": 4}))).await.json();
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    assert!(choices.iter().all(|choice| choice["finish_reason"] == "length"));
    assert_eq!(answer["usage"]["completion_tokens"], 12);

    let whole = chat(&mock, "", &question(json!({"n": 2}))).await.json();
    assert_ne!(whole["choices"][0]["message"]["content"], whole["choices"][1]["message"]["content"]);
}

#[tokio::test]
async fn the_first_tool_is_called_until_its_result_comes() {
    let mock = mock().await;
    let tools = json!([{"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object", "required": ["city", "days"],
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"type": "string"}}}}}]);
    let answer = chat(&mock, "", &question(json!({"tools": tools}))).await.json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "weather");
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"city": "why is the sky blue?", "days": 1}));

    let after = json!({"model": "coder", "tools": tools, "messages": [
        {"role": "user", "content": "why?"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "rain"}]});
    let text = chat(&mock, "", &after).await.json();
    assert!(text["choices"][0]["message"]["content"].as_str().unwrap().contains("The tool said: \"rain\""));

    let none = chat(&mock, "", &question(json!({"tools": tools, "tool_choice": "none"}))).await.json();
    assert_eq!(none["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_json_schema_is_satisfied() {
    let mock = mock().await;
    let format = json!({"type": "json_schema", "json_schema": {"name": "reply", "schema": {
        "type": "object", "required": ["kind", "count"],
        "properties": {"kind": {"enum": ["a", "b"]}, "count": {"type": "integer"}}}}});
    let answer = chat(&mock, "", &question(json!({"response_format": format}))).await.json();
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), json!({"kind": "a", "count": 1}));
}

#[tokio::test]
async fn log_probabilities_have_the_shape_of_their_endpoint() {
    let mock = mock().await;
    let answer = chat(&mock, "", &question(json!({"logprobs": true, "top_logprobs": 2}))).await.json();
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let text: String = tokens.iter().map(|t| t["token"].as_str().unwrap()).collect();
    assert_eq!(text, answer["choices"][0]["message"]["content"].as_str().unwrap());
    assert_eq!(tokens[0]["top_logprobs"].as_array().unwrap().len(), 2);

    let body = json!({"model": "m", "prompt": "hi", "logprobs": 2}).to_string();
    let answer = exchange(&mock, "POST", "/v1/completions", "", &body).await.json();
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(
        logprobs["tokens"].as_array().unwrap().len(),
        logprobs["text_offset"].as_array().unwrap().len()
    );
}

#[tokio::test]
async fn completions_answer_every_prompt() {
    let mock = mock().await;
    let body = json!({"model": "m", "prompt": ["one", "two"], "n": 2}).to_string();
    let answer = exchange(&mock, "POST", "/v1/completions", "", &body).await.json();
    assert_eq!(answer["object"], "text_completion");
    let texts: Vec<&str> =
        answer["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts.len(), 4);
    assert!(texts[0].contains("\"one\"") && texts[3].contains("\"two\""));
}

#[tokio::test]
async fn embeddings_come_as_numbers_or_base64() {
    let mock = mock().await;
    let ask = async |extra: &str| {
        let body = format!(r#"{{"model":"e","input":["a b","c"],"dimensions":8{extra}}}"#);
        exchange(&mock, "POST", "/v1/embeddings", "", &body).await.json()
    };
    let numbers = ask("").await;
    assert_eq!(numbers["data"][1]["embedding"].as_array().unwrap().len(), 8);
    let packed = ask(r#","encoding_format":"base64""#).await;
    assert_eq!(packed["data"][0]["embedding"].as_str().unwrap().len(), 44);
}

#[tokio::test]
async fn models_are_listed_and_strictness_refuses_the_others() {
    let settings =
        Settings { models: vec!["a".to_owned(), "b".to_owned()], strict: true, ..Settings::default() };
    let mock = Mock::start(settings).await.unwrap();
    let list = get(&mock, "/v1/models").await.json();
    assert_eq!(list["data"][1]["id"], "b");
    assert_eq!(get(&mock, "/v1/models/a").await.json()["object"], "model");
    assert_eq!(get(&mock, "/v1/models/z").await.status, 404);
    assert_eq!(get(&mock, "/health").await.status, 200);
    let refused = chat(&mock, "", &question(json!({}))).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn bad_requests_get_an_error_object() {
    let mock = mock().await;
    for body in ["", "{", "[]", r#"{"model": 3, "messages": []}"#, r#"{"messages": []}"#] {
        let got = exchange(&mock, "POST", "/v1/chat/completions", "", body).await;
        assert_eq!(got.status, 400, "{body}");
        let error = got.json();
        for key in ["message", "type", "param", "code"] {
            assert!(error["error"].get(key).is_some(), "{key} of {error}");
        }
    }
    assert_eq!(get(&mock, "/nowhere").await.status, 404);
}

#[tokio::test]
async fn statistics_show_what_was_sent_and_forget_it_on_reset() {
    let mock = mock().await;
    chat(&mock, "x-one: 1\r\nx-one: 2\r\n", &question(json!({"user": "me"}))).await;
    let stats = get(&mock, "/__stats").await.json();
    assert_eq!((&stats["requests"], &stats["models"]["coder"]), (&json!(1), &json!(1)));
    assert_eq!((&stats["in_flight"], &stats["cancelled"]), (&json!(0), &json!(0)));
    let seen = &stats["recent"][0];
    assert_eq!(seen["path"], "/v1/chat/completions");
    assert_eq!(seen["headers"]["x-one"], "1, 2");
    assert!(seen["body"].as_str().unwrap().contains("\"user\":\"me\""));

    assert_eq!(exchange(&mock, "POST", "/__reset", "", "").await.status, 200);
    let stats = mock.stats();
    assert_eq!((stats.requests, stats.recent.len()), (0, 0));
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_served() {
    use http_body_util::{BodyExt, Full};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let mock = mock().await;
    let stream = tokio::net::TcpStream::connect(mock.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driver = tokio::task::spawn(connection);
    let body = question(json!({"stream": true})).to_string();
    let request = hyper::Request::post(format!("{}/chat/completions", mock.url()))
        .header("x-mock-fault", "reset-mid")
        .body(Full::new(bytes::Bytes::from(body)))
        .unwrap();
    let cut = sender.send_request(request.clone()).await.unwrap();
    assert_eq!(cut.version(), hyper::Version::HTTP_2);
    assert!(cut.into_body().collect().await.is_err(), "the stream is reset, not the connection");

    let mut request = request;
    request.headers_mut().clear();
    let whole = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert!(whole.ends_with(b"data: [DONE]\n\n"));
    drop(sender);
    driver.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_chat_may_dictate_its_answer() {
    let mock = mock().await;
    let call =
        json!({"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let dictated = json!({
        "deltas": [{"reasoning_content": "hm"}, {"content": "a"}, {"content": "b"}, {"tool_calls": [call]}],
        "finish_reason": "tool_calls", "stop_reason": "END", "usage": {"prompt_tokens": 7, "completion_tokens": 8},
    });
    let answer = chat(&mock, "", &question(json!({"mock_answer": dictated}))).await.json();
    let choice = &answer["choices"][0];
    let message = &choice["message"];
    assert_eq!((&message["content"], &message["reasoning_content"]), (&json!("ab"), &json!("hm")));
    assert_eq!(message["tool_calls"][0]["id"], "c1");
    assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("tool_calls"), &json!("END")));
    assert_eq!(answer["usage"], dictated["usage"]);

    let wrong = chat(&mock, "", &question(json!({"mock_answer": {"pieces": []}}))).await;
    assert!(wrong.status == 400 && wrong.body.contains("deltas"), "{wrong:?}");
}

#[tokio::test]
async fn an_engine_sleeps_and_requests_wait_until_it_is_awake() {
    let wake = "40ms".parse().unwrap();
    let sleep_mode = Some(SleepMode { wake, asleep: true, ..SleepMode::default() });
    let mock = Arc::new(Mock::start(Settings { sleep_mode, ..Settings::default() }).await.unwrap());
    let asleep = async || exchange(&mock, "GET", "/is_sleeping", "", "").await.json()["is_sleeping"].clone();
    let order = async |path: &str| exchange(&mock, "POST", path, "", "").await.json()["status"].clone();
    assert_eq!(asleep().await, true);
    let waiting = tokio::spawn({
        let mock = mock.clone();
        async move { chat(&mock, "", &question(json!({}))).await.status }
    });
    while mock.stats().sleep.unwrap().waited == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(!waiting.is_finished());
    assert_eq!(order("/wake_up").await, "awake");
    assert_eq!(waiting.await.unwrap(), 200);
    assert_eq!(order("/sleep?level=1&mode=wait").await, "sleeping");
    assert_eq!(asleep().await, true);
    let seen = mock.stats().sleep.unwrap();
    assert_eq!((seen.wakes, seen.awake.len()), (1, 1));
    assert!(seen.awake[0].to_ns.unwrap() - seen.awake[0].from_ns >= 40_000_000);
}
