//! Rows through the encoder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use encoder::Encoder;

use super::plan::Material;
use super::{Progress, TrainError};
use crate::cache::{self, Cache};
use crate::data::Row;
use crate::features::{Example, Tables};
use crate::publish::MODEL;

/// Texts are embedded and the cache is written in parts of this many, so that an interrupted run is not lost.
const PART: usize = 4096;

/// An encoder with a memory.
pub(super) struct Source<'a> {
    encoder: &'a Encoder,
    cache: Cache,
    file: Option<PathBuf>,
    tables: Tables,
}

impl<'a> Source<'a> {
    pub(super) fn open(
        encoder: &'a Encoder,
        file: Option<&Path>,
        tables: Tables,
    ) -> Result<Self, TrainError> {
        let graph = encoder.bundle().files.get(MODEL).map_or("", |entry| entry.sha256.as_str());
        let cache = match file {
            Some(path) => cache::read(path, graph).map_err(|problem| TrainError::File {
                path: path.to_owned(),
                problem: format!("{problem}; remove the file or give another one to keep embeddings in"),
            })?,
            None => Cache::new(graph),
        };
        Ok(Self { encoder, cache, file: file.map(Path::to_owned), tables })
    }

    /// Examples of the training rows, of the validation rows, and of one more text.
    pub(super) fn examples(
        &mut self,
        material: &Material,
        golden: &str,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(Vec<Example>, Vec<Example>, Example), TrainError> {
        let rows = material.train.iter().chain(&material.valid);
        let texts = rows.map(|row| row.text.as_str()).chain([golden]);
        let mut missing: Vec<&str> = texts.filter(|text| self.cache.get(text).is_none()).collect();
        missing.sort_unstable();
        missing.dedup();
        let total = missing.len();
        for (part, texts) in missing.chunks(PART).enumerate() {
            let before = part * PART;
            let told = |done| progress(Progress::Embedding { done: before + done, total });
            let inputs = self.encoder.head_inputs(texts, told)?;
            for (text, input) in texts.iter().zip(inputs) {
                self.cache.insert(text, input);
            }
            self.save()?;
        }
        let all =
            |rows: &[Row]| rows.iter().map(|row| self.example(&row.text)).collect::<Result<Vec<_>, _>>();
        Ok((all(&material.train)?, all(&material.valid)?, self.example(golden)?))
    }

    /// What the encoder makes of each token alone, `[V]` vectors by id.
    pub(super) fn token_vectors(
        &mut self,
        progress: &mut impl FnMut(Progress),
    ) -> Result<Vec<Arc<[f32]>>, TrainError> {
        let ids: Vec<u32> = (0..u32::try_from(self.tables.unigrams).unwrap_or(u32::MAX)).collect();
        let missing: Vec<u32> =
            ids.iter().copied().filter(|id| self.cache.get(&token_key(*id)).is_none()).collect();
        let total = missing.len();
        for (part, ids) in missing.chunks(PART).enumerate() {
            let before = part * PART;
            let windows: Vec<_> = ids.iter().map(|id| self.encoder.window_of(&[*id])).collect();
            let told = |done| progress(Progress::Embedding { done: before + done, total });
            for (id, features) in ids.iter().zip(self.encoder.features_of_windows(&windows, told)?) {
                self.cache.insert(&token_key(*id), features.embedding);
            }
        }
        if total > 0 {
            self.save()?;
        }
        Ok(ids.iter().filter_map(|id| self.cache.get(&token_key(*id))).collect())
    }

    fn example(&self, text: &str) -> Result<Example, TrainError> {
        let ids = self.encoder.tokenize_window(text)?.ids;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.tables.unigrams) {
            let path = PathBuf::from("tokenizer.json");
            let problem =
                format!("token {id} has no row in the graph's table of {} tokens", self.tables.unigrams);
            return Err(TrainError::File { path, problem });
        }
        let embedding = self.cache.get(text).unwrap_or_else(|| Arc::new([]));
        Ok(Example { ids, embedding })
    }

    fn save(&self) -> Result<(), TrainError> {
        let Some(path) = &self.file else { return Ok(()) };
        self.cache.save(path).map_err(|problem| TrainError::File { path: path.clone(), problem })
    }
}

/// Where a token's own vector is kept: no prompt begins with this character.
fn token_key(id: u32) -> String {
    format!("\0token {id}")
}
