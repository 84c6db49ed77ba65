//! Scorers: the score that each expert is expected to reach on a prompt, read off its embedding by ridge regression.

use crate::linalg::{self, Matrix, dot};

/// One linear regression for each expert: `score = weights . embedding + bias`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scorers {
    /// `[experts, d]`.
    pub weights: Matrix,
    /// `[experts]`.
    pub bias: Vec<f64>,
}

/// What does not depend on the penalty, so that many can be tried.
pub(crate) struct Moments {
    inputs: Vec<f64>,
    scores: Vec<f64>,
    gram: Matrix,
    cross: Matrix,
}

impl Moments {
    /// `embeddings` is `[n, d]`, `scores` is `[n, experts]`.
    pub(crate) fn new(embeddings: &Matrix, scores: &Matrix) -> Self {
        let (mean_input, mean_score) = (embeddings.mean(), scores.mean());
        let x = embeddings.clone().centred(&mean_input);
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
        let mut weights = Matrix::zeros(experts, self.inputs.len());
        for (component, row) in solved.iter().enumerate() {
            for (expert, &weight) in row.iter().enumerate() {
                weights.row_mut(expert)[component] = weight;
            }
        }
        let bias = weights.iter().zip(&self.scores).map(|(w, mean)| mean - dot(w, &self.inputs)).collect();
        Scorers { weights, bias }
    }
}

impl Scorers {
    /// Predicted scores of rows of embeddings, `[n, experts]`; they may leave 0..=1.
    pub(crate) fn predict(&self, embeddings: &Matrix) -> Matrix {
        let mut predicted = Matrix::zeros(embeddings.rows(), self.bias.len());
        for (index, x) in embeddings.iter().enumerate() {
            for (to, (w, bias)) in
                predicted.row_mut(index).iter_mut().zip(self.weights.iter().zip(&self.bias))
            {
                *to = dot(w, x) + bias;
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
        for i in 0..n {
            let t = i as f64;
            x.row_mut(i).copy_from_slice(&[(t * 0.7).sin(), (t * 1.3).cos(), (t * 0.31).sin()]);
            let row = x.row(i).to_vec();
            y.row_mut(i).copy_from_slice(&[0.5 + 0.3 * row[0] - 0.1 * row[2], 0.2 * row[1]]);
        }
        let moments = Moments::new(&x, &y);
        let exact = moments.fit(1e-9);
        for (got, wanted) in exact.predict(&x).data.iter().zip(&y.data) {
            assert!((got - wanted).abs() < 1e-6, "{got} {wanted}");
        }
        let flat = moments.fit(1e9).predict(&x);
        for row in flat.iter() {
            assert!((row[0] - y.mean()[0]).abs() < 1e-6);
        }
    }
}
