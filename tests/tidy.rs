//! What the project asks of its own source, beyond what the compiler and the lints can say.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that fails is a test that fails; clippy only exempts the test functions themselves"
)]

mod tidy {
    mod examples;
    mod extension_points;
    mod generated;
    mod layering;
    mod manifests;
    mod size;
    mod source;
}
