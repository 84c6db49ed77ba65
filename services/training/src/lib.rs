//! Training and evaluation of router heads.
//!
//! ```text
//! rows -> windows and embeddings -> head -> rounded, calibrated -> graph, manifest -> checked bundle
//! data    encoder, cache            head    quantise, calibrate    onnx, publish
//! ```
//!
//! [`router::train`] makes a bundle out of another one and labelled prompts: the encoder stays as it is,
//! the category head is fitted anew and put into the graph. [`eval::evaluate_router`] measures a bundle on
//! labelled prompts. Both block; both give the same result for the same input and seed.

mod cache;
mod calibrate;
pub mod data;
pub mod eval;
mod features;
mod first;
mod head;
mod lbfgs;
mod metrics;
mod onnx;
mod perturb;
mod publish;
mod quantise;
pub mod router;

pub use metrics::{CategoryEval, Confusion, SourceEval};
pub use onnx::OnnxError;
