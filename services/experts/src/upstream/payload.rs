use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// A request's body: pieces of known length, sent without being joined.
#[derive(Clone, Debug, Default)]
pub(crate) struct Payload {
    first: Bytes,
    /// In reverse.
    rest: Vec<Bytes>,
    length: u64,
}

impl Payload {
    /// Joins short pieces, where a copy costs less than a second write, and keeps long ones as they are.
    pub(crate) fn new(pieces: &[Bytes]) -> Self {
        const WORTH_JOINING: usize = 64 * 1024;
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let (first, rest) = match pieces {
            [only] => (only.clone(), Vec::new()),
            _ if length <= WORTH_JOINING => {
                let mut joined = Vec::with_capacity(length);
                for piece in pieces {
                    joined.extend_from_slice(piece);
                }
                (Bytes::from(joined), Vec::new())
            }
            _ => (Bytes::new(), pieces.iter().rev().filter(|p| !p.is_empty()).cloned().collect()),
        };
        Self { first, rest, length: length as u64 }
    }

    #[cfg(test)]
    pub(crate) fn joined(&self) -> Vec<u8> {
        let mut all = self.first.to_vec();
        for piece in self.rest.iter().rev() {
            all.extend_from_slice(piece);
        }
        all
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let piece =
            if this.first.is_empty() { this.rest.pop() } else { Some(std::mem::take(&mut this.first)) };
        this.length -= piece.as_ref().map_or(0, |p| p.len() as u64);
        Poll::Ready(piece.map(|p| Ok(Frame::data(p))))
    }

    fn is_end_stream(&self) -> bool {
        self.length == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
