//! Phase `account`: a body that notes how it ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use experts::{Expert, ReplyBody, Usage};
use http_body::{Body, Frame, SizeHint};
use prometheus_client::metrics::histogram::Histogram;

use super::admit::Hold;
use super::spans::Traced;
use super::{Pipeline, micros};
use crate::decision::{Decision, End, Outcome};
use crate::metrics::series::ExpertSeries;
use crate::metrics::timing::Timing;

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
    watch: Watch,
}

/// Where a body is counted and shown.
pub(super) struct Watch {
    pub(super) expert: Arc<ExpertSeries>,
    /// Takes the whole duration.
    pub(super) duration: Timing,
    pub(super) traced: Option<Box<Traced>>,
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
        watch: Watch,
    ) -> Self {
        let gaps =
            decision.stream.then(|| pipeline.metrics.inter_token_of(&watch.expert, expert.id()).clone());
        Self { pipeline, decision, expert, arrival, body, passed: None, gaps, ended: false, hold, watch }
    }

    /// Notes that a piece is passed on.
    fn pass(&mut self) {
        let now = Instant::now();
        match &mut self.passed {
            None => {
                self.passed = Some((now, now));
                if self.decision.stream {
                    let wait = now.saturating_duration_since(self.arrival);
                    let traced = self.watch.traced.as_deref();
                    let seen = traced.and_then(|traced| traced.seen(&self.decision, wait));
                    let metrics = &self.pipeline.metrics;
                    metrics.first_token_of(&self.watch.expert, self.expert.id()).observe(wait, seen);
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
            let (prompt, completion) = (usage.prompt_tokens, usage.completion_tokens);
            let metrics = &self.pipeline.metrics;
            metrics.tokens(&self.watch.expert, self.expert.id(), prompt, completion, cost);
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
        let traced = self.watch.traced.take();
        self.pipeline.finish(&self.decision, outcome, traced, &self.watch.duration);
    }
}

impl Pipeline {
    /// Completes a request's record once nothing more will happen to it. `timing` takes its duration.
    pub(super) fn finish(
        &self,
        decision: &Arc<Decision>,
        outcome: Outcome,
        traced: Option<Box<Traced>>,
        timing: &Timing,
    ) {
        let duration = Duration::from_micros(outcome.duration_us);
        timing.observe(duration, traced.as_deref().and_then(|traced| traced.seen(decision, duration)));
        if let (Some(tracer), Some(traced)) = (&self.tracer, traced) {
            traced.finish(tracer, decision, &outcome);
        }
        self.metrics.ended(outcome.end);
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
                if let (Some(traced), Some(piece)) = (&mut this.watch.traced, frame.data_ref()) {
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
