//! What can be seen of a pool.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use routing::ExpertId;
use serde::Serialize;
use utoipa::ToSchema;

use super::Pool;
use super::operate::OperationError;
use crate::driver::Caps;
use crate::residency::{
    Action, Applied, Cause, ExpertIndex, NewRequest, Phase, Pin, Policy, PredictionSource, Prefetched, Queue,
    Reason, Source, State, Tier, admit, decide, estimate_us, estimates_us,
};

/// Records kept.
const RECORDS: usize = 1000;

/// How old an outlook may be: policies look at every request.
const FRESH_US: u64 = 20_000;

/// A decision, and why it was made.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = ResidencyDecision)]
pub struct Record {
    /// Counts the decisions of this pool.
    pub number: u64,
    /// When, in milliseconds since 1970 UTC.
    pub at_ms: u64,
    /// What was decided: `promote`, `demote`, `drain`, `resume` or `refuse`.
    pub action: &'static str,
    /// About whom.
    pub expert: ExpertId,
    /// From where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Tier>,
    /// Where to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Tier>,
    /// For what an expert is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Why, with what it was decided by.
    pub reason: Reason,
    /// The same in words.
    pub why: String,
}

impl Record {
    /// Of all actions but batches.
    pub(super) fn of(state: &State, action: &Action, at_ms: u64) -> Option<Self> {
        let (name, expert, from, to, cause, reason) = match action {
            Action::Dispatch { .. } => return None,
            Action::Promote { expert, from, to, cause, reason, .. } => {
                ("promote", expert, Some(*from), Some(*to), Some(*cause), reason)
            }
            Action::Demote { expert, from, reason } => {
                let farther = state.copies(*expert).map(|(tier, _)| tier).find(|tier| tier > from);
                ("demote", expert, Some(*from), farther, None, reason)
            }
            Action::Drain { expert, reason } => ("drain", expert, None, None, None, reason),
            Action::Resume { expert, reason } => ("resume", expert, None, None, None, reason),
            Action::Refuse { expert, reason, .. } => ("refuse", expert, None, None, None, reason),
        };
        let expert = state.spec(*expert)?.id.clone();
        let (reason, why) = (*reason, reason.to_string());
        Some(Self { number: 0, at_ms, action: name, expert, from, to, cause, reason, why })
    }
}

/// The last decisions.
#[derive(Debug, Default)]
pub(super) struct RecordLog {
    all: VecDeque<Record>,
    next: u64,
}

impl RecordLog {
    pub(super) fn push(&mut self, record: Record) {
        if self.all.len() >= RECORDS {
            self.all.pop_front();
        }
        self.all.push_back(Record { number: self.next, ..record });
        self.next += 1;
    }
}

/// A pool as it is now.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PoolStatus {
    /// Its name.
    #[schema(value_type = String)]
    pub id: Arc<str>,
    /// Whether it is being emptied.
    pub draining: bool,
    /// Requests that wait.
    pub waiting: usize,
    /// Batches under way.
    pub running: u32,
    /// Its tiers, nearest first.
    pub tiers: Vec<TierStatus>,
    /// The ways between them.
    pub links: Vec<LinkStatus>,
    /// Its experts, in the order of the configuration.
    pub experts: Vec<ExpertStatus>,
    /// Who moves them.
    pub drivers: Vec<DriverStatus>,
    /// What became of experts that were loaded before anybody asked, by what predicted that; empty where nothing does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub predictions: Vec<PredictionStatus>,
    /// How it is scheduled.
    pub policy: Policy,
}

/// A source of predictions.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PredictionStatus {
    /// Which.
    pub source: PredictionSource,
    /// Whether it may load experts now; a source that wasted too many loads may not for a while.
    pub trusted: bool,
    /// What became of its loads.
    #[serde(flatten)]
    pub loads: Prefetched,
}

/// The bytes of a tier.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TierStatus {
    /// Which.
    pub tier: Tier,
    /// Bytes that experts may take.
    pub capacity_bytes: u64,
    /// Bytes of complete copies, and of those being removed.
    pub used_bytes: u64,
    /// Bytes promised to loads under way.
    pub reserved_bytes: u64,
    /// Bytes that should be free and were measured not to be.
    pub unaccounted_bytes: u64,
    /// Bytes that a load may still take.
    pub free_bytes: u64,
    /// Where the capacity comes from.
    pub source: Source,
}

/// A way between tiers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LinkStatus {
    /// The farther tier.
    pub from: Tier,
    /// The nearer one.
    pub to: Tier,
    /// Bytes a second, declared first and then learnt from transfers.
    pub bytes_per_second: f64,
    /// As declared.
    pub declared_bytes_per_second: f64,
    /// Transfers under way.
    pub busy: u32,
    /// Transfers at a time.
    pub concurrency: u32,
}

/// An expert of a pool.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ExpertResidency)]
pub struct ExpertStatus {
    /// Its name.
    pub id: ExpertId,
    /// What is going on with it, such as `hot`.
    pub phase: String,
    /// Why its last transition failed, and in how many milliseconds it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Where its nearest complete copy is.
    pub tier: Tier,
    /// Where it answers from.
    pub serves: Tier,
    /// Its copies with their bytes.
    pub copies: BTreeMap<Tier, u64>,
    /// Batches under way.
    pub leases: u32,
    /// Requests that wait for it.
    pub waiting: u32,
    /// How long a request that came now would wait, in milliseconds, as estimated.
    pub wait_ms: u64,
    /// What bringing it from where it is to where it answers takes, in milliseconds, as estimated.
    pub load_ms: u64,
    /// Whether it may be removed: `none`, `soft` or `hard`.
    pub pin: &'static str,
}

/// Why an expert is not to be had.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ResidencyFailure)]
pub struct Failure {
    /// Where it was going.
    pub tier: Tier,
    /// What its driver said.
    #[schema(value_type = String)]
    pub cause: Arc<str>,
    /// Until it is tried again.
    pub retry_in_ms: u64,
}

/// A driver, and what it said last.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DriverStatus {
    /// Its kind.
    pub kind: &'static str,
    /// What it can do.
    pub caps: Caps,
    /// How long ago it said what is where, in milliseconds; absent when it never did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered_ms_ago: Option<u64>,
    /// Why it did not, the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What its servers hold besides the pool's experts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub strangers: Vec<String>,
}

/// What would be done for a request that came now.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ResidencyPlan)]
pub struct Plan {
    /// For whom.
    pub expert: ExpertId,
    /// Whether it would be served at once.
    pub at_once: bool,
    /// How long it would wait, in milliseconds, as estimated.
    pub wait_ms: u64,
    /// What would be done now. What has to wait for something else is not here yet.
    pub actions: Vec<Planned>,
}

/// Something that would be done.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ResidencyStep)]
pub struct Planned {
    /// `dispatch`, `promote`, `demote`, `drain`, `resume` or `refuse`.
    pub action: &'static str,
    /// With whom.
    pub expert: ExpertId,
    /// Why.
    pub why: String,
}

/// What a router may know of an expert's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// How many tiers its nearest copy is away from where it answers; `None` where nobody knows.
    pub away: Option<u8>,
    /// How long a request would wait, as estimated.
    pub wait: Duration,
}

#[derive(Default)]
pub(super) struct Outlooks {
    at_us: Option<u64>,
    all: Arc<Vec<Outlook>>,
}

impl Pool {
    /// What is known of an expert's place, at most 20 ms old; `None` where the pool does not have it.
    pub fn outlook(&self, expert: &ExpertId) -> Option<Outlook> {
        let expert = self.shared.by_id.get(expert)?;
        let now_us = self.shared.now_us();
        let mut outlooks = self.shared.outlooks.lock().unwrap_or_else(PoisonError::into_inner);
        if outlooks.at_us.is_none_or(|at| now_us.saturating_sub(at) >= FRESH_US) {
            let core = self.shared.lock();
            let waits = estimates_us(now_us, &core.state, &core.queue);
            let all = (0..).map(ExpertIndex).zip(waits).map(|(expert, wait)| Outlook {
                away: away(&core.state, expert),
                wait: Duration::from_micros(wait),
            });
            *outlooks = Outlooks { at_us: Some(now_us), all: Arc::new(all.collect()) };
        }
        outlooks.all.get(expert.0 as usize).copied()
    }

    /// The pool as it is now.
    pub fn status(&self) -> PoolStatus {
        let shared = &self.shared;
        let core = shared.lock();
        let now_us = shared.now_us();
        let waits = estimates_us(now_us, &core.state, &core.queue);
        let tiers = Tier::ALL.into_iter().filter_map(|tier| {
            let account = core.state.account(tier)?;
            Some(TierStatus {
                tier,
                capacity_bytes: account.usable(),
                used_bytes: account.used(),
                reserved_bytes: account.incoming(),
                unaccounted_bytes: account.missing(),
                free_bytes: account.free(),
                source: account.source(),
            })
        });
        let links = core.state.links().iter().map(|link| LinkStatus {
            from: link.spec().from,
            to: link.spec().to,
            bytes_per_second: link.bytes_per_second(),
            declared_bytes_per_second: link.spec().bytes_per_second,
            busy: link.busy(),
            concurrency: link.spec().concurrency,
        });
        let experts = (0..).map(ExpertIndex).zip(waits);
        let experts = experts
            .filter_map(|(expert, wait)| expert_status(now_us, &core.state, &core.queue, expert, wait));
        let drivers = shared.drivers.iter().zip(&core.probes).map(|(driver, probe)| DriverStatus {
            kind: driver.name(),
            caps: driver.caps(),
            answered_ms_ago: probe.answered_us.map(|at| now_us.saturating_sub(at) / 1000),
            error: probe.error.as_ref().map(ToString::to_string),
            strangers: probe.strangers.clone(),
        });
        PoolStatus {
            id: shared.id.clone(),
            draining: core.draining,
            waiting: core.queue.len(),
            running: core.state.running(),
            tiers: tiers.collect(),
            links: links.collect(),
            experts: experts.collect(),
            drivers: drivers.collect(),
            predictions: PredictionSource::ALL
                .into_iter()
                .filter(|source| core.state.policy().prediction.allows(*source))
                .map(|source| PredictionStatus {
                    source,
                    trusted: core.predictor.trusts(source, now_us),
                    loads: core.predictor.prefetched(source),
                })
                .collect(),
            policy: core.state.policy().clone(),
        }
    }

    /// One of its experts as it is now.
    ///
    /// # Errors
    /// [`OperationError::NoExpert`].
    pub fn expert(&self, id: &ExpertId) -> Result<ExpertStatus, OperationError> {
        let expert = self.index(id)?;
        let core = self.shared.lock();
        let now_us = self.shared.now_us();
        let wait_us = estimate_us(now_us, &core.state, &core.queue, expert);
        let status = expert_status(now_us, &core.state, &core.queue, expert, wait_us);
        status.ok_or_else(|| OperationError::NoExpert(id.clone()))
    }

    /// Why the driver of an expert did not say what is where, the last time that it was asked; `None` where it did.
    pub fn driver_error(&self, id: &ExpertId) -> Option<String> {
        let expert = self.index(id).ok()?;
        let driver = self.shared.driver_of[expert.0 as usize]?;
        let core = self.shared.lock();
        let error = core.probes[driver].error.as_ref()?;
        Some(format!("{}: {error}", self.shared.drivers[driver].name()))
    }

    /// The last decisions, newest first: at most `most`, with a number below `before` where one is given.
    pub fn decisions(&self, most: usize, before: Option<u64>) -> Vec<Record> {
        let core = self.shared.lock();
        let all = core.records.all.iter().rev();
        all.filter(|record| before.is_none_or(|before| record.number < before)).take(most).cloned().collect()
    }

    /// What would be done for a request that came now. Nothing is.
    ///
    /// # Errors
    /// [`OperationError::NoExpert`].
    pub fn plan(&self, id: &ExpertId) -> Result<Plan, OperationError> {
        let expert = self.index(id)?;
        let (mut state, mut queue, now_us) = {
            let core = self.shared.lock();
            (core.state.clone(), core.queue.clone(), self.shared.now_us())
        };
        let wait_ms = estimate_us(now_us, &state, &queue, expert) / 1000;
        let request = NewRequest { id: u64::MAX, expert, tenant: u32::MAX, deadline_us: None };
        let mut plan = Plan { expert: id.clone(), at_once: false, wait_ms, actions: Vec::new() };
        let Ok(waiting) = admit(now_us, &state, &queue, request) else { return Ok(plan) };
        queue.push(waiting);
        state.requested(expert);
        loop {
            let actions = decide(now_us, &state, &queue);
            if actions.is_empty() {
                return Ok(plan);
            }
            for action in &actions {
                plan.add(&state, action);
                match (state.apply(now_us, action), action) {
                    (Ok(Applied::Leased(_lease)), Action::Dispatch { expert, requests, .. }) => {
                        let taken = queue.take(*expert, *requests);
                        plan.at_once |= taken.iter().any(|request| request.id == u64::MAX);
                    }
                    (Ok(_), Action::Refuse { request, .. }) => {
                        if *request != u64::MAX {
                            return Ok(plan);
                        }
                        queue.remove(&waiting);
                    }
                    (Ok(_), _) => {}
                    (Err(_), _) => return Ok(plan),
                }
            }
        }
    }
}

impl Plan {
    fn add(&mut self, state: &State, action: &Action) {
        let planned = match action {
            Action::Dispatch { expert, reason, .. } => {
                let expert = state.spec(*expert).map(|spec| spec.id.clone());
                expert.map(|expert| Planned { action: "dispatch", expert, why: reason.to_string() })
            }
            other => {
                let record = Record::of(state, other, 0);
                record.map(|record| Planned { action: record.action, expert: record.expert, why: record.why })
            }
        };
        self.actions.extend(planned);
    }
}

/// How many tiers of its own an expert is away from where it answers.
fn away(state: &State, expert: ExpertIndex) -> Option<u8> {
    let nearest = state.nearest(expert).filter(|_| state.phase(expert) != Some(&Phase::Unknown))?;
    Some(state.spec(expert)?.bytes.range(..nearest).count() as u8)
}

fn expert_status(
    now_us: u64,
    state: &State,
    queue: &Queue,
    expert: ExpertIndex,
    wait_us: u64,
) -> Option<ExpertStatus> {
    let phase = state.phase(expert)?;
    let failure = match phase {
        Phase::Failed { tier, cause, retry_at_us } => Some(Failure {
            tier: *tier,
            cause: cause.clone(),
            retry_in_ms: retry_at_us.saturating_sub(now_us) / 1000,
        }),
        _ => None,
    };
    let serves = state.serves(expert)?;
    let pin = match state.pinned(expert) {
        Pin::Hard => "hard",
        Pin::Soft { until_us } if now_us < until_us => "soft",
        Pin::None | Pin::Soft { .. } => "none",
    };
    Some(ExpertStatus {
        id: state.spec(expert)?.id.clone(),
        phase: phase.to_string(),
        failure,
        tier: state.nearest(expert)?,
        serves,
        copies: state.copies(expert).collect(),
        leases: state.leases(expert),
        waiting: queue.waiting(expert),
        wait_ms: wait_us / 1000,
        load_ms: state.load_us(expert, serves) / 1000,
        pin,
    })
}
