//! What the gateway writes about requests: a line each, and never what was said.

use std::collections::BTreeSet;

use e2e::{Client, Gateway};
use mock_expert::Step;
use serde_json::{Value, json};

use crate::support::{ask, chat, fixed, in_flight, key, llm, mock, token};

/// Stands in every prompt.
const MARKER: &str = "xyzzy-plugh-4711";

#[tokio::test]
async fn one_line_for_each_request_and_no_prompt_and_no_secret_at_any_level() {
    let mock = mock().await;
    let config = format!(
        "telemetry: {{log: trace, format: json}}\nexperts:\n{}{}keys:\n{}",
        llm("coder", &mock.url(), "capabilities: {tools: true}"),
        fixed(&["coder"]),
        key("ci", "permissions: {name_experts: true}")
    );
    let mut gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let prompt = format!("my secret is {MARKER}");
    let mut names = BTreeSet::new();
    let mut send = async |name: &str, fault: Option<&str>, body: String| {
        mock.script(fault.map(|f| Step::always(f.parse().unwrap())).into_iter().collect());
        let bearer = format!("Bearer {}", token("ci"));
        let headers = [("authorization", bearer.as_str()), ("x-request-id", name)];
        names.insert(name.to_owned());
        let answer = client.send("POST", &gateway.v1("chat/completions"), &headers, body).await;
        // 0 where the answer breaks off.
        answer.map_or(0, |answer| answer.status)
    };
    let plain = ask("auto", &prompt);
    let mut stream = plain.clone();
    stream["stream"] = true.into();
    let tools = json!({"model": "auto", "messages": [{"role": "user", "content": [{"type": "text", "text": prompt}]}],
        "tools": [{"type": "function", "function": {"name": "f", "description": prompt, "parameters": {}}}], "user": prompt});
    assert_eq!(send("plain", None, plain.to_string()).await, 200);
    assert_eq!(send("stream", None, stream.to_string()).await, 200);
    assert_eq!(send("tools", None, tools.to_string()).await, 200);
    assert_eq!(send("named", None, ask("coder", &prompt).to_string()).await, 200);
    assert_eq!(send("upstream-cut", Some("reset-mid"), stream.to_string()).await, 200);
    assert_eq!(send("upstream-400", Some("status:400"), plain.to_string()).await, 400);
    assert_eq!(send("upstream-reset", Some("reset"), plain.to_string()).await, 502);
    // From about here on the expert's only endpoint may be given a rest, and the answers be the gateway's own.
    for (name, fault) in [("half", "half-event"), ("garbage", "garbage"), ("503", "status:503")] {
        send(&format!("upstream-{name}"), Some(fault), plain.to_string()).await;
    }
    // Broken in ways whose error messages could quote the body.
    assert_eq!(send("no-json", None, format!("{{\"messages\": {MARKER}")).await, 400);
    assert_eq!(send("bad-role", None, json!({"model": "auto", "messages": prompt}).to_string()).await, 400);
    in_flight(&client, &gateway, 0).await;
    // And without a key, and with a wrong one.
    for (id, name) in [("nobody", "wrong-key"), ("", "no-key")] {
        let headers = [("x-request-id", name)];
        assert_eq!(chat(&client, &gateway, id, &headers, &plain).await.status, 401);
        names.insert(name.to_owned());
    }
    assert_eq!(gateway.terminate().unwrap(), Some(0));

    let (said, logged) = (gateway.said(), gateway.errors());
    let secret = token("ci").rsplit_once('-').unwrap().1.to_owned();
    for text in [&said, &logged] {
        for private in [MARKER, &secret, &token("nobody"), gateway.token()] {
            let place = text.find(private);
            let around = place.map(|at| &text[at.saturating_sub(300)..text.len().min(at + 50)]);
            assert!(place.is_none(), "{private} is in the output: {around:?}");
        }
    }
    let lines = logged.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let access: Vec<Value> = lines.filter(|line| line["log"] == "access").collect();
    let ids: BTreeSet<String> =
        access.iter().map(|line| line["request_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, names);
    assert_eq!(access.len(), names.len(), "a request has more than one line");
    let of = |name: &str| access.iter().find(|line| line["request_id"] == name).unwrap();
    assert_eq!((&of("plain")["status"], &of("plain")["key"]), (&json!(200), &json!("ci")));
    assert_eq!(of("wrong-key")["key"], Value::Null);
    assert_eq!(of("upstream-cut")["end"], "cut", "{}", of("upstream-cut"));
    let quietest = ["DEBUG", "TRACE"].map(|level| logged.contains(&format!("\"level\":\"{level}\"")));
    assert!(quietest.contains(&true), "the log level was not in force: {logged}");
}
