//! Streams in the words of the mock's protocol, and what faults make of them.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::body::Source;
use crate::fault::Fault;
use crate::messages;
use crate::render::Stream;
use crate::settings::Protocol;

/// Size of the pieces in which an oversize body is sent.
const PIECE: usize = 64 << 10;

/// A stream in the words of the mock's protocol.
pub(crate) enum Events {
    Chunks(Stream),
    Message(messages::Stream),
}

impl Events {
    /// How many parts there are, at least two.
    fn parts(&self) -> usize {
        match self {
            Self::Chunks(stream) => stream.parts(),
            Self::Message(stream) => stream.parts(),
        }
    }

    /// Leaves out what says that the stream is whole.
    fn without_end(self) -> Self {
        match self {
            Self::Chunks(stream) => Self::Chunks(stream.without_done()),
            Self::Message(stream) => Self::Message(stream.without_stop()),
        }
    }

    fn garbage(&self) -> Bytes {
        match self {
            Self::Chunks(_) => Bytes::from_static(b"data: {\"choices\": [{\"index\": 0, \"delta\": oops\n\n"),
            Self::Message(_) => messages::garbage(),
        }
    }

    /// The beginning and the end of an event whose text may have any length.
    fn oversize(&self) -> (Bytes, Bytes) {
        match self {
            Self::Chunks(_) => (
                Bytes::from_static(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\""),
                Bytes::from_static(b"\"},\"finish_reason\":null}]}\n\n"),
            ),
            Self::Message(_) => messages::oversize_event(),
        }
    }
}

impl Iterator for Events {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        match self {
            Self::Chunks(stream) => stream.next(),
            Self::Message(stream) => stream.next(),
        }
    }
}

/// The events of a stream, ended early or spoilt as the fault has it.
pub(crate) fn cut_events(mut stream: Events, fault: Option<Fault>) -> Source {
    let half = stream.parts() / 2;
    match fault {
        Some(Fault::ResetMid | Fault::StallMid) => Source::Lazy(Box::new(stream.take(half.max(1)))),
        Some(Fault::HalfEvent) => {
            let mut parts: VecDeque<Bytes> = stream.by_ref().take(half).collect();
            parts.extend(stream.next().map(|event| event.slice(..event.len() / 2)));
            Source::Ready(parts)
        }
        Some(Fault::MissingDone) => Source::Lazy(Box::new(stream.without_end())),
        Some(Fault::Garbage) => {
            let mut parts: VecDeque<Bytes> = stream.by_ref().take(half).collect();
            parts.push_back(stream.garbage());
            Source::Lazy(Box::new(parts.into_iter().chain(stream)))
        }
        Some(Fault::OversizeBody(bytes)) => {
            let event = Bytes::from(vec![b'x'; PIECE]);
            let (head, tail) = stream.oversize();
            let filler = std::iter::repeat_n(event, bytes.div_ceil(PIECE));
            Source::Lazy(Box::new(std::iter::once(head).chain(filler).chain([tail]).chain(stream)))
        }
        _ => Source::Lazy(Box::new(stream)),
    }
}

/// A valid answer whose text is about this long.
pub(crate) fn oversize(speaks: Protocol, bytes: usize) -> Source {
    let head = Bytes::from_static(
        b"{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"mock\",\"choices\":\
          [{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"",
    );
    let tail = Bytes::from_static(b"\"},\"finish_reason\":\"stop\"}]}");
    let (head, tail) = match speaks {
        Protocol::ChatCompletions => (head, tail),
        Protocol::Messages => messages::oversize_message(),
    };
    let filler = std::iter::repeat_n(Bytes::from(vec![b'x'; PIECE]), bytes.div_ceil(PIECE));
    Source::Lazy(Box::new(std::iter::once(head).chain(filler).chain([tail])))
}
