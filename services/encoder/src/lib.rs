//! Text to features: one ONNX pass over a prompt yields its embedding and its category probabilities. Where only
//! the categories are wanted and a bundle's first stage is sure of them, they come without that pass.
//!
//! ```text
//! text -> excerpt -> cache, single flight -> tokenise -> first stage -> queue -> batch -> session -> features
//!         window.rs  cache.rs                window.rs   first.rs       queue.rs  batch.rs session.rs
//! ```
//!
//! [`Bundle::open`] checks a router bundle, [`Runtime::load`] loads the ONNX Runtime library that
//! [`locate`] found, and [`Encoder::start`] makes of both a handle that answers once the bundle's golden
//! input has reproduced. Inference runs on threads of its own, one per session; no lock is held around it.

mod batch;
mod bulk;
mod bundle;
mod cache;
mod config;
mod encoder;
mod first;
mod lexical;
mod metrics;
mod model;
mod queue;
mod runtime;
mod session;
mod start;
mod state;
mod window;

pub use bundle::{
    Bundle, BundleError, Calibration, Category, EncoderSpec, FORMAT, FileEntry, FirstStageSpec, Golden,
    MANIFEST, Manifest, Pooling,
};
pub use config::{CascadeConfig, EncoderConfig, Provider};
pub use encoder::{CacheOutcome, Embedding, EncodeError, Encoded, Encoder, Stage};
pub use first::{FirstStage, FirstStageWeights};
pub use lexical::{Lexicon, RoundedTable, occurrence};
pub use metrics::{CacheLabels, EncoderMetrics, StageLabels};
pub use runtime::{Places, Runtime, RuntimeError, locate};
pub use start::EncoderError;
pub use window::Tokenized;
