//! The connection below HTTP, for the faults that HTTP itself cannot express.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// What a request's handler asks of its connection.
#[derive(Debug, Default)]
pub(crate) struct Control {
    reset: AtomicBool,
    /// The next head is cut short.
    cut: AtomicBool,
    /// Microseconds between two bytes of the head; zero when it is sent at once.
    dribble: AtomicU64,
}

impl Control {
    /// Closing the connection will send a reset instead of an orderly end.
    pub(crate) fn reset_on_close(&self) {
        self.reset.store(true, Relaxed);
    }

    /// The next head is sent in part, then the connection is reset.
    pub(crate) fn cut_head(&self) {
        self.cut.store(true, Relaxed);
        self.reset_on_close();
    }

    /// The next head is sent byte by byte.
    pub(crate) fn dribble_head(&self, gap: Duration) {
        self.dribble.store((gap.as_micros() as u64).max(1), Relaxed);
    }
}

/// How much of a head is sent that is cut short: the status, but not the end of the first header.
const CUT_AFTER: usize = 24;

/// A TCP connection that can be told to misbehave.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    control: Arc<Control>,
    gap: Option<Pin<Box<Sleep>>>,
    /// How much of `\r\n\r\n` the last bytes sent match.
    matched: usize,
    /// Whether the part of a cut head was sent.
    was_cut: bool,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream, control: Arc<Control>) -> Self {
        Self { stream, control, gap: None, matched: 0, was_cut: false }
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.was_cut {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let part = &buf[..buf.len().min(CUT_AFTER)];
        let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, part))?;
        self.was_cut = true;
        Poll::Ready(Ok(sent))
    }

    fn poll_dribble(&mut self, cx: &mut Context<'_>, byte: u8, gap: Duration) -> Poll<io::Result<usize>> {
        let sleep = self.gap.get_or_insert_with(|| Box::pin(tokio::time::sleep(gap)));
        ready!(sleep.as_mut().poll(cx));
        let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &[byte]))?;
        self.gap = None;
        self.matched = match (byte, self.matched) {
            (b'\r', 0 | 2) | (b'\n', 1 | 3) => self.matched + 1,
            (b'\r', _) => 1,
            _ => 0,
        };
        if self.matched == 4 {
            self.matched = 0;
            self.control.dribble.store(0, Relaxed);
        }
        Poll::Ready(Ok(sent))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.control.reset.load(Relaxed) {
            // Failing means that the peer is gone already.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.control.cut.load(Relaxed) {
            return self.poll_cut(cx, buf);
        }
        match (self.control.dribble.load(Relaxed), buf.first()) {
            (0, _) | (_, None) => Pin::new(&mut self.stream).poll_write(cx, buf),
            (gap, Some(byte)) => self.poll_dribble(cx, *byte, Duration::from_micros(gap)),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.control.dribble.load(Relaxed) == 0 && !self.control.cut.load(Relaxed) {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        }
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        self.poll_write(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.control.reset.load(Relaxed) {
            // An orderly end now would reach the client before the reset.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
