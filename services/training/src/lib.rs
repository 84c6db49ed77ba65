//! Training and evaluation of router heads.
//!
//! ```text
//! rows -> windows and embeddings -> head -> rounded, calibrated -> graph, manifest -> checked bundle
//! data    encoder, cache            head    quantise, calibrate    onnx, publish
//! ```
//!
//! [`router::train`] makes a bundle out of another one and labelled prompts: the encoder stays as it is,
//! the category head is fitted anew and put into the graph. [`eval::evaluate_router`] measures a bundle on
//! labelled prompts.
//!
//! ```text
//! outcomes -> readings        -> w(c,e), scorers, pilots    -> JSON for the admin API
//! outcomes    encoder, cache     mapping   scorer   pilots     learn
//! prompts  -> states          -> gates                      -> the same
//! ```
//!
//! [`learn`] tells from outcomes what each expert is good at, [`gates`] from its prompts what it is for; [`eval::routing`] measures routers on outcomes.
//!
//! All block; all give the same result for the same input and seed.

mod cache;
mod calibrate;
mod clusters;
pub mod data;
pub mod eval;
mod features;
mod first;
pub mod gates;
mod head;
mod lbfgs;
pub mod learn;
mod linalg;
pub mod mapping;
mod metrics;
mod onnx;
pub mod outcomes;
mod perturb;
mod pilots;
mod publish;
mod quantise;
mod readings;
pub mod router;
mod scorer;

pub use metrics::{CategoryEval, Confusion, SourceEval};
pub use onnx::OnnxError;
pub use readings::ReadingError;
