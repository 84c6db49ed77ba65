//! Whether a request can be served in time.

use super::expert::{ExpertIndex, Phase};
use super::policy::Order;
use super::queue::{Queue, Waiting};
use super::state::State;

/// Why a request is refused at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedFor {
    /// Too many wait.
    Full,
    /// It could not be served before its deadline.
    Deadline,
    /// Its expert failed, and is not tried again before its deadline.
    Unavailable,
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused ({why:?}); try again in {retry_after_us} us")]
pub struct Refusal {
    /// Why.
    pub why: RefusedFor,
    /// After how long the same request would be let in, as far as can be said now.
    pub retry_after_us: u64,
}

/// Estimates how long a request that comes now waits for its expert, in microseconds: behind the batches of all that
/// wait, and behind the loads that go before its own.
pub fn estimate_us(now_us: u64, state: &State, queue: &Queue, expert: ExpertIndex) -> u64 {
    let Some(entry) = state.experts.get(expert.at()) else { return 0 };
    let before = if rests_away(&entry.phase) { loads_us(state, queue) } else { 0.0 };
    estimate(now_us, state, queue, expert, before)
}

/// As [`estimate_us`], for all experts at once, by their places.
pub fn estimates_us(now_us: u64, state: &State, queue: &Queue) -> Vec<u64> {
    let before = loads_us(state, queue);
    let all = (0..state.len() as u32).map(ExpertIndex);
    all.map(|expert| estimate(now_us, state, queue, expert, before)).collect()
}

/// Whether an expert has yet to be loaded.
fn rests_away(phase: &Phase) -> bool {
    !matches!(phase, Phase::Hot | Phase::Loading | Phase::Warming)
}

/// What the loads of all experts that somebody waits for take, one after another.
fn loads_us(state: &State, queue: &Queue) -> f64 {
    queue.active().iter().map(|expert| load_us(state, *expert)).sum()
}

fn load_us(state: &State, expert: ExpertIndex) -> f64 {
    let entry = &state.experts[expert.at()];
    if entry.phase == Phase::Hot { 0.0 } else { state.journey(entry, entry.nearest(), entry.serves).us }
}

fn estimate(now_us: u64, state: &State, queue: &Queue, expert: ExpertIndex, before: f64) -> u64 {
    let entry = &state.experts[expert.at()];
    let batches = queue.batches() + u64::from(state.running);
    let computing = if batches < u64::from(state.policy.executors) && state.policy.order == Order::Free {
        // Somebody is free at once.
        0.0
    } else {
        batches as f64 * state.mean_batch_us() / f64::from(state.policy.executors)
    };
    let loading = match &entry.phase {
        Phase::Hot => 0.0,
        Phase::Loading | Phase::Warming => {
            state.ends_us(expert).map_or(0.0, |ends| ends.saturating_sub(now_us) as f64)
        }
        phase => {
            let own = if queue.waiting(expert) > 0 { load_us(state, expert) } else { 0.0 };
            let retry = match phase {
                Phase::Failed { retry_at_us, .. } => retry_at_us.saturating_sub(now_us) as f64,
                _ => 0.0,
            };
            let channels = f64::from(state.channels(entry));
            (before - own).max(0.0) / channels + state.ready_us(entry) + retry
        }
    };
    computing.max(loading) as u64
}

/// Lets a request in, or refuses it with an honest time to try again. The result joins the queue by
/// [`Queue::push`], with [`State::requested`].
///
/// # Errors
/// The refusal.
pub fn admit(now_us: u64, state: &State, queue: &Queue, request: NewRequest) -> Result<Waiting, Refusal> {
    let policy = &state.policy;
    if queue.len() >= policy.queue_max as usize {
        let each = state.mean_batch_us() / f64::from(policy.executors);
        return Err(Refusal { why: RefusedFor::Full, retry_after_us: each.max(1.0) as u64 });
    }
    let mut bound = policy.bound_us;
    if let Some(deadline_us) = request.deadline_us {
        let left = deadline_us.saturating_sub(now_us);
        bound = bound.min(left / 2);
        let estimate = estimate_us(now_us, state, queue, request.expert);
        if estimate > left {
            let failed = matches!(state.phase(request.expert), Some(Phase::Failed { .. } | Phase::Unknown));
            let why = if failed { RefusedFor::Unavailable } else { RefusedFor::Deadline };
            return Err(Refusal { why, retry_after_us: estimate - left });
        }
    }
    Ok(Waiting {
        id: request.id,
        expert: request.expert,
        tenant: request.tenant,
        arrived_us: now_us,
        due_us: now_us.saturating_add(bound),
    })
}

/// A request at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewRequest {
    /// Its number: unique, and larger than those of all that came before.
    pub id: u64,
    /// Whom it is for.
    pub expert: ExpertIndex,
    /// On whose account.
    pub tenant: u32,
    /// When its first byte must have been sent, where that is known.
    pub deadline_us: Option<u64>,
}
