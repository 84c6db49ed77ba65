//! What goes, when something has to.

use super::action::{Action, Reason};
use super::expert::{ExpertIndex, Phase};
use super::policy::Victims;
use super::queue::Queue;
use super::state::State;
use super::tier::Tier;

/// How much may be done to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Force {
    /// Only what nobody waits for and what has been there long enough.
    Soft,
    /// Whatever is not in use and not pinned; what is in use is drained.
    Hard,
}

/// How room can be made.
#[derive(Debug, PartialEq)]
pub(super) enum Room {
    /// By this, and then there is.
    Made(Vec<Action>),
    /// By this, or by what is under way, but it takes time.
    Later(Vec<Action>),
    /// Not at all.
    None,
}

/// Looks for room for `needed` bytes in a tier. `serving` are experts that get a batch at this moment.
pub(super) fn make_room(
    now_us: u64,
    state: &State,
    queue: &Queue,
    tier: Tier,
    needed: u64,
    force: Force,
    serving: &[(ExpertIndex, u32)],
) -> Room {
    let Some(account) = state.account(tier) else { return Room::None };
    let mut missing = needed.saturating_sub(account.free());
    if missing == 0 {
        return Room::Made(Vec::new());
    }
    if missing <= state.leaving(tier) {
        return Room::Later(Vec::new());
    }
    missing -= state.leaving(tier);
    let mut candidates = Candidates::of(now_us, state, queue, tier, force, serving);
    let mut actions = Vec::new();
    let mut at_once = state.frees_at_once() && state.leaving(tier) == 0;
    while missing > 0 {
        let Some((group, reason)) = candidates.next() else { break };
        missing = missing.saturating_sub(group.bytes);
        let adapters = group.adapters.iter().map(|adapter| {
            let from = state.experts[adapter.at()].serves;
            Action::Demote { expert: *adapter, from, reason }
        });
        actions.extend(adapters);
        if group.adapters.is_empty() || state.frees_at_once() {
            actions.push(Action::Demote { expert: group.expert, from: tier, reason });
        } else {
            // A base goes after its adapters are gone.
            at_once = false;
        }
    }
    if missing == 0 {
        return if at_once { Room::Made(actions) } else { Room::Later(actions) };
    }
    if force == Force::Soft {
        return Room::None;
    }
    // What could go now is not needed before what is in use has ended.
    let mut drains = Vec::new();
    for group in candidates.in_use {
        if missing == 0 {
            break;
        }
        missing = missing.saturating_sub(group.bytes);
        let hot = group.members().filter(|expert| state.experts[expert.at()].phase == Phase::Hot);
        let leased = hot.filter(|expert| is_busy(state, *expert, serving));
        drains.extend(leased.map(|expert| Action::Drain { expert, reason: Reason::AllBusy }));
    }
    if missing == 0 || candidates.underway { Room::Later(drains) } else { Room::None }
}

fn is_busy(state: &State, expert: ExpertIndex, serving: &[(ExpertIndex, u32)]) -> bool {
    state.experts[expert.at()].leases > 0 || serving.iter().any(|(other, _)| *other == expert)
}

/// An expert, and the resident adapters of which it is the base: they go together.
struct Group {
    expert: ExpertIndex,
    adapters: Vec<ExpertIndex>,
    bytes: u64,
}

impl Group {
    fn members(&self) -> impl Iterator<Item = ExpertIndex> + '_ {
        self.adapters.iter().copied().chain([self.expert])
    }

    fn of(state: &State, expert: ExpertIndex, tier: Tier) -> Self {
        let entry = &state.experts[expert.at()];
        let mut adapters = Vec::new();
        if entry.dependants > 0 {
            let near =
                Tier::ALL.into_iter().flat_map(|tier| state.residents(tier).iter().map(move |e| (*e, tier)));
            let of = near.filter(|(other, tier)| {
                let other = &state.experts[other.at()];
                other.base == Some(expert) && other.serves == *tier
            });
            adapters.extend(of.map(|(other, _)| other));
        }
        Self { expert, adapters, bytes: entry.copy(tier).unwrap_or(0) }
    }

    /// What the group is worth for each byte that it frees.
    fn value(&self, state: &State, tier: Tier) -> f64 {
        let of = |adapter: &ExpertIndex| {
            let entry = &state.experts[adapter.at()];
            let bytes = entry.copy(entry.serves).unwrap_or(0).max(1) as f64;
            state.value(*adapter, entry.serves) * bytes / self.bytes.max(1) as f64
        };
        state.value(self.expert, tier) + self.adapters.iter().map(of).sum::<f64>()
    }
}

struct Candidates {
    /// Nobody waits for these: value, when last used.
    idle: Vec<(f64, u64, Group)>,
    /// Somebody does: when the first is due.
    wanted: Vec<(u64, Group)>,
    in_use: Vec<Group>,
    /// Something will be gone, or can go, when what is under way has ended.
    underway: bool,
    /// Values are those of recency.
    by_recency: bool,
}

impl Candidates {
    fn of(
        now_us: u64,
        state: &State,
        queue: &Queue,
        tier: Tier,
        force: Force,
        serving: &[(ExpertIndex, u32)],
    ) -> Self {
        let recency = state.recency(tier);
        let by_use = state.policy.victims == Victims::Recency;
        let (idle, wanted, in_use) = (Vec::new(), Vec::new(), Vec::new());
        let mut this =
            Self { idle, wanted, in_use, underway: false, by_recency: by_use || recency.is_some() };
        for expert in state.residents(tier).iter().copied() {
            let entry = &state.experts[expert.at()];
            if entry.nearest() != tier {
                continue;
            }
            let group = Group::of(state, expert, tier);
            let facts = |expert: ExpertIndex| &state.experts[expert.at()];
            if group.members().any(|expert| facts(expert).pin.holds(now_us)) {
                continue;
            }
            if group.adapters.len() < entry.dependants as usize
                || group.members().any(|expert| !rests(&facts(expert).phase))
            {
                this.underway |=
                    group.members().all(|e| rests(&facts(e).phase) || facts(e).phase.is_moving());
                continue;
            }
            if group.members().any(|expert| is_busy(state, expert, serving)) {
                this.in_use.push(group);
                continue;
            }
            // Its server did not let it go the last time.
            if group.members().any(|expert| facts(expert).stuck_until_us > now_us) {
                continue;
            }
            let due_us =
                group.members().filter_map(|expert| queue.head(expert)).map(|head| head.due_us).min();
            match due_us {
                Some(due_us) if force == Force::Hard => this.wanted.push((due_us, group)),
                None if force == Force::Hard || has_stayed(now_us, state, expert, tier) => {
                    // What recency would not hold goes first, where it has to be followed.
                    let value = match recency {
                        _ if by_use => 0.0,
                        Some(recency) => f64::from(u8::from(recency.holds(expert))),
                        None => group.value(state, tier),
                    };
                    let used_us = group.members().map(|expert| facts(expert).used_us).max().unwrap_or(0);
                    this.idle.push((value, used_us, group));
                }
                Some(_) | None => {}
            }
        }
        this
    }

    /// The next to go: the least valuable of those that nobody waits for, then what is waited for last.
    fn next(&mut self) -> Option<(Group, Reason)> {
        let order = |a: &(f64, u64, Group), b: &(f64, u64, Group)| {
            a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.expert.cmp(&b.2.expert))
        };
        if let Some(at) = (0..self.idle.len()).min_by(|a, b| order(&self.idle[*a], &self.idle[*b])) {
            let (value, _, group) = self.idle.swap_remove(at);
            let value = value * 1e9;
            let reason = if self.by_recency { Reason::LeastRecent } else { Reason::LeastValue { value } };
            return Some((group, reason));
        }
        let at = (0..self.wanted.len()).max_by_key(|at| (self.wanted[*at].0, self.wanted[*at].1.expert))?;
        let (due_us, group) = self.wanted.swap_remove(at);
        Some((group, Reason::WantedLast { due_us }))
    }
}

/// Whether nothing is going on with an expert that could not be interrupted.
fn rests(phase: &Phase) -> bool {
    matches!(phase, Phase::Hot | Phase::Draining | Phase::Warm | Phase::Cold)
}

/// Whether an expert has been somewhere for as long as the policy wants it to stay.
fn has_stayed(now_us: u64, state: &State, expert: ExpertIndex, tier: Tier) -> bool {
    now_us >= stays_until_us(state, expert, tier)
}

/// Until when an expert stays in a tier: its time where it answers from, and until its server is asked again where that
/// did not let it go.
pub(super) fn stays_until_us(state: &State, expert: ExpertIndex, tier: Tier) -> u64 {
    let entry = &state.experts[expert.at()];
    if tier != entry.serves || entry.unasked {
        return entry.stuck_until_us;
    }
    let farther = Tier::ALL.into_iter().find(|other| *other > tier && entry.copy(*other).is_some());
    let load = farther.map_or(0.0, |from| state.journey(entry, from, tier).us);
    let stays = entry.hot_since_us.saturating_add((load * state.policy.min_residency_loads) as u64);
    stays.max(entry.stuck_until_us)
}
