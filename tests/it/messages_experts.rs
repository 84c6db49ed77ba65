//! Experts that speak Anthropic's Messages, behind each of the protocols that clients speak.

use e2e::{Answer, Client, Gateway};
use mock_expert::{Fault, Mock, Protocol, Settings, Step};
use serde_json::{Value, json};

use crate::support::{ask, fixed, last_body, llm, mock, until};

/// An upstream that speaks nothing but Messages.
async fn upstream() -> Mock {
    let settings = Settings { protocol: Protocol::Messages, record: 200, ..Settings::default() };
    Mock::start(settings).await.expect("a mock starts")
}

/// The configuration of an expert that speaks Messages; `rest` are settings of its backend.
fn claude(mock: &Mock, rest: &str) -> String {
    format!(
        "  - {{id: claude, backend: {{kind: llm, protocol: messages, endpoints: [{{url: '{}'}}], model: claude-1, \
         api_key: sk-ant-secret{rest}}}, cost: {{input: 1000000, output: 2000000}}, \
         capabilities: {{tools: true, json_schema: true, vision: true}}}}\n",
        mock.url()
    )
}

struct Bench {
    mock: Mock,
    gateway: Gateway,
    client: Client,
}

impl Bench {
    /// A gateway in front of this expert alone.
    async fn with(rest: &str) -> Self {
        let mock = upstream().await;
        let config = format!("experts:\n{}{}", claude(&mock, rest), fixed(&["claude"]));
        let gateway = Gateway::start(&config).unwrap();
        Self { mock, gateway, client: Client::default() }
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.client.post(&self.gateway.v1(path), body).await.unwrap()
    }

    fn sent(&self) -> Value {
        serde_json::from_str(&last_body(&self.mock)).unwrap()
    }

    /// The outcome of a request's decision record.
    async fn outcome(&self, answer: &Answer) -> Value {
        let url = self.gateway.admin_v1(&format!("decisions/{}", answer.header("x-guildhall-decision")));
        let bearer = self.gateway.bearer();
        let mut outcome = Value::Null;
        until("the record is complete", async || {
            let headers = [("authorization", bearer.as_str())];
            outcome = self.client.send("GET", &url, &headers, "").await.unwrap().json()["outcome"].clone();
            !outcome.is_null()
        })
        .await;
        outcome
    }
}

fn chunks(answer: &Answer) -> Vec<Value> {
    let mut events = answer.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{}", answer.text());
    events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

/// The data of a stream's last event, whose events have names.
fn last_event(answer: &Answer) -> Value {
    let text = answer.text();
    let data = text.lines().rev().find_map(|line| line.strip_prefix("data: "));
    serde_json::from_str(data.unwrap_or_else(|| panic!("no event: {text}"))).unwrap()
}

/// What a Messages client asks.
fn message() -> Value {
    json!({"model": "auto", "max_tokens": 200, "messages": [{"role": "user", "content": "Hi"}]})
}

#[tokio::test]
async fn a_chat_is_answered_by_an_expert_that_speaks_messages() {
    let bench = Bench::with(", default_max_tokens: 77").await;
    let mut body = ask("auto", "why");
    body["seed"] = 7.into();
    body["temperature"] = 0.5.into();
    let headers = [("content-type", "application/json"), ("anthropic-beta", "b-1")];
    let url = bench.gateway.v1("chat/completions");
    let answer = bench.client.send("POST", &url, &headers, body.to_string()).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let chat = answer.json();
    assert_eq!((&chat["object"], &chat["model"]), (&json!("chat.completion"), &json!("claude")));
    assert_eq!(chat["choices"][0]["finish_reason"], "stop");
    let text = chat["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.starts_with("[mock-expert claude-1] You asked: \"why\""), "{text}");
    assert_eq!(answer.header("x-guildhall-lossy"), "seed");
    assert_eq!(
        (answer.header("x-guildhall-expert"), answer.header("x-guildhall-path")),
        ("claude", "upstream")
    );

    let seen = bench.mock.stats().recent.pop().unwrap();
    assert_eq!(seen.path, "/v1/messages");
    let header = |name: &str| seen.headers.get(name).map(String::as_str);
    assert_eq!(
        (header("x-api-key"), header("anthropic-version")),
        (Some("sk-ant-secret"), Some("2023-06-01"))
    );
    assert_eq!((header("authorization"), header("anthropic-beta")), (None, Some("b-1")));
    assert_eq!(
        bench.sent(),
        json!({"model": "claude-1", "max_tokens": 77, "temperature": 0.5,
               "messages": [{"role": "user", "content": [{"type": "text", "text": "why"}]}]})
    );

    // It is accounted for like any other.
    let usage = &chat["usage"];
    let outcome = bench.outcome(&answer).await;
    assert_eq!(
        (&outcome["prompt_tokens"], &outcome["completion_tokens"]),
        (&usage["prompt_tokens"], &usage["completion_tokens"])
    );
    let tokens = |name: &str| usage[name].as_f64().unwrap();
    assert!(
        (outcome["cost_usd"].as_f64().unwrap() - tokens("prompt_tokens") - 2.0 * tokens("completion_tokens"))
            .abs()
            < 0.01
    );
    assert!(tokens("prompt_tokens") > 0.0 && tokens("completion_tokens") > 0.0);
}

#[tokio::test]
async fn a_chat_is_streamed_as_chunks() {
    let bench = Bench::with("").await;
    let mut body = ask("auto", "stream please");
    body["stream"] = true.into();
    let answer = bench.post("chat/completions", &body).await;
    assert!(answer.header("content-type").starts_with("text/event-stream"), "{}", answer.text());
    let all = chunks(&answer);
    assert_eq!(all[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(
        all.iter().all(|c| c["model"] == "claude" && c["id"] == all[0]["id"] && c.get("usage").is_none())
    );
    let text: String = all.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert!(text.starts_with("[mock-expert claude-1] You asked: \"stream please\""), "{text}");
    assert_eq!(all.last().unwrap()["choices"][0]["finish_reason"], "stop");
    let outcome = bench.outcome(&answer).await;
    assert!(
        outcome["prompt_tokens"].as_u64().unwrap() > 0 && outcome["completion_tokens"].as_u64().unwrap() > 1
    );

    body["stream_options"] = json!({"include_usage": true});
    let all = chunks(&bench.post("chat/completions", &body).await);
    assert_eq!(all.last().unwrap()["usage"]["completion_tokens"], outcome["completion_tokens"]);
}

#[tokio::test]
async fn tools_are_called_and_answered_over_all_protocols() {
    let bench = Bench::with("").await;
    let parameters =
        json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let function = json!({"name": "weather", "parameters": parameters});
    let mut chat = ask("auto", "Weather?");
    chat["tools"] = json!([{"type": "function", "function": function}]);
    let call = bench.post("chat/completions", &chat).await.json()["choices"][0].clone();
    assert_eq!(call["finish_reason"], "tool_calls");
    let made = &call["message"]["tool_calls"][0];
    assert_eq!(
        (&made["function"]["name"], &made["function"]["arguments"]),
        (&json!("weather"), &json!(r#"{"city":"Weather?"}"#))
    );

    chat["stream"] = true.into();
    let streamed = chunks(&bench.post("chat/completions", &chat).await);
    let part = |name: &str| -> String {
        let of = |c: &Value| {
            Some(c["choices"][0]["delta"]["tool_calls"][0]["function"].get(name)?.as_str()?.to_owned())
        };
        streamed.iter().filter_map(of).collect()
    };
    assert_eq!(
        (part("name"), part("arguments")),
        ("weather".to_owned(), r#"{"city":"Weather?"}"#.to_owned())
    );

    chat["stream"] = false.into();
    let messages = chat["messages"].as_array_mut().unwrap();
    messages.push(call["message"].clone());
    messages.push(json!({"role": "tool", "tool_call_id": made["id"], "content": "rain"}));
    let said = bench.post("chat/completions", &chat).await.json();
    assert!(
        said["choices"][0]["message"]["content"].as_str().unwrap().contains("The tool said: \"rain\""),
        "{said}"
    );
    let turns = bench.sent()["messages"].clone();
    assert_eq!(turns[2]["content"][0]["tool_use_id"], turns[1]["content"][0]["id"]);

    let input = json!({"model": "auto", "input": "Weather?", "stream": true,
                       "tools": [{"type": "function", "name": "weather", "parameters": parameters}]});
    let answer = bench.post("responses", &input).await;
    let last = last_event(&answer);
    assert_eq!(last["type"], "response.completed", "{}", answer.text());
    assert_eq!(last["response"]["output"][0]["arguments"], r#"{"city":"Weather?"}"#);
    assert!(last["response"]["usage"]["output_tokens"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_messages_client_gets_through_as_it_is() {
    let bench = Bench::with("").await;
    let body = r#"{ "model" : "auto", "max_tokens":200,"system":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}],
        "thinking":{"type":"enabled","budget_tokens":1024},"tools":[{"type":"web_search_20250305","name":"web_search"},{"type":"bash_20250124","name":"bash"}],
        "messages":[{"role":"user","content":[{"type":"document","source":{"type":"url","url":"https://a.example/b.pdf"}},{"type":"text","text":"caf\u00e9"}]},
        {"role":"assistant","content":[{"type":"thinking","thinking":"t","signature":"c2ln"},{"type":"text","text":"x"}]},
        {"role":"user","content":"go on"}],"later_field":1.50 }"#;
    let url = bench.gateway.v1("messages");
    let headers = [("content-type", "application/json"), ("x-request-id", "req-1")];
    let answer = bench.client.send("POST", &url, &headers, body).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(last_body(&bench.mock), body.replace("\"auto\"", "\"claude-1\""));
    let said = answer.json();
    assert_eq!((&said["type"], &said["model"]), (&json!("message"), &json!("claude")));
    assert_eq!(said["content"][0]["signature"], "bW9jay1leHBlcnQ=");
    assert_eq!((answer.header("x-guildhall-lossy"), answer.header("request-id")), ("", "req-1"));
    let outcome = bench.outcome(&answer).await;
    assert_eq!(outcome["completion_tokens"], said["usage"]["output_tokens"]);
    assert_eq!(outcome["prompt_tokens"], said["usage"]["input_tokens"]);

    let mut body = message();
    body["stream"] = true.into();
    body["mock_answer"] = json!({"content": [
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
        {"type": "text", "text": "found it"},
    ]});
    let answer = bench.post("messages", &body).await;
    let direct = Client::default();
    body["model"] = "claude-1".into();
    let headers = [("content-type", "application/json"), ("anthropic-version", "2023-06-01")];
    let url = format!("{}/messages", bench.mock.url());
    let own = direct.send("POST", &url, &headers, body.to_string()).await.unwrap();
    assert_eq!(answer.text(), own.text().replace("\"claude-1\",", "\"claude\","));
    let outcome = bench.outcome(&answer).await;
    assert!(outcome["completion_tokens"].as_u64().unwrap() > 1, "{outcome}");
}

#[tokio::test]
async fn what_chat_completions_cannot_say_goes_to_experts_that_speak_messages() {
    let (speaks, other) = (upstream().await, mock().await);
    let experts = format!("experts:\n{}{}", llm("coder", &other.url(), ""), claude(&speaks, ""));
    let gateway = Gateway::start(&format!("{experts}{}", fixed(&["coder", "claude"]))).unwrap();
    let client = Client::default();
    let mut body = message();
    body["tools"] = json!([{"type": "bash_20250124", "name": "bash"}]);
    let answer = client.post(&gateway.v1("messages"), &body).await.unwrap();
    assert_eq!((answer.status, answer.header("x-guildhall-expert")), (200, "claude"), "{}", answer.text());
    assert_eq!(other.stats().requests, 0);
    // Everything else goes to whoever is first.
    let answer = client.post(&gateway.v1("messages"), &message()).await.unwrap();
    assert_eq!((answer.status, answer.header("x-guildhall-expert")), (200, "coder"));
    // One that only the other can answer is refused with the reason.
    body["model"] = "coder".into();
    let answer = client.post(&gateway.v1("messages"), &body).await.unwrap();
    assert_eq!((answer.status, &answer.json()["error"]["type"]), (400, &json!("invalid_request_error")));
    assert!(answer.text().contains("tools[0].type"), "{}", answer.text());
}

#[tokio::test]
async fn what_messages_cannot_say_goes_to_other_experts() {
    let (speaks, other) = (upstream().await, mock().await);
    let experts = format!("experts:\n{}{}", llm("coder", &other.url(), ""), claude(&speaks, ""));
    let gateway = Gateway::start(&format!("{experts}{}", fixed(&["claude", "coder"]))).unwrap();
    let client = Client::default();
    let mut twice = ask("auto", "twice");
    twice["n"] = 2.into();
    let answer = client.post(&gateway.v1("chat/completions"), &twice).await.unwrap();
    assert_eq!((answer.status, answer.header("x-guildhall-expert")), (200, "coder"), "{}", answer.text());
    let embed = json!({"model": "auto", "input": "a"});
    let answer = client.post(&gateway.v1("embeddings"), &embed).await.unwrap();
    assert_eq!((answer.status, answer.header("x-guildhall-expert")), (200, "coder"));
    twice["model"] = "claude".into();
    let answer = client.post(&gateway.v1("chat/completions"), &twice).await.unwrap();
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!("unsupported_capability")));
    assert!(answer.text().contains("n: must be 1"), "{}", answer.text());
    assert_eq!(speaks.stats().requests, 0);
}

#[tokio::test]
async fn an_overloaded_expert_is_asked_again_and_told_in_each_protocols_words() {
    let bench = Bench::with(", retries: {backoff: {base_ms: 1, max_ms: 2}}, breaker: {enabled: false}").await;
    let overloaded = || Fault::Status { status: 529, retry_after: None };
    bench.mock.script(vec![Step::times(overloaded(), 2)]);
    let answer = bench.post("chat/completions", &ask("auto", "a")).await;
    assert_eq!((answer.status, answer.header("x-guildhall-attempts")), (200, "3"), "{}", answer.text());

    bench.mock.script(vec![Step::always(overloaded())]);
    let chat = bench.post("chat/completions", &ask("auto", "a")).await;
    let error = &chat.json()["error"];
    assert_eq!(
        (chat.status, &error["type"], &error["code"]),
        (503, &json!("server_error"), &json!("overloaded"))
    );
    let own = bench.post("messages", &message()).await;
    assert_eq!(
        (own.status, &own.json()["error"]["type"]),
        (529, &json!("overloaded_error")),
        "{}",
        own.text()
    );

    bench.mock.script(vec![Step::always(Fault::Status { status: 401, retry_after: None })]);
    let chat = bench.post("chat/completions", &ask("auto", "a")).await;
    assert_eq!((chat.status, &chat.json()["error"]["type"]), (401, &json!("authentication_error")));
}

#[tokio::test]
async fn the_breaker_counts_overload_as_a_failure() {
    let bench = Bench::with(
        ", retries: {max_attempts: 1}, breaker: {consecutive_failures: 2, max_ejected_share: 1.0}",
    )
    .await;
    bench.mock.script(vec![Step::always(Fault::Status { status: 529, retry_after: None })]);
    for expected in [503, 503, 503] {
        assert_eq!(bench.post("chat/completions", &ask("auto", "a")).await.status, expected);
    }
    assert_eq!(bench.mock.stats().requests, 2);
}

#[tokio::test]
async fn a_stream_that_breaks_off_says_so() {
    let bench = Bench::with(", breaker: {enabled: false}").await;
    for fault in [Fault::ResetMid, Fault::HalfEvent, Fault::Garbage] {
        bench.mock.script(vec![Step::always(fault)]);
        let mut chat = ask("auto", "stream please");
        chat["stream"] = true.into();
        let answer = bench.post("chat/completions", &chat).await;
        let last: Value = serde_json::from_str(answer.events().last().unwrap()).unwrap();
        assert_eq!(last["error"]["code"], "upstream_stream_failed", "{fault:?}: {}", answer.text());
        assert_eq!(bench.outcome(&answer).await["end"], "cut");
        let mut own = message();
        own["stream"] = true.into();
        let answer = bench.post("messages", &own).await;
        let last = last_event(&answer);
        assert_eq!(
            (&last["type"], &last["error"]["type"]),
            (&json!("error"), &json!("api_error")),
            "{fault:?}"
        );
        assert_eq!(bench.outcome(&answer).await["end"], "cut");
        let asked = json!({"model": "auto", "input": "a", "stream": true});
        let answer = bench.post("responses", &asked).await;
        let last = last_event(&answer);
        assert_eq!(last["type"], "response.failed", "{fault:?}");
    }
    // What lacks nothing but its last event is whole.
    bench.mock.script(vec![Step::always(Fault::MissingDone)]);
    let mut chat = ask("auto", "stream please");
    chat["stream"] = true.into();
    let answer = bench.post("chat/completions", &chat).await;
    assert_eq!(chunks(&answer).last().unwrap()["choices"][0]["finish_reason"], "stop");
    assert_eq!(bench.outcome(&answer).await["end"], "complete");
}

#[tokio::test]
async fn a_whole_answer_that_cannot_be_read_is_asked_of_the_next_expert() {
    let (speaks, other) = (upstream().await, mock().await);
    let experts = format!("experts:\n{}{}", llm("coder", &other.url(), ""), claude(&speaks, ""));
    let gateway = Gateway::start(&format!("{experts}{}", fixed(&["claude", "coder"]))).unwrap();
    let client = Client::default();
    for fault in [Fault::Garbage, Fault::ResetMid, Fault::HalfEvent] {
        speaks.script(vec![Step::always(fault)]);
        let answer = client.post(&gateway.v1("chat/completions"), &ask("auto", "a")).await.unwrap();
        assert_eq!((answer.status, answer.header("x-guildhall-expert")), (200, "coder"), "{fault:?}");
        let answer = client.post(&gateway.v1("chat/completions"), &ask("claude", "a")).await.unwrap();
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (502, &json!("upstream_failed")),
            "{fault:?}"
        );
    }
}
