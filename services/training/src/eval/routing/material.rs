//! A routing set as the learners see it.

use std::ops::ControlFlow;
use std::sync::Arc;

use fastrand::Rng;

use crate::features::{Example, Tables};
use crate::head::{Head, Lessons, Penalty, STRETCH_OF_UNIT_VECTORS, softmax};
use crate::linalg::Matrix;

/// Height of the table of token pairs of the domain head.
const PAIRS: usize = 65_521;
/// Steps of the domain head's fit.
const HEAD_STEPS: usize = 30;
/// What its fit minimises besides the error: chosen on validation rows, the same for all sets.
const HEAD_PENALTY: Penalty = Penalty {
    lexical: 1e-5,
    embedding: 3e-4,
    min_examples: 2,
    smoothing: 0.05,
    stretch: STRETCH_OF_UNIT_VECTORS,
};

/// Prompts with all that is known of them, one entry or row for each.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    /// What the domain head reads.
    pub examples: Vec<Example>,
    /// `[n, categories]`: p(c|x) of the router's own categories.
    pub categories: Matrix,
    /// Index of the domain; nothing for a domain that has no row to learn from.
    pub domains: Vec<Option<usize>>,
    /// Tokens of the whole prompt, as [`routing::Features::tokens`] counts them.
    pub tokens: Vec<u32>,
    /// `[n, models]`.
    pub scores: Matrix,
    /// `[n, models]`: USD of each call, where it is known.
    pub spent: Option<Matrix>,
}

impl Sample {
    pub(super) fn len(&self) -> usize {
        self.examples.len()
    }

    pub(super) fn embedding(&self, row: usize) -> &Arc<[f32]> {
        &self.examples[row].embedding
    }

    pub(super) fn embeddings(&self) -> Matrix {
        let width = self.examples.first().map_or(0, |example| example.embedding.len());
        Matrix::from_rows(self.examples.iter().map(|example| &*example.embedding), width)
    }

    /// The rows of that numbers.
    pub(super) fn pick(&self, rows: &[usize]) -> Self {
        Self {
            examples: rows.iter().map(|&row| self.examples[row].clone()).collect(),
            categories: self.categories.pick(rows),
            domains: rows.iter().map(|&row| self.domains[row]).collect(),
            tokens: rows.iter().map(|&row| self.tokens[row]).collect(),
            scores: self.scores.pick(rows),
            spent: self.spent.as_ref().map(|spent| spent.pick(rows)),
        }
    }
}

/// What to learn from and what to predict.
pub(super) struct Fold {
    pub learn: Sample,
    pub predict: Sample,
    /// `[predict, domains]`: what the domain head, which learnt from `learn`, makes of the rows to predict.
    pub shares: Matrix,
    /// Number of domains.
    pub domains: usize,
}

impl Fold {
    pub(super) fn new(learn: Sample, predict: Sample, domains: usize) -> Self {
        let shares = domain_shares(&learn, &predict, domains);
        Self { learn, predict, shares, domains }
    }
}

/// Softmax regression over embedding, tokens and pairs of tokens: as `train router` would fit it to the domains.
fn domain_shares(learn: &Sample, predict: &Sample, domains: usize) -> Matrix {
    if domains < 2 {
        return Matrix { cols: domains, data: vec![1.0; predict.len() * domains] };
    }
    let (examples, labels): (Vec<Example>, Vec<usize>) = learn
        .examples
        .iter()
        .zip(&learn.domains)
        .filter_map(|(example, domain)| Some((example.clone(), (*domain)?)))
        .unzip();
    let ids = learn.examples.iter().chain(&predict.examples).flat_map(|example| &example.ids);
    let unigrams = ids.max().map_or(1, |&id| id as usize + 1);
    let tables = Tables { unigrams, bigrams: PAIRS };
    let go_on = |_: &_| ControlFlow::Continue(());
    let lessons = Lessons::new(&examples, &labels);
    let head = Head::fit(lessons, (&[], &[]), (domains, tables), HEAD_PENALTY, HEAD_STEPS, go_on);
    let rows: Vec<Vec<f32>> = predict
        .examples
        .iter()
        .map(|example| {
            let mut shares = head.logits(example);
            softmax(&mut shares);
            shares
        })
        .collect();
    Matrix::from_rows(rows.iter().map(Vec::as_slice), domains)
}

/// One row of shares for each prompt, from its domain.
pub(super) fn one_hot(labels: &[Option<usize>], domains: usize) -> Matrix {
    let mut shares = Matrix::zeros(labels.len(), domains);
    for (row, label) in labels.iter().enumerate() {
        if let Some(label) = label {
            shares.row_mut(row)[*label] = 1.0;
        }
    }
    shares
}

/// `folds` parts of `0..n`, each row in one of them, by a shuffle.
pub(crate) fn parts(n: usize, folds: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..n).collect();
    Rng::with_seed(seed).shuffle(&mut order);
    let mut parts = vec![Vec::new(); folds];
    for (place, row) in order.into_iter().enumerate() {
        parts[place % folds].push(row);
    }
    parts
}
