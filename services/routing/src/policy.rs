//! Routing policies: one file each, listed here.

mod coe;
mod cost_quality;
mod fixed;
mod gates;
mod glider;
mod knn;
mod router_retriever;

pub use coe::{Coe, CoeConfig, UncertaintyConfig};
pub use cost_quality::{CostQuality, CostQualityConfig, CostScale, PairConfig};
pub use fixed::{Share, Static, StaticConfig};
pub use gates::{Gates, GatesConfig};
pub use glider::{Glider, GliderConfig};
pub use knn::{Knn, KnnConfig};
pub use router_retriever::{PilotPooling, RouterRetriever, RouterRetrieverConfig};

use serde::{Deserialize, Serialize};

use crate::features::{Features, Reads};
use crate::fleet::{Availability, ExpertFacts, Fleet};
use crate::id::ExpertId;
use crate::plan::{Basis, Candidate, Obstacle, Plan, Reason, Rejected};
use crate::{Needs, Request};

/// A pure function from a request and the fleet to a plan.
pub trait Policy: Send + Sync {
    /// Ranks the experts that can answer `request`. `seed` stands for every random choice; the same
    /// arguments give the same plan. Total: no input makes it fail.
    fn plan(&self, request: &Request, fleet: &Fleet, seed: u64) -> Plan;

    /// What the policy looks at in [`Request::features`]; the encoder is spared what it does not.
    fn reads(&self) -> Reads;

    /// What else the policy looks at.
    fn wants(&self) -> Wants {
        Wants::default()
    }

    /// Whether the candidates' order is that of their scores.
    fn ranks_by_score(&self) -> bool {
        true
    }

    /// The experts that the policy names, for checks of the configuration.
    fn named_experts(&self) -> Vec<&ExpertId>;
}

/// What a policy looks at besides the prompt. Looking it up costs, so that only what is wanted is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// So many of [`Request::neighbours`].
    pub neighbours: usize,
    /// [`Request::live`].
    pub live: bool,
    /// [`Request::previous`].
    pub previous: bool,
    /// [`crate::Signals::description`].
    pub descriptions: bool,
}

/// A policy with its settings, as routes carry it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PolicyConfig {
    /// Composition of Experts: classify, then map category to expert.
    Coe(CoeConfig),
    /// Predicted quality minus lambda times cost.
    CostQuality(CostQualityConfig),
    /// One gate vector per expert, trained from its own prompts alone.
    Gates(GatesConfig),
    /// Gates and the similarity of the experts' descriptions.
    Glider(GliderConfig),
    /// Outcomes of the nearest remembered prompts.
    Knn(KnnConfig),
    /// Mean similarity to each expert's pilot embeddings.
    RouterRetriever(RouterRetrieverConfig),
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
            Self::CostQuality(config) => Box::new(CostQuality::new(config.clone())?),
            Self::Gates(config) => Box::new(Gates::new(config.clone())?),
            Self::Glider(config) => Box::new(Glider::new(config.clone())?),
            Self::Knn(config) => Box::new(Knn::new(config.clone())?),
            Self::RouterRetriever(config) => Box::new(RouterRetriever::new(config.clone())?),
            Self::Static(config) => Box::new(Static::new(config.clone())?),
        })
    }

    /// The policy's name, as in the configuration and in the answer header.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Coe(_) => "coe",
            Self::CostQuality(_) => "cost_quality",
            Self::Gates(_) => "gates",
            Self::Glider(_) => "glider",
            Self::Knn(_) => "knn",
            Self::RouterRetriever(_) => "router_retriever",
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
    plan.candidates.insert(
        0,
        Candidate { expert: holder.clone(), score, reason: Reason::HeldSession, propensity: None },
    );
    plan.basis = Basis::Session;
}

/// Sorts best first; equal scores go to the cheaper expert, then to the smaller id, so that the order is
/// total and does not depend on where the experts stood before.
fn rank(candidates: &mut [(f32, &ExpertFacts, Reason)]) {
    candidates.sort_by(|(a, x, _), (b, y, _)| {
        b.total_cmp(a).then(x.cost.total_cmp(&y.cost)).then_with(|| x.id.cmp(&y.id))
    });
}

/// Who answers when no expert's score is good enough; for policies whose scores are similarities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RobustConfig {
    /// The general expert that answers then. It needs no signal of its own.
    pub expert: ExpertId,
    /// The best score below which it does. Without it: only when no expert has a score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f32>,
}

impl RobustConfig {
    pub(crate) fn check(config: Option<&Self>) -> Result<(), PolicyError> {
        match config.and_then(|c| c.below).filter(|below| !below.is_finite()) {
            Some(below) => Err(not_finite("robust.below", below)),
            None => Ok(()),
        }
    }
}

fn not_finite(field: &'static str, value: f32) -> PolicyError {
    PolicyError { field, problem: format!("must be a finite number, not {value}") }
}

/// Refuses a setting that is not a finite number above 0.
pub(crate) fn above_zero(field: &'static str, value: f32) -> Result<(), PolicyError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(PolicyError { field, problem: format!("must be a finite number above 0, not {value}") })
}

/// Refuses a setting that is not a finite number of at least 0.
pub(crate) fn not_negative(field: &'static str, value: f32) -> Result<(), PolicyError> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(PolicyError { field, problem: format!("must be a finite number of at least 0, not {value}") })
}

/// Experts with their scores, best first, and those that have none.
pub(crate) struct Ranking<'a> {
    scored: Vec<(f32, &'a ExpertFacts, Reason)>,
    rejected: Vec<Rejected>,
}

impl<'a> Ranking<'a> {
    /// Scores the experts that can answer the request. A score that is not finite counts as `missing`.
    pub(crate) fn of(
        request: &Request,
        fleet: &'a Fleet,
        missing: Obstacle,
        mut score: impl FnMut(&ExpertFacts) -> Result<(f32, Reason), Obstacle>,
    ) -> Self {
        let mut ranking = Self { scored: Vec::with_capacity(fleet.experts.len()), rejected: Vec::new() };
        for expert in &fleet.experts {
            let scored = match obstacle(expert, request.needs) {
                Some(obstacle) => Err(obstacle),
                None => score(expert),
            };
            match scored {
                Ok((score, reason)) if score.is_finite() => ranking.scored.push((score, expert, reason)),
                Ok(_) => ranking.rejected.push(Rejected { expert: expert.id.clone(), obstacle: missing }),
                Err(obstacle) => ranking.rejected.push(Rejected { expert: expert.id.clone(), obstacle }),
            }
        }
        rank(&mut ranking.scored);
        ranking
    }

    /// Replaces the scores by their softmax, which the order does not feel.
    fn softmax(&mut self, temperature: f32) {
        let scores: Vec<f32> = self.scored.iter().map(|(score, ..)| *score).collect();
        for ((score, ..), p) in self.scored.iter_mut().zip(crate::vector::softmax(&scores, temperature)) {
            *score = p;
        }
    }

    /// The plan: as ranked, or led by the robust expert where no score is good enough.
    pub(crate) fn into_plan(
        mut self,
        best: Option<f32>,
        robust: Option<&RobustConfig>,
        request: &Request,
        fleet: &'a Fleet,
    ) -> Plan {
        let mut basis = Basis::Confident;
        if let Some(robust) = robust
            && best.is_none_or(|best| robust.below.is_some_and(|below| best < below))
            && let Some(expert) = fleet.experts.iter().find(|e| e.id == robust.expert)
            && obstacle(expert, request.needs).is_none()
        {
            let place = self.scored.iter().position(|(_, e, _)| e.id == expert.id);
            let score = place.map_or(0.0, |place| self.scored.remove(place).0);
            self.scored.insert(0, (score, expert, Reason::Robust));
            self.rejected.retain(|r| r.expert != expert.id);
            basis = Basis::Uncertain;
        }
        if request.features.is_none() {
            basis = Basis::Unread;
        }
        self.plan_on(basis, request, fleet)
    }

    /// The plan, as ranked.
    fn plan_on(self, basis: Basis, request: &Request, fleet: &Fleet) -> Plan {
        let candidate = |(score, expert, reason): (f32, &ExpertFacts, Reason)| Candidate {
            expert: expert.id.clone(),
            score,
            reason,
            propensity: None,
        };
        let candidates = self.scored.into_iter().map(candidate).collect();
        let mut plan = Plan { candidates, rejected: self.rejected, basis, changed_by: Vec::new() };
        hold_session(&mut plan, request, fleet);
        plan
    }

    pub(crate) fn best(&self) -> Option<f32> {
        self.scored.first().map(|(score, ..)| *score)
    }
}

/// `sum_c` p(c|x) w(c,e), the expected score by the soft mapping; `None` when no category of the prompt is a skill.
fn soft_mapping(features: &Features, skills: &[f32]) -> Option<f32> {
    let skill: f32 = features.probabilities.iter().zip(skills).map(|(p, w)| p * w).sum();
    (skill > 0.0).then_some(skill)
}

#[cfg(test)]
mod tests;
