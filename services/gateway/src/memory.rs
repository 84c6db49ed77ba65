//! The memory of past prompts: how requests search it, and how prompts come into it.
//!
//! Kept are embeddings and what experts scored, never a prompt's text. What was embedded in another space than the
//! router's stays and is not looked at.

mod lines;

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;

use routing::{Features, Neighbour};
use serde::Serialize;
use stores::{AuditEntry, Kept, MemoryError, PastPrompt, PromptMemory};
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use crate::catalog::{Space, View};
use crate::config::MemoryConfig;
use crate::error::{ApiError, ErrorKind};

pub(crate) use lines::Line;

/// Multiply-adds of a search that a thread which serves sockets may be held for: some tens of microseconds.
const INLINE: usize = 200_000;

/// The memory of past prompts.
pub struct Memory {
    prompts: Arc<dyn PromptMemory>,
    config: MemoryConfig,
    /// Places for searches that take a thread: no more at a time than there are cores to do them.
    searches: Arc<Semaphore>,
}

/// What came of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MemoryAdded)]
pub(crate) struct Uploaded {
    /// Prompts that were not there before.
    added: usize,
    /// Prompts that took the place of one with their id.
    replaced: usize,
    /// Prompts that there are now, in all spaces.
    prompts: usize,
    /// Experts with outcomes that are not registered. Theirs count once they are.
    unknown_experts: BTreeSet<String>,
}

impl Memory {
    /// A memory over what keeps the prompts.
    pub fn new(prompts: Arc<dyn PromptMemory>, config: MemoryConfig) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { prompts, config, searches: Arc::new(Semaphore::new(cores)) }
    }

    /// What keeps the prompts.
    pub(crate) fn prompts(&self) -> &Arc<dyn PromptMemory> {
        &self.prompts
    }

    /// The `k` prompts that are nearest to one that a router model of that space has read.
    ///
    /// # Errors
    /// When the thread that searched failed.
    pub(crate) async fn nearest(
        &self,
        space: Option<&Space>,
        features: &Features,
        k: usize,
    ) -> Result<Arc<[Neighbour]>, String> {
        let embedding = &features.embedding;
        let Some(space) = space.filter(|_| k > 0 && !embedding.is_empty()) else { return Ok(Arc::default()) };
        if self.prompts.effort(&space.id) <= INLINE {
            return Ok(self.prompts.nearest(&space.id, embedding, k));
        }
        let place = self.searches.clone().acquire_owned().await.map_err(|error| error.to_string())?;
        let (prompts, space, embedding) = (self.prompts.clone(), space.id.clone(), embedding.clone());
        let search = tokio::task::spawn_blocking(move || {
            let _place = place;
            prompts.nearest(&space, &embedding, k)
        });
        search.await.map_err(|error| error.to_string())
    }

    /// Adds the prompts of an upload, all of them or none. Blocks: on its source, on the router model that embeds
    /// texts, on the disk. Without an entry for the audit log it is only seen what would come of it.
    ///
    /// # Errors
    /// 422 that names the line and the place in it, 413 for an upload that is too long, 409 when there is no room.
    pub(crate) fn add(
        &self,
        source: impl Read,
        view: &View,
        entry: Option<AuditEntry>,
    ) -> Result<Uploaded, ApiError> {
        let prompts = lines::read(source, &self.config, &view.router)?;
        let outcomes = prompts.iter().flat_map(|prompt| prompt.outcomes.iter());
        let unknown = outcomes.filter(|(expert, _)| view.experts.get(expert.as_str()).is_none());
        let unknown_experts = unknown.map(|(expert, _)| expert.to_string()).collect();
        let kept = self.keep(prompts, entry).map_err(refusal)?;
        Ok(Uploaded { added: kept.added, replaced: kept.replaced, prompts: kept.total, unknown_experts })
    }

    fn keep(&self, prompts: Vec<PastPrompt>, entry: Option<AuditEntry>) -> Result<Kept, MemoryError> {
        let most = self.config.max_prompts;
        match entry {
            None => self.prompts.rehearse(&prompts, most),
            Some(mut entry) => {
                entry.detail = serde_json::json!({ "lines": prompts.len() });
                self.prompts.keep(prompts, most, entry)
            }
        }
    }
}

fn refusal(error: MemoryError) -> ApiError {
    match error {
        MemoryError::Full { wanted, most } => {
            let message = format!(
                "the memory may hold {most} prompts (memory.max_prompts), and there would be {wanted}; remove some of \
                 them, or raise the limit. None was added"
            );
            ApiError::new(ErrorKind::Conflict, message)
        }
        MemoryError::Store(error) => ApiError::internal(error),
    }
}

#[cfg(test)]
mod tests {
    use stores::{EmbeddedMemory, EmbeddedStore, Options};

    use super::*;

    #[tokio::test]
    async fn a_search_on_a_thread_finds_what_one_at_once_finds() {
        let store = Arc::new(EmbeddedStore::in_memory(Options::default()).unwrap());
        let prompts = Arc::new(EmbeddedMemory::open(store).unwrap());
        let memory = Memory::new(prompts.clone(), MemoryConfig::default());
        let entry = AuditEntry {
            time_ms: 0,
            actor: String::new(),
            action: String::new(),
            object: String::new(),
            detail: serde_json::Value::Null,
        };
        let width = 1000;
        let many = (0..=INLINE / width).map(|n| {
            let mut embedding = vec![0.0; width];
            embedding[n] = 1.0;
            PastPrompt {
                id: n.to_string().into(),
                space: "wide".into(),
                embedding: embedding.into(),
                outcomes: Arc::default(),
            }
        });
        prompts.keep(many.collect(), usize::MAX, entry).unwrap();
        assert!(prompts.effort("wide") > INLINE);
        let mut query = vec![0.0; width];
        query[7] = 1.0;
        let features = Features { embedding: query.into(), ..Features::default() };
        let space = Space { id: "wide".into(), dimensions: width };
        let found = memory.nearest(Some(&space), &features, 3).await.unwrap();
        assert_eq!(found, prompts.nearest("wide", &features.embedding, 3));
        assert_eq!((&*found[0].id, found[0].similarity), ("7", 1.0));
    }
}
