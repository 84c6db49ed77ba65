use std::error::Error;
use std::io;
use std::path::PathBuf;

use crate::document::{Expect, Kind};

/// Why the store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("the store {} is in use by another process; stop that gateway, or give this one a `store.path` of its own", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else. It was not touched.
    #[error("{} is not a store of this program; it was left as it is, so give `store.path` another name", path.display())]
    NotAStore {
        /// The file.
        path: PathBuf,
    },
    /// A later version of this program wrote it. It was not touched.
    #[error("the store {} has format {found}, and this version reads up to {supported}; it was left as it is, so run the version that wrote it or a later one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The latest format known here.
        supported: u64,
    },
    /// The file is damaged. It was not touched.
    #[error("the store {} is damaged ({detail}); it was left as it is, so restore a copy of it, or move it away to start with the configuration file alone", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the check found.
        detail: String,
    },
    /// The file system refused.
    #[error("failed to {action} {}: {source}", path.display())]
    Io {
        /// What was tried, after "failed to".
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The engine failed while running: a full or failing disk. Reads may go on, writes need a restart.
    #[error("failed to {action} the store: {source}")]
    Engine {
        /// What was tried, after "failed to".
        action: &'static str,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A document is not of the expected form.
    #[error("the stored {kind} `{id}` cannot be read or written as JSON: {source}")]
    Document {
        /// What it describes.
        kind: Kind,
        /// Its name.
        id: String,
        /// Where and why.
        source: serde_json::Error,
    },
}

/// An expectation that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {kind} `{id}` {}, but the change expected {}", found(*actual), wanted(*expected))]
pub struct Conflict {
    /// What the document describes.
    pub kind: Kind,
    /// Its name.
    pub id: String,
    /// What the change expected.
    pub expected: Expect,
    /// The revision it has; `None` when it does not exist.
    pub actual: Option<u64>,
}

/// Why nothing was committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A document was not as expected.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn found(actual: Option<u64>) -> String {
    actual.map_or_else(|| "does not exist".into(), |r| format!("is at revision {r}"))
}

fn wanted(expected: Expect) -> String {
    match expected {
        Expect::Any => "nothing".into(),
        Expect::Absent => "that it does not exist".into(),
        Expect::Revision(r) => format!("revision {r}"),
    }
}

impl StoreError {
    /// Wraps an engine error met while running.
    pub(crate) fn engine(action: &'static str) -> impl Fn(redb::Error) -> Self {
        move |source| Self::Engine { action, source: Box::new(source) }
    }
}
