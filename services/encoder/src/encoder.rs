use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use routing::{Features, Reads};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::bundle::{Bundle, Cascade, Manifest};
use crate::cache::{DecisionCache, Found};
use crate::config::{EncoderConfig, Provider};
use crate::first::FirstStage;
use crate::metrics::EncoderMetrics;
use crate::model::Heads;
use crate::queue::{Answer, Item, Queue, Row};
use crate::runtime::Runtime;
use crate::start::{self, EncoderError};
use crate::window::{Excerpt, Tokenized, Windows};

/// Text to features: a handle to the sessions of one bundle, cheap to clone.
///
/// When the last handle is dropped the sessions' threads finish what is queued and end;
/// [`Encoder::shutdown`] does the same and waits for them.
#[derive(Clone)]
pub struct Encoder(Arc<Inner>);

pub(crate) struct Inner {
    pub manifest: Manifest,
    pub windows: Windows,
    pub cascade: Option<Cascade>,
    pub queue: Arc<Queue>,
    pub permits: Arc<Semaphore>,
    pub cache: DecisionCache,
    pub metrics: EncoderMetrics,
    /// `None` where the first stage serves alone.
    pub provider: Option<&'static str>,
    /// Whether the graph has token states.
    pub has_states: bool,
    pub max_batch: usize,
    pub threads: Mutex<Vec<JoinHandle<()>>>,
}

/// One prompt, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// What was read out of it.
    pub features: Features,
    /// Who read it.
    pub stage: Stage,
    /// How the cache took part.
    pub cache: CacheOutcome,
    /// Tokens of the prompt that were not read.
    pub truncated_tokens: u32,
    /// Whether `features.tokens` and `truncated_tokens` are estimates (prompts beyond 2 KiB).
    pub estimated: bool,
    /// Time that the prompt was queued for its forward pass; zero on a cache hit.
    pub queue: Duration,
    /// Time of that forward pass; zero on a cache hit.
    pub forward: Duration,
}

/// What gave an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The bundle's first stage: from tokens alone, without an embedding.
    First,
    /// The bundle's graph.
    Encoder,
}

impl Stage {
    /// The name, as in records, headers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Encoder => "encoder",
        }
    }
}

/// How the decision cache took part in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheOutcome {
    /// The answer was there.
    Hit,
    /// The answer was computed for this prompt.
    Miss,
    /// The answer was being computed for an identical prompt.
    Joined,
}

impl CacheOutcome {
    /// The name, as in records, headers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Joined => "joined",
        }
    }
}

/// One text's embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// `[d]`, L2-normalised.
    pub vector: Arc<[f32]>,
    /// Tokens that it rests on, special tokens included.
    pub tokens: u32,
}

/// Why a text was not encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The queue is full; later it may not be.
    #[error(
        "the encoder's queue is full; retry later, or raise router.encoder.queue_limit or router.encoder.sessions"
    )]
    Overloaded,
    /// Embeddings were asked of an encoder that has a first stage alone.
    #[error(
        "there is no encoder, only the bundle's first stage, which gives no embedding; install ONNX Runtime and set router.encoder.provider to `auto`"
    )]
    NoEncoder,
    /// The encoder was shut down.
    #[error("the encoder has been shut down")]
    Closed,
    /// The text could not be tokenised.
    #[error("the prompt could not be tokenised: {0}")]
    Tokenizer(String),
    /// The forward pass failed.
    #[error("the encoder's forward pass failed: {0}")]
    Inference(String),
    /// The forward pass gave something that is not a number.
    #[error("the encoder's {0} holds values that are not finite numbers")]
    NotFinite(&'static str),
}

/// A decision as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    pub features: Features,
    pub stage: Stage,
    pub truncated_tokens: u32,
    pub estimated: bool,
    pub queue: Duration,
    pub forward: Duration,
}

impl Decision {
    fn of_first(text: &Tokenized, probabilities: Arc<[f32]>) -> Self {
        Self {
            features: Features {
                probabilities,
                tokens: text.tokens,
                truncated: text.truncated_tokens > 0,
                ..Features::default()
            },
            stage: Stage::First,
            truncated_tokens: text.truncated_tokens,
            estimated: text.estimated,
            queue: Duration::ZERO,
            forward: Duration::ZERO,
        }
    }

    fn new(text: &Tokenized, row: &Row) -> Self {
        Self {
            stage: Stage::Encoder,
            features: Features {
                embedding: row.embedding.clone(),
                probabilities: row.probabilities.clone(),
                state: row.state.clone(),
                tokens: text.tokens,
                truncated: text.truncated_tokens > 0,
            },
            truncated_tokens: text.truncated_tokens,
            estimated: text.estimated,
            queue: row.queue,
            forward: row.forward,
        }
    }

    fn answer(self, cache: CacheOutcome) -> Encoded {
        let spent = |time| if cache == CacheOutcome::Hit { Duration::ZERO } else { time };
        Encoded {
            stage: self.stage,
            cache,
            truncated_tokens: self.truncated_tokens,
            estimated: self.estimated,
            queue: spent(self.queue),
            forward: spent(self.forward),
            features: self.features,
        }
    }
}

impl Encoder {
    /// Builds the sessions, warms them up and lets the bundle's golden input come out again; an encoder
    /// that was returned is ready. Blocks for as long as that takes (about a second on a CPU, longer on
    /// an accelerator): call it from a thread for blocking work.
    ///
    /// # Errors
    /// [`EncoderError`] when the settings cannot be, the graph is not what the manifest says, the
    /// execution provider does not start, or the golden input gives something else.
    pub fn start(bundle: Bundle, config: &EncoderConfig, runtime: &Runtime) -> Result<Self, EncoderError> {
        Self::start_counting(bundle, config, runtime, EncoderMetrics::default())
    }

    /// [`Encoder::start`] with counters that are there already: those of an encoder that this one takes the
    /// place of go on in it.
    ///
    /// # Errors
    /// As [`Encoder::start`].
    pub fn start_counting(
        bundle: Bundle,
        config: &EncoderConfig,
        runtime: &Runtime,
        metrics: EncoderMetrics,
    ) -> Result<Self, EncoderError> {
        start::start(bundle, config, runtime, metrics).map(|inner| Self(Arc::new(inner)))
    }

    /// An encoder without a graph: the bundle's first stage decides alone, however sure it is. Needs no ONNX
    /// Runtime; what wants an embedding fails. `metrics` as for [`Encoder::start_counting`].
    ///
    /// # Errors
    /// [`EncoderError::NoFirstStage`] when the bundle has none or it is turned off.
    pub fn first_stage_alone(
        bundle: Bundle,
        config: &EncoderConfig,
        metrics: EncoderMetrics,
    ) -> Result<Self, EncoderError> {
        start::first_stage_alone(bundle, config, metrics).map(|inner| Self(Arc::new(inner)))
    }

    /// Reads one prompt as far as is asked: the cache's answer; where categories are all that is wanted, the first
    /// stage's if it is sure; or a forward pass over the routing window. Identical prompts at the same time share
    /// one reading. Dropping the future gives up the place in the queue.
    ///
    /// [`Features::state`] comes with [`Reads::Embedding`] alone, and is empty when the graph has no token states.
    ///
    /// # Errors
    /// [`EncodeError::Overloaded`] at once when the queue is full; otherwise what went wrong on the way.
    pub async fn features(&self, text: &str, reads: Reads) -> Result<Encoded, EncodeError> {
        let inner = &*self.0;
        let excerpt = Excerpt::of(text);
        let key = excerpt.key();
        let (decision, outcome) = match inner.cache.find(&key).await {
            Found::Hit(decision) if inner.suffices(&decision, reads) => (decision, CacheOutcome::Hit),
            Found::Joined(decision) if inner.suffices(&decision, reads) => (decision, CacheOutcome::Joined),
            Found::Hit(_) | Found::Joined(_) => {
                // It was read for a policy that looks at less.
                let decision = self.decide(&excerpt, reads).await?;
                inner.cache.replace(&key, decision.clone());
                (decision, CacheOutcome::Miss)
            }
            Found::Lead(lead) => {
                let decision = self.decide(&excerpt, reads).await?;
                // Refused when it weighs more than the cache holds; those who wait get it all the same.
                let _ = lead.insert(decision.clone());
                (decision, CacheOutcome::Miss)
            }
        };
        inner.metrics.count(outcome, decision.stage);
        Ok(decision.answer(outcome))
    }

    async fn decide(&self, excerpt: &Excerpt<'_>, reads: Reads) -> Result<Decision, EncodeError> {
        let inner = &*self.0;
        let cascade = inner.cascade.as_ref().filter(|_| reads < Reads::Embedding);
        // Without a first stage to try, a full queue refuses before anything is done.
        let early = if cascade.is_none() { Some(self.try_permit()?) } else { None };
        let text = self.tokenise(excerpt).await?;
        inner.observe(&text);
        if let Some(cascade) = cascade {
            let probabilities = cascade.first.probabilities(&text.ids);
            let sure = probabilities.iter().any(|p| *p >= cascade.threshold);
            if sure || inner.provider.is_none() {
                return Ok(Decision::of_first(&text, probabilities));
            }
        }
        let permit = early.map_or_else(|| self.try_permit(), Ok)?;
        let heads = if reads == Reads::Embedding && inner.has_states { Heads::States } else { Heads::All };
        let row = inner.submit(text.ids.clone(), heads, permit);
        let row = row.await.map_err(|_| EncodeError::Closed)??;
        Ok(Decision::new(&text, &row))
    }

    async fn tokenise(&self, excerpt: &Excerpt<'_>) -> Result<Tokenized, EncodeError> {
        // Some 0.2 microseconds a byte (bench `tokenise_bytes`): what is small holds up the caller's thread,
        // which may serve sockets, for less than 0.4 ms; the rest goes to a thread for blocking work.
        if excerpt.is_small() {
            return self.0.window(excerpt);
        }
        let inner = Arc::clone(&self.0);
        let excerpt = excerpt.to_owned();
        let task = tokio::task::spawn_blocking(move || inner.window(&excerpt.borrow()));
        task.await.map_err(|error| EncodeError::Tokenizer(error.to_string()))?
    }

    /// Embeds texts by their head windows of [`crate::EncoderSpec::embedding_max_tokens`], in order. At
    /// most `max_batch` of them are queued at a time, so that a long list does not shut out others.
    ///
    /// # Errors
    /// [`EncodeError::Overloaded`] when the queue is full; otherwise what went wrong on the way.
    pub async fn embed(&self, texts: Vec<String>) -> Result<Vec<Embedding>, EncodeError> {
        let mut permit = Some(self.try_permit()?);
        let inner = Arc::clone(&self.0);
        let windows = tokio::task::spawn_blocking(move || {
            let limit = inner.manifest.encoder.embedding_max_tokens;
            texts.iter().map(|text| inner.windows.head(text, limit)).collect::<Result<Vec<_>, _>>()
        });
        let windows = windows.await.map_err(|error| EncodeError::Tokenizer(error.to_string()))?;
        let windows = windows.map_err(EncodeError::Tokenizer)?;

        let mut embeddings = Vec::with_capacity(windows.len());
        for group in windows.chunks(self.0.max_batch) {
            let mut items = Vec::with_capacity(group.len());
            let mut rows = Vec::with_capacity(group.len());
            for window in group {
                self.0.observe(window);
                // The first place was had at once or not at all; for the others this list waits its turn.
                let permit = match permit.take() {
                    Some(permit) => permit,
                    None => {
                        Arc::clone(&self.0.permits).acquire_owned().await.map_err(|_| EncodeError::Closed)?
                    }
                };
                let (item, row) = Item::new(window.ids.clone(), Heads::Embedding, Some(permit));
                items.push(item);
                rows.push(row);
            }
            self.0.queue.push(items);
            for (window, row) in group.iter().zip(rows) {
                let row = row.await.map_err(|_| EncodeError::Closed)??;
                embeddings.push(Embedding { vector: row.embedding, tokens: window.ids.len() as u32 });
            }
        }
        Ok(embeddings)
    }

    fn try_permit(&self) -> Result<OwnedSemaphorePermit, EncodeError> {
        if self.0.provider.is_none() {
            return Err(EncodeError::NoEncoder);
        }
        Arc::clone(&self.0.permits).try_acquire_owned().map_err(|error| match error {
            tokio::sync::TryAcquireError::Closed => EncodeError::Closed,
            tokio::sync::TryAcquireError::NoPermits => {
                self.0.metrics.refusals.inc();
                EncodeError::Overloaded
            }
        })
    }

    /// A prompt's routing window, as [`Encoder::features`] reads it.
    ///
    /// # Errors
    /// [`EncodeError::Tokenizer`].
    pub fn tokenize_window(&self, text: &str) -> Result<Tokenized, EncodeError> {
        self.0.window(&Excerpt::of(text))
    }

    /// A window of these tokens between special ones, whatever the tokenizer would have made of a text.
    pub fn window_of(&self, ids: &[u32]) -> Tokenized {
        let tokens = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        Tokenized { ids: self.0.windows.enclose(ids, &[]), tokens, truncated_tokens: 0, estimated: false }
    }

    /// The manifest of the bundle that is served.
    pub fn bundle(&self) -> &Manifest {
        &self.0.manifest
    }

    /// The counters and timers.
    pub fn metrics(&self) -> &EncoderMetrics {
        &self.0.metrics
    }

    /// What computes the forward passes: `cpu`, `cuda` or `tensorrt`; `none` where the first stage serves alone.
    pub fn execution_provider(&self) -> &str {
        self.0.provider.unwrap_or(Provider::None.name())
    }

    /// Whether the first stage serves alone, for want of a forward pass.
    pub fn is_first_stage_alone(&self) -> bool {
        self.0.provider.is_none()
    }

    /// The first stage, if there is one.
    pub fn first_stage(&self) -> Option<&FirstStage> {
        self.0.cascade.as_ref().map(|cascade| &cascade.first)
    }

    /// Probability of the best category from which on the first stage decides; `None` without a first stage.
    pub fn threshold(&self) -> Option<f32> {
        self.0.cascade.as_ref().map(|cascade| cascade.threshold)
    }

    /// Takes no more texts, finishes what is queued and waits for the sessions' threads to end. Blocks.
    pub fn shutdown(&self) {
        self.0.permits.close();
        self.0.queue.close();
        let threads = std::mem::take(&mut *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the encoder had panicked");
            }
        }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }
}

impl Inner {
    /// Whether a decision holds all that a caller wants.
    fn suffices(&self, decision: &Decision, reads: Reads) -> bool {
        let whole =
            decision.stage == Stage::Encoder && (!self.has_states || !decision.features.state.is_empty());
        whole || reads < Reads::Embedding
    }

    pub(crate) fn window(&self, excerpt: &Excerpt<'_>) -> Result<Tokenized, EncodeError> {
        self.windows.routing(excerpt, self.manifest.encoder.max_tokens).map_err(EncodeError::Tokenizer)
    }

    fn observe(&self, text: &Tokenized) {
        self.metrics.prompt_tokens.observe(f64::from(text.tokens));
        if text.truncated_tokens > 0 {
            self.metrics.truncations.inc();
        }
    }

    /// Queues one window.
    fn submit(&self, ids: Vec<u32>, heads: Heads, permit: OwnedSemaphorePermit) -> Answer {
        let (item, answer) = Item::new(ids, heads, Some(permit));
        self.queue.push([item]);
        answer
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
    }
}

#[cfg(test)]
mod tests;
