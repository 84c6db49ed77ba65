use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use ort::environment::Environment;
use ort::ep;
use ort::memory::Allocator;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynTensor, Outlet, Tensor, TensorElementType, ValueType};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::server::report::DriverError;

/// The graph `y = x · x` over one number, as ONNX writes it. ONNX Runtime takes memory for itself when it first works,
/// which must not be counted for an expert.
const LEAST: &[u8] = b"\x08\x08\x3a\x40\
    \x0a\x11\x0a\x01x\x0a\x01x\x12\x01y\x22\x06MatMul\
    \x12\x01g\
    \x5a\x13\x0a\x01x\x12\x0e\x0a\x0c\x08\x01\x12\x08\x0a\x02\x08\x01\x0a\x02\x08\x01\
    \x62\x13\x0a\x01y\x12\x0e\x0a\x0c\x08\x01\x12\x08\x0a\x02\x08\x01\x0a\x02\x08\x01\
    \x42\x02\x10\x0d";

/// An expert's ONNX model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OnnxModel {
    /// Its graph; weights in files of their own lie in the same folder.
    #[schema(value_type = String)]
    pub file: PathBuf,
    /// The SHA-256 of `file` in hexadecimal digits, checked at each read from the disk; those of other files are not.
    #[serde(default)]
    pub sha256: Option<String>,
    /// What the session takes, until it was measured; the file's size where nothing is given.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Whether a load ends with a run over zeros, where dimensions that the graph leaves open are 1.
    #[serde(default = "yes")]
    pub warm: bool,
}

fn yes() -> bool {
    true
}

impl OnnxModel {
    /// Has the runtime work once, over next to nothing.
    pub(super) fn least(environment: &Environment) -> Result<(), DriverError> {
        let least = Self { file: PathBuf::new(), sha256: None, bytes: None, warm: true };
        least.load(environment, 1, Some(LEAST)).map(drop)
    }

    fn refused(&self, error: impl std::fmt::Display) -> DriverError {
        DriverError::refused(format!("{}: {error}", self.file.display()))
    }

    /// The whole file, checked.
    pub(super) fn read(&self) -> Result<Vec<u8>, DriverError> {
        let bytes = fs::read(&self.file).map_err(|error| self.refused(error))?;
        self.compare(|hasher| {
            hasher.update(&bytes);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Checks the file where a hash is given; its size.
    pub(super) fn check(&self) -> Result<u64, DriverError> {
        let mut file = File::open(&self.file).map_err(|error| self.refused(error))?;
        self.compare(|hasher| io::copy(&mut file, hasher).map(drop))?;
        file.metadata().map(|meta| meta.len()).map_err(|error| self.refused(error))
    }

    fn compare(&self, feed: impl FnOnce(&mut Sha256) -> io::Result<()>) -> Result<(), DriverError> {
        let Some(expected) = &self.sha256 else { return Ok(()) };
        let mut hasher = Sha256::new();
        feed(&mut hasher).map_err(|error| self.refused(error))?;
        let found = format!("{:x}", hasher.finalize());
        if found.eq_ignore_ascii_case(expected) {
            return Ok(());
        }
        Err(self.refused(format!("its SHA-256 is {found}, not {expected}; fetch it again or correct sha256")))
    }

    /// A session that has run once where `warm` says so, over `file` where that has been read.
    pub(super) fn load(
        &self,
        environment: &Environment,
        threads: usize,
        file: Option<&[u8]>,
    ) -> Result<Session, DriverError> {
        let mut session = self
            .build(environment, threads, file)
            .map_err(|error| self.refused(format!("ONNX Runtime does not load it: {error}")))?;
        if self.warm {
            let problem = |error: String| {
                self.refused(format!("its first run failed, over zeros ({error}); set `warm: false` where it cannot run on those"))
            };
            let inputs = zeros(session.inputs()).map_err(problem)?;
            session.run(inputs).map(drop).map_err(|error| problem(error.to_string()))?;
        }
        Ok(session)
    }

    fn build(&self, environment: &Environment, threads: usize, file: Option<&[u8]>) -> ort::Result<Session> {
        let mut builder = Session::builder(environment)?
            // Weights beside the arena, and no arena: what is freed goes back.
            .with_execution_providers([ep::CPU::default().with_arena_allocator(false).build()])?
            .with_device_allocated_initializers()?
            .with_memory_pattern(false)?
            // Or weights are there twice, or in another size than the file's.
            .with_prepacking(false)?
            .with_intra_threads(threads)?
            .with_inter_threads(1)?
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?;
        match (file, self.file.parent()) {
            (None, _) => builder.commit_from_file(&self.file),
            (Some(bytes), None) => builder.commit_from_memory(bytes),
            (Some(bytes), Some(folder)) => builder
                .with_config_entry(
                    "session.model_external_initializers_file_folder_path",
                    folder.to_string_lossy(),
                )?
                .commit_from_memory(bytes),
        }
    }
}

/// Zeros for each input.
fn zeros(inputs: &[Outlet]) -> Result<Vec<(String, SessionInputValue<'static>)>, String> {
    let zero = |input: &Outlet| {
        let ValueType::Tensor { ty, shape, .. } = input.dtype() else {
            return Err(format!("input {} is no tensor", input.name()));
        };
        let shape: Vec<i64> = shape.iter().map(|size| if *size < 0 { 1 } else { *size }).collect();
        let value = if *ty == TensorElementType::String {
            let count: i64 = shape.iter().product();
            let texts = vec![""; usize::try_from(count).unwrap_or(0)];
            Tensor::from_string_array((shape, texts.as_slice())).map(SessionInputValue::from)
        } else {
            DynTensor::new(&Allocator::default(), *ty, shape).map(SessionInputValue::from)
        };
        Ok((input.name().to_owned(), value.map_err(|error| format!("input {}: {error}", input.name()))?))
    };
    inputs.iter().map(zero).collect()
}
