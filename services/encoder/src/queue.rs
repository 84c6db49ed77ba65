//! The queue between callers and sessions, and the loop of a session's thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::batch::{self, Limits, Next, Waiting};
use crate::encoder::EncodeError;
use crate::metrics::EncoderMetrics;
use crate::model::{Batch, Heads, Model, Outputs};

/// One prompt on its way through the queue.
pub(crate) struct Item {
    /// The window's ids.
    ids: Vec<u32>,
    /// What is wanted of it.
    heads: Heads,
    /// When it came.
    enqueued: Instant,
    /// Where the answer goes; closed when the caller has left.
    reply: oneshot::Sender<Result<Row, EncodeError>>,
    /// The caller's place in the queue, free again when the item is done; none for work in bulk.
    permit: Option<OwnedSemaphorePermit>,
}

/// Where a caller waits for its row.
pub(crate) type Answer = oneshot::Receiver<Result<Row, EncodeError>>;

impl Item {
    /// An item that comes now, and where its answer will be.
    pub(crate) fn new(ids: Vec<u32>, heads: Heads, permit: Option<OwnedSemaphorePermit>) -> (Self, Answer) {
        let (reply, answer) = oneshot::channel();
        (Self { ids, heads, enqueued: Instant::now(), reply, permit }, answer)
    }
}

/// One prompt's share of a forward pass.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// `[d]`.
    pub embedding: Arc<[f32]>,
    /// `[C]`, or empty when only the embedding was wanted.
    pub probabilities: Arc<[f32]>,
    /// `[d]`, or empty when it was not wanted or the graph has none.
    pub state: Arc<[f32]>,
    /// What the category head's dense part read, or empty as `state` is.
    pub pooled: Arc<[f32]>,
    /// Time in the queue.
    pub queue: Duration,
    /// Time of the forward pass.
    pub forward: Duration,
}

pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    limits: Limits,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    closed: bool,
    parked: usize,
    workers: usize,
}

impl Queue {
    /// A queue for `workers` threads that each run [`work`].
    pub(crate) fn new(limits: Limits, workers: usize) -> Self {
        let state = State { workers, ..State::default() };
        Self { state: Mutex::new(state), changed: Condvar::new(), limits }
    }

    /// Appends items, side by side. On a closed queue they are dropped, which their callers see.
    pub(crate) fn push(&self, items: impl IntoIterator<Item = Item>) {
        let mut state = self.lock();
        if !state.closed {
            state.items.extend(items);
            self.changed.notify_one();
        }
    }

    /// Takes no more items. What is queued is still worked on.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The next batch; `None` when the queue is closed and empty. `straight` says that the caller has
    /// just finished a batch and was not idle.
    fn take(&self, straight: bool) -> Option<Vec<Item>> {
        let mut straight = straight;
        let mut state = self.lock();
        loop {
            state.items.retain(|item| !item.reply.is_closed());
            let spare = !straight || state.parked > 0 || state.closed;
            let now = Instant::now();
            let waiting = state.items.iter().map(|item| Waiting {
                tokens: item.ids.len(),
                age: now.saturating_duration_since(item.enqueued),
            });
            match batch::next(waiting, &self.limits, spare) {
                Next::Sleep if state.closed => return None,
                Next::Sleep => {
                    straight = false;
                    state.parked += 1;
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.parked -= 1;
                }
                Next::Wait(patience) => {
                    let woken = self.changed.wait_timeout(state, patience);
                    state = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
                Next::Run(places) => {
                    let items = pick(&mut state.items, &places);
                    if !state.items.is_empty() {
                        self.changed.notify_one();
                    }
                    return Some(items);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the items at `places` (ascending) and keeps the order of the rest.
fn pick(items: &mut VecDeque<Item>, places: &[usize]) -> Vec<Item> {
    let mut places = places.iter().peekable();
    let mut picked = Vec::with_capacity(places.len());
    let mut rest = VecDeque::with_capacity(items.len());
    for (place, item) in items.drain(..).enumerate() {
        if places.next_if(|&&p| p == place).is_some() {
            picked.push(item);
        } else {
            rest.push_back(item);
        }
    }
    *items = rest;
    picked
}

/// Leaves the queue when its thread ends, however it ends: when the last one is gone, nobody may wait for
/// an answer any more.
struct Membership<'a>(&'a Queue);

impl Drop for Membership<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.workers = state.workers.saturating_sub(1);
        if state.workers == 0 {
            state.closed = true;
            state.items.clear();
        }
    }
}

/// Runs batches until the queue is closed and empty.
pub(crate) fn work(model: &mut dyn Model, queue: &Queue, metrics: &EncoderMetrics) {
    let _membership = Membership(queue);
    let mut straight = false;
    while let Some(items) = queue.take(straight) {
        straight = true;
        let started = Instant::now();
        let batch = Batch::pad(items.iter().map(|item| item.ids.as_slice()));
        let heads = items.iter().fold(Heads::Embedding, |all, item| all.max(item.heads));
        let outputs = model.forward(&batch, heads);
        let forward = started.elapsed();
        metrics.batch_size.observe(items.len() as f64);
        metrics.forward_seconds.observe(forward.as_secs_f64());
        for (index, item) in items.into_iter().enumerate() {
            let queue = started.saturating_duration_since(item.enqueued);
            metrics.queue_seconds.observe(queue.as_secs_f64());
            let answer = match &outputs {
                Ok(outputs) => row(outputs, index, item.heads, queue, forward),
                Err(problem) => Err(EncodeError::Inference(problem.clone())),
            };
            // The place is free before the caller wakes up and may ask again.
            drop(item.permit);
            // A caller that has left needs no answer.
            let _ = item.reply.send(answer);
        }
    }
}

fn row(
    outputs: &Outputs,
    index: usize,
    heads: Heads,
    queue: Duration,
    forward: Duration,
) -> Result<Row, EncodeError> {
    let embedding = outputs.embedding.get(index).ok_or_else(missing)?;
    if embedding.iter().any(|x| !x.is_finite()) {
        return Err(EncodeError::NotFinite("embedding"));
    }
    let probabilities = match heads {
        Heads::Embedding => Arc::from([]),
        Heads::All | Heads::States => softmax(outputs.logits.get(index).ok_or_else(missing)?)
            .ok_or(EncodeError::NotFinite("category_logits"))?,
    };
    let state = outputs.states.get(index).filter(|_| heads == Heads::States).unwrap_or_default();
    if state.iter().any(|x| !x.is_finite()) {
        return Err(EncodeError::NotFinite("token_states"));
    }
    let pooled = outputs.pooled.get(index).filter(|_| heads == Heads::States).unwrap_or_default();
    if pooled.iter().any(|x| !x.is_finite()) {
        return Err(EncodeError::NotFinite("pooled"));
    }
    let [embedding, state, pooled] = [embedding, state, pooled].map(Arc::from);
    Ok(Row { embedding, probabilities, state, pooled, queue, forward })
}

fn missing() -> EncodeError {
    EncodeError::Inference("the graph answered with fewer rows than it was asked".to_owned())
}

/// exp(x) / sum exp(x); `None` when a logit is not a number or infinite.
pub(crate) fn softmax(logits: &[f32]) -> Option<Arc<[f32]>> {
    if logits.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|x| f64::from(x - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    Some(powers.iter().map(|p| (p / sum) as f32).collect())
}

#[cfg(test)]
mod tests;
