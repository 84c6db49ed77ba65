//! `train router`: a category head for a bundle, from labelled prompts.

mod examples;
mod first;
mod plan;
mod sources;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use encoder::{
    Bundle, BundleError, Category, EncodeError, Encoder, EncoderConfig, EncoderError, Golden, Manifest,
    Runtime,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::calibrate;
use crate::data::DataError;
use crate::eval::{self, EvalError, EvalOptions, RouterEval};
use crate::head::{Head, Lessons, Penalty, STRETCH_OF_UNIT_VECTORS, softmax};
use crate::metrics::{self, Answer};
use crate::onnx::{self, OnnxError};
use crate::publish::{MODEL, PublishError, Staged};
use crate::quantise::{Rounded, Storage};
use examples::Source;
use plan::{Material, material, tables};
use sources::Trial;

pub use first::FirstStageReport;
pub use sources::{LeaveOut, LeaveOutReport};

/// What to train, from what, and where to put it.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// The bundle to start from; its encoder is kept.
    pub bundle: PathBuf,
    /// Labelled prompts to train on.
    pub train: PathBuf,
    /// Labelled prompts for stopping and calibration. Without them a tenth of the training rows, chosen by
    /// their text, is set aside.
    pub valid: Option<PathBuf>,
    /// Labelled prompts to measure the finished bundle on; the result goes into its manifest.
    pub test: Option<PathBuf>,
    /// Directory of the new bundle.
    pub out: PathBuf,
    /// Whether a bundle that is there may be replaced.
    pub replace: bool,
    /// The new bundle's name; without it the directory's.
    pub name: Option<String>,
    /// The new bundle's version.
    pub version: String,
    /// One line about the new bundle; without it a line about its categories.
    pub description: Option<String>,
    /// A file with one licence in each line (blank lines and lines with `#` aside): rows that do not name
    /// one of them are left out, and counted in the manifest.
    pub licences: Option<PathBuf>,
    /// A file that keeps embeddings between runs.
    pub cache: Option<PathBuf>,
    /// Weight of half the squared lexical weights.
    pub lexical_penalty: f32,
    /// Weight of half the squared embedding weights.
    pub embedding_penalty: f32,
    /// Tokens and pairs that occur in fewer rows than this get no weight.
    pub min_rows: u32,
    /// Share of the target that goes to all categories evenly.
    pub label_smoothing: f32,
    /// How far the weights of rows even their (category, source) pairs out: a row weighs n^-x, where n rows have
    /// its pair. 0 leaves every row its weight, 1 gives every pair the same.
    pub source_balance: f32,
    /// The same for categories.
    pub category_balance: f32,
    /// Whether and how sources are left out, to say how good the head is on prompts of another origin.
    pub leave_out: Option<LeaveOut>,
    /// Steps after which a fit ends at the latest.
    pub max_steps: usize,
    /// Whether the bundle gets a first stage.
    pub first_stage: bool,
    /// Accuracy on the validation rows that the cascade may lose against the encoder alone, as a share of the rows.
    /// Prompts of other origin lose more than those: a tenth of what is bearable there is a good measure.
    pub first_stage_loss: f64,
    /// Share of the first stage's target that is what the full head thinks; the rest is the label.
    pub distillation: f32,
    /// How the finished bundle is measured.
    pub eval: EvalOptions,
    /// How embeddings are computed.
    pub encoder: EncoderConfig,
    /// What computes them.
    pub runtime: Runtime,
}

impl TrainOptions {
    /// The usual settings.
    pub fn new(bundle: PathBuf, train: PathBuf, out: PathBuf, runtime: Runtime) -> Self {
        Self {
            bundle,
            train,
            valid: None,
            test: None,
            out,
            replace: false,
            name: None,
            version: "0.1.0".to_owned(),
            description: None,
            licences: None,
            cache: None,
            lexical_penalty: 3e-6,
            embedding_penalty: 3e-4,
            min_rows: 2,
            label_smoothing: 0.0,
            source_balance: 0.0,
            category_balance: 0.0,
            leave_out: None,
            max_steps: 200,
            first_stage: true,
            first_stage_loss: 0.0005,
            distillation: 0.0,
            eval: EvalOptions::default(),
            encoder: EncoderConfig::default(),
            runtime,
        }
    }
}

/// What training is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// Prompts go through the encoder.
    Embedding {
        /// Prompts done.
        done: usize,
        /// Prompts in all.
        total: usize,
    },
    /// Heads are fitted without some sources each.
    LeavingOut {
        /// Fits done.
        done: usize,
        /// Fits in all.
        total: usize,
    },
    /// The head, or after it the first stage, is fitted.
    Fitting {
        /// What is fitted: `head` or `first stage`.
        what: &'static str,
        /// Steps done.
        step: usize,
        /// What is minimised.
        objective: f64,
        /// Mean negative log likelihood of the validation rows, where it was looked at.
        valid_loss: Option<f64>,
    },
    /// The new bundle is checked.
    Checking,
    /// The new bundle is measured on the test rows.
    Measuring {
        /// Forward passes done.
        done: usize,
        /// Forward passes in all.
        total: usize,
    },
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainReport {
    /// The new bundle.
    pub bundle: PathBuf,
    /// Its categories, in the order of its logits.
    pub categories: Vec<String>,
    /// Rows that were trained on.
    pub rows: usize,
    /// Rows that were left out for their licence.
    pub left_out: usize,
    /// Steps of the fit.
    pub steps: usize,
    /// What the logits are divided by.
    pub temperature: f32,
    /// Quality on the validation rows, which took part in stopping and calibration.
    pub valid: ValidReport,
    /// The first stage, where there is one.
    pub first_stage: Option<FirstStageReport>,
    /// Quality on sources that were left out, where that was asked for.
    pub left_out_sources: Option<LeaveOutReport>,
    /// Quality on the test rows, if there were any.
    pub test: Option<RouterEval>,
}

/// Quality on the validation rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ValidReport {
    /// Rows.
    pub rows: usize,
    /// Share of rows whose most probable category is their label.
    pub accuracy: f64,
    /// Expected calibration error over 15 bins.
    pub ece: f64,
    /// Mean negative log likelihood.
    pub loss: f64,
}

impl fmt::Display for TrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, left_out, steps, temperature, valid, .. } = self;
        writeln!(f, "bundle       {}", self.bundle.display())?;
        writeln!(f, "categories   {}", self.categories.join(", "))?;
        writeln!(f, "rows         {rows} ({left_out} left out for their licence)")?;
        writeln!(f, "fit          {steps} steps, temperature {temperature:.3}")?;
        writeln!(
            f,
            "validation   {} rows, accuracy {:.1} %, calibration error {:.3}",
            valid.rows,
            100.0 * valid.accuracy,
            valid.ece
        )?;
        if let Some(first) = &self.first_stage {
            writeln!(f, "{first}")?;
        }
        if let Some(sources) = &self.left_out_sources {
            writeln!(f, "{sources}")?;
        }
        match &self.test {
            Some(test) => write!(f, "\ntest\n{test}"),
            None => Ok(()),
        }
    }
}

/// Why there is no new bundle.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The rows do not make a task.
    #[error("{}: {problem}", path.display())]
    Rows {
        /// The file.
        path: PathBuf,
        /// What is wrong with the rows as a whole.
        problem: String,
    },
    /// A setting cannot be.
    #[error("{field} {problem}")]
    Option {
        /// The setting.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file other than the data cannot be used.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The bundle to start from cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The bundle to start from, or the new one, does not run.
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    /// A prompt cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The graph of the bundle to start from cannot be changed.
    #[error("{}: {source}", path.display())]
    Graph {
        /// The graph.
        path: PathBuf,
        /// What is wrong with it.
        source: OnnxError,
    },
    /// The new bundle cannot be measured.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// The new bundle cannot be written.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Trains a category head and writes a bundle with it. Blocks for as long as it takes to embed the rows
/// (some 20 ms for each on one CPU core) and to fit (about a minute for 30,000 rows); not to be called
/// from an async context.
///
/// # Errors
/// [`TrainError`]; then nothing was written but the cache of embeddings.
pub fn train(options: &TrainOptions, mut progress: impl FnMut(Progress)) -> Result<TrainReport, TrainError> {
    check(options)?;
    let staged = Staged::new(&options.out, options.replace)?;
    let bundle = Bundle::open(&options.bundle)?;
    let base = bundle.manifest.clone();
    let material = material(options, &base)?;
    let graph_path = options.bundle.join(MODEL);
    let graph = std::fs::read(&graph_path)
        .map_err(|error| TrainError::File { path: graph_path.clone(), problem: error.to_string() })?;
    let in_graph = |source| TrainError::Graph { path: graph_path.clone(), source };
    let initializers = onnx::initializers(&graph).map_err(in_graph)?;
    let tables = tables(&initializers).map_err(in_graph)?;

    let encoder = Encoder::start(bundle, &options.encoder, &options.runtime)?;
    let mut source = Source::open(&encoder, options.cache.as_deref(), tables)?;
    let (train, valid, golden) = source.examples(&material, &base.golden.text, &mut progress)?;
    let tokens = if options.first_stage { Some(source.token_vectors(&mut progress)?) } else { None };
    encoder.shutdown();

    let weights = plan::weights(&material, options.source_balance, options.category_balance);
    let lessons = Lessons { weights: &weights, ..Lessons::new(&train, &material.train_labels) };
    let mut steps = 0;
    let mut penalty = Penalty {
        lexical: options.lexical_penalty,
        embedding: options.embedding_penalty,
        min_examples: options.min_rows,
        smoothing: options.label_smoothing,
        stretch: STRETCH_OF_UNIT_VECTORS,
    };
    let left_out = match &options.leave_out {
        Some(how) => {
            let trial = Trial {
                material: &material,
                train: &train,
                valid: &valid,
                weights: &weights,
                tables,
                penalty,
                max_steps: options.max_steps,
            };
            Some(trial.run(how, &mut progress)?)
        }
        None => None,
    };
    if let Some(report) = &left_out {
        penalty.lexical = report.lexical_penalty;
        penalty.embedding = report.embedding_penalty;
    }
    let head = Head::fit(
        lessons,
        (&valid, &material.valid_labels),
        (material.categories.len(), tables),
        penalty,
        options.max_steps,
        |step| {
            steps = step.iteration;
            progress(Progress::Fitting {
                what: "head",
                step: steps,
                objective: step.objective,
                valid_loss: step.valid_loss,
            });
            ControlFlow::Continue(())
        },
    );
    let rounded = Rounded::new(head, Storage::of(&initializers));
    let logits: Vec<Vec<f32>> = valid.iter().map(|example| rounded.head.logits(example)).collect();
    let temperature = calibrate::temperature(&logits, &material.valid_labels);
    let report = valid_report(&logits, &material.valid_labels, temperature);

    let first = tokens.map(|vectors| {
        let heads = first::Heads { full: &rounded.head, temperature };
        let valid = (valid.as_slice(), material.valid_labels.as_slice());
        first::fit(options, &vectors, lessons, valid, &heads, penalty, &mut progress)
    });

    progress(Progress::Checking);
    let changed = onnx::replace(&graph, &rounded.tensors(temperature)).map_err(in_graph)?;
    let probabilities = scaled(&rounded.head.logits(&golden), temperature);
    let mut manifest =
        manifest(options, &base, &material, Golden { probabilities, ..base.golden.clone() }, temperature);
    manifest.provenance.insert("training".to_owned(), plan::provenance(options, &material, penalty, steps)?);
    manifest.quality.insert("valid".to_owned(), json!(report));
    if let Some(report) = &left_out {
        manifest.quality.insert("left_out_sources".to_owned(), json!(report));
    }
    manifest.files.insert(MODEL.to_owned(), staged.write(MODEL, &changed)?);
    let old_first = manifest.first_stage.take().map(|spec| spec.file);
    if let Some(old) = &old_first {
        manifest.files.remove(old);
    }
    if let Some(first) = &first {
        let bytes = first
            .weights
            .to_bytes()
            .map_err(|problem| TrainError::File { path: PathBuf::from(first::FILE), problem })?;
        manifest.files.insert(first::FILE.to_owned(), staged.write(first::FILE, &bytes)?);
        manifest.first_stage = Some(first.spec(&golden.ids));
        manifest.quality.insert("valid_first_stage".to_owned(), json!(first.report));
    }
    let kept = |name: &&String| *name != MODEL && Some(*name) != old_first.as_ref();
    for name in base.files.keys().filter(kept) {
        let path = options.bundle.join(name);
        let content = std::fs::read(&path)
            .map_err(|error| TrainError::File { path: path.clone(), problem: error.to_string() })?;
        staged.write(name, &content)?;
    }
    staged.write_manifest(&manifest)?;

    // Opening and starting it checks hashes, shapes and the golden input: graph and trainer must agree.
    let encoder = Encoder::start(Bundle::open(staged.path())?, &options.encoder, &options.runtime)?;
    let test = match &material.test {
        Some(rows) => {
            let told = |done, total| progress(Progress::Measuring { done, total });
            Some(eval::evaluate_rows(&encoder, rows, &options.eval, told)?)
        }
        None => None,
    };
    encoder.shutdown();
    if let Some(test) = &test {
        manifest.quality.insert("test".to_owned(), without_details(test));
        manifest.quality.insert("test_file".to_owned(), json!(options.test.as_deref().map(file_name)));
        manifest
            .quality
            .insert("command".to_owned(), json!("guildhall eval router --bundle DIR --data FILE --json"));
        staged.write_manifest(&manifest)?;
    }
    staged.publish()?;
    Ok(TrainReport {
        bundle: options.out.clone(),
        categories: manifest.categories.iter().map(|c| c.name.clone()).collect(),
        rows: material.train.len(),
        left_out: material.left_out.values().sum(),
        steps,
        temperature,
        valid: report,
        first_stage: first.map(|first| first.report),
        left_out_sources: left_out,
        test,
    })
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

fn check(options: &TrainOptions) -> Result<(), TrainError> {
    let penalty = |value: f32| value.is_finite() && value >= 0.0;
    let problem = if !penalty(options.lexical_penalty) {
        Some(("lexical_penalty", "must be a number that is not negative"))
    } else if !penalty(options.embedding_penalty) {
        Some(("embedding_penalty", "must be a number that is not negative"))
    } else if !(0.0..1.0).contains(&options.label_smoothing) {
        Some(("label_smoothing", "must be at least 0 and below 1"))
    } else if !(0.0..=1.0).contains(&options.distillation) {
        Some(("distillation", "must be a share, from 0 to 1"))
    } else if !(0.0..=1.0).contains(&options.first_stage_loss) {
        Some(("first_stage_loss", "must be a share, from 0 to 1"))
    } else if !(0.0..=1.0).contains(&options.source_balance) {
        Some(("source_balance", "must be from 0 to 1"))
    } else if !(0.0..=1.0).contains(&options.category_balance) {
        Some(("category_balance", "must be from 0 to 1"))
    } else if options.max_steps == 0 {
        Some(("max_steps", "must be at least 1"))
    } else {
        None
    };
    problem.map_or(Ok(()), |(field, problem)| Err(TrainError::Option { field, problem }))
}

fn scaled(logits: &[f32], temperature: f32) -> Vec<f32> {
    let mut scores: Vec<f32> = logits.iter().map(|z| z / temperature).collect();
    softmax(&mut scores);
    scores
}

fn valid_report(logits: &[Vec<f32>], labels: &[usize], temperature: f32) -> ValidReport {
    let mut loss = 0.0;
    let mut answers = Vec::with_capacity(labels.len());
    for (row, &label) in logits.iter().zip(labels) {
        let shares = scaled(row, temperature);
        loss -= f64::from(shares[label].max(f32::MIN_POSITIVE)).ln();
        answers.push(Answer::of(label, &shares));
    }
    ValidReport {
        rows: labels.len(),
        accuracy: metrics::accuracy(&answers),
        ece: metrics::calibration_error(&answers),
        loss: loss / labels.len().max(1) as f64,
    }
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

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| "bundle".to_owned(), |name| name.to_string_lossy().into_owned())
}
