//! What a session computes, apart from how.

/// Computes forward passes; owned by one thread.
pub(crate) trait Model: Send {
    /// One pass over a batch.
    ///
    /// # Errors
    /// What went wrong; it concerns every prompt of the batch.
    fn forward(&mut self, batch: &Batch, heads: Heads) -> Result<Outputs, String>;

    /// Whether it has states to give, for [`Heads::States`].
    fn has_states(&self) -> bool {
        false
    }
}

/// What is wanted of a pass; the larger includes the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Heads {
    /// The embedding alone.
    Embedding,
    /// Embedding and category logits.
    All,
    /// Those, and of a graph that has them the mean normed token state and the category head's own input.
    States,
}

/// Prompts side by side, padded at the end with id 0 and mask 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Prompts.
    pub rows: usize,
    /// Tokens of the longest.
    pub width: usize,
    /// `[rows, width]`.
    pub ids: Vec<i64>,
    /// `[rows, width]`: 1 for a token, 0 for padding.
    pub mask: Vec<i64>,
}

impl Batch {
    pub(crate) fn pad<'a>(prompts: impl Iterator<Item = &'a [u32]> + Clone) -> Self {
        let rows = prompts.clone().count();
        let width = prompts.clone().map(<[u32]>::len).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(rows * width);
        let mut mask = Vec::with_capacity(rows * width);
        for prompt in prompts {
            let end = ids.len() + width;
            ids.extend(prompt.iter().map(|&id| i64::from(id)));
            mask.resize(ids.len(), 1);
            ids.resize(end, 0);
            mask.resize(end, 0);
        }
        Self { rows, width, ids, mask }
    }
}

/// What a pass yields.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outputs {
    /// `[rows, d]`.
    pub embedding: Matrix,
    /// `[rows, C]`, or empty when not wanted.
    pub logits: Matrix,
    /// `[rows, d]`: the mean over each row's own tokens of LN(u), or empty when not wanted or not to be had.
    pub states: Matrix,
    /// `[rows, p]`: what the category head's dense part reads, or empty when not wanted or not to be had.
    pub pooled: Matrix,
}

/// Rows of equal width.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Matrix {
    /// Row by row.
    pub values: Vec<f32>,
    /// Values in a row.
    pub width: usize,
}

impl Matrix {
    pub(crate) fn get(&self, row: usize) -> Option<&[f32]> {
        let start = row.checked_mul(self.width)?;
        self.values.get(start..start + self.width).filter(|row| !row.is_empty())
    }
}
