//! The lexical features of a prompt: its tokens and its pairs of neighbours.
//!
//! A pair has no row of its own: its row is a hash of the two ids, in the integer arithmetic of the graph. Row `i`
//! of lexical weights belongs to token `i` below the vocabulary's size and to hash `i - size` from there on. The
//! graph's head, the first stage and the trainer all read prompts so.

/// Factor of a pair's left id.
const HASH_LEFT: u64 = 0x9E37_79B1;
/// Factor of a pair's right id.
const HASH_RIGHT: u64 = 0x85EB_CA77;

/// Heights of the two lexical tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lexicon {
    /// Rows for tokens.
    pub unigrams: usize,
    /// Rows for hashes of neighbours; at least 1.
    pub bigrams: usize,
}

impl Lexicon {
    /// All rows.
    pub fn rows(self) -> usize {
        self.unigrams + self.bigrams
    }

    /// Row of two neighbours in the bigram table. The ids are below 2^31, so nothing overflows and the
    /// graph's signed arithmetic gives the same.
    pub fn pair(self, left: u32, right: u32) -> usize {
        let hash = u64::from(left) * HASH_LEFT + u64::from(right) * HASH_RIGHT;
        (hash % self.bigrams.max(1) as u64) as usize
    }

    /// Rows in the bigram table of a window's neighbours, with repetitions.
    pub fn pairs(self, ids: &[u32]) -> impl Iterator<Item = usize> + Clone + '_ {
        ids.windows(2).filter_map(move |pair| match *pair {
            [left, right] => Some(self.pair(left, right)),
            _ => None,
        })
    }

    /// Lexical rows of a window, with repetitions.
    pub fn indices(self, ids: &[u32]) -> impl Iterator<Item = usize> + '_ {
        ids.iter().map(|&id| id as usize).chain(self.pairs(ids).map(move |row| self.unigrams + row))
    }
}

/// What every occurrence counts in a window of so many tokens: 1 / sqrt(tokens + pairs).
pub fn occurrence(tokens: usize) -> f32 {
    1.0 / ((tokens + tokens.saturating_sub(1)).max(1) as f32).sqrt()
}

/// Lexical weights `[rows, C]` rounded to one byte each, with one scale for each category.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundedTable {
    /// Row by row; times the category's scale they are the weights.
    pub values: Vec<i8>,
    /// `[C]`.
    pub scale: Vec<f32>,
}

impl RoundedTable {
    /// Rounds weights, symmetric around zero; off by half a step at most.
    pub fn new(weights: &[f32], categories: usize) -> Self {
        let mut scale = vec![0.0_f32; categories];
        for row in weights.chunks_exact(categories) {
            for (peak, weight) in scale.iter_mut().zip(row) {
                *peak = peak.max(weight.abs());
            }
        }
        for peak in &mut scale {
            *peak = if *peak > 0.0 { *peak / 127.0 } else { 1.0 };
        }
        let rows = weights.chunks_exact(categories);
        let values =
            rows.flat_map(|row| row.iter().zip(&scale).map(|(w, s)| (w / s).round() as i8)).collect();
        Self { values, scale }
    }

    /// The weights that it stands for.
    pub fn widen(&self) -> Vec<f32> {
        let rows = self.values.chunks_exact(self.scale.len());
        rows.flat_map(|row| row.iter().zip(&self.scale).map(|(&v, s)| f32::from(v) * s)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEXICON: Lexicon = Lexicon { unigrams: 30_522, bigrams: 131_071 };

    #[test]
    fn pairs_hash_as_in_the_graph() {
        // (101 * 0x9E3779B1 + 7592 * 0x85EBCA77) mod 131071, by hand.
        let sum = 101_u64 * 2_654_435_761 + 7_592 * 2_246_822_519;
        assert_eq!(LEXICON.pair(101, 7592), (sum % 131_071) as usize);
        assert_ne!(LEXICON.pair(101, 7592), LEXICON.pair(7592, 101));
    }

    #[test]
    fn a_window_of_three_tokens_has_five_features() {
        let rows: Vec<usize> = LEXICON.indices(&[101, 7, 102]).collect();
        assert_eq!(rows[..3], [101, 7, 102]);
        assert_eq!(rows[3..], [30_522 + LEXICON.pair(101, 7), 30_522 + LEXICON.pair(7, 102)]);
        assert!((occurrence(3) - 1.0 / 5.0_f32.sqrt()).abs() < 1e-7);
        assert_eq!(LEXICON.indices(&[]).count(), 0);
        assert!((occurrence(0) - 1.0).abs() < f32::EPSILON);
    }

    #[test]
    fn a_category_without_weights_stays_at_zero() {
        let table = RoundedTable::new(&[0.0, 1.0, 0.0, -2.0], 2);
        assert_eq!(table.values, [0, 64, 0, -127]);
        let wide = table.widen();
        assert!(wide[0].abs() < f32::EPSILON && (wide[3] + 2.0).abs() < 1e-6, "{wide:?}");
    }
}
