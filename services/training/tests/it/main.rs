//! Training and evaluation through the real graph, on a bundle of a few kilobytes.
#![expect(clippy::float_cmp, reason = "the same input must give the very same numbers")]

#[cfg(test)]
mod common;
#[cfg(test)]
mod eval;
#[cfg(test)]
mod gates;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod train;
