//! A head's weights as the graph stores them.

use std::collections::BTreeMap;

use encoder::RoundedTable;

use crate::head::Head;
use crate::onnx::Tensor;

/// Names of the graph's head tensors.
pub(crate) const UNIGRAM: &str = "head.unigram";
pub(crate) const BIGRAM: &str = "head.bigram";
pub(crate) const EMBEDDING: &str = "head.embedding";
const UNIGRAM_SCALE: &str = "head.unigram.scale";
const BIGRAM_SCALE: &str = "head.bigram.scale";
const BIAS: &str = "head.bias";
const TEMPERATURE: &str = "head.temperature";

/// How a graph stores the lexical tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// One byte a weight, and scales of their own.
    Int8,
    /// As they are.
    Float,
}

impl Storage {
    /// What a graph with these initializers expects.
    pub(crate) fn of<T>(initializers: &BTreeMap<String, T>) -> Self {
        if initializers.contains_key(UNIGRAM_SCALE) { Self::Int8 } else { Self::Float }
    }
}

/// A head as the graph stores it.
pub(crate) struct Rounded {
    /// The head that the stored tables stand for: what the graph computes.
    pub head: Head,
    tables: Option<(RoundedTable, RoundedTable)>,
}

impl Rounded {
    pub(crate) fn new(head: Head, storage: Storage) -> Self {
        if storage == Storage::Float {
            return Self { head, tables: None };
        }
        let c = head.categories;
        let (unigrams, bigrams) = head.lexical.split_at(head.tables.unigrams * c);
        let (unigrams, bigrams) = (RoundedTable::new(unigrams, c), RoundedTable::new(bigrams, c));
        let lexical = [unigrams.widen(), bigrams.widen()].concat();
        Self { head: Head { lexical, ..head }, tables: Some((unigrams, bigrams)) }
    }

    /// Every tensor of the head, by its name in the graph.
    pub(crate) fn tensors(&self, temperature: f32) -> BTreeMap<String, Tensor> {
        let head = &self.head;
        let c = head.categories;
        let dimensions = head.embedding.len() / c;
        let (upper, lower) = ([head.tables.unigrams, c], [head.tables.bigrams, c]);
        let lexical = if let Some((unigrams, bigrams)) = &self.tables {
            vec![
                (UNIGRAM, Tensor::int8(&upper, &unigrams.values)),
                (UNIGRAM_SCALE, Tensor::float(&[c], &unigrams.scale)),
                (BIGRAM, Tensor::int8(&lower, &bigrams.values)),
                (BIGRAM_SCALE, Tensor::float(&[c], &bigrams.scale)),
            ]
        } else {
            let (unigrams, bigrams) = head.lexical.split_at(head.tables.unigrams * c);
            vec![(UNIGRAM, Tensor::float(&upper, unigrams)), (BIGRAM, Tensor::float(&lower, bigrams))]
        };
        let dense = [
            (EMBEDDING, Tensor::float(&[dimensions, c], &head.embedding)),
            (BIAS, Tensor::float(&[c], &head.bias)),
            (TEMPERATURE, Tensor::float(&[1], &[temperature])),
        ];
        lexical.into_iter().chain(dense).map(|(name, tensor)| (name.to_owned(), tensor)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Tables;

    #[test]
    fn rounding_is_off_by_half_a_step_at_most() {
        let lexical: Vec<f32> = (0..10).map(|i| (i as f32 - 4.3) / 3.0).collect();
        let head = Head {
            categories: 2,
            tables: Tables { unigrams: 3, bigrams: 2 },
            lexical: lexical.clone(),
            embedding: vec![0.5; 4],
            bias: vec![0.0; 2],
        };
        let rounded = Rounded::new(head.clone(), Storage::Int8);
        for (was, is) in lexical.iter().zip(&rounded.head.lexical) {
            assert!((was - is).abs() <= 2.0 / 127.0 / 2.0 + 1e-6);
        }
        let tensors = rounded.tensors(1.5);
        assert_eq!(tensors.len(), 7);
        assert_eq!(tensors[BIGRAM].dims, [2, 2]);
        assert_eq!(tensors[EMBEDDING].dims, [2, 2]);
        assert_eq!(tensors[TEMPERATURE].raw, 1.5_f32.to_le_bytes());

        let plain = Rounded::new(head.clone(), Storage::Float);
        assert_eq!(plain.head, head);
        assert_eq!(plain.tensors(1.5).len(), 5);
    }
}
