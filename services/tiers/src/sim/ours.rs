//! The production decisions on a virtual clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use routing::ExpertId;

use super::trace::Trace;
use super::{Cost, SimError, Timed};
use crate::residency::{
    Action, Applied, ExpertIndex, ExpertSpec, Generation, Kind, Lease, LinkSpec, Order, Policy, PoolSpec,
    Prediction, PredictionSource, Predictor, Queue, Source, State, Tier, TierSpec, Waiting, decide, prefetch,
    wake,
};

/// A pool of experts of one size, all in the host's memory, of which `places` fit on the accelerator.
pub(super) fn pool(experts: usize, places: usize, cost: &Cost, policy: Policy) -> Result<PoolSpec, SimError> {
    let bytes = cost.expert_bytes;
    let tier = |tier: Tier, count: usize| TierSpec {
        tier,
        capacity_bytes: bytes * count as u64,
        reserved_bytes: 0,
        source: Source::Simulated,
    };
    let spec = |i: usize| {
        let id = ExpertId::new(format!("expert-{i}")).map_err(|error| SimError(error.to_string()))?;
        let bytes = BTreeMap::from([(Tier::Hbm, bytes), (Tier::Dram, bytes)]);
        Ok(ExpertSpec { id, kind: Kind::Full, bytes, warm_us: 0, batch_us: micros(cost.request_s) })
    };
    Ok(PoolSpec {
        tiers: vec![tier(Tier::Hbm, places), tier(Tier::Dram, experts)],
        links: vec![LinkSpec {
            from: Tier::Dram,
            to: Tier::Hbm,
            bytes_per_second: bytes as f64 / cost.load_s,
            latency_us: 0,
            concurrency: 1,
        }],
        experts: (0..experts).map(spec).collect::<Result<_, SimError>>()?,
        policy,
        frees_at_once: true,
    })
}

fn micros(seconds: f64) -> u64 {
    (seconds * 1e6).round() as u64
}

/// Loads per 1,000 requests without a clock, where the `window` oldest are known. Where the order is free a request
/// that has become the first is passed over at most four times `window`: the clock ticks once for each that is
/// served, and as many as are before it must be.
pub(super) fn untimed(
    trace: &Trace,
    places: usize,
    cost: &Cost,
    order: Order,
    window: usize,
) -> Result<f64, SimError> {
    const TICK_US: u64 = 1_000_000;
    let policy = Policy {
        order,
        prefetch: false,
        batch_max: 1,
        executors: 1,
        min_residency_loads: 0.0,
        ..Policy::default()
    };
    let passes = 4 * window as u64;
    let mut state = State::new(pool(trace.expert_count, places, cost, policy)?)?;
    let mut queue = Queue::new(trace.expert_count, 1);
    let (mut read, mut loads) = (0, 0_u32);
    for tick in 0..trace.experts.len() as u64 {
        let now = tick * TICK_US;
        while read < trace.experts.len() && queue.len() < window {
            let expert = ExpertIndex(trace.experts[read]);
            let due_us = (tick + passes + queue.len() as u64) * TICK_US;
            queue.push(Waiting { id: read as u64, expert, tenant: 0, arrived_us: now, due_us });
            state.requested(expert);
            read += 1;
        }
        let mut served = false;
        while !served {
            let actions = decide(now, &state, &queue);
            if actions.is_empty() {
                return Err(SimError(format!("nothing is done for {} requests", queue.len())));
            }
            for action in &actions {
                match (state.apply(now, action)?, action) {
                    (Applied::Leased(lease), Action::Dispatch { expert, requests, .. }) => {
                        queue.take(*expert, *requests);
                        state.release(now, &lease);
                        served = true;
                    }
                    (Applied::Began(generation), Action::Promote { expert, .. }) => {
                        loads += 1;
                        state.arrived(now, *expert, generation, None)?;
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(1000.0 * f64::from(loads) / trace.experts.len() as f64)
}

/// Something that ends.
enum Event {
    Batch(Lease),
    Load(ExpertIndex, Generation),
}

/// Requests in the order in which they come.
pub(super) struct Requests<'a> {
    pub(super) experts: &'a [u32],
    /// Their conversations, where they are known.
    pub(super) sessions: Option<&'a [u64]>,
    /// When they come, in seconds.
    pub(super) arrivals_s: &'a [f64],
}

/// Runs requests for a pool of `experts`, of which `places` fit.
pub(super) fn clocked(
    requests: &Requests<'_>,
    experts: usize,
    places: usize,
    cost: &Cost,
    order: Order,
    prediction: Prediction,
) -> Result<Timed, SimError> {
    let predicts = prediction != Prediction::default();
    let policy = Policy {
        order,
        prediction,
        bound_us: micros(cost.bound_s),
        batch_max: cost.batch_max,
        executors: 1,
        ..Policy::default()
    };
    Run {
        predictor: predicts.then(|| Predictor::new(experts)),
        bound_us: policy.bound_us,
        queue: Queue::new(experts, policy.batch_max),
        state: State::new(pool(experts, places, cost, policy)?)?,
        cost,
        events: BinaryHeap::new(),
        pending: BTreeMap::new(),
        next: 0,
        waits: Vec::with_capacity(requests.experts.len()),
        loads: 0,
        hits: 0,
        stall_us: 0,
        stalled: false,
        first: None,
        longest_first_us: 0,
    }
    .through(requests)
}

struct Run<'a> {
    bound_us: u64,
    queue: Queue,
    state: State,
    predictor: Option<Predictor>,
    cost: &'a Cost,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    pending: BTreeMap<u64, Event>,
    next: u64,
    waits: Vec<f64>,
    loads: u32,
    hits: usize,
    stall_us: u64,
    /// Whether the executor has waited for a load since its last batch.
    stalled: bool,
    /// The first request, and since when it is.
    first: Option<(u64, u64)>,
    longest_first_us: u64,
}

impl Run<'_> {
    fn through(mut self, requests: &Requests<'_>) -> Result<Timed, SimError> {
        let arrivals = requests.arrivals_s;
        let mut read = 0;
        let mut now = 0_u64;
        while self.waits.len() < requests.experts.len() {
            let arrival = arrivals.get(read).map(|at| micros(*at));
            let event = self.events.peek().map(|Reverse((at, _))| *at);
            let waking = wake(now, &self.state, &self.queue);
            let Some(then) = [arrival, event, waking].into_iter().flatten().min() else {
                return Err(SimError(format!("nothing is done for {} requests", self.queue.len())));
            };
            if self.running() == 0 && !self.queue.is_empty() && then > now {
                self.stall_us += then - now;
                self.stalled = true;
            }
            now = now.max(then);
            self.end_events(now)?;
            while let Some(at) = arrivals.get(read).map(|at| micros(*at))
                && at <= now
            {
                let expert = ExpertIndex(requests.experts[read]);
                let due_us = at + self.bound_us;
                self.queue.push(Waiting { id: read as u64, expert, tenant: 0, arrived_us: at, due_us });
                if let Some(predictor) = &mut self.predictor {
                    let session = requests.sessions.map(|sessions| sessions[read]);
                    predictor.requested(at, &self.state, expert, session);
                }
                self.state.requested(expert);
                read += 1;
            }
            self.act(now)?;
        }
        let timed = Timed::new(self.loads, self.hits, self.stall_us as f64 / 1e6, self.waits);
        let prefetched = self.predictor.as_ref().map(|predictor| {
            PredictionSource::ALL.map(|source| predictor.prefetched(source)).into_iter().sum()
        });
        Ok(Timed { longest_first_s: Some(self.longest_first_us as f64 / 1e6), prefetched, ..timed })
    }

    fn running(&self) -> usize {
        self.pending.values().filter(|event| matches!(event, Event::Batch(_))).count()
    }

    fn end_events(&mut self, now: u64) -> Result<(), SimError> {
        while let Some(Reverse((at, number))) = self.events.peek().copied()
            && at <= now
        {
            self.events.pop();
            match self.pending.remove(&number) {
                Some(Event::Batch(lease)) => self.state.release(at, &lease),
                Some(Event::Load(expert, generation)) => self.state.arrived(at, expert, generation, None)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Asks and does until there is nothing to do.
    fn act(&mut self, now: u64) -> Result<(), SimError> {
        loop {
            self.note_first(now);
            let mut actions = decide(now, &self.state, &self.queue);
            if let (true, Some(predictor)) = (actions.is_empty(), &self.predictor) {
                actions = prefetch(now, &self.state, &self.queue, predictor);
            }
            if actions.is_empty() {
                return Ok(());
            }
            for action in &actions {
                let applied = self.state.apply(now, action)?;
                if let Some(predictor) = &mut self.predictor {
                    predictor.applied(now, &self.state, action);
                }
                match (applied, action) {
                    (Applied::Leased(lease), Action::Dispatch { expert, requests, .. }) => {
                        let batch = self.queue.take(*expert, *requests);
                        for request in &batch {
                            self.waits.push((now - request.arrived_us) as f64 / 1e6);
                            self.hits += usize::from(!self.stalled);
                        }
                        self.stalled = false;
                        self.schedule(now + micros(self.cost.batch_s(batch.len())), Event::Batch(lease));
                    }
                    (Applied::Began(generation), Action::Promote { expert, to, .. }) => {
                        self.loads += 1;
                        let load = micros(self.cost.load_s);
                        debug_assert_eq!(*to, Tier::Hbm);
                        self.schedule(now + load, Event::Load(*expert, generation));
                    }
                    _ => {}
                }
            }
        }
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.events.push(Reverse((at, self.next)));
        self.pending.insert(self.next, event);
        self.next += 1;
    }

    /// Keeps how long requests wait after they have become the first.
    fn note_first(&mut self, now: u64) {
        let front = self.queue.front().map(|front| front.id);
        if front != self.first.map(|(id, _)| id) {
            if let Some((_, since)) = self.first {
                self.longest_first_us = self.longest_first_us.max(now - since);
            }
            self.first = front.map(|id| (id, now));
        }
    }
}
