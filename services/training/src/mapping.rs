//! w(c,e): the score that each expert is expected to reach in each category, counted from outcomes.
//!
//! A prompt counts for a category by its share of it: 1 for its label's, or p(c|x) where there is only a prediction.
//! `w(c,e) = (sum_p share(c,p) s(e,p) + m s(e)) / (sum_p share(c,p) + m)`, with s(e) the expert's mean over all
//! prompts: a category with few prompts stays near it. Worked example: an expert with the mean 0.5 that was right on
//! both of 2 prompts of a category has, with m = 10, `w = (2 + 5) / 12 = 0.58`.

pub mod programme;
pub mod robust;

use crate::linalg::{Matrix, add};

/// Expected scores by category and expert.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Skills {
    /// `[categories, experts]`.
    pub by_category: Matrix,
    /// The experts' means over all prompts.
    pub overall: Vec<f64>,
}

impl Skills {
    /// `shares` is `[n, categories]`, `scores` is `[n, experts]` with NaN where an expert was not asked, `pseudo` is m.
    pub(crate) fn fit(shares: &Matrix, scores: &Matrix, pseudo: f64) -> Self {
        let (categories, experts) = (shares.cols, scores.cols);
        let (mut sums, mut counts) = (Matrix::zeros(categories, experts), Matrix::zeros(categories, experts));
        let (mut overall, mut asked) = (vec![0.0; experts], vec![0.0; experts]);
        for (shares, scores) in shares.iter().zip(scores.iter()) {
            let known: Vec<f64> = scores.iter().map(|score| if score.is_nan() { 0.0 } else { 1.0 }).collect();
            let scores: Vec<f64> =
                scores.iter().map(|score| if score.is_nan() { 0.0 } else { *score }).collect();
            add(&mut overall, &scores, 1.0);
            add(&mut asked, &known, 1.0);
            for (category, &share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
                add(sums.row_mut(category), &scores, share);
                add(counts.row_mut(category), &known, share);
            }
        }
        for (sum, asked) in overall.iter_mut().zip(&asked) {
            *sum /= asked.max(1.0);
        }
        for (sums, counts) in sums.data.chunks_exact_mut(experts.max(1)).zip(counts.iter()) {
            add(sums, &overall, pseudo);
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum /= (count + pseudo).max(f64::MIN_POSITIVE);
            }
        }
        Self { by_category: sums, overall }
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
    }

    #[test]
    fn who_was_not_asked_is_not_counted() {
        let shares = Matrix { cols: 1, data: vec![1.0; 4] };
        let nan = f64::NAN;
        let scores = Matrix { cols: 2, data: vec![1.0, nan, nan, 0.5, 0.0, nan, 1.0, nan] };
        let skills = Skills::fit(&shares, &scores, 0.0);
        assert!((skills.overall[0] - 2.0 / 3.0).abs() < 1e-12 && (skills.overall[1] - 0.5).abs() < 1e-12);
        assert!((skills.by_category.row(0)[1] - 0.5).abs() < 1e-12);
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
