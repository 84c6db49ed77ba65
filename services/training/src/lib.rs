//! Package `training`.
