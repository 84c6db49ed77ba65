//! Policy `cost_quality`: predicted quality minus lambda times cost.
//!
//! - Quality: `q(e|x) = (1 - b) m(e|x) + b r(e|x)`, with the soft mapping `m = sum_c p(c|x) w(c,e)`, the expert's
//!   scorer `r = clamp(weights . embedding + length ln(1 + tokens) + bias, 0, 1)` and the setting `blend` b; where one
//!   of them is missing, the other alone. A scorer that was learnt over the mapping says what the mapping misses:
//!   `q = m + r`, neither blended nor clamped, and nothing without a mapping. It does best in our measurements, for the
//!   penalty that keeps a regression from noise then shrinks it to the mapping and not to the expert's mean.
//! - Order: by `q(e|x) - lambda c_e`, predict-then-trade-off as in CARROT and Avengers-Pro. The cost `c_e` is the
//!   price, divided by that of the dearest expert (`relative`), or in USD per million tokens (`absolute`).
//! - Pair: with a strong and a weak expert named, the strong one leads if and only if
//!   `q(strong|x) - q(weak|x) >= threshold` (`RouteLLM`, arXiv 2406.18665). A lambda that comes with a request stands
//!   for the threshold `lambda (c_strong - c_weak)`.
//!
//! Worked example: category p = (1.0); expert big has w = 0.9, a scorer that says 0.7 and price 10; expert small has
//! w = 0.7, no scorer and price 1. Then q(big) = 0.8 and q(small) = 0.7. With lambda 0.1 and relative cost:
//! big = 0.8 - 0.1 = 0.7, small = 0.7 - 0.01 = 0.69, so big leads; with lambda 0.2 big = 0.6, small = 0.68.

use serde::{Deserialize, Serialize};

use super::{Policy, PolicyError, Ranking, not_finite, not_negative, soft_mapping};
use crate::Request;
use crate::features::{Features, Reads};
use crate::fleet::{ExpertFacts, Fleet};
use crate::id::ExpertId;
use crate::plan::{Basis, Obstacle, Plan, Reason};

/// Settings of policy `cost_quality`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CostQualityConfig {
    /// Score points given up per unit of cost; 0 ignores price. A request may say otherwise by
    /// `x-guildhall-lambda`.
    pub lambda: f32,
    /// The scorer's weight against the mapping, in 0..=1. A scorer that was learnt over the mapping counts whole
    /// wherever this is above 0.
    pub blend: f32,
    /// The unit of cost.
    pub cost: CostScale,
    /// Chooses between two experts by a threshold, in place of all by lambda.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pair: Option<PairConfig>,
}

/// The unit of an expert's cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CostScale {
    /// The blended price of the dearest registered expert.
    #[default]
    Relative,
    /// USD per million tokens of blended price.
    Absolute,
}

/// A strong and a weak expert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PairConfig {
    /// Who answers when it is worth it.
    pub strong: ExpertId,
    /// Who answers else.
    pub weak: ExpertId,
    /// The predicted gain in score from which on it is, in -1..=1.
    pub threshold: f32,
}

impl Default for CostQualityConfig {
    fn default() -> Self {
        Self { lambda: 0.0, blend: 0.5, cost: CostScale::Relative, pair: None }
    }
}

/// Policy `cost_quality`, see the module's description.
#[derive(Clone, Debug)]
pub struct CostQuality {
    config: CostQualityConfig,
}

impl CostQuality {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`PolicyError`] when `lambda` is negative, `blend` lies outside 0..=1, or a pair is one expert twice.
    pub fn new(config: CostQualityConfig) -> Result<Self, PolicyError> {
        not_negative("lambda", config.lambda)?;
        if !(0.0..=1.0).contains(&config.blend) {
            let problem = format!("must lie in 0..=1, not {}", config.blend);
            return Err(PolicyError { field: "blend", problem });
        }
        if let Some(pair) = &config.pair {
            if !pair.threshold.is_finite() {
                return Err(not_finite("pair.threshold", pair.threshold));
            }
            if pair.strong == pair.weak {
                let problem = format!("must be another expert than the strong one, `{}`", pair.strong);
                return Err(PolicyError { field: "pair.weak", problem });
            }
        }
        Ok(Self { config })
    }

    /// q(e|x); `None` when there is nothing to predict from.
    fn quality(&self, features: &Features, expert: &ExpertFacts) -> Option<f32> {
        let blend = self.config.blend;
        let mapped = if blend < 1.0 { soft_mapping(features, &expert.skills) } else { None };
        let scorer = expert.signals.scorer.as_ref().filter(|_| blend > 0.0);
        let Some((scorer, learnt)) = scorer.and_then(|scorer| Some((scorer, scorer.raw(features)?))) else {
            return mapped;
        };
        match mapped {
            // Not clamped: two experts above 1 are still unlike each other.
            Some(mapped) if scorer.over_mapping => Some(mapped + learnt),
            Some(mapped) => Some((1.0 - blend) * mapped + blend * learnt.clamp(0.0, 1.0)),
            None if scorer.over_mapping => None,
            None => Some(learnt.clamp(0.0, 1.0)),
        }
    }
}

impl Policy for CostQuality {
    fn plan(&self, request: &Request, fleet: &Fleet, _seed: u64) -> Plan {
        let unit = match self.config.cost {
            CostScale::Absolute => 1.0,
            // The dearest registered expert, not the dearest that is well now: health must not move the trade.
            CostScale::Relative => fleet.experts.iter().map(|e| e.cost).fold(0.0, f32::max),
        };
        let cost = |expert: &ExpertFacts| if unit > 0.0 { expert.cost / unit } else { 0.0 };
        let pair = self.config.pair.as_ref();
        let lambda = request.lambda.unwrap_or(self.config.lambda);
        let cost_of = |id: &ExpertId| fleet.experts.iter().find(|e| e.id == *id).map_or(0.0, &cost);
        let threshold = pair.map_or(0.0, |pair| match request.lambda {
            Some(lambda) => lambda * (cost_of(&pair.strong) - cost_of(&pair.weak)),
            None => pair.threshold,
        });
        let mut ranking = Ranking::of(request, fleet, Obstacle::NoEstimate, |expert| {
            let features = request.features.as_ref().ok_or(Obstacle::Unread)?;
            let charge = match pair {
                Some(pair) if pair.strong == expert.id => threshold,
                Some(pair) if pair.weak == expert.id => 0.0,
                Some(_) => return Err(Obstacle::NotInPair),
                None => lambda * cost(expert),
            };
            let quality = self.quality(features, expert).ok_or(Obstacle::NoEstimate)?;
            Ok((quality - charge, Reason::PredictedQuality))
        });
        // "At least the threshold" includes the tie that ranking gives to the cheaper.
        if let (Some(pair), [(weak, ..), (strong, expert, _)]) = (pair, &*ranking.scored)
            && expert.id == pair.strong
            && strong >= weak
        {
            ranking.scored.swap(0, 1);
        }
        let basis = if request.features.is_some() { Basis::Confident } else { Basis::Unread };
        ranking.plan_on(basis, request, fleet)
    }

    fn reads(&self) -> Reads {
        if self.config.blend > 0.0 { Reads::Embedding } else { Reads::Categories }
    }

    fn named_experts(&self) -> Vec<&ExpertId> {
        self.config.pair.iter().flat_map(|pair| [&pair.strong, &pair.weak]).collect()
    }
}
