//! Phase `account`: a body that notes how it ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use bytes::Bytes;
use experts::{Expert, ReplyBody};
use http_body::{Body, Frame, SizeHint};

use super::Pipeline;
use super::admit::Place;
use crate::decision::{Decision, End, Outcome};
use crate::metrics::{Name, OfExpert};

/// An answer's body on its way to the client. Its end, or its drop when the client leaves, completes the
/// decision record and gives the request's place back.
pub(super) struct Accounted {
    pipeline: Arc<Pipeline>,
    decision: Arc<Decision>,
    expert: Arc<Expert>,
    arrival: Instant,
    body: Source,
    ended: bool,
    _place: Place,
}

enum Source {
    Reply(ReplyBody),
    Whole(Bytes),
}

impl Accounted {
    pub(super) fn new(
        pipeline: Arc<Pipeline>,
        decision: Arc<Decision>,
        expert: Arc<Expert>,
        arrival: Instant,
        body: ReplyBody,
        place: Place,
    ) -> Self {
        Self { pipeline, decision, expert, arrival, body: Source::Reply(body), ended: false, _place: place }
    }

    /// A body that is known whole.
    pub(super) fn finished(
        pipeline: Arc<Pipeline>,
        decision: Arc<Decision>,
        expert: Arc<Expert>,
        arrival: Instant,
        body: Bytes,
        place: Place,
    ) -> Self {
        Self { pipeline, decision, expert, arrival, body: Source::Whole(body), ended: false, _place: place }
    }

    fn end(&mut self, end: End) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let metrics = &self.pipeline.metrics;
        metrics.ended(end);
        let duration = self.arrival.elapsed();
        metrics.duration.observe(duration.as_secs_f64());
        let usage = match &self.body {
            Source::Reply(body) => body.usage(),
            Source::Whole(_) => None,
        };
        if let Some(usage) = usage {
            let of = OfExpert { expert: Name(self.expert.id().clone()) };
            metrics.prompt_tokens.get_or_create(&of).inc_by(usage.prompt_tokens);
            metrics.completion_tokens.get_or_create(&of).inc_by(usage.completion_tokens);
        }
        let outcome = Outcome {
            duration_ms: duration.as_millis() as u64,
            end,
            prompt_tokens: usage.map(|u| u.prompt_tokens),
            completion_tokens: usage.map(|u| u.completion_tokens),
        };
        // Set once: `ended` guards it.
        let _ = self.decision.outcome.set(outcome);
    }
}

impl Body for Accounted {
    type Data = Bytes;
    type Error = experts::BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let polled = match &mut this.body {
            Source::Reply(body) => Pin::new(body).poll_frame(cx),
            Source::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Source::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        };
        match &polled {
            Poll::Ready(None) => {
                let cut = matches!(&this.body, Source::Reply(body) if body.was_cut());
                this.end(if cut { End::Cut } else { End::Complete });
            }
            Poll::Ready(Some(Err(_))) => this.end(End::Cut),
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Source::Reply(body) => body.is_end_stream(),
            Source::Whole(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Source::Reply(body) => body.size_hint(),
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

impl Drop for Accounted {
    fn drop(&mut self) {
        // A server that knows the length drops the body after its last byte without asking for the end.
        let cut = matches!(&self.body, Source::Reply(body) if body.was_cut());
        self.end(match self.is_end_stream() {
            _ if cut => End::Cut,
            true => End::Complete,
            false => End::ClientLeft,
        });
    }
}
