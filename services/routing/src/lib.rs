//! The routing decision, and nothing else.
//!
//! A [`Policy`] maps what is known about a request ([`Request`]) and about the experts ([`Fleet`]) to a
//! ranked [`Plan`]. Everything here is pure and total: no clock, no I/O, no randomness of its own. The
//! same request, fleet and seed give the same plan, so that a logged decision can be replayed, and an
//! empty plan is a value that says why it is empty, not an error.
//!
//! [`Modifiers`] change a policy's plan by what it does not look at: load, the session, exploration. A policy
//! under modifiers is a policy.
//!
//! To add a policy: a file in `policy/` and its variant in `policy.rs`.

mod chance;
mod features;
mod fleet;
mod id;
pub mod modifier;
mod needs;
mod plan;
pub mod policy;
mod signals;
mod vector;

pub use features::{Features, Reads, Uncertainty};
pub use fleet::{Availability, Capabilities, ExpertFacts, Fleet, Live};
pub use id::{ExpertId, InvalidId};
pub use modifier::Modifiers;
pub use needs::Needs;
pub use plan::{Basis, Candidate, Modifier, Obstacle, Plan, Reason, Rejected};
pub use policy::{Policy, PolicyConfig, PolicyError, Wants};
pub use signals::{Neighbour, Scorer, Signals};
pub use vector::dot;

use std::sync::Arc;

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
    /// Score points given up per unit of cost, as the client asked; `None` for the policy's own setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f32>,
    /// Remembered prompts near this one, nearest first; looked up when [`Wants::neighbours`] says how many.
    #[serde(default, skip_serializing_if = "<[Neighbour]>::is_empty")]
    pub neighbours: Arc<[Neighbour]>,
    /// How the experts are now, in the order of [`Fleet::experts`]; looked up when [`Wants::live`] says so.
    #[serde(default, skip_serializing_if = "<[Live]>::is_empty")]
    pub live: Arc<[Live]>,
    /// Scores that experts had in this session's previous turn; looked up when [`Wants::previous`] says so.
    #[serde(default, skip_serializing_if = "<[(ExpertId, f32)]>::is_empty")]
    pub previous: Arc<[(ExpertId, f32)]>,
}

#[cfg(test)]
mod tests;
