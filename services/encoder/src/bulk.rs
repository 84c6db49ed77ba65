//! Many texts at once, for training and evaluation.

use std::collections::VecDeque;
use std::sync::Arc;

use routing::Features;

use crate::encoder::{EncodeError, Encoder};
use crate::model::Heads;
use crate::queue::{Item, Row};
use crate::window::Tokenized;

impl Encoder {
    /// Reads many prompts as [`Encoder::features`] would, past cache and queue limit, in their order:
    /// [`Encoder::tokenize_window`] and [`Encoder::features_of_windows`].
    ///
    /// # Errors
    /// The first error of any prompt; the rest is given up.
    pub fn features_batch(
        &self,
        texts: &[impl AsRef<str>],
        progress: impl FnMut(usize),
    ) -> Result<Vec<Features>, EncodeError> {
        let windows: Result<Vec<_>, _> =
            texts.iter().map(|text| self.tokenize_window(text.as_ref())).collect();
        self.features_of_windows(&windows?, progress)
    }

    /// Runs many windows past cache and queue limit and gives their features in their order. They are
    /// fed to the sessions by length, so that next to no padding is computed and every session is busy
    /// until the end. `progress` is told how many are done, now and then.
    ///
    /// Blocks until all are done; not to be called from an async context.
    ///
    /// # Errors
    /// The first error of any window; the rest is given up.
    pub fn features_of_windows(
        &self,
        windows: &[Tokenized],
        progress: impl FnMut(usize),
    ) -> Result<Vec<Features>, EncodeError> {
        self.rows(windows, progress, |window, row| Features {
            embedding: row.embedding,
            probabilities: row.probabilities,
            state: row.state,
            tokens: window.tokens,
            truncated: window.truncated_tokens > 0,
        })
    }

    /// What the category head's dense part reads of many prompts, in their order: the graph's output `pooled`, or
    /// the embedding of a graph that has none. For training such a head; otherwise as [`Encoder::features_batch`].
    ///
    /// # Errors
    /// The first error of any prompt; the rest is given up.
    pub fn head_inputs(
        &self,
        texts: &[impl AsRef<str>],
        progress: impl FnMut(usize),
    ) -> Result<Vec<Arc<[f32]>>, EncodeError> {
        let windows: Result<Vec<_>, _> =
            texts.iter().map(|text| self.tokenize_window(text.as_ref())).collect();
        self.rows(
            &windows?,
            progress,
            |_, row| if row.pooled.is_empty() { row.embedding } else { row.pooled },
        )
    }

    fn rows<T: Clone>(
        &self,
        windows: &[Tokenized],
        mut progress: impl FnMut(usize),
        take: impl Fn(&Tokenized, Row) -> T,
    ) -> Result<Vec<T>, EncodeError> {
        let inner = self.inner();
        if self.is_first_stage_alone() {
            return Err(EncodeError::NoEncoder);
        }
        // Longest first: the last batches, when sessions run dry one after the other, are the short ones.
        let mut order: Vec<usize> = (0..windows.len()).collect();
        order.sort_by_key(|&index| windows.get(index).map(|window| std::cmp::Reverse(window.ids.len())));

        let ahead = inner.max_batch.saturating_mul(16);
        let mut order = order.into_iter();
        let mut pending = VecDeque::new();
        let mut taken: Vec<Option<T>> = vec![None; windows.len()];
        for done in 0..windows.len() {
            if pending.len() <= ahead / 2 {
                let mut items = Vec::new();
                for index in order.by_ref().take(ahead - pending.len()) {
                    let Some(window) = windows.get(index) else { continue };
                    let (item, row) = Item::new(window.ids.clone(), Heads::States, None);
                    items.push(item);
                    pending.push_back((index, window, row));
                }
                inner.queue.push(items);
            }
            let Some((index, window, row)) = pending.pop_front() else { break };
            let row = row.blocking_recv().map_err(|_| EncodeError::Closed)??;
            if let Some(slot) = taken.get_mut(index) {
                *slot = Some(take(window, row));
            }
            if done % 256 == 255 || done + 1 == windows.len() {
                progress(done + 1);
            }
        }
        Ok(taken.into_iter().flatten().collect())
    }
}
