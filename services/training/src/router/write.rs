//! From fitted weights to the files of a bundle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use encoder::{Category, Golden, Manifest};
use serde_json::{Value, json};

use super::fit::Fitted;
use super::plan::{self, Material};
use super::report::scaled;
use super::{TrainError, TrainOptions, file_name, first};
use crate::eval::RouterEval;
use crate::features::{Example, Tables};
use crate::onnx::{self, OnnxError};
use crate::publish::{MODEL, Staged};
use crate::quantise::Storage;

/// The graph to start from.
pub(super) struct Graph {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Dimensions of its initializers.
    initializers: BTreeMap<String, Vec<u64>>,
}

impl Graph {
    pub(super) fn open(bundle: &Path) -> Result<Self, TrainError> {
        let path = bundle.join(MODEL);
        let bytes = read(&path)?;
        match onnx::initializers(&bytes) {
            Ok(initializers) => Ok(Self { path, bytes, initializers }),
            Err(source) => Err(TrainError::Graph { path, source }),
        }
    }

    /// Heights of its lexical tables.
    pub(super) fn tables(&self) -> Result<Tables, TrainError> {
        plan::tables(&self.initializers).map_err(|error| self.failed(error))
    }

    /// How it stores them.
    pub(super) fn storage(&self) -> Storage {
        Storage::of(&self.initializers)
    }

    fn failed(&self, source: OnnxError) -> TrainError {
        TrainError::Graph { path: self.path.clone(), source }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TrainError> {
    std::fs::read(path)
        .map_err(|error| TrainError::File { path: path.to_owned(), problem: error.to_string() })
}

/// Writes all files, the manifest included, and gives the manifest.
pub(super) fn bundle(
    options: &TrainOptions,
    base: &Manifest,
    material: &Material,
    graph: &Graph,
    fitted: &Fitted,
    golden: &Example,
    staged: &Staged,
) -> Result<Manifest, TrainError> {
    let Fitted { rounded, temperature, steps, penalty, report, first, left_out } = fitted;
    let changed = onnx::replace(&graph.bytes, &rounded.tensors(*temperature)).map_err(|e| graph.failed(e))?;
    let probabilities = scaled(&rounded.head.logits(golden), *temperature);
    let known = Golden { probabilities, ..base.golden.clone() };
    let mut manifest = manifest(options, base, material, known, *temperature);
    let training = plan::provenance(options, material, *penalty, *steps)?;
    manifest.provenance.insert("training".to_owned(), training);
    manifest.quality.insert("valid".to_owned(), json!(report));
    if let Some(report) = left_out {
        manifest.quality.insert("left_out_sources".to_owned(), json!(report));
    }
    manifest.files.insert(MODEL.to_owned(), staged.write(MODEL, &changed)?);
    let old_first = manifest.first_stage.take().map(|spec| spec.file);
    if let Some(old) = &old_first {
        manifest.files.remove(old);
    }
    if let Some(first) = first {
        let unwritten = |problem| TrainError::File { path: PathBuf::from(first::FILE), problem };
        let bytes = first.weights.to_bytes().map_err(unwritten)?;
        manifest.files.insert(first::FILE.to_owned(), staged.write(first::FILE, &bytes)?);
        manifest.first_stage = Some(first.spec(&golden.ids));
        manifest.quality.insert("valid_first_stage".to_owned(), json!(first.report));
    }
    let kept = |name: &&String| *name != MODEL && Some(*name) != old_first.as_ref();
    for name in base.files.keys().filter(kept) {
        staged.write(name, &read(&options.bundle.join(name))?)?;
    }
    staged.write_manifest(&manifest)?;
    Ok(manifest)
}

/// Takes a measurement on the test rows down in a manifest.
pub(super) fn measured(options: &TrainOptions, manifest: &mut Manifest, test: &RouterEval) {
    let command = "guildhall eval router --bundle DIR --data FILE --json";
    let fields = [
        ("test", without_details(test)),
        ("test_file", json!(options.test.as_deref().map(file_name))),
        ("command", json!(command)),
    ];
    manifest.quality.extend(fields.map(|(name, value)| (name.to_owned(), value)));
}

/// What a manifest holds of an evaluation: neither long tables nor what depends on the machine.
fn without_details(test: &RouterEval) -> Value {
    let mut stages = test.stages.clone();
    stages.encoder.cost = None;
    if let Some(first) = &mut stages.first {
        first.cost = None;
    }
    if let Some(cascade) = &mut stages.cascade {
        cascade.cost = None;
        cascade.curve.clear();
    }
    let mut value = json!(RouterEval { stages, ..test.clone() });
    if let Some(fields) = value.as_object_mut() {
        fields.remove("per_source");
        fields.remove("confusions");
    }
    value
}

/// The new manifest but for what is known only when the files are written.
fn manifest(
    options: &TrainOptions,
    base: &Manifest,
    material: &Material,
    golden: Golden,
    temperature: f32,
) -> Manifest {
    let described: BTreeMap<&str, &str> =
        base.categories.iter().map(|c| (c.name.as_str(), c.description.as_str())).collect();
    let category = |name: &String| Category {
        name: name.clone(),
        description: described.get(name.as_str()).copied().unwrap_or_default().to_owned(),
    };
    let mut best = 0;
    for (index, share) in golden.probabilities.iter().enumerate() {
        if *share > golden.probabilities[best] {
            best = index;
        }
    }
    let lines = format!("{} with a head for {} categories", base.model_id, material.categories.len());
    let mut manifest = base.clone();
    manifest.name = options.name.clone().unwrap_or_else(|| file_name(&options.out));
    manifest.version.clone_from(&options.version);
    manifest.description = options.description.clone().unwrap_or(lines);
    manifest.categories = material.categories.iter().map(category).collect();
    manifest.calibration.temperature = temperature;
    manifest.golden = Golden { category: material.categories[best].clone(), ..golden };
    manifest.quality = BTreeMap::<String, Value>::new();
    manifest
}
