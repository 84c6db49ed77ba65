//! The ONNX Runtime shared library: finding it and loading it.

mod locate;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::environment::Environment;
use ort::logging::LogLevel;

pub use locate::{Places, locate};

/// The loaded library.
///
/// ONNX Runtime is one per process: it can be loaded once and keeps one environment, to which every
/// session belongs. Whoever composes the program loads it and passes the handle on; cloning is cheap.
#[derive(Clone, Debug)]
pub struct Runtime {
    environment: Environment,
    path: Arc<Path>,
}

/// Why the library cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// It is nowhere.
    #[error(
        "no ONNX Runtime library found. Looked in: {}. Run `make deps` in the repository, or `pip install onnxruntime` (1.20 or newer), or give the library's path with --onnxruntime or ORT_DYLIB_PATH", .tried.join("; ")
    )]
    NotFound {
        /// Every place that was looked at.
        tried: Vec<String>,
    },
    /// It is not where it was said to be.
    #[error("{origin} names {}, {problem}; give the path of libonnxruntime.so (or of a folder that holds it), or leave it away to have it searched for", path.display())]
    Named {
        /// Who named it.
        origin: &'static str,
        /// What was named.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The file is there and cannot be used.
    #[error("{}: {problem}; ONNX Runtime 1.20 or newer for this system is needed: run `make deps` in the repository or `pip install onnxruntime`, or give another library with --onnxruntime or ORT_DYLIB_PATH", path.display())]
    Unusable {
        /// The library.
        path: PathBuf,
        /// What the loader said.
        problem: String,
    },
    /// The process has a runtime already.
    #[error(
        "ONNX Runtime is loaded in this process already; it can be loaded once, so pass the first handle on"
    )]
    Loaded,
}

impl Runtime {
    /// Loads the library. Its own log goes to `tracing` under the target `onnxruntime`.
    ///
    /// # Errors
    /// [`RuntimeError::Unusable`] when the file is no ONNX Runtime, is too old or lacks a library
    /// that it needs; another one may be tried then. [`RuntimeError::Loaded`] when this process has one.
    pub fn load(path: &Path) -> Result<Self, RuntimeError> {
        let unusable = |problem: String| RuntimeError::Unusable { path: path.to_owned(), problem };
        // A relative path would be taken relative to the executable by the loader.
        let path = std::path::absolute(path).map_err(|error| unusable(error.to_string()))?;
        if !path.is_file() {
            return Err(unusable("there is no such file".to_owned()));
        }
        let builder = ort::init_from(&path).map_err(|error| unusable(error.to_string()))?;
        let environment = builder
            .with_name("guildhall")
            .with_telemetry(false)
            .with_logger(Arc::new(log))
            .build()
            .map_err(|_| RuntimeError::Loaded)?;
        // An environment with a logger of its own starts at the most talkative level.
        environment.set_log_level(LogLevel::Warning);
        Ok(Self { environment, path: path.into() })
    }

    /// The file that was loaded.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the library says about its build: version, commit, compiler flags.
    pub fn build_info(&self) -> &'static str {
        ort::info()
    }

    /// The process's one environment, for whoever else runs models in it.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }
}

fn log(level: LogLevel, category: &str, _id: &str, _location: &str, message: &str) {
    match level {
        LogLevel::Verbose | LogLevel::Info => tracing::debug!(target: "onnxruntime", category, "{message}"),
        LogLevel::Warning => tracing::warn!(target: "onnxruntime", category, "{message}"),
        LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "onnxruntime", category, "{message}"),
    }
}
