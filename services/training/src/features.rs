//! The category head's inputs, computed as the graph computes them.
//!
//! Besides the embedding the head reads every token of the window and every pair of neighbours. A pair
//! has no row of its own: its row is a hash of the two ids, in the integer arithmetic of the graph. Row
//! `i` of the lexical weights belongs to token `i` below the vocabulary's size and to hash `i - size`
//! from there on.

/// Factor of a pair's left id.
const HASH_LEFT: u64 = 0x9E37_79B1;
/// Factor of a pair's right id.
const HASH_RIGHT: u64 = 0x85EB_CA77;

/// Heights of the two lexical tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tables {
    /// Rows for tokens.
    pub unigrams: usize,
    /// Rows for hashes of neighbours.
    pub bigrams: usize,
}

impl Tables {
    /// All rows.
    pub(crate) fn rows(self) -> usize {
        self.unigrams + self.bigrams
    }

    /// Row of two neighbours in the bigram table. The ids are below 2^31, so nothing overflows and the
    /// graph's signed arithmetic gives the same.
    pub(crate) fn pair(self, left: u32, right: u32) -> usize {
        ((u64::from(left) * HASH_LEFT + u64::from(right) * HASH_RIGHT) % self.bigrams as u64) as usize
    }

    /// Lexical rows of a window, with repetitions.
    pub(crate) fn indices(self, ids: &[u32]) -> impl Iterator<Item = usize> + '_ {
        let pairs = ids.windows(2).filter_map(move |pair| match *pair {
            [left, right] => Some(self.unigrams + self.pair(left, right)),
            _ => None,
        });
        ids.iter().map(|&id| id as usize).chain(pairs)
    }
}

/// What every occurrence counts in a window of so many tokens: 1 / sqrt(tokens + pairs).
pub(crate) fn occurrence(tokens: usize) -> f32 {
    1.0 / ((tokens + tokens.saturating_sub(1)).max(1) as f32).sqrt()
}

/// One example: what the head reads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Example {
    /// Token ids of the window, special tokens included.
    pub ids: Vec<u32>,
    /// `[d]`, L2-normalised.
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
    fn pairs_hash_as_in_the_graph() {
        // (101 * 0x9E3779B1 + 7592 * 0x85EBCA77) mod 131071, by hand.
        let sum = 101_u64 * 2_654_435_761 + 7_592 * 2_246_822_519;
        assert_eq!(TABLES.pair(101, 7592), (sum % 131_071) as usize);
        assert_ne!(TABLES.pair(101, 7592), TABLES.pair(7592, 101));
    }

    #[test]
    fn a_window_of_three_tokens_has_five_features() {
        let rows: Vec<usize> = TABLES.indices(&[101, 7, 102]).collect();
        assert_eq!(rows[..3], [101, 7, 102]);
        assert_eq!(rows[3..], [30_522 + TABLES.pair(101, 7), 30_522 + TABLES.pair(7, 102)]);
        assert!((occurrence(3) - 1.0 / 5.0_f32.sqrt()).abs() < 1e-7);
        assert_eq!(TABLES.indices(&[]).count(), 0);
        assert!((occurrence(0) - 1.0).abs() < f32::EPSILON);
    }

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
