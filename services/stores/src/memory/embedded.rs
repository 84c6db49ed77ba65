//! The memory of prompts in this process: durable in the embedded store, searched in main memory.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use redb::{ReadableDatabase, TableDefinition, TableError, WriteTransaction};
use routing::Neighbour;

use super::index::Index;
use super::{Kept, MemoryError, PastPrompt, PromptMemory};
use crate::audit::AuditEntry;
use crate::document::Change;
use crate::embedded::EmbeddedStore;
use crate::error::{CommitError, StoreError};

/// id -> (space, embedding as little-endian f32, outcomes as JSON).
const MEMORY: TableDefinition<&str, (&str, &[u8], &[u8])> = TableDefinition::new("memory");

/// Prompts that are read at once when the index is made.
const PAGE: usize = 4096;

/// A memory of prompts in the embedded store, with an exact index: a search costs as many multiply-adds as there are
/// numbers in the space's embeddings. Searches never wait; changes take turns.
#[derive(Debug)]
pub struct EmbeddedMemory {
    store: Arc<EmbeddedStore>,
    index: ArcSwap<Index>,
    /// Whose turn it is to change both.
    turn: Mutex<()>,
}

impl EmbeddedMemory {
    /// Reads all prompts that the store has.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    pub fn open(store: Arc<EmbeddedStore>) -> Result<Self, StoreError> {
        let mut index = Index::default();
        let mut after = String::new();
        loop {
            let page = store.past_prompts(&after, PAGE)?;
            let Some(last) = page.last() else { break };
            last.id.as_ref().clone_into(&mut after);
            for prompt in &page {
                index.push(prompt);
            }
        }
        Ok(Self { store, index: ArcSwap::from_pointee(index), turn: Mutex::default() })
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What adding prompts of these ids comes to, as far as there is room for it.
    fn weigh(index: &Index, ids: &HashSet<&str>, most: usize) -> Result<Kept, MemoryError> {
        let replaced = index.count(|id| ids.contains(id));
        let kept = Kept { added: ids.len() - replaced, replaced, total: index.len() + ids.len() - replaced };
        if kept.added > 0 && kept.total > most {
            return Err(MemoryError::Full { wanted: kept.total, most });
        }
        Ok(kept)
    }
}

fn ids(prompts: &[PastPrompt]) -> HashSet<&str> {
    prompts.iter().map(|prompt| &*prompt.id).collect()
}

impl PromptMemory for EmbeddedMemory {
    fn nearest(&self, space: &str, embedding: &[f32], k: usize) -> Arc<[Neighbour]> {
        self.index.load().nearest(space, embedding, k)
    }

    fn effort(&self, space: &str) -> usize {
        self.index.load().effort(space)
    }

    fn census(&self) -> BTreeMap<Arc<str>, usize> {
        self.index.load().census()
    }

    fn get(&self, id: &str) -> Result<Option<PastPrompt>, StoreError> {
        self.store.past_prompt(id)
    }

    fn page(&self, after: &str, limit: usize) -> Result<Vec<PastPrompt>, StoreError> {
        self.store.past_prompts(after, limit)
    }

    fn rehearse(&self, prompts: &[PastPrompt], most: usize) -> Result<Kept, MemoryError> {
        Self::weigh(&self.index.load(), &ids(prompts), most)
    }

    fn keep(&self, prompts: Vec<PastPrompt>, most: usize, entry: AuditEntry) -> Result<Kept, MemoryError> {
        let _turn = self.turn();
        let before = self.index.load_full();
        let ids = ids(&prompts);
        let kept = Self::weigh(&before, &ids, most)?;
        let mut after =
            if kept.replaced > 0 { before.without(|id| ids.contains(id)) } else { Index::clone(&before) };
        let last: BTreeMap<&str, &PastPrompt> = prompts.iter().map(|prompt| (&*prompt.id, prompt)).collect();
        for prompt in last.values() {
            after.push(prompt);
        }
        self.store.change_memory(entry, |transaction| {
            let mut memory = transaction.open_table(MEMORY)?;
            for prompt in last.values() {
                let vector: Vec<u8> = prompt.embedding.iter().flat_map(|x| x.to_le_bytes()).collect();
                let outcomes = serde_json::to_vec(&prompt.outcomes).map_err(|e| redb::Error::Io(e.into()))?;
                memory.insert(&*prompt.id, (&*prompt.space, vector.as_slice(), outcomes.as_slice()))?;
            }
            Ok(())
        })?;
        self.index.store(Arc::new(after));
        Ok(kept)
    }

    fn forget(&self, id: &str, entry: AuditEntry) -> Result<bool, StoreError> {
        let _turn = self.turn();
        let before = self.index.load_full();
        if before.count(|known| known == id) == 0 {
            return Ok(false);
        }
        let after = before.without(|known| known == id);
        self.store.change_memory(entry, |transaction| {
            transaction.open_table(MEMORY)?.remove(id)?;
            Ok(())
        })?;
        self.index.store(Arc::new(after));
        Ok(true)
    }

    fn clear(&self, entry: AuditEntry) -> Result<usize, StoreError> {
        let _turn = self.turn();
        let count = self.index.load().len();
        self.store.change_memory(entry, |transaction| {
            transaction.delete_table(MEMORY)?;
            Ok(())
        })?;
        self.index.store(Arc::default());
        Ok(count)
    }
}

impl EmbeddedStore {
    /// Changes the memory's table and writes the entry, together or not at all.
    fn change_memory(
        &self,
        entry: AuditEntry,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let audited = Change { writes: Vec::new(), audit: vec![entry] };
        match self.commit_with(&audited, change) {
            Ok(_) => Ok(()),
            Err(CommitError::Store(error)) => Err(error),
            // A change without documents expects nothing of them.
            Err(CommitError::Conflict(conflict)) => {
                Err(StoreError::Engine { action: "write", source: Box::new(conflict) })
            }
        }
    }

    fn past_prompt(&self, id: &str) -> Result<Option<PastPrompt>, StoreError> {
        let read = || -> Result<Option<Stored>, redb::Error> {
            let memory = match self.database().begin_read()?.open_table(MEMORY) {
                Ok(memory) => memory,
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            Ok(memory.get(id)?.map(|value| Stored::new(id, value.value())))
        };
        read().map_err(StoreError::engine("read"))?.map(Stored::read).transpose()
    }

    fn past_prompts(&self, after: &str, limit: usize) -> Result<Vec<PastPrompt>, StoreError> {
        let read = || -> Result<Vec<Stored>, redb::Error> {
            let memory = match self.database().begin_read()?.open_table(MEMORY) {
                Ok(memory) => memory,
                // Nothing has been remembered yet.
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(error) => return Err(error.into()),
            };
            let above = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
            let stored = memory.range::<&str>(above)?.take(limit);
            stored.map(|entry| Ok(entry.map(|(id, value)| Stored::new(id.value(), value.value()))?)).collect()
        };
        read().map_err(StoreError::engine("read"))?.into_iter().map(Stored::read).collect()
    }
}

/// A prompt as it lies in the store.
struct Stored {
    id: String,
    space: String,
    vector: Vec<u8>,
    outcomes: Vec<u8>,
}

impl Stored {
    fn new(id: &str, (space, vector, outcomes): (&str, &[u8], &[u8])) -> Self {
        Self { id: id.into(), space: space.into(), vector: vector.into(), outcomes: outcomes.into() }
    }

    fn read(self) -> Result<PastPrompt, StoreError> {
        let damaged = |problem: String| StoreError::Engine {
            action: "read",
            source: format!("remembered prompt `{}`: {problem}", self.id).into(),
        };
        let (numbers, rest) = self.vector.as_chunks::<4>();
        if numbers.is_empty() || !rest.is_empty() {
            return Err(damaged(format!("its embedding has {} bytes", self.vector.len())));
        }
        let outcomes = serde_json::from_slice(&self.outcomes).map_err(|error| damaged(error.to_string()))?;
        Ok(PastPrompt {
            embedding: numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            outcomes,
            id: self.id.into(),
            space: self.space.into(),
        })
    }
}
