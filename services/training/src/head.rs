//! The category head: softmax regression over a dense input and the lexical features.

use std::ops::ControlFlow;

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2};

use crate::features::{Example, Sparse, Tables, document_frequency, occurrence};
use crate::lbfgs;

/// Weights of a head, in the layout of the graph's tensors.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Head {
    /// C.
    pub categories: usize,
    /// Heights of the lexical tables.
    pub tables: Tables,
    /// `[V + H, C]`: the two lexical tables, one below the other.
    pub lexical: Vec<f32>,
    /// `[p, C]`: weights of the dense input.
    pub embedding: Vec<f32>,
    /// `[C]`.
    pub bias: Vec<f32>,
}

/// What the fit minimises and when it stops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Penalty {
    /// Weight of half the squared lexical weights.
    pub lexical: f32,
    /// Weight of half the squared embedding weights (of the stretched embedding).
    pub embedding: f32,
    /// Lexical features in fewer examples than this get no weight.
    pub min_examples: u32,
    /// Share of the target that goes to all categories evenly.
    pub smoothing: f32,
    /// Factor of the dense inputs while they are fitted, so that they weigh about what lexical features do;
    /// without it the search would need many more steps. Undone when the weights are taken out.
    pub stretch: f32,
}

/// A unit vector's components are small beside lexical features.
pub(crate) const STRETCH_OF_UNIT_VECTORS: f32 = 4.0;

/// Examples with their labels, and what they are worth.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lessons<'a> {
    pub examples: &'a [Example],
    pub labels: &'a [usize],
    /// Weight of each example, 1 on average; all the same where it is empty.
    pub weights: &'a [f32],
    /// What another classifier thinks of each example, `[C]`, and its share of the target.
    pub teacher: Option<(&'a [Vec<f32>], f32)>,
}

impl<'a> Lessons<'a> {
    /// Examples that are worth the same, without a teacher.
    pub(crate) fn new(examples: &'a [Example], labels: &'a [usize]) -> Self {
        Self { examples, labels, ..Self::default() }
    }
}

/// Progress of a fit.
pub(crate) struct FitStep {
    /// Number of the step, from 1.
    pub iteration: usize,
    /// What is minimised: mean negative log likelihood of the training rows plus penalties.
    pub objective: f64,
    /// Mean negative log likelihood of the validation rows, where it was measured.
    pub valid_loss: Option<f64>,
}

/// Steps between two looks at the validation rows.
const LOOK_EVERY: usize = 5;
/// Looks without improvement after which the fit stops.
const PATIENCE: usize = 4;

impl Head {
    /// Uncalibrated scores of one example, `[C]`.
    pub(crate) fn logits(&self, example: &Example) -> Vec<f32> {
        let c = self.categories;
        let value = occurrence(example.ids.len());
        let mut scores = vec![0.0; c];
        for row in self.tables.indices(&example.ids) {
            accumulate(&mut scores, &self.lexical[row * c..][..c], value);
        }
        for (weights, &x) in self.embedding.chunks_exact(c).zip(example.embedding.iter()) {
            accumulate(&mut scores, weights, x);
        }
        accumulate(&mut scores, &self.bias, 1.0);
        scores
    }

    /// Fits a head to labelled examples. The weights are those of the step with the lowest loss on the
    /// validation rows; without such rows, those of the last step. `observe` may end the fit.
    pub(crate) fn fit(
        train: Lessons<'_>,
        valid: (&[Example], &[usize]),
        (categories, tables): (usize, Tables),
        penalty: Penalty,
        max_steps: usize,
        mut observe: impl FnMut(&FitStep) -> ControlFlow<()>,
    ) -> Self {
        let problem = Problem::new(train, categories, tables, penalty);
        let mut best: Option<(f64, Self)> = None;
        let mut stale = 0;
        let start = vec![0.0; problem.parameters()];
        let evaluate = |point: &[f32], gradient: &mut [f32]| problem.evaluate(point, gradient);
        lbfgs::minimise(start, evaluate, |step| {
            let last = step.iteration >= max_steps;
            let look = last || step.iteration % LOOK_EVERY == 0;
            let mut valid_loss = None;
            if look {
                let head = problem.head(step.point);
                let loss =
                    if valid.0.is_empty() { -(step.iteration as f64) } else { head.loss(valid.0, valid.1) };
                valid_loss = (!valid.0.is_empty()).then_some(loss);
                if best.as_ref().is_none_or(|(lowest, _)| loss < *lowest) {
                    best = Some((loss, head));
                    stale = 0;
                } else {
                    stale += 1;
                }
            }
            let seen = observe(&FitStep { iteration: step.iteration, objective: step.value, valid_loss });
            if last || stale >= PATIENCE { ControlFlow::Break(()) } else { seen }
        });
        match best {
            Some((_, head)) => head,
            None => problem.head(&vec![0.0; problem.parameters()]),
        }
    }

    /// Mean negative log likelihood of labelled examples.
    pub(crate) fn loss(&self, examples: &[Example], labels: &[usize]) -> f64 {
        let sum: f64 = examples
            .iter()
            .zip(labels)
            .map(|(example, &label)| negative_log_likelihood(&self.logits(example), label))
            .sum();
        sum / examples.len().max(1) as f64
    }
}

/// Minus the logarithm of the label's probability.
pub(crate) fn negative_log_likelihood(logits: &[f32], label: usize) -> f64 {
    let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&z| f64::from(z - peak).exp()).sum();
    sum.ln() - f64::from(logits[label] - peak)
}

/// Probabilities of scores, in place.
pub(crate) fn softmax(scores: &mut [f32]) {
    let peak = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - peak).exp();
        sum += *score;
    }
    for score in scores {
        *score /= sum;
    }
}

fn accumulate(to: &mut [f32], weights: &[f32], times: f32) {
    to.iter_mut().zip(weights).for_each(|(t, w)| *t += times * w);
}

/// The function that a fit minimises, over columns for the lexical rows in use.
struct Problem<'a> {
    train: Lessons<'a>,
    /// `[n, p]`, stretched: side by side the examples' dense inputs are one matrix product, not n.
    dense: Array2<f32>,
    lexical: Sparse,
    /// Lexical row of every column.
    rows: Vec<usize>,
    categories: usize,
    dimensions: usize,
    tables: Tables,
    penalty: Penalty,
}

impl<'a> Problem<'a> {
    fn new(train: Lessons<'a>, categories: usize, tables: Tables, penalty: Penalty) -> Self {
        let windows = || train.examples.iter().map(|example| example.ids.as_slice());
        let frequency = document_frequency(windows(), tables);
        let mut columns = vec![u32::MAX; tables.rows()];
        let mut rows = Vec::new();
        for (row, &count) in frequency.iter().enumerate() {
            if count >= penalty.min_examples.max(1) {
                columns[row] = rows.len() as u32;
                rows.push(row);
            }
        }
        let place = |row: usize| columns.get(row).copied().filter(|&column| column != u32::MAX);
        let lexical = Sparse::new(windows(), tables, place);
        let dimensions = train.examples.first().map_or(0, |example| example.embedding.len());
        let mut dense = Array2::zeros((train.examples.len(), dimensions));
        for (mut row, example) in dense.rows_mut().into_iter().zip(train.examples) {
            row.iter_mut().zip(example.embedding.iter()).for_each(|(to, x)| *to = x * penalty.stretch);
        }
        Self { train, dense, lexical, rows, categories, dimensions, tables, penalty }
    }

    fn parameters(&self) -> usize {
        (self.rows.len() + self.dimensions + 1) * self.categories
    }

    /// Regularised mean loss at a point, and its gradient.
    fn evaluate(&self, point: &[f32], gradient: &mut [f32]) -> f64 {
        let c = self.categories;
        let (lexical, rest) = point.split_at(self.rows.len() * c);
        let (embedding, bias) = rest.split_at(self.dimensions * c);
        gradient.fill(0.0);
        let (lexical_gradient, rest) = gradient.split_at_mut(self.rows.len() * c);
        let (embedding_gradient, bias_gradient) = rest.split_at_mut(self.dimensions * c);

        let Lessons { labels, weights, .. } = self.train;
        let share = 1.0 / labels.len().max(1) as f32;
        let mut loss = 0.0;
        let mut target = vec![0.0; c];
        // Scores first, then what they are off by.
        let mut errors = product(&self.dense.view(), &matrix(embedding, c));
        for (index, (mut scores, &label)) in errors.rows_mut().into_iter().zip(labels).enumerate() {
            let Some(scores) = scores.as_slice_mut() else { continue };
            accumulate(scores, bias, 1.0);
            for (column, value) in self.lexical.row(index) {
                accumulate(scores, &lexical[column * c..][..c], value);
            }
            let weight = share * weights.get(index).copied().unwrap_or(1.0);
            self.target(index, label, &mut target);
            // The target sums to 1: this is minus the sum of target x log p.
            let expected: f32 = target.iter().zip(&*scores).map(|(t, z)| t * (z - scores[label])).sum();
            let likely = negative_log_likelihood(scores, label) - f64::from(expected);
            loss += f64::from(weight) * likely;
            softmax(scores);
            for (p, t) in scores.iter_mut().zip(&target) {
                *p = (*p - t) * weight;
            }
            for (column, value) in self.lexical.row(index) {
                accumulate(&mut lexical_gradient[column * c..][..c], scores, value);
            }
            accumulate(bias_gradient, scores, 1.0);
        }
        let dense = product(&self.dense.t(), &errors.view());
        embedding_gradient.iter_mut().zip(&dense).for_each(|(to, g)| *to += g);
        loss += penalise(lexical, lexical_gradient, self.penalty.lexical);
        loss + penalise(embedding, embedding_gradient, self.penalty.embedding)
    }

    /// What an example's probabilities should be: label, evenness and teacher by their shares.
    fn target(&self, index: usize, label: usize, target: &mut [f32]) {
        target.fill(self.penalty.smoothing / self.categories as f32);
        target[label] += 1.0 - self.penalty.smoothing;
        if let Some((teacher, share)) = self.train.teacher {
            for (t, p) in target.iter_mut().zip(&teacher[index]) {
                *t += share * (p - *t);
            }
        }
    }

    /// The head that a point stands for.
    fn head(&self, point: &[f32]) -> Head {
        let c = self.categories;
        let (columns, rest) = point.split_at(self.rows.len() * c);
        let (embedding, bias) = rest.split_at(self.dimensions * c);
        let mut lexical = vec![0.0; self.tables.rows() * c];
        for (&row, weights) in self.rows.iter().zip(columns.chunks_exact(c)) {
            lexical[row * c..][..c].copy_from_slice(weights);
        }
        Head {
            categories: c,
            tables: self.tables,
            lexical,
            embedding: embedding.iter().map(|w| w * self.penalty.stretch).collect(),
            bias: bias.to_vec(),
        }
    }
}

/// Values `[n, columns]`, row by row.
fn matrix(values: &[f32], columns: usize) -> ArrayView2<'_, f32> {
    let rows = values.len() / columns.max(1);
    ArrayView2::from_shape((rows, columns), values).unwrap_or_else(|_| ArrayView2::from(&[[]; 0]))
}

/// `a b`, in the rows' order.
fn product(a: &ArrayView2<'_, f32>, b: &ArrayView2<'_, f32>) -> Array2<f32> {
    let mut out = Array2::zeros((a.nrows(), b.ncols()));
    general_mat_mul(1.0, a, b, 0.0, &mut out);
    out
}

/// Adds the penalty's gradient and returns its value.
fn penalise(weights: &[f32], gradient: &mut [f32], penalty: f32) -> f64 {
    accumulate(gradient, weights, penalty);
    0.5 * f64::from(penalty) * weights.iter().map(|w| f64::from(w * w)).sum::<f64>()
}

#[cfg(test)]
mod tests;
