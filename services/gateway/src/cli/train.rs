//! `guildhall train ...`: new parts of the router.

mod learnt;

use std::path::PathBuf;

use training::router::{LeaveOut, Progress, TrainError, TrainOptions, train};

use super::{Failure, clear_progress, ort_dylib_path, say, say_json, show_progress};
use crate::app::{find_bundle, load_runtime};

/// `guildhall train ...`
#[derive(Debug, clap::Subcommand)]
pub(super) enum Train {
    /// Train the category head on labelled prompts and write a new bundle.
    ///
    /// The encoder of an existing bundle is kept; its head is fitted anew and fused into the graph, for the
    /// categories that the prompts have.
    Router(Box<Args>),
    /// Count how good each expert is in each of the router's categories, from a routing set or from feedback.
    ///
    /// With a hosting budget, a cap or a price, choose whom to host by an exact mixed-integer programme.
    Mapping(Box<learnt::MappingArgs>),
    /// Fit to each expert a score that is read off a prompt's embedding, for policy `cost_quality`.
    Scorer(Box<learnt::ScorerArgs>),
    /// Learn for each expert a gate from that expert's own prompts alone, for policies `gates` and `glider`.
    Gate(Box<learnt::GateArgs>),
    /// Find the embeddings that stand for the prompts each expert is best at, for policy `router_retriever`.
    Pilots(Box<learnt::SetArgs>),
}

/// Arguments of `train router`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Prompts to train on: JSON lines with `text` and `category`, and `license` and `source` where known;
    /// plain or gzip.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Prompts for stopping and calibration; without them a tenth of the data is set aside.
    #[arg(long, value_name = "FILE")]
    valid: Option<PathBuf>,
    /// Prompts to measure the finished bundle on; the result goes into its manifest.
    #[arg(long, value_name = "FILE")]
    test: Option<PathBuf>,
    /// The bundle to start from: a name below `router-models`, or a path.
    #[arg(long, default_value = "default")]
    bundle: String,
    /// The new bundle's directory.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace a bundle that is there.
    #[arg(long)]
    replace: bool,
    /// The new bundle's name; without it the directory's.
    #[arg(long)]
    name: Option<String>,
    /// The new bundle's version.
    #[arg(long)]
    version: Option<String>,
    /// One line about the new bundle.
    #[arg(long)]
    description: Option<String>,
    /// A file with one permitted licence a line; rows under others are left out and counted.
    #[arg(long, value_name = "FILE")]
    licences: Option<PathBuf>,
    /// A file that keeps embeddings between runs.
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
    /// Weight of half the squared lexical weights.
    #[arg(long)]
    lexical_penalty: Option<f32>,
    /// Weight of half the squared embedding weights.
    #[arg(long)]
    embedding_penalty: Option<f32>,
    /// Weight of half the squared lexical weights of the first stage.
    #[arg(long)]
    first_stage_penalty: Option<f32>,
    /// Tokens and pairs in fewer rows than this get no weight.
    #[arg(long)]
    min_rows: Option<u32>,
    /// Share of the target that goes to all categories evenly.
    #[arg(long)]
    label_smoothing: Option<f32>,
    /// What the head's scores are divided by, instead of what suits the validation rows.
    #[arg(long, value_name = "X")]
    temperature: Option<f32>,
    /// Evens the (category, source) pairs out: a row weighs n^-x for n rows with its pair; 0 to 1.
    #[arg(long, value_name = "X")]
    source_balance: Option<f32>,
    /// Evens the categories out, likewise.
    #[arg(long, value_name = "X")]
    category_balance: Option<f32>,
    #[command(flatten)]
    sources: Sources,
    /// Steps after which a fit ends at the latest.
    #[arg(long)]
    max_steps: Option<usize>,
    /// Make no first stage.
    #[arg(long)]
    no_first_stage: bool,
    /// Accuracy on the validation prompts that the first stage may cost, as a share of them.
    #[arg(long, value_name = "SHARE")]
    first_stage_loss: Option<f64>,
    /// Share of the first stage's target that is what the full head thinks.
    #[arg(long, value_name = "SHARE")]
    distillation: Option<f32>,
    /// Rows of the test file that are perturbed to measure robustness.
    #[arg(long)]
    perturbed_rows: Option<usize>,
    /// Sessions that compute embeddings side by side.
    #[arg(long)]
    sessions: Option<usize>,
    /// The ONNX Runtime library; otherwise it is looked for.
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `train router` about sources that are left out.
#[derive(Debug, clap::Args)]
struct Sources {
    /// Also fit without each source in its turn and say how good the head is on it. Sources are left out in so many
    /// groups; without a number, one by one.
    #[arg(long, value_name = "GROUPS", num_args = 0..=1, default_missing_value = "0")]
    leave_one_source_out: Option<usize>,
    /// Choose the penalties by the mean accuracy on left-out sources, from a small grid around those given.
    #[arg(long, requires = "leave_one_source_out")]
    select: bool,
    /// A file that keeps the result of each fit without sources, so that an interrupted run goes on.
    #[arg(long, value_name = "FILE", requires = "leave_one_source_out")]
    checkpoint: Option<PathBuf>,
}

/// Overwrites a setting where the command line gives one.
fn set<T>(slot: &mut T, given: Option<T>) {
    if let Some(value) = given {
        *slot = value;
    }
}

/// Trains.
pub(super) fn run(command: Train) -> Result<(), Failure> {
    let args = match command {
        Train::Router(args) => args,
        Train::Mapping(args) => return learnt::mapping(&args),
        Train::Scorer(args) => return learnt::scorer(&args),
        Train::Gate(args) => return learnt::gate(&args),
        Train::Pilots(args) => return learnt::pilots(&args),
    };
    let runtime = load_runtime(args.onnxruntime.as_deref(), ort_dylib_path().as_deref())?;
    let mut options = TrainOptions::new(find_bundle(&args.bundle)?, args.data, args.out, runtime);
    options.valid = args.valid;
    options.test = args.test;
    options.replace = args.replace;
    options.name = args.name;
    options.description = args.description;
    options.licences = args.licences;
    options.cache = args.cache;
    set(&mut options.version, args.version);
    set(&mut options.lexical_penalty, args.lexical_penalty);
    set(&mut options.embedding_penalty, args.embedding_penalty);
    set(&mut options.first_stage_penalty, args.first_stage_penalty);
    options.temperature = args.temperature;
    set(&mut options.min_rows, args.min_rows);
    set(&mut options.label_smoothing, args.label_smoothing);
    set(&mut options.source_balance, args.source_balance);
    set(&mut options.category_balance, args.category_balance);
    set(&mut options.max_steps, args.max_steps);
    let Sources { leave_one_source_out, select, checkpoint } = args.sources;
    options.leave_out = leave_one_source_out.map(|groups| LeaveOut { groups, select, checkpoint });
    options.first_stage = !args.no_first_stage;
    set(&mut options.first_stage_loss, args.first_stage_loss);
    set(&mut options.distillation, args.distillation);
    set(&mut options.eval.perturbed_rows, args.perturbed_rows);
    set(&mut options.encoder.sessions, args.sessions);
    let trained = train(&options, |progress| match progress {
        Progress::Embedding { done, total } => show_progress(&format!("embedding {done} of {total}")),
        Progress::LeavingOut { done, total } => {
            show_progress(&format!("leaving sources out: fit {} of {total}", done + 1));
        }
        Progress::Fitting { what, step, objective, valid_loss } => {
            let valid = valid_loss.map(|v| format!(", validation loss {v:.4}")).unwrap_or_default();
            show_progress(&format!("fitting the {what}: step {step}, objective {objective:.4}{valid}"));
        }
        Progress::Checking => show_progress("checking the new bundle"),
        Progress::Measuring { done, total } => show_progress(&format!("measuring {done} of {total}")),
    });
    clear_progress();
    let report = trained.map_err(|error| match error {
        TrainError::Data(_)
        | TrainError::Rows { .. }
        | TrainError::Option { .. }
        | TrainError::File { .. } => Failure::Usage(error.to_string()),
        other => Failure::Other(other.into()),
    })?;
    if args.json { say_json(&report) } else { say(report) }
}
