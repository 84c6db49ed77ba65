//! Where bundles lie: those that were uploaded in a directory of our own, those that came with the program
//! beside the configured one.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::PathBuf;

use encoder::{MANIFEST, Manifest};

use super::BundlesError;
use super::archive::{self, ArchiveError};
use crate::catalog::Origin;

/// How names of uploads begin that are not whole yet. No bundle's name begins so.
const STAGING: &str = ".upload-";

/// The directories with bundles.
pub(super) struct Library {
    /// Ours: a directory for each uploaded bundle, named by its id.
    managed: PathBuf,
    /// The configured bundle, where it was found.
    configured: Option<PathBuf>,
}

/// A bundle with a readable manifest.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) id: String,
    pub(super) dir: PathBuf,
    pub(super) origin: Origin,
    pub(super) manifest: Manifest,
}

/// The name of a bundle in the admin API: two versions of one bundle are two.
pub(super) fn id_of(manifest: &Manifest) -> String {
    format!("{}@{}", manifest.name, manifest.version)
}

/// Whether this can be a directory's name and a segment of a URL as it is.
fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+');
    !name.is_empty() && name.len() <= 100 && !name.starts_with('.') && name.bytes().all(plain)
}

impl Library {
    /// Over the directory of uploaded bundles, which need not be there yet. Removes what uploads left there that
    /// were cut off with their process.
    pub(super) fn open(managed: PathBuf, configured: Option<PathBuf>) -> Self {
        let entries = fs::read_dir(&managed).into_iter().flatten().filter_map(Result::ok);
        for entry in entries.filter(|e| e.file_name().to_string_lossy().starts_with(STAGING)) {
            match fs::remove_dir_all(entry.path()) {
                Ok(()) => tracing::info!(path = %entry.path().display(), "removed an unfinished upload"),
                Err(error) => {
                    tracing::warn!(path = %entry.path().display(), %error, "cannot remove an unfinished upload");
                }
            }
        }
        Self { managed, configured }
    }

    /// All bundles by id. A directory without a readable manifest is none.
    pub(super) fn list(&self) -> BTreeMap<String, Found> {
        let mut found = BTreeMap::new();
        let mut add = |dir: PathBuf, origin| {
            if let Ok(manifest) = Manifest::read(&dir) {
                let id = id_of(&manifest);
                found.entry(id.clone()).or_insert(Found { id, dir, origin, manifest });
            }
        };
        if let Some(configured) = &self.configured {
            add(configured.clone(), Origin::File);
            let beside = fs::read_dir(configured.join("..")).into_iter().flatten();
            let mut beside: Vec<PathBuf> = beside.filter_map(|e| e.ok().map(|e| e.path())).collect();
            beside.sort();
            for dir in beside {
                add(dir, Origin::File);
            }
        }
        let entries = fs::read_dir(&self.managed).into_iter().flatten().filter_map(Result::ok);
        for entry in entries.filter(|e| !e.file_name().to_string_lossy().starts_with('.')) {
            add(entry.path(), Origin::Admin);
        }
        found
    }

    /// The bundle of that id.
    pub(super) fn find(&self, id: &str) -> Result<Found, BundlesError> {
        let mut all = self.list();
        all.remove(id)
            .ok_or_else(|| BundlesError::NotFound { id: id.to_owned(), known: all.into_keys().collect() })
    }

    /// Unpacks an archive beside the uploaded bundles, where it does not count yet.
    pub(super) fn stage(&self, source: impl Read, most: u64) -> Result<Staged, ArchiveError> {
        let name = format!("{STAGING}{:016x}", fastrand::u64(..));
        let staged = Staged { dir: self.managed.join(name) };
        archive::unpack(source, &staged.dir, most)?;
        Ok(staged)
    }

    /// Whether an upload with this manifest can be kept.
    pub(super) fn has_place(&self, staged: &Staged, manifest: &Manifest) -> Result<(), BundlesError> {
        for (field, value) in [("name", &manifest.name), ("version", &manifest.version)] {
            if !is_plain(value) {
                return Err(BundlesError::Invalid(format!(
                    "{MANIFEST}: {field} `{value}` must be 1 to 100 letters, digits, `.`, `_`, `-` or `+`, and not begin with `.`"
                )));
            }
        }
        let entries = fs::read_dir(&staged.dir).map_err(|e| BundlesError::Internal(e.to_string()))?;
        for entry in entries {
            let entry = entry.map_err(|e| BundlesError::Internal(e.to_string()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != MANIFEST && !manifest.files.contains_key(&name) {
                return Err(BundlesError::Invalid(format!(
                    "`{name}` in the archive is not named by {MANIFEST}; leave it out, or add it to `files` with its sha256"
                )));
            }
        }
        let id = id_of(manifest);
        if self.list().contains_key(&id) {
            return Err(BundlesError::Conflict(format!(
                "bundle `{id}` is already there; give the new one another version, or remove the old one first"
            )));
        }
        Ok(())
    }

    /// Makes an upload a bundle: by one renaming, so that it is there whole or not at all.
    pub(super) fn keep(&self, mut staged: Staged, manifest: Manifest) -> Result<Found, BundlesError> {
        let id = id_of(&manifest);
        let dir = self.managed.join(&id);
        let failed = |e: std::io::Error| BundlesError::Internal(format!("{}: {e}", dir.display()));
        fs::rename(&staged.dir, &dir).map_err(failed)?;
        // There is nothing left to be removed.
        staged.dir = PathBuf::new();
        archive::sync(&self.managed).map_err(failed)?;
        Ok(Found { id, dir, origin: Origin::Admin, manifest })
    }

    /// Removes an uploaded bundle.
    pub(super) fn remove(&self, found: &Found) -> Result<(), BundlesError> {
        let failed = |e: std::io::Error| BundlesError::Internal(format!("{}: {e}", found.dir.display()));
        // Under a name that does not count first: a removal that is cut off leaves no half bundle.
        let going = self.managed.join(format!("{STAGING}{:016x}", fastrand::u64(..)));
        fs::rename(&found.dir, &going).map_err(failed)?;
        fs::remove_dir_all(&going).map_err(failed)
    }
}

/// An unpacked upload, which is removed unless it is kept.
pub(super) struct Staged {
    pub(super) dir: PathBuf,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.dir.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.dir.display(), %error, "cannot remove a refused upload");
        }
    }
}
