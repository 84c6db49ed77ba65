//! `guildhall eval routing`: what routers are worth on recorded outcomes.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use training::eval::routing::{
    Report, RoutingEval, RoutingEvalError, RoutingOptions, RoutingProgress, evaluate_routing,
};
use training::outcomes::OutcomeSet;

use super::super::{Failure, clear_progress, ort_dylib_path, say, say_json, show_progress};
use crate::app::start_encoder;
use crate::config::RouterConfig;

/// Arguments of `eval routing`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// A routing set: a folder, or a name below the data's `routing` folder; may be given more than once. Without it
    /// every set of the data is measured.
    #[arg(long, value_name = "NAME|DIR")]
    set: Vec<String>,
    /// The evaluation data.
    #[arg(long, env = "GUILDHALL_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// The bundle: a name below `router-models`, or a path.
    #[arg(long, default_value = "default")]
    bundle: String,
    /// The ONNX Runtime library; otherwise it is looked for.
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// A file that keeps embeddings between runs: computing them is most of the time.
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
    /// Seed of folds, clusters and intervals.
    #[arg(long)]
    seed: Option<u64>,
    /// Write the tables to a file, in Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write a picture of score against cost to a file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Print one JSON object: the set's, or `sets` with one for each.
    #[arg(long)]
    json: bool,
}

/// Measures.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let Some(folders) = folders(args)? else {
        let note = "there is no routing data: give --data DIR, or set GUILDHALL_DATA; nothing was measured";
        return if args.json { say_json(&json!({"skipped": note})) } else { say(format!("skipped: {note}")) };
    };
    let sets: Result<Vec<OutcomeSet>, _> = folders.iter().map(|folder| OutcomeSet::read(folder)).collect();
    let sets = sets.map_err(|error| Failure::Usage(error.to_string()))?;
    let config = RouterConfig {
        bundle: args.bundle.clone(),
        onnxruntime: args.onnxruntime.clone(),
        ..RouterConfig::default()
    };
    let encoder = start_encoder(&config, ort_dylib_path().as_deref())?;
    let mut options = RoutingOptions { cache: args.cache.clone(), ..RoutingOptions::default() };
    options.seed = args.seed.unwrap_or(options.seed);

    let mut measured: Vec<RoutingEval> = Vec::new();
    let mut objects: Vec<Value> = Vec::new();
    for set in &sets {
        let result = evaluate_routing(&encoder, set, &options, |progress| match progress {
            RoutingProgress::Reading { done, total } => {
                show_progress(&format!("{}: {done} of {total} prompts read", set.name));
            }
            RoutingProgress::Fitting { done, total } => {
                show_progress(&format!("{}: {done} of {total} fits", set.name));
            }
        });
        clear_progress();
        match result {
            Ok(result) => {
                objects.push(serde_json::to_value(&result).map_err(anyhow::Error::from)?);
                measured.push(result);
            }
            // One of many is left out, and that is said; a set that was asked for is an error.
            Err(error @ RoutingEvalError::TooSmall { .. }) if args.set.is_empty() => {
                writeln!(io::stderr(), "skipped: {error}")?;
                objects.push(json!({"set": set.name, "skipped": error.to_string()}));
            }
            Err(error @ (RoutingEvalError::TooSmall { .. } | RoutingEvalError::Outcomes(_))) => {
                return Err(Failure::Usage(error.to_string()));
            }
            Err(other) => return Err(Failure::Other(other.into())),
        }
    }
    encoder.shutdown();
    let report = Report(&measured);
    for (file, content) in [(&args.markdown, report.markdown()), (&args.plot, report.svg())] {
        if let Some(file) = file {
            std::fs::write(file, content)
                .map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
        }
    }
    match (args.json, objects.len()) {
        (false, _) => say(report),
        (true, 1) => say_json(&objects[0]),
        (true, _) => say_json(&json!({"sets": objects})),
    }
}

/// The folders of the sets to measure; nothing where no data is given and no set names a folder.
fn folders(args: &Args) -> Result<Option<Vec<PathBuf>>, Failure> {
    // The data's root or the folder of routing sets itself.
    let home = args.data.as_deref().map(|data| {
        let below = data.join("routing");
        if below.is_dir() { below } else { data.to_owned() }
    });
    if !args.set.is_empty() {
        let found = |name: &String| {
            let folder = Path::new(name);
            match &home {
                _ if folder.is_dir() => Some(folder.to_owned()),
                Some(home) => Some(home.join(name)),
                None => None,
            }
        };
        return Ok(args.set.iter().map(found).collect());
    }
    let Some(home) = home.filter(|home| home.is_dir()) else { return Ok(None) };
    let unreadable = |error: io::Error| Failure::Usage(format!("{}: {error}", home.display()));
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(&home).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.join("models.json").is_file() {
            folders.push(path);
        }
    }
    folders.sort();
    if folders.is_empty() {
        let problem =
            "holds no routing set; a set is a folder with models.json and train, valid and test.jsonl.gz";
        return Err(Failure::Usage(format!("{}: {problem}", home.display())));
    }
    Ok(Some(folders))
}
