//! Routing policies: one file each, listed here.

mod coe;
mod fixed;

pub use coe::{Coe, CoeConfig, UncertaintyConfig};
pub use fixed::{Share, Static, StaticConfig};

use serde::{Deserialize, Serialize};

use crate::fleet::{Availability, ExpertFacts, Fleet};
use crate::id::ExpertId;
use crate::plan::{Basis, Candidate, Obstacle, Plan, Reason};
use crate::{Needs, Request};

/// A pure function from a request and the fleet to a plan.
pub trait Policy: Send + Sync {
    /// Ranks the experts that can answer `request`. `seed` stands for every random choice; the same
    /// arguments give the same plan. Total: no input makes it fail.
    fn plan(&self, request: &Request, fleet: &Fleet, seed: u64) -> Plan;

    /// Whether the policy looks at [`Request::features`]; when not, the encoder is spared.
    fn reads_features(&self) -> bool;

    /// The experts that the policy names, for checks of the configuration.
    fn named_experts(&self) -> Vec<&ExpertId>;
}

/// A policy with its settings, as routes carry it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PolicyConfig {
    /// Composition of Experts: classify, then map category to expert.
    Coe(CoeConfig),
    /// A fixed order, or a split by weight.
    Static(StaticConfig),
}

/// What is wrong with a policy's settings.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct PolicyError {
    /// The setting, as a path below the policy.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl PolicyConfig {
    /// Checks the settings and makes the policy.
    ///
    /// # Errors
    /// [`PolicyError`] naming the setting that cannot be.
    pub fn build(&self) -> Result<Box<dyn Policy>, PolicyError> {
        Ok(match self {
            Self::Coe(config) => Box::new(Coe::new(config.clone())?),
            Self::Static(config) => Box::new(Static::new(config.clone())?),
        })
    }

    /// The policy's name, as in the configuration and in the answer header.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Coe(_) => "coe",
            Self::Static(_) => "static",
        }
    }
}

/// Why an expert cannot be a candidate, whatever its score.
fn obstacle(expert: &ExpertFacts, needs: Needs) -> Option<Obstacle> {
    match expert.availability {
        Availability::Draining => Some(Obstacle::Draining),
        Availability::Unhealthy => Some(Obstacle::Unhealthy),
        Availability::Ready => needs.unmet_by(expert),
    }
}

/// Puts the expert that holds the session in front: inside a tool loop the conversation stays with who
/// asked for the tool, even while that expert is drained, as long as it can answer at all.
fn hold_session(plan: &mut Plan, request: &Request, fleet: &Fleet) {
    let Some(holder) = &request.held_by else { return };
    let Some(facts) = fleet.get(holder.as_str()) else { return };
    if facts.availability == Availability::Unhealthy || request.needs.unmet_by(facts).is_some() {
        return;
    }
    let score = match plan.candidates.iter().position(|c| c.expert == *holder) {
        Some(at) => plan.candidates.remove(at).score,
        None => 0.0,
    };
    plan.rejected.retain(|r| r.expert != *holder);
    plan.candidates.insert(0, Candidate { expert: holder.clone(), score, reason: Reason::HeldSession });
    plan.basis = Basis::Session;
}

/// Sorts best first; equal scores go to the cheaper expert, then to the smaller id, so that the order is
/// total and does not depend on where the experts stood before.
fn rank(candidates: &mut [(f32, &ExpertFacts, Reason)]) {
    candidates.sort_by(|(a, x, _), (b, y, _)| {
        b.total_cmp(a).then(x.cost.total_cmp(&y.cost)).then_with(|| x.id.cmp(&y.id))
    });
}

#[cfg(test)]
mod tests;
