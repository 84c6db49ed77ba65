//! Router bundles: a directory with a graph, a tokenizer and the manifest that vouches for both.

mod manifest;

use std::io;
use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use crate::config::CascadeConfig;
use crate::first::FirstStage;
use crate::window::{Excerpt, Windows};

pub use manifest::{
    Calibration, Category, EncoderSpec, FORMAT, FileEntry, FirstStageSpec, Golden, Manifest, Pooling,
};

/// The manifest's file.
pub const MANIFEST: &str = "bundle.yaml";
pub(crate) const MODEL: &str = "model.onnx";
pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const GRAPH_INPUTS: [&str; 2] = ["attention_mask", "input_ids"];

/// A bundle whose files are complete and are the ones that its manifest names.
///
/// The graph's bytes are held as they were checked, so that what is loaded is what was hashed, whatever
/// happens to the directory meanwhile. Whether the graph does what the manifest says is checked when
/// [`crate::Encoder::start`] runs it.
pub struct Bundle {
    /// The manifest.
    pub manifest: Manifest,
    /// Where the bundle was read from.
    pub dir: PathBuf,
    pub(crate) model: Vec<u8>,
    pub(crate) windows: Windows,
    pub(crate) cascade: Option<Cascade>,
}

/// A first stage and when it is believed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cascade {
    pub first: FirstStage,
    /// Probability of the best category from which on it decides.
    pub threshold: f32,
}

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// There is no manifest in the directory.
    #[error("{}: {source}; a router bundle is a directory with {MANIFEST}, {MODEL} and {TOKENIZER}: give the directory of one, such as router-models/default", path.display())]
    NoManifest {
        /// The manifest that was looked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The manifest is not in the form that it must have.
    #[error("{}: {problem}; correct the manifest or restore it from where the bundle came from", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Place and kind of the mistake.
        problem: String,
    },
    /// A file that the manifest names cannot be read.
    #[error("{}: {source}; restore the file from where the bundle came from", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is shorter or longer than the manifest says.
    #[error(
        "{}: {found} bytes, the manifest says {expected}: the file was cut off or replaced; copy it again from where the bundle came from", path.display()
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes on disk.
        found: u64,
    },
    /// A file has the right length and the wrong content.
    #[error(
        "{}: sha256 is {found}, the manifest says {expected}: the file was changed or damaged; copy it again from where the bundle came from, or write the manifest anew if the change was intended", path.display()
    )]
    Hash {
        /// The file.
        path: PathBuf,
        /// SHA-256 by the manifest.
        expected: String,
        /// SHA-256 of the content.
        found: String,
    },
    /// The tokenizer cannot be used.
    #[error("{}: {problem}; use the tokenizer.json that was exported with the encoder", path.display())]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The first stage cannot be used.
    #[error("{}: {problem}; restore the file from where the bundle came from, train the bundle again, or take first_stage out of its manifest", path.display())]
    FirstStage {
        /// The first stage's file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl Bundle {
    /// Reads a bundle and checks every file against the manifest. Blocks for as long as reading and
    /// hashing take (some 0.1 s for 40 MB).
    ///
    /// # Errors
    /// [`BundleError`] naming the file, what is wrong with it and what to do.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let manifest = Manifest::read(dir)?;
        let mut model = Vec::new();
        let mut tokenizer = Vec::new();
        let mut first = Vec::new();
        let first_file = manifest.first_stage.as_ref().map(|spec| spec.file.clone());
        for (name, entry) in &manifest.files {
            let content = read_checked(&dir.join(name), entry)?;
            match name.as_str() {
                MODEL => model = content,
                TOKENIZER => tokenizer = content,
                name if first_file.as_deref() == Some(name) => first = content,
                _ => {}
            }
        }
        let windows =
            Tokenizer::from_bytes(&tokenizer).map_err(|error| error.to_string()).and_then(Windows::new);
        let windows =
            windows.map_err(|problem| BundleError::Tokenizer { path: dir.join(TOKENIZER), problem })?;
        let cascade = match &manifest.first_stage {
            None => None,
            Some(spec) => Some(
                cascade(&manifest, spec, &first, &windows)
                    .map_err(|problem| BundleError::FirstStage { path: dir.join(&spec.file), problem })?,
            ),
        };
        Ok(Self { manifest, dir: dir.to_owned(), model, windows, cascade })
    }

    /// Whether the bundle has a first stage that may be used.
    pub fn has_first_stage(&self) -> bool {
        self.cascade.is_some()
    }

    /// Applies the operator's settings of the cascade: another threshold, or no first stage.
    #[must_use]
    pub fn with_cascade(mut self, config: &CascadeConfig) -> Self {
        if !config.enabled {
            self.cascade = None;
        }
        if let (Some(cascade), Some(threshold)) = (&mut self.cascade, config.threshold) {
            cascade.threshold = threshold;
        }
        self
    }
}

/// The first stage of a manifest, once its golden input has come out again.
///
/// # Errors
/// What is wrong with it.
fn cascade(
    manifest: &Manifest,
    spec: &FirstStageSpec,
    file: &[u8],
    windows: &Windows,
) -> Result<Cascade, String> {
    let first = FirstStage::parse(file, manifest.categories.len())?;
    let largest = windows.largest_id() as usize;
    if largest >= first.vocabulary() {
        let rows = first.vocabulary();
        return Err(format!("has rows for {rows} tokens, {TOKENIZER} can yield token id {largest}"));
    }
    let window = windows.routing(&Excerpt::of(&manifest.golden.text), manifest.encoder.max_tokens)?;
    for (index, (found, expected)) in
        first.probabilities(&window.ids).iter().zip(&spec.golden_probabilities).enumerate()
    {
        if crate::start::off(*found, *expected) {
            return Err(format!(
                "the golden input does not reproduce: probability {index} is {found}, the manifest says {expected}"
            ));
        }
    }
    Ok(Cascade { first, threshold: spec.threshold })
}

impl Manifest {
    /// Reads a bundle's manifest alone. The other files may be missing or damaged: [`Bundle::open`] tells.
    ///
    /// # Errors
    /// [`BundleError::NoManifest`] and [`BundleError::Manifest`].
    pub fn read(dir: &Path) -> Result<Self, BundleError> {
        let path = dir.join(MANIFEST);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(BundleError::NoManifest { path, source }),
        };
        let manifest: Self = match serde_saphyr::from_str(&text) {
            Ok(manifest) => manifest,
            Err(error) => return Err(BundleError::Manifest { path, problem: error.to_string() }),
        };
        match manifest.problem() {
            Some((field, problem)) => {
                Err(BundleError::Manifest { path, problem: format!("{field} {problem}") })
            }
            None => Ok(manifest),
        }
    }
}

fn read_checked(path: &Path, entry: &FileEntry) -> Result<Vec<u8>, BundleError> {
    // The length is looked at first: a cut-off file is named as such, and a wrong huge one is not read.
    let unreadable = |source| BundleError::Unreadable { path: path.to_owned(), source };
    let size = |found| BundleError::Size { path: path.to_owned(), expected: entry.bytes, found };
    let found = std::fs::metadata(path).map_err(unreadable)?.len();
    if found != entry.bytes {
        return Err(size(found));
    }
    let content = std::fs::read(path).map_err(unreadable)?;
    let found = FileEntry::of(&content);
    if found.bytes != entry.bytes {
        return Err(size(found.bytes));
    }
    if found.sha256 != entry.sha256 {
        let (expected, found) = (entry.sha256.clone(), found.sha256);
        return Err(BundleError::Hash { path: path.to_owned(), expected, found });
    }
    Ok(content)
}
