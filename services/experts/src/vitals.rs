//! How an endpoint is: its breaker, its rests, its latency, kept where calls read it without a lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use routing::ExpertId;
use tokio::time::Instant;

use crate::resilience::balance::{Latency, LatencyCell};
use crate::resilience::breaker::{Breaker, BreakerSettings, BreakerState, Pass};

/// The longest rest that an endpoint gets for asking.
const LONGEST_REST: Duration = Duration::from_mins(1);

/// Where all endpoints announce that they got better or worse, so that readers know when to look again.
#[derive(Debug)]
pub(crate) struct Board {
    origin: Instant,
    changes: AtomicU64,
}

impl Default for Board {
    fn default() -> Self {
        Self { origin: Instant::now(), changes: AtomicU64::new(0) }
    }
}

impl Board {
    /// A time in the milliseconds that are compared here.
    pub(crate) fn ms(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.origin).as_millis() as u64
    }

    /// The first of these milliseconds that is not before a time.
    fn ms_from(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.origin).as_nanos().div_ceil(1_000_000) as u64
    }

    pub(crate) fn at(&self, ms: u64) -> Instant {
        self.origin + Duration::from_millis(ms)
    }

    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    pub(crate) fn announce(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }
}

/// Whether an endpoint may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Well,
    /// It asked to be left alone until then.
    Resting {
        until_ms: u64,
    },
    /// It failed; since when.
    Out {
        since_ms: u64,
    },
}

/// What is known of one endpoint of one expert.
#[derive(Debug)]
pub(crate) struct Vitals {
    pub(crate) expert: ExpertId,
    /// Its name: in tries, in logs.
    pub(crate) endpoint: Arc<str>,
    board: Arc<Board>,
    inner: Mutex<Inner>,
    /// From when on the breaker lets calls through: [`CLOSED`], a time, or [`FULL`].
    gate: AtomicU64,
    /// The breaker's.
    epoch: AtomicU32,
    /// When the breaker opened.
    out_since_ms: AtomicU64,
    /// When active checks found it unhealthy; 0 while they do not.
    sick_since_ms: AtomicU64,
    rests_until_ms: AtomicU64,
    latency: LatencyCell,
    openings: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    breaker: Breaker,
    latency: Latency,
}

const CLOSED: u64 = 0;
/// A time that has long passed.
const OPEN_TO_PROBES: u64 = 1;
/// As many probes are under way as may be.
const FULL: u64 = u64::MAX;

impl Vitals {
    pub(crate) fn new(
        expert: ExpertId,
        endpoint: Arc<str>,
        rules: &BreakerSettings,
        board: Arc<Board>,
    ) -> Self {
        let breaker = Breaker::new(rules.clone(), Instant::now());
        Self {
            expert,
            endpoint,
            board,
            epoch: AtomicU32::new(breaker.epoch()),
            inner: Mutex::new(Inner { breaker, latency: Latency::default() }),
            gate: AtomicU64::new(CLOSED),
            out_since_ms: AtomicU64::new(0),
            sick_since_ms: AtomicU64::new(0),
            rests_until_ms: AtomicU64::new(0),
            latency: LatencyCell::default(),
            openings: AtomicU64::new(0),
        }
    }

    pub(crate) fn standing(&self, now_ms: u64) -> Standing {
        let gate = self.gate.load(Ordering::Relaxed);
        let sick = self.sick_since_ms.load(Ordering::Relaxed);
        if gate > now_ms {
            return Standing::Out { since_ms: self.out_since_ms.load(Ordering::Relaxed) };
        }
        if sick > 0 {
            return Standing::Out { since_ms: sick };
        }
        let until_ms = self.rests_until_ms.load(Ordering::Relaxed);
        if until_ms > now_ms { Standing::Resting { until_ms } } else { Standing::Well }
    }

    /// When its standing changes by time alone; `None` when it does not.
    pub(crate) fn due_ms(&self, now_ms: u64) -> Option<u64> {
        let times = [self.gate.load(Ordering::Relaxed), self.rests_until_ms.load(Ordering::Relaxed)];
        times.into_iter().filter(|at| *at > now_ms && *at != FULL).min()
    }

    /// Seconds to the first byte; `None` when not known.
    pub(crate) fn latency(&self, now_ms: u64) -> Option<f64> {
        self.latency.load().seconds(now_ms)
    }

    pub(crate) fn breaker(&self, now: Instant) -> BreakerState {
        self.lock().breaker.state(now)
    }

    /// How often its breaker opened.
    pub(crate) fn openings(&self) -> u64 {
        self.openings.load(Ordering::Relaxed)
    }

    pub(crate) fn is_sick(&self) -> bool {
        self.sick_since_ms.load(Ordering::Relaxed) > 0
    }

    /// What active checks found. Says whether that is news.
    pub(crate) fn set_sick(&self, sick: bool, now: Instant) -> bool {
        let since = if sick { self.board.ms(now).max(1) } else { 0 };
        let was = self.sick_since_ms.load(Ordering::Relaxed) > 0;
        if was != sick {
            self.sick_since_ms.store(since, Ordering::Relaxed);
            self.board.announce();
        }
        was != sick
    }

    /// Leaves it alone for a while, because it asked for that.
    pub(crate) fn rest(&self, wait: Duration, now: Instant) {
        let until = self.board.ms_from(now + wait.min(LONGEST_REST));
        if self.rests_until_ms.fetch_max(until, Ordering::Relaxed) < until {
            self.board.announce();
        }
    }

    /// Lets a call through, if the breaker does.
    pub(crate) fn admit(self: &Arc<Self>, now: Instant) -> Option<Ticket> {
        let pass = if self.gate.load(Ordering::Relaxed) == CLOSED {
            Breaker::closed_pass(self.epoch.load(Ordering::Relaxed))
        } else {
            let pass = self.change(now, |inner| inner.breaker.admit(now))?;
            if pass.is_probe() {
                self.tell(BreakerState::HalfOpen);
            }
            pass
        };
        Some(self.ticket(pass, now))
    }

    fn ticket(self: &Arc<Self>, pass: Pass, begun: Instant) -> Ticket {
        Ticket { vitals: self.clone(), pass, begun, stage: Stage::Waiting }
    }

    /// Lets a call through because there is nowhere else to go.
    pub(crate) fn force(self: &Arc<Self>, now: Instant) -> Ticket {
        let pass = self.lock().breaker.force();
        self.ticket(pass, now)
    }

    /// Changes the breaker and shows what became of it.
    fn change<T>(&self, now: Instant, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let was = inner.breaker.state(now);
        let epoch = inner.breaker.epoch();
        let result = change(&mut inner);
        self.latency.store(&inner.latency);
        let gate = match (inner.breaker.state(now), inner.breaker.admits_from(now)) {
            (BreakerState::Closed, _) => CLOSED,
            (_, Some(from)) if from <= now => OPEN_TO_PROBES,
            (_, Some(from)) => self.board.ms_from(from),
            (_, None) => FULL,
        };
        if inner.breaker.epoch() == epoch && self.gate.load(Ordering::Relaxed) == gate {
            return result;
        }
        let is = inner.breaker.state(now);
        self.epoch.store(inner.breaker.epoch(), Ordering::Relaxed);
        if is == BreakerState::Open {
            self.out_since_ms.store(self.board.ms(now), Ordering::Relaxed);
            self.openings.fetch_add(1, Ordering::Relaxed);
            // What it was like before says little about what it will be like.
            inner.latency = Latency::default();
            self.latency.store(&inner.latency);
        }
        self.gate.store(gate, Ordering::Relaxed);
        drop(inner);
        self.board.announce();
        if was != is {
            self.tell(is);
        }
        result
    }

    fn tell(&self, state: BreakerState) {
        let (expert, endpoint) = (&self.expert, &*self.endpoint);
        match state {
            BreakerState::Open => tracing::warn!(
                expert.id = %expert,
                endpoint.url = endpoint,
                breaker.state = state.name(),
                "an endpoint fails and is left alone for a while"
            ),
            BreakerState::HalfOpen => tracing::info!(
                expert.id = %expert,
                endpoint.url = endpoint,
                breaker.state = state.name(),
                "an endpoint that failed is tried again"
            ),
            BreakerState::Closed => tracing::info!(
                expert.id = %expert,
                endpoint.url = endpoint,
                breaker.state = state.name(),
                "an endpoint works again"
            ),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call under way. Its outcome is told once; one that is dropped was given up by its caller, which says no
/// more than that the answer took longer.
#[derive(Debug)]
pub(crate) struct Ticket {
    vitals: Arc<Vitals>,
    pass: Pass,
    begun: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// For the head of the answer.
    Waiting,
    Answered,
    Settled,
}

impl Ticket {
    /// The head of an answer came that is no failure.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.stage = Stage::Answered;
        let (seconds, now_ms) = self.elapsed(now);
        if self.vitals.gate.load(Ordering::Relaxed) == CLOSED && !self.pass.is_probe() {
            let mut inner = self.vitals.lock();
            inner.latency.observe(seconds, now_ms);
            self.vitals.latency.store(&inner.latency);
            return;
        }
        let pass = &mut self.pass;
        self.vitals.change(now, |inner| {
            inner.breaker.answered(pass, now);
            inner.latency.observe(seconds, now_ms);
        });
    }

    /// The answer came whole.
    pub(crate) fn completed(mut self, now: Instant) {
        self.stage = Stage::Settled;
        self.vitals.lock().breaker.completed(self.pass, now);
    }

    /// The call failed: no head came, or one that is a failure, or the answer broke off.
    pub(crate) fn failed(mut self, now: Instant) {
        let waited = self.stage == Stage::Waiting;
        self.stage = Stage::Settled;
        let (seconds, now_ms) = self.elapsed(now);
        self.vitals.change(now, |inner| {
            if waited {
                inner.latency.observe_failure(seconds, now_ms);
            }
            inner.breaker.failed(self.pass, now);
        });
    }

    fn elapsed(&self, now: Instant) -> (f64, u64) {
        (now.saturating_duration_since(self.begun).as_secs_f64(), self.vitals.board.ms(now))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.stage == Stage::Settled || (self.stage == Stage::Answered && !self.pass.is_probe()) {
            return;
        }
        let now = Instant::now();
        let (seconds, now_ms) = self.elapsed(now);
        self.vitals.change(now, |inner| {
            if self.stage == Stage::Waiting {
                inner.latency.observe_at_least(seconds, now_ms);
            }
            inner.breaker.cancelled(self.pass);
        });
    }
}
