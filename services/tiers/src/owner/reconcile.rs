//! What the servers say is where.

use super::Shared;
use super::core::{Core, Job, Repair, Task};
use super::watch::Event;
use crate::driver::{DriverError, Evidence, Inventory, Placed, Residence};
use crate::residency::{ExpertIndex, Generation, Phase, Pin, Tier};

/// From the end of a probe to the next, where something is wrong.
const SOON_US: u64 = 1_000_000;

/// From the start of a probe to the start of the next, at least.
const GAP_US: u64 = 250_000;

/// When a driver is asked, and what it said.
#[derive(Clone, Debug, Default)]
pub(super) struct ProbeMark {
    /// When it is asked next.
    pub(super) at_us: u64,
    pub(super) under_way: bool,
    began_us: u64,
    /// When the question that was asked last had been asked, once it was answered or given up.
    pub(super) ended_us: u64,
    /// When it answered last.
    pub(super) answered_us: Option<u64>,
    /// Why it did not answer the last time.
    pub(super) error: Option<DriverError>,
    /// What its servers hold besides its experts.
    pub(super) strangers: Vec<String>,
}

/// A question to a driver, with what was known when it was asked: what changed since is not taken over.
pub(super) struct Probe {
    pub(super) driver: usize,
    before: Vec<(ExpertIndex, Generation)>,
    /// Whether nothing moved.
    quiet: bool,
}

impl Core {
    /// Has a driver asked soon.
    pub(super) fn probe_soon(&mut self, now_us: u64, driver: usize) {
        let mark = &mut self.probes[driver];
        mark.at_us = mark.at_us.min(now_us.max(mark.began_us + GAP_US));
    }

    /// The drivers that are to be asked now.
    pub(super) fn due_probes(&mut self, now_us: u64, driver_of: &[Option<usize>]) -> Vec<Probe> {
        let mut due = Vec::new();
        let quiet = self.is_quiet();
        for driver in 0..self.probes.len() {
            let mark = &mut self.probes[driver];
            if mark.under_way || now_us < mark.at_us {
                continue;
            }
            mark.under_way = true;
            mark.began_us = now_us;
            // Who asks for a probe while it is under way gets another one.
            mark.at_us = u64::MAX;
            let rests = experts_of(driver, driver_of).filter(|expert| !self.is_moving(*expert));
            let before = rests.map(|expert| (expert, self.state.generation(expert))).collect();
            due.push(Probe { driver, before, quiet });
        }
        due
    }

    fn is_moving(&self, expert: ExpertIndex) -> bool {
        self.state.phase(expert).is_some_and(Phase::is_moving)
            || self.marks[expert.0 as usize].repair == Repair::UnderWay
    }

    fn is_quiet(&self) -> bool {
        !(0..self.state.len() as u32).map(ExpertIndex).any(|expert| self.is_moving(expert))
    }

    /// Takes over what a driver said.
    pub(super) fn probed(
        &mut self,
        now_us: u64,
        probe: &Probe,
        result: Result<Inventory, DriverError>,
        shared: &Shared,
    ) {
        let driver = &shared.drivers[probe.driver];
        let mark = &mut self.probes[probe.driver];
        mark.under_way = false;
        mark.ended_us = mark.began_us;
        let inventory = match result {
            Ok(inventory) => inventory,
            Err(error) => {
                shared.watch.event(&Event::ProbeFailed { driver: driver.name(), kind: error.kind });
                for (expert, generation) in &probe.before {
                    // What was known of a server that does not answer is no longer known.
                    if self.state.generation(*expert) == *generation && !self.is_moving(*expert) {
                        self.doubt(*expert);
                    }
                }
                let mark = &mut self.probes[probe.driver];
                if mark.error.is_none() {
                    tracing::warn!(
                        pool.id = %shared.id, driver = driver.name(), error.kind = %error.kind, %error,
                        "a driver cannot tell where its experts are; they take no requests until it can"
                    );
                }
                mark.error = Some(error);
                mark.at_us = mark.at_us.min(now_us + SOON_US);
                return;
            }
        };
        let mut open = false;
        for (expert, generation) in &probe.before {
            let Some(id) = self.state.spec(*expert).map(|spec| spec.id.clone()) else { continue };
            let Some(placed) = inventory.experts.get(&id) else { continue };
            if self.state.generation(*expert) != *generation || self.is_moving(*expert) {
                continue;
            }
            self.reconcile(now_us, *expert, placed, shared);
            open |= self.state.phase(*expert) == Some(&Phase::Unknown);
        }
        if probe.quiet
            && self.is_quiet()
            && let Some(free) = inventory.free_bytes
        {
            self.weigh(free);
        }
        let mark = &mut self.probes[probe.driver];
        if mark.error.take().is_some() {
            tracing::info!(pool.id = %shared.id, driver = driver.name(), "a driver answers again");
        }
        mark.strangers = inventory.strangers;
        mark.answered_us = Some(now_us);
        let every_us = shared.timing.reconcile_every_s.max(1).saturating_mul(1_000_000);
        let next_us = if open { SOON_US } else { every_us };
        mark.at_us = mark.at_us.min(now_us.saturating_add(next_us));
    }

    fn reconcile(&mut self, now_us: u64, expert: ExpertIndex, placed: &Placed, shared: &Shared) {
        let Some(phase) = self.state.phase(expert) else { return };
        let settled =
            matches!(phase, Phase::Absent | Phase::Cold | Phase::Warm | Phase::Hot | Phase::Draining);
        match placed.residence {
            Residence::In(tier) => {
                let same = self.state.nearest(expert) == self.tier_of(expert, tier);
                // What nobody confirmed does not outweigh what is remembered here.
                if settled && (same || placed.evidence == Evidence::Assumed) {
                    return;
                }
                if settled && let Some(spec) = self.state.spec(expert) {
                    shared.watch.event(&Event::Mismatch { expert: &spec.id });
                    tracing::warn!(
                        pool.id = %shared.id, expert.id = %spec.id, found = %tier,
                        "an expert is not where it was put; taken over"
                    );
                }
                self.take_over(now_us, expert, placed);
            }
            Residence::Moving | Residence::Unknown if settled => {
                if let Some(spec) = self.state.spec(expert) {
                    shared.watch.event(&Event::Mismatch { expert: &spec.id });
                }
                self.doubt(expert);
            }
            Residence::Unknown => {
                if let Some(to) = self.state.heading(expert) {
                    self.repair(now_us, Job { expert, to, task: Task::Repair });
                }
            }
            // It had its time. What is on its way out ends by itself.
            Residence::Moving => {
                if let Some(home) = self.state.heading(expert).and(self.state.home(expert)) {
                    self.repair(now_us, Job { expert, to: home, task: Task::TakeBack });
                }
            }
        }
    }

    /// What was on its way when it was lost is brought again where its server cannot tell what became of it, and taken
    /// back where it never ends. Its bytes are reserved as it is.
    fn repair(&mut self, now_us: u64, job: Job) {
        let mark = &mut self.marks[job.expert.0 as usize];
        if matches!(mark.repair, Repair::At(at_us) if now_us >= at_us) {
            mark.repair = Repair::UnderWay;
            self.push_job(job);
        }
    }

    fn doubt(&mut self, expert: ExpertIndex) {
        if !matches!(self.state.phase(expert), Some(Phase::Failed { .. } | Phase::Unknown)) {
            // Transitions under way were ruled out.
            let _doubted = self.state.doubted(expert);
        }
    }

    /// The tier of an expert that a tier of its server means: copies that it may not have do not count.
    fn tier_of(&self, expert: ExpertIndex, tier: Tier) -> Option<Tier> {
        let spec = self.state.spec(expert)?;
        spec.bytes.range(tier..).map(|(tier, _)| *tier).next().or_else(|| self.state.home(expert))
    }

    /// Takes over where an expert is, with the bytes that were measured, else the declared ones.
    pub(super) fn take_over(&mut self, now_us: u64, expert: ExpertIndex, placed: &Placed) {
        let Residence::In(tier) = placed.residence else { return };
        let (Some(nearest), Some(spec)) = (self.tier_of(expert, tier), self.state.spec(expert)) else {
            return;
        };
        let bytes = |tier: Tier, declared: u64| {
            let measured = placed.bytes.get(&tier).filter(|(_, source)| source.is_measured());
            measured.map_or(declared, |(bytes, _)| *bytes)
        };
        let copies: Vec<_> =
            spec.bytes.range(nearest..).map(|(tier, declared)| (*tier, bytes(*tier, *declared))).collect();
        // The tiers are the expert's own.
        let _taken = self.state.probed(now_us, expert, &copies);
        self.settle(now_us, expert);
    }

    /// Keeps what is found ready after the start for a while: whoever used it before may come back for it.
    fn settle(&mut self, now_us: u64, expert: ExpertIndex) {
        let known = std::mem::replace(&mut self.marks[expert.0 as usize].found, true);
        if !known && self.settle_us > 0 && self.state.is_hot(expert) && self.state.pinned(expert) == Pin::None
        {
            // The expert is one of the pool.
            let _pinned = self.state.pin(expert, Pin::Soft { until_us: now_us + self.settle_us });
        }
    }

    /// A server removed an expert by itself.
    pub(super) fn is_home(&mut self, now_us: u64, expert: &routing::ExpertId, shared: &Shared) {
        let Some(expert) = self.state.index(expert) else { return };
        if self.is_moving(expert) {
            return;
        }
        if let Some(spec) = self.state.spec(expert) {
            shared.watch.event(&Event::Mismatch { expert: &spec.id });
        }
        // Without copies it is at home.
        let _home = self.state.probed(now_us, expert, &[]);
    }

    /// Takes over the free bytes that were measured on the accelerator.
    fn weigh(&mut self, free: u64) {
        if let Some(account) = self.state.account(Tier::Hbm) {
            let expected = account.usable().saturating_sub(account.used()).saturating_sub(account.incoming());
            self.state.measured(Tier::Hbm, expected.saturating_sub(free));
        }
    }
}

fn experts_of(driver: usize, driver_of: &[Option<usize>]) -> impl Iterator<Item = ExpertIndex> {
    let all = (0..).map(ExpertIndex).zip(driver_of);
    all.filter(move |(_, of)| **of == Some(driver)).map(|(expert, _)| expert)
}
