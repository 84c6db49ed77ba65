use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

/// The name of an expert: unique in the fleet, and usable by clients as the request's `model`.
///
/// 1 to 128 characters out of `A-Z a-z 0-9 . _ - / :`, starting with a letter or a digit, so that the
/// names of hubs and registries (`Qwen/Qwen2.5-7B-Instruct`, `llama3.2:3b`) are ids as they stand.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9][A-Za-z0-9._/:-]*$")]
pub struct ExpertId(Arc<str>);

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a valid id: 1 to 128 characters out of A-Z a-z 0-9 . _ - / :, starting with a letter or a digit"
)]
pub struct InvalidId(String);

impl ExpertId {
    /// Checks and wraps an id.
    ///
    /// # Errors
    /// [`InvalidId`] when the text is empty, too long or holds a character outside the set.
    pub fn new(id: impl AsRef<str>) -> Result<Self, InvalidId> {
        let id = id.as_ref();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':');
        let first = id.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if first && id.len() <= 128 && id.bytes().all(allowed) {
            Ok(Self(id.into()))
        } else {
            Err(InvalidId(id.chars().take(160).collect()))
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ExpertId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for ExpertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ExpertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

impl Borrow<str> for ExpertId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ExpertId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_hubs_and_registries_are_valid() {
        for id in ["auto", "gpt-4o-mini", "Qwen/Qwen2.5-7B-Instruct", "llama3.2:3b", "a"] {
            assert_eq!(ExpertId::new(id).unwrap().as_str(), id);
        }
    }

    #[test]
    fn text_that_would_break_a_header_or_a_path_is_refused() {
        let long = "a".repeat(129);
        for id in ["", " ", "-a", "a b", "a\nb", "ä", "../x", "a?b", long.as_str()] {
            assert!(ExpertId::new(id).is_err(), "{id:?}");
        }
    }
}
