//! A client so small that nothing is hidden: bytes out, bytes in.

use std::io;

use mock_expert::{Mock, Settings};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What came back on one connection, up to its end.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    /// The head in lower case.
    pub(crate) head: String,
    /// The body as sent, with the chunk framing taken off.
    pub(crate) body: String,
    /// How the connection ended.
    pub(crate) end: io::Result<()>,
    /// Whether the body was as long as the head promised, or ended with the last chunk.
    pub(crate) complete: bool,
}

impl Got {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The `data:` payloads of a stream.
    pub(crate) fn events(&self) -> Vec<&str> {
        self.body.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect()
    }
}

pub(crate) async fn mock() -> Mock {
    Mock::start(Settings::default()).await.unwrap()
}

pub(crate) async fn send(mock: &Mock, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(mock.address()).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: mock\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Sends a request and reads until the connection ends.
pub(crate) async fn exchange(mock: &Mock, method: &str, path: &str, headers: &str, body: &str) -> Got {
    let mut stream = send(mock, method, path, headers, body).await;
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).await.map(|_| ());
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let head = head.to_ascii_lowercase();
    let status = head.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
    let (body, complete) = if head.contains("transfer-encoding: chunked") {
        unchunk(body)
    } else {
        let promised = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
        (body.to_owned(), promised == Some(body.len()))
    };
    Got { status, head, body, end, complete }
}

fn unchunk(mut body: &str) -> (String, bool) {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return (out, true);
        }
        out.push_str(&rest[..size.min(rest.len())]);
        body = rest.get(size + 2..).unwrap_or("");
    }
    (out, false)
}

pub(crate) async fn chat(mock: &Mock, headers: &str, body: &Value) -> Got {
    exchange(mock, "POST", "/v1/chat/completions", headers, &body.to_string()).await
}

pub(crate) async fn get(mock: &Mock, path: &str) -> Got {
    exchange(mock, "GET", path, "", "").await
}

/// Waits until the counters say so; they change when the mock notices, not when the client acts.
pub(crate) async fn until(mock: &Mock, what: impl Fn(&mock_expert::Stats) -> bool) {
    while !what(&mock.stats()) {
        tokio::task::yield_now().await;
    }
}
