//! From the file's text to a [`Config`].

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Config;
use crate::problem::{Problem, from_value};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The text is not YAML.
    #[error("not valid YAML: {0}")]
    Yaml(String),
    /// The values are not usable.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Looks up an environment variable; a parameter, so that tests need not change the process's own.
type Env<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// A configuration with the files that it was read from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The file itself and the secret files that it names.
    pub files: Vec<PathBuf>,
}

/// Reads and checks a configuration file.
///
/// # Errors
/// [`ConfigError`] naming the place of everything that is wrong.
pub fn load(path: &Path, env: &Env<'_>) -> Result<Loaded, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let mut files = vec![path.to_owned()];
    let config = read(&text, env, &mut files)?;
    Ok(Loaded { config, files })
}

/// Reads and checks a configuration's text.
///
/// # Errors
/// [`ConfigError`] naming the place of everything that is wrong.
pub fn parse(text: &str, env: &Env<'_>) -> Result<Config, ConfigError> {
    read(text, env, &mut Vec::new())
}

fn read(text: &str, env: &Env<'_>, files: &mut Vec<PathBuf>) -> Result<Config, ConfigError> {
    let tree: Value = if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        Value::Object(serde_json::Map::new())
    } else {
        yaml(text).map_err(ConfigError::Yaml)?
    };
    let mut references = References { env, files, problems: Vec::new() };
    let tree = references.resolve(tree, "");
    if !references.problems.is_empty() {
        return Err(ConfigError::Invalid(references.problems));
    }
    let config: Config = from_value(tree).map_err(|p| ConfigError::Invalid(vec![p]))?;
    let problems = config.problems();
    if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(problems)) }
}

/// The places of a configuration's text where a secret stands itself instead of a reference to one. Text that
/// is no YAML has none.
pub fn literal_secrets(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    collect_literals(&yaml(text).unwrap_or_default(), "", &mut found);
    found
}

fn collect_literals(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            let literal = !text.is_empty() && !text.starts_with("file:") && !text.contains("${");
            if literal && is_secret(path) {
                found.push(path.to_owned());
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                collect_literals(item, &format!("{path}[{i}]"), found);
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                collect_literals(field, &at, found);
            }
        }
        _ => {}
    }
}

/// YAML to a tree. Only `true` and `false` are truth values: an expert may be called `no`.
///
/// # Errors
/// What is wrong and where.
pub fn yaml(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| e.to_string())
}

/// Replaces references in the strings of a tree, and notes what that brought up.
struct References<'a> {
    env: &'a Env<'a>,
    /// The secret files that were read.
    files: &'a mut Vec<PathBuf>,
    problems: Vec<Problem>,
}

impl References<'_> {
    fn resolve(&mut self, value: Value, path: &str) -> Value {
        match value {
            Value::String(text) => self.text(text, path),
            Value::Array(items) => {
                let item = |(i, v)| self.resolve(v, &format!("{path}[{i}]"));
                Value::Array(items.into_iter().enumerate().map(item).collect())
            }
            Value::Object(fields) => {
                let mut out = serde_json::Map::new();
                for (key, v) in fields {
                    let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    let v = self.resolve(v, &at);
                    // A secret whose variable is set to nothing is a secret that was not given.
                    if is_secret(&at) && v.as_str() == Some("") {
                        continue;
                    }
                    out.insert(key, v);
                }
                Value::Object(out)
            }
            other => other,
        }
    }

    fn text(&mut self, text: String, path: &str) -> Value {
        let expanded = expand(&text, self.env).and_then(|expanded| {
            if !is_secret(path) {
                return Ok(expanded);
            }
            match expanded.strip_prefix("file:").map(PathBuf::from) {
                Some(file) => {
                    let secret = secret_file(&file);
                    self.files.push(file);
                    secret
                }
                None => Ok(expanded),
            }
        });
        match expanded {
            Err(message) => {
                self.problems.push(Problem::at(path, message));
                Value::String(text)
            }
            // A value that is one reference and nothing else may stand for a number or a truth value.
            Ok(expanded)
                if !is_secret(path) && expanded != text && text.starts_with("${") && text.ends_with('}') =>
            {
                scalar(expanded)
            }
            Ok(expanded) => Value::String(expanded),
        }
    }
}

fn is_secret(path: &str) -> bool {
    let header = path.starts_with("telemetry.traces.headers.");
    header || matches!(path.rsplit('.').next(), Some("api_key" | "token"))
}

/// A secret given as `file:PATH` is the file's first line.
fn secret_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).map_err(|e| format!("cannot read the secret file {shown}: {e}"))?;
    match text.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(format!("the secret file {shown} is empty")),
    }
}

/// Replaces `${NAME}` and `${NAME:-default}`; `$${` stands for a literal `${`.
fn expand(text: &str, env: &Env<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let end = inner.find('}').ok_or_else(|| format!("`{text}` opens `${{` and does not close it"))?;
        let (name, default) = match inner[..end].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&inner[..end], None),
        };
        let set = env(name).filter(|v| !v.is_empty() || default.is_none());
        match set.or_else(|| default.map(str::to_owned)) {
            Some(value) => out.push_str(&value),
            None => {
                return Err(format!(
                    "the environment variable {name} is not set; set it, or write ${{{name}:-DEFAULT}}"
                ));
            }
        }
        rest = &inner[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Reads a resolved reference as YAML would have read the value in its place.
fn scalar(text: String) -> Value {
    match yaml(&text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
        _ => Value::String(text),
    }
}
