//! What gates look at: the mean over a prompt's own tokens of the layer-normed token state.

/// Keeps a constant state from becoming infinite; LN has no affine part.
const EPSILON: f32 = 1e-5;

/// The mean of LN(u) over token states `[tokens, width]`, row by row; zero without tokens.
pub(crate) fn mean_normed(states: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    let tokens = states.chunks_exact(width.max(1));
    let count = tokens.len().max(1) as f32;
    for u in tokens {
        let mean = u.iter().sum::<f32>() / width as f32;
        let variance = u.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / width as f32;
        let scale = 1.0 / ((variance + EPSILON).sqrt() * count);
        for (sum, x) in sum.iter_mut().zip(u) {
            *sum += (x - mean) * scale;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_counts_alike_whatever_its_length() {
        // LN of (3, 1) and of (300, 100) is (1, -1); of (0, 5) it is (-1, 1).
        let one = mean_normed(&[3.0, 1.0, 300.0, 100.0], 2);
        assert!((one[0] - 1.0).abs() < 1e-4 && (one[1] + 1.0).abs() < 1e-4, "{one:?}");
        let third = mean_normed(&[3.0, 1.0, 300.0, 100.0, 0.0, 5.0], 2);
        assert!((third[0] - 1.0 / 3.0).abs() < 1e-4, "{third:?}");
    }

    #[test]
    fn no_tokens_and_constant_states_are_zero() {
        assert_eq!(mean_normed(&[], 3), [0.0; 3]);
        assert_eq!(mean_normed(&[7.0; 3], 3), [0.0; 3]);
    }
}
