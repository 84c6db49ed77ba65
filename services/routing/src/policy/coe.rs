//! Composition of Experts: two-step routing (arXiv 2412.01868), with the soft mapping and a robust expert.
//!
//! The classifier gives p(c|x), the mapping gives w(c,e), the expected score of expert e on category c.
//!
//! - Soft mapping: `R(x) = argmax_e sum_c p(c|x) w(c,e) - lambda cost_e`. It needs no threshold and
//!   degrades to the best general expert when p is flat.
//! - Hard mapping: `R(x) = argmax_e w(c*,e) - lambda cost_e` with `c* = argmax_c p(c|x)`.
//! - Robust expert: when the classifier's uncertainty exceeds a threshold, a named general expert leads
//!   and the mapping gives the rest of the order.
//!
//! Worked example: categories (code, math), p = (0.7, 0.3), lambda = 0.
//! Expert A has w = (0.9, 0.2), expert B has w = (0.5, 0.8).
//! Soft: A = 0.63 + 0.06 = 0.69, B = 0.35 + 0.24 = 0.59, so A leads. With p = (0.4, 0.6): A = 0.48, B = 0.68.

use serde::{Deserialize, Serialize};

use super::{Policy, PolicyError, Ranking, not_negative, soft_mapping};
use crate::Request;
use crate::features::{Features, Reads, Uncertainty};
use crate::fleet::Fleet;
use crate::id::ExpertId;
use crate::plan::{Basis, Obstacle, Plan, Reason};

/// Settings of policy `coe`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CoeConfig {
    /// Score points given up per USD per million tokens of blended price; 0 ignores price. A request may say
    /// otherwise by `x-guildhall-lambda`.
    pub lambda: f32,
    /// Whether only the most probable category counts. The soft mapping is the default and the better one.
    pub hard: bool,
    /// When to prefer the robust expert; without it the mapping always decides.
    pub uncertain: Option<UncertaintyConfig>,
}

/// When the classifier is in doubt, and who answers then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UncertaintyConfig {
    /// How doubt is measured.
    #[serde(default)]
    pub measure: Uncertainty,
    /// Doubt above this, in 0..=1, prefers the robust expert.
    pub threshold: f32,
    /// The general expert that answers then.
    pub robust: ExpertId,
}

/// Policy `coe`, see the module's description.
#[derive(Clone, Debug)]
pub struct Coe {
    config: CoeConfig,
}

impl Coe {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`PolicyError`] when `lambda` is negative or not finite, or the threshold lies outside 0..=1.
    pub fn new(config: CoeConfig) -> Result<Self, PolicyError> {
        not_negative("lambda", config.lambda)?;
        if let Some(u) = &config.uncertain
            && !(0.0..=1.0).contains(&u.threshold)
        {
            let problem = format!("must lie in 0..=1, not {}", u.threshold);
            return Err(PolicyError { field: "uncertain.threshold", problem });
        }
        Ok(Self { config })
    }

    /// The expert's expected score, before the price; `None` when no category of the prompt is a skill of it.
    fn skill(&self, features: &Features, skills: &[f32]) -> Option<f32> {
        if !self.config.hard {
            return soft_mapping(features, skills);
        }
        let (top, _) = features.top()?;
        skills.get(top).copied().filter(|skill| *skill > 0.0)
    }
}

impl Policy for Coe {
    fn plan(&self, request: &Request, fleet: &Fleet, _seed: u64) -> Plan {
        let reason = if self.config.hard { Reason::CategorySkill } else { Reason::ExpectedSkill };
        let robust = self.config.uncertain.as_ref().map(|u| &u.robust);
        let doubtful = match (&request.features, &self.config.uncertain) {
            (None, _) => true,
            (Some(features), Some(u)) => features.uncertainty(u.measure) > u.threshold,
            (Some(_), None) => false,
        };
        let lambda = request.lambda.unwrap_or(self.config.lambda);
        let mut ranking = Ranking::of(request, fleet, Obstacle::Unskilled, |expert| {
            let skill = request.features.as_ref().and_then(|f| self.skill(f, &expert.skills));
            let price = lambda * expert.cost;
            if doubtful && robust == Some(&expert.id) {
                return Ok((skill.unwrap_or(0.0) - price, Reason::Robust));
            }
            skill.map(|skill| (skill - price, reason)).ok_or(Obstacle::Unskilled)
        });
        let mut basis = Basis::Confident;
        if let Some(at) = ranking.scored.iter().position(|(_, _, reason)| *reason == Reason::Robust) {
            ranking.scored[..=at].rotate_right(1);
            basis = Basis::Uncertain;
        }
        if request.features.is_none() {
            basis = Basis::Unread;
        }
        ranking.plan_on(basis, request, fleet)
    }

    fn reads(&self) -> Reads {
        Reads::Categories
    }

    fn named_experts(&self) -> Vec<&ExpertId> {
        self.config.uncertain.iter().map(|u| &u.robust).collect()
    }
}
