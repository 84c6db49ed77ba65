//! The owner's side of shared pools: leases for gateways in other processes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use routing::ExpertId;
use serde::{Deserialize, Serialize};
use stores::{Change, EmbeddedStore, Kind, StoreError, Write};
use tiers::leases::{Leases, Renewed, Shown, WrongTerm};
use tiers::owner::{Held, NotHeld};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Pools;

/// The term's name in the store.
const ID: &str = "residency_term";

/// What is stored of it.
#[derive(Serialize, Deserialize)]
struct Term {
    term: u64,
}

/// Lends experts of this process's pools to other processes.
pub struct Lender {
    pools: Pools,
    leases: Mutex<Leases<Held>>,
    started: Instant,
}

impl Lender {
    /// Begins a new term, which is stored before anything is lent. What the drivers find ready is kept where it is for
    /// the time of a lease: its holders may come back for it.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn start(pools: Pools, lasts: Duration, store: &EmbeddedStore) -> Result<Self, StoreError> {
        let last = match store.load(Kind::Setting, ID)? {
            Some(document) => document.parse::<Term>()?.term,
            None => 0,
        };
        let term = last + 1;
        let change =
            Change { writes: vec![Write::put(Kind::Setting, ID, &Term { term })?], audit: Vec::new() };
        store.commit(&change).map_err(|error| StoreError::Engine {
            action: "write the term of the leases",
            source: error.to_string().into(),
        })?;
        for pool in pools.all() {
            pool.settle(lasts);
        }
        Ok(Self { pools, leases: Mutex::new(Leases::new(term, lasts)), started: Instant::now() })
    }

    /// The term, and how long a lease lasts.
    pub fn terms(&self) -> (u64, Duration) {
        let leases = self.lock();
        (leases.term(), leases.lasts())
    }

    /// Grants a lease; its number.
    pub fn grant(&self, holder: Arc<str>, expert: ExpertId, held: Held) -> u64 {
        let now_us = self.now_us();
        self.lock().grant(now_us, holder, expert, held)
    }

    /// Has leases last on.
    ///
    /// # Errors
    /// [`WrongTerm`] where another owner has taken over.
    pub fn renew(
        &self,
        holder: &Arc<str>,
        term: u64,
        leases: &[(u64, ExpertId)],
    ) -> Result<Renewed, WrongTerm> {
        let now_us = self.now_us();
        let take_back = |expert: &ExpertId| match self.pools.of(expert) {
            Some(pool) => pool.take_back(expert),
            None => Err(NotHeld::Gone),
        };
        self.lock().renew(now_us, holder, term, leases, take_back)
    }

    /// Takes a lease back. Whether there was one.
    ///
    /// # Errors
    /// [`WrongTerm`], and then nothing is taken back.
    pub fn release(&self, term: u64, lease: u64) -> Result<bool, WrongTerm> {
        let released = self.lock().release(term, lease);
        released.map(|held| held.is_some())
    }

    /// All leases, with what is left of them.
    pub fn shown(&self) -> Vec<(Shown, Duration)> {
        let now_us = self.now_us();
        let left = |shown: Shown| {
            let left = Duration::from_micros(shown.until_us.saturating_sub(now_us));
            (shown, left)
        };
        self.lock().shown().into_iter().map(left).collect()
    }

    /// Takes leases back that were not renewed, until `stop`.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let (next_us, lasts) = {
                let leases = self.lock();
                (leases.next_us(), leases.lasts())
            };
            // A lease that is granted meanwhile ends no earlier than this.
            let wakes = next_us.map_or(Instant::now() + lasts, |us| self.started + Duration::from_micros(us));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(wakes) => {}
            }
            let now_us = self.now_us();
            let expired = self.lock().expire(now_us);
            for lease in expired {
                tracing::warn!(
                    holder = %lease.holder, expert.id = %lease.expert,
                    "a lease was not renewed in time; its expert may go"
                );
            }
        }
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    fn lock(&self) -> MutexGuard<'_, Leases<Held>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
