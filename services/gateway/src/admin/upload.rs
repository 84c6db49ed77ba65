//! A request's body as something that a thread can read, piece by piece.

use std::io::{self, Read};
use std::time::Duration;

use axum::body::Body;
use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::error::{ApiError, ErrorKind};

/// Pieces that may wait for the reader.
const WAITING: usize = 8;
/// How long a piece may be on its way.
const PATIENCE: Duration = Duration::from_mins(1);
/// Bytes of a refused upload that are read all the same: a client that is still sending would otherwise lose
/// the connection before it has seen the answer.
const DRAINED: usize = 1 << 30;

/// Lets `work` read a body on a thread of its own.
///
/// # Errors
/// 408 when the body does not come; what `work` says of it is the inner result.
pub(super) async fn through<T: Send + 'static>(
    body: Body,
    work: impl FnOnce(Incoming) -> T + Send + 'static,
) -> Result<T, ApiError> {
    let (send, pieces) = mpsc::channel(WAITING);
    let incoming = Incoming { pieces, piece: Bytes::new(), ended: false };
    let work = tokio::task::spawn_blocking(move || work(incoming));
    // Only a body that has come to its end is told to have ended; otherwise the reader gets an error.
    let fed = feed(body, send).await;
    let done = work.await.map_err(ApiError::internal)?;
    fed.map(|()| done)
}

async fn feed(mut body: Body, send: mpsc::Sender<Piece>) -> Result<(), ApiError> {
    let (mut wanted, mut drained) = (true, 0);
    loop {
        let Ok(frame) = timeout(PATIENCE, body.frame()).await else {
            let message = format!("the upload stood still for {} s", PATIENCE.as_secs());
            return Err(ApiError::new(ErrorKind::RequestTimeout, message));
        };
        let data = match frame {
            None => {
                // A reader that has seen enough has said why.
                let _ = send.send(Piece::End).await;
                return Ok(());
            }
            Some(Err(_)) => {
                let message = "the upload broke off before its end; send it again";
                return Err(ApiError::new(ErrorKind::InvalidRequest, message));
            }
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        let length = data.len();
        if wanted && send.send(Piece::Data(data)).await.is_ok() {
            continue;
        }
        wanted = false;
        drained += length;
        if drained > DRAINED {
            return Ok(());
        }
    }
}

enum Piece {
    Data(Bytes),
    End,
}

/// A body as it comes in. It must be read where blocking is allowed.
pub(super) struct Incoming {
    pieces: mpsc::Receiver<Piece>,
    piece: Bytes,
    ended: bool,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(piece)) => self.piece = piece,
                Some(Piece::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it broke off")),
            }
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    async fn read(pieces: Vec<Result<&'static str, io::Error>>) -> Result<io::Result<String>, ApiError> {
        let body = Body::from_stream(stream::iter(pieces));
        through(body, |mut source| {
            let mut text = String::new();
            source.read_to_string(&mut text).map(|_| text)
        })
        .await
    }

    #[tokio::test]
    async fn a_body_is_read_whole_or_not_at_all() {
        let whole = read(vec![Ok("a"), Ok(""), Ok("bc")]).await.unwrap().unwrap();
        assert_eq!(whole, "abc");
        let error = read(vec![Ok("a"), Err(io::Error::other("reset"))]).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidRequest);
        let ignored = through(Body::from("x".repeat(1 << 20)), |_| 7).await.unwrap();
        assert_eq!(ignored, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_is_given_up() {
        // Time stands still while a thread works, so that there is none here.
        let (send, mut pieces) = mpsc::channel(WAITING);
        let silent = stream::pending::<Result<Bytes, io::Error>>();
        let error = feed(Body::from_stream(silent), send).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::RequestTimeout);
        assert!(pieces.recv().await.is_none(), "its reader is not told that it has ended");
    }
}
