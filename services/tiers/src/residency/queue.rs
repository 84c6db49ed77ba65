use std::collections::{BTreeMap, VecDeque};

use super::expert::ExpertIndex;

/// No place in a list.
const NONE: u32 = u32::MAX;

/// A request that waits for its expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its number: unique, and larger than those of all that came before.
    pub id: u64,
    /// Whom it is for. A route is fixed before a request waits.
    pub expert: ExpertIndex,
    /// On whose account.
    pub tenant: u32,
    /// When it came.
    pub arrived_us: u64,
    /// When it must not be overtaken any more; [`super::admit()`] computes it.
    pub due_us: u64,
}

impl Waiting {
    fn key(&self) -> (u64, u64) {
        (self.due_us, self.id)
    }
}

/// All that wait: a line for each expert and one order over all, both by when requests are due. With one bound for
/// all that is the order of arrival.
///
/// What decisions need is kept up to date with each change, so that deciding never walks over requests.
#[derive(Clone, Debug)]
pub struct Queue {
    lines: Vec<Line>,
    /// Experts with someone waiting, in no order that means anything.
    active: Vec<ExpertIndex>,
    order: BTreeMap<(u64, u64), ExpertIndex>,
    batch_max: u32,
    batches: u64,
}

#[derive(Clone, Debug)]
struct Line {
    waiting: VecDeque<Waiting>,
    /// The sum of the times of arrival.
    arrivals_us: u128,
    /// The place in `active`.
    place: u32,
}

impl Queue {
    /// An empty queue for so many experts, whose batches have at most `batch_max` requests.
    pub fn new(experts: usize, batch_max: u32) -> Self {
        let line = Line { waiting: VecDeque::new(), arrivals_us: 0, place: NONE };
        Self {
            lines: vec![line; experts],
            active: Vec::new(),
            order: BTreeMap::new(),
            batch_max: batch_max.max(1),
            batches: 0,
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// How many wait for an expert.
    pub fn waiting(&self, expert: ExpertIndex) -> u32 {
        self.lines.get(expert.at()).map_or(0, |line| line.waiting.len() as u32)
    }

    /// The first of those who wait for an expert.
    pub fn head(&self, expert: ExpertIndex) -> Option<&Waiting> {
        self.lines.get(expert.at())?.waiting.front()
    }

    /// The first of all.
    pub fn front(&self) -> Option<&Waiting> {
        let (_, expert) = self.order.first_key_value()?;
        self.head(*expert)
    }

    /// The experts that someone waits for.
    pub fn active(&self) -> &[ExpertIndex] {
        &self.active
    }

    /// How long those who wait for an expert have waited, together, in microseconds.
    pub fn waited_us(&self, expert: ExpertIndex, now_us: u64) -> u64 {
        let Some(line) = self.lines.get(expert.at()) else { return 0 };
        let all = u128::from(now_us) * line.waiting.len() as u128;
        u64::try_from(all.saturating_sub(line.arrivals_us)).unwrap_or(u64::MAX)
    }

    /// Changes how many requests a batch has at most.
    pub fn set_batch_max(&mut self, batch_max: u32) {
        self.batch_max = batch_max.max(1);
        let batches = |line: &Line| line.waiting.len().div_ceil(self.batch_max as usize) as u64;
        self.batches = self.lines.iter().map(batches).sum();
    }

    /// How many batches all that wait make.
    pub(super) fn batches(&self) -> u64 {
        self.batches
    }

    /// Adds a request. The expert must be one of the pool's; others are ignored.
    pub fn push(&mut self, request: Waiting) {
        self.change(request.expert, |line| {
            line.arrivals_us += u128::from(request.arrived_us);
            let place = line.waiting.partition_point(|other| other.key() < request.key());
            line.waiting.insert(place, request);
        });
        if self.lines.len() > request.expert.at() {
            self.order.insert(request.key(), request.expert);
        }
    }

    /// Takes the first requests of an expert's line, as an [`super::Action::Dispatch`] says.
    pub fn take(&mut self, expert: ExpertIndex, requests: u32) -> Vec<Waiting> {
        let mut taken = Vec::new();
        self.change(expert, |line| {
            let count = line.waiting.len().min(requests as usize);
            taken.extend(line.waiting.drain(..count));
            line.arrivals_us -= taken.iter().map(|request| u128::from(request.arrived_us)).sum::<u128>();
        });
        for request in &taken {
            self.order.remove(&request.key());
        }
        taken
    }

    /// Removes one request: it was refused, or its client left.
    pub fn remove(&mut self, request: &Waiting) -> bool {
        let mut found = false;
        self.change(request.expert, |line| {
            let place = line.waiting.partition_point(|other| other.key() < request.key());
            found = line.waiting.get(place).is_some_and(|other| other.key() == request.key());
            if found {
                line.waiting.remove(place);
                line.arrivals_us -= u128::from(request.arrived_us);
            }
        });
        found && self.order.remove(&request.key()).is_some()
    }

    /// Changes a line, and what depends on its length.
    fn change(&mut self, expert: ExpertIndex, change: impl FnOnce(&mut Line)) {
        let batch_max = self.batch_max as usize;
        let Some(line) = self.lines.get_mut(expert.at()) else { return };
        let before = line.waiting.len().div_ceil(batch_max);
        change(line);
        self.batches = self.batches + line.waiting.len().div_ceil(batch_max) as u64 - before as u64;
        match (line.waiting.is_empty(), line.place) {
            (false, NONE) => {
                line.place = self.active.len() as u32;
                self.active.push(expert);
            }
            (true, place) if place != NONE => {
                line.place = NONE;
                self.active.swap_remove(place as usize);
                if let Some(moved) = self.active.get(place as usize) {
                    self.lines[moved.at()].place = place;
                }
            }
            _ => {}
        }
    }
}
