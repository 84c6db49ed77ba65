//! Black-box tests: the real gateway between a real client and mock experts.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails is a test that fails; clippy only exempts the test functions themselves"
)]

mod access;
mod adapter;
mod admin;
mod bad_input;
mod bundles;
mod chat;
mod churn;
mod clients;
mod doctor;
mod edge;
mod faults;
mod feedback;
mod keys;
mod lifecycle;
mod limits;
mod load_harness;
mod memory;
mod messages_experts;
mod policies;
mod privacy;
mod queues;
mod reload;
mod residency;
mod residency_admin;
mod residency_role;
mod rolling;
mod routing;
mod sim;
mod support;
mod telemetry;
mod tls;
