//! One request and its answer over a raw HTTP/1.1 connection.

use std::time::Instant;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::sse::Events;

/// Most of an answer's body that is kept to be shown when it is not a success.
const KEPT: usize = 4096;

/// A kept-alive connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What came back so far. Filled as it comes, so that it can be looked at when the rest never does.
#[derive(Debug, Default)]
pub struct Reply {
    /// The HTTP status; 0 while there is none.
    pub status: u16,
    /// When the first byte of the body came.
    pub first_byte: Option<Instant>,
    /// Length of the body without its framing.
    pub bytes: u64,
    /// Whether the connection may be used again.
    pub keep_alive: bool,
    /// The beginning of the body.
    pub body: Vec<u8>,
    /// The events, where the answer is a stream.
    pub events: Option<Events>,
}

/// How a request can fail other than by a whole answer with a bad status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Nobody listens.
    Refused,
    /// Connecting failed in another way.
    Unreachable,
    /// The connection ended before the first byte of the body, in the head included.
    BeforeFirstByte,
    /// The connection ended after it.
    Cut,
    /// A stream said that it failed.
    ErrorEvent,
    /// A stream ended in good order but without `[DONE]`.
    Unfinished,
    /// Out of patience before the first byte of the body.
    LateFirstByte,
    /// Out of patience after it.
    LateEnd,
    /// Not HTTP.
    Malformed,
}

/// A failure and what was seen of it.
#[derive(Debug)]
pub struct Broken {
    /// Its kind.
    pub failure: Failure,
    /// What was seen.
    pub message: String,
}

impl Broken {
    fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self { failure, message: message.into() }
    }
}

/// The parts of a head that tell how the body is framed.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: Option<usize>,
    chunked: bool,
    keep_alive: bool,
}

impl Head {
    fn parse(head: &[u8]) -> Self {
        let text = String::from_utf8_lossy(head).to_ascii_lowercase();
        let status = text.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
        let mut parsed = Self { status, length: None, chunked: false, keep_alive: true };
        for (name, value) in text.lines().skip(1).filter_map(|line| line.split_once(':')) {
            match name {
                "content-length" => parsed.length = value.trim().parse().ok(),
                "transfer-encoding" => parsed.chunked = value.contains("chunked"),
                "connection" => parsed.keep_alive = !value.contains("close"),
                _ => {}
            }
        }
        parsed
    }
}

impl Connection {
    /// Opens a connection to `address`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn open(address: &str) -> Result<Self, Broken> {
        let stream = TcpStream::connect(address).await.map_err(|error| {
            let refused = error.kind() == std::io::ErrorKind::ConnectionRefused;
            let failure = if refused { Failure::Refused } else { Failure::Unreachable };
            Broken::new(failure, format!("connecting: {error}"))
        })?;
        // Without this a request in two writes would wait for an acknowledgement; failing costs only that.
        let _ = stream.set_nodelay(true);
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// Whether the server still keeps the idle connection open.
    pub fn is_alive(&self) -> bool {
        let mut byte = [0];
        matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Sends `request`, head and body in one, and reads the answer to its end into `reply`.
    ///
    /// # Errors
    /// When the connection ends early or the answer is not HTTP.
    pub async fn exchange(&mut self, request: &[u8], reply: &mut Reply) -> Result<(), Broken> {
        if let Err(error) = self.stream.write_all(request).await {
            return Err(Broken::new(Failure::BeforeFirstByte, format!("sending: {error}")));
        }
        self.buffer.clear();
        let end = self.until(b"\r\n\r\n", reply, "before the end of the head").await?;
        let head = Head::parse(&self.buffer[..end]);
        self.buffer.drain(..end + 4);
        (reply.status, reply.keep_alive) = (head.status, head.keep_alive);
        if head.chunked {
            return self.chunks(reply).await;
        }
        let Some(length) = head.length else {
            let message = "the answer says neither its length nor that it is chunked";
            return Err(Broken::new(Failure::Malformed, message));
        };
        self.body(length, reply).await
    }

    /// Reads a chunked body.
    async fn chunks(&mut self, reply: &mut Reply) -> Result<(), Broken> {
        loop {
            let end = self.until(b"\r\n", reply, "in a chunk's head").await?;
            let size = chunk_size(&self.buffer[..end])?;
            self.buffer.drain(..end + 2);
            self.body(size, reply).await?;
            while self.buffer.len() < 2 {
                self.more(reply, "after a chunk").await?;
            }
            self.buffer.drain(..2);
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// Passes on `left` bytes of body.
    async fn body(&mut self, mut left: usize, reply: &mut Reply) -> Result<(), Broken> {
        while left > 0 {
            if self.buffer.is_empty() {
                self.more(reply, "in the body").await?;
            }
            let now = Instant::now();
            let piece = &self.buffer[..left.min(self.buffer.len())];
            reply.first_byte.get_or_insert(now);
            reply.bytes += piece.len() as u64;
            if let Some(events) = &mut reply.events {
                events.feed(piece, now);
            }
            let room = KEPT.saturating_sub(reply.body.len()).min(piece.len());
            reply.body.extend_from_slice(&piece[..room]);
            let length = piece.len();
            self.buffer.drain(..length);
            left -= length;
        }
        Ok(())
    }

    /// Reads until `mark` is in the buffer and says where it begins.
    async fn until(&mut self, mark: &[u8], reply: &Reply, place: &str) -> Result<usize, Broken> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|window| window == mark) {
                return Ok(at);
            }
            self.more(reply, place).await?;
        }
    }

    async fn more(&mut self, reply: &Reply, place: &str) -> Result<(), Broken> {
        self.buffer.reserve(16 * 1024);
        let message = match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => format!("the connection was closed {place}"),
            Ok(_) => return Ok(()),
            Err(error) => format!("{error} {place}"),
        };
        let failure = if reply.first_byte.is_some() { Failure::Cut } else { Failure::BeforeFirstByte };
        Err(Broken::new(failure, message))
    }
}

fn chunk_size(line: &[u8]) -> Result<usize, Broken> {
    let text = String::from_utf8_lossy(line);
    let size = text.split(';').next().unwrap_or_default().trim();
    usize::from_str_radix(size, 16)
        .map_err(|_| Broken::new(Failure::Malformed, format!("{text:?} is not the head of a chunk")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_tell_the_framing() {
        let head = Head::parse(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close");
        assert_eq!(head, Head { status: 200, length: Some(12), chunked: false, keep_alive: false });
        let head = Head::parse(b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked");
        assert_eq!(head, Head { status: 503, length: None, chunked: true, keep_alive: true });
    }

    #[test]
    fn chunk_sizes_may_have_extensions() {
        assert_eq!(chunk_size(b"1a;x=y").unwrap(), 26);
        assert!(chunk_size(b"zz").is_err());
    }
}
