//! The data plane's wire format, streamed and not.

use std::time::Duration;

use e2e::{Client, Gateway};
use serde_json::{Value, json};

use crate::support::{ask, fixed, last_body, llm, mock, nobody};

#[tokio::test]
async fn a_chat_is_passed_on_with_only_the_model_replaced() {
    let mock = mock().await;
    let config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
    let gateway = Gateway::start(&config).unwrap();
    let body = r#"{ "messages":[{"role":"user","content":"caf\u00e9"}],  "model" : "auto","x_unknown":{"model":"kept"},"temperature":1.50 }"#;
    let client = Client::default();
    let answer = client
        .send("POST", &gateway.v1("chat/completions"), &[("x-request-id", "req-of-the-test")], body)
        .await
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(last_body(&mock), body.replace("\"auto\"", "\"coder\""));
    assert_eq!(answer.json()["model"], "coder");
    assert_eq!(answer.header("x-request-id"), "req-of-the-test");
    assert_eq!(answer.header("content-type"), "application/json");
    let shown = |name: &str| answer.header(&format!("x-guildhall-{name}")).to_owned();
    assert_eq!(
        (shown("route"), shown("policy"), shown("expert"), shown("path"), shown("attempts")),
        ("auto".into(), "static".into(), "coder".into(), "upstream".into(), "1".into())
    );
    assert!(shown("decision").starts_with("d-"));
    assert!(shown("overhead-ms").parse::<f64>().is_ok());
    assert!(answer.header("server-timing").contains("expert;dur="));
    let sent = &mock.stats().recent[0].headers;
    assert_eq!(sent.get("x-request-id").map(String::as_str), Some("req-of-the-test"));
    assert!(!sent.contains_key("authorization"));
}

#[tokio::test]
async fn a_stream_is_framed_as_clients_expect() {
    let mock = mock().await;
    let config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let mut body = ask("auto", "stream please");
    body["stream"] = true.into();
    let answer = client.post(&gateway.v1("chat/completions"), &body).await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").starts_with("text/event-stream"));
    assert_eq!(answer.header("x-accel-buffering"), "no");
    assert_eq!(answer.header("cache-control"), "no-cache");
    let events = answer.events();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(chunks.iter().all(|c| c["model"] == "coder" && c["id"] == chunks[0]["id"]));
    // The gateway asked for usage to account for it; the client did not, and sees none.
    assert!(chunks.iter().all(|c| !c["choices"].as_array().unwrap().is_empty()));
    let sent: Value = serde_json::from_str(&last_body(&mock)).unwrap();
    assert_eq!(sent["stream_options"]["include_usage"], true);

    body["stream_options"] = json!({"include_usage": true});
    let answer = client.post(&gateway.v1("chat/completions"), &body).await.unwrap();
    let events = answer.events();
    let usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert!(usage["usage"]["completion_tokens"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn the_other_operations_are_passed_on() {
    let mock = mock().await;
    let config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let legacy = json!({"model": "auto", "prompt": "once upon"});
    let answer = client.post(&gateway.v1("completions"), &legacy).await.unwrap();
    assert_eq!((answer.status, &answer.json()["object"]), (200, &json!("text_completion")));
    let embed = json!({"model": "coder", "input": ["a", "b"]});
    let answer = client.post(&gateway.v1("embeddings"), &embed).await.unwrap();
    assert_eq!((answer.status, answer.json()["data"].as_array().unwrap().len()), (200, 2));
    let models = client.get(&gateway.v1("models")).await.unwrap().json();
    let ids: Vec<&str> = models["data"].as_array().unwrap().iter().filter_map(|m| m["id"].as_str()).collect();
    assert_eq!(ids, ["auto", "coder"]);
    assert_eq!(client.get(&gateway.v1("models/coder")).await.unwrap().json()["id"], "coder");
    let missing = client.get(&gateway.v1("models/codr")).await.unwrap();
    assert_eq!(missing.status, 404);
    assert!(missing.text().contains("did you mean `coder`?"));
}

#[tokio::test]
async fn a_constant_and_a_refusal_need_no_upstream() {
    let config = format!(
        "experts:\n  - {{id: hello, backend: {{kind: constant, text: 'Hello from a fixed text.'}}}}\n  - {{id: no, backend: {{kind: reject, reason: 'Not here.'}}}}\n{}  - {{id: never, policy: {{kind: static, order: [{{expert: no}}]}}}}\n",
        fixed(&["hello"])
    );
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let answer = client.post(&gateway.v1("chat/completions"), &ask("auto", "hi")).await.unwrap();
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "Hello from a fixed text.");
    assert_eq!(answer.header("x-guildhall-path"), "constant");
    let mut streamed = ask("auto", "hi");
    streamed["stream"] = true.into();
    let events = client.post(&gateway.v1("chat/completions"), &streamed).await.unwrap().events();
    let text: String = events[..events.len() - 1]
        .iter()
        .filter_map(|e| {
            serde_json::from_str::<Value>(e).ok()?["choices"][0]["delta"]["content"]
                .as_str()
                .map(str::to_owned)
        })
        .collect();
    assert_eq!((text.as_str(), events.last().unwrap().as_str()), ("Hello from a fixed text.", "[DONE]"));
    let refused = client.post(&gateway.v1("chat/completions"), &ask("never", "hi")).await.unwrap();
    assert_eq!((refused.status, refused.header("x-guildhall-path")), (403, "reject"));
    assert_eq!(refused.json()["error"]["message"], "Not here.");
    assert_eq!(refused.json()["error"]["code"], "request_rejected");
}

#[tokio::test]
async fn the_next_candidate_answers_for_one_that_is_gone_or_busy() {
    let (good, busy) = (mock().await, mock().await);
    let (_taken, gone_url) = nobody();
    busy.script(vec![mock_expert::Step::always("status:503".parse().unwrap())]);
    let config = format!(
        "experts:\n{}{}{}{}",
        llm("gone", &gone_url, ""),
        llm("busy", &busy.url(), ""),
        llm("good", &good.url(), ""),
        fixed(&["gone", "busy", "good"])
    );
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let answer = client.post(&gateway.v1("chat/completions"), &ask("auto", "hi")).await.unwrap();
    assert_eq!((answer.status, answer.header("x-guildhall-expert")), (200, "good"), "{}", answer.text());
    assert_eq!(answer.header("x-guildhall-attempts"), "7", "three tries at each that failed");
    let alone = client.post(&gateway.v1("chat/completions"), &ask("gone", "hi")).await.unwrap();
    assert_eq!((alone.status, alone.json()["error"]["code"].as_str()), (502, Some("upstream_failed")));
    let passed = client.post(&gateway.v1("chat/completions"), &ask("busy", "hi")).await.unwrap();
    assert_eq!(passed.status, 503);
    assert!(passed.json()["error"]["message"].is_string());
}

#[tokio::test]
async fn the_default_expert_answers_when_three_candidates_did_not() {
    let (good, busy) = (mock().await, mock().await);
    busy.script(vec![mock_expert::Step::always("status:503".parse().unwrap())]);
    let names = ["b1", "b2", "b3", "b4"];
    let experts: String = names.iter().map(|n| llm(n, &busy.url(), "")).collect();
    let routes = fixed(&names).replace("}]}", "}]}, default: spare");
    let config = format!("experts:\n{experts}{}{routes}", llm("spare", &good.url(), ""));
    let gateway = Gateway::start(&config).unwrap();
    let answer = Client::default().post(&gateway.v1("chat/completions"), &ask("auto", "hi")).await.unwrap();
    assert_eq!((answer.status, answer.header("x-guildhall-expert")), (200, "spare"), "{}", answer.text());
    assert_eq!(
        (answer.header("x-guildhall-attempts"), answer.header("x-guildhall-path")),
        ("10", "fallback")
    );
    assert_eq!(busy.stats().requests, 9, "three tries at each");
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error_event() {
    let mock = mock().await;
    let config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let mut body = ask("auto", "stream please");
    body["stream"] = true.into();
    for fault in ["reset-mid", "half-event"] {
        mock.script(vec![mock_expert::Step::always(fault.parse().unwrap())]);
        let answer = client.post(&gateway.v1("chat/completions"), &body).await.unwrap();
        assert_eq!(answer.status, 200);
        let events = answer.events();
        let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
        assert_eq!(last["error"]["type"], "server_error", "{fault}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_upstream_call() {
    // Before the answer's head, and in the middle of a stream.
    for fault in ["stall", "stall-mid"] {
        let mock = mock().await;
        mock.script(vec![mock_expert::Step::always(fault.parse().unwrap())]);
        let config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
        let gateway = Gateway::start(&config).unwrap();
        let mut body = ask("auto", "stream please");
        body["stream"] = true.into();
        let url = gateway.v1("chat/completions");
        let client = tokio::spawn(async move {
            let client = Client::default();
            let answer = client.open("POST", &url, &[], body.to_string()).await;
            // Holds the connection open until it is told to leave.
            std::future::pending::<()>().await;
            drop((client, answer));
        });
        until("the call arrives", || mock.stats().in_flight == 1).await;
        client.abort();
        until("the call ends", || mock.stats().cancelled == 1).await;
    }
}

/// Waits, in small steps, for something that another process does.
async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("not within five seconds: {what}");
}

#[tokio::test]
async fn headers_that_are_ours_are_not_believed_from_outside() {
    let mock = mock().await;
    let config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let headers = [
        ("x-guildhall-expert", "spoofed"),
        ("x-guildhall-decision", "spoofed"),
        ("authorization", "Bearer sk-client"),
    ];
    let answer = client
        .send("POST", &gateway.v1("chat/completions"), &headers, ask("auto", "hi").to_string())
        .await
        .unwrap();
    assert_eq!(answer.header("x-guildhall-expert"), "coder");
    let sent = &mock.stats().recent[0].headers;
    assert!(sent.keys().all(|k| !k.starts_with("x-guildhall")), "{sent:?}");
    assert!(!sent.values().any(|v| v.contains("sk-client")), "{sent:?}");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_is_in_the_record() {
    let slow = mock().await;
    slow.script(vec![mock_expert::Step::always("stall".parse().unwrap())]);
    let config = format!("experts:\n{}{}", llm("slow", &slow.url(), ""), fixed(&["slow"]));
    let gateway = Gateway::start(&config).unwrap();
    let url = gateway.v1("chat/completions");
    let waiting = tokio::spawn(async move { Client::default().post(&url, &ask("auto", "hi")).await });
    let client = Client::default();
    for _ in 0..500 {
        if slow.stats().in_flight == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    waiting.abort();
    let bearer = gateway.bearer();
    let headers = [("authorization", bearer.as_str())];
    let mut found = serde_json::Value::Null;
    for _ in 0..500 {
        let answer = client.send("GET", &gateway.admin_v1("decisions"), &headers, "").await.unwrap();
        found = answer.json()["items"][0].clone();
        if found.is_object() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((&found["status"], &found["outcome"]["end"]), (&499.into(), &"client_left".into()), "{found}");
    for _ in 0..500 {
        if slow.stats().in_flight == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the expert still works for nobody");
}

#[tokio::test]
async fn the_turns_of_a_conversation_go_where_its_prefix_is_cached() {
    let mocks = [mock().await, mock().await];
    let endpoints: Vec<String> = mocks.iter().map(|m| format!("{{url: '{}'}}", m.url())).collect();
    let config = format!(
        "experts:\n  - {{id: m, backend: {{kind: llm, balancing: prefix_affinity, endpoints: [{}]}}}}\n{}",
        endpoints.join(", "),
        fixed(&["m"])
    );
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let url = gateway.v1("chat/completions");
    for n in 0..12 {
        let mut talk = ask("auto", &format!("conversation number {n}, about something"));
        for turn in 0..2 {
            assert_eq!(client.post(&url, &talk).await.unwrap().status, 200, "{n} {turn}");
            let messages = talk["messages"].as_array_mut().unwrap();
            messages.push(serde_json::json!({"role": "assistant", "content": "well"}));
            messages.push(serde_json::json!({"role": "user", "content": format!("and then, {turn}?")}));
        }
    }
    let seen: Vec<Vec<String>> =
        mocks.iter().map(|m| m.stats().recent.iter().map(|r| r.body.clone()).collect()).collect();
    for n in 0..12 {
        let of = |bodies: &[String]| {
            bodies.iter().filter(|b| b.contains(&format!("conversation number {n},"))).count()
        };
        assert!(matches!((of(&seen[0]), of(&seen[1])), (2, 0) | (0, 2)), "conversation {n} was split");
    }
    assert!(seen.iter().all(|bodies| !bodies.is_empty()), "all conversations went to one endpoint");
}
