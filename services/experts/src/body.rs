use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use serde_json::json;
use tokio::time::{Instant, Sleep};

use crate::call::Usage;
use crate::error::{BodyError, Phase};
use crate::splice::{Ended, Filter, Output};
use crate::upstream::{Exchange, chain};
use crate::vitals::Ticket;

/// Pieces that have arrived already are joined up to about this size, so that a burst costs one write.
const JOINED: usize = 32 * 1024;

/// An answer's body: upstream bytes as they come, corrected where the contract with clients asks for it.
///
/// A stream always ends well for the client's parser: what the upstream leaves out or breaks off is
/// completed by `[DONE]` or by an error event. Any other body that breaks off fails with [`BodyError`].
/// Dropping the body cancels the upstream's work.
#[derive(Debug)]
pub struct ReplyBody {
    source: Source,
    /// What is known whole or was read ahead.
    ready: Bytes,
    usage: Option<Usage>,
    bytes: u64,
    cut: bool,
}

enum Source {
    /// Only what is ready.
    Nothing,
    Live(Box<Live>),
    Paced(Box<Paced>),
    /// Fails after what is ready.
    Broken(BodyError),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Live(_) => "Live",
            Self::Paced(_) => "Paced",
            Self::Broken(_) => "Broken",
        })
    }
}

/// An upstream's body that is still coming.
pub(crate) struct Live {
    exchange: Exchange,
    filter: Filter,
    idle: Duration,
    end: Instant,
    sizes: Sizes,
    /// Bytes that came so far.
    received: u64,
    /// Is told how the body ends.
    ticket: Option<Ticket>,
    /// Since when the next piece is waited for. A client that takes its time is not the upstream's fault.
    waiting: Option<Instant>,
}

/// How large an answer may be, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// The whole body.
    pub(crate) body: u64,
    /// Each event of a stream.
    pub(crate) event: u64,
}

/// Pieces that are made here, with pauses.
struct Paced {
    pieces: VecDeque<Bytes>,
    delay: Duration,
    pause: Option<Pin<Box<Sleep>>>,
}

/// How an upstream's body stopped.
enum Stop {
    /// Properly.
    End,
    Failure(String),
    TooLarge(String),
    Late(Phase),
}

impl Live {
    pub(crate) fn new(
        exchange: Exchange,
        filter: Filter,
        idle: Duration,
        end: Instant,
        sizes: Sizes,
        ticket: Option<Ticket>,
    ) -> Self {
        Self { exchange, filter, idle, end, sizes, received: 0, ticket, waiting: None }
    }

    /// Takes what has arrived; `Some` when the body has stopped.
    fn gather(&mut self, out: &mut Output) -> Option<Stop> {
        while out.len() < JOINED {
            match self.exchange.poll_now() {
                Poll::Pending => return None,
                Poll::Ready(piece) => {
                    if let Some(stop) = self.take(piece, out) {
                        return Some(stop);
                    }
                }
            }
        }
        None
    }

    fn take(&mut self, piece: Option<Result<Bytes, hyper::Error>>, out: &mut Output) -> Option<Stop> {
        match piece {
            Some(Ok(bytes)) => {
                self.waiting = None;
                self.received += bytes.len() as u64;
                if self.received > self.sizes.body {
                    return Some(Stop::TooLarge(format!("it is larger than {} bytes", self.sizes.body)));
                }
                self.filter.push(bytes, out);
                if self.filter.is_over() {
                    return Some(Stop::End);
                }
                let event = self.filter.event_bytes();
                (event > self.sizes.event)
                    .then(|| Stop::TooLarge(format!("an event is larger than {} bytes", self.sizes.event)))
            }
            Some(Err(error)) => Some(Stop::Failure(chain(&error))),
            None => Some(Stop::End),
        }
    }

    /// Ready with something to pass on, or with the body's stop.
    fn poll(&mut self, out: &mut Output, cx: &mut Context<'_>) -> Poll<Option<Stop>> {
        while out.len() < JOINED && !self.exchange.is_quiet(cx) {
            // The first piece is there mostly, and is taken without waking anybody; mostly nothing follows it.
            let piece = if out.len() == 0 { self.exchange.poll_now() } else { Poll::Pending };
            let piece = if piece.is_pending() { self.exchange.poll(cx) } else { piece };
            let Poll::Ready(piece) = piece else { break };
            let stop = self.take(piece, out);
            if stop.is_some() {
                return Poll::Ready(stop);
            }
        }
        if out.len() > 0 {
            return Poll::Ready(None);
        }
        let idle = *self.waiting.get_or_insert_with(Instant::now) + self.idle;
        ready!(self.exchange.poll_deadline(idle.min(self.end), cx));
        let phase = if self.end <= idle { Phase::Total } else { Phase::Idle };
        Poll::Ready(Some(Stop::Late(phase)))
    }

    /// Completes the output after a stop. `Err` when the client has to be told by a broken connection.
    fn close(
        mut self,
        stop: Stop,
        out: &mut Output,
        now: Instant,
    ) -> (Option<Usage>, Result<Ended, BodyError>) {
        self.filter.finish(out);
        // The limits that the client or the operator sets for the whole are no fault of the endpoint's.
        let over_limit = matches!(stop, Stop::Late(Phase::Total) | Stop::TooLarge(_));
        let failure = match stop {
            Stop::End => None,
            Stop::Late(phase) => Some(phase.message().to_owned()),
            Stop::Failure(detail) | Stop::TooLarge(detail) => Some(detail),
        };
        if let (Filter::Events(_) | Filter::Recast(_), Some(detail)) = (&self.filter, &failure) {
            tracing::warn!(error = %detail, "an upstream's stream broke off");
        }
        let ended = match (&mut self.filter, &failure) {
            (Filter::Events(events), failure) => {
                let broken = || error_event(BROKEN);
                Ok(events.end(failure.as_ref().map(|_| broken()).as_deref(), &error_event(UNFINISHED), out))
            }
            (Filter::Recast(recast), failure) => {
                Ok(recast.end(if failure.is_some() { BROKEN } else { UNFINISHED }, out))
            }
            (_, None) => Ok(Ended::Complete),
            (_, Some(detail)) => Err(BodyError(detail.clone())),
        };
        match (self.ticket.take(), &ended) {
            (Some(ticket), Ok(Ended::Complete | Ended::Repaired)) => ticket.completed(now),
            (Some(ticket), Ok(Ended::Cut) | Err(_)) if !over_limit => ticket.failed(now),
            _ => {}
        }
        (self.filter.usage(), ended)
    }
}

/// What a stream's client is told of an upstream that failed, and of one that ended too early.
const BROKEN: &str = "the expert's stream failed before its answer was complete";
const UNFINISHED: &str = "the expert's stream ended before its answer was complete";

/// The data of an error event.
fn error_event(message: &str) -> String {
    let error = json!({ "message": message, "type": "server_error", "param": null, "code": "upstream_stream_failed" });
    json!({ "error": error }).to_string()
}

impl ReplyBody {
    /// A body that is known whole.
    pub(crate) fn whole(bytes: Bytes, usage: Option<Usage>) -> Self {
        Self { source: Source::Nothing, ready: bytes, usage, bytes: 0, cut: false }
    }

    /// A body of pieces with a pause before each.
    pub(crate) fn paced(pieces: VecDeque<Bytes>, delay: Duration, usage: Usage) -> Self {
        let mut body = Self::whole(Bytes::new(), Some(usage));
        body.source = Source::Paced(Box::new(Paced { pieces, delay, pause: None }));
        body
    }

    /// An upstream's body. What has arrived with the head is taken at once: most answers that are not
    /// streamed are then complete, their length is known, and their connection is free again.
    pub(crate) fn live(mut live: Live, now: Instant) -> Self {
        let mut body = Self::whole(Bytes::new(), None);
        let mut out = Output::default();
        match live.gather(&mut out) {
            None => body.source = Source::Live(Box::new(live)),
            Some(stop) => body.stop(live, stop, &mut out, now),
        }
        body.ready = out.take();
        body
    }

    /// What the upstream said about the answer's tokens; complete when the body is.
    pub fn usage(&self) -> Option<Usage> {
        match &self.source {
            Source::Live(live) => live.filter.usage(),
            _ => self.usage,
        }
    }

    /// Whether the upstream broke off before its answer was complete.
    pub fn was_cut(&self) -> bool {
        self.cut
    }

    /// Bytes passed on so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn stop(&mut self, live: Live, stop: Stop, out: &mut Output, now: Instant) {
        let (usage, ended) = live.close(stop, out, now);
        self.usage = usage;
        match ended {
            Ok(ended) => self.cut = ended == Ended::Cut,
            Err(error) => {
                self.cut = true;
                self.source = Source::Broken(error);
            }
        }
    }

    fn emit(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.bytes += bytes.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            if !this.ready.is_empty() {
                let ready = std::mem::take(&mut this.ready);
                return this.emit(ready);
            }
            match &mut this.source {
                Source::Nothing => return Poll::Ready(None),
                Source::Broken(_) => {
                    let Source::Broken(error) = std::mem::replace(&mut this.source, Source::Nothing) else {
                        continue;
                    };
                    return Poll::Ready(Some(Err(error)));
                }
                Source::Paced(paced) => {
                    let Some(piece) = ready!(paced.poll(cx)) else {
                        this.source = Source::Nothing;
                        continue;
                    };
                    return this.emit(piece);
                }
                Source::Live(live) => {
                    let mut out = Output::default();
                    if let Some(stop) = ready!(live.poll(&mut out, cx))
                        && let Source::Live(live) = std::mem::replace(&mut this.source, Source::Nothing)
                    {
                        this.stop(*live, stop, &mut out, Instant::now());
                    }
                    this.ready = out.take();
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::Nothing) && self.ready.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let ready = self.ready.len() as u64;
        match &self.source {
            Source::Nothing => SizeHint::with_exact(ready),
            Source::Live(live) if live.filter.keeps_length() => match live.exchange.length() {
                Some(rest) => SizeHint::with_exact(ready + rest),
                None => SizeHint::new(),
            },
            _ => SizeHint::new(),
        }
    }
}

impl Paced {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.pieces.is_empty() {
            return Poll::Ready(None);
        }
        if !self.delay.is_zero() {
            let delay = self.delay;
            let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(delay)));
            ready!(pause.as_mut().poll(cx));
            pause.as_mut().reset(Instant::now() + delay);
        }
        Poll::Ready(self.pieces.pop_front())
    }
}
