//! The first stage: categories from tokens alone, in microseconds.
//!
//! What is linear in a prompt's tokens folds into one row of C numbers for each token and each hashed pair of
//! neighbours, whatever it was trained from. A decision is the sum of a window's rows:
//!
//! ```text
//! logits = (scale_u * sum U[id] + scale_b * sum B[pair]) / sqrt(tokens + pairs) + bias
//! ```
//!
//! U and B are int8, the sums are integers, and the calibration's temperature is inside scales and bias. The
//! file is in safetensors form: `unigram` and `bigram` (int8, `[rows, C]`), `unigram.scale`, `bigram.scale` and
//! `bias` (float32, `[C]`).

use std::sync::Arc;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::lexical::{Lexicon, RoundedTable, occurrence};
use crate::queue::softmax;

/// Values that are added side by side; rows are padded to a multiple of it.
const LANES: usize = 16;

const UNIGRAM: &str = "unigram";
const UNIGRAM_SCALE: &str = "unigram.scale";
const BIGRAM: &str = "bigram";
const BIGRAM_SCALE: &str = "bigram.scale";
const BIAS: &str = "bias";

/// Weights of a first stage, as its file holds them.
#[derive(Clone, Debug, PartialEq)]
pub struct FirstStageWeights {
    /// Rows for tokens, by id.
    pub unigram: RoundedTable,
    /// Rows for hashed pairs of neighbours.
    pub bigram: RoundedTable,
    /// `[C]`.
    pub bias: Vec<f32>,
}

impl FirstStageWeights {
    /// Weights divided by a temperature, so that their softmax is calibrated by it.
    #[must_use]
    pub fn tempered(mut self, temperature: f32) -> Self {
        let scales = self.unigram.scale.iter_mut().chain(&mut self.bigram.scale).chain(&mut self.bias);
        scales.for_each(|value| *value /= temperature);
        self
    }

    /// The file's content.
    ///
    /// # Errors
    /// Tables whose sizes do not fit.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let c = self.bias.len();
        let bytes = |values: &[i8]| values.iter().map(|v| v.to_le_bytes()[0]).collect::<Vec<u8>>();
        let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let parts = [
            (UNIGRAM, Dtype::I8, vec![self.unigram.values.len() / c.max(1), c], bytes(&self.unigram.values)),
            (BIGRAM, Dtype::I8, vec![self.bigram.values.len() / c.max(1), c], bytes(&self.bigram.values)),
            (UNIGRAM_SCALE, Dtype::F32, vec![c], floats(&self.unigram.scale)),
            (BIGRAM_SCALE, Dtype::F32, vec![c], floats(&self.bigram.scale)),
            (BIAS, Dtype::F32, vec![c], floats(&self.bias)),
        ];
        let mut views = Vec::with_capacity(parts.len());
        for (name, dtype, shape, data) in &parts {
            let view = TensorView::new(*dtype, shape.clone(), data).map_err(|error| error.to_string())?;
            views.push((*name, view));
        }
        safetensors::serialize(views, None).map_err(|error| error.to_string())
    }

    fn parse(bytes: &[u8], categories: usize) -> Result<Self, String> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let tensor = |name: &str, dtype: Dtype| {
            let tensor = file.tensor(name).map_err(|error| format!("`{name}`: {error}"))?;
            let fits = tensor.dtype() == dtype && tensor.shape().last() == Some(&categories);
            if fits {
                Ok(tensor)
            } else {
                let (found, shape) = (tensor.dtype(), tensor.shape());
                Err(format!("`{name}` is {found:?} {shape:?}, expected {dtype:?} with {categories} columns"))
            }
        };
        let table = |name: &str, scale: &str| -> Result<RoundedTable, String> {
            let values = tensor(name, Dtype::I8)?;
            if values.shape().len() != 2 || values.data().is_empty() {
                return Err(format!("`{name}` is {:?}, expected [rows, {categories}]", values.shape()));
            }
            let values = values.data().iter().map(|byte| i8::from_le_bytes([*byte])).collect();
            Ok(RoundedTable { values, scale: floats(&tensor(scale, Dtype::F32)?, scale)? })
        };
        Ok(Self {
            unigram: table(UNIGRAM, UNIGRAM_SCALE)?,
            bigram: table(BIGRAM, BIGRAM_SCALE)?,
            bias: floats(&tensor(BIAS, Dtype::F32)?, BIAS)?,
        })
    }
}

fn floats(tensor: &TensorView<'_>, name: &str) -> Result<Vec<f32>, String> {
    let values: Vec<f32> =
        tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if values.iter().all(|value| value.is_finite()) {
        Ok(values)
    } else {
        Err(format!("`{name}` holds values that are not finite numbers"))
    }
}

/// A first stage, ready to decide.
#[derive(Clone, Debug, PartialEq)]
pub struct FirstStage {
    lexicon: Lexicon,
    unigram: Table,
    bigram: Table,
    bias: Vec<f32>,
}

impl FirstStage {
    /// A first stage with these weights.
    pub fn new(weights: &FirstStageWeights) -> Self {
        let c = weights.bias.len().max(1);
        let height = |table: &RoundedTable| table.values.len() / c;
        Self {
            lexicon: Lexicon { unigrams: height(&weights.unigram), bigrams: height(&weights.bigram) },
            unigram: Table::new(&weights.unigram),
            bigram: Table::new(&weights.bigram),
            bias: weights.bias.clone(),
        }
    }

    /// Reads a file that [`FirstStageWeights::to_bytes`] made.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(bytes: &[u8], categories: usize) -> Result<Self, String> {
        FirstStageWeights::parse(bytes, categories).map(|weights| Self::new(&weights))
    }

    /// Tokens that it has rows for.
    pub(crate) fn vocabulary(&self) -> usize {
        self.lexicon.unigrams
    }

    /// Calibrated probabilities of a window, `[C]`. Ids beyond the vocabulary count nothing.
    pub fn probabilities(&self, ids: &[u32]) -> Arc<[f32]> {
        let mut logits = vec![0.0; self.bias.len()];
        self.unigram.add_sum(&ids.iter().map(|&id| id as usize), &mut logits);
        self.bigram.add_sum(&self.lexicon.pairs(ids), &mut logits);
        let share = occurrence(ids.len());
        for (logit, bias) in logits.iter_mut().zip(&self.bias) {
            *logit = *logit * share + bias;
        }
        // Scales and bias are finite and the sums are bounded, so that there is always an answer; an empty one
        // would be a doubt that nothing clears.
        softmax(&logits).unwrap_or_default()
    }
}

/// A table as it is summed: rows padded to whole lanes.
#[derive(Clone, Debug, PartialEq)]
struct Table {
    lanes: Vec<[i8; LANES]>,
    /// Lanes in a row.
    width: usize,
    scale: Vec<f32>,
}

impl Table {
    fn new(table: &RoundedTable) -> Self {
        let categories = table.scale.len().max(1);
        let width = categories.div_ceil(LANES);
        let rows = table.values.chunks_exact(categories);
        let mut lanes = Vec::with_capacity(rows.len() * width);
        for row in rows {
            for part in row.chunks(LANES) {
                let mut lane = [0; LANES];
                lane.iter_mut().zip(part).for_each(|(to, value)| *to = *value);
                lanes.push(lane);
            }
        }
        Self { lanes, width, scale: table.scale.clone() }
    }

    /// Adds the scaled sum of rows. The inner loop has a fixed length and no branch: the compiler makes a few
    /// vector instructions of it.
    fn add_sum(&self, rows: &(impl Iterator<Item = usize> + Clone), to: &mut [f32]) {
        for (at, (to, scale)) in to.chunks_mut(LANES).zip(self.scale.chunks(LANES)).enumerate() {
            let mut sum = [0_i32; LANES];
            for row in rows.clone() {
                let Some(lane) = self.lanes.get(row * self.width + at) else { continue };
                for (sum, value) in sum.iter_mut().zip(lane) {
                    *sum += i32::from(*value);
                }
            }
            for ((to, sum), scale) in to.iter_mut().zip(sum).zip(scale) {
                *to += sum as f32 * scale;
            }
        }
    }
}

#[cfg(test)]
mod tests;
