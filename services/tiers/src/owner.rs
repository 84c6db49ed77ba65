//! The owner of a pool: it holds the state and the queue, lets requests in, and has drivers carry out what
//! [`decide()`](crate::residency::decide()) says.
//!
//! A request asks [`Pool::acquire`] for its expert and holds the [`Held`] that it gets until its answer has ended; its
//! client leaves by dropping either. State and queue are behind one lock that is held for the time of a decision and
//! never across an await, so that a request for a ready expert costs no task switch. All that takes time is done by one
//! task, [`Pool::run`]: transitions, probes, and waking up when a bound is up.
//!
//! What is where is the servers' word, not ours: every expert is in doubt until its driver was asked, after each error
//! the driver is asked again, and now and then it is asked anyway. Bytes of a transition that nobody knows the end of
//! stay counted until then.

mod core;
mod lease;
mod operate;
mod reconcile;
mod status;
mod task;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use routing::ExpertId;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::driver::Driver;
use crate::residency::{ExpertIndex, PoolError, PoolSpec};

use self::core::{Core, Place};
use self::lease::Seat;
use self::status::Outlooks;

pub use lease::{Held, NotHeld};
pub use operate::{Asked, OperationError};
pub use status::{
    DriverStatus, ExpertStatus, LinkStatus, Outlook, Plan, Planned, PoolStatus, PredictionStatus, Record,
    TierStatus,
};
pub use watch::{Event, Found, Outcome, Silent, Watch, Why};

/// How long things may take, and how often the servers are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timing {
    /// Seconds that a load may take. After that nobody knows how it ended, until a probe tells.
    pub promote_timeout_s: u64,
    /// Seconds that a removal may take, until its bytes are free.
    pub demote_timeout_s: u64,
    /// Seconds that a server has to say what is where.
    pub probe_timeout_s: u64,
    /// Seconds from one probe to the next where nothing is wrong.
    pub reconcile_every_s: u64,
    /// Most seconds until what failed is tried again. The first time it is one, and twice as long each time.
    pub retry_max_s: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            promote_timeout_s: 300,
            demote_timeout_s: 60,
            probe_timeout_s: 10,
            reconcile_every_s: 10,
            retry_max_s: 60,
        }
    }
}

/// What a pool is made of.
pub struct Setup {
    /// Its name.
    pub id: Arc<str>,
    /// Its tiers, links and experts. Bytes count as free when a driver says so, whatever `frees_at_once` is.
    pub spec: PoolSpec,
    /// Who moves the experts: the first driver that has an expert moves it.
    pub drivers: Vec<Driver>,
    /// How long things may take.
    pub timing: Timing,
    /// Who is told what happens.
    pub watch: Arc<dyn Watch>,
    /// The wall clock now, in milliseconds since 1970 UTC; for records.
    pub now_ms: u64,
}

/// What is wrong with a [`Setup`].
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The pool itself.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// An expert that has to be moved and that nobody moves.
    #[error(
        "expert `{0}`: no driver of the pool has it; add it to a driver's settings, or give it one tier only"
    )]
    NoDriver(ExpertId),
    /// An expert in a tier that its driver does not have.
    #[error("expert `{id}`: has bytes in tier `{tier}`, and its driver ({driver}) has {has}")]
    NoTier {
        /// Which.
        id: ExpertId,
        /// The tier.
        tier: crate::residency::Tier,
        /// The driver's kind.
        driver: &'static str,
        /// The driver's tiers.
        has: String,
    },
}

/// A request for an expert.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Which.
    pub expert: &'a ExpertId,
    /// On whose account; equal numbers are one tenant.
    pub tenant: u32,
    /// The conversation that it belongs to, where that is known.
    pub session: Option<u64>,
    /// When it is of no more use.
    pub deadline: Option<Instant>,
}

/// Why a request does not get its expert, and when to try again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Denied {
    /// Why.
    pub why: Why,
    /// After how long the same request could be served, as far as can be said now.
    pub retry_after: Duration,
}

/// A pool at work. Copies are the same pool.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    id: Arc<str>,
    by_id: HashMap<ExpertId, ExpertIndex>,
    drivers: Vec<Driver>,
    /// The driver of each expert.
    driver_of: Vec<Option<usize>>,
    timing: Timing,
    watch: Arc<dyn Watch>,
    started: Instant,
    started_ms: u64,
    core: Mutex<Core>,
    /// There is work for the task.
    bell: Notify,
    /// Something ended, for operators that wait.
    moved: Notify,
    outlooks: Mutex<Outlooks>,
}

impl Pool {
    /// Makes a pool. Nobody gets an expert before [`Pool::run`] has asked the drivers where they are.
    ///
    /// # Errors
    /// What is wrong with the setup.
    pub fn new(setup: Setup) -> Result<Self, SetupError> {
        let Setup { id, mut spec, drivers, timing, watch, now_ms } = setup;
        spec.frees_at_once = false;
        spec.check()?;
        let mut driver_of = Vec::with_capacity(spec.experts.len());
        for expert in &spec.experts {
            let driver = drivers.iter().position(|driver| driver.has(&expert.id));
            if driver.is_none() && expert.bytes.len() > 1 {
                return Err(SetupError::NoDriver(expert.id.clone()));
            }
            if let Some(driver) = driver.map(|at| &drivers[at]) {
                let tiers = driver.caps().tiers;
                if let Some(tier) = expert.bytes.keys().find(|tier| !tiers.contains(tier)) {
                    let has: Vec<_> = tiers.iter().map(ToString::to_string).collect();
                    return Err(SetupError::NoTier {
                        id: expert.id.clone(),
                        tier: *tier,
                        driver: driver.name(),
                        has: has.join(", "),
                    });
                }
            }
            driver_of.push(driver);
        }
        let ids = spec.experts.iter().map(|expert| expert.id.clone());
        let by_id = ids.zip((0..).map(ExpertIndex)).collect();
        let core = Core::new(spec, &driver_of, drivers.len())?;
        let shared = Shared {
            id,
            by_id,
            drivers,
            driver_of,
            timing,
            watch,
            started: Instant::now(),
            started_ms: now_ms,
            core: Mutex::new(core),
            bell: Notify::new(),
            moved: Notify::new(),
            outlooks: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Its name.
    pub fn id(&self) -> &Arc<str> {
        &self.shared.id
    }

    /// Whether it has an expert.
    pub fn has(&self, expert: &ExpertId) -> bool {
        self.shared.by_id.contains_key(expert)
    }

    /// Its experts, in no order that means anything.
    pub fn experts(&self) -> impl Iterator<Item = &ExpertId> {
        self.shared.by_id.keys()
    }

    /// Waits until an expert is ready and it is this request's turn. Dropping the future gives the turn up.
    ///
    /// # Errors
    /// [`Denied`], at once where it can be foreseen.
    pub async fn acquire(&self, ask: Ask<'_>) -> Result<Held, Denied> {
        let shared = &self.shared;
        let Some(expert) = shared.by_id.get(ask.expert).copied() else {
            return Err(Denied { why: Why::NotHere, retry_after: Duration::ZERO });
        };
        let (to, answer) = oneshot::channel();
        let deadline_us = ask.deadline.map(|deadline| shared.us(deadline));
        let place = Place { expert, tenant: ask.tenant, session: ask.session, deadline_us };
        let id = shared.with(|core, now_us| core.enter(now_us, place, to, &*shared.watch))?;
        let seat = Seat::new(shared, id);
        let granted = match ask.deadline {
            Some(deadline) => timeout_at(deadline, answer).await.ok(),
            None => Some(answer.await),
        };
        let Some(granted) = granted else {
            // The seat is given up, and with it the line.
            let retry_after = shared.with(|core, now_us| core.estimate(now_us, expert));
            return Err(Denied { why: Why::Deadline, retry_after });
        };
        seat.taken();
        // Nobody drops a sender but with the pool itself.
        granted.unwrap_or(Err(Denied { why: Why::Stopped, retry_after: Duration::from_secs(1) }))
    }

    /// Has the drivers asked soon: somebody saw that an expert is not where it should be.
    pub fn suspect(&self, expert: &ExpertId) {
        let Some(at) = self.shared.by_id.get(expert).copied() else { return };
        let Some(driver) = self.shared.driver_of[at.0 as usize] else { return };
        self.shared.with(|core, now_us| core.probe_soon(now_us, driver));
    }
}

impl Shared {
    fn now_us(&self) -> u64 {
        self.us(Instant::now())
    }

    fn us(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.started).as_micros() as u64
    }

    fn at(&self, us: u64) -> Instant {
        self.started + Duration::from_micros(us)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something, does what follows from it, and wakes the task where there is work for it.
    fn with<R>(self: &Arc<Self>, change: impl FnOnce(&mut Core, u64) -> R) -> R {
        let mut core = self.lock();
        let now_us = self.now_us();
        let result = change(&mut core, now_us);
        core.turn(now_us, self);
        let ring = core.has_work(now_us);
        // Whoever left at this moment gives back what was meant for it, and that takes the lock again.
        let undelivered = core.undelivered();
        drop(core);
        if ring {
            self.bell.notify_one();
        }
        drop(undelivered);
        result
    }
}

#[cfg(test)]
mod tests;
