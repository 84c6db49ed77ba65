//! Prompts as the encoder reads them, kept between runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use encoder::{EncodeError, Encoder};
use routing::Features;

use crate::cache::{self, Cache};
use crate::publish::MODEL;

/// The cache is written in parts of this many prompts, so that an interrupted run is not lost.
const PART: usize = 2048;

/// What the encoder read out of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    /// `[d]`, L2-normalised.
    pub embedding: Arc<[f32]>,
    /// p(c|x), `[C]`, in the order of the bundle's categories.
    pub probabilities: Arc<[f32]>,
}

/// Why prompts were not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadingError {
    /// The encoder failed.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The file that keeps readings cannot be used.
    #[error("{}: {problem}; remove the file or give another one to keep readings in", path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Reads prompts, in their order; those that `file` keeps are not computed again. `progress` is told how many of
/// those to be computed are done, and of how many. Blocks; not to be called from an async context.
///
/// # Errors
/// [`ReadingError`].
pub(crate) fn read(
    encoder: &Encoder,
    prompts: &[&str],
    file: Option<&Path>,
    progress: impl FnMut(usize, usize),
) -> Result<Vec<Reading>, ReadingError> {
    // One value holds embedding and probabilities, one after the other.
    let both = |features: &Features| {
        features.embedding.iter().chain(features.probabilities.iter()).copied().collect()
    };
    let values = values(encoder, prompts, file, "with probabilities", both, progress)?;
    let width = encoder.bundle().encoder.dimensions;
    let reading = |both: Arc<[f32]>| {
        let (embedding, probabilities) = both.split_at_checked(width).filter(|(_, rest)| !rest.is_empty())?;
        Some(Reading { embedding: embedding.into(), probabilities: probabilities.into() })
    };
    let too_short = || {
        let path = file.map(Path::to_owned).unwrap_or_default();
        ReadingError::Cache { path, problem: "its entries are too short".to_owned() }
    };
    values.into_iter().map(|both| both.and_then(reading).ok_or_else(too_short)).collect()
}

/// Reads prompts as [`read`] does, for their states alone; they are empty where the graph has none.
///
/// # Errors
/// [`ReadingError`].
pub(crate) fn states(
    encoder: &Encoder,
    prompts: &[&str],
    file: Option<&Path>,
    progress: impl FnMut(usize, usize),
) -> Result<Vec<Arc<[f32]>>, ReadingError> {
    let states = values(encoder, prompts, file, "states", |features| features.state.clone(), progress)?;
    Ok(states.into_iter().map(Option::unwrap_or_default).collect())
}

/// One vector for each prompt, of those that `what` names; nothing for one that is empty.
fn values(
    encoder: &Encoder,
    prompts: &[&str],
    file: Option<&Path>,
    what: &str,
    value: impl Fn(&Features) -> Arc<[f32]>,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<Option<Arc<[f32]>>>, ReadingError> {
    let failed =
        |problem| ReadingError::Cache { path: file.map(Path::to_owned).unwrap_or_default(), problem };
    let graph = encoder.bundle().files.get(MODEL).map_or("", |entry| entry.sha256.as_str());
    let space = format!("{graph} {what}");
    let mut cache = match file {
        Some(path) => cache::read(path, &space).map_err(failed)?,
        None => Cache::new(&space),
    };
    let mut missing: Vec<&str> = prompts.iter().copied().filter(|text| cache.get(text).is_none()).collect();
    missing.sort_unstable();
    missing.dedup();
    for (part, texts) in missing.chunks(PART).enumerate() {
        let features = encoder.features_batch(texts, |done| progress(part * PART + done, missing.len()))?;
        for (text, features) in texts.iter().zip(features) {
            let value = value(&features);
            if !value.is_empty() {
                cache.insert(text, value);
            }
        }
        if let Some(path) = file {
            cache.save(path).map_err(failed)?;
        }
    }
    Ok(prompts.iter().map(|text| cache.get(text)).collect())
}
