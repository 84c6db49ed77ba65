//! w(c,e): the score that each expert is expected to reach in each category, counted from outcomes.
//!
//! A prompt counts for a category by its share of it: 1 for its label's, or p(c|x) where there is only a prediction.
//! `w(c,e) = (sum_p share(c,p) s(e,p) + m s(e)) / (sum_p share(c,p) + m)`, with s(e) the expert's mean over all
//! prompts: a category with few prompts stays near it. Worked example: an expert with the mean 0.5 that was right on
//! both of 2 prompts of a category has, with m = 10, `w = (2 + 5) / 12 = 0.58`.

pub mod programme;

use crate::linalg::{Matrix, add};

/// Expected scores by category and expert.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Skills {
    /// `[categories, experts]`.
    pub by_category: Matrix,
    /// The experts' means over all prompts.
    pub overall: Vec<f64>,
    /// Prompts of each category, counted by their shares.
    pub counts: Vec<f64>,
}

impl Skills {
    /// `shares` is `[n, categories]`, `scores` is `[n, experts]`, `pseudo` is m.
    pub(crate) fn fit(shares: &Matrix, scores: &Matrix, pseudo: f64) -> Self {
        let overall = scores.mean();
        let mut counts = vec![0.0; shares.cols];
        for row in shares.iter() {
            add(&mut counts, row, 1.0);
        }
        let mut by_category = shares.transposed_times(scores);
        for (row, count) in by_category.data.chunks_exact_mut(scores.cols.max(1)).zip(&counts) {
            add(row, &overall, pseudo);
            row.iter_mut().for_each(|sum| *sum /= (count + pseudo).max(f64::MIN_POSITIVE));
        }
        Self { by_category, overall, counts }
    }

    /// `sum_c share(c) w(c,e)` for each row; what a row's shares lack of 1 counts for the expert's mean.
    pub(crate) fn expected(&self, shares: &Matrix) -> Matrix {
        let mut expected = Matrix::zeros(shares.rows(), self.overall.len());
        for (index, row) in shares.iter().enumerate() {
            let to = expected.row_mut(index);
            for (&share, skills) in row.iter().zip(self.by_category.iter()) {
                add(to, skills, share);
            }
            add(to, &self.overall, 1.0 - row.iter().sum::<f64>());
        }
        expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_prompts_stay_near_the_mean() {
        // The worked example: 2 of 4 prompts in the first category, all right; the other two all wrong.
        let shares = Matrix { cols: 2, data: vec![1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0] };
        let scores = Matrix { cols: 1, data: vec![1.0, 1.0, 0.0, 0.0] };
        let skills = Skills::fit(&shares, &scores, 10.0);
        assert!((skills.by_category.row(0)[0] - 7.0 / 12.0).abs() < 1e-12);
        assert!((skills.by_category.row(1)[0] - 5.0 / 12.0).abs() < 1e-12);
        assert_eq!(skills.counts, [2.0, 2.0]);
    }

    #[test]
    fn soft_shares_count_in_part_and_unknown_prompts_get_the_mean() {
        let shares = Matrix { cols: 2, data: vec![0.75, 0.25, 0.25, 0.75] };
        let scores = Matrix { cols: 1, data: vec![1.0, 0.0] };
        let skills = Skills::fit(&shares, &scores, 0.0);
        assert_eq!(skills.by_category.data, [0.75, 0.25]);
        let expected = skills.expected(&Matrix { cols: 2, data: vec![0.5, 0.5, 0.0, 0.0, 1.0, 0.0] });
        assert_eq!(expected.data, [0.5, 0.5, 0.75]);
    }
}
