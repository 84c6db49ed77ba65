//! What a request holds.

use std::sync::Arc;
use std::time::Duration;

use routing::ExpertId;

use super::watch::Found;
use super::{Pool, Shared};
use crate::residency::{Lease, Phase};

/// An expert that is ready, and stays where it is until this is dropped.
pub struct Held {
    /// Shared by the requests of a batch.
    _batch: Arc<Batch>,
    waited: Duration,
    found: Found,
}

impl Held {
    pub(super) fn new(batch: Arc<Batch>, waited_us: u64, found: Found) -> Self {
        Self { _batch: batch, waited: Duration::from_micros(waited_us), found }
    }

    /// How long the request waited.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Where the expert was when the request came.
    pub fn found(&self) -> Found {
        self.found
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held")
            .field("waited", &self.waited)
            .field("found", &self.found)
            .finish_non_exhaustive()
    }
}

/// Why an expert is not held for a request that is under way already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeld {
    /// It is not ready, or not in this pool: it may be gone from where the request found it.
    Gone,
    /// Nobody knows yet where it is; ask again soon.
    Unknown,
}

impl Pool {
    /// Holds an expert for a request that is under way already: its lease was with an owner that is gone, or ran out.
    /// Waits for nothing, and loads nothing.
    ///
    /// # Errors
    /// [`NotHeld`].
    pub fn take_back(&self, expert: &ExpertId) -> Result<Held, NotHeld> {
        let shared = &self.shared;
        let index = *shared.by_id.get(expert).ok_or(NotHeld::Gone)?;
        shared.with(|core, now_us| match core.state.take_back(now_us, index) {
            Ok(lease) => Ok(Held::new(Batch::new(shared, lease), 0, Found::Hot)),
            Err(_) if core.state.phase(index) == Some(&Phase::Unknown) => Err(NotHeld::Unknown),
            Err(_) => Err(NotHeld::Gone),
        })
    }

    /// Removes nothing for this long that a driver finds ready when it is first asked: requests of other processes
    /// may be using it since before this start. To be called before [`Pool::run`].
    pub fn settle(&self, patience: Duration) {
        self.shared.lock().settle_us = patience.as_micros() as u64;
    }
}

/// A lease, given back when the last request of its batch has ended.
pub(super) struct Batch {
    shared: Arc<Shared>,
    lease: Lease,
}

impl Batch {
    pub(super) fn new(shared: &Arc<Shared>, lease: Lease) -> Arc<Self> {
        Arc::new(Self { shared: shared.clone(), lease })
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.shared.with(|core, now_us| core.release(now_us, &self.lease));
    }
}

/// A request's place in the queue, given up when it is dropped.
pub(super) struct Seat<'a> {
    shared: &'a Arc<Shared>,
    id: Option<u64>,
}

impl<'a> Seat<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>, id: u64) -> Self {
        Self { shared, id: Some(id) }
    }

    /// It was this request's turn.
    pub(super) fn taken(mut self) {
        self.id = None;
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.shared.with(|core, _| core.leave(id));
        }
    }
}
