//! Unpacking an uploaded bundle: a tar archive, plain or gzipped, of which nothing is believed.

use std::fs::{self, OpenOptions};
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path};

use flate2::read::MultiGzDecoder;
use tar::{Archive, Entry, EntryType};

/// Files in a bundle at most; it has three or four.
const MOST_FILES: usize = 32;
/// How gzip begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Why an archive cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveError {
    /// It is too long, as it is sent or unpacked.
    #[error(
        "the archive holds more than {0} bytes (router.max_bundle_bytes); send only the files that bundle.yaml names, or raise the limit"
    )]
    TooLong(u64),
    /// It is not an archive, or broke off.
    #[error(
        "the archive cannot be read: {0}; send a tar archive of the bundle's directory, plain or gzipped, to its end"
    )]
    Unreadable(io::Error),
    /// One of its entries may not be unpacked.
    #[error("`{name}` in the archive {problem}; pack the files of the bundle's directory and nothing else")]
    Entry {
        /// The entry's path.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The disk refused.
    #[error("the upload cannot be kept: {0}")]
    Disk(io::Error),
}

/// Unpacks the files of an archive into the new directory `into`, and synchronises them with the disk. The
/// archive holds them at its top or below one directory. `most` bounds the bytes, sent and unpacked.
pub(super) fn unpack(source: impl Read, into: &Path, most: u64) -> Result<(), ArchiveError> {
    fs::DirBuilder::new().mode(0o700).recursive(true).create(into).map_err(ArchiveError::Disk)?;
    let mut source = Capped { source, left: most };
    let mut head = [0; 2];
    let failed = |error| unreadable(error, most);
    source.read_exact(&mut head).map_err(failed)?;
    let gzipped = head == GZIP;
    let source = Cursor::new(head).chain(source);
    if gzipped {
        files(Capped { source: MultiGzDecoder::new(source), left: most }, into, most)?;
    } else {
        files(source, into, most)?;
    }
    sync(into).map_err(ArchiveError::Disk)
}

/// Makes a directory's entries durable.
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

fn files(source: impl Read, into: &Path, most: u64) -> Result<(), ArchiveError> {
    let failed = |error| unreadable(error, most);
    let mut archive = Archive::new(source);
    let mut top = None;
    let mut found = 0;
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let shown = String::from_utf8_lossy(&entry.path_bytes()).chars().take(128).collect::<String>();
        let refuse = |problem| ArchiveError::Entry { name: shown.clone(), problem };
        if entry.header().entry_type() == EntryType::XGlobalHeader {
            continue;
        }
        let Some(name) = place(&entry, &mut top).map_err(refuse)? else { continue };
        found += 1;
        if found > MOST_FILES {
            return Err(refuse("is one file too many"));
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(into.join(&name)).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => refuse("is there twice"),
            _ => ArchiveError::Disk(error),
        })?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            // Reading and writing fail for different reasons, and are told apart.
            let read = entry.read(&mut buffer).map_err(failed)?;
            if read == 0 {
                break;
            }
            file.write_all(&buffer[..read]).map_err(ArchiveError::Disk)?;
        }
        file.sync_all().map_err(ArchiveError::Disk)?;
    }
    if found == 0 {
        let error = io::Error::new(io::ErrorKind::UnexpectedEof, "it holds no file");
        return Err(ArchiveError::Unreadable(error));
    }
    // What comes after the archive's end, padding as a rule, is read so that its sender is not cut off.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(failed)?;
    Ok(())
}

/// The name of the file that an entry is; `None` for a directory. `top` is the directory that the others lay in.
fn place<R: Read>(entry: &Entry<'_, R>, top: &mut Option<String>) -> Result<Option<String>, &'static str> {
    let path = entry.path().map_err(|_| "has a name that is not a path")?;
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str().ok_or("has a name that is not UTF-8")?),
            Component::CurDir => {}
            Component::ParentDir => return Err("leads out of the bundle by `..`"),
            Component::RootDir | Component::Prefix(_) => return Err("has an absolute path"),
        }
    }
    match entry.header().entry_type() {
        EntryType::Directory if parts.len() <= 1 => return Ok(None),
        EntryType::Directory => return Err("is a directory inside the bundle"),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {}
        EntryType::Symlink | EntryType::Link => return Err("is a link"),
        _ => return Err("is neither a file nor a directory"),
    }
    let (directory, name) = match parts.as_slice() {
        [name] => ("", *name),
        [directory, name] => (*directory, *name),
        _ => return Err("lies deeper than a bundle's files do"),
    };
    if top.get_or_insert_with(|| directory.to_owned()) != directory {
        return Err("does not lie where the files before it do");
    }
    Ok(Some(name.to_owned()))
}

/// The mark of [`Capped`] on its error.
#[derive(Debug, thiserror::Error)]
#[error("too long")]
struct TooLong;

fn unreadable(error: io::Error, most: u64) -> ArchiveError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if error.is::<TooLong>() {
            return ArchiveError::TooLong(most);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    ArchiveError::Unreadable(error)
}

/// A source that may give so many bytes and no more.
struct Capped<R> {
    source: R,
    left: u64,
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other(TooLong)),
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::{Builder, Header};

    use super::*;

    fn entry(path: &str, kind: EntryType, body: &[u8]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        // As a name that a well-behaved packer would refuse.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        let mut archive = Builder::new(Vec::new());
        archive.append(&header, body).unwrap();
        let mut bytes = archive.into_inner().unwrap();
        bytes.truncate(bytes.len() - 1024);
        bytes
    }

    fn archive(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut all: Vec<u8> =
            entries.iter().flat_map(|(path, kind, body)| entry(path, *kind, body)).collect();
        all.extend([0; 1024]);
        all
    }

    fn unpacked(bytes: &[u8], most: u64) -> Result<Vec<(String, Vec<u8>)>, String> {
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().join("new");
        unpack(bytes, &into, most).map_err(|e| e.to_string())?;
        let mut found: Vec<_> = fs::read_dir(&into)
            .unwrap()
            .map(|e| e.unwrap().path())
            .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&p).unwrap()))
            .collect();
        found.sort();
        Ok(found)
    }

    const FILE: EntryType = EntryType::Regular;

    #[test]
    fn files_at_the_top_or_in_one_directory_are_unpacked_gzipped_or_not() {
        let expected = vec![("a".to_owned(), b"one".to_vec()), ("b".to_owned(), b"two".to_vec())];
        for prefix in ["", "./", "bundle/", "./bundle/"] {
            let (a, b) = (format!("{prefix}a"), format!("{prefix}b"));
            let plain =
                archive(&[("bundle", EntryType::Directory, b""), (&a, FILE, b"one"), (&b, FILE, b"two")]);
            assert_eq!(unpacked(&plain, 1 << 20).unwrap(), expected, "{prefix}");
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&plain).unwrap();
            assert_eq!(unpacked(&gzip.finish().unwrap(), 1 << 20).unwrap(), expected, "{prefix}");
        }
    }

    #[test]
    fn what_leads_elsewhere_is_refused_by_name() {
        for (path, kind, says) in [
            ("../a", FILE, "leads out of the bundle"),
            ("x/../../a", FILE, "leads out of the bundle"),
            ("/etc/a", FILE, "has an absolute path"),
            ("a", EntryType::Symlink, "is a link"),
            ("a", EntryType::Link, "is a link"),
            ("a", EntryType::Fifo, "is neither a file nor a directory"),
            ("x/y/a", FILE, "lies deeper"),
            ("x/y", EntryType::Directory, "is a directory inside"),
        ] {
            let error = unpacked(&archive(&[(path, kind, b"")]), 1 << 20).unwrap_err();
            assert!(error.contains(&format!("`{path}` in the archive {says}")), "{path}: {error}");
        }
        let error = unpacked(&archive(&[("a", FILE, b"1"), ("a", FILE, b"2")]), 1 << 20).unwrap_err();
        assert!(error.contains("is there twice"), "{error}");
        let error = unpacked(&archive(&[("a", FILE, b"1"), ("x/b", FILE, b"2")]), 1 << 20).unwrap_err();
        assert!(error.contains("does not lie where"), "{error}");
        let names: Vec<String> = (0..=MOST_FILES).map(|n| format!("f{n}")).collect();
        let many: Vec<_> = names.iter().map(|n| (n.as_str(), FILE, &b"x"[..])).collect();
        assert!(unpacked(&archive(&many), 1 << 20).unwrap_err().contains("one file too many"));
    }

    #[test]
    fn what_is_too_long_or_broke_off_says_so() {
        let body = vec![0; 200_000];
        let plain = archive(&[("a", FILE, &body)]);
        assert!(unpacked(&plain, 100_000).unwrap_err().contains("more than 100000 bytes"));
        // Zeros shrink to a thousandth: the limit is on what they become.
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        assert!(gzip.len() < 10_000);
        assert!(unpacked(&gzip, 100_000).unwrap_err().contains("more than 100000 bytes"));
        for cut in [&plain[..100_000], &plain[..100], &gzip[..gzip.len() / 2], &b"PK"[..], &b"x"[..], &[]] {
            let error = unpacked(cut, 1 << 20).unwrap_err();
            assert!(error.contains("the archive cannot be read"), "{error}");
        }
        assert!(unpacked(&[0; 1024], 1 << 20).unwrap_err().contains("holds no file"));
    }
}
