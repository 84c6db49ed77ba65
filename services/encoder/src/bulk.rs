//! Many texts at once, for training and evaluation.

use std::collections::VecDeque;

use routing::Features;

use crate::encoder::{EncodeError, Encoder};
use crate::model::Heads;
use crate::window::Excerpt;

impl Encoder {
    /// Reads many prompts as [`Encoder::features`] would, past cache and queue limit, in their order.
    /// They are fed to the sessions by length, so that next to no padding is computed and every session
    /// is busy until the end. `progress` is told how many are done, now and then.
    ///
    /// Blocks until all are done; not to be called from an async context.
    ///
    /// # Errors
    /// The first error of any prompt; the rest is given up.
    pub fn features_batch(
        &self,
        texts: &[impl AsRef<str>],
        mut progress: impl FnMut(usize),
    ) -> Result<Vec<Features>, EncodeError> {
        let inner = self.inner();
        let mut windows = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            windows.push((index, inner.window(&Excerpt::of(text.as_ref()))?));
        }
        // Longest first: the last batches, when sessions run dry one after the other, are the short ones.
        windows.sort_by_key(|(_, window)| std::cmp::Reverse(window.ids.len()));

        let ahead = inner.max_batch.saturating_mul(16);
        let mut features: Vec<Option<Features>> = vec![None; texts.len()];
        let mut pending = VecDeque::with_capacity(ahead);
        let mut windows = windows.into_iter();
        for done in 0..texts.len() {
            while pending.len() < ahead
                && let Some((index, window)) = windows.next()
            {
                let row = inner.submit(window.ids.clone(), Heads::All, None);
                pending.push_back((index, window, row));
            }
            let Some((index, window, row)) = pending.pop_front() else { break };
            let row = row.blocking_recv().map_err(|_| EncodeError::Closed)??;
            if let Some(slot) = features.get_mut(index) {
                *slot = Some(Features {
                    embedding: row.embedding,
                    probabilities: row.probabilities,
                    tokens: window.tokens,
                    truncated: window.truncated_tokens > 0,
                });
            }
            if done % 256 == 255 || done + 1 == texts.len() {
                progress(done + 1);
            }
        }
        Ok(features.into_iter().flatten().collect())
    }
}
