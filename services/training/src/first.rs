//! The first stage: a classifier over tokens alone, fitted beside the full head.
//!
//! Its inputs are the head's lexical features and, for tokens that the training rows hardly have, what the
//! encoder makes of each token alone: a static vector, weighed down for frequent tokens (a / (a + p), the smooth
//! inverse frequency of Arora et al. 2017) and centred. All of that is linear in the tokens, so that it folds
//! into one row of numbers for each token and each hashed pair.

use std::ops::ControlFlow;
use std::sync::Arc;

use encoder::{FirstStage, FirstStageWeights, RoundedTable};

use crate::calibrate;
use crate::features::{Example, Tables, occurrence};
use crate::head::{FitStep, Head, Lessons, Penalty, softmax};
use crate::metrics::Staged;

/// Frequency at which a token's static vector weighs half.
const HALF: f64 = 1e-3;

/// Sums of some hundred static vectors are large beside lexical features.
const STRETCH: f32 = 0.5;

/// A static vector for every token, ready to be summed over a window.
pub(crate) struct StaticTokens {
    /// `[V]` rows of `[d]`.
    vectors: Vec<Vec<f32>>,
}

impl StaticTokens {
    /// Weighs and centres vectors by how often their tokens occur in windows.
    pub(crate) fn new<'a>(vectors: &[Arc<[f32]>], windows: impl Iterator<Item = &'a [u32]>) -> Self {
        // Every token is taken to occur once more than it does: none is infinitely rare.
        let mut counts = vec![1.0_f64; vectors.len()];
        for &id in windows.flatten() {
            if let Some(count) = counts.get_mut(id as usize) {
                *count += 1.0;
            }
        }
        let all: f64 = counts.iter().sum();
        let weights: Vec<f64> = counts.iter().map(|count| HALF / (HALF + count / all)).collect();
        let width = vectors.first().map_or(0, |vector| vector.len());
        let mut centre = vec![0.0_f64; width];
        let mut mass = 0.0;
        for ((vector, weight), count) in vectors.iter().zip(&weights).zip(&counts) {
            mass += weight * count;
            for (sum, x) in centre.iter_mut().zip(vector.iter()) {
                *sum += weight * count * f64::from(*x);
            }
        }
        let vectors = vectors.iter().zip(&weights).map(|(vector, weight)| {
            let centred = vector.iter().zip(&centre).map(|(x, sum)| f64::from(*x) - sum / mass);
            centred.map(|x| (x * weight) as f32).collect()
        });
        Self { vectors: vectors.collect() }
    }

    /// The example as the first stage reads it: the sum of its tokens' vectors in the dense input's place.
    pub(crate) fn example(&self, example: &Example) -> Example {
        let mut sum = vec![0.0; self.vectors.first().map_or(0, Vec::len)];
        let share = occurrence(example.ids.len());
        for vector in example.ids.iter().filter_map(|&id| self.vectors.get(id as usize)) {
            for (sum, x) in sum.iter_mut().zip(vector) {
                *sum += share * x;
            }
        }
        Example { ids: example.ids.clone(), embedding: sum.into() }
    }

    /// The head with its dense part folded into the tokens' rows.
    fn fold(&self, mut head: Head) -> Head {
        let c = head.categories;
        let rows = head.lexical.chunks_exact_mut(c);
        for (row, vector) in rows.take(head.tables.unigrams).zip(&self.vectors) {
            for (weights, &x) in head.embedding.chunks_exact(c).zip(vector) {
                row.iter_mut().zip(weights).for_each(|(to, w)| *to += x * w);
            }
        }
        head.embedding = Vec::new();
        head
    }
}

/// A first stage that was fitted and calibrated.
pub(crate) struct FittedFirst {
    /// Its weights, divided by the temperature.
    pub weights: FirstStageWeights,
    /// What they were divided by.
    pub temperature: f32,
}

impl FittedFirst {
    /// Fits a first stage to training examples that [`StaticTokens::example`] made, and calibrates it on the
    /// validation examples, which also stop the fit.
    pub(crate) fn fit(
        tokens: &StaticTokens,
        train: Lessons<'_>,
        valid: (&[Example], &[usize]),
        (categories, tables): (usize, Tables),
        (penalty, max_steps): (Penalty, usize),
        observe: impl FnMut(&FitStep) -> ControlFlow<()>,
    ) -> Self {
        let penalty = Penalty { stretch: STRETCH, ..penalty };
        let head = Head::fit(train, valid, (categories, tables), penalty, max_steps, observe);
        let head = tokens.fold(head);
        let (unigrams, bigrams) = head.lexical.split_at(tables.unigrams * categories);
        let weights = FirstStageWeights {
            unigram: RoundedTable::new(unigrams, categories),
            bigram: RoundedTable::new(bigrams, categories),
            bias: head.bias.clone(),
        };
        // Calibrated on what was rounded: that is what serves. Probabilities as logits: their logarithms.
        let stage = FirstStage::new(&weights);
        let logits: Vec<Vec<f32>> = valid.0.iter().map(|example| logarithms(&stage, &example.ids)).collect();
        let temperature = calibrate::temperature(&logits, valid.1);
        Self { weights: weights.tempered(temperature), temperature }
    }
}

fn logarithms(stage: &FirstStage, ids: &[u32]) -> Vec<f32> {
    stage.probabilities(ids).iter().map(|p| p.max(f32::MIN_POSITIVE).ln()).collect()
}

/// What a full head with this temperature thinks of examples: the teacher of a first stage.
pub(crate) fn opinions(head: &Head, examples: &[Example], temperature: f32) -> Vec<Vec<f32>> {
    let opinion = |example: &Example| {
        let mut scores: Vec<f32> = head.logits(example).iter().map(|z| z / temperature).collect();
        softmax(&mut scores);
        scores
    };
    examples.iter().map(opinion).collect()
}

/// The lowest threshold, and with it the most that the first stage decides, at which the cascade's accuracy is
/// below the second stage's by no more than `loss` (a share of the rows). 1 when there is none.
pub(crate) fn threshold(answers: &[Staged], loss: f64) -> f32 {
    let mut order: Vec<&Staged> = answers.iter().collect();
    order.sort_by(|a, b| b.first.confidence.total_cmp(&a.first.confidence));
    let allowed = loss * answers.len() as f64;
    let (mut worse, mut best) = (0_i64, None);
    for group in order.chunk_by(|a, b| a.first.confidence.to_bits() == b.first.confidence.to_bits()) {
        worse += group.iter().map(|a| i64::from(a.second.right()) - i64::from(a.first.right())).sum::<i64>();
        if worse as f64 <= allowed {
            best = group.first().map(|a| a.first.confidence);
        }
    }
    best.unwrap_or(1.0)
}

#[cfg(test)]
mod tests;
