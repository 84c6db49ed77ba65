use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What one pass of the router's encoder yields for one prompt.
///
/// Cheap to clone: the vectors are shared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Features {
    /// Pooled sentence embedding, `[d]`, L2-normalised. May be empty when only the categories were asked for.
    #[serde(default, skip_serializing_if = "<[f32]>::is_empty")]
    pub embedding: Arc<[f32]>,
    /// Calibrated probabilities p(c|x), `[C]`, in the order of [`crate::Fleet::categories`]; they sum to 1.
    pub probabilities: Arc<[f32]>,
    /// Tokens of the whole prompt, before any truncation.
    pub tokens: u32,
    /// Whether the encoder read only a head and a tail of the prompt.
    pub truncated: bool,
}

/// What a policy has to know of a prompt; more includes less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reads {
    /// Nothing: the encoder is spared.
    #[default]
    Nothing,
    /// [`Features::probabilities`].
    Categories,
    /// [`Features::embedding`] as well.
    Embedding,
}

/// How the classifier's doubt is measured; both lie in 0 (sure) to 1 (no idea).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Uncertainty {
    /// U = 1 - max p(c|x).
    #[default]
    Confidence,
    /// U = H(p) / ln C, the normalised entropy.
    Entropy,
}

impl Features {
    /// The most probable category's index and its probability; `None` without categories. The lowest
    /// index wins a tie.
    pub fn top(&self) -> Option<(usize, f32)> {
        let mut best: Option<(usize, f32)> = None;
        for (index, &p) in self.probabilities.iter().enumerate() {
            if best.is_none_or(|(_, b)| p > b) {
                best = Some((index, p));
            }
        }
        best
    }

    /// The classifier's doubt by the given measure; 1 without categories.
    pub fn uncertainty(&self, measure: Uncertainty) -> f32 {
        match measure {
            Uncertainty::Confidence => 1.0 - self.top().map_or(0.0, |(_, p)| p),
            Uncertainty::Entropy => {
                let n = self.probabilities.len();
                if n < 2 {
                    return if n == 1 { 0.0 } else { 1.0 };
                }
                let h: f32 = self.probabilities.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
                (h / (n as f32).ln()).clamp(0.0, 1.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(p: &[f32]) -> Features {
        Features { embedding: Arc::new([]), probabilities: p.into(), tokens: 1, truncated: false }
    }

    #[test]
    fn both_measures_agree_at_the_ends() {
        let sure = features(&[1.0, 0.0, 0.0, 0.0]);
        let flat = features(&[0.25; 4]);
        assert!(sure.uncertainty(Uncertainty::Confidence) < 1e-6);
        assert!(sure.uncertainty(Uncertainty::Entropy) < 1e-6);
        assert!((flat.uncertainty(Uncertainty::Confidence) - 0.75).abs() < 1e-6);
        assert!((flat.uncertainty(Uncertainty::Entropy) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn the_first_of_equals_is_the_top() {
        assert_eq!(features(&[0.2, 0.4, 0.4]).top(), Some((1, 0.4)));
        assert_eq!(features(&[]).top(), None);
    }
}
