//! What the gateway writes about requests: a line each, and never what was said.

use std::collections::BTreeSet;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use e2e::{Client, Gateway};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use mock_expert::Step;
use serde_json::{Value, json};

use crate::support::{ask, chat, fixed, in_flight, key, llm, mock, token, until};

/// Stands in every prompt.
const MARKER: &str = "xyzzy-plugh-4711";
/// Stands in every answer.
const ANSWER: &str = "plover-4712";
/// Stands in the prompts of requests that are not sampled, where others are.
const UNSEEN: &str = "fee-fie-foe-4713";

/// Takes traces and keeps the posts as they come.
async fn collector() -> (String, Arc<Mutex<Vec<Bytes>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let posts = Arc::new(Mutex::new(Vec::new()));
    let taken = posts.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let posts = posts.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let posts = posts.clone();
                async move {
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    posts.lock().unwrap().push(body);
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (url, taken)
}

/// How often a text stands in what was posted. Texts of protobuf stand there as they are.
fn count(posts: &Mutex<Vec<Bytes>>, text: &str) -> usize {
    let posts = posts.lock().unwrap();
    posts.iter().map(|post| String::from_utf8_lossy(post).matches(text).count()).sum()
}

/// A request of each protocol, whole and as a stream, whose answer holds [`ANSWER`], also in the arguments of a
/// tool call.
fn requests(prompt: &str) -> Vec<(&'static str, Value)> {
    let call = json!({"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": json!({"x": ANSWER}).to_string()}});
    let (before, after) = ANSWER.split_at(4);
    let answer = json!({"finish_reason": "tool_calls", "deltas": [
        {"reasoning_content": format!("hm, {ANSWER}")}, {"content": before}, {"content": after}, {"tool_calls": [call]},
    ]});
    let messages = json!([{"role": "user", "content": prompt}]);
    let mut all = Vec::new();
    for stream in [false, true] {
        for (path, mut body) in [
            ("chat/completions", json!({"messages": messages})),
            ("messages", json!({"messages": messages, "system": prompt, "max_tokens": 9})),
            ("responses", json!({"input": prompt, "instructions": prompt})),
        ] {
            body["model"] = "auto".into();
            body["stream"] = stream.into();
            body["mock_answer"] = answer.clone();
            all.push((path, body));
        }
    }
    all
}

#[tokio::test]
async fn content_is_in_the_traces_of_sampled_requests_where_that_is_wanted_and_nowhere_else() {
    for capture in [false, true] {
        let mock = mock().await;
        let (url, posts) = collector().await;
        let config = format!(
            "telemetry: {{log: trace, format: json, traces: {{endpoint: '{url}', sample_ratio: 1.0, \
             flush_interval_ms: 1, capture_content: {capture}}}}}\nexperts:\n{}{}",
            llm("coder", &mock.url(), "capabilities: {tools: true}"),
            fixed(&["coder"]),
        );
        let mut gateway = Gateway::start(&config).unwrap();
        let client = Client::default();
        let send = async |parent: &str, path: &str, body: &Value| {
            let headers = [("traceparent", parent), ("content-type", "application/json")];
            let answer = client.send("POST", &gateway.v1(path), &headers, body.to_string()).await.unwrap();
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            assert!(answer.text().contains(ANSWER) || body["stream"] == true, "{path}: {}", answer.text());
        };
        let sampled = requests(MARKER);
        for (at, (path, body)) in sampled.iter().enumerate() {
            send(&format!("00-{:032x}-b7ad6b7169203331-01", at + 1), path, body).await;
            let unseen = body.to_string().replace(MARKER, UNSEEN);
            let unseen: Value = serde_json::from_str(&unseen).unwrap();
            send("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", path, &unseen).await;
        }
        let spans = "chat coder";
        until("all traces have come", async || count(&posts, spans) == sampled.len()).await;

        // Chat has the prompt once; the others have it as instructions too.
        let (chats, others) = (2, 4);
        let times = |times: usize| if capture { times } else { 0 };
        assert_eq!(count(&posts, MARKER), times(chats + 2 * others));
        assert_eq!(count(&posts, "gen_ai.system_instructions"), times(others));
        let user = format!(r#"[{{"role":"user","parts":[{{"type":"text","content":"{MARKER}"}}]}}]"#);
        assert_eq!(count(&posts, &user), times(chats + others));
        let said = format!(
            r#"[{{"role":"assistant","parts":[{{"type":"reasoning","content":"hm, {ANSWER}"}},{{"type":"text","content":"{ANSWER}"}},{{"type":"tool_call","id":"c1","name":"f","arguments":{{"x":"{ANSWER}"}}}}],"finish_reason":"tool_call"}}]"#
        );
        assert_eq!(count(&posts, &said), times(sampled.len()));
        assert_eq!(count(&posts, ANSWER), times(3 * sampled.len()));
        assert_eq!(count(&posts, UNSEEN), 0);

        let bearer = gateway.bearer();
        let mut shown = Vec::new();
        for accept in ["text/plain", "application/openmetrics-text"] {
            let url = format!("{}/metrics", gateway.admin);
            shown.push(client.send("GET", &url, &[("accept", accept)], "").await.unwrap());
        }
        for path in ["decisions?limit=100", "config", "audit"] {
            let headers = [("authorization", bearer.as_str())];
            shown.push(client.send("GET", &gateway.admin_v1(path), &headers, "").await.unwrap());
        }
        assert!(shown.iter().all(|answer| answer.status == 200), "{shown:?}");
        let decisions = shown[2].json()["items"].as_array().map(Vec::len);
        assert_eq!(decisions, Some(2 * sampled.len()), "{}", shown[2].text());
        assert_eq!(gateway.terminate().unwrap(), Some(0));
        let mut shown: Vec<String> = shown.iter().map(e2e::Answer::text).collect();
        shown.extend([gateway.said(), gateway.errors()]);
        for (text, private) in shown.iter().flat_map(|text| [MARKER, ANSWER, UNSEEN].map(|p| (text, p))) {
            let place = text.find(private);
            let around = place.map(|at| &text[at.saturating_sub(300)..text.len().min(at + 50)]);
            assert!(place.is_none(), "{private} is shown: {around:?}");
        }
    }
}

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
