//! Guildhall's gateway: edge, pipeline, admin API, configuration, telemetry, wiring and command line.
//!
//! Follow one request: [`http`] accepts it, [`pipeline`] carries it through its phases, [`catalog`] says
//! what there is to route to, [`decision`] keeps the record. [`app`] wires it all together.

pub mod admin;
pub mod app;
pub mod auth;
pub mod bundles;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod decision;
pub mod documents;
pub mod error;
pub mod feedback;
pub mod http;
mod ids;
mod lifecycle;
pub mod memory;
mod metrics;
pub mod outbound;
pub mod pipeline;
pub mod problem;
mod reload;
pub mod residency;
mod session;
pub mod telemetry;
mod usage;
