//! Records in the order of their keys, of which so many are kept.
//!
//! Unlike documents they have no revisions, and there may be many: nobody reads all of them at once.

use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, TableError};

use crate::embedded::EmbeddedStore;
use crate::error::StoreError;

/// key -> body.
const JOURNAL: TableDefinition<&str, &[u8]> = TableDefinition::new("journal");

impl EmbeddedStore {
    /// Keeps a record, on disk before this returns, in the place of one that has the same key. Of more than
    /// `most` records those with the smallest keys go.
    ///
    /// # Errors
    /// [`StoreError::Engine`] when the disk fails.
    pub fn record(&self, key: &str, body: &[u8], most: u64) -> Result<(), StoreError> {
        let write = || -> Result<(), redb::Error> {
            let transaction = self.database().begin_write()?;
            {
                let mut journal = transaction.open_table(JOURNAL)?;
                journal.insert(key, body)?;
                while journal.len()? > most && journal.pop_first()?.is_some() {}
            }
            Ok(transaction.commit()?)
        };
        write().map_err(StoreError::engine("write"))
    }

    /// At most `limit` records in the order of their keys, from the first key above `after` on.
    ///
    /// # Errors
    /// [`StoreError::Engine`] when the disk fails.
    pub fn records(&self, after: &str, limit: usize) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let read = || -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
            let journal = match self.database().begin_read()?.open_table(JOURNAL) {
                Ok(journal) => journal,
                // Nothing has been recorded yet.
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(error) => return Err(error.into()),
            };
            let above = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
            let found = journal.range::<&str>(above)?.take(limit);
            found
                .map(|entry| Ok(entry.map(|(key, body)| (key.value().into(), body.value().into()))?))
                .collect()
        };
        read().map_err(StoreError::engine("read"))
    }

    /// Removes the records whose keys lie below `before`, and tells how many there were.
    ///
    /// # Errors
    /// [`StoreError::Engine`] when the disk fails.
    pub fn forget_records(&self, before: &str) -> Result<u64, StoreError> {
        let write = || -> Result<u64, redb::Error> {
            let transaction = self.database().begin_write()?;
            let mut gone = 0;
            {
                let mut journal = transaction.open_table(JOURNAL)?;
                while journal.first()?.is_some_and(|(key, _)| key.value() < before) {
                    journal.pop_first()?;
                    gone += 1;
                }
            }
            if gone == 0 {
                transaction.abort()?;
            } else {
                transaction.commit()?;
            }
            Ok(gone)
        };
        write().map_err(StoreError::engine("write"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::Options;

    fn keys(store: &EmbeddedStore, after: &str, limit: usize) -> Vec<String> {
        store.records(after, limit).unwrap().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn the_newest_records_are_kept_in_order_and_pages_cover_them() {
        let store = EmbeddedStore::in_memory(Options::default()).unwrap();
        assert!(keys(&store, "", 10).is_empty());
        assert_eq!(store.forget_records("z").unwrap(), 0);
        for n in [3, 1, 4, 2, 5] {
            store.record(&format!("k{n}"), b"old", 4).unwrap();
        }
        assert_eq!(keys(&store, "", 10), ["k2", "k3", "k4", "k5"]);
        assert_eq!(keys(&store, "", 3), ["k2", "k3", "k4"]);
        assert_eq!(keys(&store, "k4", 3), ["k5"]);
        store.record("k3", b"new", 4).unwrap();
        assert_eq!(store.records("k2", 1).unwrap(), [("k3".to_owned(), b"new".to_vec())]);
        assert_eq!(store.forget_records("k4").unwrap(), 2);
        assert_eq!(keys(&store, "", 10), ["k4", "k5"]);
    }

    #[test]
    fn records_outlast_the_store_and_leave_documents_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let store = EmbeddedStore::open(&path).unwrap();
        let revision = store.revision().unwrap();
        store.record("k", b"body", 10).unwrap();
        assert_eq!(store.revision().unwrap(), revision);
        drop(store);
        let store = EmbeddedStore::open(&path).unwrap();
        assert_eq!(store.records("", 10).unwrap(), [("k".to_owned(), b"body".to_vec())]);
    }
}
