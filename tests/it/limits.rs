//! How much a key, a team and a route may use.

use std::time::Duration;

use e2e::{Answer, Client, Gateway};
use mock_expert::{Mock, Settings, Step};
use serde_json::{Value, json};

use crate::support::{ask, chat, fixed, in_flight, key, llm, mock, token};

/// The configuration of a gateway with one expert, the route `auto`, and these teams and keys.
fn config(mock: &Mock, rest: &str) -> String {
    let cost = "cost: {input: 100, output: 1000}";
    format!("experts:\n{}{}{rest}", llm("coder", &mock.url(), cost), fixed(&["coder"]))
}

/// A header that is a number.
fn number(answer: &Answer, name: &str) -> u64 {
    answer.header(name).parse().unwrap_or_else(|_| panic!("{name}: {:?}", answer.headers))
}

fn limited(tokens: u64) -> Value {
    let mut body = ask("auto", "What comes after three hundred and fifty-two?");
    body["max_tokens"] = tokens.into();
    body
}

/// Whether an answer is 429 with that code, and what it says about another try: whether client libraries
/// should make one by themselves, and within which seconds it would make sense.
fn is_refused(answer: &Answer, code: &str, retry: bool, after: Option<std::ops::RangeInclusive<u64>>) {
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], code, "{}", answer.text());
    let expected = if retry { "" } else { "false" };
    assert_eq!(answer.header("x-should-retry"), expected, "{:?}", answer.headers);
    match after {
        Some(range) => assert!(range.contains(&number(answer, "retry-after")), "{:?}", answer.headers),
        None => assert!(!answer.headers.contains_key("retry-after"), "{:?}", answer.headers),
    }
}

const MINUTE: std::ops::RangeInclusive<u64> = 1..=63;
const DAY: std::ops::RangeInclusive<u64> = 1..=86_401;
const MONTH: std::ops::RangeInclusive<u64> = 1..=31 * 86_400 + 1;

#[tokio::test]
async fn requests_of_a_minute_and_of_a_day_run_out() {
    let mock = mock().await;
    let mut keys = "keys:\n".to_owned();
    keys.push_str(&key("minute", "limits: {requests_per_minute: 3}"));
    keys.push_str(&key("day", "limits: {requests_per_day: 3}"));
    keys.push_str(&key("free", ""));
    let gateway = Gateway::start(&config(&mock, &keys)).unwrap();
    let client = Client::default();
    for (id, retry, after) in [("minute", true, MINUTE), ("day", false, DAY)] {
        for left in [2, 1, 0] {
            let answer = chat(&client, &gateway, id, &[], &ask("auto", "hi")).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(number(&answer, "x-ratelimit-limit-requests"), 3);
            assert_eq!(number(&answer, "x-ratelimit-remaining-requests"), left);
            assert!(answer.header("x-ratelimit-reset-requests").ends_with('s'), "{:?}", answer.headers);
        }
        let before = mock.stats().requests;
        let answer = chat(&client, &gateway, id, &[], &ask("auto", "hi")).await;
        is_refused(&answer, "rate_limit_exceeded", retry, Some(after));
        assert_eq!(number(&answer, "x-ratelimit-remaining-requests"), 0);
        assert!(answer.text().contains(&format!("requests_per_{id} is 3")), "{}", answer.text());
        assert_eq!(mock.stats().requests, before, "the expert was asked");
    }
    let answer = chat(&client, &gateway, "free", &[], &ask("auto", "hi")).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.headers.keys().any(|name| name.starts_with("x-ratelimit")), "{:?}", answer.headers);
}

#[tokio::test]
async fn tokens_are_reserved_and_settled_to_what_was_used() {
    let mock = Mock::start(Settings { tokens: Some(10), ..Settings::default() }).await.unwrap();
    let gateway = Gateway::start(&config(
        &mock,
        &format!("keys:\n{}", key("ci", "limits: {tokens_per_minute: 1000, output_tokens_per_day: 2000}")),
    ))
    .unwrap();
    let client = Client::default();
    let answer = chat(&client, &gateway, "ci", &[], &limited(5_000)).await;
    is_refused(&answer, "rate_limit_exceeded", false, None);
    assert!(answer.text().contains("this request alone"), "{}", answer.text());

    // Nearly all is reserved while the answer is made, and no other fits beside it.
    mock.script(vec![Step::times("stall".parse().unwrap(), 1)]);
    let (url, bearer) = (gateway.v1("chat/completions"), format!("Bearer {}", token("ci")));
    let first = tokio::spawn(async move {
        let headers = [("authorization", bearer.as_str())];
        Client::default().send("POST", &url, &headers, limited(900).to_string()).await
    });
    in_flight(&client, &gateway, 1).await;
    while mock.stats().requests == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let answer = chat(&client, &gateway, "ci", &[], &limited(900)).await;
    is_refused(&answer, "rate_limit_exceeded", true, Some(MINUTE));
    assert!(number(&answer, "x-ratelimit-remaining-tokens") < 100, "{:?}", answer.headers);
    // The client leaves before anything was answered, which costs nothing.
    first.abort();
    in_flight(&client, &gateway, 0).await;

    let (mut used, mut each) = (0, 0);
    for stream in [false, true, false] {
        let mut body = limited(900);
        body["stream"] = stream.into();
        let answer = chat(&client, &gateway, "ci", &[], &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let left = number(&answer, "x-ratelimit-remaining-tokens");
        assert!((1000 - used - 900 - 30..=1000 - used - 900).contains(&left), "{left} after {used}");
        // As the expert counted them. It counts a stream's the same way, and the client did not ask to see it.
        each = answer.json()["usage"]["total_tokens"].as_u64().unwrap_or(each);
        used += each;
        in_flight(&client, &gateway, 0).await;
    }
}

#[tokio::test]
async fn a_budget_ends_where_the_money_does() {
    let mock = Mock::start(Settings { tokens: Some(10), ..Settings::default() }).await.unwrap();
    let mut keys = "keys:\n".to_owned();
    keys.push_str(&key("day", "limits: {usd_per_day: 0.1}"));
    keys.push_str(&key("month", "limits: {usd_per_month: 0.1}"));
    keys.push_str(&key("total", "limits: {usd_total: 0.1}"));
    let gateway = Gateway::start(&config(&mock, &keys)).unwrap();
    let client = Client::default();
    for (id, after) in [("day", Some(DAY)), ("month", Some(MONTH)), ("total", None)] {
        let (mut spent, mut each) = (0.0, 0.0);
        let refused = loop {
            let answer = chat(&client, &gateway, id, &[], &limited(10)).await;
            if answer.status != 200 {
                break answer;
            }
            let usage = answer.json()["usage"].clone();
            let tokens = |name: &str| usage[name].as_f64().unwrap();
            each = tokens("prompt_tokens") * 100e-6 + tokens("completion_tokens") * 1000e-6;
            spent += each;
            assert!(spent <= 0.1, "{spent} of {id}");
        };
        is_refused(&refused, "budget_exceeded", false, after);
        // What is left is less than another answer and the error of the prompt's estimate.
        assert!(spent + each + 0.003 > 0.1, "{spent} of {id}, {each} each");
    }
}

#[tokio::test]
async fn teams_and_routes_are_limits_for_all_together() {
    let mock = mock().await;
    let mut rest = "  - {id: tight, limits: {requests_per_minute: 3}, policy: {kind: static, order: [{expert: coder}]}}\n"
        .to_owned();
    rest.push_str("teams:\n  - {id: red, limits: {requests_per_minute: 3}}\nkeys:\n");
    rest.push_str(&key("one", "team: red"));
    rest.push_str(&key("two", "team: red"));
    rest.push_str(&key("alone", ""));
    let gateway = Gateway::start(&config(&mock, &rest)).unwrap();
    let client = Client::default();
    for (model, keys, of) in
        [("auto", ["one", "two", "one", "two"], "team `red`"), ("tight", ["alone"; 4], "route `tight`")]
    {
        for (n, id) in keys.into_iter().enumerate() {
            let answer = chat(&client, &gateway, id, &[], &ask(model, "hi")).await;
            if n < 3 {
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(number(&answer, "x-ratelimit-remaining-requests"), 2 - n as u64);
            } else {
                is_refused(&answer, "rate_limit_exceeded", true, Some(MINUTE));
                assert!(answer.text().contains(of), "{}", answer.text());
            }
        }
    }
    // What the team has used up does not concern the others.
    assert_eq!(chat(&client, &gateway, "alone", &[], &ask("auto", "hi")).await.status, 200);
}

#[tokio::test]
async fn what_was_used_survives_a_restart_and_kill_9() {
    let mock = mock().await;
    let keys = format!("keys:\n{}", key("ci", "limits: {requests_per_day: 100, usd_total: 1000}"));
    let folder = tempfile::tempdir().unwrap();
    let client = Client::default();
    let left = async |gateway: &Gateway| {
        let answer = chat(&client, gateway, "ci", &[], &ask("auto", "hi")).await;
        number(&answer, "x-ratelimit-remaining-requests")
    };
    let mut gateway = Gateway::start_in(folder.path(), &config(&mock, &keys)).unwrap();
    assert_eq!(left(&gateway).await, 99);
    assert_eq!(gateway.terminate().unwrap(), Some(0));
    drop(gateway);

    let mut gateway = Gateway::start_in(folder.path(), &config(&mock, &keys)).unwrap();
    assert_eq!(left(&gateway).await, 98);
    // It is written every five seconds, and nothing tells from outside when.
    tokio::time::sleep(Duration::from_secs(7)).await;
    gateway.kill().unwrap();
    drop(gateway);

    let gateway = Gateway::start_in(folder.path(), &config(&mock, &keys)).unwrap();
    assert_eq!(left(&gateway).await, 97);
}

#[tokio::test]
async fn requests_that_fail_count_as_requests_and_use_nothing() {
    let mock = mock().await;
    mock.script(vec![Step::always("status:400".parse().unwrap())]);
    let keys =
        format!("keys:\n{}", key("ci", "limits: {requests_per_minute: 10, tokens_per_minute: 100000}"));
    let gateway = Gateway::start(&config(&mock, &keys)).unwrap();
    let client = Client::default();
    let mut tokens = Vec::new();
    for left in [9, 8, 7] {
        let answer = chat(&client, &gateway, "ci", &[], &ask("auto", "hi")).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert_eq!(number(&answer, "x-ratelimit-remaining-requests"), left);
        tokens.push(number(&answer, "x-ratelimit-remaining-tokens"));
        in_flight(&client, &gateway, 0).await;
    }
    assert!(tokens.iter().all(|left| *left == tokens[0]), "{tokens:?}");
    // One whose body is no request at all is answered before anything is counted.
    let bad = json!({"model": "auto"});
    assert_eq!(chat(&client, &gateway, "ci", &[], &bad).await.status, 400);
    let answer = chat(&client, &gateway, "ci", &[], &ask("auto", "hi")).await;
    assert_eq!(number(&answer, "x-ratelimit-remaining-requests"), 6);
}
