//! From a bundle's directory to running sessions.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use encoder::{Bundle, Encoder, EncoderConfig, EncoderMetrics, Provider, Runtime, RuntimeError};

use super::library::id_of;
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
        self.encoder(dir).map(model)
    }

    /// The sessions of such a model.
    pub(crate) fn encoder(&self, dir: &Path) -> Result<Encoder, String> {
        self.start_with(dir, &self.config.encoder, self.metrics.clone())
    }

    /// A model to read beside the first, or to be tried: one session, and nothing kept.
    pub(super) fn try_out(&self, dir: &Path) -> Result<RouterModel, String> {
        let config = EncoderConfig { sessions: 1, cache_entries: 0, ..self.config.encoder.clone() };
        self.start_with(dir, &config, EncoderMetrics::default()).map(model)
    }

    /// Where nobody named a library and none is found, the bundle's first stage serves alone, if it has one.
    fn start_with(
        &self,
        dir: &Path,
        config: &EncoderConfig,
        metrics: EncoderMetrics,
    ) -> Result<Encoder, String> {
        let bundle = Bundle::open(dir).map_err(|e| e.to_string())?.with_cascade(&self.config.cascade);
        let started = if config.provider == Provider::None {
            Encoder::first_stage_alone(bundle, config, metrics)
        } else {
            match self.runtime() {
                Ok(runtime) => Encoder::start_counting(bundle, config, &runtime, metrics),
                Err(missing @ RuntimeError::NotFound { .. }) if bundle.has_first_stage() => {
                    tracing::warn!(reason = %missing, "the router's first stage serves alone: there are no embeddings, and it is less accurate than the encoder");
                    Encoder::first_stage_alone(bundle, config, metrics)
                }
                Err(error) => return Err(error.to_string()),
            }
        };
        started.map_err(|e| e.to_string())
    }

    fn runtime(&self) -> Result<Runtime, RuntimeError> {
        let mut loaded = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*loaded {
            return Ok(runtime.clone());
        }
        let named = self.config.onnxruntime.as_deref();
        let library = encoder::locate(named, self.ort_dylib_path.as_deref(), &encoder::Places::of_process())?;
        let runtime = Runtime::load(&library)?;
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
