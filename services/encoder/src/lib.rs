//! Package `encoder`.
