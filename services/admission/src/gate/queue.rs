use std::collections::HashMap;
use std::time::Duration;

use super::arena::{Arena, List};
use super::settings::{GateConfig, Weights};
use crate::priority::Priority;

/// Grants after which their mean interval is believed.
const ENOUGH_GRANTS: u32 = 8;

/// A bounded queue, fair between flows and weighted between classes. Pure: it has no clock; moments are
/// microseconds since any start, and never go back.
///
/// - *Between classes*: each class has as many grants per round as its weight says; the most urgent class that
///   waits and has grants left is next, and when none has, a new round begins. See [`Weights`] for the bound
///   on waiting that follows.
/// - *Between flows* of a class (one flow per key): in turns, one grant each. So before a flow's first waiter
///   every other flow of the class is granted at most once, however much it has waiting.
/// - *Full*: an arrival takes the place of the newest waiter of a less urgent class, of the flow there whose
///   turn is last, when there is one; else it is refused.
/// - *Deadlines*: a waiter is never granted at or past its deadline. An arrival whose deadline will have
///   passed by the time that those ahead of it are served, at the recent pace, is refused at once.
#[derive(Debug)]
pub struct Queue<T> {
    waiters: Arena<Waiter<T>>,
    flows: Arena<Flow>,
    /// Indexed by [`Priority`].
    classes: [Class; 3],
    weights: Weights,
    most: u32,
    most_per_flow: u32,
    waiting: u32,
    next_serial: u64,
    pace: Pace,
}

#[derive(Debug)]
struct Waiter<T> {
    payload: T,
    deadline_us: u64,
    class: Priority,
    flow: u32,
    serial: u64,
}

#[derive(Debug)]
struct Flow {
    id: u64,
    waiters: List,
}

#[derive(Debug, Default)]
struct Class {
    /// Where the flows that have waiters are.
    by_id: HashMap<u64, u32>,
    /// The same flows in the order of their turns.
    turns: List,
    waiting: u32,
    /// Grants left in this round.
    credit: u32,
}

/// The mean time between grants while somebody waits, exponentially smoothed.
#[derive(Debug, Default)]
struct Pace {
    interval_us: f64,
    grants: u32,
    /// The last grant, if somebody has been waiting ever since.
    last_us: Option<u64>,
}

/// What a waiter is and how long it can wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Whose it is; see [`Key::flow`](crate::Key::flow).
    pub flow: u64,
    /// Its class.
    pub class: Priority,
    /// When it is of no more use, in microseconds.
    pub deadline_us: u64,
}

/// Names a waiter of a queue; never names another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaiterId {
    node: u32,
    serial: u64,
}

/// Why a request does not get a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The queue is full.
    Full,
    /// The queue holds as many requests of this key as it may.
    FlowFull,
    /// Its deadline would pass before its turn.
    Hopeless,
    /// Its deadline has passed.
    Expired,
    /// A more urgent request has taken its place in a full queue.
    Evicted,
}

impl Reason {
    /// All, in order of declaration.
    pub const ALL: [Self; 5] = [Self::Full, Self::FlowFull, Self::Hopeless, Self::Expired, Self::Evicted];

    /// A name for metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "queue_full",
            Self::FlowFull => "key_queue_full",
            Self::Hopeless => "wait_too_long",
            Self::Expired => "deadline",
            Self::Evicted => "evicted",
        }
    }
}

impl<T> Queue<T> {
    /// An empty queue with the bounds and weights of the settings.
    pub fn new(config: &GateConfig) -> Self {
        let mut queue = Self {
            waiters: Arena::default(),
            flows: Arena::default(),
            classes: Default::default(),
            weights: config.weights,
            most: 0,
            most_per_flow: 0,
            waiting: 0,
            next_serial: 0,
            pace: Pace::default(),
        };
        queue.configure(config);
        queue
    }

    /// Changes bounds and weights. Who waits already goes on waiting.
    pub fn configure(&mut self, config: &GateConfig) {
        self.most = config.queue;
        self.most_per_flow = config.queue_per_flow();
        self.weights = config.weights;
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.waiting
    }

    /// How many of a class wait.
    pub fn waiting_of(&self, class: Priority) -> u32 {
        self.classes[class as usize].waiting
    }

    /// Lets a request wait; `payload` is made only then. Gives its name and the payload of the waiter whose
    /// place it took, if it did.
    ///
    /// # Errors
    /// The [`Reason`] why it cannot wait. Takes constant time, however many wait.
    pub fn enqueue(
        &mut self,
        arrival: Arrival,
        now_us: u64,
        payload: impl FnOnce() -> T,
    ) -> Result<(WaiterId, Option<T>), Reason> {
        let Arrival { flow, class, deadline_us } = arrival;
        if deadline_us <= now_us {
            return Err(Reason::Expired);
        }
        let own = self.classes[class as usize].by_id.get(&flow).copied();
        let ahead = own.and_then(|node| self.flows.get(node)).map_or(0, |flow| flow.waiters.len());
        if ahead >= self.most_per_flow {
            return Err(if self.most == 0 { Reason::Full } else { Reason::FlowFull });
        }
        let wait = self.estimated_wait_us(class, ahead);
        if wait.is_some_and(|wait| wait > deadline_us - now_us) {
            return Err(Reason::Hopeless);
        }
        let evicted = if self.waiting < self.most { None } else { Some(self.evict_below(class)?) };
        let serial = self.next_serial;
        self.next_serial += 1;
        // Evicting did not move the own flow: it took from another class.
        let own_class = &mut self.classes[class as usize];
        let flow = own.unwrap_or_else(|| {
            let node = self.flows.push(&mut own_class.turns, Flow { id: flow, waiters: List::default() });
            own_class.by_id.insert(flow, node);
            node
        });
        let own_flow = self.flows.get_mut(flow).ok_or(Reason::Full)?;
        let waiter = Waiter { payload: payload(), deadline_us, class, flow, serial };
        let node = self.waiters.push(&mut own_flow.waiters, waiter);
        own_class.waiting += 1;
        self.waiting += 1;
        Ok((WaiterId { node, serial }, evicted))
    }

    /// Takes out who is next, to be granted a place. Those whose deadline had passed go to `expired`.
    pub fn pop(&mut self, now_us: u64, expired: &mut Vec<T>) -> Option<T> {
        while let Some(class) = self.next_class() {
            let turns = self.classes[class as usize].turns;
            let flow = turns.first()?;
            let waiter = self.take(self.flows.get(flow)?.waiters.first()?)?;
            if waiter.deadline_us <= now_us {
                // Neither its flow nor its class has had its turn by this.
                expired.push(waiter.payload);
                continue;
            }
            let of_class = &mut self.classes[class as usize];
            if of_class.turns.first() == Some(flow) {
                self.flows.rotate(&mut of_class.turns);
            }
            of_class.credit -= 1;
            self.pace.granted(now_us, self.waiting > 0);
            return Some(waiter.payload);
        }
        None
    }

    /// Takes out a waiter that does not wait any more; `None` when it has left already.
    pub fn cancel(&mut self, id: WaiterId) -> Option<T> {
        let waiter = self.waiters.get(id.node)?;
        if waiter.serial != id.serial {
            return None;
        }
        self.take(id.node).map(|waiter| waiter.payload)
    }

    /// How long an arrival of a new flow would wait at the recent pace; `None` when that is not known.
    pub fn estimated_wait(&self, class: Priority) -> Option<Duration> {
        self.estimated_wait_us(class, 0).map(Duration::from_micros)
    }

    /// How long it takes to serve all who wait at the recent pace; `None` when that is not known.
    pub fn time_to_drain(&self) -> Option<Duration> {
        let micros = f64::from(self.waiting) * self.pace.interval_us;
        (self.pace.grants >= ENOUGH_GRANTS).then(|| Duration::from_micros(micros as u64))
    }

    /// As [`estimated_wait`](Self::estimated_wait), behind `ahead` waiters of the same flow.
    fn estimated_wait_us(&self, class: Priority, ahead: u32) -> Option<u64> {
        if self.pace.grants < ENOUGH_GRANTS {
            return None;
        }
        let own = &self.classes[class as usize];
        // Every flow gets as many turns as this one needs, or all that it has waiting.
        let turns = u64::from(ahead + 1) * u64::from(own.turns.len());
        let same_class = turns.min(u64::from(own.waiting));
        let others: u32 = Priority::ALL
            .into_iter()
            .filter(|other| *other != class && self.waiting_of(*other) > 0)
            .map(|other| self.weights.of(other))
            .sum();
        let share = (same_class + 1) * u64::from(others) / u64::from(self.weights.of(class).max(1));
        let before = same_class + share.min(u64::from(self.waiting - own.waiting));
        Some((before as f64 * self.pace.interval_us) as u64)
    }

    /// The class of the next grant: see the rule at [`Queue`].
    fn next_class(&mut self) -> Option<Priority> {
        if self.waiting == 0 {
            return None;
        }
        let due = |classes: &[Class; 3]| {
            Priority::ALL.into_iter().find(|class| {
                let class = &classes[*class as usize];
                class.waiting > 0 && class.credit > 0
            })
        };
        due(&self.classes).or_else(|| {
            for class in Priority::ALL {
                self.classes[class as usize].credit = self.weights.of(class).max(1);
            }
            due(&self.classes)
        })
    }

    /// Makes room by removing a waiter of a class below `class`.
    fn evict_below(&mut self, class: Priority) -> Result<T, Reason> {
        let lowest = Priority::ALL.into_iter().rev().find(|lowest| self.waiting_of(*lowest) > 0);
        let lowest = lowest.filter(|lowest| *lowest < class).ok_or(Reason::Full)?;
        let flow = self.classes[lowest as usize].turns.last().and_then(|flow| self.flows.get(flow));
        let newest = flow.and_then(|flow| flow.waiters.last()).ok_or(Reason::Full)?;
        self.take(newest).map(|waiter| waiter.payload).ok_or(Reason::Full)
    }

    /// Takes a waiter out, and its flow if that was the last.
    fn take(&mut self, node: u32) -> Option<Waiter<T>> {
        let flow = self.waiters.get(node)?.flow;
        let own_flow = self.flows.get_mut(flow)?;
        let waiter = self.waiters.remove(&mut own_flow.waiters, node)?;
        let (id, is_empty) = (own_flow.id, own_flow.waiters.len() == 0);
        let class = &mut self.classes[waiter.class as usize];
        class.waiting -= 1;
        self.waiting -= 1;
        if is_empty {
            self.flows.remove(&mut class.turns, flow);
            class.by_id.remove(&id);
        }
        if self.waiting == 0 {
            self.pace.last_us = None;
        }
        Some(waiter)
    }
}

impl Pace {
    fn granted(&mut self, now_us: u64, others_wait: bool) {
        if let Some(last_us) = self.last_us {
            let interval = now_us.saturating_sub(last_us) as f64;
            self.grants = self.grants.saturating_add(1);
            // The mean of the first grants, then smoothed over about the last thirty.
            self.interval_us += (interval - self.interval_us) / f64::from(self.grants.min(16));
        }
        self.last_us = others_wait.then_some(now_us);
    }
}

#[cfg(test)]
mod tests;
