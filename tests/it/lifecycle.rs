//! Start, probes, drain.

use std::time::Duration;

use e2e::{Client, Gateway};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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

/// A connection on which bytes are sent as they are.
struct Wire(TcpStream);

impl Wire {
    async fn open(gateway: &Gateway) -> Self {
        Self(TcpStream::connect(gateway.url.trim_start_matches("http://")).await.unwrap())
    }

    async fn send(&mut self, body: &str) {
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.0.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    }

    /// Reads until `end` has come.
    async fn read_to(&mut self, end: &str) -> String {
        let mut text = String::new();
        let mut buffer = [0; 4096];
        while !text.contains(end) {
            let read = self.0.read(&mut buffer).await.unwrap();
            assert!(read > 0, "closed after {text}");
            text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
        text
    }

    /// What comes until the gateway closes the connection in good order.
    async fn rest(mut self) -> String {
        let mut text = String::new();
        self.0.read_to_string(&mut text).await.unwrap();
        text
    }
}

#[tokio::test]
async fn at_the_end_of_the_drain_delay_connections_close_in_good_order() {
    let mock = mock_expert::Mock::start(mock_expert::Settings {
        gap: "20ms".parse().unwrap(),
        tokens: Some(150),
        ..mock_expert::Settings::default()
    })
    .await
    .unwrap();
    let config = format!(
        "data: {{listen: '127.0.0.1:0', drain_delay_ms: 200}}\nexperts:\n{}{}",
        llm("coder", &mock.url(), ""),
        fixed(&["coder"])
    );
    let mut gateway = Gateway::start(&config).unwrap();
    let (unused, mut idle, mut busy) =
        (Wire::open(&gateway).await, Wire::open(&gateway).await, Wire::open(&gateway).await);
    let mut body = ask("auto", "a");
    body["max_tokens"] = 1.into();
    idle.send(&body.to_string()).await;
    idle.read_to("\"usage\"").await;
    let socket = TcpStream::connect(gateway.url.trim_start_matches("http://")).await.unwrap();
    let (mut h2, connection) =
        http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    let h2_end = tokio::spawn(connection);
    let request = hyper::Request::get(format!("{}/v1/models", gateway.url)).body(Empty::new()).unwrap();
    assert_eq!(h2.send_request(request).await.unwrap().status(), 200);
    let mut stream = ask("auto", "a long stream");
    stream["stream"] = true.into();
    busy.send(&stream.to_string()).await;
    let head = busy.read_to("data: ").await;
    assert!(!head.contains("connection: close"), "{head}");
    gateway.signal("TERM").unwrap();

    // What has nothing to wait for is closed while the stream goes on.
    assert_eq!(unused.rest().await, "");
    assert_eq!(idle.rest().await, "");
    h2_end.await.unwrap().unwrap();
    assert!(mock.stats().in_flight == 1, "the stream had ended before");
    // A client that goes on where the stream was loses nothing.
    let end = busy.read_to("data: [DONE]\n\n\r\n0\r\n\r\n").await;
    assert!(end.contains("chat.completion.chunk"));
    busy.send(&body.to_string()).await;
    let last = busy.rest().await;
    assert!(last.starts_with("HTTP/1.1 200 ") && last.contains("connection: close"), "{last}");
    assert_eq!(gateway.wait().unwrap(), Some(0));
    assert!(gateway.errors().contains("all requests finished"), "{}", gateway.errors());
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
