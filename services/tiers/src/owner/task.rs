//! What takes time: transitions, probes, and waiting for bounds.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::Either;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::core::{Job, Task};
use super::reconcile::Probe;
use super::{Pool, Shared};
use crate::driver::{DriverError, ErrorKind, Inventory, Outcome, Step};
use crate::residency::ExpertIndex;

/// A driver that does not keep to its deadline has this much longer.
const GRACE: Duration = Duration::from_secs(1);

/// The longest sleep.
const LONG: Duration = Duration::from_hours(1);

enum End {
    Job(Job, Result<Outcome, DriverError>),
    Probe(Probe, Result<Inventory, DriverError>),
}

impl Pool {
    /// Owns the pool until `stop` resolves: asks the drivers where the experts are, has them carry transitions out and
    /// keeps to bounds. Who waits then is refused, and so is who waits when this is dropped. Transitions under way are
    /// dropped with it. A pool that has stopped stays so: the next one asks what became of them.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let shared = &self.shared;
        if shared.lock().is_stopped() {
            return;
        }
        let _stops = Stops(shared);
        let mut stop = pin!(stop);
        let mut running: FuturesUnordered<Pin<Box<dyn Future<Output = End> + Send + '_>>> =
            FuturesUnordered::new();
        loop {
            let (jobs, probes, wakes_us) = shared.with(|core, now_us| {
                let jobs = core.take_jobs();
                let probes = core.due_probes(now_us, &shared.driver_of);
                core.task_wakes_us = core.next_us(now_us);
                (jobs, probes, core.task_wakes_us)
            });
            for job in jobs {
                running.push(Box::pin(async move { End::Job(job, shared.carry_out(job).await) }));
            }
            for probe in probes {
                running.push(Box::pin(async move {
                    let result = shared.ask(probe.driver).await;
                    End::Probe(probe, result)
                }));
            }
            let sleep = sleep_until(shared.at(wakes_us).min(Instant::now() + LONG));
            let ended = if running.is_empty() {
                Either::Left(std::future::pending())
            } else {
                Either::Right(running.next())
            };
            tokio::select! {
                biased;
                () = &mut stop => break,
                ended = ended => match ended {
                    Some(End::Job(job, result)) => {
                        let driver = shared.driver_of[job.expert.0 as usize];
                        shared.with(|core, now_us| core.ended(now_us, job, &result, driver, shared));
                        shared.moved.notify_waiters();
                    }
                    Some(End::Probe(probe, result)) => {
                        shared.with(|core, now_us| core.probed(now_us, &probe, result, shared));
                        shared.moved.notify_waiters();
                    }
                    None => {}
                },
                () = shared.bell.notified() => {}
                () = sleep => {}
            }
        }
    }
}

/// Stops the pool when its task ends, however it does: without it nobody who waits would ever be answered.
struct Stops<'a>(&'a Arc<Shared>);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.with(|core, _| core.stop());
        self.0.moved.notify_waiters();
    }
}

impl Shared {
    async fn carry_out(&self, job: Job) -> Result<Outcome, DriverError> {
        let seconds = match job.task {
            Task::Load(_) | Task::Repair => self.timing.promote_timeout_s,
            Task::Remove(..) | Task::TakeBack => self.timing.demote_timeout_s,
        };
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let driver = self.driver_of[job.expert.0 as usize].map(|at| &self.drivers[at]);
        let expert = self.id_of(job.expert);
        let Some((driver, expert)) = driver.zip(expert) else {
            return Err(DriverError::unsupported("the pool has no driver for it"));
        };
        let step = Step { expert: &expert, to: job.to, deadline };
        let moving = async {
            match job.task {
                Task::Load(_) | Task::Repair => driver.promote(step).await,
                Task::Remove(_, frees) => driver.demote(step, frees).await,
                Task::TakeBack => driver.demote(step, 0).await,
            }
        };
        let late = || DriverError::half_done(format!("{} did not keep to its deadline", driver.name()));
        timeout_at(deadline + GRACE, moving).await.unwrap_or_else(|_| Err(late()))
    }

    async fn ask(&self, driver: usize) -> Result<Inventory, DriverError> {
        let deadline = Instant::now() + Duration::from_secs(self.timing.probe_timeout_s);
        let asked = self.drivers[driver].probe(deadline);
        let late = || DriverError::new(ErrorKind::Gone, "it did not answer in time");
        timeout_at(deadline + GRACE, asked).await.unwrap_or_else(|_| Err(late()))
    }

    fn id_of(&self, expert: ExpertIndex) -> Option<routing::ExpertId> {
        self.lock().state.spec(expert).map(|spec| spec.id.clone())
    }
}
