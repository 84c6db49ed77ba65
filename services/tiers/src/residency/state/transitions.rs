//! What changes a pool: actions, and reports of how they ended.

use super::{
    Applied, BATCH_WEIGHT, Conflict, Entry, ExpertIndex, Generation, Lease, Move, NONE, Phase, Pin, State,
    TIERS, Tier,
};
use crate::residency::action::{Action, Cause, Reason};

impl Move {
    /// Whether a copy goes, and none comes.
    fn is_removal(&self) -> bool {
        self.from == self.tier
    }
}

impl State {
    /// Notes that a request came for an expert. Call it for each, when it joins the queue.
    pub fn requested(&mut self, expert: ExpertIndex) {
        if let Some(entry) = self.experts.get_mut(expert.at()) {
            entry.unasked = false;
            let missed = !matches!(entry.phase, Phase::Hot | Phase::Draining);
            self.popularity.requested(expert, missed);
            if entry.home != entry.serves
                && let Some(recency) = &mut self.recency[entry.serves.index()]
            {
                recency.requested(expert, entry.spec.bytes.get(&entry.serves).copied().unwrap_or(0));
            }
        }
    }

    /// Begins an action. Bytes are reserved and leases counted from now on; carrying it out is the caller's part.
    ///
    /// # Errors
    /// Where the action does not fit the state, which is then unchanged.
    pub fn apply(&mut self, now_us: u64, action: &Action) -> Result<Applied, Conflict> {
        match action {
            Action::Dispatch { expert, .. } => self.lease(now_us, *expert).map(Applied::Leased),
            Action::Promote { expert, to, tenant, cause, .. } => {
                let generation = self.begin_load(now_us, *expert, *to, *tenant, *cause)?;
                Ok(Applied::Began(generation))
            }
            Action::Demote { expert, from, .. } => self.begin_removal(now_us, *expert, *from),
            Action::Drain { expert, reason } => {
                let entry = self.entry(*expert)?;
                if entry.phase != Phase::Hot || entry.pin.holds(now_us) || entry.dependants > 0 {
                    return Err(Conflict::Phase);
                }
                entry.phase = Phase::Draining;
                entry.drained_for_operator = *reason == Reason::Asked;
                self.draining += 1;
                Ok(Applied::Done)
            }
            Action::Resume { expert, .. } => {
                let entry = self.entry(*expert)?;
                if entry.phase != Phase::Draining {
                    return Err(Conflict::Phase);
                }
                entry.phase = Phase::Hot;
                self.draining -= 1;
                Ok(Applied::Done)
            }
            Action::Refuse { .. } => Ok(Applied::Done),
        }
    }

    /// Lets experts that were drained for an operator go back to work. Whether there were any.
    pub fn spare_drained(&mut self) -> bool {
        let mut any = false;
        if self.draining > 0 {
            for entry in &mut self.experts {
                any |= entry.phase == Phase::Draining && entry.drained_for_operator;
                entry.drained_for_operator = false;
            }
        }
        any
    }

    /// Keeps a ready expert where it is for a batch.
    ///
    /// # Errors
    /// [`Conflict::Phase`] where it is not ready, [`Conflict::Busy`] where the pool computes as much as it can.
    pub fn lease(&mut self, now_us: u64, expert: ExpertIndex) -> Result<Lease, Conflict> {
        if self.running >= self.policy.executors {
            return Err(Conflict::Busy);
        }
        let entry = self.entry(expert)?;
        if entry.phase != Phase::Hot {
            return Err(Conflict::Phase);
        }
        entry.leases += 1;
        entry.used_us = now_us;
        self.running += 1;
        Ok(Lease { expert, since_us: now_us })
    }

    /// Keeps an expert where it is for a batch that was let in before: by an owner that is gone, or under a lease that
    /// ran out. It is under way already, so that neither executors nor a drain keep it out.
    ///
    /// # Errors
    /// [`Conflict::Phase`] where the expert is not ready.
    pub fn take_back(&mut self, now_us: u64, expert: ExpertIndex) -> Result<Lease, Conflict> {
        let entry = self.entry(expert)?;
        if !matches!(entry.phase, Phase::Hot | Phase::Draining) {
            return Err(Conflict::Phase);
        }
        entry.leases += 1;
        entry.used_us = now_us;
        self.running += 1;
        Ok(Lease { expert, since_us: now_us })
    }

    /// Takes a lease back: the batch has ended, however it did.
    pub fn release(&mut self, now_us: u64, lease: &Lease) {
        let Some(entry) = self.experts.get_mut(lease.expert.at()) else { return };
        entry.leases = entry.leases.saturating_sub(1);
        entry.used_us = now_us;
        let took = now_us.saturating_sub(lease.since_us) as f64;
        entry.batch_us += (took - entry.batch_us) * BATCH_WEIGHT;
        self.mean_batch_us += (took - self.mean_batch_us) * BATCH_WEIGHT;
        self.running = self.running.saturating_sub(1);
    }

    /// Pins an expert, or lets it go.
    ///
    /// # Errors
    /// [`Conflict::NoExpert`].
    pub fn pin(&mut self, expert: ExpertIndex, pin: Pin) -> Result<(), Conflict> {
        self.entry(expert)?.pin = pin;
        Ok(())
    }

    fn entry(&mut self, expert: ExpertIndex) -> Result<&mut Entry, Conflict> {
        self.experts.get_mut(expert.at()).ok_or(Conflict::NoExpert)
    }

    fn begin_load(
        &mut self,
        now_us: u64,
        expert: ExpertIndex,
        to: Tier,
        tenant: Option<u32>,
        cause: Cause,
    ) -> Result<Generation, Conflict> {
        let predicted = matches!(cause, Cause::Predicted { .. });
        let entry = self.experts.get(expert.at()).ok_or(Conflict::NoExpert)?;
        let from = entry.nearest();
        if !entry.can_begin(now_us) || to >= from {
            return Err(Conflict::Phase);
        }
        if let Some(base) = entry.base
            && to == entry.serves
            && self.experts[base.at()].phase != Phase::Hot
        {
            return Err(Conflict::Phase);
        }
        let journey = self.journey(entry, from, to);
        if !self.is_open(&journey) {
            return Err(Conflict::Busy);
        }
        let mut reserved = [0; TIERS];
        for (tier, bytes) in entry.needs(from, to) {
            reserved[tier.index()] = bytes;
        }
        let fits = |(account, bytes): (&Option<_>, &u64)| -> bool {
            account.as_ref().is_none_or(|account: &super::Account| *bytes <= account.free())
        };
        if !self.accounts.iter().zip(&reserved).all(fits) {
            return Err(Conflict::NoRoom);
        }
        for (account, bytes) in self.accounts.iter_mut().zip(reserved) {
            if let Some(account) = account {
                let _checked = account.reserve(bytes);
            }
        }
        self.occupy(journey.links, 1);
        self.tokens = (self.tokens_at(now_us) - 1.0, now_us);
        if let Some(tenant) = tenant {
            self.caused(tenant, now_us, journey.us);
        }
        let entry = &mut self.experts[expert.at()];
        entry.unasked = predicted;
        // What idle channels try says nothing about whether recency would choose better victims.
        if to == entry.serves
            && !predicted
            && let Some(recency) = &mut self.recency[to.index()]
        {
            recency.loaded(reserved[to.index()]);
        }
        // An adapter that is on its way needs its base as much as one that is there.
        let base = entry.base.filter(|_| to == entry.serves);
        entry.phase = Phase::towards(to, entry.serves);
        entry.generation.0 += 1;
        let ends_us = now_us.saturating_add(journey.us as u64);
        entry.moving =
            Some(Move { tier: to, from, reserved, links: journey.links, started_us: now_us, ends_us });
        let generation = entry.generation;
        if let Some(base) = base {
            self.experts[base.at()].dependants += 1;
        }
        Ok(generation)
    }

    /// Reports that a load has ended. `measured` is what the copy really takes in the nearest tier, where the driver
    /// can tell. An expert that has to warm up is ready with [`State::warmed`], others at once.
    ///
    /// # Errors
    /// [`Conflict::Stale`] where no such load is under way.
    pub fn arrived(
        &mut self,
        now_us: u64,
        expert: ExpertIndex,
        generation: Generation,
        measured: Option<u64>,
    ) -> Result<(), Conflict> {
        let moving = self.end(expert, generation, &[Phase::Fetching, Phase::Staging, Phase::Loading])?;
        for tier in Tier::ALL {
            let reserved = moving.reserved[tier.index()];
            if reserved > 0 {
                let bytes = if tier == moving.tier { measured.unwrap_or(reserved) } else { reserved };
                if let Some(account) = &mut self.accounts[tier.index()] {
                    account.cancel(reserved);
                }
                self.add_copy(expert, tier, bytes);
            }
        }
        self.occupy(moving.links, -1);
        let entry = &mut self.experts[expert.at()];
        let mut hops = entry.hops.iter().filter(|hop| hop.from <= moving.from && hop.to >= moving.tier);
        // A journey of several hops says nothing about each.
        if let (Some(hop), None) = (hops.next(), hops.next()) {
            self.links[hop.link].observe(hop.bytes, now_us.saturating_sub(moving.started_us));
        }
        entry.hot_since_us = now_us;
        entry.used_us = entry.used_us.max(now_us);
        entry.phase = match Phase::resting(moving.tier, entry.serves) {
            Phase::Hot if entry.spec.warm_us > 0 => Phase::Warming,
            phase => phase,
        };
        Ok(())
    }

    /// Reports that an expert has computed its first token.
    ///
    /// # Errors
    /// [`Conflict::Stale`] where it was not warming up, or not after that load.
    pub fn warmed(
        &mut self,
        now_us: u64,
        expert: ExpertIndex,
        generation: Generation,
    ) -> Result<(), Conflict> {
        let entry = self.entry(expert)?;
        if entry.generation != generation || entry.phase != Phase::Warming {
            return Err(Conflict::Stale);
        }
        entry.phase = Phase::Hot;
        entry.hot_since_us = now_us;
        Ok(())
    }

    /// Whether an expert's nearest copy can be given up now.
    ///
    /// # Errors
    /// [`Conflict::InUse`] where requests, adapters or a pin keep it; [`Conflict::Phase`] where something is going on
    /// with it, or it is at home.
    pub fn removable(&self, now_us: u64, expert: ExpertIndex) -> Result<(), Conflict> {
        let entry = self.experts.get(expert.at()).ok_or(Conflict::NoExpert)?;
        if entry.leases > 0 || entry.dependants > 0 || entry.pin.holds(now_us) {
            return Err(Conflict::InUse);
        }
        let rests = matches!(entry.phase, Phase::Hot | Phase::Draining | Phase::Warm | Phase::Cold);
        if rests && entry.nearest() != entry.home { Ok(()) } else { Err(Conflict::Phase) }
    }

    fn begin_removal(&mut self, now_us: u64, expert: ExpertIndex, from: Tier) -> Result<Applied, Conflict> {
        self.removable(now_us, expert)?;
        let entry = self.entry(expert)?;
        // Inclusive: what is nearer came through here.
        if entry.nearest() != from {
            return Err(Conflict::Phase);
        }
        let drained = entry.phase == Phase::Draining;
        entry.phase = Phase::Unloading;
        entry.generation.0 += 1;
        let generation = entry.generation;
        let bytes = entry.copies[from.index()].unwrap_or(0);
        let moving =
            Move { tier: from, from, reserved: [0; TIERS], links: 0, started_us: now_us, ends_us: now_us };
        entry.moving = Some(moving);
        self.draining -= u32::from(drained);
        self.leaving[from.index()] += bytes;
        if self.frees_at_once {
            self.gone(expert, generation)?;
            return Ok(Applied::Done);
        }
        Ok(Applied::Began(generation))
    }

    /// Reports that a copy is gone and its bytes are free.
    ///
    /// # Errors
    /// [`Conflict::Stale`] where no such removal is under way.
    pub fn gone(&mut self, expert: ExpertIndex, generation: Generation) -> Result<(), Conflict> {
        let moving = self.end(expert, generation, &[Phase::Unloading])?;
        self.forget_leaving(expert, moving.tier);
        self.drop_copy(expert, moving.tier);
        let entry = &mut self.experts[expert.at()];
        entry.phase = Phase::resting(entry.nearest(), entry.serves);
        Ok(())
    }

    /// Reports that a transition failed. Its bytes stay counted until a probe says what there is, because servers
    /// that fail half-way keep memory. What could not be removed is not chosen to go again before `retry_at_us`.
    ///
    /// # Errors
    /// [`Conflict::Stale`] where no such transition is under way.
    pub fn failed(
        &mut self,
        expert: ExpertIndex,
        generation: Generation,
        cause: &str,
        retry_at_us: u64,
    ) -> Result<(), Conflict> {
        let tier = self.stop(expert, generation)?;
        self.stuck(expert, retry_at_us);
        self.experts[expert.at()].phase = Phase::Failed { tier, cause: cause.into(), retry_at_us };
        Ok(())
    }

    /// Notes that an expert was not removed, where that was to be.
    fn stuck(&mut self, expert: ExpertIndex, until_us: u64) {
        let entry = &mut self.experts[expert.at()];
        if entry.moving.as_ref().is_some_and(Move::is_removal) {
            entry.stuck_until_us = until_us;
        }
    }

    /// Reports that nobody knows how a transition ended: it timed out, or the driver began anew. What may not have
    /// been removed is not chosen to go again before `retry_at_us`.
    ///
    /// # Errors
    /// [`Conflict::Stale`] where no such transition is under way.
    pub fn lost(
        &mut self,
        expert: ExpertIndex,
        generation: Generation,
        retry_at_us: u64,
    ) -> Result<(), Conflict> {
        self.stop(expert, generation)?;
        self.stuck(expert, retry_at_us);
        self.experts[expert.at()].phase = Phase::Unknown;
        Ok(())
    }

    /// Notes that nobody can tell any more where an expert is, though no transition of it is under way: its server
    /// does not answer, or moves it by itself. It takes no requests, and its bytes stay counted, until a probe.
    ///
    /// # Errors
    /// [`Conflict::Stale`] where a transition is under way, whose end is to be reported instead.
    pub fn doubted(&mut self, expert: ExpertIndex) -> Result<(), Conflict> {
        let entry = self.entry(expert)?;
        if entry.phase.is_moving() {
            return Err(Conflict::Stale);
        }
        let drained = entry.phase == Phase::Draining;
        entry.phase = Phase::Unknown;
        self.draining -= u32::from(drained);
        Ok(())
    }

    /// Takes over how many of a tier's free bytes a measurement did not find: something else holds them, and no load
    /// may count on them. Measure while nothing moves.
    pub fn measured(&mut self, tier: Tier, unaccounted: u64) {
        if let Some(account) = &mut self.accounts[tier.index()] {
            account.miss(unaccounted);
        }
    }

    /// Takes over what a probe found: the tiers where the expert has copies, with their bytes. Its home always has
    /// one. Whatever was reserved or thought before gives way, save for when a failed expert may be tried again.
    ///
    /// # Errors
    /// [`Conflict::NoExpert`]; [`Conflict::Phase`] for a copy in a tier that the expert does not have.
    pub fn probed(
        &mut self,
        now_us: u64,
        expert: ExpertIndex,
        copies: &[(Tier, u64)],
    ) -> Result<(), Conflict> {
        let entry = self.experts.get(expert.at()).ok_or(Conflict::NoExpert)?;
        if copies.iter().any(|(tier, _)| !entry.spec.bytes.contains_key(tier)) {
            return Err(Conflict::Phase);
        }
        let before = entry.phase.clone();
        let moving = self.experts[expert.at()].moving.take();
        let was_removal = moving.as_ref().is_some_and(Move::is_removal);
        if let Some(moving) = moving {
            self.forget_move(expert, &moving, before.is_moving());
        }
        for tier in Tier::ALL {
            let found = copies.iter().find(|(t, _)| *t == tier).map(|(_, bytes)| *bytes);
            if tier != self.experts[expert.at()].home {
                self.drop_copy(expert, tier);
                if let Some(bytes) = found {
                    self.add_copy(expert, tier, bytes);
                }
            }
        }
        self.draining -= u32::from(before == Phase::Draining);
        let entry = &mut self.experts[expert.at()];
        let rests = Phase::resting(entry.nearest(), entry.serves);
        let (was, is) = (before == Phase::Hot || before == Phase::Draining, rests == Phase::Hot);
        entry.phase = match before {
            // It is a load that is not to be tried again too soon.
            Phase::Failed { .. } if !is && !was_removal => before,
            _ => rests,
        };
        if is && !was {
            entry.hot_since_us = now_us;
        }
        self.recount(expert);
        Ok(())
    }

    /// Ends a transition whose outcome is known.
    fn end(
        &mut self,
        expert: ExpertIndex,
        generation: Generation,
        phases: &[Phase],
    ) -> Result<Move, Conflict> {
        let entry = self.entry(expert)?;
        if entry.generation != generation || !phases.contains(&entry.phase) {
            return Err(Conflict::Stale);
        }
        entry.moving.take().ok_or(Conflict::Stale)
    }

    /// Ends a transition whose outcome is not known: links are free, bytes are not.
    fn stop(&mut self, expert: ExpertIndex, generation: Generation) -> Result<Tier, Conflict> {
        let entry = self.entry(expert)?;
        if entry.generation != generation || !entry.phase.is_moving() {
            return Err(Conflict::Stale);
        }
        let Some(moving) = entry.moving.as_ref() else {
            // Warming up: the load is over.
            return Ok(entry.serves);
        };
        let (tier, links, was_removal) = (moving.tier, moving.links, moving.is_removal());
        self.occupy(links, -1);
        if was_removal {
            // Nobody may wait for these bytes any more; they stay counted.
            self.forget_leaving(expert, tier);
        }
        Ok(tier)
    }

    /// Gives up all that a transition holds. `is_under_way` where its end was not reported.
    fn forget_move(&mut self, expert: ExpertIndex, moving: &Move, is_under_way: bool) {
        for (account, reserved) in self.accounts.iter_mut().zip(moving.reserved) {
            if let Some(account) = account {
                account.cancel(reserved);
            }
        }
        if is_under_way {
            self.occupy(moving.links, -1);
            if moving.is_removal() {
                self.forget_leaving(expert, moving.tier);
            }
        }
    }

    fn forget_leaving(&mut self, expert: ExpertIndex, tier: Tier) {
        let bytes = self.experts[expert.at()].copies[tier.index()].unwrap_or(0);
        let leaving = &mut self.leaving[tier.index()];
        *leaving = leaving.saturating_sub(bytes);
    }

    fn occupy(&mut self, links: u64, by: i32) {
        for (i, link) in self.links.iter_mut().enumerate() {
            let bit = 1 << i;
            if links & bit != 0 {
                link.busy = link.busy.saturating_add_signed(by);
                self.full_links = if link.is_free() { self.full_links & !bit } else { self.full_links | bit };
            }
        }
    }

    fn add_copy(&mut self, expert: ExpertIndex, tier: Tier, bytes: u64) {
        let entry = &mut self.experts[expert.at()];
        entry.copies[tier.index()] = Some(bytes);
        if let Some(account) = &mut self.accounts[tier.index()] {
            account.hold(bytes);
        }
        let list = &mut self.residents[tier.index()];
        entry.places[tier.index()] = list.len() as u32;
        list.push(expert);
    }

    fn drop_copy(&mut self, expert: ExpertIndex, tier: Tier) {
        let entry = &mut self.experts[expert.at()];
        let Some(bytes) = entry.copies[tier.index()].take() else { return };
        if let Some(account) = &mut self.accounts[tier.index()] {
            account.release(bytes);
        }
        let place = std::mem::replace(&mut entry.places[tier.index()], NONE) as usize;
        let list = &mut self.residents[tier.index()];
        list.swap_remove(place);
        if let Some(moved) = list.get(place) {
            self.experts[moved.at()].places[tier.index()] = place as u32;
        }
        if tier == self.experts[expert.at()].serves {
            self.recount(expert);
        }
    }

    /// Counts anew how many adapters need this adapter's base.
    fn recount(&mut self, expert: ExpertIndex) {
        let Some(base) = self.experts[expert.at()].base else { return };
        let needs = |entry: &Entry| {
            entry.base == Some(base)
                && (entry.copies[entry.serves.index()].is_some()
                    || entry.moving.as_ref().is_some_and(|moving| moving.tier == entry.serves))
        };
        self.experts[base.at()].dependants = self.experts.iter().filter(|entry| needs(entry)).count() as u32;
    }
}
