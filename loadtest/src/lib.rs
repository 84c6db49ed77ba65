//! Parts of the load client `gwload`.
//!
//! Raw keep-alive connections and a hand-written answer reader on one thread, so that the client costs
//! little on a machine that it shares with what it measures.

pub mod arrivals;
pub mod drive;
pub mod exchange;
pub mod findings;
pub mod histogram;
pub mod mix;
pub mod report;
pub mod sse;
pub mod usage;
