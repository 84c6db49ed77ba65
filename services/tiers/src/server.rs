//! What drivers share: how a server is spoken to, what it is called there, and what is said of it.

pub(crate) mod endpoint;
pub(crate) mod meter;
pub(crate) mod names;
pub(crate) mod report;

/// The default of a setting that is on.
pub(crate) fn yes() -> bool {
    true
}
