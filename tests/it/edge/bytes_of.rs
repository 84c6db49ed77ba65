//! Connections that are read and written byte by byte.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// One end of a connection.
pub(super) struct Wire {
    socket: TcpStream,
    /// Bytes that were read beyond what was asked for.
    ahead: Vec<u8>,
}

impl Wire {
    /// Connects to a base URL.
    pub(super) async fn open(url: &str) -> Self {
        Self::of(TcpStream::connect(url.trim_start_matches("http://")).await.unwrap())
    }

    fn of(socket: TcpStream) -> Self {
        socket.set_nodelay(true).unwrap();
        Self { socket, ahead: Vec::new() }
    }

    pub(super) async fn send(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).await.unwrap();
    }

    /// Whether it could be sent, and the other end has not hung up.
    pub(super) async fn try_send(&mut self, text: &str) -> bool {
        let mut byte = [0];
        let hung_up = matches!(self.socket.try_read(&mut byte), Ok(0))
            || self.socket.try_read(&mut byte).is_err_and(|e| e.kind() != std::io::ErrorKind::WouldBlock);
        !hung_up && self.socket.write_all(text.as_bytes()).await.is_ok()
    }

    /// What one read gives.
    pub(super) async fn read(&mut self) -> String {
        if !self.ahead.is_empty() {
            return text(std::mem::take(&mut self.ahead));
        }
        let mut buffer = vec![0; 64 << 10];
        let count = timeout(PATIENCE, self.socket.read(&mut buffer)).await.expect("nothing comes").unwrap();
        assert!(count > 0, "the connection was closed");
        buffer.truncate(count);
        text(buffer)
    }

    /// What comes up to and with `mark`.
    pub(super) async fn until(&mut self, mark: &str) -> String {
        let mut got = std::mem::take(&mut self.ahead);
        loop {
            let end = got.windows(mark.len()).position(|bytes| bytes == mark.as_bytes());
            if let Some(end) = end {
                self.ahead = got.split_off(end + mark.len());
                return text(got);
            }
            got.extend_from_slice(self.read().await.as_bytes());
        }
    }

    /// So many bytes.
    async fn exactly(&mut self, count: usize) {
        let mut got = std::mem::take(&mut self.ahead);
        while got.len() < count {
            got.extend_from_slice(self.read().await.as_bytes());
        }
        self.ahead = got.split_off(count);
    }

    /// What comes until the other end closes the connection, in whatever manner.
    pub(super) async fn rest(&mut self) -> String {
        let mut got = std::mem::take(&mut self.ahead);
        let read = timeout(PATIENCE, self.socket.read_to_end(&mut got)).await;
        drop(read.expect("the connection is not closed"));
        text(got)
    }

    /// Forgets what has come.
    pub(super) async fn drain(&mut self) {
        self.ahead.clear();
        let mut buffer = [0; 4096];
        while timeout(Duration::from_millis(50), self.socket.read(&mut buffer))
            .await
            .is_ok_and(|n| n.is_ok_and(|n| n > 0))
        {}
    }

    /// Sends no more, and goes on listening.
    pub(super) async fn shut(&mut self) {
        self.socket.shutdown().await.unwrap();
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// An expert whose answers are written by hand.
pub(super) struct Upstream {
    address: std::net::SocketAddr,
    requests: mpsc::Receiver<Wire>,
}

impl Upstream {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::channel(8);
        // Ends with the test's runtime.
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    let mut wire = Wire::of(socket);
                    let head = wire.until("\r\n\r\n").await;
                    if head.starts_with("POST ") {
                        let length = head.to_lowercase();
                        let length = length.split_once("content-length: ").unwrap().1.lines().next().unwrap();
                        wire.exactly(length.parse().unwrap()).await;
                        let _ = sender.send(wire).await;
                    }
                });
            }
        });
        Self { address, requests }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The connection of the next request, which has been read.
    pub(super) async fn request(&mut self) -> Wire {
        timeout(PATIENCE, self.requests.recv()).await.expect("no request comes").unwrap()
    }
}
