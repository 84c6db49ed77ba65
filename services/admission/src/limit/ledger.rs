use std::sync::Arc;
use std::time::Duration;

use super::account::{Account, Accounts, Rule, Usage};
use super::quota::{Headroom, ResetIn};
use super::settings::Window;
use crate::subject::Subject;

/// Counts what was used against limits.
///
/// The seam between the gateway and where counters live. Each call is one atomic step over a short list of
/// (subject, [`Rule`], amount), which [`Accounts::iter`], [`Account::rules`] and [`Usage::of`] spell out, so
/// that a shared store can do it in one script: add all amounts if no sum exceeds its limit, else name the
/// first that would. Corrections are never refused and nobody waits for them, so that they can be made
/// where a client that left is noticed, in a destructor; a remote ledger sends them in the background.
///
/// Moments are milliseconds since the Unix epoch.
pub trait Ledger: Send + Sync {
    /// Charges one request with its estimated usage to all accounts, or to none.
    ///
    /// # Errors
    /// [`Refusal`] names the first limit that would be exceeded.
    fn reserve(
        &self,
        accounts: Accounts<'_>,
        estimate: Usage,
        now_ms: u64,
    ) -> impl Future<Output = Result<Reservation, Refusal>> + Send;

    /// Puts the real usage in the estimate's place. The request itself stays counted.
    fn settle(&self, reservation: Reservation, usage: Usage, now_ms: u64);

    /// Gives everything back, the request too: nothing was done for it.
    fn release(&self, reservation: Reservation, now_ms: u64);
}

/// What a request has been charged. Dropping it leaves the estimate charged, which errs on the safe side;
/// hand it to [`Ledger::settle`] or [`Ledger::release`].
#[derive(Debug)]
#[must_use = "settle or release it, or the estimate stays charged"]
pub struct Reservation {
    accounts: [Option<Arc<Account>>; 3],
    estimate: Usage,
    at_ms: u64,
    headroom: Headroom,
}

impl Reservation {
    /// For implementations of [`Ledger`].
    pub fn new(accounts: Accounts<'_>, estimate: Usage, at_ms: u64, headroom: Headroom) -> Self {
        let Accounts { key, team, route } = accounts;
        Self { accounts: [key.cloned(), team.cloned(), route.cloned()], estimate, at_ms, headroom }
    }

    /// The accounts that were charged.
    pub fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.accounts.iter().flatten()
    }

    /// What was charged beside the one request.
    pub fn estimate(&self) -> Usage {
        self.estimate
    }

    /// When, in milliseconds since the Unix epoch.
    pub fn at_ms(&self) -> u64 {
        self.at_ms
    }

    /// What was left of the tightest limits, this request deducted.
    pub fn headroom(&self) -> Headroom {
        self.headroom
    }
}

/// Why a request may not be sent now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject} has reached its limit {kind}", kind = .rule.kind)]
pub struct Refusal {
    /// Whose limit it is.
    pub subject: Subject,
    /// Which.
    pub rule: Rule,
    /// What of it was used, this request not included; money in nano-dollars.
    pub used: u64,
    /// When the request would fit if nobody else sends one; `None` when it never will: it asks for more
    /// than the whole limit, or the limit is for ever.
    pub retry_after: Option<Duration>,
    /// Until all of the limit is there again, when nothing more is used.
    pub reset: ResetIn,
}

impl Refusal {
    /// Whether a client library that retries by itself would only do harm: the request never fits, or not
    /// before a day or month is over. For `x-should-retry: false`.
    pub fn is_final(&self) -> bool {
        self.retry_after.is_none() || self.rule.kind.window() != Window::Minute
    }

    /// What is left of the limit that refused, for the same headers as on an answer.
    pub fn headroom(&self) -> Headroom {
        let mut headroom = Headroom::default();
        headroom.consider(self.rule, self.used, || self.reset.0);
        headroom
    }
}
