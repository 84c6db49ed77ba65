//! What operators ask for.

use std::time::Duration;

use routing::ExpertId;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::Pool;
use super::watch::Why;
use crate::residency::{Conflict, ExpertIndex, Pin, Policy, PoolError, Tier};

/// Why something that an operator asked for is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// The pool has no such expert.
    #[error("the pool has no expert `{0}`")]
    NoExpert(ExpertId),
    /// The expert is never in that tier.
    #[error("the expert `{expert}` is never in tier `{tier}`; it has {has}")]
    NoTier {
        /// Which.
        expert: ExpertId,
        /// The tier.
        tier: Tier,
        /// Its tiers.
        has: String,
    },
    /// Requests use it, a resident adapter needs it, or it is pinned.
    #[error("the expert `{0}` is in use, needed by a resident adapter, or pinned; drain or unpin it first")]
    InUse(ExpertId),
    /// What is there is in use or pinned.
    #[error(
        "there is no room for the expert `{expert}` in tier `{tier}`: what is there is in use or pinned; unpin or \
         demote something first"
    )]
    NoRoom {
        /// Which.
        expert: ExpertId,
        /// The tier.
        tier: Tier,
    },
    /// Somebody asked for something else of the same expert.
    #[error("something else was asked for since")]
    Superseded,
    /// It was tried and failed.
    #[error("{0}")]
    Failed(String),
    /// It is still under way.
    #[error("it is still under way")]
    UnderWay,
}

/// An operator's wish that is not fulfilled yet.
pub(super) struct Wish {
    pub(super) expert: ExpertIndex,
    pub(super) to: Tier,
    pub(super) is_promotion: bool,
    /// Failures in a row when it was made.
    pub(super) failures: u32,
    answer: oneshot::Sender<Result<(), OperationError>>,
}

/// Something that was asked for. It stays wanted when this is dropped.
#[must_use = "what comes of it is told by `Asked::end`"]
pub struct Asked(oneshot::Receiver<Result<(), OperationError>>);

impl Asked {
    /// Waits for what comes of it.
    ///
    /// # Errors
    /// [`OperationError`]; [`OperationError::UnderWay`] where it takes longer than `patience`.
    pub async fn end(self, patience: Duration) -> Result<(), OperationError> {
        match timeout_at(Instant::now() + patience, self.0).await {
            Err(_) => Err(OperationError::UnderWay),
            Ok(result) => result.unwrap_or(Err(OperationError::Superseded)),
        }
    }
}

impl Wish {
    pub(super) fn new(expert: ExpertIndex, to: Tier, is_promotion: bool, failures: u32) -> (Self, Asked) {
        let (answer, result) = oneshot::channel();
        (Self { expert, to, is_promotion, failures, answer }, Asked(result))
    }

    pub(super) fn done(self) {
        let _nobody_waits = self.answer.send(Ok(()));
    }

    pub(super) fn failed(self, problem: OperationError) {
        let _nobody_waits = self.answer.send(Err(problem));
    }
}

impl Pool {
    /// Brings an expert nearer, at anybody's expense but that of experts in use or pinned. It stays wanted when this
    /// is no longer waited for.
    ///
    /// # Errors
    /// [`OperationError`]; [`OperationError::UnderWay`] where it took longer than `patience`.
    pub async fn promote(
        &self,
        expert: &ExpertId,
        to: Tier,
        patience: Duration,
    ) -> Result<(), OperationError> {
        self.start_promote(expert, to)?.end(patience).await
    }

    /// Takes an expert farther away, unless it is in use or pinned.
    ///
    /// # Errors
    /// As [`Pool::promote`].
    pub async fn demote(
        &self,
        expert: &ExpertId,
        to: Tier,
        patience: Duration,
    ) -> Result<(), OperationError> {
        self.start_demote(expert, to)?.end(patience).await
    }

    /// As [`Pool::promote`], without waiting for what comes of it.
    ///
    /// # Errors
    /// What can be said at once.
    pub fn start_promote(&self, expert: &ExpertId, to: Tier) -> Result<Asked, OperationError> {
        self.wish(expert, to, true)
    }

    /// As [`Pool::demote`], without waiting for what comes of it.
    ///
    /// # Errors
    /// What can be said at once.
    pub fn start_demote(&self, expert: &ExpertId, to: Tier) -> Result<Asked, OperationError> {
        self.wish(expert, to, false)
    }

    fn wish(&self, id: &ExpertId, to: Tier, is_promotion: bool) -> Result<Asked, OperationError> {
        let shared = &self.shared;
        let expert = self.index(id)?;
        shared.with(|core, now_us| {
            if core.is_stopped() {
                return Err(OperationError::Failed(Why::Stopped.to_string()));
            }
            let Some(spec) = core.state.spec(expert) else {
                return Err(OperationError::NoExpert(id.clone()));
            };
            if !spec.bytes.contains_key(&to) {
                let has: Vec<_> = spec.bytes.keys().map(ToString::to_string).collect();
                let (expert, has) = (id.clone(), has.join(", "));
                return Err(OperationError::NoTier { expert, tier: to, has });
            }
            if !is_promotion
                && core.state.nearest(expert).is_some_and(|nearest| nearest < to)
                && core.state.removable(now_us, expert) == Err(Conflict::InUse)
            {
                return Err(OperationError::InUse(id.clone()));
            }
            let failures = core.marks[expert.0 as usize].failures;
            // The newest word counts.
            core.wishes.retain(|wish| wish.expert != expert);
            let (wish, asked) = Wish::new(expert, to, is_promotion, failures);
            core.wishes.push(wish);
            Ok(asked)
        })
    }

    /// Keeps an expert where it is: for `ttl`, or without one until it is taken back.
    ///
    /// # Errors
    /// [`OperationError::NoExpert`].
    pub fn pin(&self, id: &ExpertId, ttl: Option<Duration>) -> Result<(), OperationError> {
        let expert = self.index(id)?;
        self.shared.with(|core, now_us| {
            let pin = match ttl {
                Some(ttl) => Pin::Soft { until_us: now_us.saturating_add(ttl.as_micros() as u64) },
                None => Pin::Hard,
            };
            core.state.pin(expert, pin).map_err(|_| OperationError::NoExpert(id.clone()))
        })
    }

    /// Lets an expert go.
    ///
    /// # Errors
    /// [`OperationError::NoExpert`].
    pub fn unpin(&self, id: &ExpertId) -> Result<(), OperationError> {
        let expert = self.index(id)?;
        let unpinned = self.shared.with(|core, _| core.state.pin(expert, Pin::None));
        unpinned.map_err(|_| OperationError::NoExpert(id.clone()))
    }

    /// Schedules the pool differently from now on, until it is made anew. Bounds of those who wait stay as they were.
    ///
    /// # Errors
    /// [`PoolError::Policy`]; nothing is changed then.
    pub fn set_policy(&self, policy: Policy) -> Result<(), PoolError> {
        self.shared.with(|core, now_us| {
            let batch_max = policy.batch_max;
            core.state.set_policy(now_us, policy)?;
            core.queue.set_batch_max(batch_max);
            Ok(())
        })
    }

    /// Lets no more requests in, and takes everything home that is not pinned, when those under way have ended; or
    /// takes requests again.
    pub fn drain(&self, drains: bool) {
        self.shared.with(|core, _| core.draining = drains);
    }

    /// Asks all drivers what is where, and waits for what they say.
    ///
    /// # Errors
    /// [`OperationError::Failed`] with what a driver said that cannot tell, [`OperationError::UnderWay`] where it took
    /// longer than `patience`.
    pub async fn reconcile(&self, patience: Duration) -> Result<(), OperationError> {
        let shared = &self.shared;
        let drivers = shared.drivers.len();
        let asked_us = shared.with(|core, now_us| {
            for driver in 0..drivers {
                core.probe_soon(now_us, driver);
            }
            now_us
        });
        let deadline = Instant::now() + patience;
        loop {
            let moved = shared.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let (answered, error) = {
                let core = shared.lock();
                if core.is_stopped() {
                    return Err(OperationError::Failed(Why::Stopped.to_string()));
                }
                let answered = core.probes.iter().all(|probe| probe.ended_us >= asked_us);
                (answered, core.probes.iter().find_map(|probe| probe.error.clone()))
            };
            if answered {
                return match error {
                    Some(error) => Err(OperationError::Failed(error.message)),
                    None => Ok(()),
                };
            }
            if timeout_at(deadline, moved).await.is_err() {
                return Err(OperationError::UnderWay);
            }
        }
    }

    pub(super) fn index(&self, id: &ExpertId) -> Result<ExpertIndex, OperationError> {
        self.shared.by_id.get(id).copied().ok_or_else(|| OperationError::NoExpert(id.clone()))
    }
}
