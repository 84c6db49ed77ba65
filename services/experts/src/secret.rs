use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is never shown: `Debug` and `Serialize` give `***`.
///
/// What must outlive the process goes through [`crate::ExpertSpec::to_stored_json`], the one place that
/// writes secrets out.
#[derive(Clone, utoipa::ToSchema)]
#[schema(value_type = String, format = Password)]
pub struct Secret(SecretString);

/// What stands for a secret wherever it would be shown.
pub(crate) const REDACTED: &str = "***";

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The text itself: for the wire, the store and comparisons, never for people or logs.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether this is not a secret but the stars that stood for one, sent back by a client.
    pub(crate) fn is_redacted(&self) -> bool {
        self.expose() == REDACTED
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(REDACTED)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}
