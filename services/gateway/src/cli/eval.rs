//! `guildhall eval ...`: how good the router is, measured.

mod routing;

use std::path::PathBuf;

use training::eval::{EvalOptions, evaluate_router};

use super::{Failure, clear_progress, ort_dylib_path, say, say_json, show_progress};
use crate::app::start_encoder;
use crate::config::RouterConfig;

/// `guildhall eval ...`
#[derive(Debug, clap::Subcommand)]
pub(super) enum Eval {
    /// Accuracy, calibration and robustness of a router bundle on labelled prompts.
    Router(Args),
    /// What routers are worth on recorded outcomes: score, threshold curves and cost, beside the best single model,
    /// chance and the oracle.
    Routing(routing::Args),
}

/// Arguments of `eval router`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// JSON lines with `text` and `category`, plain or gzip.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The bundle: a name below `router-models`, or a path.
    #[arg(long, default_value = "default")]
    bundle: String,
    /// The ONNX Runtime library; otherwise it is looked for.
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// Rows that are perturbed to measure robustness; 0 leaves that out, and nothing else takes long.
    #[arg(long, value_name = "ROWS")]
    perturbed_rows: Option<usize>,
    /// Prompts that are decided one after the other to measure what a decision costs; 0 leaves that out.
    #[arg(long, value_name = "ROWS")]
    timed_rows: Option<usize>,
    /// A file for the whole report as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Seed of the perturbations and of their sample.
    #[arg(long)]
    seed: Option<u64>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Measures.
pub(super) fn run(command: &Eval) -> Result<(), Failure> {
    let args = match command {
        Eval::Router(args) => args,
        Eval::Routing(args) => return routing::run(args),
    };
    let config = RouterConfig {
        bundle: args.bundle.clone(),
        onnxruntime: args.onnxruntime.clone(),
        ..RouterConfig::default()
    };
    let encoder = start_encoder(&config, ort_dylib_path().as_deref())?;
    let mut options = EvalOptions::default();
    options.seed = args.seed.unwrap_or(options.seed);
    options.perturbed_rows = args.perturbed_rows.unwrap_or(options.perturbed_rows);
    options.timed_rows = args.timed_rows.unwrap_or(options.timed_rows);
    let measured = evaluate_router(&encoder, &args.data, &options, |done, all| {
        show_progress(&format!("{done} of {all} prompts read"));
    });
    clear_progress();
    let measured = measured.map_err(|e| Failure::Usage(e.to_string()))?;
    encoder.shutdown();
    if let Some(path) = &args.markdown {
        std::fs::write(path, measured.markdown())
            .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    }
    if args.json { say_json(&measured) } else { say(measured) }
}
