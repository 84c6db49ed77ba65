//! Scorers: the score that each expert is expected to reach on a prompt, or what the mapping misses of it, read off
//! the prompt's embedding and length by ridge regression.

use crate::linalg::{self, Matrix, dot};

/// What a unit of ln(1 + tokens) is as an input beside the embedding, whose components are about 0.05 each. A larger
/// scale penalises the length less; this one did best in cross-validation on the length alone beside an embedding.
const LENGTH_SCALE: f64 = 0.3;

/// One linear regression for each expert, in the form of [`routing::Scorer`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scorers {
    /// `[experts, d]`.
    pub weights: Matrix,
    /// `[experts]`.
    pub length: Vec<f64>,
    /// `[experts]`.
    pub bias: Vec<f64>,
    /// Whether they say what the mapping misses.
    pub over_mapping: bool,
}

/// What does not depend on the penalty, so that many can be tried.
pub(crate) struct Moments {
    inputs: Vec<f64>,
    scores: Vec<f64>,
    gram: Matrix,
    cross: Matrix,
}

impl Moments {
    /// `embeddings` is `[n, d]`, `tokens` has n counts, `scores` is `[n, experts]`.
    pub(crate) fn new(embeddings: &Matrix, tokens: &[u32], scores: &Matrix) -> Self {
        let input = |(embedding, tokens): (&[f64], &u32)| {
            let length = LENGTH_SCALE * f64::from(*tokens).ln_1p();
            embedding.iter().copied().chain([length]).collect::<Vec<f64>>()
        };
        let data = embeddings.iter().zip(tokens).flat_map(input).collect();
        let inputs = Matrix { cols: embeddings.cols + 1, data };
        let (mean_input, mean_score) = (inputs.mean(), scores.mean());
        let x = inputs.centred(&mean_input);
        let y = scores.clone().centred(&mean_score);
        Self {
            gram: x.transposed_times(&x),
            cross: x.transposed_times(&y),
            inputs: mean_input,
            scores: mean_score,
        }
    }

    /// Minimises the squared error plus `alpha` times the squared weights; the bias is free.
    pub(crate) fn fit(&self, alpha: f64) -> Scorers {
        let solved = linalg::solve(self.gram.clone(), alpha, self.cross.clone());
        let experts = self.scores.len();
        let width = self.inputs.len() - 1;
        let mut weights = Matrix::zeros(experts, width);
        for (component, row) in solved.iter().take(width).enumerate() {
            for (expert, &weight) in row.iter().enumerate() {
                weights.row_mut(expert)[component] = weight;
            }
        }
        let slopes = solved.row(width);
        let bias = |((w, slope), mean): ((&[f64], &f64), &f64)| {
            mean - dot(w, &self.inputs[..width]) - slope * self.inputs[width]
        };
        let bias = weights.iter().zip(slopes).zip(&self.scores).map(bias).collect();
        let length = slopes.iter().map(|slope| slope * LENGTH_SCALE).collect();
        Scorers { weights, length, bias, over_mapping: false }
    }
}

impl Scorers {
    /// The same, of scores that were those that the mapping leaves over.
    pub(crate) fn over_mapping(self) -> Self {
        Self { over_mapping: true, ..self }
    }

    /// One expert's, as it is served.
    pub(crate) fn of(&self, expert: usize) -> routing::Scorer {
        routing::Scorer {
            weights: self.weights.row(expert).iter().map(|&w| w as f32).collect(),
            length: self.length[expert] as f32,
            bias: self.bias[expert] as f32,
            over_mapping: self.over_mapping,
        }
    }

    /// What they say of rows, `[n, experts]`; it may leave 0..=1.
    pub(crate) fn predict(&self, embeddings: &Matrix, tokens: &[u32]) -> Matrix {
        let mut predicted = Matrix::zeros(embeddings.rows(), self.bias.len());
        for (index, (x, tokens)) in embeddings.iter().zip(tokens).enumerate() {
            let length = f64::from(*tokens).ln_1p();
            for (expert, to) in predicted.row_mut(index).iter_mut().enumerate() {
                *to = dot(self.weights.row(expert), x) + self.length[expert] * length + self.bias[expert];
            }
        }
        predicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_score_is_found_and_a_penalty_shrinks_towards_the_mean() {
        let n = 60;
        let mut x = Matrix::zeros(n, 3);
        let mut y = Matrix::zeros(n, 2);
        let tokens: Vec<u32> = (0..60).map(|i| i * 37 % 101).collect();
        for (i, &count) in tokens.iter().enumerate() {
            let t = i as f64;
            x.row_mut(i).copy_from_slice(&[(t * 0.7).sin(), (t * 1.3).cos(), (t * 0.31).sin()]);
            let row = x.row(i).to_vec();
            y.row_mut(i).copy_from_slice(&[
                0.5 + 0.3 * row[0] - 0.1 * row[2],
                0.2 * row[1] + 0.1 * f64::from(count).ln_1p(),
            ]);
        }
        let moments = Moments::new(&x, &tokens, &y);
        let exact = moments.fit(1e-9);
        for (got, wanted) in exact.predict(&x, &tokens).data.iter().zip(&y.data) {
            assert!((got - wanted).abs() < 1e-6, "{got} {wanted}");
        }
        let flat = moments.fit(1e9).predict(&x, &tokens);
        for row in flat.iter() {
            assert!((row[0] - y.mean()[0]).abs() < 1e-6);
        }
        let served = exact.of(1);
        let features = routing::Features {
            embedding: x.row(7).iter().map(|&value| value as f32).collect(),
            tokens: tokens[7],
            ..routing::Features::default()
        };
        let served = f64::from(served.raw(&features).unwrap());
        assert!((served - y.row(7)[1]).abs() < 1e-5, "{served} {}", y.row(7)[1]);
    }
}
