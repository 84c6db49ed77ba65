//! A concurrency limit with a bounded, fair, deadline-aware queue.
//!
//! [`Queue`] decides who is next; it is pure. [`Gate`] is the shell around it: it hands out [`Permit`]s, waits
//! and reads the clock. One short mutex guards both; it is never held while anything is woken or dropped.
//! When places are free nobody waits: a release passes its place on, it does not let newcomers race for it.

mod arena;
mod permit;
mod queue;
mod registry;
mod settings;

pub use permit::Permit;
pub use queue::{Arrival, Queue, Reason, WaiterId};
pub use registry::Gates;
pub use settings::{GateConfig, Weights};

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::adaptive::{Adaptive, Sample};
use crate::priority::Priority;

/// Bounds for the hint when to come back, in seconds.
const RETRY_AFTER: std::ops::RangeInclusive<u64> = 1..=30;

/// Bounds the requests in progress. Clones are handles to the same gate.
#[derive(Clone, Debug)]
pub struct Gate {
    shared: Arc<Shared>,
}

/// Who asks for a place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ticket {
    /// Whose the request is; see [`Key::flow`](crate::Key::flow). Requests without a key share one flow.
    pub flow: u64,
    /// How urgent it is.
    pub priority: Priority,
    /// When it is of no more use; the gate's longest wait holds as well.
    pub deadline: Option<Instant>,
}

/// A request that got no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no place: {}", .reason.name())]
pub struct Rejected {
    /// Why.
    pub reason: Reason,
    /// When it may be worth another try: the time to serve all who wait, at the recent pace, within 1 to 30
    /// seconds.
    pub retry_after: Duration,
}

/// What a gate counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Places; `None` when there is no limit, and then nothing is counted.
    pub limit: Option<u32>,
    /// Requests that hold a place.
    pub in_use: u32,
    /// Requests that wait, indexed by [`Priority`].
    pub waiting: [u32; 3],
    /// Places ever granted.
    pub granted: u64,
    /// Of these, after a wait.
    pub granted_after_wait: u64,
    /// How long those have waited in all.
    pub waited: Duration,
    /// Requests ever rejected, in the order of [`Reason::ALL`].
    pub rejected: [u64; Reason::ALL.len()],
}

#[derive(Debug)]
struct Shared {
    /// Whether there is no limit: read before anything else, so that such a gate costs nothing.
    open: AtomicBool,
    /// The zero of the queue's clock.
    start: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Places, as configured; `None` for no limit.
    fixed: Option<u32>,
    adaptive: Option<Adaptive>,
    in_use: u32,
    queue: Queue<oneshot::Sender<Verdict>>,
    max_wait: Duration,
    granted: u64,
    granted_after_wait: u64,
    waited: Duration,
    rejected: [u64; Reason::ALL.len()],
}

/// What a waiter is told. One that hears nothing, because its sender is gone, had passed its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It has a place.
    Granted,
    /// Another has its place in the queue.
    Evicted,
}

impl Gate {
    /// A gate with all places free.
    pub fn new(config: &GateConfig) -> Self {
        let state = State {
            fixed: config.concurrent,
            adaptive: config.adaptive.clone().map(|adaptive| Adaptive::new(adaptive, config.concurrent)),
            in_use: 0,
            queue: Queue::new(config),
            max_wait: config.max_wait(),
            granted: 0,
            granted_after_wait: 0,
            waited: Duration::ZERO,
            rejected: [0; Reason::ALL.len()],
        };
        let open = AtomicBool::new(config.is_open());
        Self { shared: Arc::new(Shared { open, start: Instant::now(), state: Mutex::new(state) }) }
    }

    /// Changes the settings. Who waits goes on waiting, and gets a place if there are more now; who holds a
    /// place keeps it, also when there are fewer now. What an adaptive limit has learned is kept unless its
    /// settings changed.
    pub fn configure(&self, config: &GateConfig) {
        let mut state = self.shared.lock();
        state.fixed = config.concurrent;
        match (&mut state.adaptive, &config.adaptive) {
            (Some(old), Some(new)) if old.config() == new => old.set_ceiling(config.concurrent),
            (old, new) => *old = new.clone().map(|new| Adaptive::new(new, config.concurrent)),
        }
        state.queue.configure(config);
        state.max_wait = config.max_wait();
        self.shared.open.store(config.is_open(), Ordering::Release);
        drop(state);
        self.shared.pass_on(0, None);
    }

    /// A place, if one is free.
    pub fn try_acquire(&self) -> Option<Permit> {
        if self.shared.open.load(Ordering::Acquire) {
            return Some(Permit::open());
        }
        self.shared.lock().take_place().then(|| Permit::new(self.shared.clone(), Duration::ZERO))
    }

    /// A place, now or when its turn comes. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// [`Rejected`] says why there is none, at once where that is known at once.
    pub async fn acquire(&self, ticket: Ticket) -> Result<Permit, Rejected> {
        if ticket.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(self.shared.lock().reject(Reason::Expired));
        }
        if let Some(permit) = self.try_acquire() {
            return Ok(permit);
        }
        let Some(waiting) = self.shared.enqueue(ticket)? else {
            return Ok(Permit::new(self.shared.clone(), Duration::ZERO));
        };
        waiting.granted().await
    }

    /// What it counts.
    pub fn stats(&self) -> Stats {
        let state = self.shared.lock();
        Stats {
            limit: state.limit(),
            in_use: state.in_use,
            waiting: [Priority::Batch, Priority::Standard, Priority::Interactive]
                .map(|class| state.queue.waiting_of(class)),
            granted: state.granted,
            granted_after_wait: state.granted_after_wait,
            waited: state.waited,
            rejected: state.rejected,
        }
    }

    /// Whether somebody else holds a handle or a permit.
    fn is_shared(&self) -> bool {
        Arc::strong_count(&self.shared) > 1
    }
}

impl State {
    fn limit(&self) -> Option<u32> {
        self.adaptive.as_ref().map(Adaptive::limit).or(self.fixed)
    }

    /// Takes a free place. While some are free nobody waits, so that this overtakes nobody.
    fn take_place(&mut self) -> bool {
        let free = self.limit().is_none_or(|limit| self.in_use < limit);
        if free {
            self.in_use += 1;
            self.granted += 1;
        }
        free
    }

    fn reject(&mut self, reason: Reason) -> Rejected {
        self.rejected[reason as usize] += 1;
        let wait = self.queue.time_to_drain().unwrap_or_default().as_secs_f64().ceil() as u64;
        let seconds = wait.clamp(*RETRY_AFTER.start(), *RETRY_AFTER.end());
        Rejected { reason, retry_after: Duration::from_secs(seconds) }
    }
}

impl Shared {
    /// The state. Each step leaves it whole, so that a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn micros(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX)
    }

    /// Joins the queue; `None` when a place became free meanwhile, which is then taken.
    fn enqueue(self: &Arc<Self>, ticket: Ticket) -> Result<Option<Waiting>, Rejected> {
        let now = Instant::now();
        let mut state = self.lock();
        if state.take_place() {
            return Ok(None);
        }
        let longest = now + state.max_wait;
        let deadline = ticket.deadline.map_or(longest, |deadline| deadline.min(longest));
        let arrival =
            Arrival { flow: ticket.flow, class: ticket.priority, deadline_us: self.micros(deadline) };
        let mut receiver = None;
        let enqueued = state.queue.enqueue(arrival, self.micros(now), || {
            let (sender, own) = oneshot::channel();
            receiver = Some(own);
            sender
        });
        let (id, evicted) = enqueued.map_err(|reason| state.reject(reason))?;
        drop(state);
        if let Some(evicted) = evicted {
            // One that has just left needs no answer.
            let _ = evicted.send(Verdict::Evicted);
        }
        Ok(receiver.map(|receiver| Waiting { shared: self.clone(), id, receiver, since: now, deadline }))
    }

    /// Frees places and gives what is free to those whose turn it is. A waiter that left in the same moment
    /// gives its place to the next.
    fn pass_on(&self, mut freed: u32, mut sample: Option<Sample>) {
        loop {
            let mut granted = Vec::new();
            let mut expired = Vec::new();
            {
                let mut state = self.lock();
                let state = &mut *state;
                if let (Some(sample), Some(adaptive)) = (sample.take(), &mut state.adaptive) {
                    adaptive.sample(sample, state.in_use, self.micros(Instant::now()));
                }
                state.in_use -= freed;
                if state.queue.waiting() > 0 {
                    let now_us = self.micros(Instant::now());
                    while state.limit().is_none_or(|limit| state.in_use < limit)
                        && let Some(waiter) = state.queue.pop(now_us, &mut expired)
                    {
                        state.in_use += 1;
                        granted.push(waiter);
                    }
                }
            }
            // Outside the lock: waking and dropping run code of others.
            drop(expired);
            let lost = granted.into_iter().filter_map(|waiter| waiter.send(Verdict::Granted).err()).count();
            freed = lost as u32;
            if freed == 0 {
                return;
            }
        }
    }
}

/// A place in the queue; dropping it leaves the queue, and passes on a place that was granted meanwhile.
struct Waiting {
    shared: Arc<Shared>,
    id: WaiterId,
    receiver: oneshot::Receiver<Verdict>,
    since: Instant,
    deadline: Instant,
}

impl Waiting {
    async fn granted(mut self) -> Result<Permit, Rejected> {
        let reason = match timeout_at(self.deadline, &mut self.receiver).await {
            Ok(Ok(Verdict::Granted)) => {
                let waited = self.since.elapsed();
                let mut state = self.shared.lock();
                state.granted += 1;
                state.granted_after_wait += 1;
                state.waited += waited;
                drop(state);
                return Ok(Permit::new(self.shared.clone(), waited));
            }
            Ok(Ok(Verdict::Evicted)) => Reason::Evicted,
            Ok(Err(_)) | Err(_) => Reason::Expired,
        };
        Err(self.shared.lock().reject(reason))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // From here on no verdict can arrive; one that has arrived unheard is still there. A verdict that was
        // heard is gone from the channel, so that a permit made of it is not passed on twice.
        self.receiver.close();
        match self.receiver.try_recv() {
            Ok(Verdict::Granted) => self.shared.pass_on(1, None),
            Ok(Verdict::Evicted) => {}
            Err(_) => {
                let left = self.shared.lock().queue.cancel(self.id);
                drop(left);
            }
        }
    }
}

#[cfg(test)]
mod tests;
