//! Start, probes, drain.

use std::time::Duration;

use e2e::{Client, Gateway};

use crate::support::{ask, fixed, llm, mock};

#[tokio::test]
async fn probes_and_metrics_answer_without_a_token() {
    let mock = mock().await;
    let config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    for probe in ["livez", "readyz", "health", "healthz", "live", "ready"] {
        let answer = client.get(&format!("{}/{probe}", gateway.admin)).await.unwrap();
        assert_eq!(answer.status, 200, "{probe}");
    }
    client.post(&gateway.v1("chat/completions"), &ask("auto", "hi")).await.unwrap();
    let metrics = client.get(&format!("{}/metrics", gateway.admin)).await.unwrap().text();
    let line =
        r#"guildhall_requests_total{route="auto",category="",expert="coder",path="upstream",status="200"} 1"#;
    assert!(metrics.contains(line), "{metrics}");
    assert!(metrics.contains("guildhall_overhead_seconds_count 1"), "{metrics}");
    assert!(metrics.contains("guildhall_in_flight_requests 0"), "{metrics}");
    let closed = client.get(&gateway.admin_v1("experts")).await.unwrap();
    assert_eq!((closed.status, closed.header("www-authenticate")), (401, "Bearer"));
}

#[tokio::test]
async fn a_stop_signal_lets_open_streams_finish_and_takes_nothing_new() {
    let mock = mock_expert::Mock::start(mock_expert::Settings {
        gap: "20ms".parse().unwrap(),
        tokens: Some(50),
        ..mock_expert::Settings::default()
    })
    .await
    .unwrap();
    let config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
    let mut gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let mut body = ask("auto", "a long stream");
    body["stream"] = true.into();
    let url = gateway.v1("chat/completions");
    let stream = client.open("POST", &url, &[], body.to_string()).await.unwrap();
    gateway.signal("TERM").unwrap();
    let ready = format!("{}/readyz", gateway.admin);
    let other = Client::default();
    let mut refused = false;
    for _ in 0..500 {
        let not_ready = other.get(&ready).await.is_ok_and(|a| a.status == 503);
        // One that was let in just before the listener closed is still answered.
        if not_ready && Client::default().get(&gateway.v1("models")).await.is_err() {
            refused = true;
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(refused, "new connections are still taken");
    let whole = http_body_util::BodyExt::collect(stream.into_body()).await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&whole).ends_with("data: [DONE]\n\n"));
    assert_eq!(gateway.wait().unwrap(), Some(0));
}

#[tokio::test]
async fn more_requests_than_places_are_refused_at_once() {
    let mock = mock().await;
    mock.script(vec![mock_expert::Step::always("stall".parse().unwrap())]);
    let config = format!(
        "data: {{listen: '127.0.0.1:0', max_in_flight: 2}}\nexperts:\n{}{}",
        llm("coder", &mock.url(), ""),
        fixed(&["coder"])
    );
    let gateway = Gateway::start(&config).unwrap();
    let url = gateway.v1("chat/completions");
    let held: Vec<_> = (0..2)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { Client::default().post(&url, &ask("auto", "hi")).await })
        })
        .collect();
    let client = Client::default();
    for _ in 0..500 {
        if mock.stats().in_flight == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = client.post(&url, &ask("auto", "hi")).await.unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "overloaded");
    for task in held {
        task.abort();
    }
}

#[test]
fn without_a_library_serve_says_what_to_do() {
    let text = format!(
        "router: {{load: always, bundle: '{}', onnxruntime: /does/not/exist.so}}",
        e2e::repository().join("router-models/default").display()
    );
    let error = Gateway::start(&text).unwrap_err().to_string();
    assert!(error.contains("/does/not/exist.so"), "{error}");
    assert!(error.contains("which does not exist") && error.contains("exit status: 2"), "{error}");
}
