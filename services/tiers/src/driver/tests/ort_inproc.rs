//! Models of which the tests know the bytes, in ONNX Runtime itself.

mod cycles;
mod faults;
mod graph;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ort::environment::Environment;
use ort::value::Tensor;
use serde_json::json;
use tempfile::TempDir;

use super::super::ErrorKind;
use super::*;
use crate::residency::Source;

/// The library that `make test` provides. A machine without it fails these tests; it does not pass them.
fn onnxruntime() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let given = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
        let library = given.or_else(|| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.guildhall/onnxruntime/lib");
            let mut files: Vec<_> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
            files.sort();
            let is_library = |path: &PathBuf| {
                let name = path.file_name().unwrap().to_string_lossy();
                name.starts_with("libonnxruntime.") && !path.is_dir()
            };
            files.into_iter().find(is_library)
        });
        let library =
            library.unwrap_or_else(|| panic!("these tests need ONNX Runtime, run `make deps` first"));
        let builder =
            ort::init_from(&library).unwrap_or_else(|error| panic!("{}: {error}", library.display()));
        let environment = builder.with_telemetry(false).build().unwrap();
        environment.set_log_level(ort::logging::LogLevel::Fatal);
        environment
    })
}

/// Runs a test in a process of its own, where no other test allocates and freed memory goes back; whether this is
/// that process.
fn alone(test: &str) -> bool {
    const SETTINGS: [(&str, &str); 2] = [("MALLOC_MMAP_THRESHOLD_", "65536"), ("MALLOC_ARENA_MAX", "1")];
    if SETTINGS.iter().all(|(name, value)| std::env::var(name).is_ok_and(|is| is == *value)) {
        return true;
    }
    let name = format!("driver::tests::ort_inproc::{test}");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture", "--test-threads", "1"])
        .envs(SETTINGS)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{failed}");
    println!("{said}");
    false
}

/// Models in a folder: `m0`, `m1`, ... with `side` squared weights, which are 1 in the first, 2 in the second.
struct Models {
    folder: TempDir,
    sides: Vec<usize>,
}

fn name(at: usize) -> String {
    format!("m{at}")
}

impl Models {
    fn new(sides: &[usize]) -> Self {
        let models = Self { folder: tempfile::tempdir().unwrap(), sides: sides.to_vec() };
        for (at, side) in sides.iter().enumerate() {
            fs::write(models.file(at), graph::model(*side, (at + 1) as f32)).unwrap();
        }
        models
    }

    fn file(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("{}.onnx", name(at)))
    }

    /// What its weights take.
    fn weights(&self, at: usize) -> u64 {
        (self.sides[at] * self.sides[at] * 4) as u64
    }

    fn spec(&self, budget_bytes: u64) -> Value {
        let models: serde_json::Map<_, _> =
            (0..self.sides.len()).map(|at| (name(at), json!({"file": self.file(at)}))).collect();
        json!({"driver": {"kind": "ort_inproc", "budget_bytes": budget_bytes, "models": models}})
    }

    fn driver(&self, budget_bytes: u64) -> Driver {
        start(self.spec(budget_bytes))
    }

    /// Asks the expert, which must answer with its own weights.
    fn ask(&self, driver: &Driver, at: usize) {
        let resident = driver.resident(&id(&name(at))).unwrap_or_else(|| panic!("{} is not ready", name(at)));
        let side = self.sides[at];
        let ones = Tensor::from_array(([2, side], vec![1.0_f32; 2 * side])).unwrap();
        let answer = resident.run(|session| {
            let outputs = session.run(ort::inputs!["x" => ones]).unwrap();
            outputs["y"].try_extract_tensor::<f32>().unwrap().1.to_vec()
        });
        assert_eq!(answer, vec![(side * (at + 1)) as f32; 2 * side]);
    }
}

fn start(spec: Value) -> Driver {
    Driver::with_onnxruntime(serde_json::from_value(spec).unwrap(), onnxruntime()).unwrap()
}
