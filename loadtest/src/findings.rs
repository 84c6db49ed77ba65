//! What a run found, kept small however long it is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::exchange::{Broken, Failure, Reply};
use crate::histogram::Histogram;

/// Counts and times of the requests that were due in one stretch of a run, or were of one kind.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// Requests that were started.
    pub started: u64,
    /// Whole answers with status 200.
    pub ok: u64,
    /// Other answers and failures.
    pub failed: u64,
    /// Requests that were due while too many were in flight.
    pub not_started: u64,
    /// Nanoseconds from due to the end of a good answer.
    pub latencies: Histogram,
}

/// What became of one request.
#[derive(Debug)]
pub enum Outcome {
    /// A whole answer, with whatever status.
    Answered(Reply),
    /// None, or half of one.
    Broken(Broken, Reply),
    /// The client left, as it was meant to.
    Left,
}

/// What a run found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Nanoseconds from when a request was due to the end of its answer.
    pub latencies: Histogram,
    /// The same to the first byte of the body.
    pub first_bytes: Histogram,
    /// Nanoseconds that chunks were under way.
    pub chunk_delays: Histogram,
    /// Nanoseconds between two arrivals of chunks.
    pub chunk_gaps: Histogram,
    /// All requests in the window together.
    pub all: Part,
    /// Clients that left as they were meant to.
    pub left: u64,
    /// Events of streams.
    pub events: u64,
    /// Bytes of bodies.
    pub bytes: u64,
    /// Whole answers by status, of the warm-up too.
    pub statuses: BTreeMap<u16, u64>,
    /// Other failures by kind, of the warm-up too.
    pub failures: BTreeMap<Failure, u64>,
    /// The window cut into slices of equal length.
    pub slices: Vec<Part>,
    /// By item of the mix.
    pub items: Vec<Part>,
    /// The first answer that was no success, or the first failure.
    pub first_bad: Option<String>,
}

/// When a request was due, and which it was.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// From when its latency counts.
    pub at: Instant,
    /// The slice of the window that it was due in; absent outside of the window.
    pub slice: Option<usize>,
    /// Its item of the mix.
    pub item: usize,
}

impl Findings {
    /// Counts a request that was due but could not be started.
    pub fn not_started(&mut self, due: Due) {
        self.count(due, |part| part.not_started += 1);
    }

    /// Counts what became of a request. `ended` is when.
    pub fn record(&mut self, due: Due, outcome: Outcome, ended: Instant) {
        self.count(due, |part| part.started += 1);
        let reply = match outcome {
            Outcome::Left => {
                self.left += 1;
                return;
            }
            Outcome::Broken(broken, reply) => {
                self.stream(reply);
                self.fail(due, broken.failure, broken.message);
                return;
            }
            Outcome::Answered(reply) => reply,
        };
        *self.statuses.entry(reply.status).or_default() += 1;
        if reply.status != 200 || reply.bytes == 0 {
            let body = String::from_utf8_lossy(&reply.body).chars().take(300).collect::<String>();
            self.first_bad.get_or_insert_with(|| format!("{} {body}", reply.status));
            self.count(due, |part| part.failed += 1);
            return;
        }
        let (first, bytes) = (reply.first_byte, reply.bytes);
        if let Some(failure) = self.stream(reply) {
            self.fail(due, failure, format!("a stream ended so: {failure:?}"));
            return;
        }
        if due.slice.is_none() {
            return;
        }
        let nanos = |until: Instant| until.saturating_duration_since(due.at).as_nanos() as u64;
        self.count(due, |part| {
            part.ok += 1;
            part.latencies.record(nanos(ended));
        });
        self.bytes += bytes;
        self.latencies.record(nanos(ended));
        if let Some(first) = first {
            self.first_bytes.record(nanos(first));
        }
    }

    /// Takes the events of a stream and says whether it ended badly.
    fn stream(&mut self, reply: Reply) -> Option<Failure> {
        let events = reply.events?;
        self.events += events.count;
        events.delays.into_iter().for_each(|delay| self.chunk_delays.record(delay));
        events.gaps.into_iter().for_each(|gap| self.chunk_gaps.record(gap));
        match (events.error, events.done) {
            (true, _) => Some(Failure::ErrorEvent),
            (false, false) => Some(Failure::Unfinished),
            (false, true) => None,
        }
    }

    fn fail(&mut self, due: Due, failure: Failure, message: String) {
        *self.failures.entry(failure).or_default() += 1;
        self.first_bad.get_or_insert(message);
        self.count(due, |part| part.failed += 1);
    }

    fn count(&mut self, due: Due, add: impl Fn(&mut Part)) {
        let Some(slice) = due.slice else { return };
        for (parts, place) in [(&mut self.slices, slice), (&mut self.items, due.item)] {
            if place >= parts.len() {
                parts.resize_with(place + 1, Part::default);
            }
            add(&mut parts[place]);
        }
        add(&mut self.all);
    }
}

/// The slice of the window `from..until` that `at` lies in.
pub fn slice(at: Instant, from: Instant, until: Instant, length: Duration) -> Option<usize> {
    let inside = at >= from && at <= until;
    inside.then(|| ((at - from).as_nanos() / length.as_nanos().max(1)) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::Events;

    fn due(at: Instant) -> Due {
        Due { at, slice: Some(0), item: 0 }
    }

    fn stream(text: &str) -> Reply {
        let now = Instant::now();
        let mut events = Events::new(now..now + Duration::from_secs(9));
        events.feed(text.as_bytes(), now);
        Reply { status: 200, bytes: 9, first_byte: Some(now), events: Some(events), ..Reply::default() }
    }

    #[test]
    fn a_stream_counts_only_when_it_ends_as_it_should() {
        let now = Instant::now();
        let mut findings = Findings::default();
        findings.record(due(now), Outcome::Answered(stream("data: {}\n\ndata: [DONE]\n\n")), now);
        findings.record(due(now), Outcome::Answered(stream("data: {}\n\n")), now);
        findings.record(due(now), Outcome::Answered(stream("data: {\"error\":{}}\n\ndata: [DONE]\n\n")), now);
        assert_eq!((findings.all.started, findings.all.ok, findings.all.failed), (3, 1, 2));
        assert_eq!(findings.failures[&Failure::Unfinished], 1);
        assert_eq!(findings.failures[&Failure::ErrorEvent], 1);
        assert_eq!(findings.events, 5);
    }

    #[test]
    fn latency_counts_from_when_a_request_was_due() {
        let now = Instant::now();
        let mut findings = Findings::default();
        let reply = Reply { status: 200, bytes: 1, first_byte: Some(now), ..Reply::default() };
        findings.record(due(now), Outcome::Answered(reply), now + Duration::from_millis(70));
        assert_eq!(findings.latencies.max(), 70_000_000);
    }

    #[test]
    fn what_happens_outside_of_the_window_counts_only_when_it_is_bad() {
        let now = Instant::now();
        let outside = Due { slice: None, ..due(now) };
        let mut findings = Findings::default();
        findings.record(outside, Outcome::Answered(stream("data: [DONE]\n\n")), now);
        let bad = Reply { status: 503, bytes: 1, ..Reply::default() };
        findings.record(outside, Outcome::Answered(bad), now);
        assert_eq!((findings.all.started, findings.all.ok), (0, 0));
        assert_eq!(findings.statuses[&503], 1);
    }

    #[test]
    fn slices_cover_the_window() {
        let from = Instant::now();
        let until = from + Duration::from_secs(10);
        let of = |ms| slice(from + Duration::from_millis(ms), from, until, Duration::from_secs(5));
        assert_eq!(
            (of(0), of(4999), of(5000), of(10_000), of(10_001)),
            (Some(0), Some(0), Some(1), Some(2), None)
        );
    }
}
