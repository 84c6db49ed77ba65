//! An upstream whose every byte a test decides, and a client's side of a call.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use experts::{
    Call, CallError, Client, ClientConfig, Expert, ExpertSpec, Operation, Reply, ReplyBody, StreamOptions,
    Timeouts, Trust,
};
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A scripted server. Every connection is handed to the script.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Upstream {
    pub(crate) async fn start<F, S>(script: S) -> Self
    where
        S: Fn(Connection, usize) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    /// Listens where it is told to.
    pub(crate) async fn start_at<F, S>(address: SocketAddr, script: S) -> Self
    where
        S: Fn(Connection, usize) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = accepted.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let at = counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(script(Connection { stream, buffer: Vec::new() }, at));
            }
        });
        Self { address, accepted, task }
    }

    /// Gives every request the same answer.
    pub(crate) async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<Vec<u8>> = Arc::new(answer.into());
        Self::start(move |mut connection, _| {
            let answer = answer.clone();
            async move {
                while connection.request().await.is_some() {
                    connection.write(answer.as_slice()).await;
                }
            }
        })
        .await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub(crate) fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|l| l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v))
    }
}

impl Connection {
    /// The next request; `None` when the client has closed.
    pub(crate) async fn request(&mut self) -> Option<Seen> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8(self.buffer[..end].to_vec()).unwrap();
                let seen = Seen { head, body: Vec::new() };
                let length: usize = seen.header("content-length").map_or(0, |l| l.parse().unwrap());
                if self.buffer.len() >= end + 4 + length {
                    let rest = self.buffer.split_off(end + 4 + length);
                    let body = self.buffer[end + 4..].to_vec();
                    self.buffer = rest;
                    return Some(Seen { body, ..seen });
                }
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(n) if n > 0 => {}
                _ => return None,
            }
        }
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Waits until the client has closed.
    pub(crate) async fn closed(&mut self) {
        while !matches!(self.stream.read(&mut [0; 1024]).await, Ok(0) | Err(_)) {}
    }

    /// Closes with a reset instead of an end.
    #[expect(deprecated, reason = "lingering for zero seconds does not block")]
    pub(crate) fn reset(self) {
        self.stream.set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
}

/// An answer with a length.
pub(crate) fn whole(status: &str, kind: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// The head of a chunked stream.
pub(crate) const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// One chunk of it.
pub(crate) fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

pub(crate) const END: &str = "0\r\n\r\n";

pub(crate) fn client() -> Client {
    Client::new(&ClientConfig::default()).unwrap()
}

pub(crate) fn spec(json: Value) -> ExpertSpec {
    let spec: ExpertSpec = serde_json::from_value(json).unwrap();
    assert_eq!(spec.validate(), []);
    spec
}

/// An expert `e` with these endpoints and these further settings of its backend.
pub(crate) fn expert_with(urls: &[String], backend: &Value, limits: &Value) -> Expert {
    let endpoints: Vec<Value> = urls.iter().map(|url| json!({ "url": url })).collect();
    let mut settings = json!({ "kind": "llm", "endpoints": endpoints });
    for (name, value) in backend.as_object().unwrap() {
        settings[name] = value.clone();
    }
    let spec = spec(json!({ "id": "e", "backend": settings, "limits": limits }));
    Expert::new(spec, Trust::Operator, &client()).unwrap()
}

pub(crate) fn expert(upstream: &Upstream) -> Expert {
    expert_with(&[upstream.url()], &json!({}), &json!({}))
}

/// A client's request.
pub(crate) struct Asking {
    pub(crate) operation: Operation,
    pub(crate) body: String,
    pub(crate) headers: HeaderMap,
    pub(crate) deadline: Option<tokio::time::Instant>,
    pub(crate) timeouts: Timeouts,
    pub(crate) affinity: Option<u64>,
    pub(crate) seed: u64,
    pub(crate) id: HeaderValue,
}

impl Asking {
    pub(crate) fn new(body: &str) -> Self {
        let id = HeaderValue::from_static("req-1");
        Self {
            operation: Operation::ChatCompletions,
            body: body.to_owned(),
            headers: HeaderMap::new(),
            deadline: None,
            timeouts: Timeouts::default(),
            affinity: None,
            seed: 7,
            id,
        }
    }

    pub(crate) async fn of(&self, expert: &Expert) -> Result<Reply, CallError> {
        let parsed: Value = serde_json::from_str(&self.body).unwrap();
        let at = self.body.find("\"model\":").unwrap() + "\"model\":".len();
        let end = at + self.body[at..].find([',', '}']).unwrap();
        let options = self.body.find("\"stream_options\":").map(|at| {
            let start = at + "\"stream_options\":".len();
            start..start + self.body[start..].find('}').unwrap() + 1
        });
        let include_usage = parsed["stream_options"]["include_usage"].as_bool();
        expert
            .call(Call {
                operation: self.operation,
                body: Bytes::from(self.body.clone()),
                model_span: at..end,
                messages: None,
                stream: parsed["stream"] == json!(true),
                stream_options: StreamOptions { span: options, include_usage },
                headers: &self.headers,
                request_id: &self.id,
                deadline: self.deadline,
                timeouts: self.timeouts,
                affinity: self.affinity,
                seed: self.seed,
            })
            .await
    }
}

pub(crate) const PLAIN: &str = r#"{"model":"auto","messages":[]}"#;
pub(crate) const STREAMED: &str =
    r#"{"model":"auto","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#;

/// Asks with random choices that start at `seed`.
pub(crate) async fn ask_seeded(expert: &Expert, body: &str, seed: u64) -> Result<Reply, CallError> {
    Asking { seed, ..Asking::new(body) }.of(expert).await
}

/// A good answer that is not streamed.
pub(crate) fn ok() -> String {
    whole("200 OK", "application/json", "{}")
}

/// A server that counts its requests and gives the answers of the list in turn, the last one for ever.
pub(crate) async fn scripted(answers: &[String]) -> (Upstream, Arc<AtomicUsize>) {
    let (answers, count) = (Arc::new(answers.to_vec()), Arc::new(AtomicUsize::new(0)));
    let counter = count.clone();
    let upstream = Upstream::start(move |mut connection, _| {
        let (answers, counter) = (answers.clone(), counter.clone());
        async move {
            while connection.request().await.is_some() {
                let at = counter.fetch_add(1, Ordering::SeqCst);
                connection.write(answers.get(at).or(answers.last()).unwrap()).await;
            }
        }
    })
    .await;
    (upstream, count)
}

pub(crate) async fn ask(expert: &Expert, body: &str) -> Result<Reply, CallError> {
    Asking::new(body).of(expert).await
}

/// The whole body as text.
pub(crate) async fn text(body: ReplyBody) -> String {
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The next piece of a body as text; `None` at its end.
pub(crate) async fn piece(body: &mut ReplyBody) -> Option<String> {
    let frame = body.frame().await?.unwrap();
    Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
}
