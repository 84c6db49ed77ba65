//! When to leave the mapping for a general expert ("Robust-CoE"): above which doubt of the classifier.
//!
//! The doubt of a prompt is `U = 1 - max_c p(c|x)`. Of all thresholds the one is taken under which the prompts that it
//! is chosen on score most, `U > theta` going to the general expert and the rest to the mapping's.

use serde::Serialize;

/// The chosen threshold and what it is worth, on the prompts that it was chosen on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Robust {
    /// The general expert.
    pub expert: String,
    /// Doubt above this goes to it. 1 when it never should.
    pub threshold: f64,
    /// Mean score with the threshold.
    pub score: f64,
    /// Mean score without it.
    pub score_without: f64,
}

/// Chooses the threshold from each prompt's doubt, what the mapping's expert scored on it and what the general one did.
/// The highest of equally good thresholds wins: without a gain the mapping decides.
pub(crate) fn choose(expert: &str, prompts: &[(f64, f64, f64)]) -> Robust {
    let n = prompts.len().max(1) as f64;
    let score_without = prompts.iter().map(|(_, mapped, _)| mapped).sum::<f64>() / n;
    let mut order = prompts.to_vec();
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut best = Robust { expert: expert.to_owned(), threshold: 1.0, score: score_without, score_without };
    let mut score = score_without;
    for (index, (doubt, mapped, general)) in order.iter().enumerate() {
        score += (general - mapped) / n;
        let next = order.get(index + 1).map_or(0.0, |(doubt, _, _)| *doubt);
        // Prompts of one doubt go the same way.
        if next < *doubt && score > best.score + 1e-12 {
            best.score = score;
            best.threshold = f64::midpoint(next, *doubt);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_parts_what_the_mapping_gets_wrong() {
        let prompts = [(0.9, 0.0, 1.0), (0.8, 0.0, 1.0), (0.3, 1.0, 0.0), (0.1, 1.0, 1.0)];
        let robust = choose("general", &prompts);
        assert!((robust.threshold - 0.55).abs() < 1e-12, "{robust:?}");
        assert!((robust.score - 1.0).abs() < 1e-12 && (robust.score_without - 0.5).abs() < 1e-12);
    }

    #[test]
    fn without_a_gain_the_mapping_decides() {
        let robust = choose("general", &[(0.9, 1.0, 1.0), (0.2, 1.0, 0.0)]);
        assert!((robust.threshold - 1.0).abs() < 1e-12 && (robust.score - 1.0).abs() < 1e-12);
        assert!((choose("general", &[]).threshold - 1.0).abs() < 1e-12);
    }
}
