//! The gateway in process: its whole pipeline, in simulated time.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails is a test that fails; clippy only exempts the test functions themselves"
)]

#[cfg(test)]
mod fairness;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod upstream;
#[cfg(test)]
mod world;
