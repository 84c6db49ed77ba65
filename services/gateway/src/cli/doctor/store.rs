//! The store: its folder, its file, the room on its disk.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};
use stores::{EmbeddedStore, Kind, StoreError};

use super::report::{Check, Section, bytes};

/// What was found out about the store. Nothing is made or changed to find out.
#[derive(Debug)]
pub(super) struct Store {
    /// The file's folder, or the nearest one above it that is there.
    folder: PathBuf,
    /// Whether `folder` is the file's own.
    folder_is_there: bool,
    /// Why nothing can be written into it, if so.
    unwritable: Option<String>,
    file: File,
    /// Bytes that can be written to the disk.
    free: Option<u64>,
}

#[derive(Debug)]
enum File {
    Absent,
    Whole { bytes: u64, has_keys: bool },
    InUse { bytes: u64 },
    Unusable(String),
}

/// Less room than this is worth a word: the store grows by what is registered, logs often lie beside it.
const ROOM: u64 = 256 << 20;
/// Less than this and a commit may fail at any time.
const NO_ROOM: u64 = 4 << 20;

impl Store {
    /// Looks at the store at `path`.
    pub(super) fn at(path: &Path) -> Self {
        let own = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = own.ancestors().find(|p| p.is_dir()).unwrap_or(Path::new("."));
        let size = std::fs::metadata(path).map(|found| found.len());
        let looked = EmbeddedStore::peek(path).and_then(|store| Ok(!store.load_all(Kind::Key)?.is_empty()));
        let file = match (size, looked) {
            (Err(error), _) if error.kind() == std::io::ErrorKind::NotFound => File::Absent,
            (Err(error), _) => File::Unusable(format!("{}: {error}", path.display())),
            (Ok(bytes), Ok(has_keys)) => File::Whole { bytes, has_keys },
            (Ok(bytes), Err(StoreError::InUse { .. })) => File::InUse { bytes },
            (Ok(_), Err(error)) => File::Unusable(error.to_string()),
        };
        Self {
            folder_is_there: folder == own,
            unwritable: access(folder, Access::WRITE_OK | Access::EXEC_OK).err().map(|e| e.to_string()),
            free: statvfs(folder).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
            folder: folder.to_owned(),
            file,
        }
    }

    /// Whether it holds API keys; `None` where that cannot be seen.
    pub(super) fn has_keys(&self) -> Option<bool> {
        match self.file {
            File::Absent => Some(false),
            File::Whole { has_keys, .. } => Some(has_keys),
            File::InUse { .. } | File::Unusable(_) => None,
        }
    }

    /// `running` says whether a gateway answers, which would explain that the file is in use.
    pub(super) fn checks(&self, path: &Path, running: bool) -> Vec<Check> {
        let here = Section::Store;
        let (folder, path) = (self.folder.display(), path.display());
        let mut checks = vec![match (&self.unwritable, self.folder_is_there) {
            (Some(error), _) => {
                let remedy = "let the gateway's user write there, or set store.path to a place where it may";
                here.failure("folder", format!("{folder} cannot be written to: {error}"), remedy)
            }
            (None, true) => here.ok("folder", format!("{folder} can be written to")),
            (None, false) => here.ok("folder", format!("is made in {folder} at the first start")),
        }];
        checks.push(match &self.file {
            File::Absent => here.ok("file", format!("{path} is made at the first start")),
            File::Whole { bytes: size, .. } => here.ok("file", format!("{path} is whole, {}", bytes(*size))),
            File::InUse { bytes: size } if running => {
                here.ok("file", format!("{path} is in use by the running gateway, {}", bytes(*size)))
            }
            File::InUse { .. } => here.warning(
                "file",
                format!("{path} is in use, and no gateway answers at the admin address"),
                format!("see who has it open: fuser {path}"),
            ),
            File::Unusable(error) => {
                here.error("file", error, "restore a copy of it, or give it another name")
            }
        });
        checks.extend(self.free.map(|free| {
            let detail = format!("{} free", bytes(free));
            match free {
                ROOM.. => here.ok("disk", detail),
                NO_ROOM.. => {
                    here.warning("disk", detail, "make room: changes cannot be stored on a full disk")
                }
                _ => here.failure("disk", detail, "make room: changes cannot be stored on a full disk"),
            }
        }));
        checks
    }
}

#[cfg(test)]
mod tests {
    use stores::{Change, Write};

    use super::super::report::Status;
    use super::*;

    fn told(store: &Store, running: bool) -> Vec<(String, Status)> {
        store.checks(Path::new("s"), running).into_iter().map(|c| (c.name, c.status)).collect()
    }

    fn store(file: File) -> Store {
        Store { folder: "d".into(), folder_is_there: true, unwritable: None, file, free: Some(1 << 40) }
    }

    #[test]
    fn a_store_that_a_gateway_has_open_is_fine() {
        let file = |store: &Store, running| told(store, running)[1].1;
        let in_use = store(File::InUse { bytes: 9 });
        assert_eq!(file(&in_use, true), Status::Ok);
        assert_eq!(file(&in_use, false), Status::Warning);
        assert_eq!(file(&store(File::Absent), false), Status::Ok);
        assert_eq!(file(&store(File::Unusable("it is damaged".into())), true), Status::Failure);
    }

    #[test]
    fn room_and_rights_matter() {
        let full = |free| told(&Store { free: Some(free), ..store(File::Absent) }, false)[2].1;
        assert_eq!((full(1 << 30), full(9 << 20), full(0)), (Status::Ok, Status::Warning, Status::Failure));
        let closed = Store { unwritable: Some("Permission denied".into()), ..store(File::Absent) };
        assert_eq!(told(&closed, false)[0].1, Status::Failure);
    }

    #[test]
    fn looking_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/store.redb");
        let found = Store::at(&path);
        assert!(matches!(found.file, File::Absent) && !found.folder_is_there, "{found:?}");
        assert!(!dir.path().join("a").exists());
        let open = EmbeddedStore::open(&path).unwrap();
        assert!(matches!(Store::at(&path).file, File::InUse { .. }));
        drop(open);
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(Store::at(&path).file, File::Whole { has_keys: false, .. }));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        let key = Write::put(Kind::Key, "ci", &serde_json::json!({})).unwrap();
        let change = Change { writes: vec![key], audit: Vec::new() };
        EmbeddedStore::open(&path).unwrap().commit(&change).unwrap();
        assert_eq!(Store::at(&path).has_keys(), Some(true));
        std::fs::write(&path, "something else").unwrap();
        let found = Store::at(&path);
        assert!(matches!(&found.file, File::Unusable(e) if e.contains("not a store")), "{found:?}");
    }
}
