use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::ExpertId;
use crate::vector::dot;

/// What was learnt of an expert from data, in the space of the encoder that reads the prompts. A signal of another
/// width is as good as none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Signals {
    /// Its gate v, `[d]`, as it was trained; policies normalise it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Arc<[f32]>>,
    /// Embeddings that stand for the prompts it is best at, unit vectors `[d]`.
    #[serde(skip_serializing_if = "<[Arc<[f32]>]>::is_empty")]
    pub pilots: Arc<[Arc<[f32]>]>,
    /// The embedding of its description, a unit vector `[d]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<Arc<[f32]>>,
    /// Predicts its score from a prompt's embedding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scorer: Option<Arc<Scorer>>,
}

/// A linear model of an expert's score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scorer {
    /// `[d]`.
    pub weights: Arc<[f32]>,
    /// The score of an embedding at the origin.
    pub bias: f32,
}

impl Scorer {
    /// The predicted score in 0..=1, `clamp(weights . embedding + bias, 0, 1)`; `None` for an embedding of another
    /// width.
    pub fn score(&self, embedding: &[f32]) -> Option<f32> {
        let score = dot(&self.weights, embedding)? + self.bias;
        score.is_finite().then(|| score.clamp(0.0, 1.0))
    }
}

/// One remembered prompt near the one at hand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Cosine of the two embeddings, in -1..=1.
    pub similarity: f32,
    /// Scores in 0..=1 that experts had on it.
    pub outcomes: Arc<[(ExpertId, f32)]>,
}
