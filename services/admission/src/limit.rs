//! Limits on requests, tokens and money.
//!
//! A request is charged to several [`Account`]s at once (its key, its team, its route), to all or to none:
//! [`Ledger::reserve`] takes one request, the estimated tokens and the estimated cost before the call,
//! [`Ledger::settle`] puts the real usage in the estimate's place after it. A request that failed is
//! settled with no usage and still counts as a request; one for which nothing was done is
//! [released](Ledger::release).
//!
//! *Minutes slide.* A minute's counter is a ring of two-second buckets, and a charge counts until its
//! bucket is a whole minute old. So the sum of what was reserved within any 60 seconds never exceeds the
//! limit, wherever the 60 seconds begin. A fixed window and GCRA with a burst of the limit both admit
//! twice the limit around an edge, and the usual two-window estimate up to that much when the earlier
//! traffic came late in its window. The price is that a charge may count up to two seconds longer than a
//! minute.
//!
//! *Days and months are calendar ones* in UTC, since that is what budgets and bills mean by them.
//!
//! An amount is charged to the moment of the reservation, where a refund takes it from again; usage beyond
//! the estimate is charged to the moment of settling, since what has been used cannot be refused any more.
//! A window that is overdrawn in this way admits nothing until it has drained.

mod account;
mod counters;
mod embedded;
mod ledger;
mod period;
mod quota;
mod settings;
mod sliding;

pub use account::{Account, Accounts, Rule, Usage};
pub use embedded::{CounterRecord, Embedded, Snapshot};
pub use ledger::{Ledger, Refusal, Reservation};
pub use quota::{Headroom, Quota, ResetIn};
pub use settings::{LimitKind, Limits, Resource, Window};

#[cfg(test)]
mod tests;
