//! Package `stores`.
