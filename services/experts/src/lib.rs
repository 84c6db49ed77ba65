//! Experts: what can answer a request, and how it is called.
//!
//! An [`ExpertSpec`] says what an expert is; the [`Registry`] keeps those that are in use and gives policies
//! their view of them; [`Expert::call`] sends a request and gives the answer's bytes back as they come. The
//! upstream client is hyper with a pool of its own ([`Client`]).
//!
//! To add a kind of expert: a file in `kind/` and its variants in `kind.rs`.

mod body;
mod call;
mod error;
mod kind;
mod registry;
mod resilience;
mod secret;
mod spec;
mod splice;
mod upstream;
mod vitals;

pub use body::ReplyBody;
pub use call::{Call, Operation, Reply, StreamOptions, Timeouts, Tries, Try, Usage};
pub use error::{Blame, BodyError, CallError, CallErrorKind, Phase, normalise_error};
pub use kind::{
    Backend, ConstantBackend, Discovery, Endpoint, EndpointStatus, HealthCheck, Listing, LlmBackend, Look,
    Protocol, RejectBackend, Stats,
};
pub use registry::{Expert, Registry, Snapshot, Wanted};
pub use resilience::{
    Backoff, Balancing, BreakerSettings, BreakerState, Hedge, Retries, RetryBudget, retry_after,
};
pub use secret::Secret;
pub use spec::{Cost, ExpertSpec, Limits, Problem};
pub use splice::correct_stream;
pub use upstream::{
    Cidr, Client, ClientConfig, ClientError, Fetch, Fetched, Resolve, Resolving, TlsFiles, Trust,
    certificate_end,
};
