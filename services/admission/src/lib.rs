//! Who may send a request, how much, and when.
//!
//! - Who: [`KeyRing`] knows virtual API keys by the hashes of their secrets.
//! - How much: a [`Ledger`] counts requests, tokens and money against [`Limits`].
//! - When: a [`Gate`] bounds the requests in progress; its queue is bounded, fair between keys and aware of
//!   deadlines, and its limit may follow what [`adaptive`] measures.
//!
//! HTTP, files and storage are the gateway's. Time is a parameter: wall-clock moments are milliseconds since
//! the Unix epoch (`*_ms: u64`), and the queue's are microseconds since a start of its own (`*_us: u64`).
//! Only [`Gate`], the thin asynchronous shell around the pure queue, reads a clock, and that is tokio's.

pub mod adaptive;
pub mod gate;
pub mod key;
pub mod limit;
mod priority;
mod problem;
mod subject;
mod usd;

pub use adaptive::{AdaptiveConfig, Outcome, Sample};
pub use gate::{Gate, GateConfig, Gates, Permit, Rejected, Ticket};
pub use key::{Key, KeyRing, KeySpec, KeyView, Permissions, Refused, Team, TeamSpec, Token};
pub use limit::{
    Account, Accounts, Embedded, Headroom, Ledger, LimitKind, Limits, Refusal, Reservation, Snapshot, Usage,
};
pub use priority::Priority;
pub use problem::Problem;
pub use subject::Subject;
pub use usd::Usd;
