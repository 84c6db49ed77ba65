//! Past prompts with what experts scored on them, and which of them are near a new one.
//!
//! [`PromptMemory`] is what a gateway asks. [`EmbeddedMemory`] answers it from this process: every prompt is durable in
//! the embedded store, and an exact index over all of them, made anew when it is opened, is searched without a lock.

mod embedded;
mod index;

use std::collections::BTreeMap;
use std::sync::Arc;

use routing::{ExpertId, Neighbour};

use crate::audit::AuditEntry;
use crate::error::StoreError;

pub use embedded::EmbeddedMemory;

/// A remembered prompt. Its text is not part of it.
#[derive(Clone, Debug, PartialEq)]
pub struct PastPrompt {
    /// Its name, unique in the memory.
    pub id: Arc<str>,
    /// The space of its embedding; those of different spaces do not compare.
    pub space: Arc<str>,
    /// A unit vector.
    pub embedding: Arc<[f32]>,
    /// Scores in 0..=1 that experts had on it.
    pub outcomes: Arc<[(ExpertId, f32)]>,
}

/// What came, or would come, of adding prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Prompts that were not there before.
    pub added: usize,
    /// Prompts that took the place of one with their id.
    pub replaced: usize,
    /// Prompts that are there now, in all spaces.
    pub total: usize,
}

/// Why prompts were not added. None of them was.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// There would be too many.
    #[error("there would be {wanted} prompts in the memory, and {most} is the most")]
    Full {
        /// How many there would be.
        wanted: usize,
        /// How many there may be.
        most: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A memory of past prompts. Its calls may block on a disk or compute for long ([`PromptMemory::effort`]):
/// asynchronous callers go through a blocking thread.
pub trait PromptMemory: std::fmt::Debug + Send + Sync {
    /// The `k` prompts of a space that are most similar to an embedding by cosine, most similar first; of equals the
    /// one with the smaller id. Prompts of another width than the embedding's do not count. `embedding` is a unit
    /// vector.
    fn nearest(&self, space: &str, embedding: &[f32], k: usize) -> Arc<[Neighbour]>;

    /// What one search in a space costs, in multiply-adds.
    fn effort(&self, space: &str) -> usize;

    /// How many prompts there are, by space.
    fn census(&self) -> BTreeMap<Arc<str>, usize>;

    /// One prompt.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    fn get(&self, id: &str) -> Result<Option<PastPrompt>, StoreError>;

    /// At most `limit` prompts by id, from the first id above `after` on.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    fn page(&self, after: &str, limit: usize) -> Result<Vec<PastPrompt>, StoreError>;

    /// What [`PromptMemory::keep`] would do.
    ///
    /// # Errors
    /// [`MemoryError::Full`].
    fn rehearse(&self, prompts: &[PastPrompt], most: usize) -> Result<Kept, MemoryError>;

    /// Adds prompts, each in the place of one that has its id; of several with one id the last counts. All are
    /// durable and found when this returns, with the entry in the audit log, or none is.
    ///
    /// # Errors
    /// [`MemoryError`].
    fn keep(&self, prompts: Vec<PastPrompt>, most: usize, entry: AuditEntry) -> Result<Kept, MemoryError>;

    /// Removes one prompt, and tells whether it was there.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be written; nothing has changed then.
    fn forget(&self, id: &str, entry: AuditEntry) -> Result<bool, StoreError>;

    /// Removes all prompts, and tells how many there were.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be written; nothing has changed then.
    fn clear(&self, entry: AuditEntry) -> Result<usize, StoreError>;
}
