//! Residency on a virtual clock: the production decisions beside the policies to beat, on recorded requests.
//!
//! Two measures. *Untimed*: requests are served one after another and loads take no time; what counts is how many
//! there are. *Timed*: one executor, and one channel that carries one load at a time, beside execution. Numbers of
//! the two are comparable with each other, not with hardware: everything here is simulated.

mod baseline;
mod chance;
mod clocked;
mod ours;
mod paper;
mod report;
mod trace;

pub use paper::Platform;
pub use report::{csv, svg};
pub use trace::{Trace, TraceError};

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::residency::{Conflict, Order, PoolError, Prediction, PredictionSource, Prefetched};
use baseline::Evict;
use chance::{Chance, Exponential};
use clocked::Style;

/// Requests that are known ahead, or among which the order is free, without a clock.
const WINDOW: usize = 32;

/// Requests of a run that looks for the capacity, and of a timed run at most.
const CAPACITY_REQUESTS: usize = 6_000;
const TIMED_REQUESTS: usize = 20_000;

/// The seed of made-up clocks.
const CLOCK_SEED: u32 = 3;

/// Where the capacity is looked for, and in how many steps.
const CAPACITY_RANGE: (f64, f64) = (0.02, 4.0);
const CAPACITY_STEPS: u32 = 7;

/// Something that must not happen: the decisions and the simulator disagree.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the simulation went wrong: {0}")]
pub struct SimError(String);

impl From<PoolError> for SimError {
    fn from(error: PoolError) -> Self {
        Self(error.to_string())
    }
}

impl From<Conflict> for SimError {
    fn from(error: Conflict) -> Self {
        Self(error.to_string())
    }
}

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    /// Requests in their order, the least recently used goes: what the Composition of Experts' paper does.
    Lru,
    /// In order, the least often used goes.
    Lfu,
    /// In order, aged frequency.
    Gdsf,
    /// In order, 32 requests are known; the rest by recency.
    LookAhead,
    /// 32 requests are known, the rest by aged frequency; on the clock with batches and prefetch.
    LookAheadGdsf,
    /// Free within 32 requests, resident experts first; on the clock batches, and the least recently used goes.
    Reorder,
    /// In order, all requests to come are known.
    Belady,
    /// As `Belady`; on the clock with batches and prefetch.
    Oracle,
    /// The production decisions, requests in their order.
    GuildhallOrdered,
    /// The production decisions.
    Guildhall,
    /// With predicted loads on the clock: for conversations that are likely to go on.
    GuildhallSession,
    /// With predicted loads of what is popular.
    GuildhallPopularity,
    /// With predicted loads of what followed before.
    GuildhallMarkov,
    /// With all predictions.
    GuildhallPredicting,
}

impl Contestant {
    /// All, in the order of tables.
    pub const ALL: [Self; 14] = [
        Self::Lru,
        Self::Lfu,
        Self::Gdsf,
        Self::LookAhead,
        Self::LookAheadGdsf,
        Self::Reorder,
        Self::Belady,
        Self::Oracle,
        Self::GuildhallOrdered,
        Self::Guildhall,
        Self::GuildhallSession,
        Self::GuildhallPopularity,
        Self::GuildhallMarkov,
        Self::GuildhallPredicting,
    ];

    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::Lfu => "lfu",
            Self::Gdsf => "gdsf",
            Self::LookAhead => "look-ahead",
            Self::LookAheadGdsf => "look-ahead-gdsf",
            Self::Reorder => "reorder",
            Self::Belady => "belady",
            Self::Oracle => "oracle",
            Self::GuildhallOrdered => "guildhall-ordered",
            Self::Guildhall => "guildhall",
            Self::GuildhallSession => "guildhall-session",
            Self::GuildhallPopularity => "guildhall-popularity",
            Self::GuildhallMarkov => "guildhall-markov",
            Self::GuildhallPredicting => "guildhall-predicting",
        }
    }

    fn runs(self) -> Runs {
        let fifo = |evict| Runs::Baseline(Style { evict, batch: false, prefetch: false });
        let free = |prediction| Runs::Production(Order::Free, prediction);
        let batch = |evict, prefetch| Runs::Baseline(Style { evict, batch: true, prefetch });
        match self {
            Self::Lru => fifo(Evict::Lru),
            Self::Lfu => fifo(Evict::Lfu),
            Self::Gdsf => fifo(Evict::Gdsf),
            Self::LookAhead => fifo(Evict::LookAhead),
            Self::Belady => fifo(Evict::Belady),
            Self::LookAheadGdsf => batch(Evict::LookAheadGdsf, true),
            Self::Reorder => batch(Evict::Lru, false),
            Self::Oracle => batch(Evict::Belady, true),
            Self::GuildhallOrdered => Runs::Production(Order::Kept, Prediction::only(None)),
            Self::Guildhall => free(Prediction::only(None)),
            Self::GuildhallSession => free(Prediction::only(Some(PredictionSource::Session))),
            Self::GuildhallPopularity => free(Prediction::only(Some(PredictionSource::Popularity))),
            Self::GuildhallMarkov => free(Prediction::only(Some(PredictionSource::Markov))),
            Self::GuildhallPredicting => free(Prediction::all()),
        }
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

enum Runs {
    Baseline(Style),
    Production(Order, Prediction),
}

/// What things take.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// An expert's bytes; all have the same.
    pub expert_bytes: u64,
    /// Seconds to copy an expert to the accelerator.
    pub load_s: f64,
    /// Seconds to answer one request.
    pub request_s: f64,
    /// What each further request of a batch adds, as a share of the first.
    pub batch_growth: f64,
    /// Most requests of a batch.
    pub batch_max: u32,
    /// After how many seconds a request is not overtaken any more.
    pub bound_s: f64,
}

impl Default for Cost {
    /// A model of 13.5 GB over 50 GB/s, and 20 tokens in 93 ms.
    fn default() -> Self {
        Self::of_request(0.093)
    }
}

impl Cost {
    /// The same with another time for a request, and the bound that goes with it.
    pub fn of_request(request_s: f64) -> Self {
        Self {
            expert_bytes: 13_500_000_000,
            load_s: 13.5 / 50.0,
            request_s,
            batch_growth: 0.1,
            batch_max: 8,
            bound_s: 50.0 * request_s,
        }
    }

    fn batch_s(&self, requests: usize) -> f64 {
        self.request_s * (1.0 + self.batch_growth * (requests as f64 - 1.0))
    }

    /// The longest wait that 99 % of the requests may have at a load that counts as carried.
    fn fair_wait_s(&self) -> f64 {
        20.0 * self.request_s + 2.0 * self.load_s
    }
}

/// What a contestant did with a trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The trace's name.
    pub trace: String,
    /// The contestant's name.
    pub policy: String,
    /// Experts that fit on the accelerator.
    pub hbm_experts: usize,
    /// Requests of the trace.
    pub requests: usize,
    /// Loads per 1,000 requests, untimed.
    pub loads_per_1000: f64,
    /// Share of the requests whose expert was ready, timed.
    pub hit_rate: f64,
    /// Milliseconds for which the executor waited for a load, per request, timed.
    pub stall_ms_per_request: f64,
    /// What 99 % of the requests did not wait longer than, in seconds, timed.
    pub p99_wait_s: f64,
    /// The highest offered load of which 99 % of the requests wait no longer than 20 requests and 2 loads take.
    pub capacity: f64,
    /// Loads per 1,000 requests, timed.
    pub timed_loads_per_1000: f64,
    /// How long a request waited most after it had become the first, in seconds, timed; only the production decisions
    /// say so.
    pub longest_first_s: Option<f64>,
    /// What became of the loads that were predicted, timed; `None` where nothing predicts.
    pub prefetched: Option<Prefetched>,
    /// The offered load of the timed run: one request's time by the mean time between two.
    pub offered_load: f64,
    /// Where all this comes from.
    pub source: &'static str,
}

/// Simulates one contestant on one trace, with the offered load of the timed run.
///
/// # Errors
/// [`SimError`] where the decisions and the simulator disagree, which would be a defect.
pub fn simulate(
    trace: &Trace,
    contestant: Contestant,
    hbm_experts: usize,
    cost: &Cost,
    offered_load: f64,
) -> Result<Outcome, SimError> {
    let timed = timed(trace, contestant, hbm_experts, cost, offered_load)?;
    Ok(Outcome {
        trace: trace.name.clone(),
        policy: contestant.name().to_owned(),
        hbm_experts,
        requests: trace.experts.len(),
        loads_per_1000: loads_per_1000(trace, contestant, hbm_experts, cost)?,
        hit_rate: timed.hit_rate,
        stall_ms_per_request: timed.stall_ms_per_request,
        p99_wait_s: timed.p99_wait_s,
        capacity: capacity(trace, contestant, hbm_experts, cost)?,
        timed_loads_per_1000: timed.loads_per_1000,
        longest_first_s: timed.longest_first_s,
        prefetched: timed.prefetched,
        offered_load,
        source: "simulated",
    })
}

/// Loads per 1,000 requests, untimed.
///
/// # Errors
/// As [`simulate`].
pub fn loads_per_1000(
    trace: &Trace,
    contestant: Contestant,
    hbm_experts: usize,
    cost: &Cost,
) -> Result<f64, SimError> {
    Ok(match contestant.runs() {
        Runs::Baseline(_) if contestant == Contestant::Reorder => {
            baseline::reordered(trace, hbm_experts, WINDOW)
        }
        Runs::Baseline(style) => baseline::in_order(trace, hbm_experts, style.evict, WINDOW),
        Runs::Production(order, _) => ours::untimed(trace, hbm_experts, cost, order, WINDOW)?,
    })
}

/// The highest offered load that is carried, with requests in the trace's order at random moments.
///
/// # Errors
/// As [`simulate`].
pub fn capacity(
    trace: &Trace,
    contestant: Contestant,
    hbm_experts: usize,
    cost: &Cost,
) -> Result<f64, SimError> {
    let requests = &trace.experts[..trace.experts.len().min(CAPACITY_REQUESTS)];
    let (mut low, mut high) = CAPACITY_RANGE;
    for _ in 0..CAPACITY_STEPS {
        let middle = f64::sqrt(low * high);
        let arrivals = random_clock(requests.len(), cost.request_s / middle);
        let timed = on_clock(trace, requests.len(), &arrivals, contestant, hbm_experts, cost)?;
        if timed.p99_wait_s <= cost.fair_wait_s() {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

fn timed(
    trace: &Trace,
    contestant: Contestant,
    hbm_experts: usize,
    cost: &Cost,
    offered_load: f64,
) -> Result<Timed, SimError> {
    let requests = &trace.experts[..trace.experts.len().min(TIMED_REQUESTS)];
    let between = cost.request_s / offered_load;
    let clock = trace.times_s.as_ref().map(|times| &times[..requests.len()]);
    let arrivals = match clock {
        Some([first, .., last]) if last > first => {
            let stretch = between * requests.len() as f64 / (last - first);
            clock.unwrap_or_default().iter().map(|at| (at - first) * stretch).collect()
        }
        _ => random_clock(requests.len(), between),
    };
    on_clock(trace, requests.len(), &arrivals, contestant, hbm_experts, cost)
}

fn on_clock(
    trace: &Trace,
    count: usize,
    arrivals: &[f64],
    contestant: Contestant,
    hbm_experts: usize,
    cost: &Cost,
) -> Result<Timed, SimError> {
    let (requests, experts) = (&trace.experts[..count], trace.expert_count);
    match contestant.runs() {
        Runs::Baseline(style) => Ok(clocked::run(requests, arrivals, experts, hbm_experts, cost, style)),
        Runs::Production(order, prediction) => {
            let sessions = trace.sessions.as_ref().map(|sessions| &sessions[..count]);
            let requests = ours::Requests { experts: requests, sessions, arrivals_s: arrivals };
            ours::clocked(&requests, experts, hbm_experts, cost, order, prediction)
        }
    }
}

/// Arrivals at random moments, so many seconds apart in the mean.
fn random_clock(requests: usize, between_s: f64) -> Vec<f64> {
    let (mut chance, law) = (Chance::new(CLOCK_SEED), Exponential::new());
    let mut at = 0.0;
    let step = |_| {
        at += law.draw(&mut chance) * between_s;
        at
    };
    (0..requests).map(step).collect()
}

/// What a timed run showed.
#[derive(Clone, Debug)]
struct Timed {
    hit_rate: f64,
    stall_ms_per_request: f64,
    p99_wait_s: f64,
    loads_per_1000: f64,
    longest_first_s: Option<f64>,
    prefetched: Option<Prefetched>,
}

impl Timed {
    fn new(loads: u32, hits: usize, stall_s: f64, mut waits_s: Vec<f64>) -> Self {
        let requests = waits_s.len().max(1) as f64;
        waits_s.sort_by(f64::total_cmp);
        Self {
            hit_rate: hits as f64 / requests,
            stall_ms_per_request: 1000.0 * stall_s / requests,
            p99_wait_s: quantile(&waits_s, 0.99),
            longest_first_s: None,
            prefetched: None,
            loads_per_1000: 1000.0 * f64::from(loads) / requests,
        }
    }
}

/// A quantile of sorted values, between two of them by their distance.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * sorted.len().saturating_sub(1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    match (sorted.get(low), sorted.get(high)) {
        (Some(low), Some(high)) => low + (high - low) * at.fract(),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests;
