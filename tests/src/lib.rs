//! Harness of the black-box tests: real processes, real sockets on loopback, free ports, nothing shared.
//!
//! The binary under test is `GUILDHALL_BIN`, or `guildhall` beside the test executable. The ONNX Runtime
//! library is `ORT_DYLIB_PATH`, or what `make deps` put into `.guildhall/onnxruntime`.

mod balancer;
mod client;
mod process;

pub use balancer::Balancer;
pub use client::{Answer, Client};
pub use process::{Gateway, binary, onnxruntime, repository};

/// The evaluation data's folder, from `GUILDHALL_DATA`. Tests that need it skip, and say so, without it.
pub fn data() -> Option<std::path::PathBuf> {
    std::env::var_os("GUILDHALL_DATA").map(std::path::PathBuf::from).filter(|p| p.is_dir())
}
