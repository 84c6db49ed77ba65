//! What a request holds.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::watch::Found;
use crate::residency::Lease;

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
