use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition,
    WriteTransaction,
};

use crate::audit::{AuditEntry, AuditRecord};
use crate::document::{Change, Document, Expect, Kind, Write};
use crate::error::{CommitError, Conflict, StoreError};
use crate::open;

/// The format this version writes, and the latest that it reads.
pub(crate) const FORMAT: u64 = 1;
pub(crate) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
pub(crate) const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";
const META_AUDIT_NEXT: &str = "audit_next";
/// (kind, id) -> (revision, JSON).
const DOCUMENTS: TableDefinition<(&str, &str), (u64, &[u8])> = TableDefinition::new("documents");
/// sequence -> JSON of [`AuditRecord`].
const AUDIT: TableDefinition<u64, &[u8]> = TableDefinition::new("audit");

/// Settings of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Entries that the audit log keeps; the oldest go first.
    pub audit_entries: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { audit_entries: 10_000 }
    }
}

/// The embedded store: one file, one process, any number of threads.
///
/// Readers never wait and see the last commit whole; writers take turns.
#[derive(Debug)]
pub struct EmbeddedStore {
    db: Database,
    options: Options,
    /// Keeps the file's lock until the database is closed; `None` without a file. Fields drop in order, so the
    /// database is closed first.
    _lock: Option<Arc<File>>,
}

impl EmbeddedStore {
    /// Opens the store at `path`, and creates it with its folder when there is none. A new file can be
    /// read by its owner only.
    ///
    /// # Errors
    /// [`StoreError`] when another process has it open, when the file is not a store, is damaged or of a
    /// later format, or when the file system refuses. The file is then as it was before.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path, Options::default())
    }

    /// [`EmbeddedStore::open`] with settings.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`].
    pub fn open_with(path: impl AsRef<Path>, options: Options) -> Result<Self, StoreError> {
        let (db, lock) = open::open(path.as_ref())?;
        prepare(&db).map_err(StoreError::engine("prepare"))?;
        Ok(Self { db, options, _lock: Some(lock) })
    }

    /// Opens the file of a store to look at it: nothing in it is changed, and what is committed is gone when
    /// this is dropped. Reads all of it to see that it is whole, and keeps writers away meanwhile.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`]; a file that is not there is [`StoreError::Io`].
    pub fn peek(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let (db, lock) = open::peek(path.as_ref())?;
        prepare(&db).map_err(StoreError::engine("prepare"))?;
        Ok(Self { db, options: Options::default(), _lock: Some(lock) })
    }

    /// A store that is gone when it is dropped.
    ///
    /// # Errors
    /// [`StoreError::Engine`] when the engine refuses, which it has no reason to.
    pub fn in_memory(options: Options) -> Result<Self, StoreError> {
        let db = open::in_memory()?;
        prepare(&db).map_err(StoreError::engine("prepare"))?;
        Ok(Self { db, options, _lock: None })
    }

    pub(crate) fn database(&self) -> &Database {
        &self.db
    }

    /// The revision of the last commit; 0 before the first.
    ///
    /// # Errors
    /// [`StoreError::Engine`] when the disk fails.
    pub fn revision(&self) -> Result<u64, StoreError> {
        let read = || -> Result<u64, redb::Error> {
            let meta = self.db.begin_read()?.open_table(META)?;
            Ok(meta.get(META_REVISION)?.map_or(0, |v| v.value()))
        };
        read().map_err(StoreError::engine("read"))
    }

    /// All documents of one kind, by id.
    ///
    /// # Errors
    /// [`StoreError::Engine`] when the disk fails.
    pub fn load_all(&self, kind: Kind) -> Result<Vec<Document>, StoreError> {
        let read = || -> Result<Vec<Document>, redb::Error> {
            let documents = self.db.begin_read()?.open_table(DOCUMENTS)?;
            let mut found = Vec::new();
            for entry in documents.range((kind.as_str(), "")..)? {
                let (key, value) = entry?;
                let (name, id) = key.value();
                if name != kind.as_str() {
                    break;
                }
                let (revision, body) = value.value();
                found.push(Document { kind, id: id.to_owned(), revision, body: body.to_owned() });
            }
            Ok(found)
        };
        read().map_err(StoreError::engine("read"))
    }

    /// One document, if it exists.
    ///
    /// # Errors
    /// [`StoreError::Engine`] when the disk fails.
    pub fn load(&self, kind: Kind, id: &str) -> Result<Option<Document>, StoreError> {
        let read = || -> Result<Option<Document>, redb::Error> {
            let documents = self.db.begin_read()?.open_table(DOCUMENTS)?;
            Ok(documents.get((kind.as_str(), id))?.map(|value| {
                let (revision, body) = value.value();
                Document { kind, id: id.to_owned(), revision, body: body.to_owned() }
            }))
        };
        read().map_err(StoreError::engine("read"))
    }

    /// Makes a change: all of it, on disk before this returns, or nothing of it. The answer is the new
    /// revision, which every document written by it carries. A change without writes and entries is
    /// answered with the present revision.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] names the first document that was not as expected;
    /// [`CommitError::Store`] when the disk fails. After a failed disk write the engine refuses further
    /// writes until the store is opened anew, because only then is it known what reached the disk.
    pub fn commit(&self, change: &Change) -> Result<u64, CommitError> {
        if change.writes.is_empty() && change.audit.is_empty() {
            return Ok(self.revision()?);
        }
        self.commit_with(change, |_| Ok(()))
    }

    /// Makes a change together with what `more` writes.
    pub(crate) fn commit_with(
        &self,
        change: &Change,
        more: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<u64, CommitError> {
        let failed = StoreError::engine("write");
        let transaction = self.db.begin_write().map_err(|e| failed(e.into()))?;
        more(&transaction).map_err(&failed)?;
        // Dropping the transaction on a conflict takes back whatever was written so far.
        let revision = self.apply(&transaction, change).map_err(|e| match e {
            Refusal::Conflict(conflict) => CommitError::Conflict(conflict),
            Refusal::Engine(e) => CommitError::Store(failed(e)),
        })?;
        transaction.commit().map_err(|e| failed(e.into()))?;
        Ok(revision)
    }

    /// The audit log, newest first: at most `limit` entries, all older than the entry `before`.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails or an entry cannot be read.
    pub fn audit(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditRecord>, StoreError> {
        let read = || -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
            let audit = self.db.begin_read()?.open_table(AUDIT)?;
            let range = audit.range(..before.unwrap_or(u64::MAX))?;
            range.rev().take(limit).map(|e| Ok(e.map(|(k, v)| (k.value(), v.value().to_owned()))?)).collect()
        };
        let found = read().map_err(StoreError::engine("read"))?;
        found
            .into_iter()
            .map(|(sequence, body)| {
                serde_json::from_slice(&body).map_err(|e| StoreError::Engine {
                    action: "read",
                    source: format!("audit entry {sequence}: {e}").into(),
                })
            })
            .collect()
    }

    fn apply(&self, transaction: &WriteTransaction, change: &Change) -> Result<u64, Refusal> {
        let mut meta = transaction.open_table(META)?;
        let revision = meta.get(META_REVISION)?.map_or(0, |v| v.value()) + 1;
        let mut documents = transaction.open_table(DOCUMENTS)?;
        for write in &change.writes {
            apply_write(&mut documents, write, revision)?;
        }
        let mut next = meta.get(META_AUDIT_NEXT)?.map_or(0, |v| v.value());
        let mut audit = transaction.open_table(AUDIT)?;
        for entry in &change.audit {
            append(&mut audit, next, revision, entry)?;
            next += 1;
        }
        while audit.len()? > self.options.audit_entries && audit.pop_first()?.is_some() {}
        meta.insert(META_AUDIT_NEXT, next)?;
        meta.insert(META_REVISION, revision)?;
        Ok(revision)
    }
}

/// Why a transaction is not committed.
enum Refusal {
    Conflict(Conflict),
    Engine(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Engine(error.into())
    }
}

type Documents<'t> = Table<'t, (&'static str, &'static str), (u64, &'static [u8])>;

fn apply_write(documents: &mut Documents<'_>, write: &Write, revision: u64) -> Result<(), Refusal> {
    let key = (write.kind.as_str(), write.id.as_str());
    let actual = documents.get(key)?.map(|v| v.value().0);
    let holds = match write.expect {
        Expect::Any => true,
        Expect::Absent => actual.is_none(),
        Expect::Revision(expected) => actual == Some(expected),
    };
    if !holds {
        let (kind, id, expected) = (write.kind, write.id.clone(), write.expect);
        return Err(Refusal::Conflict(Conflict { kind, id, expected, actual }));
    }
    match &write.body {
        Some(body) => drop(documents.insert(key, (revision, body.as_slice()))?),
        None => drop(documents.remove(key)?),
    }
    Ok(())
}

fn append(
    audit: &mut Table<'_, u64, &'static [u8]>,
    sequence: u64,
    revision: u64,
    entry: &AuditEntry,
) -> Result<(), Refusal> {
    let record = AuditRecord { sequence, revision, entry: entry.clone() };
    let body = serde_json::to_vec(&record).map_err(|e| redb::Error::Io(e.into()))?;
    audit.insert(sequence, body.as_slice())?;
    Ok(())
}

/// Makes the tables and states the format, so that later reads find both.
fn prepare(db: &Database) -> Result<(), redb::Error> {
    let read = db.begin_read()?;
    if read.list_tables()?.next().is_some() {
        return Ok(());
    }
    drop(read);
    let transaction = db.begin_write()?;
    {
        transaction.open_table(META)?.insert(META_FORMAT, FORMAT)?;
        transaction.open_table(DOCUMENTS)?;
        transaction.open_table(AUDIT)?;
    }
    Ok(transaction.commit()?)
}
