//! One request and its answer over a raw HTTP/1.1 connection.

use std::time::Instant;

use anyhow::{Context, Result, bail};
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

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status; 0 when there was none.
    pub status: u16,
    /// When the first byte of the body came.
    pub first_byte: Option<Instant>,
    /// Length of the body without its framing.
    pub bytes: u64,
    /// Whether the connection may be used again.
    pub keep_alive: bool,
    /// The beginning of the body.
    pub body: Vec<u8>,
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
    pub async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(64 * 1024) })
    }

    /// Sends `request`, head and body in one, and reads the answer to its end. Events are counted into
    /// `events` as they come.
    ///
    /// # Errors
    /// When the connection ends early or the answer is not HTTP.
    pub async fn exchange(&mut self, request: &[u8], mut events: Option<&mut Events>) -> Result<Reply> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let end = self.until(b"\r\n\r\n", "before the end of the head").await?;
        let head = Head::parse(&self.buffer[..end]);
        self.buffer.drain(..end + 4);
        let mut reply = Reply {
            status: head.status,
            first_byte: None,
            bytes: 0,
            keep_alive: head.keep_alive,
            body: Vec::new(),
        };
        if head.chunked {
            loop {
                let end = self.until(b"\r\n", "in a chunk's head").await?;
                let size = chunk_size(&self.buffer[..end])?;
                self.buffer.drain(..end + 2);
                self.body(size, &mut reply, &mut events).await?;
                while self.buffer.len() < 2 {
                    self.more("after a chunk").await?;
                }
                self.buffer.drain(..2);
                if size == 0 {
                    return Ok(reply);
                }
            }
        }
        match head.length {
            Some(length) => self.body(length, &mut reply, &mut events).await?,
            None => bail!("the answer says neither its length nor that it is chunked"),
        }
        Ok(reply)
    }

    /// Passes on `left` bytes of body.
    async fn body(
        &mut self,
        mut left: usize,
        reply: &mut Reply,
        events: &mut Option<&mut Events>,
    ) -> Result<()> {
        while left > 0 {
            if self.buffer.is_empty() {
                self.more("in the body").await?;
            }
            let piece = &self.buffer[..left.min(self.buffer.len())];
            reply.first_byte.get_or_insert_with(Instant::now);
            reply.bytes += piece.len() as u64;
            if let Some(events) = events {
                events.feed(piece);
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
    async fn until(&mut self, mark: &[u8], place: &str) -> Result<usize> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|window| window == mark) {
                return Ok(at);
            }
            self.more(place).await?;
        }
    }

    async fn more(&mut self, place: &str) -> Result<()> {
        self.buffer.reserve(16 * 1024);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection was closed {place}");
        }
        Ok(())
    }
}

fn chunk_size(line: &[u8]) -> Result<usize> {
    let text = String::from_utf8_lossy(line);
    let size = text.split(';').next().unwrap_or_default().trim();
    usize::from_str_radix(size, 16).with_context(|| format!("{text:?} is not the head of a chunk"))
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
