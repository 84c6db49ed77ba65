//! The category head's inputs, computed as the graph computes them.
//!
//! Besides a dense vector the head reads every token of the window and every pair of neighbours
//! ([`encoder::Lexicon`]).

pub(crate) use encoder::{Lexicon as Tables, occurrence};

/// One example: what the head reads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Example {
    /// Token ids of the window, special tokens included.
    pub ids: Vec<u32>,
    /// `[p]`: the dense vector that the head reads, [`encoder::Encoder::head_inputs`].
    pub embedding: std::sync::Arc<[f32]>,
}

/// The lexical rows of many examples, one after the other, with each row at most once per example.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sparse {
    starts: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f32>,
}

impl Sparse {
    /// `place` maps a lexical row to a column, or to nothing where the row is not trained.
    pub(crate) fn new<'a>(
        windows: impl Iterator<Item = &'a [u32]>,
        tables: Tables,
        place: impl Fn(usize) -> Option<u32>,
    ) -> Self {
        let mut matrix = Self { starts: vec![0], ..Self::default() };
        let mut columns: Vec<u32> = Vec::new();
        for ids in windows {
            columns.clear();
            columns.extend(tables.indices(ids).filter_map(&place));
            columns.sort_unstable();
            let value = occurrence(ids.len());
            for group in columns.chunk_by(|a, b| a == b) {
                matrix.columns.push(group[0]);
                matrix.values.push(value * group.len() as f32);
            }
            matrix.starts.push(matrix.columns.len());
        }
        matrix
    }

    /// Columns and values of one example.
    pub(crate) fn row(&self, index: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        let range = self.starts[index]..self.starts[index + 1];
        self.columns[range.clone()].iter().zip(&self.values[range]).map(|(&c, &v)| (c as usize, v))
    }
}

/// In how many windows each lexical row occurs.
pub(crate) fn document_frequency<'a>(windows: impl Iterator<Item = &'a [u32]>, tables: Tables) -> Vec<u32> {
    let mut frequency = vec![0_u32; tables.rows()];
    let mut seen: Vec<usize> = Vec::new();
    for ids in windows {
        seen.clear();
        seen.extend(tables.indices(ids));
        seen.sort_unstable();
        seen.dedup();
        for &row in &seen {
            frequency[row] += 1;
        }
    }
    frequency
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: Tables = Tables { unigrams: 30_522, bigrams: 131_071 };

    #[test]
    fn repetitions_add_up_and_count_once_for_the_frequency() {
        let windows = [&[5_u32, 5][..], &[5]];
        let matrix = Sparse::new(windows.into_iter(), TABLES, |row| (row == 5).then_some(0));
        let value = occurrence(2);
        assert_eq!(matrix.row(0).collect::<Vec<_>>(), [(0, 2.0 * value)]);
        assert_eq!(matrix.row(1).collect::<Vec<_>>(), [(0, 1.0)]);
        assert_eq!(document_frequency(windows.into_iter(), TABLES)[5], 2);
    }
}
