//! Guildhall's gateway: edge, pipeline, admin API, configuration, telemetry, wiring and command line.
//!
//! Follow one request: [`http`] accepts it, [`pipeline`] carries it through its phases, [`catalog`] says
//! what there is, [`decision`] keeps the record.

pub mod config;
pub mod problem;
