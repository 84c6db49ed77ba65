//! Adaptive number of experts: candidates until their probabilities reach p ("top-p"), then a cascade over them.
//!
//! The candidates that are left are tried in order until one answers; the others are rejected with the obstacle
//! `improbable`. A sure decision keeps one expert, a doubtful one several.
//!
//! - `by: scores`: the candidates' probabilities are softmax(score / temperature).
//! - `by: categories`: the most probable categories until their p(c|x) reach the mass; kept is, for each of them, the
//!   candidate with the highest skill in it. That is what `coe` is doubtful about.
//!
//! Worked example by scores with temperature 0.1 and mass 0.9: scores 0.7, 0.6, 0.2 have the probabilities 0.73, 0.27,
//! 0.005. The first is not enough, the first two are: the third is cut.

use serde::{Deserialize, Serialize};

use crate::Request;
use crate::fleet::Fleet;
use crate::id::ExpertId;
use crate::plan::{Modifier, Obstacle, Plan, Rejected};
use crate::policy::PolicyError;
use crate::vector::softmax;

/// Settings of the adaptive number of experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveConfig {
    /// p: the probability that the kept candidates reach together; above 0, at most 1.
    pub mass: f32,
    /// Whose probabilities.
    pub by: Mass,
    /// What scores are divided by before the softmax; above 0. Only for `by: scores`.
    pub temperature: f32,
}

/// Whose probabilities are added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mass {
    /// The candidates', by a softmax of what they are ranked by.
    #[default]
    Scores,
    /// The categories', each of which keeps its best candidate.
    Categories,
}

impl Default for AdaptiveConfig {
    fn default() -> Self {
        Self { mass: 0.9, by: Mass::Scores, temperature: 0.1 }
    }
}

impl AdaptiveConfig {
    pub(super) fn check(&self) -> Result<(), PolicyError> {
        if !(self.mass > 0.0 && self.mass <= 1.0) {
            let problem = format!("must lie above 0 and be at most 1, not {}", self.mass);
            return Err(PolicyError { field: "adaptive.mass", problem });
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            let problem = format!("must be a finite number above 0, not {}", self.temperature);
            return Err(PolicyError { field: "adaptive.temperature", problem });
        }
        Ok(())
    }

    /// Rejects the candidates that are probably not needed. Those that lead by rule stay, and count for nothing.
    pub(super) fn cut(&self, plan: &mut Plan, ranks: &mut Vec<f32>, request: &Request, fleet: &Fleet) {
        let pinned = plan.pinned();
        let kept: Vec<bool> = match self.by {
            Mass::Scores => {
                let shares = softmax(&ranks[pinned..], self.temperature);
                let mut before = 0.0;
                let enough = shares.into_iter().map(|share| {
                    let kept = before < self.mass;
                    before += share;
                    kept
                });
                enough.collect()
            }
            Mass::Categories => {
                let best = best_of_categories(self.mass, &plan.candidates[pinned..], request, fleet);
                // Without categories, or without anybody who is skilled in them, there is nothing to go by.
                let all = best.is_empty();
                plan.candidates[pinned..].iter().map(|c| all || best.contains(&c.expert)).collect()
            }
        };
        if kept.iter().all(|kept| *kept) {
            return;
        }
        let mut keep = std::iter::repeat_n(true, pinned).chain(kept.iter().copied());
        ranks.retain(|_| keep.next().unwrap_or(true));
        let mut keep = std::iter::repeat_n(true, pinned).chain(kept);
        let rejected = &mut plan.rejected;
        plan.candidates.retain(|candidate| {
            let kept = keep.next().unwrap_or(true);
            if !kept {
                let expert = candidate.expert.clone();
                rejected.push(Rejected { expert, obstacle: Obstacle::Improbable });
            }
            kept
        });
        plan.changed_by.push(Modifier::Adaptive);
    }
}

/// The best candidate of each of the most probable categories that reach the mass together.
fn best_of_categories(
    mass: f32,
    candidates: &[crate::Candidate],
    request: &Request,
    fleet: &Fleet,
) -> Vec<ExpertId> {
    let Some(features) = &request.features else { return Vec::new() };
    let mut categories: Vec<(usize, f32)> = features.probabilities.iter().copied().enumerate().collect();
    categories.sort_by(|(a, p), (b, q)| q.total_cmp(p).then(a.cmp(b)));
    let skill = |expert: &ExpertId, category: usize| {
        fleet.get(expert.as_str()).and_then(|e| e.skills.get(category)).copied().unwrap_or(0.0)
    };
    let (mut before, mut best) = (0.0, Vec::new());
    for (category, probability) in categories {
        if before >= mass {
            break;
        }
        before += probability;
        // The first of equals, which the policy prefers.
        let skills = candidates.iter().map(|c| (&c.expert, skill(&c.expert, category)));
        let leader = skills.filter(|(_, skill)| *skill > 0.0).reduce(|a, b| if b.1 > a.1 { b } else { a });
        best.extend(leader.map(|(expert, _)| expert.clone()));
    }
    best
}
