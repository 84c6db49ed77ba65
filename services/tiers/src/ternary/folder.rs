//! Copies and adapters as files, each written beside its place and renamed: whoever stops in the middle, nobody sees a
//! half one.
//!
//! An adapter is a folder as PEFT writes it, `adapter_config.json` and `adapter_model.safetensors`, or the latter alone.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::{Adapter, Options, Report, TernaryError, TernaryErrorKind, compress, expand, inspect};

/// An adapter's weights in its folder.
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// Its configuration.
const CONFIG: &str = "adapter_config.json";

/// In a folder that was made for an engine, and may be removed again.
const MARK: &str = ".guildhall-expanded";

type Result<T> = std::result::Result<T, TernaryError>;

/// Compresses an adapter, a folder or a file of weights with perhaps its configuration beside it, into a file, which is
/// replaced where it exists. Says also which files of the folder were left out.
///
/// # Errors
/// As [`compress`], and where a file cannot be read or written.
pub fn compress_file(source: &Path, copy: &Path, options: Options) -> Result<(Report, Vec<String>)> {
    let is_folder = source.is_dir();
    let weights = if is_folder { source.join(WEIGHTS) } else { source.to_owned() };
    if is_folder && !weights.exists() {
        let message = format!("{}: has no {WEIGHTS}; save the adapter in safetensors form", source.display());
        return Err(TernaryError { kind: TernaryErrorKind::Unfit, message });
    }
    let config = weights.with_file_name(CONFIG);
    let config = match fs::read_to_string(&config) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => {
            let text = read.map_err(failed(&config))?;
            serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(|error| {
                let message = format!("{}: is no JSON: {error}; restore the file", config.display());
                TernaryError { kind: TernaryErrorKind::Unfit, message }
            })?;
            Some(text)
        }
    };
    let adapter = Adapter { weights: fs::read(&weights).map_err(failed(&weights))?, config };
    let bytes = compress(&adapter, options).map_err(at(&weights))?;
    let report = inspect(&bytes).map_err(at(copy))?;
    let beside = beside(copy);
    let written = write_durably(&beside, &bytes).and_then(|()| fs::rename(&beside, copy));
    written.map_err(|error| {
        // Of no use to anybody; what matters is why it was not written.
        let _gone = fs::remove_file(&beside);
        failed(copy)(error)
    })?;
    Ok((report, if is_folder { others(source) } else { Vec::new() }))
}

/// Describes a copy.
///
/// # Errors
/// As [`inspect`], and where the file cannot be read.
pub fn inspect_file(copy: &Path) -> Result<Report> {
    inspect(&fs::read(copy).map_err(failed(copy))?).map_err(at(copy))
}

/// Expands a copy into a new folder, or into a file where `target` ends with `.safetensors`, which is replaced where it
/// exists. Says how many bytes the weights have.
///
/// # Errors
/// As [`expand`], where a file cannot be read or written, and where there is a folder already that is not empty.
pub fn expand_file(copy: &Path, target: &Path) -> Result<u64> {
    let adapter = expanded(copy)?;
    if target.extension().is_some_and(|extension| extension == "safetensors") {
        let beside = beside(target);
        let written = write_durably(&beside, &adapter.weights).and_then(|()| fs::rename(&beside, target));
        written.map_err(|error| {
            let _gone = fs::remove_file(&beside);
            failed(target)(error)
        })?;
    } else {
        if fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some()) {
            let message = format!("{}: is not empty; name a new folder", target.display());
            return Err(TernaryError { kind: TernaryErrorKind::Unfit, message });
        }
        write_folder(&adapter, target, None, &write_durably)?;
    }
    Ok(adapter.weights.len() as u64)
}

/// Expands a copy into the folder from which an engine loads it. A folder that was made like this before is replaced, and
/// no other. `is_wanted` is asked last before something changes.
///
/// # Errors
/// As [`expand_file`]; [`TernaryErrorKind::Unfit`] also for a copy without the adapter's configuration.
pub(crate) fn expand_for_engine(copy: &Path, folder: &Path, is_wanted: &dyn Fn() -> bool) -> Result<()> {
    may_replace(folder)?;
    let adapter = expanded(copy)?;
    if adapter.config.is_none() {
        let message = format!(
            "{}: has no {CONFIG}, without which no engine loads it; compress the adapter's whole folder",
            copy.display()
        );
        return Err(TernaryError { kind: TernaryErrorKind::Unfit, message });
    }
    // What is not on the disk when the power fails is made anew, so nobody waits for the disk here.
    write_folder(&adapter, folder, Some(is_wanted), &|path, bytes| fs::write(path, bytes))
}

/// Removes a folder that [`expand_for_engine`] made, and what it left behind where it was killed.
///
/// # Errors
/// Where it cannot be removed.
pub(crate) fn discard(folder: &Path) -> Result<()> {
    let beside = beside(folder);
    remove(&beside).map_err(failed(&beside))?;
    if !folder.join(MARK).exists() {
        return Ok(());
    }
    // Under its own name nobody may find it half removed.
    fs::rename(folder, &beside).and_then(|()| remove(&beside)).map_err(failed(folder))
}

fn expanded(copy: &Path) -> Result<Adapter> {
    expand(&fs::read(copy).map_err(failed(copy))?).map_err(at(copy))
}

/// Writes a file of a folder.
type Write<'a> = &'a dyn Fn(&Path, &[u8]) -> io::Result<()>;

/// Writes an adapter's folder; for an engine with a mark, and only while it `is_wanted`.
fn write_folder(
    adapter: &Adapter,
    folder: &Path,
    is_wanted: Option<&dyn Fn() -> bool>,
    write: Write<'_>,
) -> Result<()> {
    let beside = beside(folder);
    let made = (|| {
        remove(&beside)?;
        fs::create_dir_all(&beside)?;
        if is_wanted.is_some() {
            write(&beside.join(MARK), b"expanded by guildhall, which also removes it\n")?;
        }
        if let Some(config) = &adapter.config {
            write(&beside.join(CONFIG), config.as_bytes())?;
        }
        write(&beside.join(WEIGHTS), &adapter.weights)
    })();
    let made = made.and_then(|()| match is_wanted {
        None => fs::rename(&beside, folder),
        Some(is_wanted) if is_wanted() => {
            if folder.exists() {
                fs::remove_dir_all(folder)?;
            }
            fs::rename(&beside, folder)
        }
        Some(_) => Err(io::Error::other("nobody waits for it any more")),
    });
    made.map_err(|error| {
        // Of no use to anybody; what matters is why it was not made.
        let _gone = remove(&beside);
        failed(folder)(error)
    })
}

/// Whether what is in an adapter's place, if anything, was put there by [`expand_for_engine`].
fn may_replace(folder: &Path) -> Result<()> {
    let is_ours = match fs::symlink_metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(failed(folder)(error)),
        Ok(found) => found.is_dir() && folder.join(MARK).exists(),
    };
    if is_ours {
        return Ok(());
    }
    let message = format!(
        "{}: is there already, and was not expanded by guildhall; move it away, or leave `compressed` out",
        folder.display()
    );
    Err(TernaryError { kind: TernaryErrorKind::Unfit, message })
}

/// Where something is made before it gets its name: on the same disk.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".expanding");
    path.with_file_name(name)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The files of an adapter's folder that no copy has.
fn others(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.filter(|name| name != WEIGHTS && name != CONFIG).collect();
    names.sort();
    names
}

fn at(path: &Path) -> impl FnOnce(TernaryError) -> TernaryError {
    move |error| TernaryError { message: format!("{}: {}", path.display(), error.message), ..error }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> TernaryError {
    move |error| {
        let (kind, remedy) = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                (TernaryErrorKind::Full, "; make room there")
            }
            io::ErrorKind::NotFound => (TernaryErrorKind::Io, "; correct the path"),
            io::ErrorKind::PermissionDenied => (TernaryErrorKind::Io, "; allow this program to"),
            _ => (TernaryErrorKind::Io, ""),
        };
        TernaryError { kind, message: format!("{}: {error}{remedy}", path.display()) }
    }
}

#[cfg(test)]
mod tests;
