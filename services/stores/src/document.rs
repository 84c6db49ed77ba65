use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::audit::AuditEntry;
use crate::error::StoreError;

/// What a document describes. Its name is part of the key on disk and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A registered expert.
    Expert,
    /// What the operator adds to a category of the router bundle.
    Category,
    /// A route.
    Route,
    /// A credential of the admin API, hashed.
    Token,
    /// An API key, with the hashes of its secrets.
    Key,
    /// A team.
    Team,
    /// What was learnt of an expert: a gate.
    Gate,
    /// What was learnt of an expert: its pilots.
    Pilot,
    /// What was learnt of an expert: a scorer.
    Scorer,
    /// Anything there is one of.
    Setting,
}

impl Kind {
    /// All kinds, in the order of their names on disk.
    pub const ALL: [Self; 10] = [
        Self::Category,
        Self::Expert,
        Self::Gate,
        Self::Key,
        Self::Pilot,
        Self::Route,
        Self::Scorer,
        Self::Setting,
        Self::Team,
        Self::Token,
    ];

    /// The name on disk.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expert => "expert",
            Self::Category => "category",
            Self::Route => "route",
            Self::Token => "token",
            Self::Key => "key",
            Self::Team => "team",
            Self::Gate => "gate",
            Self::Pilot => "pilot",
            Self::Scorer => "scorer",
            Self::Setting => "setting",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One stored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What it describes.
    pub kind: Kind,
    /// Its name, unique within the kind.
    pub id: String,
    /// The store's revision at which it was last written.
    pub revision: u64,
    /// JSON.
    pub body: Vec<u8>,
}

impl Document {
    /// Reads the body.
    ///
    /// # Errors
    /// [`StoreError::Document`] when the body is not what `T` expects: it was written by another version.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        serde_json::from_slice(&self.body).map_err(|source| StoreError::Document {
            kind: self.kind,
            id: self.id.clone(),
            source,
        })
    }
}

/// What must be true of a document for a write to happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    #[default]
    Any,
    /// It does not exist.
    Absent,
    /// It exists at exactly this revision.
    Revision(u64),
}

/// One write of a [`Change`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// What the document describes.
    pub kind: Kind,
    /// Its name.
    pub id: String,
    /// The new body as JSON; `None` deletes. Deleting what is not there is no error under [`Expect::Any`].
    pub body: Option<Vec<u8>>,
    /// What must be true before.
    pub expect: Expect,
}

impl Write {
    /// Creates or replaces a document.
    ///
    /// # Errors
    /// [`StoreError::Document`] when the value has no JSON form (a map whose keys are not strings).
    pub fn put<T: Serialize + ?Sized>(
        kind: Kind,
        id: impl Into<String>,
        value: &T,
    ) -> Result<Self, StoreError> {
        let id = id.into();
        match serde_json::to_vec(value) {
            Ok(body) => Ok(Self { kind, id, body: Some(body), expect: Expect::Any }),
            Err(source) => Err(StoreError::Document { kind, id, source }),
        }
    }

    /// Deletes a document.
    pub fn delete(kind: Kind, id: impl Into<String>) -> Self {
        Self { kind, id: id.into(), body: None, expect: Expect::Any }
    }

    /// The same write, only if `expect` holds.
    #[must_use]
    pub fn expecting(self, expect: Expect) -> Self {
        Self { expect, ..self }
    }
}

/// Writes that happen together or not at all, with the record of who did what.
///
/// The writes apply in order; each sees what those before it did, its expectation included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// The writes.
    pub writes: Vec<Write>,
    /// The entries for the audit log.
    pub audit: Vec<AuditEntry>,
}
