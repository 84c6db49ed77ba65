use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{check_ms, check_share};
use crate::spec::Report;

/// When an endpoint that fails is left alone.
///
/// A connection that fails, a time-out before the first byte, a reset, an answer that is not usable, a status
/// of 500, 502, 503 or 504, and a body that breaks off or stalls are failures. A client that leaves is none,
/// and neither is 429, which lets the endpoint rest for the time that it asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerSettings {
    /// Whether there is one.
    pub enabled: bool,
    /// It opens after so many failures in a row.
    #[schema(minimum = 1)]
    pub consecutive_failures: u32,
    /// It opens when this share of the window's requests failed.
    #[schema(minimum = 0, maximum = 1)]
    pub error_rate: f32,
    /// The sliding window of `error_rate`, in milliseconds.
    #[schema(minimum = 1)]
    pub window_ms: u64,
    /// Requests in the window below which `error_rate` says nothing.
    #[schema(minimum = 1)]
    pub min_requests: u32,
    /// How long it stays open the first time, in milliseconds. Each further time in a row it is twice as long.
    #[schema(minimum = 1)]
    pub open_ms: u64,
    /// The longest time for which it stays open, in milliseconds.
    #[schema(minimum = 1)]
    pub max_open_ms: u64,
    /// Requests that are let through at once to see whether the endpoint works again.
    #[schema(minimum = 1)]
    pub half_open_probes: u32,
    /// The share of an expert's endpoints that may be left alone at once, rounded down to whole endpoints.
    /// Further ones that fail are called after all others only. With 0.5 an only endpoint is thus never
    /// refused; policies pass its expert over while it is open.
    #[schema(minimum = 0, maximum = 1)]
    pub max_ejected_share: f32,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            consecutive_failures: 5,
            error_rate: 0.5,
            window_ms: 10_000,
            min_requests: 20,
            open_ms: 5_000,
            max_open_ms: 60_000,
            half_open_probes: 1,
            max_ejected_share: 0.5,
        }
    }
}

impl BreakerSettings {
    pub(crate) fn validate(&self, report: &mut Report<'_>) {
        let counts = [
            ("breaker.consecutive_failures", self.consecutive_failures),
            ("breaker.min_requests", self.min_requests),
            ("breaker.half_open_probes", self.half_open_probes),
        ];
        for (field, count) in counts {
            if count == 0 {
                report.add(field, "is 0; must be at least 1");
            }
        }
        if !(self.error_rate > 0.0 && self.error_rate <= 1.0) {
            let message = format!("is {}; must be above 0 and at most 1", self.error_rate);
            report.add("breaker.error_rate", message);
        }
        check_ms(report, "breaker.window_ms", self.window_ms);
        check_ms(report, "breaker.open_ms", self.open_ms);
        check_ms(report, "breaker.max_open_ms", self.max_open_ms);
        check_share(report, "breaker.max_ejected_share", self.max_ejected_share);
    }

    /// How many of an expert's endpoints may be left alone at once.
    pub(crate) fn most_ejected(&self, endpoints: usize) -> usize {
        // What is meant as a third of three is one.
        (endpoints as f64 * f64::from(self.max_ejected_share) + 1e-6) as usize
    }

    fn open_time(&self, level: u32) -> Duration {
        let doubled = self.open_ms.saturating_mul(1 << level.min(32));
        Duration::from_millis(doubled.min(self.max_open_ms.max(self.open_ms)))
    }
}

/// Whether an endpoint gets requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// It does.
    Closed,
    /// It is left alone.
    Open,
    /// Single requests find out whether it works again.
    HalfOpen,
}

impl BreakerState {
    /// Its name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The circuit breaker of one endpoint.
///
/// Closed, it counts. Once open, it lets nothing through until its time is over; then it is half open and
/// lets a few probes through. A probe that is answered closes it, one that fails opens it for twice the time.
/// The time starts small again after an answer that came whole.
#[derive(Debug)]
pub(crate) struct Breaker {
    rules: BreakerSettings,
    phase: Phase,
    consecutive: u32,
    window: Window,
    /// Openings since an answer came whole.
    level: u32,
    /// Counts openings and closings: outcomes of calls from before the last one say nothing new.
    epoch: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { probes: u32 },
}

/// The permission for one call, to be given back with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pass {
    epoch: u32,
    probe: bool,
}

impl Pass {
    /// Whether its outcome decides if the endpoint works again.
    pub(crate) fn is_probe(self) -> bool {
        self.probe
    }
}

impl Breaker {
    pub(crate) fn new(rules: BreakerSettings, now: Instant) -> Self {
        let window = Window::new(Duration::from_millis(rules.window_ms), now);
        Self { rules, phase: Phase::Closed, consecutive: 0, window, level: 0, epoch: 0 }
    }

    /// What it is. An open one whose time is over counts as half open.
    pub(crate) fn state(&self, now: Instant) -> BreakerState {
        match self.phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { until } if now < until => BreakerState::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// From when on a call may be let through; `None` when that depends on the outcome of a probe.
    pub(crate) fn admits_from(&self, now: Instant) -> Option<Instant> {
        match self.phase {
            Phase::Closed => Some(now),
            Phase::Open { until } => Some(until),
            Phase::HalfOpen { probes } => (probes < self.rules.half_open_probes).then_some(now),
        }
    }

    /// Lets a call through, if it may.
    pub(crate) fn admit(&mut self, now: Instant) -> Option<Pass> {
        if let Phase::Open { until } = self.phase
            && now >= until
        {
            self.phase = Phase::HalfOpen { probes: 0 };
        }
        match &mut self.phase {
            Phase::Closed => Some(Pass { epoch: self.epoch, probe: false }),
            Phase::HalfOpen { probes } if *probes < self.rules.half_open_probes => {
                *probes += 1;
                Some(Pass { epoch: self.epoch, probe: true })
            }
            Phase::HalfOpen { .. } | Phase::Open { .. } => None,
        }
    }

    /// The permission that every call has while the breaker is closed; see [`Breaker::epoch`].
    pub(crate) fn closed_pass(epoch: u32) -> Pass {
        Pass { epoch, probe: false }
    }

    /// Names the time since it last opened or closed.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Lets a call through whatever the state is: there is nowhere else to go. If it is answered, the
    /// endpoint works.
    pub(crate) fn force(&self) -> Pass {
        Pass { epoch: self.epoch, probe: false }
    }

    /// The head of an answer came that is no failure.
    pub(crate) fn answered(&mut self, pass: &mut Pass, now: Instant) {
        if pass.epoch == self.epoch && self.phase != Phase::Closed {
            self.turn(Phase::Closed);
            self.consecutive = 0;
            self.window.clear(now);
            *pass = Pass { epoch: self.epoch, probe: false };
        }
    }

    /// The answer came whole.
    pub(crate) fn completed(&mut self, pass: Pass, now: Instant) {
        if pass.epoch == self.epoch && self.phase == Phase::Closed {
            self.consecutive = 0;
            self.level = 0;
            self.window.note(true, now);
        }
    }

    /// The call failed, before or in its answer.
    pub(crate) fn failed(&mut self, pass: Pass, now: Instant) {
        if pass.epoch != self.epoch {
            return;
        }
        let opens = match self.phase {
            Phase::Closed => {
                self.consecutive = self.consecutive.saturating_add(1);
                self.window.note(false, now);
                let (total, failures) = self.window.counts(now);
                let rate = failures as f32 >= self.rules.error_rate * total as f32;
                let often = total >= self.rules.min_requests && rate;
                self.rules.enabled && (often || self.consecutive >= self.rules.consecutive_failures)
            }
            Phase::HalfOpen { .. } => pass.probe,
            Phase::Open { .. } => false,
        };
        if opens {
            self.turn(Phase::Open { until: now + self.rules.open_time(self.level) });
            self.level = self.level.saturating_add(1);
        }
    }

    /// The call was given up by its caller, which says nothing about the endpoint.
    pub(crate) fn cancelled(&mut self, pass: Pass) {
        if let Phase::HalfOpen { probes } = &mut self.phase
            && pass.probe
            && pass.epoch == self.epoch
        {
            *probes -= 1;
        }
    }

    fn turn(&mut self, phase: Phase) {
        self.phase = phase;
        self.epoch = self.epoch.wrapping_add(1);
    }
}

/// Outcomes of the last while, in slots of a tenth of it: what it holds is between nine tenths and the whole
/// of the window old.
#[derive(Debug)]
struct Window {
    slot: Duration,
    origin: Instant,
    /// The number of the present slot since `origin`.
    at: u64,
    /// Requests and failures.
    slots: [(u32, u32); SLOTS],
}

const SLOTS: usize = 10;

impl Window {
    fn new(length: Duration, now: Instant) -> Self {
        let slot = (length / SLOTS as u32).max(Duration::from_millis(1));
        Self { slot, origin: now, at: 0, slots: [(0, 0); SLOTS] }
    }

    fn clear(&mut self, now: Instant) {
        self.advance(now);
        self.slots = [(0, 0); SLOTS];
    }

    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.origin).as_nanos();
        let at = (elapsed / self.slot.as_nanos()) as u64;
        if at > self.at {
            for skipped in 1..=(at - self.at).min(SLOTS as u64) {
                self.slots[((self.at + skipped) % SLOTS as u64) as usize] = (0, 0);
            }
            self.at = at;
        }
    }

    fn note(&mut self, success: bool, now: Instant) {
        self.advance(now);
        let (total, failures) = &mut self.slots[(self.at % SLOTS as u64) as usize];
        *total = total.saturating_add(1);
        *failures = failures.saturating_add(u32::from(!success));
    }

    fn counts(&mut self, now: Instant) -> (u32, u32) {
        self.advance(now);
        let add = |(total, failures): (u32, u32), slot: &(u32, u32)| {
            (total.saturating_add(slot.0), failures.saturating_add(slot.1))
        };
        self.slots.iter().fold((0, 0), add)
    }
}

#[cfg(test)]
mod tests;
