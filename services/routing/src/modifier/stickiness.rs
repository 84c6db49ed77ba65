//! Stickiness: the previous turn's scores as a residual.
//!
//! Each candidate is ranked by `score + rho * previous score`, where the previous score is the one that the expert had
//! in the plan of the session's last turn, 0 when it had none. A conversation changes its expert only when the new
//! prompt speaks for another one more clearly than the last one spoke for this one. A tool loop never changes its
//! expert: that is a rule of its own.
//!
//! Worked example with rho = 0.3: last turn a had 0.8 and b 0.5. This turn a has 0.55 and b 0.6: a ranks by
//! 0.55 + 0.24 = 0.79, b by 0.6 + 0.15 = 0.75, and a stays. With 0.75 for b it would be 0.79 against 0.9.

use serde::{Deserialize, Serialize};

use crate::Request;
use crate::plan::Plan;
use crate::policy::PolicyError;

/// Settings of stickiness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StickinessConfig {
    /// The weight of the previous turn's score, in 0..=1.
    pub rho: f32,
}

impl StickinessConfig {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        if (0.0..=1.0).contains(&self.rho) {
            return Ok(());
        }
        let problem = format!("must lie in 0..=1, not {}", self.rho);
        Err(PolicyError { field: "stickiness.rho", problem })
    }

    /// Adds what the previous turn speaks for each candidate.
    pub(super) fn add(&self, plan: &Plan, request: &Request, ranks: &mut [f32]) {
        for (rank, candidate) in ranks.iter_mut().zip(&plan.candidates) {
            let before = request.previous.iter().find(|(expert, _)| *expert == candidate.expert);
            let residual = self.rho * before.map_or(0.0, |(_, score)| *score);
            if residual.is_finite() {
                *rank += residual;
            }
        }
    }
}
