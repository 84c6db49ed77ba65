use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::account::{Account, Rule, Usage};
use super::embedded::CounterRecord;
use super::ledger::Refusal;
use super::period::{Fixed, Moment};
use super::quota::ResetIn;
use super::settings::{LimitKind, Window};
use super::sliding::Sliding;
use crate::subject::Subject;

/// Counters that do not slide.
const FIXED: usize = LimitKind::ALL.len() - LimitKind::SLIDING;

/// The counters of all subjects, each in a slot of its own.
#[derive(Debug, Default)]
pub(super) struct Counters {
    slots: Vec<SubjectCounters>,
    vacant: Vec<usize>,
    by_subject: HashMap<Subject, usize>,
}

impl Counters {
    /// The counters of an account's subject, found where they were the last time.
    pub(super) fn of(&mut self, account: &Account) -> &mut SubjectCounters {
        // The mutex around all this orders the accesses; the hint itself needs no order.
        let hint = account.slot.load(Ordering::Relaxed) as usize;
        let slot = match self.slots.get(hint) {
            Some(there) if there.subject.as_ref() == Some(account.subject()) => hint,
            _ => {
                let slot = self.slot(account.subject());
                account.slot.store(u32::try_from(slot).unwrap_or(u32::MAX), Ordering::Relaxed);
                slot
            }
        };
        &mut self.slots[slot]
    }

    /// The counters of a subject.
    pub(super) fn of_subject(&mut self, subject: &Subject) -> &mut SubjectCounters {
        let slot = self.slot(subject);
        &mut self.slots[slot]
    }

    fn slot(&mut self, subject: &Subject) -> usize {
        if let Some(slot) = self.by_subject.get(subject) {
            return *slot;
        }
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(SubjectCounters::default());
            self.slots.len() - 1
        });
        self.slots[slot].subject = Some(subject.clone());
        self.by_subject.insert(subject.clone(), slot);
        slot
    }

    /// Drops the counters of a subject.
    pub(super) fn forget(&mut self, subject: &Subject) {
        if let Some(slot) = self.by_subject.remove(subject) {
            self.slots[slot] = SubjectCounters::default();
            self.vacant.push(slot);
        }
    }

    /// Drops what does not count any more; returns how many subjects that were.
    pub(super) fn sweep(&mut self, now: &Moment) -> usize {
        let idle: Vec<Subject> = self
            .slots
            .iter_mut()
            .filter_map(|slot| slot.sweep(now).then(|| slot.subject.clone()).flatten())
            .collect();
        for subject in &idle {
            self.forget(subject);
        }
        if self.by_subject.is_empty() {
            *self = Self::default();
        }
        idle.len()
    }

    /// All counters that do not slide and are not zero.
    pub(super) fn records(&self) -> Vec<CounterRecord> {
        let used = |slot: &SubjectCounters| {
            let Some(subject) = slot.subject.clone() else { return Vec::new() };
            let kinds = LimitKind::ALL[LimitKind::SLIDING..].iter().zip(&slot.fixed);
            kinds
                .filter(|(_, fixed)| fixed.used > 0)
                .map(|(kind, fixed)| CounterRecord {
                    subject: subject.clone(),
                    kind: *kind,
                    period: fixed.period,
                    used: fixed.used,
                })
                .collect()
        };
        self.slots.iter().flat_map(used).collect()
    }
}

/// All counters of one subject. Only those of limits that it has are ever above zero.
#[derive(Debug, Default)]
pub(super) struct SubjectCounters {
    /// `None` when the slot is vacant.
    subject: Option<Subject>,
    sliding: [Option<Box<Sliding>>; LimitKind::SLIDING],
    fixed: [Fixed; FIXED],
}

impl SubjectCounters {
    /// Whether a request fits into all of an account's limits; brings the counters up to date.
    pub(super) fn check(&mut self, account: &Account, estimate: &Usage, now: &Moment) -> Result<(), Refusal> {
        for rule in account.rules() {
            self.advance(rule.kind, now);
            let used = self.used(rule.kind);
            let amount = estimate.of(rule.kind.resource());
            if used.saturating_add(amount) > rule.limit {
                return Err(self.refusal(account, *rule, amount, now));
            }
        }
        Ok(())
    }

    #[cold]
    fn refusal(&self, account: &Account, rule: Rule, amount: u64, now: &Moment) -> Refusal {
        let fits_at = rule.limit.checked_sub(amount).and_then(|allowed| match rule.kind.window() {
            Window::Minute => self.sliding[rule.kind as usize].as_ref().map(|s| s.drained_to(allowed)),
            window => window.end(now.ms),
        });
        Refusal {
            subject: account.subject().clone(),
            rule,
            used: self.used(rule.kind),
            retry_after: fits_at.map(|at| Duration::from_millis(at.saturating_sub(now.ms).max(1))),
            reset: ResetIn(self.reset(rule.kind, now)),
        }
    }

    /// Brings a counter up to date.
    pub(super) fn advance(&mut self, kind: LimitKind, now: &Moment) {
        match (kind as usize).checked_sub(LimitKind::SLIDING) {
            None => self.sliding[kind as usize].get_or_insert_with(Box::default).advance(now.ms),
            Some(fixed) => self.fixed[fixed].advance(now.period(kind.window())),
        }
    }

    /// What counts, as of the last [`advance`](Self::advance).
    pub(super) fn used(&self, kind: LimitKind) -> u64 {
        match (kind as usize).checked_sub(LimitKind::SLIDING) {
            None => self.sliding[kind as usize].as_ref().map_or(0, |sliding| sliding.used()),
            Some(fixed) => self.fixed[fixed].used,
        }
    }

    /// Charges an amount to the moment of the last [`advance`](Self::advance).
    pub(super) fn add(&mut self, kind: LimitKind, amount: u64) {
        match (kind as usize).checked_sub(LimitKind::SLIDING) {
            None => self.sliding[kind as usize].get_or_insert_with(Box::default).add(amount),
            Some(fixed) => self.fixed[fixed].add(amount),
        }
    }

    /// Takes back what was charged at a moment, as far as it still counts.
    pub(super) fn refund(&mut self, kind: LimitKind, amount: u64, at: &Moment) {
        match (kind as usize).checked_sub(LimitKind::SLIDING) {
            None => {
                if let Some(sliding) = &mut self.sliding[kind as usize] {
                    sliding.refund(at.ms, amount);
                }
            }
            Some(fixed) => self.fixed[fixed].refund(at.period(kind.window()), amount),
        }
    }

    /// Raises a counter that does not slide to what is known from elsewhere.
    pub(super) fn raise(&mut self, kind: LimitKind, known: Fixed) {
        if let Some(fixed) = (kind as usize).checked_sub(LimitKind::SLIDING) {
            let own = &mut self.fixed[fixed];
            if own.period < known.period {
                *own = known;
            } else if own.period == known.period {
                own.used = own.used.max(known.used);
            }
        }
    }

    /// Until nothing is used, in milliseconds; 0 for what never resets.
    pub(super) fn reset(&self, kind: LimitKind, now: &Moment) -> u64 {
        let at = match kind.window() {
            Window::Minute => self.sliding[kind as usize].as_ref().map(|sliding| sliding.drained()),
            window => window.end(now.ms),
        };
        if self.used(kind) == 0 { 0 } else { at.map_or(0, |at| at.saturating_sub(now.ms)) }
    }

    /// Frees what does not count any more; whether nothing is left.
    fn sweep(&mut self, now: &Moment) -> bool {
        if self.subject.is_none() {
            return false;
        }
        for sliding in &mut self.sliding {
            if let Some(minute) = sliding {
                minute.advance(now.ms);
                if minute.used() == 0 {
                    *sliding = None;
                }
            }
        }
        for kind in &LimitKind::ALL[LimitKind::SLIDING..] {
            self.advance(*kind, now);
        }
        self.sliding.iter().all(Option::is_none) && self.fixed.iter().all(|fixed| fixed.used == 0)
    }
}
