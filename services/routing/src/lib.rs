//! The routing decision, and nothing else.
//!
//! A [`Policy`] maps what is known about a request ([`Request`]) and about the experts ([`Fleet`]) to a
//! ranked [`Plan`]. Everything here is pure and total: no clock, no I/O, no randomness of its own. The
//! same request, fleet and seed give the same plan, so that a logged decision can be replayed, and an
//! empty plan is a value that says why it is empty, not an error.
//!
//! To add a policy: a file in `policy/` and its variant in `policy.rs`.

mod features;
mod fleet;
mod id;
mod needs;
mod plan;
pub mod policy;

pub use features::{Features, Reads, Uncertainty};
pub use fleet::{Availability, Capabilities, ExpertFacts, Fleet};
pub use id::{ExpertId, InvalidId};
pub use needs::Needs;
pub use plan::{Basis, Candidate, Obstacle, Plan, Reason, Rejected};
pub use policy::{Policy, PolicyConfig, PolicyError};

use serde::{Deserialize, Serialize};

/// What a policy may know about one request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// What the encoder read; `None` when the policy does not ask for it or the encoder gave no answer.
    pub features: Option<Features>,
    /// What an expert must be able to do to answer at all.
    pub needs: Needs,
    /// The expert that answered this session's previous turn, while the conversation is inside a tool
    /// loop: the request carries the result of a tool call which that expert asked for.
    pub held_by: Option<ExpertId>,
}
