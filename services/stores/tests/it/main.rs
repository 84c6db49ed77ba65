//! Tests of the embedded store through its public interface.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod damage;
mod kill;
mod memory;
mod model;
mod rules;
