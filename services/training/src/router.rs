//! `train router`: a category head for a bundle, from labelled prompts.

mod examples;
mod first;
mod fit;
mod plan;
mod report;
mod sources;
mod write;

use std::path::{Path, PathBuf};

use encoder::{Bundle, BundleError, EncodeError, Encoder, EncoderConfig, EncoderError, Runtime};

use crate::data::DataError;
use crate::eval::{self, EvalError, EvalOptions};
use crate::head::FitStep;
use crate::onnx::OnnxError;
use crate::publish::{PublishError, Staged};
use examples::Source;
use fit::Inputs;
use plan::material;
use write::Graph;

pub use first::FirstStageReport;
pub use report::{TrainReport, ValidReport};
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
    /// Weight of half the squared weights of the head's dense input.
    pub embedding_penalty: f32,
    /// Weight of half the squared lexical weights of the first stage; those of static vectors cost a hundred times that.
    /// It has nothing but words to go by, and may lean on them more than the head.
    pub first_stage_penalty: f32,
    /// Tokens and pairs that occur in fewer rows than this get no weight.
    pub min_rows: u32,
    /// Share of the target that goes to all categories evenly.
    pub label_smoothing: f32,
    /// What the head's scores are divided by; without it what suits the validation rows, and those that were left out
    /// with their sources, best.
    pub temperature: Option<f32>,
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
            lexical_penalty: 3e-5,
            embedding_penalty: 8e-4,
            first_stage_penalty: 3e-6,
            min_rows: 2,
            label_smoothing: 0.0,
            temperature: None,
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

impl Progress {
    fn fitting(what: &'static str, step: &FitStep) -> Self {
        let FitStep { iteration, objective, valid_loss } = *step;
        Self::Fitting { what, step: iteration, objective, valid_loss }
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
    let graph = Graph::open(&options.bundle)?;
    let tables = graph.tables()?;

    let encoder = Encoder::start(bundle, &options.encoder, &options.runtime)?;
    let mut source = Source::open(&encoder, options.cache.as_deref(), tables)?;
    let (train, valid, golden) = source.examples(&material, &base.golden.text, &mut progress)?;
    let vectors = if options.first_stage { Some(source.token_vectors(&mut progress)?) } else { None };
    encoder.shutdown();

    let inputs =
        Inputs { material: &material, train: &train, valid: &valid, vectors: vectors.as_deref(), tables };
    let fitted = fit::fit(options, &inputs, graph.storage(), &mut progress)?;

    progress(Progress::Checking);
    let mut manifest = write::bundle(options, &base, &material, &graph, &fitted, &golden, &staged)?;
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
        write::measured(options, &mut manifest, test);
        staged.write_manifest(&manifest)?;
    }
    staged.publish()?;
    Ok(TrainReport {
        bundle: options.out.clone(),
        categories: material.categories.clone(),
        rows: material.train.len(),
        left_out: material.left_out.values().sum(),
        steps: fitted.steps,
        temperature: fitted.temperature,
        valid: fitted.report,
        first_stage: fitted.first.map(|first| first.report),
        left_out_sources: fitted.left_out,
        test,
    })
}

fn check(options: &TrainOptions) -> Result<(), TrainError> {
    let penalty = |value: f32| value.is_finite() && value >= 0.0;
    let problem = if !penalty(options.lexical_penalty) {
        Some(("lexical_penalty", "must be a number that is not negative"))
    } else if !penalty(options.embedding_penalty) {
        Some(("embedding_penalty", "must be a number that is not negative"))
    } else if !penalty(options.first_stage_penalty) {
        Some(("first_stage_penalty", "must be a number that is not negative"))
    } else if options.temperature.is_some_and(|t| !(t.is_finite() && t > 0.0)) {
        Some(("temperature", "must be a number above 0"))
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

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| "bundle".to_owned(), |name| name.to_string_lossy().into_owned())
}
