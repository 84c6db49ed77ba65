//! The few operations on vectors that policies need. All are total: what cannot be computed is `None`.

/// Under the root of a layer norm, so that a constant vector becomes zero and not infinite.
const EPSILON: f32 = 1e-5;

/// a . b; `None` when the widths differ or are 0. The same vectors give the same result to the last bit.
pub fn dot(a: &[f32], b: &[f32]) -> Option<f32> {
    if a.is_empty() || a.len() != b.len() {
        return None;
    }
    // Eight sums side by side: the compiler may not reorder floating-point additions by itself.
    let mut sums = [0.0_f32; 8];
    let (left, right) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = left.remainder().iter().zip(right.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in left.zip(right) {
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum += x * y;
        }
    }
    Some(sums.iter().sum::<f32>() + rest)
}

/// The cosine of two vectors, 0 where one of them is 0; `None` when it cannot be computed.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> Option<f32> {
    let norms = (dot(a, a)? * dot(b, b)?).sqrt();
    let cosine = if norms > 0.0 { dot(a, b)? / norms } else { 0.0 };
    cosine.is_finite().then_some(cosine)
}

/// LN(a) . b, with LN(a) = (a - mean) / sqrt(variance + 1e-5), without affine part.
pub(crate) fn normed_dot(a: &[f32], b: &[f32]) -> Option<f32> {
    let width = a.len() as f32;
    let mean = a.iter().sum::<f32>() / width;
    let variance = a.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / width;
    // (a - mean) . b, without writing a - mean down.
    let product = dot(a, b)? - mean * b.iter().sum::<f32>();
    let normed = product / (variance + EPSILON).sqrt();
    (variance.is_finite() && normed.is_finite()).then_some(normed)
}

/// softmax(x / temperature), in the order of `x`; empty for nothing. The sum runs over sorted values, so that the
/// result for a value does not depend on where it stands.
pub(crate) fn softmax(x: &[f32], temperature: f32) -> Vec<f32> {
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut powers: Vec<f64> =
        x.iter().map(|x| (f64::from(x - largest) / f64::from(temperature)).exp()).collect();
    let result = powers.clone();
    powers.sort_by(f64::total_cmp);
    let sum: f64 = powers.iter().sum();
    result.into_iter().map(|p| (p / sum) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_agree_with_the_definitions() {
        let a: Vec<f32> = (0..19).map(|i| i as f32 * 0.25 - 1.0).collect();
        let b: Vec<f32> = (0..19).map(|i| (i as f32).sin()).collect();
        let plain: f32 = a.iter().zip(&b).map(|(x, y)| x * y).sum();
        assert!((dot(&a, &b).unwrap() - plain).abs() < 1e-4);
        assert!((cosine(&a, &a).unwrap() - 1.0).abs() < 1e-6);
        let mean = a.iter().sum::<f32>() / 19.0;
        let variance = a.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 19.0;
        let normed: f32 = a.iter().zip(&b).map(|(x, y)| (x - mean) / (variance + 1e-5).sqrt() * y).sum();
        assert!((normed_dot(&a, &b).unwrap() - normed).abs() < 1e-4);
    }

    #[test]
    fn other_widths_and_zeros_have_no_surprises() {
        assert_eq!(dot(&[1.0], &[1.0, 2.0]), None);
        assert_eq!(dot(&[], &[]), None);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), Some(0.0));
        assert_eq!(normed_dot(&[2.0, 2.0], &[1.0, 5.0]), Some(0.0), "a constant gate says nothing");
        assert_eq!(normed_dot(&[f32::MAX, -f32::MAX], &[1.0, 1.0]), None);
    }

    #[test]
    fn a_softmax_sums_to_one_wherever_its_values_stand() {
        let forward = softmax(&[0.1, -3.0, 2.5, 90.0], 0.7);
        let mut backward = softmax(&[90.0, 2.5, -3.0, 0.1], 0.7);
        backward.reverse();
        assert_eq!(forward, backward);
        assert!((forward.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(softmax(&[], 1.0).is_empty());
    }
}
