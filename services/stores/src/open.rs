//! Opening the file: who may, what it is, and whether it is whole, all before one byte of it changes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, DatabaseError, ReadableDatabase, StorageBackend, StorageError};

use crate::backend::{Direct, Rehearsal};
use crate::embedded::{FORMAT, META, META_FORMAT};
use crate::error::StoreError;

/// How a file of the engine begins.
const MAGIC: &[u8; 9] = b"redb\x1a\x0a\xa9\x0d\x0a";
/// Bytes that the engine writes before the magic when it makes a new file.
const HEADER_BYTES: u64 = 4096;
/// The registry is small; the engine's default of 1 GiB would let its cache grow with nothing to gain.
const CACHE_BYTES: usize = 16 << 20;

/// Opens or creates the database at `path` and returns it with the lock on the file.
///
/// A file that exists is first opened with all writes kept in memory: the engine verifies every checksum
/// and goes through its recovery there, so that a file that fails is left exactly as it was found.
pub(crate) fn open(path: &Path) -> Result<(Database, Arc<File>), StoreError> {
    let io = |action| move |source| StoreError::Io { action, path: path.to_owned(), source };
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|source| StoreError::Io {
            action: "create the folder",
            path: parent.to_owned(),
            source,
        })?;
    }
    let created = !path.exists();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io("open"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
    }
    let file = Arc::new(file);
    if is_unfinished(&file).map_err(io("read"))? {
        file.set_len(0).map_err(io("clear"))?;
    } else if file.metadata().map_err(io("read"))?.len() > 0 {
        check(path, &file)?;
    }
    let db = engine(Direct(file.clone()), false).map_err(|e| refused(path, e))?;
    if created {
        // Without this a power loss may take the name away after commits have been answered.
        sync_folder(path).map_err(io("synchronise the folder of"))?;
    }
    Ok((db, file))
}

/// Opens an existing file as [`open`] does, with all writes kept in memory, and returns it with a lock on the
/// file that keeps writers away.
pub(crate) fn peek(path: &Path) -> Result<(Database, Arc<File>), StoreError> {
    let io = |action| move |source| StoreError::Io { action, path: path.to_owned(), source };
    let file = File::open(path).map_err(io("open"))?;
    // Shared: two who only look do not disturb each other.
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
    }
    let file = Arc::new(file);
    let empty = file.metadata().map_err(io("read"))?.len() == 0;
    let db =
        if empty || is_unfinished(&file).map_err(io("read"))? { in_memory()? } else { check(path, &file)? };
    Ok((db, file))
}

/// A database that lives in memory.
pub(crate) fn in_memory() -> Result<Database, StoreError> {
    engine(redb::backends::InMemoryBackend::new(), false).map_err(|e| StoreError::engine("create")(e.into()))
}

fn engine(backend: impl StorageBackend, check: bool) -> Result<Database, DatabaseError> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(check);
    builder.create_with_backend(backend)
}

/// Whether a process died while the engine was making this file. The engine writes its magic last, so
/// such a file has none yet and holds nothing but zeros after the header.
fn is_unfinished(file: &File) -> io::Result<bool> {
    let mut buffer = vec![0; HEADER_BYTES as usize];
    let len = file.metadata()?.len();
    if len < HEADER_BYTES {
        return Ok(false);
    }
    file.read_exact_at(&mut buffer, 0)?;
    if buffer[..MAGIC.len()].iter().any(|b| *b != 0) {
        return Ok(false);
    }
    let mut offset = HEADER_BYTES;
    while offset < len {
        let take = (len - offset).min(HEADER_BYTES) as usize;
        file.read_exact_at(&mut buffer[..take], offset)?;
        if buffer[..take].iter().any(|b| *b != 0) {
            return Ok(false);
        }
        offset += take as u64;
    }
    Ok(true)
}

/// Rehearses the opening of an existing file. What is returned keeps its writes in memory.
fn check(path: &Path, file: &Arc<File>) -> Result<Database, StoreError> {
    let io = |source| StoreError::Io { action: "read", path: path.to_owned(), source };
    let mut magic = [0; MAGIC.len()];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) if magic == *MAGIC => {}
        Ok(()) => return Err(StoreError::NotAStore { path: path.to_owned() }),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(StoreError::NotAStore { path: path.to_owned() });
        }
        Err(e) => return Err(io(e)),
    }
    let rehearsal = Rehearsal::new(file.clone()).map_err(io)?;
    // The engine asserts some properties of its own files; a damaged one must not take the process down.
    let (db, found) = catch_unwind(AssertUnwindSafe(|| {
        let db = engine(rehearsal, true)?;
        let format = format_of(&db)?;
        Ok((db, format))
    }))
    .unwrap_or_else(|_| Err(StorageError::Corrupted("an internal check of the engine failed".into()).into()))
    .map_err(|e: redb::Error| match e {
        redb::Error::Io(e) if e.kind() != io::ErrorKind::UnexpectedEof => io(e),
        e => StoreError::Damaged { path: path.to_owned(), detail: e.to_string() },
    })?;
    match found {
        Format::Known | Format::Empty => Ok(db),
        Format::Newer(found) => Err(StoreError::Newer { path: path.to_owned(), found, supported: FORMAT }),
        Format::Foreign => Err(StoreError::NotAStore { path: path.to_owned() }),
    }
}

/// What the tables say about who made them.
enum Format {
    /// Nothing was ever committed.
    Empty,
    /// This program, in a format that it reads.
    Known,
    /// This program, later.
    Newer(u64),
    /// Some other program on the same engine.
    Foreign,
}

fn format_of(db: &Database) -> Result<Format, redb::Error> {
    let read = db.begin_read()?;
    if read.list_tables()?.next().is_none() && read.list_multimap_tables()?.next().is_none() {
        return Ok(Format::Empty);
    }
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::Storage(e)) => return Err(e.into()),
        Err(_) => return Ok(Format::Foreign),
    };
    let format = redb::ReadableTable::get(&meta, META_FORMAT)?.map(|v| v.value());
    Ok(match format {
        None => Format::Foreign,
        Some(found) if found > FORMAT => Format::Newer(found),
        Some(_) => Format::Known,
    })
}

fn refused(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::Storage(StorageError::Io(source)) => {
            StoreError::Io { action: "open", path: path.to_owned(), source }
        }
        e => StoreError::Damaged { path: path.to_owned(), detail: e.to_string() },
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(parent.map_or_else(|| PathBuf::from("."), Path::to_owned))?.sync_all()
}
