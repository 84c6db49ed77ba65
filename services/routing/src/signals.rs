use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::features::Features;
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

/// A linear model of an expert's score, or of what the mapping misses of it:
/// `weights . embedding + length ln(1 + tokens) + bias`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scorer {
    /// `[d]`.
    pub weights: Arc<[f32]>,
    /// What a unit of ln(1 + tokens) of the prompt adds, in score points. An embedding of unit length does not tell how
    /// long a prompt is, and long ones are harder for some experts than for others.
    #[serde(default)]
    pub length: f32,
    /// The score of an embedding at the origin, for a prompt without tokens.
    pub bias: f32,
    /// Whether it says what the mapping misses, so that it is added to the mapping, and means nothing without one.
    #[serde(default)]
    pub over_mapping: bool,
}

impl Scorer {
    /// What it says of a prompt, not clamped; `None` for an embedding of another width.
    pub fn raw(&self, features: &Features) -> Option<f32> {
        let tokens = (1.0 + f64::from(features.tokens)).ln() as f32;
        let score = dot(&self.weights, &features.embedding)? + self.length * tokens + self.bias;
        score.is_finite().then_some(score)
    }
}

/// One remembered prompt near the one at hand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The name that it is remembered by.
    pub id: Arc<str>,
    /// Cosine of the two embeddings, in -1..=1.
    pub similarity: f32,
    /// Scores in 0..=1 that experts had on it.
    pub outcomes: Arc<[(ExpertId, f32)]>,
}
