//! The encoder with the real ONNX Runtime and a tiny bundle with random weights.

#[cfg(test)]
mod bundles;
#[cfg(test)]
mod common;
#[cfg(test)]
mod library;
#[cfg(test)]
mod serving;
#[cfg(test)]
mod shipped;
