//! What keeps failures small: pure rules for retries, breakers, hedges and the choice between endpoints.
//!
//! Everything here takes the time and the randomness as parameters, touches no socket and no clock, and can
//! be replayed. The kinds of experts put it to work.

pub(crate) mod backoff;
pub(crate) mod balance;
pub(crate) mod breaker;
pub(crate) mod budget;
pub(crate) mod hedge;

pub use backoff::{Backoff, Retries, retry_after};
pub use balance::Balancing;
pub use breaker::{BreakerSettings, BreakerState};
pub use budget::RetryBudget;
pub use hedge::Hedge;

use crate::spec::Report;

/// A time in milliseconds longer than this is a mistake of units.
const LONGEST: u64 = 24 * 3_600_000;

/// Reports a time that is 0 or absurd.
pub(crate) fn check_ms(report: &mut Report<'_>, field: &str, ms: u64) {
    if !(1..=LONGEST).contains(&ms) {
        report.add(field, format!("is {ms}; must be between 1 and {LONGEST} milliseconds"));
    }
}

/// Reports a share that is none.
pub(crate) fn check_share(report: &mut Report<'_>, field: &str, share: f32) {
    if !(0.0..=1.0).contains(&share) {
        report.add(field, format!("is {share}; must be between 0 and 1"));
    }
}
