//! Temperature scaling: one number that makes confidence mean what it says.

use crate::head::negative_log_likelihood;

/// Bounds of the search; beyond them a head is either useless or needs no scaling.
const LOWEST: f64 = 0.05;
const HIGHEST: f64 = 20.0;

/// The temperature that makes the labels most likely: scores are to be divided by it. 1 without rows.
pub(crate) fn temperature(logits: &[Vec<f32>], labels: &[usize]) -> f32 {
    if logits.is_empty() {
        return 1.0;
    }
    let loss = |log_temperature: f64| {
        let factor = (-log_temperature).exp() as f32;
        let mut scaled = Vec::new();
        let mut sum = 0.0;
        for (row, &label) in logits.iter().zip(labels) {
            scaled.clear();
            scaled.extend(row.iter().map(|z| z * factor));
            sum += negative_log_likelihood(&scaled, label);
        }
        sum
    };
    // The loss has one minimum in the temperature: golden-section search finds it.
    let golden = (5.0_f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (LOWEST.ln(), HIGHEST.ln());
    let mut left = high - golden * (high - low);
    let mut right = low + golden * (high - low);
    let (mut at_left, mut at_right) = (loss(left), loss(right));
    while high - low > 1e-4 {
        if at_left <= at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - golden * (high - low);
            at_left = loss(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + golden * (high - low);
            at_right = loss(right);
        }
    }
    f64::midpoint(low, high).exp() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boasting_is_tempered() {
        // Scores say 0.982, right in three of four: the scores' distance 4 must become ln 3.
        let logits = vec![vec![4.0, 0.0]; 4];
        let found = temperature(&logits, &[0, 0, 0, 1]);
        assert!((found - 4.0 / 3.0_f32.ln()).abs() < 1e-2, "{found}");
    }

    #[test]
    fn modesty_is_sharpened_up_to_a_bound() {
        let found = temperature(&[vec![0.1, 0.0], vec![0.0, 0.1]], &[0, 1]);
        assert!((f64::from(found) - LOWEST).abs() < 1e-2, "{found}");
        assert!((temperature(&[], &[]) - 1.0).abs() < f32::EPSILON);
    }
}
