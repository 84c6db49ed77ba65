//! Bytes on the wire: when they leave, and clients that are slow, odd or gone.

use std::time::Duration;

use bytes_of::Wire;
use e2e::{Client, Gateway};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mock_expert::{Mock, Settings, Step};
use tokio::net::TcpStream;

use crate::support::{ask, fixed, in_flight, llm, metric, mock, until};

mod bytes_of;

const CONSTANT: &str = "experts:\n  - {id: one, backend: {kind: constant, text: first}}\n  - {id: two, backend: {kind: constant, text: second}}\n";

/// A gateway without upstreams and with this `data` section.
fn constant(data: &str) -> Gateway {
    let listen = format!("data: {{listen: '127.0.0.1:0', {data}}}\n");
    Gateway::start(&format!("{listen}{CONSTANT}{}", fixed(&["one"]))).unwrap()
}

/// A chat as it goes over the wire.
fn post(body: &str, headers: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn bytes_leave_when_they_come_and_those_that_come_together_leave_together() {
    let mut upstream = bytes_of::Upstream::start().await;
    let config = format!("experts:\n{}{}", llm("coder", &upstream.url(), ""), fixed(&["coder"]));
    let gateway = Gateway::start(&config).unwrap();
    let mut client = Wire::open(&gateway.url).await;
    client
        .send(&post(
            r#"{"model": "auto", "stream": true, "messages": [{"role": "user", "content": "hi"}]}"#,
            "",
        ))
        .await;
    let mut expert = upstream.request().await;

    // Nothing but the head: the client has it before the expert says more.
    expert
        .send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");

    let event = |text: &str| {
        let event = format!(
            "data: {{\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"coder\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n"
        );
        format!("{:x}\r\n{event}\r\n", event.len())
    };
    expert.send(&event("alpha")).await;
    let one = client.read().await;
    assert!(one.contains("alpha"), "{one}");
    // One write of the expert is one of ours.
    expert.send(&format!("{}{}{}", event("beta"), event("gamma"), event("delta"))).await;
    let three = client.read().await;
    assert!(["beta", "gamma", "delta"].iter().all(|text| three.contains(text)), "{three}");
    // Half an event leaves, too, as soon as it is clear that it is not the one with the usage.
    let whole = event("epsilon");
    let (half, rest) = whole.split_at(whole.find("silon").unwrap());
    expert.send(half).await;
    let mut got = client.read().await;
    assert!(got.contains("\"ep") && !got.contains("silon"), "{got}");
    expert.send(&format!("{rest}e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")).await;
    got.push_str(&client.until("\r\n0\r\n\r\n").await);
    assert!(got.contains("data: [DONE]\n\n"), "{got}");
}

#[tokio::test]
async fn the_first_event_does_not_wait_for_the_second() {
    let ttft = "300s".parse().unwrap();
    let mock = Mock::start(Settings { ttft, ..Settings::default() }).await.unwrap();
    let config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let mut body = ask("auto", "hi");
    body["stream"] = true.into();
    let mut stream = client
        .open("POST", &gateway.v1("chat/completions"), &[], body.to_string())
        .await
        .unwrap()
        .into_body();
    let first =
        tokio::time::timeout(Duration::from_secs(20), stream.frame()).await.unwrap().unwrap().unwrap();
    assert!(first.into_data().unwrap().starts_with(b"data: "));
    assert_eq!(mock.stats().in_flight, 1);
}

#[tokio::test]
async fn clients_that_send_too_slowly_are_not_waited_for() {
    let gateway = constant("head_timeout_ms: 600, body_timeout_ms: 600");
    let good = post(r#"{"model": "auto", "messages": [{"role": "user", "content": "hi"}]}"#, "");
    // Nothing; what could become HTTP/2; half a head.
    let mut silent = Vec::new();
    for start in ["", "P", "PRI * HT", "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        let mut wire = Wire::open(&gateway.url).await;
        wire.send(start).await;
        silent.push((start, wire));
    }
    // A head byte by byte, which never ends.
    let mut dribbling = Wire::open(&gateway.url).await;
    dribbling.send("GET /v1/models HTTP/1.1\r\nx-slow: ").await;
    let dribble = async {
        while dribbling.try_send("a").await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), dribble).await.expect("it is still listened to");
    for (start, mut wire) in silent {
        let rest = wire.rest().await;
        assert!(!rest.contains("200 OK"), "{start:?}: {rest}");
    }
    // A body that stops is answered.
    let mut wire = Wire::open(&gateway.url).await;
    wire.send(&good[..good.len() - 10]).await;
    let answer = wire.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("\"request_timeout\""), "{answer}");
    // A connection that lies idle after a request is closed, too.
    let mut wire = Wire::open(&gateway.url).await;
    wire.send(&good).await;
    let answer = wire.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let gateway = constant("");
    let mut wire = Wire::open(&gateway.url).await;
    let ask = |model: &str, stream: bool| {
        let body = format!(
            r#"{{"model":"{model}","stream":{stream},"messages":[{{"role":"user","content":"hi"}}]}}"#
        );
        post(&body, "")
    };
    let all =
        [ask("two", false), ask("one", true), ask("nobody", false), ask("two", true), ask("one", false)];
    wire.send(&all.concat()).await;
    wire.send("GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let text = wire.rest().await;
    let places: Vec<_> = ["second", "first", "model_not_found", "second", "first", "\"object\":\"list\""]
        .into_iter()
        .scan(0, |from, wanted| {
            let at = text[*from..].find(wanted).map(|at| *from + at);
            *from = at.map_or(text.len(), |at| at + wanted.len());
            Some(at)
        })
        .collect();
    assert!(places.iter().all(Option::is_some), "{places:?} in {text}");
    assert_eq!(text.matches("HTTP/1.1 ").count(), 6, "{text}");
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on_only_if_its_body_is_wanted() {
    let gateway = constant("max_body_bytes: 2048");
    let body = r#"{"model": "auto", "messages": [{"role": "user", "content": "hi"}]}"#;
    let mut wire = Wire::open(&gateway.url).await;
    let request = post(body, "expect: 100-continue\r\n");
    wire.send(request.strip_suffix(body).unwrap()).await;
    assert_eq!(wire.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    wire.send(body).await;
    assert!(wire.until("\r\n\r\n").await.starts_with("HTTP/1.1 200 OK\r\n"));

    let mut wire = Wire::open(&gateway.url).await;
    wire.send("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5000\r\n\r\n")
        .await;
    let answer = wire.until("}").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn other_methods_are_answered_as_http_has_it() {
    let gateway = constant("");
    let client = Client::default();
    let send =
        async |method: &str, path: &str| client.send(method, &gateway.v1(path), &[], "").await.unwrap();
    let head = send("HEAD", "models").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(head.header("content-length").parse::<u64>().unwrap() > 0);
    for (method, path, allowed) in [
        ("GET", "chat/completions", "POST"),
        ("OPTIONS", "chat/completions", "POST"),
        ("DELETE", "models", "GET,HEAD"),
        ("POST", "models/auto", "GET,HEAD"),
    ] {
        let answer = send(method, path).await;
        assert_eq!((answer.status, answer.header("allow")), (405, allowed), "{method} {path}");
        assert_eq!(answer.json()["error"]["code"], "method_not_allowed", "{}", answer.text());
    }
    let head = send("HEAD", "chat/completions").await;
    assert_eq!((head.status, head.body.len()), (405, 0));
    // And the connection is still good.
    assert_eq!(send("GET", "models").await.status, 200);
}

#[tokio::test]
async fn bodies_may_come_in_pieces() {
    let gateway = constant("max_body_bytes: 2048");
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = r#"{"model": "two", "messages": [{"role": "user", "content": "hi"}]}"#;
    let mut wire = Wire::open(&gateway.url).await;
    for end in ["0\r\n\r\n", "0\r\nx-trailer: yes\r\n\r\n"] {
        wire.send(head).await;
        for piece in body.as_bytes().chunks(7) {
            wire.send(&format!("{:x};ext=1\r\n{}\r\n", piece.len(), str::from_utf8(piece).unwrap())).await;
        }
        wire.send(end).await;
        let answer = wire.until("}]").await + &wire.until("}").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("second"), "{answer}");
        wire.drain().await;
    }
    // Longer than it may be, although no length was announced; and pieces that are none.
    for (pieces, status) in
        [(format!("{:x}\r\n{}\r\n", 3000, "x".repeat(3000)), "413"), ("zz\r\n".into(), "400")]
    {
        let mut wire = Wire::open(&gateway.url).await;
        wire.send(head).await;
        wire.send(&pieces).await;
        let answer = wire.until("}").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_its_half_has_left() {
    let mock = mock().await;
    mock.script(vec![Step::always("stall".parse().unwrap())]);
    let config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let mut wire = Wire::open(&gateway.url).await;
    wire.send(&post(&ask("auto", "hi").to_string(), "")).await;
    until("the expert is asked", async || mock.stats().in_flight == 1).await;
    wire.shut().await;
    until("the expert is left alone", async || mock.stats().cancelled == 1).await;
    in_flight(&client, &gateway, 0).await;
}

#[tokio::test]
async fn connections_without_a_request_leave_nothing_behind() {
    let gateway = constant("");
    let client = Client::default();
    let open = async || metric(&client, &gateway, "process_open_fds").await;
    client.post(&gateway.v1("chat/completions"), &ask("auto", "hi")).await.unwrap();
    let before = open().await;
    for _ in 0..4 {
        let mut wires = Vec::new();
        for n in 0..250 {
            let mut wire = Wire::open(&gateway.url).await;
            // Half of them begin to say something.
            wire.send(if n % 2 == 0 { "" } else { "POST /v1/ch" }).await;
            wires.push(wire);
        }
        until("the connections are open", async || open().await >= before + 250.0).await;
        drop(wires);
        until("the connections are closed", async || open().await <= before).await;
    }
    assert!(metric(&client, &gateway, "guildhall_tasks").await < 100.0);
}

/// A connection that speaks HTTP/2 from the first byte, as nobody has agreed on.
async fn http2(gateway: &Gateway) -> SendRequest<Full<Bytes>> {
    let socket = TcpStream::connect(gateway.url.trim_start_matches("http://")).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    // Ends with the connection.
    tokio::spawn(connection);
    sender
}

fn chat_over_http2(gateway: &Gateway, text: &str) -> Request<Full<Bytes>> {
    let mut body = ask("auto", text);
    body["stream"] = true.into();
    Request::post(gateway.v1("chat/completions")).body(Full::new(body.to_string().into())).unwrap()
}

#[tokio::test]
async fn a_hundred_streams_share_one_http2_connection_to_its_end() {
    let gap = "20ms".parse().unwrap();
    let mock = Mock::start(Settings { gap, tokens: Some(200), ..Settings::default() }).await.unwrap();
    let config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
    let mut gateway = Gateway::start(&config).unwrap();
    let mut connection = http2(&gateway).await;
    let mut streams = Vec::new();
    for n in 0..100 {
        connection.ready().await.unwrap();
        let answer = connection.send_request(chat_over_http2(&gateway, &format!("stream-{n}-")));
        streams.push((
            n,
            tokio::spawn(async move {
                let answer = answer.await.unwrap();
                assert_eq!(answer.status(), 200);
                answer.into_body().collect().await.unwrap().to_bytes()
            }),
        ));
    }
    until("all are under way", async || mock.stats().in_flight == 100).await;
    // One more is reset by its client, which ends it and nothing else.
    connection.ready().await.unwrap();
    let one_more = connection.send_request(chat_over_http2(&gateway, "one more")).await.unwrap();
    drop(one_more);
    until("the expert is left alone", async || mock.stats().cancelled == 1).await;
    // And the end of the gateway is no end for what is under way: the client is told to go elsewhere next.
    gateway.signal("TERM").unwrap();
    for (n, stream) in streams {
        let text = stream.await.unwrap();
        let text = String::from_utf8_lossy(&text);
        assert!(text.ends_with("data: [DONE]\n\n"), "{n}: {text}");
        assert!(text.contains(&format!("stream-{n}-")), "{n}: {text}");
    }
    until("the connection is closed", async || connection.ready().await.is_err()).await;
    assert_eq!(gateway.wait().unwrap(), Some(0));
}
