/// What is wrong with a setting, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct Problem {
    /// The place below the checked object, such as `limits.usd_per_day` or `secrets[1].expires_ms`.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    pub(crate) fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }

    /// The same problem, seen from an object that holds the checked one at `prefix`.
    pub(crate) fn below(mut self, prefix: &str) -> Self {
        self.path = format!("{prefix}.{}", self.path);
        self
    }
}

/// Whether a text can be the id of a key or team: 1 to 64 characters out of `a-z 0-9 -`, with a letter or
/// digit at both ends.
pub(crate) fn is_id(text: &str) -> bool {
    let end = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
    let bytes = text.as_bytes();
    bytes.len() <= 64
        && end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// What [`is_id`] asks for, in words.
pub(crate) const ID_RULE: &str =
    "must be 1 to 64 characters out of a-z 0-9 and -, with a letter or digit at both ends";
