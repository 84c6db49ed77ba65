//! Package `loadtest`.
