//! From a bundle to a running encoder.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::batch::Limits;
use crate::bundle::{Bundle, Cascade, MODEL, Manifest, TOKENIZER};
use crate::cache::DecisionCache;
use crate::config::{EncoderConfig, Provider};
use crate::encoder::Inner;
use crate::metrics::EncoderMetrics;
use crate::model::{Batch, Heads, Model};
use crate::queue::{self, Queue, softmax};
use crate::runtime::Runtime;
use crate::session::{Engine, OrtModel};
use crate::window::{Excerpt, Windows};

/// How far the golden input's values may be off: quantised weights and other processors round
/// differently, a wrong graph or tokenizer is off by far more.
const TOLERANCE: f32 = 2e-3;

/// Sessions that the CPU gets by itself; each holds a copy of the weights.
const MOST_SESSIONS: usize = 4;

/// Why an encoder did not start.
#[derive(Debug, thiserror::Error)]
pub enum EncoderError {
    /// A setting cannot be.
    #[error("router.encoder.{field} {problem}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The execution provider is not there or does not start.
    #[error(
        "the execution provider `{provider}` does not start: {problem}; set router.encoder.provider to `cpu`, or install an ONNX Runtime build with it and the libraries that it needs"
    )]
    Provider {
        /// Its name.
        provider: &'static str,
        /// What ONNX Runtime said.
        problem: String,
    },
    /// The graph cannot be loaded or is not what the manifest says.
    #[error("{}: {problem}; the bundle's files do not belong together: restore it from where it came from or export it again", path.display())]
    Graph {
        /// The graph.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The golden input gave something else than the manifest says.
    #[error("{}: the golden input does not reproduce: {problem}; graph, tokenizer and manifest do not belong together: restore the bundle from where it came from or export it again", path.display())]
    Golden {
        /// The bundle.
        path: PathBuf,
        /// What came out.
        problem: String,
    },
    /// The first stage was to serve alone, and there is none.
    #[error("{}: the bundle has no first stage, or router.cascade.enabled is false, so that without an encoder nothing can read prompts; install ONNX Runtime and set router.encoder.provider to `auto`, or train the bundle again by `guildhall train router`", path.display())]
    NoFirstStage {
        /// The bundle.
        path: PathBuf,
    },
    /// The system gave no thread.
    #[error("no thread for the encoder: {0}")]
    Thread(std::io::Error),
}

pub(crate) fn start(
    bundle: Bundle,
    config: &EncoderConfig,
    runtime: &Runtime,
    metrics: EncoderMetrics,
) -> Result<Inner, EncoderError> {
    if config.provider == Provider::None {
        return first_stage_alone(bundle, config, metrics);
    }
    let Bundle { manifest, dir, model: graph, windows, cascade } = bundle;
    for (field, value) in [("intra_op_threads", config.intra_op_threads), ("queue_limit", config.queue_limit)]
    {
        if value == 0 {
            return Err(EncoderError::Config { field, problem: "must be at least 1".to_owned() });
        }
    }
    if config.queue_limit > Semaphore::MAX_PERMITS {
        let problem = format!("must not exceed {}", Semaphore::MAX_PERMITS);
        return Err(EncoderError::Config { field: "queue_limit", problem });
    }
    let source = Source { runtime, graph: &graph, manifest: &manifest, windows: &windows, dir: &dir };
    let (engine, sized, models) = match config.provider {
        Provider::Cpu => source.models(Engine::Cpu, config)?,
        Provider::Cuda => source.models(Engine::Cuda, config)?,
        Provider::Tensorrt => source.models(Engine::Tensorrt, config)?,
        Provider::Auto | Provider::None => match source.models(Engine::Cuda, config) {
            Ok(ready) => ready,
            Err(EncoderError::Provider { problem, .. }) => {
                tracing::warn!(reason = %problem, "the encoder runs on the CPU");
                source.models(Engine::Cpu, config)?
            }
            Err(other) => return Err(other),
        },
    };
    let parts = Parts { manifest, windows, cascade, models, provider: Some(engine.name()) };
    launch(parts, &sized, metrics)
}

/// The first stage without sessions.
pub(crate) fn first_stage_alone(
    bundle: Bundle,
    config: &EncoderConfig,
    metrics: EncoderMetrics,
) -> Result<Inner, EncoderError> {
    let Bundle { manifest, dir, windows, cascade, .. } = bundle;
    if cascade.is_none() {
        return Err(EncoderError::NoFirstStage { path: dir });
    }
    let parts = Parts { manifest, windows, cascade, models: Vec::new(), provider: None };
    launch(parts, config, metrics)
}

/// What a running encoder is made of.
pub(crate) struct Parts {
    pub manifest: Manifest,
    pub windows: Windows,
    pub cascade: Option<Cascade>,
    pub models: Vec<Box<dyn Model>>,
    /// What runs the models; `None` without any.
    pub provider: Option<&'static str>,
}

/// The threads around models that are ready. `config` has no zeros left that stand for a default.
pub(crate) fn launch(
    parts: Parts,
    config: &EncoderConfig,
    metrics: EncoderMetrics,
) -> Result<Inner, EncoderError> {
    let Parts { manifest, windows, cascade, models, provider } = parts;
    metrics.first_stage_alone.set(i64::from(provider.is_none()));
    let limits = Limits {
        rows: config.max_batch,
        tokens: config.max_batch_tokens,
        wait: Duration::from_micros(config.max_wait_us),
    };
    let inner = Inner {
        manifest,
        windows,
        cascade,
        queue: Arc::new(Queue::new(limits, models.len())),
        permits: Arc::new(Semaphore::new(config.queue_limit)),
        has_states: models.iter().all(|model| model.has_states()),
        cache: DecisionCache::new(config.cache_entries, config.cache_bytes),
        metrics,
        provider,
        max_batch: config.max_batch,
        threads: Mutex::default(),
    };
    for (index, mut model) in models.into_iter().enumerate() {
        let (queue, metrics) = (Arc::clone(&inner.queue), inner.metrics.clone());
        // On failure `inner` is dropped, which ends the threads that run already.
        let thread = thread::Builder::new()
            .name(format!("encoder-{index}"))
            .spawn(move || queue::work(&mut *model, &queue, &metrics))
            .map_err(EncoderError::Thread)?;
        inner.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    }
    Ok(inner)
}

/// Settings with every 0 that stands for a default replaced.
fn sized(config: &EncoderConfig, engine: Engine) -> EncoderConfig {
    let on_cpu = engine == Engine::Cpu;
    let or = |value: usize, cpu: usize, accelerator: usize| match value {
        0 if on_cpu => cpu,
        0 => accelerator,
        set => set,
    };
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    EncoderConfig {
        sessions: or(config.sessions, cores.min(MOST_SESSIONS), 1),
        max_batch: or(config.max_batch, 8, 32),
        max_batch_tokens: or(config.max_batch_tokens, 256, 8192),
        ..config.clone()
    }
}

/// Everything that sessions are made from.
struct Source<'a> {
    runtime: &'a Runtime,
    graph: &'a [u8],
    manifest: &'a Manifest,
    windows: &'a Windows,
    dir: &'a Path,
}

type Ready = (Engine, EncoderConfig, Vec<Box<dyn Model>>);

impl Source<'_> {
    /// All sessions, checked and warm.
    fn models(&self, engine: Engine, config: &EncoderConfig) -> Result<Ready, EncoderError> {
        let config = sized(config, engine);
        let provider = |problem| EncoderError::Provider { provider: engine.name(), problem };
        if !engine.in_library() {
            let library = self.runtime.path().display();
            return Err(provider(format!("{library} was built without the {} provider", engine.name())));
        }
        // On an accelerator the driver and its libraries are the likelier culprit.
        let failed = |problem| match engine {
            Engine::Cpu => EncoderError::Graph { path: self.dir.join(MODEL), problem },
            Engine::Cuda | Engine::Tensorrt => provider(problem),
        };
        let mut models: Vec<Box<dyn Model>> = Vec::with_capacity(config.sessions);
        for _ in 0..config.sessions {
            let margins = self.windows.margins();
            let model = OrtModel::build(self.runtime, self.graph, self.manifest, engine, &config, margins);
            let mut model = model.map_err(failed)?;
            self.warm_up(&mut model).map_err(failed)?;
            self.check_vocabulary(&mut model)?;
            self.check_golden(&mut model)?;
            models.push(Box::new(model));
        }
        Ok((engine, config, models))
    }

    /// A few passes of other lengths, so that the first prompts do not pay for allocations and kernels.
    fn warm_up(&self, model: &mut OrtModel) -> Result<(), String> {
        let longest = self.manifest.encoder.max_tokens;
        for tokens in [longest.min(8), longest.div_ceil(4), longest] {
            let ids = vec![0; tokens];
            model.forward(&Batch::pad(std::iter::once(ids.as_slice())), Heads::All)?;
        }
        Ok(())
    }

    /// The tokenizer must not yield an id that the graph has no row for.
    fn check_vocabulary(&self, model: &mut OrtModel) -> Result<(), EncoderError> {
        let largest = self.windows.largest_id();
        let ids = self.windows.enclose(&[largest], &[]);
        let outcome = model.forward(&Batch::pad(std::iter::once(ids.as_slice())), Heads::All);
        outcome.map(drop).map_err(|error| EncoderError::Graph {
            path: self.dir.join(MODEL),
            problem: format!("fails on token id {largest}, which {TOKENIZER} can yield ({error})"),
        })
    }

    fn check_golden(&self, model: &mut OrtModel) -> Result<(), EncoderError> {
        let outcome = self.golden_problem(model).unwrap_or_else(Some);
        match outcome {
            None => Ok(()),
            Some(problem) => Err(EncoderError::Golden { path: self.dir.to_owned(), problem }),
        }
    }

    /// What is wrong with the golden input's outputs, if anything; an error when there are none.
    fn golden_problem(&self, model: &mut OrtModel) -> Result<Option<String>, String> {
        let golden = &self.manifest.golden;
        let window = self.windows.routing(&Excerpt::of(&golden.text), self.manifest.encoder.max_tokens)?;
        let outputs = model.forward(&Batch::pad(std::iter::once(window.ids.as_slice())), Heads::All)?;
        let embedding = outputs.embedding.get(0).ok_or("the graph gave no embedding")?;
        let logits = outputs.logits.get(0).ok_or("the graph gave no category_logits")?;
        let found = softmax(logits).ok_or("category_logits are not finite numbers")?;

        let best = found.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
        let category = best.and_then(|(index, _)| self.manifest.categories.get(index));
        if category.is_none_or(|c| c.name != golden.category) {
            let name = category.map_or("none", |c| c.name.as_str());
            return Ok(Some(format!("the category is `{name}`, the manifest says `{}`", golden.category)));
        }
        for (index, (found, expected)) in found.iter().zip(&golden.probabilities).enumerate() {
            if off(*found, *expected) {
                return Ok(Some(format!("probability {index} is {found}, the manifest says {expected}")));
            }
        }
        for (index, (found, expected)) in embedding.iter().zip(&golden.embedding_head).enumerate() {
            if off(*found, *expected) {
                return Ok(Some(format!("embedding[{index}] is {found}, the manifest says {expected}")));
            }
        }
        Ok(None)
    }
}

/// NaN is off, too.
pub(crate) fn off(found: f32, expected: f32) -> bool {
    (found - expected).abs() > TOLERANCE || found.is_nan() || expected.is_nan()
}
