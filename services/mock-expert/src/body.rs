//! Answer bodies: whole, or part by part in time, with an end that may be a fault.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::stats::Watch;
use crate::wire::Control;

/// Time for the last bytes to leave before a connection is broken off.
const FLUSH: Duration = Duration::from_millis(10);

/// The body of an answer.
pub(crate) enum AnswerBody {
    /// Everything at once.
    Whole(Option<Bytes>),
    /// Part by part.
    Timed(Box<Timed>),
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// In good order.
    Whole,
    /// With a reset of the connection.
    Reset,
    /// With the connection closed in the middle.
    Close,
    /// Never.
    Stall,
}

/// The connection was broken off on purpose.
#[derive(Debug, thiserror::Error)]
#[error("broken off as scripted")]
pub(crate) struct Broken;

/// Where the parts come from.
pub(crate) enum Source {
    /// Made beforehand.
    Ready(VecDeque<Bytes>),
    /// Made one by one when due, so that a part can carry its time.
    Lazy(Box<dyn Iterator<Item = Bytes> + Send>),
}

impl Source {
    fn next(&mut self) -> Option<Bytes> {
        match self {
            Self::Ready(parts) => parts.pop_front(),
            Self::Lazy(parts) => parts.next(),
        }
    }
}

/// When parts are due, counted from the head of the answer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// Before the second part: the first only opens the stream.
    pub(crate) first: Duration,
    /// Before every later part.
    pub(crate) gap: Duration,
}

/// A body whose parts are due one after the other.
pub(crate) struct Timed {
    source: Source,
    pace: Pace,
    end: End,
    phase: Phase,
    sent: usize,
    due: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
    watch: Watch,
    control: Arc<Control>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The last part is out.
    Sent,
    /// The next part is not due yet.
    Waiting,
    /// The next part is due.
    Due,
    /// Nothing will ever come again.
    Stalled,
    /// The last bytes are leaving before the connection breaks.
    Breaking,
    /// There is no more.
    Over,
}

impl Timed {
    pub(crate) fn new(source: Source, pace: Pace, end: End, watch: Watch, control: Arc<Control>) -> Self {
        let due = Instant::now();
        Self { source, pace, end, phase: Phase::Due, sent: 0, due, sleep: None, watch, control }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            match self.phase {
                Phase::Sent => {
                    // Counted from when the part before was due, so that a late wake-up slows nothing down.
                    self.due += if self.sent == 1 { self.pace.first } else { self.pace.gap };
                    let late = self.due <= Instant::now();
                    self.phase = if late { Phase::Due } else { self.arm(self.due, Phase::Waiting) };
                }
                Phase::Waiting => {
                    ready!(self.poll_sleep(cx));
                    self.phase = Phase::Due;
                }
                Phase::Due => match (self.source.next(), self.end) {
                    (Some(part), _) => {
                        self.sent += 1;
                        self.phase = Phase::Sent;
                        return Poll::Ready(Some(Ok(Frame::data(part))));
                    }
                    (None, End::Whole) => {
                        self.watch.finish();
                        self.phase = Phase::Over;
                    }
                    (None, End::Stall) => self.phase = Phase::Stalled,
                    (None, End::Reset | End::Close) => {
                        self.phase = self.arm(Instant::now() + FLUSH, Phase::Breaking);
                    }
                },
                Phase::Stalled => return Poll::Pending,
                Phase::Breaking => {
                    ready!(self.poll_sleep(cx));
                    if self.end == End::Reset {
                        self.control.reset_on_close();
                    }
                    self.watch.finish();
                    self.phase = Phase::Over;
                    return Poll::Ready(Some(Err(Broken)));
                }
                Phase::Over => return Poll::Ready(None),
            }
        }
    }

    fn arm(&mut self, at: Instant, phase: Phase) -> Phase {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(at),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(at))),
        }
        phase
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().map_or(Poll::Ready(()), |sleep| sleep.as_mut().poll(cx))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Timed(timed) => timed.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Timed(timed) => timed.phase == Phase::Over,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Timed(_) => SizeHint::default(),
        }
    }
}
