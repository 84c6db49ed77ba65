//! What the lock of a pool guards: state, queue, who waits, what is to be done.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::lease::{Batch, Held};
use super::operate::{OperationError, Wish};
use super::reconcile::ProbeMark;
use super::status::{Record, RecordLog};
use super::watch::{Event, Found, Outcome, Watch, Why};
use super::{Denied, PoolError, PoolSpec, Shared, Timing};
use crate::driver::{self, DriverError, ErrorKind, Residence};
use crate::residency::{
    Action, Applied, Cause, Conflict, ExpertIndex, Generation, NewRequest, Phase, Predictor, Queue, Reason,
    State, Tier, Waiting, admit, bring, decide, estimate_us, prefetch, wake,
};

/// An expert loaded so soon after it was removed was removed too early.
const AGAIN_US: u64 = 60_000_000;

/// The first time that something failed it is tried again after this.
const RETRY_US: u64 = 1_000_000;

/// Asked for what it refused, a server refuses again.
const REFUSED_US: u64 = 30_000_000;

pub(super) struct Core {
    pub(super) state: State,
    pub(super) queue: Queue,
    pub(super) predictor: Predictor,
    waiters: HashMap<u64, Waiter>,
    next_id: u64,
    /// Transitions that began and that no driver has been told of.
    jobs: Vec<Job>,
    pub(super) marks: Vec<Mark>,
    /// What operators asked for and is not done.
    pub(super) wishes: Vec<Wish>,
    pub(super) probes: Vec<ProbeMark>,
    pub(super) records: RecordLog,
    pub(super) draining: bool,
    /// How long what was ready before the start is kept.
    pub(super) settle_us: u64,
    stopped: bool,
    /// For requests that left at the moment when they were served.
    undelivered: Vec<Held>,
    /// When the task wakes up by itself.
    pub(super) task_wakes_us: u64,
}

/// A request at the door.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) expert: ExpertIndex,
    pub(super) tenant: u32,
    pub(super) session: Option<u64>,
    pub(super) deadline_us: Option<u64>,
}

struct Waiter {
    waiting: Waiting,
    found: Found,
    to: oneshot::Sender<Result<Held, Denied>>,
}

/// What is remembered of an expert besides its state.
#[derive(Clone, Debug, Default)]
pub(super) struct Mark {
    /// Transitions in a row that failed.
    pub(super) failures: u32,
    begun: Option<Begun>,
    /// When it was last removed from where it answers.
    removed_us: Option<u64>,
    /// Whether a driver has said where it is since the start.
    pub(super) found: bool,
    /// A promotion of what nobody knows the place of is tried, or will be again then.
    pub(super) repair: Repair,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repair {
    At(u64),
    UnderWay,
}

impl Default for Repair {
    fn default() -> Self {
        Self::At(0)
    }
}

#[derive(Clone, Copy, Debug)]
struct Begun {
    from: Tier,
    to: Tier,
    cause: Option<Cause>,
    at_us: u64,
    bytes: u64,
}

/// Something for a driver to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) expert: ExpertIndex,
    pub(super) to: Tier,
    pub(super) task: Task,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    Load(Generation),
    /// With the bytes that it frees.
    Remove(Generation, u64),
    /// A load of what nobody knows the place of, under the reservation of the one before.
    Repair,
    /// A removal of what is still being loaded though its time is over.
    TakeBack,
}

impl Core {
    pub(super) fn new(
        spec: PoolSpec,
        driver_of: &[Option<usize>],
        drivers: usize,
    ) -> Result<Self, PoolError> {
        let queue = Queue::new(spec.experts.len(), spec.policy.batch_max);
        let mut state = State::new(spec)?;
        for (expert, driver) in (0..).map(ExpertIndex).zip(driver_of) {
            if driver.is_some() {
                // Nothing is under way in a new state.
                let _new = state.doubted(expert);
            }
        }
        Ok(Self {
            marks: vec![Mark::default(); state.len()],
            predictor: Predictor::new(state.len()),
            state,
            queue,
            waiters: HashMap::new(),
            next_id: 0,
            jobs: Vec::new(),
            wishes: Vec::new(),
            probes: vec![ProbeMark::default(); drivers],
            records: RecordLog::default(),
            draining: false,
            settle_us: 0,
            stopped: false,
            undelivered: Vec::new(),
            task_wakes_us: 0,
        })
    }

    /// Lets a request in; its number.
    pub(super) fn enter(
        &mut self,
        now_us: u64,
        place: Place,
        to: oneshot::Sender<Result<Held, Denied>>,
        watch: &dyn Watch,
    ) -> Result<u64, Denied> {
        let Place { expert, tenant, session, deadline_us } = place;
        let id = self.next_id;
        let closed = [(self.stopped, Why::Stopped), (self.draining, Why::Draining)];
        let admitted = match closed.into_iter().find(|(closed, _)| *closed) {
            Some((_, why)) => Err(Denied { why, retry_after: Duration::from_secs(5) }),
            None => admit(now_us, &self.state, &self.queue, NewRequest { id, expert, tenant, deadline_us })
                .map_err(|refusal| Denied {
                    why: refusal.why.into(),
                    retry_after: Duration::from_micros(refusal.retry_after_us),
                }),
        };
        let waiting = match admitted {
            Ok(waiting) => waiting,
            Err(denied) => {
                self.tell_refused(expert, denied.why, watch);
                return Err(denied);
            }
        };
        self.next_id += 1;
        let found = self.found(expert);
        self.queue.push(waiting);
        if self.predicts() {
            self.predictor.requested(now_us, &self.state, expert, session);
        }
        self.state.requested(expert);
        self.waiters.insert(id, Waiter { waiting, found, to });
        Ok(id)
    }

    fn found(&self, expert: ExpertIndex) -> Found {
        match self.state.phase(expert) {
            Some(Phase::Hot | Phase::Draining) => Found::Hot,
            Some(Phase::Fetching | Phase::Staging | Phase::Loading | Phase::Warming) => Found::InFlight,
            Some(Phase::Warm) => Found::Warm,
            Some(Phase::Failed { .. } | Phase::Unknown) | None => Found::Unavailable,
            Some(Phase::Absent | Phase::Cold | Phase::Unloading) => Found::Cold,
        }
    }

    /// A request leaves without having been served.
    pub(super) fn leave(&mut self, id: u64) {
        if let Some(waiter) = self.waiters.remove(&id) {
            self.queue.remove(&waiter.waiting);
        }
    }

    pub(super) fn release(&mut self, now_us: u64, lease: &crate::residency::Lease) {
        self.state.release(now_us, lease);
    }

    /// After how long a request for an expert could be served.
    pub(super) fn estimate(&self, now_us: u64, expert: ExpertIndex) -> Duration {
        Duration::from_micros(estimate_us(now_us, &self.state, &self.queue, expert))
    }

    /// Refuses all who wait, and all who come.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.jobs.clear();
        for wish in self.wishes.drain(..) {
            wish.failed(OperationError::Failed(Why::Stopped.to_string()));
        }
        for (_, waiter) in self.waiters.drain() {
            self.queue.remove(&waiter.waiting);
            let denied = Denied { why: Why::Stopped, retry_after: Duration::from_secs(1) };
            let _left = waiter.to.send(Err(denied));
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Whether a driver was never asked: experts of its servers may hold bytes that are not counted yet.
    fn is_starting(&self) -> bool {
        self.probes.iter().any(|probe| probe.answered_us.is_none() && probe.error.is_none())
    }

    /// Decides and does until nothing is left to do now.
    pub(super) fn turn(&mut self, now_us: u64, shared: &Arc<Shared>) {
        if self.stopped {
            return;
        }
        let is_starting = self.is_starting();
        loop {
            // Operators first, or what was made free for them would go to whoever waits.
            if !is_starting && self.grant_wishes(now_us, shared) {
                continue;
            }
            let mut actions = decide(now_us, &self.state, &self.queue);
            if is_starting {
                actions.retain(|action| !matches!(action, Action::Promote { .. } | Action::Demote { .. }));
            } else if actions.is_empty() {
                actions = prefetch(now_us, &self.state, &self.queue, &self.predictor);
            }
            if actions.is_empty() || self.carry(now_us, &actions, shared).is_err() {
                return;
            }
        }
    }

    /// Whether anything may be loaded before it is asked for; without that nothing is remembered for it.
    fn predicts(&self) -> bool {
        let prediction = &self.state.policy().prediction;
        prediction.session || prediction.popularity || prediction.markov
    }

    /// Applies actions.
    ///
    /// # Errors
    /// Where one does not fit the state. That is a mistake of ours, and nothing is lost by it: what was applied
    /// stays, and the next event decides anew.
    pub(super) fn carry(
        &mut self,
        now_us: u64,
        actions: &[Action],
        shared: &Arc<Shared>,
    ) -> Result<(), Conflict> {
        for action in actions {
            let applied = self.state.apply(now_us, action);
            debug_assert!(applied.is_ok(), "{action:?}: {applied:?}");
            let applied = applied?;
            if self.predicts() {
                self.predictor.applied(now_us, &self.state, action);
            }
            self.note(now_us, action, shared);
            match (applied, action) {
                (Applied::Leased(lease), Action::Dispatch { expert, requests, .. }) => {
                    let batch = Batch::new(shared, lease);
                    for waiting in self.queue.take(*expert, *requests) {
                        self.serve(now_us, &waiting, &batch, shared);
                    }
                    // Where nobody was left to be served the lease goes back like any other.
                    self.undelivered.push(Held::new(batch, 0, Found::Hot));
                }
                (Applied::Began(generation), Action::Promote { expert, from, to, cause, reason, .. }) => {
                    let bytes = self.state.spec(*expert).and_then(|spec| spec.bytes.get(to)).copied();
                    let bytes = bytes.unwrap_or(0);
                    let begun = Begun { from: *from, to: *to, cause: Some(*cause), at_us: now_us, bytes };
                    self.begin(*expert, begun, *reason, shared);
                    self.jobs.push(Job { expert: *expert, to: *to, task: Task::Load(generation) });
                }
                (Applied::Began(generation), Action::Demote { expert, from, reason }) => {
                    let copies: Vec<_> = self.state.copies(*expert).collect();
                    let bytes = copies.iter().find(|(tier, _)| tier == from).map_or(0, |(_, bytes)| *bytes);
                    let to = copies.iter().map(|(tier, _)| *tier).find(|tier| tier > from).unwrap_or(*from);
                    let begun = Begun { from: *from, to, cause: None, at_us: now_us, bytes };
                    self.begin(*expert, begun, *reason, shared);
                    self.jobs.push(Job { expert: *expert, to, task: Task::Remove(generation, bytes) });
                }
                (_, Action::Refuse { expert, request, reason }) => {
                    let why = if *reason == Reason::NoRoom { Why::NoRoom } else { Why::Unavailable };
                    // Where an expert seemed to be ready nothing is to be waited for but its server.
                    let retry_after = self.estimate(now_us, *expert).max(Duration::from_micros(RETRY_US));
                    if let Some(waiter) = self.waiters.remove(request) {
                        self.queue.remove(&waiter.waiting);
                        let _left = waiter.to.send(Err(Denied { why, retry_after }));
                    }
                    self.tell_refused(*expert, why, &*shared.watch);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn serve(&mut self, now_us: u64, waiting: &Waiting, batch: &Arc<Batch>, shared: &Shared) {
        let Some(waiter) = self.waiters.remove(&waiting.id) else { return };
        let waited_us = now_us.saturating_sub(waiting.arrived_us);
        let held = Held::new(batch.clone(), waited_us, waiter.found);
        match waiter.to.send(Ok(held)) {
            Ok(()) => {
                if let Some(spec) = self.state.spec(waiting.expert) {
                    let event = Event::Served { expert: &spec.id, found: waiter.found, waited_us };
                    shared.watch.event(&event);
                }
            }
            Err(Ok(held)) => self.undelivered.push(held),
            Err(Err(_)) => {}
        }
    }

    fn begin(&mut self, expert: ExpertIndex, begun: Begun, reason: Reason, shared: &Shared) {
        let mark = &mut self.marks[expert.0 as usize];
        mark.begun = Some(begun);
        let Begun { from, to, cause, at_us, .. } = begun;
        let again = cause.is_some()
            && mark.removed_us.is_some_and(|removed| at_us.saturating_sub(removed) < AGAIN_US);
        if let Some(spec) = self.state.spec(expert) {
            shared.watch.event(&Event::Began { expert: &spec.id, from, to, cause, reason, again });
        }
    }

    /// Records a decision. Batches are not recorded: there is one for each request.
    fn note(&mut self, now_us: u64, action: &Action, shared: &Shared) {
        if let Some(record) = Record::of(&self.state, action, shared.started_ms + now_us / 1000) {
            self.records.push(record);
        }
    }

    fn tell_refused(&self, expert: ExpertIndex, why: Why, watch: &dyn Watch) {
        if let Some(spec) = self.state.spec(expert) {
            watch.event(&Event::Refused { expert: &spec.id, why });
        }
    }

    /// What drivers are to be told.
    pub(super) fn take_jobs(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.jobs)
    }

    pub(super) fn push_job(&mut self, job: Job) {
        self.jobs.push(job);
    }

    pub(super) fn undelivered(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.undelivered)
    }

    /// Whether the task has something to do before it wakes up by itself.
    pub(super) fn has_work(&self, now_us: u64) -> bool {
        !self.jobs.is_empty() || self.next_us(now_us) < self.task_wakes_us
    }

    /// When the task has something to do, if nothing happens before.
    pub(super) fn next_us(&self, now_us: u64) -> u64 {
        let probes = self.probes.iter().filter(|probe| !probe.under_way).map(|probe| probe.at_us);
        // Operators wait for what failed as requests do.
        let retries = self.wishes.iter().filter_map(|wish| match self.state.phase(wish.expert)? {
            Phase::Failed { retry_at_us, .. } if *retry_at_us > now_us => Some(*retry_at_us),
            _ => None,
        });
        let all = wake(now_us, &self.state, &self.queue).into_iter().chain(probes).chain(retries);
        all.min().unwrap_or(u64::MAX)
    }

    /// Takes over how a job ended. `driver` is asked what is where after all that did not end as it should.
    pub(super) fn ended(
        &mut self,
        now_us: u64,
        job: Job,
        result: &Result<driver::Outcome, DriverError>,
        driver: Option<usize>,
        shared: &Shared,
    ) {
        let Job { expert, to, task } = job;
        if let Ok(outcome) = result {
            for other in &outcome.evicted {
                self.is_home(now_us, other, shared);
            }
        }
        let arrived = result.as_ref().ok().filter(|outcome| match (task, outcome.placed.residence) {
            (Task::Load(_) | Task::Repair, Residence::In(tier)) => tier <= to,
            (Task::Remove(..) | Task::TakeBack, Residence::In(tier)) => tier >= to,
            _ => false,
        });
        let begun = self.marks[expert.0 as usize].begun;
        let outcome = match (result, arrived) {
            (Ok(_), Some(_)) => Outcome::Done,
            (Ok(_), None) => Outcome::Failed(ErrorKind::HalfDone),
            (Err(error), _) => Outcome::Failed(error.kind),
        };
        match (task, arrived) {
            (Task::Load(generation), Some(outcome)) => {
                let measured = outcome.placed.bytes.get(&to).filter(|(_, source)| source.is_measured());
                let measured = measured.map(|(bytes, _)| *bytes);
                // Drivers warm up before they say that it is there. What is stale was lost in between.
                let _stale = self.state.arrived(now_us, expert, generation, measured);
                let _ready = self.state.warmed(now_us, expert, generation);
                self.marks[expert.0 as usize].failures = 0;
            }
            (Task::Remove(generation, _), Some(outcome)) => {
                let _stale = self.state.gone(expert, generation);
                let mark = &mut self.marks[expert.0 as usize];
                mark.failures = 0;
                mark.removed_us = Some(now_us);
                if outcome.placed.residence != Residence::In(to) {
                    self.probe_after(now_us, driver);
                }
            }
            (Task::Repair | Task::TakeBack, Some(outcome)) => {
                let mark = &mut self.marks[expert.0 as usize];
                (mark.failures, mark.repair) = (0, Repair::At(now_us));
                self.take_over(now_us, expert, &outcome.placed);
            }
            (_, None) => {
                let (kind, message) = match result {
                    Ok(outcome) => {
                        let place = format!("{:?}", outcome.placed.residence);
                        (ErrorKind::HalfDone, format!("the driver said that it was done, and it is {place}"))
                    }
                    Err(error) => (error.kind, error.message.clone()),
                };
                self.failed(now_us, job, kind, &message, &shared.timing);
                self.probe_after(now_us, driver);
                if let Some(spec) = self.state.spec(expert) {
                    tracing::warn!(
                        pool.id = %shared.id, expert.id = %spec.id, tier = %to, error.kind = %kind, error = message,
                        "an expert's transition did not end as it should; its driver is asked where it is"
                    );
                }
            }
        }
        if let (Some(begun), Some(spec)) = (begun, self.state.spec(expert)) {
            let Begun { from, to, cause, at_us, bytes } = begun;
            let took_us = now_us.saturating_sub(at_us);
            shared.watch.event(&Event::Ended { expert: &spec.id, from, to, cause, outcome, took_us, bytes });
        }
    }

    fn failed(&mut self, now_us: u64, job: Job, kind: ErrorKind, message: &str, timing: &Timing) {
        let mark = &mut self.marks[job.expert.0 as usize];
        mark.failures = mark.failures.saturating_add(1);
        let most_us = timing.retry_max_s.max(1).saturating_mul(1_000_000);
        let backoff_us = RETRY_US.saturating_mul(1 << (mark.failures - 1).min(20));
        let retry_us = match kind {
            ErrorKind::Refused | ErrorKind::Unsupported => backoff_us.max(REFUSED_US),
            ErrorKind::Busy | ErrorKind::Gone | ErrorKind::HalfDone => backoff_us,
        };
        let retry_at_us = now_us.saturating_add(retry_us.min(most_us));
        let (Task::Load(generation) | Task::Remove(generation, _)) = job.task else {
            mark.repair = Repair::At(retry_at_us);
            return;
        };
        // What is stale was taken over by a probe.
        let _stale = if kind == ErrorKind::HalfDone {
            mark.repair = Repair::At(retry_at_us);
            self.state.lost(job.expert, generation, retry_at_us)
        } else {
            self.state.failed(job.expert, generation, message, retry_at_us)
        };
    }

    fn probe_after(&mut self, now_us: u64, driver: Option<usize>) {
        if let Some(driver) = driver {
            self.probe_soon(now_us, driver);
        }
    }

    /// What an operator wants: another step towards it. False where nothing can be done now.
    fn grant_wishes(&mut self, now_us: u64, shared: &Arc<Shared>) -> bool {
        self.empty(now_us);
        let mut makes_room = false;
        for at in 0..self.wishes.len() {
            let wish = &self.wishes[at];
            let (expert, to) = (wish.expert, wish.to);
            let Some(phase) = self.state.phase(expert).cloned() else { continue };
            let Some(nearest) = self.state.nearest(expert) else { continue };
            if phase.is_moving() {
                continue;
            }
            if if wish.is_promotion { nearest <= to } else { nearest >= to } {
                self.wishes.swap_remove(at).done();
                return true;
            }
            if let Phase::Failed { cause, .. } = &phase
                && self.marks[expert.0 as usize].failures > wish.failures
            {
                let problem = OperationError::Failed(cause.to_string());
                self.wishes.swap_remove(at).failed(problem);
                return true;
            }
            let step = if wish.is_promotion {
                bring(now_us, &self.state, &self.queue, expert, to)
            } else {
                let removal = Action::Demote { expert, from: nearest, reason: Reason::Asked };
                self.state.removable(now_us, expert).map(|()| vec![removal])
            };
            let problem = match step {
                Ok(actions) if actions.is_empty() => continue,
                Ok(actions) => match self.carry(now_us, &actions, shared) {
                    Ok(()) => return true,
                    Err(conflict) => conflict,
                },
                // It will be on its way when something else has ended.
                Err(Conflict::Busy) => {
                    makes_room = true;
                    continue;
                }
                Err(Conflict::Phase) => continue,
                Err(conflict) => conflict,
            };
            let expert = self.state.spec(expert).map(|spec| spec.id.clone());
            let problem = match (problem, expert) {
                (Conflict::InUse, Some(expert)) => OperationError::InUse(expert),
                (Conflict::NoRoom, Some(expert)) => OperationError::NoRoom { expert, tier: to },
                (other, _) => OperationError::Failed(other.to_string()),
            };
            self.wishes.swap_remove(at).failed(problem);
            return true;
        }
        // Nobody needs the places of those that were drained for that.
        !makes_room && self.state.spare_drained()
    }

    /// Where the pool is to be emptied and nobody uses it any more, everything goes home.
    fn empty(&mut self, now_us: u64) {
        if !self.draining || !self.queue.is_empty() || self.state.running() > 0 {
            return;
        }
        for expert in (0..self.state.len() as u32).map(ExpertIndex) {
            let wished = self.wishes.iter().any(|wish| wish.expert == expert);
            if !wished
                && self.state.removable(now_us, expert).is_ok()
                && let Some(home) = self.state.home(expert)
            {
                let (wish, _nobody_waits) = Wish::new(expert, home, false, 0);
                self.wishes.push(wish);
            }
        }
    }
}
