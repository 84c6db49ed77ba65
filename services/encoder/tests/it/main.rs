//! The encoder with the real ONNX Runtime and a tiny bundle with random weights.

#[cfg(test)]
mod common;
#[cfg(test)]
mod serving;
