//! The exact index: every vector of a space is compared, so that the result does not depend on an approximation.
//!
//! Vectors lie one after the other in blocks. A change copies the blocks that it touches and shares the others with
//! the index before it, so that searches under way go on undisturbed and a small change stays cheap.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use routing::{ExpertId, Neighbour, dot};

use super::PastPrompt;

/// Vectors in a block: what a change of one of them copies.
const BLOCK: usize = 1024;

/// The vectors of all spaces.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    spaces: Vec<Space>,
}

/// Vectors that compare.
#[derive(Clone, Debug)]
struct Space {
    name: Arc<str>,
    width: usize,
    blocks: Vec<Arc<Block>>,
}

#[derive(Clone, Debug, Default)]
struct Block {
    /// `[rows, width]`.
    vectors: Vec<f32>,
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
struct Row {
    id: Arc<str>,
    outcomes: Arc<[(ExpertId, f32)]>,
}

impl Index {
    /// How many vectors there are.
    pub(super) fn len(&self) -> usize {
        self.spaces.iter().map(Space::len).sum()
    }

    /// How many there are by space.
    pub(super) fn census(&self) -> BTreeMap<Arc<str>, usize> {
        let mut counts = BTreeMap::new();
        for space in &self.spaces {
            *counts.entry(space.name.clone()).or_insert(0) += space.len();
        }
        counts
    }

    /// Multiply-adds of one search.
    pub(super) fn effort(&self, name: &str) -> usize {
        self.spaces.iter().filter(|space| *space.name == *name).map(|space| space.len() * space.width).sum()
    }

    /// How many of these there are.
    pub(super) fn count(&self, gone: impl Fn(&str) -> bool) -> usize {
        self.rows().filter(|row| gone(&row.id)).count()
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.spaces.iter().flat_map(|space| &space.blocks).flat_map(|block| &block.rows)
    }

    /// The same without these.
    pub(super) fn without(&self, gone: impl Fn(&str) -> bool) -> Self {
        let mut rest = self.clone();
        for space in &mut rest.spaces {
            let width = space.width;
            for block in &mut space.blocks {
                if block.rows.iter().any(|row| gone(&row.id)) {
                    *block = Arc::new(block.without(width, &gone));
                }
            }
            space.blocks.retain(|block| !block.rows.is_empty());
        }
        rest.spaces.retain(|space| !space.blocks.is_empty());
        rest
    }

    /// Adds a prompt, whose id is new.
    pub(super) fn push(&mut self, prompt: &PastPrompt) {
        let width = prompt.embedding.len();
        let fits = |space: &Space| space.name == prompt.space && space.width == width;
        let at = self.spaces.iter().position(fits).unwrap_or_else(|| {
            self.spaces.push(Space { name: prompt.space.clone(), width, blocks: Vec::new() });
            self.spaces.len() - 1
        });
        let blocks = &mut self.spaces[at].blocks;
        if blocks.last().is_none_or(|block| block.rows.len() >= BLOCK) {
            blocks.push(Arc::default());
        }
        if let Some(last) = blocks.last_mut() {
            // Copied when a search or an older index holds it.
            let block = Arc::make_mut(last);
            block.vectors.extend_from_slice(&prompt.embedding);
            block.rows.push(Row { id: prompt.id.clone(), outcomes: prompt.outcomes.clone() });
        }
    }

    /// See [`super::PromptMemory::nearest`].
    pub(super) fn nearest(&self, name: &str, embedding: &[f32], k: usize) -> Arc<[Neighbour]> {
        let fits = |space: &&Space| *space.name == *name && space.width == embedding.len();
        let Some(space) = self.spaces.iter().find(fits) else { return Arc::default() };
        let mut best = Best::new(k);
        for block in &space.blocks {
            for (vector, row) in block.vectors.chunks_exact(space.width).zip(&block.rows) {
                // Widths are the same, so that there is a product.
                best.offer(dot(vector, embedding).unwrap_or(f32::NEG_INFINITY), row);
            }
        }
        best.neighbours()
    }
}

impl Space {
    fn len(&self) -> usize {
        self.blocks.iter().map(|block| block.rows.len()).sum()
    }
}

impl Block {
    fn without(&self, width: usize, gone: impl Fn(&str) -> bool) -> Self {
        let mut rest = Self::default();
        for (vector, row) in self.vectors.chunks_exact(width).zip(&self.rows) {
            if !gone(&row.id) {
                rest.vectors.extend_from_slice(vector);
                rest.rows.push(row.clone());
            }
        }
        rest
    }
}

/// The best of what was offered, by a partial sort of twice as many now and then.
struct Best<'a> {
    k: usize,
    kept: Vec<(f32, &'a Row)>,
    /// Nothing below belongs to the best any more.
    floor: f32,
}

impl<'a> Best<'a> {
    fn new(k: usize) -> Self {
        Self { k, kept: Vec::with_capacity(2 * k), floor: f32::NEG_INFINITY }
    }

    fn offer(&mut self, similarity: f32, row: &'a Row) {
        if similarity < self.floor || self.k == 0 {
            return;
        }
        self.kept.push((similarity, row));
        if self.kept.len() >= 2 * self.k {
            let (_, last, _) = self.kept.select_nth_unstable_by(self.k - 1, better);
            self.floor = last.0;
            self.kept.truncate(self.k);
        }
    }

    fn neighbours(mut self) -> Arc<[Neighbour]> {
        self.kept.sort_unstable_by(better);
        let neighbour = |(similarity, row): (f32, &Row)| Neighbour {
            id: row.id.clone(),
            // Rounding may carry it past the ends.
            similarity: similarity.clamp(-1.0, 1.0),
            outcomes: row.outcomes.clone(),
        };
        self.kept.into_iter().take(self.k).map(neighbour).collect()
    }
}

/// Most similar first, then by id: an order that does not depend on when a prompt was added.
fn better((a, x): &(f32, &Row), (b, y): &(f32, &Row)) -> Ordering {
    b.total_cmp(a).then_with(|| x.id.cmp(&y.id))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn prompt(n: usize, space: &str, vector: &[f32]) -> PastPrompt {
        let outcomes = [(ExpertId::new("e").unwrap(), n as f32)].into();
        PastPrompt { id: format!("p{n:04}").into(), space: space.into(), embedding: vector.into(), outcomes }
    }

    fn ids(found: &[Neighbour]) -> Vec<&str> {
        found.iter().map(|neighbour| &*neighbour.id).collect()
    }

    #[test]
    fn spaces_and_widths_do_not_mix() {
        let mut index = Index::default();
        index.push(&prompt(0, "one", &[1.0, 0.0]));
        index.push(&prompt(1, "two", &[1.0, 0.0]));
        index.push(&prompt(2, "one", &[1.0, 0.0, 0.0]));
        assert_eq!(ids(&index.nearest("one", &[1.0, 0.0], 5)), ["p0000"]);
        assert_eq!(ids(&index.nearest("one", &[0.0, 1.0, 0.0], 5)), ["p0002"]);
        assert!(index.nearest("three", &[1.0, 0.0], 5).is_empty());
        assert!(index.nearest("one", &[1.0, 0.0], 0).is_empty());
        assert_eq!((index.effort("one"), index.effort("two"), index.effort("three")), (5, 2, 0));
        assert_eq!(index.census(), [("one".into(), 2), ("two".into(), 1)].into());
    }

    #[test]
    fn a_change_copies_one_block_and_shares_the_rest() {
        let mut index = Index::default();
        for n in 0..3 * BLOCK {
            index.push(&prompt(n, "s", &[1.0, 0.0]));
        }
        let before = index.clone();
        let after = before.without(|id| id == "p1500");
        let shared = |at: usize| Arc::ptr_eq(&before.spaces[0].blocks[at], &after.spaces[0].blocks[at]);
        assert_eq!([shared(0), shared(1), shared(2)], [true, false, true]);
        assert_eq!((before.len(), after.len()), (3 * BLOCK, 3 * BLOCK - 1));
        assert_eq!(before.count(|id| id == "p1500"), 1);
        assert!(after.without(|_| true).spaces.is_empty());
    }

    proptest! {
        /// Few values, so that there are many ties; k around the number of rows.
        #[test]
        fn the_nearest_are_those_of_a_full_sort_in_whatever_order_they_came(
            points in prop::collection::vec((-2..=2i8, -2..=2i8), 0..60),
            gone in prop::collection::btree_set(0..60usize, 0..20),
            k in 0..70usize,
            turn in any::<prop::sample::Index>(),
        ) {
            let mut order: Vec<usize> = (0..points.len()).collect();
            if !order.is_empty() {
                order.rotate_left(turn.index(points.len()));
            }
            let vector = |n: usize| [f32::from(points[n].0) / 4.0, f32::from(points[n].1) / 4.0];
            let mut index = Index::default();
            for &n in &order {
                index.push(&prompt(n, "s", &vector(n)));
            }
            let names: BTreeSet<String> = gone.iter().map(|n| format!("p{n:04}")).collect();
            let index = index.without(|id| names.contains(id));
            let query = [0.8, 0.6];
            let mut expected: Vec<(f32, String)> = (0..points.len())
                .filter(|n| !gone.contains(n))
                .map(|n| (dot(&vector(n), &query).unwrap(), format!("p{n:04}")))
                .collect();
            expected.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            expected.truncate(k);
            let found: Vec<(f32, String)> = index
                .nearest("s", &query, k)
                .iter()
                .map(|neighbour| (neighbour.similarity, neighbour.id.to_string()))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
