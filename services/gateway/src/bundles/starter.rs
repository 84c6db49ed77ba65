//! From a bundle's directory to running sessions.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use encoder::{Bundle, Encoder, EncoderConfig, EncoderMetrics, Runtime};

use super::library::id_of;
use crate::app::load_runtime;
use crate::catalog::{Category, RouterModel, Space};
use crate::config::RouterConfig;

/// Starts router models. All calls block.
pub(crate) struct Starter {
    config: RouterConfig,
    ort_dylib_path: Option<PathBuf>,
    /// ONNX Runtime is loaded when it is needed first; a process can do that once.
    runtime: Mutex<Option<Runtime>>,
    /// Of whatever model reads: a new one goes on counting where the old one ended.
    metrics: EncoderMetrics,
}

impl Starter {
    pub(crate) fn new(config: RouterConfig, ort_dylib_path: Option<PathBuf>) -> Self {
        Self { config, ort_dylib_path, runtime: Mutex::default(), metrics: EncoderMetrics::default() }
    }

    pub(crate) fn metrics(&self) -> &EncoderMetrics {
        &self.metrics
    }

    pub(super) fn config(&self) -> &RouterConfig {
        &self.config
    }

    /// A model to read all prompts.
    pub(super) fn start(&self, dir: &Path) -> Result<RouterModel, String> {
        self.start_with(dir, &self.config.encoder, self.metrics.clone())
    }

    /// A model to read beside the first, or to be tried: one session, and nothing kept.
    pub(super) fn try_out(&self, dir: &Path) -> Result<RouterModel, String> {
        let config = EncoderConfig { sessions: 1, cache_entries: 0, ..self.config.encoder.clone() };
        self.start_with(dir, &config, EncoderMetrics::default())
    }

    fn start_with(
        &self,
        dir: &Path,
        config: &EncoderConfig,
        metrics: EncoderMetrics,
    ) -> Result<RouterModel, String> {
        let bundle = Bundle::open(dir).map_err(|e| e.to_string())?;
        let runtime = self.runtime()?;
        let encoder =
            Encoder::start_counting(bundle, config, &runtime, metrics).map_err(|e| e.to_string())?;
        Ok(model(encoder))
    }

    fn runtime(&self) -> Result<Runtime, String> {
        let mut loaded = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*loaded {
            return Ok(runtime.clone());
        }
        let runtime = load_runtime(self.config.onnxruntime.as_deref(), self.ort_dylib_path.as_deref());
        let runtime = runtime.map_err(|e| e.to_string())?;
        *loaded = Some(runtime.clone());
        Ok(runtime)
    }
}

/// A running encoder with what the catalogue has to know of it.
fn model(encoder: Encoder) -> RouterModel {
    let manifest = encoder.bundle();
    let known = manifest.categories.iter();
    let categories = known.map(|c| Category { name: c.name.clone(), description: c.description.clone() });
    let categories = categories.collect();
    let space = Space { id: manifest.space().into(), dimensions: manifest.encoder.dimensions };
    RouterModel { bundle: Arc::from(id_of(manifest)), categories, space: Some(space), encoder: Some(encoder) }
}
