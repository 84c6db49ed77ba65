//! Package `experts`.
