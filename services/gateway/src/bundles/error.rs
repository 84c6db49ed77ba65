use super::archive::ArchiveError;
use crate::catalog::ChangeError;

/// What is wrong with an operation on bundles. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundlesError {
    /// There is no bundle of that id.
    #[error("there is no bundle `{id}`")]
    NotFound {
        /// The id.
        id: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// It does not go together with the present state.
    #[error("{0}")]
    Conflict(String),
    /// The archive is too long.
    #[error("{0}")]
    TooLong(String),
    /// The bundle cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// The catalogue's objects do not fit it, or the store failed.
    #[error(transparent)]
    Catalog(#[from] ChangeError),
    /// Something that should not fail did.
    #[error("{0}")]
    Internal(String),
}

impl From<ArchiveError> for BundlesError {
    fn from(error: ArchiveError) -> Self {
        match &error {
            ArchiveError::TooLong(_) => Self::TooLong(error.to_string()),
            ArchiveError::Unreadable(_) | ArchiveError::Entry { .. } => Self::Invalid(error.to_string()),
            ArchiveError::Disk(_) => Self::Internal(error.to_string()),
        }
    }
}
