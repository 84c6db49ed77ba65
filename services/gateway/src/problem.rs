//! Bad input, named by its place: one shape for the configuration file and for the admin API.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// What is wrong with a value, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
pub struct Problem {
    /// The place as a JSON path without the leading `$.`, such as `experts[0].backend.endpoints[0].url`; empty
    /// for the whole document.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    /// A problem at `path`.
    pub fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }

    /// The same problem, seen from an enclosing object where this one stands at `prefix`.
    #[must_use]
    pub fn below(mut self, prefix: &str) -> Self {
        self.path = match (prefix.is_empty(), self.path.is_empty()) {
            (true, _) => self.path,
            (false, true) => prefix.to_owned(),
            (false, false) if self.path.starts_with('[') => format!("{prefix}{}", self.path),
            (false, false) => format!("{prefix}.{}", self.path),
        };
        self
    }
}

/// Reads a typed value out of parsed JSON (or YAML), naming the place of the first error and, for a
/// misspelt name, the nearest known one.
///
/// # Errors
/// [`Problem`] with the path of the offending value.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner().to_string();
        Problem { path: place(&path, &message), message: with_suggestion(&message) }
    })
}

/// The path of an error as `serde_path_to_error` gives it; a missing field is named as the place where it
/// should stand.
pub fn place(path: &str, message: &str) -> String {
    let path = if path == "." { "" } else { path };
    match message.strip_prefix("missing field `").and_then(|m| m.split('`').next()) {
        Some(field) => Problem::at(field, "").below(path).path,
        None => path.to_owned(),
    }
}

/// Adds the nearest known name to serde's message about an unknown field or variant.
pub fn with_suggestion(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    match (unknown, names.next()) {
        (true, Some(given)) => match nearest(given, names) {
            Some(near) => format!("{message}; did you mean `{near}`?"),
            None => message.to_owned(),
        },
        _ => message.to_owned(),
    }
}

/// The known name most like the given one, if any is alike enough to be a slip.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(given, name), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

/// What to add to the message about an unknown name: the nearest known one, if any is near.
pub fn hint<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(given, known).map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its reading is tested")]
    struct Inner {
        listen: String,
        port: u16,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only its reading is tested")]
    struct Outer {
        parts: Vec<Inner>,
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_place_and_the_nearest_known_one() {
        let problem =
            from_value::<Outer>(json!({"parts": [{"listne": "x", "port": 1}]})).unwrap_err().to_string();
        assert_eq!(
            problem,
            "parts[0].listne: unknown field `listne`, expected `listen` or `port`; did you mean `listen`?"
        );
    }

    #[test]
    fn a_wrong_type_is_named_with_its_place() {
        let problem = from_value::<Outer>(json!({"parts": [{"listen": "x", "port": "y"}]})).unwrap_err();
        assert_eq!(problem.path, "parts[0].port");
    }

    #[test]
    fn places_nest() {
        let problem = Problem::at("[1].url", "bad").below("endpoints").below("experts[0]");
        assert_eq!(problem.path, "experts[0].endpoints[1].url");
        assert_eq!(Problem::at("", "bad").below("a").path, "a");
    }
}
