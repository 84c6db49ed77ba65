//! Exploration: now and then another expert leads, by chance, and its probability is recorded.
//!
//! With probability `share` the leader is replaced by one of the other candidates, all alike (epsilon-greedy). Every
//! candidate's probability of leading, its propensity, is part of the plan:
//!
//! `P(i) = (1 - share) p_i + share (1 - p_i) / (n - 1)`
//!
//! with `p_i` the probability that the policy itself lets i lead, which is 1 or 0 unless it draws. Weighting an outcome
//! by 1/P makes estimates for other policies from what was logged unbiased (inverse propensity scoring).
//! A leader by rule (tool loop, robust expert) is never explored away: its propensity is 1.
//!
//! Worked example with share 0.1 and three candidates: the best leads with probability 0.9, each other with 0.05.

use serde::{Deserialize, Serialize};

use crate::chance::unit;
use crate::plan::{Modifier, Plan};
use crate::policy::PolicyError;

/// Settings of exploration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExploreConfig {
    /// The share of the requests that another candidate leads, above 0 and at most 0.5.
    pub share: f32,
    /// Only candidates whose score is at most this far below the best one's, in score points; all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<f32>,
}

/// Draws for exploration, unlike those of a policy that draws by the same seed.
const SALT: u64 = 0x6578_706c_6f72_6521;

impl ExploreConfig {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        if !(self.share > 0.0 && self.share <= 0.5) {
            let problem = format!("must lie above 0 and be at most 0.5, not {}", self.share);
            return Err(PolicyError { field: "explore.share", problem });
        }
        if let Some(within) = self.within.filter(|within| !(within.is_finite() && *within >= 0.0)) {
            let problem = format!("must be a finite number of at least 0, not {within}");
            return Err(PolicyError { field: "explore.within", problem });
        }
        Ok(())
    }

    /// Lets another candidate lead, or not, and notes everybody's propensity.
    pub(super) fn draw(&self, plan: &mut Plan, seed: u64) {
        let pinned = plan.pinned() > 0;
        let candidates = &mut plan.candidates;
        let Some(leader) = candidates.first() else { return };
        // A policy that draws does not rank by scores.
        let drawn = leader.propensity.is_some();
        let best = candidates.iter().map(|c| c.score).fold(f32::NEG_INFINITY, f32::max);
        let least = self.within.filter(|_| !drawn).map_or(f32::NEG_INFINITY, |within| best - within);
        let policy = |place: usize, propensity: Option<f32>| match propensity {
            Some(p) if drawn => p,
            _ => f32::from(u8::from(place == 0)),
        };
        let open = |place: usize, c: &crate::Candidate| !pinned && (place == 0 || c.score >= least);
        let reachable: Vec<usize> = candidates
            .iter()
            .enumerate()
            .filter(|(place, c)| open(*place, c))
            .map(|(place, _)| place)
            .collect();
        let others = reachable.len().saturating_sub(1);
        for (place, candidate) in candidates.iter_mut().enumerate() {
            let p = policy(place, candidate.propensity);
            candidate.propensity = Some(match others {
                0 => f32::from(u8::from(place == 0)),
                _ if !reachable.contains(&place) => 0.0,
                n => (1.0 - self.share) * p + self.share * (1.0 - p) / n as f32,
            });
        }
        if others > 0 && unit(seed ^ SALT, "whether") < f64::from(self.share) {
            let pick = (unit(seed ^ SALT, "which") * others as f64) as usize;
            // The leader is the first of the reachable ones.
            if let Some(place) = reachable.get(1 + pick.min(others - 1)) {
                candidates[..=*place].rotate_right(1);
                plan.changed_by.push(Modifier::Exploration);
            }
        }
    }
}
