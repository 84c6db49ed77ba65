//! Phase `account`: a body that notes how it ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use bytes::Bytes;
use experts::{Expert, ReplyBody, Usage};
use http_body::{Body, Frame, SizeHint};
use prometheus_client::metrics::histogram::Histogram;

use super::admit::Hold;
use super::spans::Traced;
use super::{Pipeline, micros};
use crate::decision::{Decision, End, Outcome};
use crate::metrics::{Name, OfExpert, OfRoute};

/// An answer's body on its way to the client. Its end, or its drop when the client leaves, completes the
/// decision record and gives the request's place back.
pub(super) struct Accounted {
    pipeline: Arc<Pipeline>,
    decision: Arc<Decision>,
    expert: Arc<Expert>,
    arrival: Instant,
    body: Source,
    /// When the first piece and the latest one were passed on.
    passed: Option<(Instant, Instant)>,
    /// Takes the time between pieces, when they are a stream's.
    gaps: Option<Histogram>,
    ended: bool,
    hold: Hold,
    traced: Option<Box<Traced>>,
}

/// Where the body's bytes come from.
pub(super) enum Source {
    /// The expert.
    Reply(ReplyBody),
    /// Memory, with what the expert counted.
    Whole(Bytes, Option<Usage>),
}

impl Accounted {
    pub(super) fn new(
        pipeline: Arc<Pipeline>,
        decision: Arc<Decision>,
        expert: Arc<Expert>,
        arrival: Instant,
        body: Source,
        hold: Hold,
        traced: Option<Box<Traced>>,
    ) -> Self {
        let gaps = decision.stream.then(|| {
            let of = OfExpert { expert: Name(expert.id().clone()) };
            pipeline.metrics.inter_token.get_or_create(&of).clone()
        });
        Self { pipeline, decision, expert, arrival, body, passed: None, gaps, ended: false, hold, traced }
    }

    /// Notes that a piece is passed on.
    fn pass(&mut self) {
        let now = Instant::now();
        match &mut self.passed {
            None => {
                self.passed = Some((now, now));
                if self.decision.stream {
                    let of = OfExpert { expert: Name(self.expert.id().clone()) };
                    let wait = now.saturating_duration_since(self.arrival);
                    self.pipeline.metrics.first_token.get_or_create(&of).observe(wait.as_secs_f64());
                }
            }
            Some((_, latest)) => {
                if let Some(gaps) = &self.gaps {
                    gaps.observe(now.saturating_duration_since(*latest).as_secs_f64());
                }
                *latest = now;
            }
        }
    }

    fn end(&mut self, end: End) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let usage = match &self.body {
            Source::Reply(body) => body.usage(),
            Source::Whole(_, usage) => *usage,
        };
        let cost = usage.map(|usage| self.expert.spec().cost.of(usage));
        if let (Some(usage), Some(cost)) = (usage, cost) {
            self.pipeline.count_tokens(&self.expert, usage, cost);
        }
        let failed = self.decision.status >= 400;
        self.hold.settle(match usage {
            Some(usage) => Some(admission::Usage {
                input_tokens: usage.prompt_tokens,
                output_tokens: usage.completion_tokens,
                cost: admission::Usd::from_dollars(cost.unwrap_or_default()).unwrap_or_default(),
            }),
            // An error of the expert's used nothing; an answer that was not counted stays as estimated.
            None => failed.then(admission::Usage::default),
        });
        let first = self.passed.map(|(first, _)| micros(first.saturating_duration_since(self.arrival)));
        let outcome = Outcome {
            duration_us: micros(self.arrival.elapsed()),
            first_byte_us: first,
            end,
            prompt_tokens: usage.map(|u| u.prompt_tokens),
            completion_tokens: usage.map(|u| u.completion_tokens),
            cost_usd: cost,
        };
        self.pipeline.finish(&self.decision, outcome, self.traced.take());
    }
}

impl Pipeline {
    fn count_tokens(&self, expert: &Expert, usage: Usage, cost: f64) {
        let of = OfExpert { expert: Name(expert.id().clone()) };
        self.metrics.prompt_tokens.get_or_create(&of).inc_by(usage.prompt_tokens);
        self.metrics.completion_tokens.get_or_create(&of).inc_by(usage.completion_tokens);
        if cost > 0.0 {
            self.metrics.cost.get_or_create(&of).inc_by(cost);
        }
    }

    /// Completes a request's record once nothing more will happen to it.
    pub(super) fn finish(&self, decision: &Arc<Decision>, outcome: Outcome, traced: Option<Box<Traced>>) {
        if let (Some(tracer), Some(traced)) = (&self.tracer, traced) {
            traced.finish(tracer, decision, &outcome);
        }
        self.metrics.ended(outcome.end);
        let of = OfRoute { route: decision.route.clone().map(Name) };
        self.metrics.duration.get_or_create(&of).observe(outcome.duration_us as f64 / 1e6);
        if let Some(log) = &self.access {
            log.push(decision, &outcome);
        }
        // Set once: whoever ends a request does so once.
        let _ = decision.outcome.set(outcome);
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
            Source::Whole(bytes, _) if bytes.is_empty() => Poll::Ready(None),
            Source::Whole(bytes, _) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        };
        match &polled {
            Poll::Ready(None) => {
                let cut = matches!(&this.body, Source::Reply(body) if body.was_cut());
                this.end(if cut { End::Cut } else { End::Complete });
            }
            Poll::Ready(Some(Err(_))) => this.end(End::Cut),
            Poll::Ready(Some(Ok(frame))) => {
                this.pass();
                if let (Some(traced), Some(piece)) = (&mut this.traced, frame.data_ref()) {
                    traced.read(piece);
                }
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Source::Reply(body) => body.is_end_stream(),
            Source::Whole(bytes, _) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Source::Reply(body) => body.size_hint(),
            Source::Whole(bytes, _) => SizeHint::with_exact(bytes.len() as u64),
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
