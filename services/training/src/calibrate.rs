//! Temperature scaling: one number that makes confidence mean what it says.

use crate::head::negative_log_likelihood;

/// Bounds of the search; beyond them a head is either useless or needs no scaling.
const LOWEST: f64 = 0.05;
const HIGHEST: f64 = 20.0;

/// Temperatures at which [`losses`] are taken, evenly apart in their logarithm, from a quarter to four.
const STEPS: i32 = 48;

fn at(step: i32) -> f64 {
    4.0_f64.powf(2.0 * f64::from(step) / f64::from(STEPS) - 1.0)
}

/// Mean negative log likelihood of the labels at each of a row of temperatures.
pub(crate) fn losses(logits: &[Vec<f32>], labels: &[usize]) -> Vec<f64> {
    let mean = |step| {
        let factor = (1.0 / at(step)) as f32;
        let loss = |(row, &label): (&Vec<f32>, &usize)| {
            negative_log_likelihood(&row.iter().map(|z| z * factor).collect::<Vec<_>>(), label)
        };
        logits.iter().zip(labels).map(loss).sum::<f64>() / labels.len().max(1) as f64
    };
    (0..=STEPS).map(mean).collect()
}

/// The temperature that makes the labels of both known and left-out origin most likely, each kind counted half: the
/// one alone would make a head boast among strangers, the other too modest at home. Where nothing was left out,
/// [`temperature`].
pub(crate) fn shared_temperature(known: (&[Vec<f32>], &[usize]), left_out: &[Vec<f64>]) -> f32 {
    if known.0.is_empty() || left_out.is_empty() {
        return temperature(known.0, known.1);
    }
    let mut sums = losses(known.0, known.1);
    for losses in left_out {
        sums.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += loss / left_out.len() as f64);
    }
    let best = (0..=STEPS).zip(&sums).min_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map_or(1.0, |(step, _)| at(step) as f32)
}

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
    fn strangers_temper_what_is_sure_at_home() {
        let sure = vec![vec![4.0, 0.0]; 8];
        let home = [0, 0, 0, 0, 0, 0, 0, 1];
        let alone = temperature(&sure, &home);
        assert!((shared_temperature((&sure, &home), &[]) - alone).abs() < 1e-6);
        let strangers = losses(&sure, &[0, 1, 0, 1, 0, 0, 0, 0]);
        let both = shared_temperature((&sure, &home), &[strangers]);
        // Three of sixteen are wrong in all: 4 / T must be ln(13 / 3), up to the row's step of 6 %.
        assert!((both / (4.0 / (13.0_f32 / 3.0).ln()) - 1.0).abs() < 0.06, "{both} {alone}");
        assert!(both > alone);
    }

    #[test]
    fn modesty_is_sharpened_up_to_a_bound() {
        let found = temperature(&[vec![0.1, 0.0], vec![0.0, 0.1]], &[0, 1]);
        assert!((f64::from(found) - LOWEST).abs() < 1e-2, "{found}");
        assert!((temperature(&[], &[]) - 1.0).abs() < f32::EPSILON);
    }
}
