//! Writing a bundle so that it is there whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use encoder::{FileEntry, Manifest};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const MANIFEST: &str = "bundle.yaml";
pub(crate) const MODEL: &str = "model.onnx";

/// Why a bundle was not written.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Something is there already.
    #[error("{}: exists; give another directory, or ask to replace it", path.display())]
    Exists {
        /// Where the bundle should have gone.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The manifest cannot be written down.
    #[error("the manifest cannot be written: {0}")]
    Manifest(String),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PublishError {
    let path = path.to_owned();
    move |source| PublishError::Io { path, source }
}

/// A bundle in the making, in a directory beside its place. Dropped, it leaves nothing behind.
pub(crate) struct Staged {
    dir: TempDir,
    place: PathBuf,
    replace: bool,
}

impl Staged {
    /// A directory beside `place`, so that the last step is a rename on one file system.
    ///
    /// # Errors
    /// [`PublishError`] if the place is taken and may not be replaced, or cannot be written.
    pub(crate) fn new(place: &Path, replace: bool) -> Result<Self, PublishError> {
        if !replace && place.exists() {
            return Err(PublishError::Exists { path: place.to_owned() });
        }
        let parent = match place.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(at(parent))?;
        let dir = tempfile::Builder::new().prefix(".bundle-").tempdir_in(parent).map_err(at(parent))?;
        Ok(Self { dir, place: place.to_owned(), replace })
    }

    /// Where the unfinished bundle is.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes one file to disk for good, and says what the manifest must say of it.
    ///
    /// # Errors
    /// [`PublishError::Io`].
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<FileEntry, PublishError> {
        let path = self.path().join(name);
        let mut file = File::create(&path).map_err(at(&path))?;
        file.write_all(content).and_then(|()| file.sync_all()).map_err(at(&path))?;
        Ok(FileEntry { sha256: hex(&Sha256::digest(content)), bytes: content.len() as u64 })
    }

    /// Writes the manifest.
    ///
    /// # Errors
    /// [`PublishError`].
    pub(crate) fn write_manifest(&self, manifest: &Manifest) -> Result<(), PublishError> {
        let text =
            serde_saphyr::to_string(manifest).map_err(|error| PublishError::Manifest(error.to_string()))?;
        self.write(MANIFEST, text.as_bytes()).map(|_| ())
    }

    /// Moves the bundle to its place.
    ///
    /// # Errors
    /// [`PublishError`]; what was in the place is there again.
    pub(crate) fn publish(self) -> Result<(), PublishError> {
        readable_by_all(self.path()).map_err(at(self.path()))?;
        let mut old = None;
        if self.replace && self.place.exists() {
            let aside = self.dir.path().with_extension("old");
            fs::rename(&self.place, &aside).map_err(at(&self.place))?;
            old = Some(aside);
        }
        if let Err(error) = fs::rename(self.path(), &self.place) {
            if let Some(aside) = old {
                fs::rename(&aside, &self.place).map_err(at(&aside))?;
            }
            return Err(at(&self.place)(error));
        }
        // Nothing is left at the temporary path: there is nothing to clean up any more.
        let _ = self.dir.keep();
        match old {
            Some(aside) => fs::remove_dir_all(&aside).map_err(at(&aside)),
            None => Ok(()),
        }
    }
}

/// A temporary directory is its owner's alone; a bundle is as readable as other files.
#[cfg(unix)]
fn readable_by_all(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn readable_by_all(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_appears_whole_and_takes_the_old_ones_place() {
        let home = tempfile::tempdir().unwrap();
        let place = home.path().join("bundle");
        for content in [b"one", b"two"] {
            let staged = Staged::new(&place, true).unwrap();
            let entry = staged.write("file", content).unwrap();
            assert_eq!(entry.bytes, 3);
            assert_eq!(entry.sha256, hex(&Sha256::digest(content)));
            staged.publish().unwrap();
            assert_eq!(fs::read(place.join("file")).unwrap(), content);
        }
        let left: Vec<_> = fs::read_dir(home.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn what_is_given_up_leaves_no_trace() {
        let home = tempfile::tempdir().unwrap();
        let staged = Staged::new(&home.path().join("bundle"), false).unwrap();
        staged.write("file", b"half").unwrap();
        drop(staged);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_taken_place_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        assert!(matches!(Staged::new(home.path(), false), Err(PublishError::Exists { .. })));
    }

    #[test]
    fn digits_are_lower_case() {
        assert_eq!(hex(&[0, 0xab, 0x0f]), "00ab0f");
    }
}
