//! The pure core of residency.
//!
//! [`State`] is what is known of one pool: experts, copies, bytes, links, leases. [`Queue`] is who waits. [`decide()`]
//! says what to do now, and [`State::apply`] does it on paper; whoever owns both then carries it out with a driver
//! and reports back by [`State::arrived`], [`State::gone`], [`State::failed`] or [`State::lost`]. The owner asks
//! again after every event and at [`wake`], until [`decide()`] has nothing more to do. Then [`prefetch`] may have, by what
//! a [`Predictor`] remembers.

mod action;
mod admit;
mod decide;
mod expert;
mod ledger;
mod link;
mod policy;
mod pool;
mod popularity;
mod predict;
mod queue;
mod recency;
mod state;
mod tier;
mod victims;

pub use action::{Action, Cause, Reason};
pub use admit::{NewRequest, Refusal, RefusedFor, admit, estimate_us, estimates_us};
pub use decide::{bring, decide, wake};
pub use expert::{ExpertIndex, ExpertSpec, Kind, Phase, Pin};
pub use ledger::Account;
pub use link::{Link, LinkSpec};
pub use policy::{Order, Policy, Victims};
pub use pool::{PoolError, PoolSpec};
pub use predict::{Prediction, PredictionSource, Predictor, Prefetched, prefetch};
pub use queue::{Queue, Waiting};
pub use state::{Applied, Conflict, Generation, Lease, State};
pub use tier::{Source, Tier, TierSpec};

#[cfg(test)]
mod tests;
