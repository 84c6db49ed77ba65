use crate::error::BadRequest;

/// More entries than this are summed up by `...`: the list is sent as a header.
const MOST: usize = 32;
/// A longer name of a client's own making is not repeated.
const LONGEST_NAME: usize = 64;

/// JSON paths of what could not be carried over. `[]` stands for any item of an array, `[type]` for items of
/// that type; a path stands once, however often it occurs.
#[derive(Debug, Default)]
pub(crate) struct Lossy {
    paths: Vec<String>,
    more: bool,
    refused: Option<BadRequest>,
}

impl Lossy {
    pub(crate) fn add(&mut self, path: impl Into<String>) {
        let path = path.into();
        if self.paths.contains(&path) {
            return;
        }
        if self.paths.len() < MOST {
            self.paths.push(path);
        } else {
            self.more = true;
        }
    }

    /// `place` and a field's name as the client wrote it.
    pub(crate) fn field(&mut self, place: &str, name: &str) {
        let dot = if place.is_empty() { "" } else { "." };
        self.add(format!("{place}{dot}{}", printable(name)));
    }

    /// `place` and a type as the client wrote it.
    pub(crate) fn of_type(&mut self, place: &str, kind: &str) {
        self.add(format!("{place}[{}]", printable(kind)));
    }

    /// Goes on without what only experts of the client's own protocol can do, and remembers the first of it.
    pub(crate) fn go_on(&mut self, result: Result<(), BadRequest>) -> Result<bool, BadRequest> {
        match result {
            Err(error) if error.unsupported => {
                self.refused.get_or_insert(error);
                Ok(false)
            }
            result => result.map(|()| true),
        }
    }

    /// What is left out of the translation although an answer would be wrong without it.
    pub(crate) fn take_refused(&mut self) -> Option<BadRequest> {
        self.refused.take()
    }

    pub(crate) fn into_paths(mut self) -> Vec<String> {
        if self.more {
            self.paths.push("...".to_owned());
        }
        self.paths
    }
}

/// A name that can stand in a header.
fn printable(name: &str) -> &str {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(plain) { name } else { "?" }
}
