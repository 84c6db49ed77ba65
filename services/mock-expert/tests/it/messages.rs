//! A mock that speaks Messages.

use mock_expert::{Fault, Mock, Protocol, Settings, Step};
use serde_json::{Value, json};

use crate::client::{Got, exchange, get};

const VERSION: &str = "anthropic-version: 2023-06-01\r\n";

async fn mock() -> Mock {
    Mock::start(Settings { protocol: Protocol::Messages, ..Settings::default() }).await.unwrap()
}

fn question(extra: Value) -> Value {
    let mut body = json!({"model": "m", "max_tokens": 99, "messages": [{"role": "user", "content": "why?"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

async fn ask(mock: &Mock, body: &Value) -> Got {
    exchange(mock, "POST", "/v1/messages", VERSION, &body.to_string()).await
}

/// The data of a stream's events, each of which is named as it says.
fn events(got: &Got) -> Vec<Value> {
    let all = got.body.split_terminator("\n\n").map(|event| {
        let (name, data) = event.split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(name.strip_prefix("event: ").unwrap(), data["type"]);
        data
    });
    all.collect()
}

#[tokio::test]
async fn nothing_else_is_spoken() {
    let mock = mock().await;
    let chat =
        exchange(&mock, "POST", "/v1/chat/completions", VERSION, &question(json!({})).to_string()).await;
    assert_eq!((chat.status, &chat.json()["error"]["type"]), (404, &json!("not_found_error")));
    let unversioned = exchange(&mock, "POST", "/v1/messages", "", &question(json!({})).to_string()).await;
    assert_eq!((unversioned.status, &unversioned.json()["type"]), (400, &json!("error")));
    let unlimited = json!({"model": "m", "messages": [{"role": "user", "content": "a"}]});
    let got = ask(&mock, &unlimited).await;
    assert!(got.status == 400 && got.body.contains("max_tokens"), "{got:?}");
    assert_eq!(get(&mock, "/v1/models").await.json()["data"][0]["type"], "model");
    let other = exchange(&crate::client::mock().await, "POST", "/v1/messages", VERSION, "{}").await;
    assert_eq!(other.status, 404);
}

#[tokio::test]
async fn a_stream_adds_up_to_the_whole_answer() {
    let mock = mock().await;
    let dictated = json!({"content": [
        {"type": "thinking", "thinking": "let me see", "signature": "c2ln"},
        {"type": "text", "text": "one two"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": [1, "x y"]}},
        {"type": "redacted_thinking", "data": "eA=="},
    ], "stop_reason": "tool_use", "usage": {"input_tokens": 3, "output_tokens": 8}});
    for extra in [json!({}), json!({ "mock_answer": dictated })] {
        let whole = ask(&mock, &question(extra.clone())).await.json();
        let mut body = question(extra);
        body["stream"] = true.into();
        let got = ask(&mock, &body).await;
        assert!(got.head.contains("text/event-stream"), "{}", got.head);
        let mut message = Value::Null;
        let mut arguments = String::new();
        for event in events(&got) {
            let at = event["index"].as_u64().unwrap_or(0) as usize;
            match event["type"].as_str().unwrap() {
                "message_start" => message = event["message"].clone(),
                "content_block_start" => {
                    message["content"].as_array_mut().unwrap().push(event["content_block"].clone());
                }
                "content_block_delta" => {
                    for (name, piece) in
                        event["delta"].as_object().unwrap().iter().filter(|(name, _)| *name != "type")
                    {
                        if name == "partial_json" {
                            arguments += piece.as_str().unwrap();
                            continue;
                        }
                        let so_far = message["content"][at][name].as_str().unwrap().to_owned();
                        message["content"][at][name] = (so_far + piece.as_str().unwrap()).into();
                    }
                }
                "content_block_stop" if message["content"][at]["type"] == "tool_use" => {
                    message["content"][at]["input"] = serde_json::from_str(&arguments).unwrap();
                }
                "message_delta" => {
                    message["stop_reason"] = event["delta"]["stop_reason"].clone();
                    message["usage"] = event["usage"].clone();
                }
                _ => {}
            }
        }
        assert_eq!(message, whole);
        assert_eq!(events(&got).last().unwrap()["type"], "message_stop");
    }
}

#[tokio::test]
async fn faults_are_in_the_protocols_words() {
    let mock = mock().await;
    let strike = |fault| mock.script(vec![Step::always(fault)]);
    strike(Fault::Status { status: 529, retry_after: Some(2) });
    let got = ask(&mock, &question(json!({}))).await;
    assert_eq!((got.status, &got.json()["error"]["type"]), (529, &json!("overloaded_error")));
    assert!(got.head.contains("retry-after: 2"), "{}", got.head);
    let streamed = question(json!({"stream": true}));
    strike(Fault::MissingDone);
    let got = ask(&mock, &streamed).await;
    assert!(got.complete && events(&got).last().unwrap()["type"] == "message_delta", "{got:?}");
    strike(Fault::Garbage);
    assert!(ask(&mock, &streamed).await.body.contains("\"index\": oops\n\n"));
    strike(Fault::ResetMid);
    let got = ask(&mock, &streamed).await;
    assert!(!got.complete && !got.body.contains("message_stop"), "{got:?}");
    strike(Fault::OversizeBody(1 << 20));
    assert!(
        ask(&mock, &question(json!({}))).await.json()["content"][0]["text"].as_str().unwrap().len()
            >= 1 << 20
    );
    assert!(events(&ask(&mock, &streamed).await).len() > 4);
}
