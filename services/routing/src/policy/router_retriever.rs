//! Policy `router_retriever`: similarity to pilot embeddings (`RouterRetriever`, arXiv 2409.02685).
//!
//! Each expert has a few pilots: centroids of the prompts, or groups of them, on which it was the best. Then
//!
//! `score(e) = mean_{c in pilots(e)} cos(c, embedding)`, as in the paper. Its published code takes the expert of the
//! single most similar pilot; `pooling: max` does that.
//!
//! The general case can be an expert with pilots of its own, so that "no specialist fits" is a choice like any other.
//!
//! Worked example in the plane: the prompt is (1, 0). Expert a has the pilots (1, 0) and (0, 1), mean 0.5, max 1;
//! expert b has (0.8, 0.6), mean and max 0.8. By the mean b leads, by the max a.

use serde::{Deserialize, Serialize};

use super::{Policy, PolicyError, Ranking, RobustConfig};
use crate::Request;
use crate::features::Reads;
use crate::fleet::Fleet;
use crate::id::ExpertId;
use crate::plan::{Obstacle, Plan, Reason};
use crate::vector::cosine;

/// Settings of policy `router_retriever`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouterRetrieverConfig {
    /// How the similarities to an expert's pilots become its score.
    pub pooling: PilotPooling,
    /// Who answers when no expert fits. `below` is compared with the best expert's score, a cosine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub robust: Option<RobustConfig>,
}

/// How the similarities to an expert's pilots become its score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PilotPooling {
    /// Their mean: the paper's rule.
    #[default]
    Mean,
    /// The largest: the rule of the paper's published code.
    Max,
}

/// Policy `router_retriever`, see the module's description.
#[derive(Clone, Debug)]
pub struct RouterRetriever {
    config: RouterRetrieverConfig,
}

impl RouterRetriever {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`PolicyError`] when `robust.below` is not finite.
    pub fn new(config: RouterRetrieverConfig) -> Result<Self, PolicyError> {
        RobustConfig::check(config.robust.as_ref())?;
        Ok(Self { config })
    }

    /// The expert's score; `None` without pilots of the embedding's width.
    fn score(&self, pilots: &[std::sync::Arc<[f32]>], embedding: &[f32]) -> Option<f32> {
        let similarities = pilots.iter().map(|pilot| cosine(pilot, embedding));
        match self.config.pooling {
            PilotPooling::Mean => {
                let sum: Option<f32> = similarities.sum();
                sum.filter(|_| !pilots.is_empty()).map(|sum| sum / pilots.len() as f32)
            }
            PilotPooling::Max => similarities.collect::<Option<Vec<f32>>>()?.into_iter().reduce(f32::max),
        }
    }
}

impl Policy for RouterRetriever {
    fn plan(&self, request: &Request, fleet: &Fleet, _seed: u64) -> Plan {
        let embedding = request.features.as_ref().map(|f| &*f.embedding).filter(|e| !e.is_empty());
        let ranking = Ranking::of(request, fleet, Obstacle::NoPilots, |expert| {
            let score = self.score(&expert.signals.pilots, embedding.ok_or(Obstacle::Unread)?);
            score.map(|score| (score, Reason::Pilots)).ok_or(Obstacle::NoPilots)
        });
        let best = ranking.best();
        ranking.into_plan(best, self.config.robust.as_ref(), request, fleet)
    }

    fn reads(&self) -> Reads {
        Reads::Embedding
    }

    fn named_experts(&self) -> Vec<&ExpertId> {
        self.config.robust.iter().map(|robust| &robust.expert).collect()
    }
}
