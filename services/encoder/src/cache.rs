//! Decisions by the text that they rest on, and single flight for texts that are being decided.
//!
//! The key is the text itself, or for a long one the excerpt of it that is read (`Excerpt::key`): a key
//! is never longer than about 8 KiB, and equal keys mean equal decisions. Errors are not kept.

use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle, PlaceholderGuard};

use crate::encoder::Decision;

/// Bytes that an entry takes besides its text and its vectors.
const OVERHEAD: usize = 256;

pub(crate) struct DecisionCache(Cache<String, Decision, Weight>);

/// The right and the duty to decide a text for all who wait for it. Dropping it without an answer passes
/// it on to the next who waits.
pub(crate) type Lead<'a> = PlaceholderGuard<
    'a,
    String,
    Decision,
    Weight,
    quick_cache::DefaultHashBuilder,
    DefaultLifecycle<String, Decision>,
>;

pub(crate) enum Found<'a> {
    /// It was there.
    Hit(Decision),
    /// Someone else was deciding it, and has.
    Joined(Decision),
    /// Nobody has decided it; the caller is to.
    Lead(Lead<'a>),
}

/// Weighs entries in bytes, and no entry less than its share of the cache, so that one capacity in bytes
/// bounds both the bytes and the number of entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight {
    least: u64,
}

impl Weighter<String, Decision> for Weight {
    fn weight(&self, key: &String, decision: &Decision) -> u64 {
        let features = &decision.features;
        let vectors = size_of_val(&*features.embedding)
            + size_of_val(&*features.probabilities)
            + size_of_val(&*features.state);
        ((key.len() + vectors + OVERHEAD) as u64).max(self.least)
    }
}

impl DecisionCache {
    /// Without entries or without bytes it keeps nothing and still joins identical texts.
    pub(crate) fn new(entries: usize, bytes: u64) -> Self {
        let bytes = if entries == 0 { 0 } else { bytes };
        let least = bytes.div_ceil(entries.max(1) as u64).max(1);
        Self(Cache::with_weighter(entries, bytes, Weight { least }))
    }

    /// Keeps a decision in place of another one on the same text.
    pub(crate) fn replace(&self, key: &str, decision: Decision) {
        self.0.insert(key.to_owned(), decision);
    }

    /// The decision on a text, or the lead on it; waits while someone else has the lead.
    pub(crate) async fn find(&self, key: &str) -> Found<'_> {
        if let Some(decision) = self.0.get(key) {
            return Found::Hit(decision);
        }
        match self.0.get_value_or_guard_async(key).await {
            Ok(decision) => Found::Joined(decision),
            Err(lead) => Found::Lead(lead),
        }
    }
}

#[cfg(test)]
mod tests;
