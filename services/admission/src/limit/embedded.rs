use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::account::{Account, Accounts, Rule, Usage};
use super::counters::Counters;
use super::ledger::{Ledger, Refusal, Reservation};
use super::period::{Fixed, Moment};
use super::quota::Headroom;
use super::settings::LimitKind;
use crate::subject::Subject;

/// A ledger in this process's memory.
///
/// One mutex is held for the few dozen additions of a reservation and never longer; an account remembers
/// its place, so that nothing is looked up and nothing allocated. Requests without limits do not touch it.
/// [`sweep`](Self::sweep) bounds its memory, [`export`](Self::export) and [`restore`](Self::restore) carry
/// days and budgets over a restart.
#[derive(Debug, Default)]
pub struct Embedded {
    counters: Mutex<Counters>,
}

/// The counters of days and budgets, to be kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// In no order.
    pub counters: Vec<CounterRecord>,
}

/// One counter of a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRecord {
    /// Whose.
    pub subject: Subject,
    /// Of what.
    pub kind: LimitKind,
    /// In which day or month; see [`Window::period`](super::Window::period).
    pub period: u64,
    /// How much, money in nano-dollars.
    pub used: u64,
}

impl Embedded {
    /// A ledger with nothing used.
    pub fn new() -> Self {
        Self::default()
    }

    /// [`Ledger::reserve`] without the future.
    ///
    /// # Errors
    /// [`Refusal`] names the first limit that would be exceeded.
    pub fn try_reserve(
        &self,
        accounts: Accounts<'_>,
        estimate: Usage,
        now_ms: u64,
    ) -> Result<Reservation, Refusal> {
        let mut headroom = Headroom::default();
        if !accounts.is_empty() {
            let now = Moment::new(now_ms);
            let mut counters = self.lock();
            for account in accounts.iter() {
                counters.of(account).check(account, &estimate, &now)?;
            }
            for account in accounts.iter() {
                let subject = counters.of(account);
                for rule in account.rules() {
                    subject.add(rule.kind, estimate.of(rule.kind.resource()));
                    headroom.consider(*rule, subject.used(rule.kind), || subject.reset(rule.kind, &now));
                }
            }
        }
        Ok(Reservation::new(accounts, estimate, now_ms, headroom))
    }

    /// What an account has used of each of its limits, money in nano-dollars.
    pub fn usage(&self, account: &Account, now_ms: u64) -> Vec<(Rule, u64)> {
        let now = Moment::new(now_ms);
        let mut counters = self.lock();
        let subject = counters.of(account);
        let used = |rule: &Rule| {
            subject.advance(rule.kind, &now);
            (*rule, subject.used(rule.kind))
        };
        account.rules().iter().map(used).collect()
    }

    /// Drops the counters of subjects of which nothing counts any more; returns how many. To be called now
    /// and then. What a subject has spent of a budget without end is kept until it is
    /// [forgotten](Self::forget).
    pub fn sweep(&self, now_ms: u64) -> usize {
        self.lock().sweep(&Moment::new(now_ms))
    }

    /// Drops all counters of a subject that is no more.
    pub fn forget(&self, subject: &Subject) {
        self.lock().forget(subject);
    }

    /// The counters that must survive a restart: days, months and totals. Requests in progress are in it
    /// with their estimates.
    pub fn export(&self) -> Snapshot {
        Snapshot { counters: self.lock().records() }
    }

    /// Takes over the counters of a snapshot; where both know the period, the higher count holds.
    pub fn restore(&self, snapshot: &Snapshot) {
        let mut counters = self.lock();
        for record in &snapshot.counters {
            let known = Fixed { period: record.period, used: record.used };
            counters.of_subject(&record.subject).raise(record.kind, known);
        }
    }

    /// Puts `usage` in the place of what was reserved, with or without the request itself.
    fn correct(&self, reservation: &Reservation, usage: Option<Usage>, now_ms: u64) {
        if reservation.accounts().next().is_none() {
            return;
        }
        let (at, now) = (Moment::new(reservation.at_ms()), Moment::new(now_ms));
        let mut counters = self.lock();
        for account in reservation.accounts() {
            let subject = counters.of(account);
            for Rule { kind, .. } in account.rules() {
                let before = reservation.estimate().of(kind.resource());
                let after = usage.map_or(0, |usage| usage.of(kind.resource()));
                if after < before {
                    subject.advance(*kind, &now);
                    subject.refund(*kind, before - after, &at);
                } else if before < after {
                    subject.advance(*kind, &now);
                    subject.add(*kind, after - before);
                }
            }
        }
    }

    /// The counters. Each step leaves them whole, so that a panic elsewhere does not spoil them.
    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger for Embedded {
    async fn reserve(
        &self,
        accounts: Accounts<'_>,
        estimate: Usage,
        now_ms: u64,
    ) -> Result<Reservation, Refusal> {
        self.try_reserve(accounts, estimate, now_ms)
    }

    fn settle(&self, reservation: Reservation, usage: Usage, now_ms: u64) {
        self.correct(&reservation, Some(usage), now_ms);
    }

    fn release(&self, reservation: Reservation, now_ms: u64) {
        self.correct(&reservation, None, now_ms);
    }
}
