//! What to do now.

use super::action::{Action, Cause, Reason};
use super::expert::{ExpertIndex, Phase};
use super::policy::Order;
use super::queue::{Queue, Waiting};
use super::state::{Conflict, Entry, State};
use super::tier::Tier;
use super::victims::{Force, Room, make_room, stays_until_us};

/// How many of those who have waited longest are tried, where there is no room for the first.
const TRIES: usize = 4;

/// Decides what to do now: at most one batch for each free executor, and at most one load with what has to go for
/// it. Apply all of it, in order, and ask again until nothing comes.
///
/// 1. **Bound.** The first request in the queue is overtaken until its bound is up. Its expert's load begins early
///    enough to be done about then, before all other loads and at anybody's expense but that of experts in use or
///    pinned. So no request that is first waits longer than the bound, one batch and one load.
/// 2. **Batches.** Of the ready experts, the one whose first request is due first.
/// 3. **Loads.** Of the others, the one for which requests have waited longest for each second of loading. What goes
///    for it is what nobody waits for, has stayed its time, and is worth least.
///
/// A request whose bound is up is refused where its expert, or that one's base, failed or is in doubt.
///
/// The same input gives the same decision.
pub fn decide(now_us: u64, state: &State, queue: &Queue) -> Vec<Action> {
    let mut plan = Plan { now_us, state, queue, actions: Vec::new(), serving: Vec::new() };
    plan.refuse_unavailable();
    if !plan.actions.is_empty() {
        // Who is first in the queue is another question then.
        return plan.actions;
    }
    let urgent = plan.urgent();
    plan.dispatch();
    plan.settle_drained(urgent.as_ref());
    match &urgent {
        Some(first) => plan.load_for(first),
        None => plan.load(),
    }
    plan.actions
}

/// What has to be done to bring an expert nearer because an operator asked for it: at anybody's expense but that of
/// experts in use or pinned. Nothing where it is there. Apply it and ask again until it is; other requests go on
/// meanwhile.
///
/// # Errors
/// [`Conflict::NoExpert`]; [`Conflict::Phase`] for a tier that it does not have, for one that cannot be moved now and
/// for an adapter whose base is not ready; [`Conflict::Busy`] where the link is full, [`Conflict::NoRoom`].
pub fn bring(
    now_us: u64,
    state: &State,
    queue: &Queue,
    expert: ExpertIndex,
    to: Tier,
) -> Result<Vec<Action>, Conflict> {
    let entry = state.experts.get(expert.at()).ok_or(Conflict::NoExpert)?;
    let from = entry.nearest();
    if from <= to {
        return Ok(Vec::new());
    }
    let base = entry.base.filter(|_| to == entry.serves);
    let ready = base.is_none_or(|base| state.experts[base.at()].phase == Phase::Hot);
    if !entry.spec.bytes.contains_key(&to) || !entry.can_begin(now_us) || !ready {
        return Err(Conflict::Phase);
    }
    let plan = Plan { now_us, state, queue, actions: Vec::new(), serving: Vec::new() };
    let reason = Reason::Asked;
    match plan.room(entry, from, to, Force::Hard) {
        Room::Made(_) if !state.is_open(&state.journey(entry, from, to)) => Err(Conflict::Busy),
        Room::Made(mut actions) => {
            actions.push(Action::Promote { expert, from, to, cause: Cause::Admin, tenant: None, reason });
            Ok(actions)
        }
        Room::Later(actions) if actions.is_empty() => Err(Conflict::Busy),
        Room::Later(mut actions) => {
            for action in &mut actions {
                if let Action::Drain { reason, .. } = action {
                    *reason = Reason::Asked;
                }
            }
            Ok(actions)
        }
        Room::None => Err(Conflict::NoRoom),
    }
}

/// When [`decide()`] may have something to do although nothing has happened; `None` for never.
pub fn wake(now_us: u64, state: &State, queue: &Queue) -> Option<u64> {
    let front = queue.front()?;
    let early = front.due_us.saturating_sub(lead_us(state, front.expert));
    let retries = queue.active().iter().filter_map(|expert| match state.phase(*expert)? {
        Phase::Failed { retry_at_us, .. } => Some(*retry_at_us),
        _ => None,
    });
    let stays = Tier::ALL.into_iter().flat_map(|tier| {
        state.residents(tier).iter().map(move |expert| stays_until_us(state, *expert, tier))
    });
    let refusals = queue.active().iter().filter(|expert| is_unavailable(state, **expert));
    let refusals = refusals.filter_map(|expert| queue.head(*expert)).map(|head| head.due_us);
    let all = [early, front.due_us].into_iter().chain(retries).chain(stays).chain(refusals);
    all.filter(|at| *at > now_us).min()
}

/// Whether nobody can say when an expert could be loaded: it or its base failed, or is in doubt.
fn is_unavailable(state: &State, expert: ExpertIndex) -> bool {
    let failed =
        |expert: ExpertIndex| matches!(state.phase(expert), Some(Phase::Failed { .. } | Phase::Unknown));
    let base = state.experts.get(expert.at()).and_then(|entry| entry.base);
    failed(expert) || base.is_some_and(failed)
}

/// How long before a request's bound its expert's load must begin: it may have to wait for another load or batch,
/// and then for itself.
fn lead_us(state: &State, expert: ExpertIndex) -> u64 {
    let Some(entry) = state.experts.get(expert.at()) else { return 0 };
    if matches!(entry.phase, Phase::Hot) {
        return 0;
    }
    (state.ready_us(entry) + state.mean_batch_us()) as u64
}

/// Room for an expert that nobody waits for, where [`decide()`] has nothing to do.
pub(super) fn spare_room(now_us: u64, state: &State, queue: &Queue, entry: &Entry) -> Room {
    let plan = Plan { now_us, state, queue, actions: Vec::new(), serving: Vec::new() };
    plan.room(entry, entry.nearest(), entry.serves, Force::Soft)
}

struct Plan<'a> {
    now_us: u64,
    state: &'a State,
    queue: &'a Queue,
    actions: Vec<Action>,
    /// Who gets a batch now, and how many requests.
    serving: Vec<(ExpertIndex, u32)>,
}

impl Plan<'_> {
    /// The first request, where its expert must be loaded before anything else is.
    fn urgent(&self) -> Option<Waiting> {
        let front = *self.queue.front()?;
        let entry = self.state.experts.get(front.expert.at())?;
        let must = match self.state.policy.order {
            Order::Kept => true,
            Order::Free => self.now_us.saturating_add(lead_us(self.state, front.expert)) >= front.due_us,
        };
        // What is on its way needs nothing more.
        let underway = matches!(entry.phase, Phase::Hot | Phase::Loading | Phase::Warming);
        (must && !underway).then_some(front)
    }

    fn dispatch(&mut self) {
        let policy = &self.state.policy;
        while self.state.running + (self.serving.len() as u32) < policy.executors {
            let Some((due_us, expert)) = self.next_batch() else { return };
            let left = self.left(expert);
            let requests = left.min(policy.batch_max);
            self.serving.push((expert, requests));
            let reason = Reason::OldestHead { due_us };
            self.actions.push(Action::Dispatch { expert, requests, reason });
        }
    }

    /// The ready expert whose first request is due first. Those that get a batch already come after the others: their
    /// lines' heads are gone.
    fn next_batch(&self) -> Option<(u64, ExpertIndex)> {
        let ready = |expert: ExpertIndex| {
            self.state.experts[expert.at()].phase == Phase::Hot && self.left(expert) > 0
        };
        if self.state.policy.order == Order::Kept {
            let front = self.queue.front()?;
            return ready(front.expert).then_some((front.due_us, front.expert));
        }
        let heads = self.hot().filter(|expert| ready(*expert)).filter_map(|expert| {
            let head = self.queue.head(expert)?;
            let again = self.serving.iter().any(|(other, _)| *other == expert);
            Some((again, head.due_us, head.id, expert))
        });
        heads.min().map(|(_, due_us, _, expert)| (due_us, expert))
    }

    /// Experts that may be ready: the shorter of the lists that hold all that matter.
    fn hot(&self) -> Box<dyn Iterator<Item = ExpertIndex> + '_> {
        let near = [Tier::Slot, Tier::Hbm];
        let residents: usize = near.iter().map(|tier| self.state.residents(*tier).len()).sum();
        let active = self.queue.active();
        // Where experts answer from farther away, or are at home there, only the queue knows them all.
        if self.state.answers_near() && residents < active.len() {
            Box::new(near.into_iter().flat_map(|tier| self.state.residents(tier).iter().copied()))
        } else {
            Box::new(active.iter().copied())
        }
    }

    /// Who waits for an expert and gets no batch now.
    fn left(&self, expert: ExpertIndex) -> u32 {
        let taken: u32 =
            self.serving.iter().filter(|(other, _)| *other == expert).map(|(_, requests)| requests).sum();
        self.queue.waiting(expert) - taken
    }

    /// Those whose bound is up and who wait for what failed or is in doubt do not wait on, wherever in the queue they
    /// are: what is before them may take long.
    fn refuse_unavailable(&mut self) {
        for expert in self.queue.active().iter().copied() {
            let Some(head) = self.queue.head(expert).filter(|head| self.now_us >= head.due_us) else {
                continue;
            };
            if is_unavailable(self.state, expert) && self.target(expert).is_none() {
                self.actions.push(Action::Refuse { expert, request: head.id, reason: Reason::Unavailable });
            }
        }
    }

    /// Drained experts go back to work where nothing urgent needs their places, and one that is urgent itself, or the
    /// base of an urgent adapter, at once. What an operator needs the place of stays drained.
    fn settle_drained(&mut self, urgent: Option<&Waiting>) {
        if self.state.draining == 0 {
            return;
        }
        let base = urgent.and_then(|first| self.state.experts.get(first.expert.at())?.base);
        for (expert, entry) in (0..).map(ExpertIndex).zip(&self.state.experts) {
            let wanted = urgent.is_none_or(|first| first.expert == expert) || base == Some(expert);
            if entry.phase == Phase::Draining && wanted && !entry.drained_for_operator {
                self.actions.push(Action::Resume { expert, reason: Reason::NotNeeded });
            }
        }
    }

    /// Loads what the first request needs, at anybody's expense, or refuses it.
    fn load_for(&mut self, first: &Waiting) {
        let Some((expert, entry)) = self.target(first.expert) else { return };
        let (from, to) = (entry.nearest(), entry.serves);
        match self.room(entry, from, to, Force::Hard) {
            Room::Made(removals) => {
                // With all channels busy the next that is free is for this load, and until then nothing goes.
                if self.state.is_open(&self.state.journey(entry, from, to)) {
                    self.actions.extend(removals);
                    let reason = Reason::Bound { due_us: first.due_us };
                    self.promote(expert, from, to, Cause::Demand, Some(first.tenant), reason);
                }
            }
            Room::Later(actions) => self.actions.extend(actions),
            Room::None => {
                if self.now_us >= first.due_us {
                    self.refuse(first, Reason::NoRoom);
                }
            }
        }
    }

    fn load(&mut self) {
        let idle = self.state.running == 0 && self.serving.is_empty();
        if !(self.state.policy.prefetch || idle) || !self.state.may_load(self.now_us) {
            return;
        }
        for (expert, tenant, reason) in self.wanted() {
            let entry = &self.state.experts[expert.at()];
            let (from, to) = (entry.nearest(), entry.serves);
            match self.room(entry, from, to, Force::Soft) {
                Room::Made(removals) => {
                    self.actions.extend(removals);
                    self.promote(expert, from, to, Cause::Prefetch, tenant, reason);
                    return;
                }
                Room::Later(actions) => {
                    self.actions.extend(actions);
                    return;
                }
                Room::None => {
                    if self.stage(expert, entry, tenant) {
                        return;
                    }
                }
            }
        }
    }

    /// Brings an expert to the host's memory, where there is no room nearer, so that it has less far to go.
    fn stage(&mut self, expert: ExpertIndex, entry: &Entry, tenant: Option<u32>) -> bool {
        let (from, to) = (entry.nearest(), Tier::Dram);
        if from <= to || !entry.spec.bytes.contains_key(&to) {
            return false;
        }
        let Room::Made(removals) = self.room(entry, from, to, Force::Soft) else { return false };
        self.actions.extend(removals);
        self.promote(expert, from, to, Cause::Prefetch, tenant, Reason::NearerOnly);
        true
    }

    /// Those whose requests have waited longest for each second of loading, at most [`TRIES`], best first.
    fn wanted(&self) -> Vec<(ExpertIndex, Option<u32>, Reason)> {
        let least = self.least_caused_s();
        let mut best: Vec<(Rank, ExpertIndex, Option<u32>, Reason)> = Vec::with_capacity(TRIES + 1);
        for waiting in self.queue.active().iter().copied() {
            let Some((expert, entry)) = self.target(waiting) else { continue };
            let Some(head) = self.queue.head(waiting) else { continue };
            let journey = self.state.journey(entry, entry.nearest(), entry.serves);
            if !self.state.is_open(&journey) {
                continue;
            }
            let waited_us = self.queue.waited_us(waiting, self.now_us);
            let modest = least.is_none_or(|least| {
                self.state.caused_s(head.tenant, self.now_us) <= least + self.state.policy.tenant_allowance_s
            });
            // Requests that came this instant count too, or the first of many would not be seen.
            let wait = waited_us as f64 + f64::from(self.queue.waiting(waiting));
            let score = match self.state.policy.order {
                Order::Free => wait / journey.us.max(1.0),
                Order::Kept => 0.0,
            };
            let rank = Rank { modest, score, due: (head.due_us, head.id) };
            let place = best.partition_point(|(other, ..)| other.is_before(&rank));
            if place < TRIES {
                let reason = Reason::LongestWait { waited_us, load_us: journey.us as u64 };
                best.insert(place, (rank, expert, Some(head.tenant), reason));
                best.truncate(TRIES);
            }
        }
        best.into_iter().map(|(_, expert, tenant, reason)| (expert, tenant, reason)).collect()
    }

    /// What the most modest tenant among those waiting has caused; `None` where there is but one.
    fn least_caused_s(&self) -> Option<f64> {
        if !self.state.has_tenants() {
            return None;
        }
        let heads = self.queue.active().iter().filter_map(|expert| self.queue.head(*expert));
        heads.map(|head| self.state.caused_s(head.tenant, self.now_us)).min_by(f64::total_cmp)
    }

    /// What has to be loaded first for an expert: itself, or its base. `None` where nothing can begin now.
    fn target(&self, expert: ExpertIndex) -> Option<(ExpertIndex, &Entry)> {
        let entry = self.state.experts.get(expert.at())?;
        if !entry.can_begin(self.now_us) {
            return None;
        }
        match entry.base.map(|base| (base, &self.state.experts[base.at()])) {
            Some((_, base)) if base.phase == Phase::Hot => Some((expert, entry)),
            Some((index, base)) => base.can_begin(self.now_us).then_some((index, base)),
            None => Some((expert, entry)),
        }
    }

    /// Room in all tiers that a journey goes through.
    fn room(&self, entry: &Entry, from: Tier, to: Tier, force: Force) -> Room {
        let mut all = Vec::new();
        let (mut later, mut blocked) = (false, false);
        for (tier, bytes) in entry.needs(from, to) {
            match make_room(self.now_us, self.state, self.queue, tier, bytes, force, &self.serving) {
                Room::Made(actions) => all.extend(actions),
                Room::Later(actions) => {
                    later = true;
                    all.extend(actions);
                }
                // What is nearer may have to go first: copies that it came through stay until then.
                Room::None if force == Force::Hard && tier > to => blocked = true,
                Room::None => return Room::None,
            }
        }
        if blocked && all.is_empty() && !later {
            return Room::None;
        }
        if later || blocked { Room::Later(all) } else { Room::Made(all) }
    }

    fn promote(
        &mut self,
        expert: ExpertIndex,
        from: Tier,
        to: Tier,
        cause: Cause,
        tenant: Option<u32>,
        reason: Reason,
    ) {
        self.actions.push(Action::Promote { expert, from, to, cause, tenant, reason });
    }

    fn refuse(&mut self, first: &Waiting, reason: Reason) {
        self.actions.push(Action::Refuse { expert: first.expert, request: first.id, reason });
    }
}

/// Who is loaded first.
struct Rank {
    /// Its tenant has not caused much more than others.
    modest: bool,
    score: f64,
    due: (u64, u64),
}

impl Rank {
    fn is_before(&self, other: &Self) -> bool {
        let order = other.modest.cmp(&self.modest);
        order.then(other.score.total_cmp(&self.score)).then(self.due.cmp(&other.due)).is_le()
    }
}
