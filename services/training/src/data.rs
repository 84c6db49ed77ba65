//! Labelled prompts: JSON lines, plain or gzip.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// One labelled prompt. Fields that are not listed here are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Row {
    /// The prompt.
    pub text: String,
    /// Its label.
    pub category: String,
    /// The licence under which the row may be used, as its origin states it.
    #[serde(default)]
    pub license: Option<String>,
    /// Where the row comes from.
    #[serde(default)]
    pub source: Option<String>,
}

/// Why a data file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be opened or read.
    #[error("{}: {source}; give a file of JSON lines, plain or gzip", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not what it should be.
    #[error("{}:{line}: {problem}; each line must be {wanted}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
        /// How a line should look.
        wanted: &'static str,
    },
    /// There is no row in the file.
    #[error("{}: no rows; each line must be {wanted}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// How a line should look.
        wanted: &'static str,
    },
}

/// How a line with a labelled prompt looks.
const WANTED: &str = "an object with the strings `text` and `category`";

/// Reads all rows of a file. Blank lines are skipped; gzip is recognised by its first bytes.
///
/// # Errors
/// [`DataError`] naming the file, and the line where a line is at fault.
pub fn read(path: &Path) -> Result<Vec<Row>, DataError> {
    lines(path, WANTED, |row: &Row| row.category.trim().is_empty().then(|| "`category` is empty".to_owned()))
}

/// Reads a file of one JSON object a line. `fault` says what is wrong with a row that parsed; `wanted` is how a
/// line should look.
pub(crate) fn lines<T: DeserializeOwned>(
    path: &Path,
    wanted: &'static str,
    fault: impl Fn(&T) -> Option<String>,
) -> Result<Vec<T>, DataError> {
    let unreadable = |source| DataError::Unreadable { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
    let gzip = file.fill_buf().map_err(unreadable)?.starts_with(&[0x1f, 0x8b]);
    let reader: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };

    let mut rows = Vec::new();
    let mut bytes = Vec::new();
    let mut reader = BufReader::new(reader);
    for line in 1.. {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(unreadable)? == 0 {
            break;
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let bad = |problem| DataError::Line { path: path.to_owned(), line, problem, wanted };
        let row: T = serde_json::from_slice(&bytes).map_err(|error| bad(in_line(&error)))?;
        if let Some(problem) = fault(&row) {
            return Err(bad(problem));
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(DataError::Empty { path: path.to_owned(), wanted });
    }
    Ok(rows)
}

/// The parser counts lines within the one it was given: only the column means something.
fn in_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((problem, _)) => format!("{problem} at column {}", error.column()),
        None => text,
    }
}

/// Rows per value of one optional field; rows without it are counted as `unstated`.
pub(crate) fn count<'a>(values: impl Iterator<Item = Option<&'a str>>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value.unwrap_or("unstated").to_owned()).or_insert(0) += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    const TWO: &[u8] = b"{\"text\":\"a\",\"category\":\"x\",\"id\":7}\n\n{\"text\":\"\",\"category\":\"y\",\"license\":\"MIT\"}";

    #[test]
    fn plain_and_gzip_give_the_same_rows() {
        let plain = read(file(TWO).path()).unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(TWO).unwrap();
        assert_eq!(read(file(&gz.finish().unwrap()).path()).unwrap(), plain);
        assert_eq!(plain.len(), 2);
        assert_eq!(plain[1].license.as_deref(), Some("MIT"));
    }

    #[test]
    fn a_bad_line_is_named() {
        for (content, line) in [
            (&b"{\"text\":\"a\",\"category\":\"x\"}\n{\"text\":\"a\"}\n"[..], 2),
            (b"[]\n", 1),
            (b"\n\n{\"text\":3,\"category\":\"x\"}", 3),
            (b"{\"text\":\"a\",\"category\":\" \"}", 1),
            (b"{\"text\":\"\xff\",\"category\":\"x\"}", 1),
            (b"{\"text\":\"a\",\"category\":\"x\"", 1),
        ] {
            let error = read(file(content).path()).unwrap_err();
            assert!(matches!(&error, DataError::Line { line: at, .. } if *at == line), "{error}");
            assert!(!error.to_string().contains("at line"), "{error}");
        }
    }

    #[test]
    fn a_missing_a_damaged_and_an_empty_file_are_told_apart() {
        let missing = read(Path::new("/nowhere/rows.jsonl")).unwrap_err();
        assert!(matches!(missing, DataError::Unreadable { .. }), "{missing}");
        let damaged = read(file(&[0x1f, 0x8b, 8, 0, 1, 2]).path()).unwrap_err();
        assert!(matches!(damaged, DataError::Unreadable { .. }), "{damaged}");
        assert!(matches!(read(file(b"\n \n").path()).unwrap_err(), DataError::Empty { .. }));
    }
}
