//! Outcomes: what each expert scored on each prompt, in the layout of routing sets.
//!
//! A set is a folder with `models.json` and `train.jsonl.gz`, `valid.jsonl.gz` and `test.jsonl.gz`, each of which may
//! be plain (without `.gz`) or absent. A line is an object with `id`, `prompt`, `domain` and `scores`, one score in
//! 0..=1 for each model in the order of `models.json`; `costs` in the same order, `contaminated` and `turn2` where
//! they are known. Other fields are ignored.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::data::{self, DataError};

/// A routing set.
#[derive(Clone, Debug, PartialEq)]
pub struct OutcomeSet {
    /// The folder's name.
    pub name: String,
    /// Who was asked, in the order of the scores.
    pub models: Vec<Model>,
    /// Rows to learn from.
    pub train: Vec<Outcome>,
    /// Rows to choose settings by.
    pub valid: Vec<Outcome>,
    /// Rows to measure on.
    pub test: Vec<Outcome>,
}

/// One of the models of a set. Sizes are in billions of parameters; nothing where the vendor does not say.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Parameters in memory.
    pub params_total_b: Option<f64>,
    /// Parameters that take part in one token.
    pub params_active_b: Option<f64>,
}

/// One prompt with what each model scored on it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Outcome {
    /// Its name in the set.
    pub id: String,
    /// What was asked.
    pub prompt: String,
    /// Task or subject.
    pub domain: String,
    /// Scores in 0..=1, in the order of [`OutcomeSet::models`].
    pub scores: Vec<f32>,
    /// Price of each model's answer in USD, in the same order, where it is known.
    #[serde(default)]
    pub costs: Option<Vec<f64>>,
    /// Whether the row is known from a model's training data, so that nothing should be measured on it.
    #[serde(default)]
    pub contaminated: bool,
    /// The second turn of the conversation, where there is one; it is not read.
    #[serde(default)]
    pub turn2: Option<String>,
}

/// Why outcomes cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutcomeError {
    /// A file cannot be read, or a line is not an outcome.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A file is there, but is not what it should be.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
}

/// The parts of a set.
const PARTS: [&str; 3] = ["train", "valid", "test"];

impl OutcomeSet {
    /// Reads the set in `folder`, contaminated rows included.
    ///
    /// # Errors
    /// [`OutcomeError`] naming the file, and the line where a line is at fault.
    pub fn read(folder: &Path) -> Result<Self, OutcomeError> {
        #[derive(Deserialize)]
        struct Models {
            models: Vec<Model>,
        }

        let path = folder.join("models.json");
        let fault = |problem: String| OutcomeError::File { path: path.clone(), problem };
        let bytes = std::fs::read(&path).map_err(|error| {
            fault(format!(
                "{error}; a routing set is a folder with models.json and train, valid and test.jsonl.gz"
            ))
        })?;
        let Models { models } = serde_json::from_slice(&bytes)
            .map_err(|error| fault(format!("{error}; wanted an object with the list `models`")))?;
        if models.is_empty() {
            return Err(fault("`models` is empty".to_owned()));
        }
        let [train, valid, test] = PARTS.map(|part| part_of(folder, part, models.len()));
        let (train, valid, test) = (train?, valid?, test?);
        if train.is_empty() && valid.is_empty() && test.is_empty() {
            let problem = "holds no train, valid or test.jsonl.gz".to_owned();
            return Err(OutcomeError::File { path: folder.to_owned(), problem });
        }
        let name = folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Ok(Self { name, models, train, valid, test })
    }
}

/// One part of a set; empty when there is no such file.
fn part_of(folder: &Path, part: &str, models: usize) -> Result<Vec<Outcome>, OutcomeError> {
    let names = [format!("{part}.jsonl.gz"), format!("{part}.jsonl")];
    let Some(path) = names.iter().map(|name| folder.join(name)).find(|path| path.exists()) else {
        return Ok(Vec::new());
    };
    Ok(data::lines(
        &path,
        "an object with `id`, `prompt`, `domain` and the list `scores`",
        |outcome: &Outcome| fault(outcome, models),
    )?)
}

/// What is wrong with a row, given how many models there are.
fn fault(outcome: &Outcome, models: usize) -> Option<String> {
    let Outcome { scores, costs, .. } = outcome;
    if scores.len() != models {
        return Some(format!("`scores` has {} values for {models} models", scores.len()));
    }
    if let Some(score) = scores.iter().find(|score| !(0.0..=1.0).contains(*score)) {
        return Some(format!("a score is {score} and should lie in 0..=1"));
    }
    let costs = costs.as_ref()?;
    if costs.len() != models {
        return Some(format!("`costs` has {} values for {models} models", costs.len()));
    }
    let cost = costs.iter().find(|cost| !(cost.is_finite() && **cost >= 0.0))?;
    Some(format!("a cost is {cost} and should be a number that is not negative"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODELS: &str = r#"{"models":[{"name":"small","params_active_b":7},{"name":"large"}],"note":"x"}"#;

    fn set(files: &[(&str, &str)]) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(home.path().join(name), content).unwrap();
        }
        home
    }

    #[test]
    fn a_set_has_models_and_the_parts_that_are_there() {
        let row = r#"{"id":"1","prompt":"p","domain":"d","scores":[0,0.5],"costs":[0.1,2],"src":"x"}"#;
        let home = set(&[("models.json", MODELS), ("train.jsonl", row)]);
        let read = OutcomeSet::read(home.path()).unwrap();
        assert_eq!(read.models[0].params_active_b, Some(7.0));
        assert_eq!(read.models[1].params_total_b, None);
        assert_eq!(read.train[0].scores, [0.0, 0.5]);
        assert_eq!(read.train[0].costs.as_deref(), Some(&[0.1, 2.0][..]));
        assert!(read.valid.is_empty() && read.test.is_empty() && !read.train[0].contaminated);
    }

    #[test]
    fn a_bad_row_is_named_by_file_and_line() {
        for (row, wanted) in [
            (r#"{"id":"1","prompt":"p","domain":"d","scores":[0]}"#, "`scores` has 1 values for 2 models"),
            (r#"{"id":"1","prompt":"p","domain":"d","scores":[0,2]}"#, "a score is 2"),
            (r#"{"id":"1","prompt":"p","domain":"d","scores":[0,1],"costs":[1]}"#, "`costs` has 1"),
            (r#"{"id":"1","prompt":"p","domain":"d","scores":[0,1],"costs":[1,-1]}"#, "a cost is -1"),
            (r#"{"id":"1","prompt":"p","scores":[0,1]}"#, "domain"),
        ] {
            let home = set(&[("models.json", MODELS), ("test.jsonl", &format!("\n{row}\n"))]);
            let error = OutcomeSet::read(home.path()).unwrap_err().to_string();
            assert!(error.contains("test.jsonl:2: ") && error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn a_folder_that_is_no_set_is_told_so() {
        let error = OutcomeSet::read(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/models.json: ") && error.contains("routing set"), "{error}");
        let error = OutcomeSet::read(set(&[("models.json", "{}")]).path()).unwrap_err().to_string();
        assert!(error.contains("models"), "{error}");
        let error = OutcomeSet::read(set(&[("models.json", MODELS)]).path()).unwrap_err().to_string();
        assert!(error.contains("holds no train"), "{error}");
    }
}
