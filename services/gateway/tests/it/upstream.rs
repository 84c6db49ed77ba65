//! A scripted endpoint: it answers as its mood is, and notes what comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::world::{Event, Log};

/// What an endpoint does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Works,
    /// Resets the connection when the request has come.
    Resets,
    /// Resets it within the answer's head.
    ResetsInHead,
    /// Says nothing.
    Stalls,
    /// Answers 503.
    Fails,
    /// Answers 429 and asks to be left alone for a second.
    Limits,
    /// Breaks off in the middle of its answer.
    Cuts,
}

pub(crate) const MOODS: [Mood; 7] =
    [Mood::Works, Mood::Resets, Mood::ResetsInHead, Mood::Stalls, Mood::Fails, Mood::Limits, Mood::Cuts];

pub(crate) struct Endpoint {
    pub(crate) url: String,
    mood: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The tokens that an answer to this request says that it took: prompt and answer.
pub(crate) fn usage(request: usize) -> (u64, u64) {
    (10 + request as u64 % 7, 3 + request as u64 % 11)
}

impl Endpoint {
    /// Answers after about `latency`, which differs from request to request.
    pub(crate) async fn start(expert: &'static str, latency: Duration, log: Log) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let mood = Arc::new(AtomicUsize::new(0));
        let shared = mood.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let connection = Connection { stream, buffer: Vec::new() };
                let (mood, log) = (shared.clone(), log.clone());
                tokio::spawn(connection.serve(expert, latency, mood, log));
            }
        });
        Self { url, mood, task }
    }

    pub(crate) fn set(&self, mood: Mood) {
        let at = MOODS.iter().position(|m| *m == mood).unwrap();
        self.mood.store(at, Ordering::SeqCst);
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn serve(mut self, expert: &'static str, latency: Duration, mood: Arc<AtomicUsize>, log: Log) {
        while let Some((request, stream)) = self.request().await {
            log.push(Event::Arrives { request, expert });
            sleep(latency + Duration::from_millis(request as u64 * 13 % 29)).await;
            let mood = MOODS[mood.load(Ordering::SeqCst)];
            let (prompt, answer) = usage(request);
            let usage = format!(r#""usage":{{"prompt_tokens":{prompt},"completion_tokens":{answer}}}"#);
            let written = match mood {
                Mood::Works | Mood::Cuts if stream => self.stream(mood, &usage).await,
                Mood::Works => {
                    self.write(&whole("200 OK", "", &format!(r#"{{"choices":[{{}}],{usage}}}"#))).await
                }
                Mood::Cuts => {
                    let head =
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n";
                    let _ = self.write(&format!("{head}{{\"choices\":[")).await;
                    sleep(Duration::from_millis(5)).await;
                    None
                }
                Mood::Fails => self.write(&whole("503 x", "", "{}")).await,
                Mood::Limits => self.write(&whole("429 x", "retry-after: 1\r\n", "{}")).await,
                Mood::Resets => None,
                Mood::ResetsInHead => {
                    let _ = self.write("HTTP/1.1 200 OK\r\ncontent-ty").await;
                    None
                }
                Mood::Stalls => {
                    while !matches!(self.stream.read(&mut [0; 1024]).await, Ok(0) | Err(_)) {}
                    None
                }
            };
            if written.is_none() {
                break;
            }
        }
        #[expect(deprecated, reason = "lingering for zero seconds does not block")]
        // Fails where the other side has closed already.
        let _ = self.stream.set_linger(Some(Duration::ZERO));
    }

    /// Four chunks with pauses, then the usage and the end in one piece; or half of that.
    async fn stream(&mut self, mood: Mood, usage: &str) -> Option<()> {
        self.write(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await?;
        let chunk = |data: &str| format!("{:x}\r\ndata: {data}\n\n\r\n", data.len() + 8);
        for _ in 0..4 {
            self.write(&chunk(r#"{"choices":[{"index":0,"delta":{"content":"x"}}]}"#)).await?;
            sleep(Duration::from_millis(10)).await;
        }
        if mood == Mood::Cuts {
            return None;
        }
        let last = chunk(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#);
        let usage = chunk(&format!(r#"{{"choices":[],{usage}}}"#));
        self.write(&format!("{last}{usage}{}0\r\n\r\n", chunk("[DONE]"))).await
    }

    async fn write(&mut self, text: &str) -> Option<()> {
        self.stream.write_all(text.as_bytes()).await.ok()
    }

    /// The next request's number, and whether it asks for a stream; `None` when the gateway has closed.
    async fn request(&mut self) -> Option<(usize, bool)> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8(self.buffer[..end].to_vec()).unwrap();
                let header = |name: &str| {
                    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
                    lines.find_map(|(n, value)| n.eq_ignore_ascii_case(name).then(|| value.to_owned()))
                };
                let whole = end + 4 + header("content-length").map_or(0, |l| l.parse().unwrap());
                if self.buffer.len() >= whole {
                    let rest = self.buffer.split_off(whole);
                    let body = String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap();
                    let request = header("x-request-id").unwrap().parse().unwrap();
                    return Some((request, body.contains(r#""stream":true"#)));
                }
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(n) if n > 0 => {}
                _ => return None,
            }
        }
    }
}

fn whole(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}
