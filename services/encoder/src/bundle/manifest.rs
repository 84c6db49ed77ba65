use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The version of the manifest's layout that this package reads.
pub const FORMAT: u32 = 1;

/// `bundle.yaml`: what a bundle holds, how it is to be run, and where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this layout; [`FORMAT`].
    pub format: u32,
    /// The bundle's name.
    pub name: String,
    /// The bundle's version.
    pub version: String,
    /// One line for humans.
    pub description: String,
    /// The name under which `/v1/embeddings` serves the encoder.
    pub model_id: String,
    /// Every file of the bundle but the manifest itself, by name.
    pub files: BTreeMap<String, FileEntry>,
    /// How the graph is to be fed.
    pub encoder: EncoderSpec,
    /// The classifier's labels, in the order of its logits.
    pub categories: Vec<Category>,
    /// How the logits were calibrated.
    pub calibration: Calibration,
    /// An input whose outputs are known.
    pub golden: Golden,
    /// The classifier that decides from tokens alone where it is sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_stage: Option<FirstStageSpec>,
    /// SPDX expression under which the whole bundle may be used.
    pub licence: String,
    /// Base model, recipe and training data, as the recipe recorded them.
    #[serde(default)]
    pub provenance: BTreeMap<String, Value>,
    /// Measured quality, and the command that measured it.
    #[serde(default)]
    pub quality: BTreeMap<String, Value>,
}

/// Identity of one file of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// SHA-256 of the content, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Length in bytes.
    pub bytes: u64,
}

/// How the graph is to be fed, and what it yields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderSpec {
    /// Width of the embedding.
    pub dimensions: usize,
    /// The routing window: tokens that a decision may rest on, special tokens included.
    pub max_tokens: usize,
    /// Tokens that an embedding may rest on, special tokens included.
    pub embedding_max_tokens: usize,
    /// How token states become the embedding.
    pub pooling: Pooling,
    /// The graph's inputs.
    pub inputs: Vec<String>,
    /// Name of the space that embeddings lie in; without it the bundle's `model_id`. Bundles with the same
    /// name give the same embeddings, so that what was learnt from those of one holds for the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<String>,
}

/// The classifier that decides from tokens alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstStageSpec {
    /// Its weights; one of the bundle's files.
    pub file: String,
    /// Probability of the best category from which on it decides, 0 to 1.
    pub threshold: f32,
    /// What its logits were divided by; for information.
    pub temperature: f32,
    /// Probabilities of the golden text, in the order of the categories.
    pub golden_probabilities: Vec<f32>,
}

/// How token states become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean over unmasked tokens.
    Mean,
}

/// One label of the classifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Category {
    /// The label.
    pub name: String,
    /// What belongs to it.
    #[serde(default)]
    pub description: String,
}

/// How the logits were calibrated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// What the logits were divided by inside the graph; for information.
    pub temperature: f32,
}

/// An input whose outputs are known: the bundle serves only once they came out again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// The prompt.
    pub text: String,
    /// Its most probable category.
    pub category: String,
    /// All probabilities, in the order of the categories.
    pub probabilities: Vec<f32>,
    /// The first values of the embedding.
    pub embedding_head: Vec<f32>,
}

impl FileEntry {
    /// The identity of a file with this content.
    pub fn of(content: &[u8]) -> Self {
        let digest = Sha256::digest(content);
        let sha256 = digest.iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        Self { sha256, bytes: content.len() as u64 }
    }
}

impl Manifest {
    /// The first thing in the manifest that cannot be, as (field, problem).
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        if self.format != FORMAT {
            let problem = format!("is {}, this version of guildhall reads format {FORMAT}", self.format);
            return Some(("format", problem));
        }
        self.problem_in_files()
            .or_else(|| self.problem_in_encoder())
            .or_else(|| self.problem_in_categories())
            .or_else(|| self.problem_in_golden())
            .or_else(|| self.problem_in_first_stage())
    }

    /// The space of the embeddings and token states: two bundles of one space give the same ones, and what was
    /// learnt from those of one serves the other. The model's name where the manifest says nothing else.
    pub fn space(&self) -> &str {
        self.encoder.space.as_deref().unwrap_or(&self.model_id)
    }

    fn problem_in_files(&self) -> Option<(&'static str, String)> {
        for required in [super::MODEL, super::TOKENIZER] {
            if !self.files.contains_key(required) {
                return Some(("files", format!("has no entry for {required}")));
            }
        }
        for (name, entry) in &self.files {
            if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
                return Some(("files", format!("`{name}` is not a plain file name inside the bundle")));
            }
            let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            if entry.sha256.len() != 64 || !entry.sha256.bytes().all(hex) {
                return Some(("files", format!("{name}: sha256 is not 64 lower-case hexadecimal digits")));
            }
        }
        None
    }

    fn problem_in_encoder(&self) -> Option<(&'static str, String)> {
        let encoder = &self.encoder;
        if encoder.dimensions == 0 {
            return Some(("encoder.dimensions", "must be at least 1".to_owned()));
        }
        if encoder.max_tokens < 4 {
            return Some((
                "encoder.max_tokens",
                "must be at least 4: two special tokens, a head and a tail".into(),
            ));
        }
        if encoder.embedding_max_tokens < encoder.max_tokens {
            let problem = format!("must not be below max_tokens ({})", encoder.max_tokens);
            return Some(("encoder.embedding_max_tokens", problem));
        }
        let mut inputs: Vec<&str> = encoder.inputs.iter().map(String::as_str).collect();
        inputs.sort_unstable();
        if inputs != super::GRAPH_INPUTS {
            return Some(("encoder.inputs", format!("must be {:?}", super::GRAPH_INPUTS)));
        }
        None
    }

    fn problem_in_categories(&self) -> Option<(&'static str, String)> {
        if self.categories.is_empty() {
            return Some(("categories", "must not be empty".to_owned()));
        }
        for (index, category) in self.categories.iter().enumerate() {
            if category.name.trim().is_empty() {
                return Some(("categories", format!("number {index} has an empty name")));
            }
            if self.categories.iter().take(index).any(|c| c.name == category.name) {
                return Some(("categories", format!("`{}` is there twice", category.name)));
            }
        }
        if !(self.calibration.temperature.is_finite() && self.calibration.temperature > 0.0) {
            return Some(("calibration.temperature", "must be a positive number".to_owned()));
        }
        None
    }

    fn problem_in_golden(&self) -> Option<(&'static str, String)> {
        let golden = &self.golden;
        if !self.categories.iter().any(|c| c.name == golden.category) {
            return Some(("golden.category", format!("`{}` is not one of the categories", golden.category)));
        }
        if golden.probabilities.len() != self.categories.len() {
            let problem = format!(
                "has {} numbers, there are {} categories",
                golden.probabilities.len(),
                self.categories.len()
            );
            return Some(("golden.probabilities", problem));
        }
        if golden.embedding_head.is_empty() || golden.embedding_head.len() > self.encoder.dimensions {
            let problem = format!("must hold 1 to {} numbers", self.encoder.dimensions);
            return Some(("golden.embedding_head", problem));
        }
        None
    }

    fn problem_in_first_stage(&self) -> Option<(&'static str, String)> {
        let first = self.first_stage.as_ref()?;
        if [super::MODEL, super::TOKENIZER].contains(&first.file.as_str()) {
            return Some(("first_stage.file", format!("must not be {}", first.file)));
        }
        if !self.files.contains_key(&first.file) {
            return Some((
                "first_stage.file",
                format!("names `{}`, which files has no entry for", first.file),
            ));
        }
        if !(0.0..=1.0).contains(&first.threshold) {
            return Some(("first_stage.threshold", "must be a number from 0 to 1".to_owned()));
        }
        let (found, wanted) = (first.golden_probabilities.len(), self.categories.len());
        (found != wanted).then(|| {
            let problem = format!("has {found} numbers, there are {wanted} categories");
            ("first_stage.golden_probabilities", problem)
        })
    }
}
