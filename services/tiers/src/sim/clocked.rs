//! The policies to beat, on a clock: one executor, and one channel that carries one load at a time.

use std::collections::VecDeque;

use super::baseline::{Evict, NEVER, least};
use super::{Cost, Timed};

/// How a baseline is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) evict: Evict,
    /// Ready experts first, in batches; otherwise one request after another in their order.
    pub(super) batch: bool,
    /// Loads overlap with execution.
    pub(super) prefetch: bool,
}

struct Run<'a> {
    style: Style,
    cost: &'a Cost,
    requests: &'a [u32],
    arrivals: &'a [f64],
    places: usize,
    /// All requests of each expert, for those who know what is to come.
    uses: Vec<Vec<usize>>,
    lines: Vec<VecDeque<usize>>,
    active: Vec<u32>,
    read: usize,
    queued: usize,
    /// When a resident is ready, in the order in which they came.
    residents: Vec<(u32, f64)>,
    ready: Vec<Option<f64>>,
    used: Vec<i64>,
    count: Vec<f64>,
    priority: Vec<f64>,
    inflation: f64,
    running: Option<u32>,
    /// When the channel is free.
    free: f64,
    loads: u32,
}

/// Runs requests with their times of arrival, in seconds.
pub(super) fn run(
    requests: &[u32],
    arrivals: &[f64],
    experts: usize,
    places: usize,
    cost: &Cost,
    style: Style,
) -> Timed {
    let mut uses = vec![Vec::new(); experts];
    for (i, expert) in requests.iter().enumerate() {
        uses[*expert as usize].push(i);
    }
    let run = Run {
        style,
        cost,
        requests,
        arrivals,
        places,
        uses,
        lines: vec![VecDeque::new(); experts],
        active: Vec::new(),
        read: 0,
        queued: 0,
        residents: Vec::new(),
        ready: vec![None; experts],
        used: vec![-1; experts],
        count: vec![0.0; experts],
        priority: vec![0.0; experts],
        inflation: 0.0,
        running: None,
        free: 0.0,
        loads: 0,
    };
    run.through()
}

impl Run<'_> {
    fn through(mut self) -> Timed {
        let requests = self.requests.len();
        let mut done = vec![false; requests];
        let mut waits = Vec::with_capacity(requests);
        let (mut now, mut head, mut clock, mut hits, mut stall) = (0.0_f64, 0, 0_i64, 0_usize, 0.0_f64);
        while waits.len() < requests {
            self.ingest(now);
            if self.queued == 0 {
                now = now.max(self.arrivals[self.read]);
                continue;
            }
            while done[head] {
                head += 1;
            }
            let expert = self.choose(head, now);
            let mut hit = true;
            match self.ready[expert as usize] {
                None => {
                    hit = false;
                    self.running = None;
                    if let Some(ready) = self.load(expert, now, true) {
                        stall += ready - now;
                        now = ready;
                    }
                }
                Some(ready) if ready > now => {
                    hit = false;
                    stall += ready - now;
                    now = ready;
                }
                Some(_) => {}
            }
            self.ingest(now);
            let line = &mut self.lines[expert as usize];
            let batch = if self.style.batch { line.len().min(self.cost.batch_max as usize) } else { 1 };
            for request in line.drain(..batch) {
                done[request] = true;
                waits.push(now - self.arrivals[request]);
                hits += usize::from(hit);
            }
            if line.is_empty() {
                self.active.retain(|e| *e != expert);
            }
            self.queued -= batch;
            clock += 1;
            self.used[expert as usize] = clock;
            self.priority[expert as usize] = self.inflation + self.count[expert as usize];
            self.running = Some(expert);
            let end = now + self.cost.batch_s(batch);
            if self.style.prefetch {
                self.prefetch(now, end);
            }
            now = end;
        }
        Timed::new(self.loads, hits, stall, waits)
    }

    /// Takes in what has come until then.
    fn ingest(&mut self, until: f64) {
        while self.read < self.requests.len() && self.arrivals[self.read] <= until {
            let expert = self.requests[self.read];
            if self.lines[expert as usize].is_empty() {
                self.active.push(expert);
            }
            self.lines[expert as usize].push_back(self.read);
            self.count[expert as usize] += 1.0;
            self.read += 1;
            self.queued += 1;
        }
    }

    fn choose(&self, head: usize, now: f64) -> u32 {
        let first = self.requests[head];
        if !self.style.batch || now - self.arrivals[head] >= self.cost.bound_s {
            return first;
        }
        let active = || self.active.iter().copied();
        let ready = active().filter(|e| self.ready[*e as usize].is_some_and(|at| at <= now));
        least(ready, |e| self.first(e))
            .or_else(|| {
                least(active().filter(|e| self.ready[*e as usize].is_some()), |e| self.ready[e as usize])
            })
            .unwrap_or(first)
    }

    fn first(&self, expert: u32) -> usize {
        self.lines[expert as usize].front().copied().unwrap_or(NEVER)
    }

    /// The next use of an expert, whether it waits already or is still to come.
    fn next_use(&self, expert: u32) -> usize {
        self.lines[expert as usize].front().copied().unwrap_or_else(|| {
            let uses = &self.uses[expert as usize];
            uses.get(uses.partition_point(|i| *i < self.read)).copied().unwrap_or(NEVER)
        })
    }

    fn victim(&self, target: usize, must: bool) -> Option<u32> {
        let all = || {
            let idle = |(e, at): &(u32, f64)| Some(*e) != self.running && *at <= self.free;
            self.residents.iter().copied().filter(idle).map(|(e, _)| e)
        };
        let used = |e: u32| self.used[e as usize];
        let unasked = || all().filter(|e| self.lines[*e as usize].is_empty());
        let last = || {
            let last = least(all(), |e| std::cmp::Reverse(self.first(e)))?;
            (must || self.first(last) > target).then_some(last)
        };
        match self.style.evict {
            Evict::Lru => least(all(), used),
            Evict::Lfu => least(all(), |e| (self.count[e as usize], used(e))),
            Evict::Gdsf => least(all(), |e| (self.priority[e as usize], used(e))),
            Evict::Belady => least(all(), |e| std::cmp::Reverse(self.next_use(e))),
            Evict::LookAhead => least(unasked(), used).or_else(last),
            Evict::LookAheadGdsf => least(unasked(), |e| (self.priority[e as usize], used(e))).or_else(last),
        }
    }

    /// Starts a load at or after a moment; when it is done, or `None` where nothing can go for it.
    fn load(&mut self, expert: u32, from: f64, must: bool) -> Option<f64> {
        let begin = from.max(self.free);
        if self.residents.len() >= self.places {
            let victim = self.victim(self.first(expert), must)?;
            if matches!(self.style.evict, Evict::Gdsf | Evict::LookAheadGdsf) {
                self.inflation = self.inflation.max(self.priority[victim as usize]);
            }
            self.residents.retain(|(e, _)| *e != victim);
            self.ready[victim as usize] = None;
        }
        self.free = begin + self.cost.load_s;
        self.residents.push((expert, self.free));
        self.ready[expert as usize] = Some(self.free);
        self.loads += 1;
        self.priority[expert as usize] = self.inflation + self.count[expert as usize];
        Some(self.free)
    }

    fn prefetch(&mut self, now: f64, end: f64) {
        let mut at = now.max(self.free);
        while at < end {
            self.ingest(at);
            let absent = self.active.iter().copied().filter(|e| self.ready[*e as usize].is_none());
            let Some(expert) = least(absent, |e| self.first(e)) else {
                if self.read < self.requests.len() && self.arrivals[self.read] < end {
                    at = self.arrivals[self.read].max(at + 1e-9);
                    continue;
                }
                return;
            };
            let Some(ready) = self.load(expert, at, false) else { return };
            at = ready;
        }
    }
}
