//! `guildhall train mapping|scorer|pilots|gate`: what outcomes and prompts tell of experts, as JSON for the admin API.

use std::path::{Path, PathBuf};

use encoder::Encoder;
use serde::Serialize;
use serde_json::json;
use training::gates::gates_of_prompts;
use training::learn::{
    LearnError, LearnOptions, Learnt, LearntMapping, MappingOptions, ScorerTarget, mapping_of_feedback,
    mapping_of_set, pilots_of_set, scorers_of_set,
};
use training::mapping::programme::ProgrammeError;
use training::outcomes::OutcomeSet;

use super::super::{Failure, clear_progress, ort_dylib_path, say, say_json, show_progress};
use crate::app::start_encoder;
use crate::config::RouterConfig;

/// What is learnt from, and where the result goes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct SetArgs {
    /// The routing set: a folder, or a name below the data's `routing` folder.
    #[arg(long, value_name = "NAME|DIR")]
    set: Option<String>,
    /// The evaluation data, where the set is a name.
    #[arg(long, env = "GUILDHALL_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Seed of the cross-validation.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    work: Work,
}

/// Who reads prompts, and where the result goes.
#[derive(Debug, clap::Args)]
struct Work {
    /// The bundle that reads the prompts: a name below `router-models`, or a path.
    #[arg(long, default_value = "default")]
    bundle: String,
    /// The ONNX Runtime library; otherwise it is looked for.
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// A file that keeps what the encoder computes between runs: that is most of the time.
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
    /// The file to write: `experts`, with the body that the admin API takes for each.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `train gate`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct GateArgs {
    /// Prompts of experts: JSON lines with `text`, and `expert` or `category`; plain or gzip.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The expert whose prompts all of them are; lines then need not name one.
    #[arg(long, value_name = "ID")]
    expert: Option<String>,
    #[command(flatten)]
    work: Work,
}

/// Arguments of `train mapping`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct MappingArgs {
    #[command(flatten)]
    set: SetArgs,
    /// Learn from feedback, as the admin API exports it, instead of a routing set: JSON lines with `probabilities`,
    /// `expert` and `score`.
    #[arg(long, value_name = "FILE", conflicts_with = "set")]
    from_feedback: Option<PathBuf>,
    /// Prompts' worth of weight that an expert's mean has in each category.
    #[arg(long, default_value_t = MappingOptions::default().pseudo_counts)]
    pseudo_counts: f64,
    /// Count a prompt for its most probable category alone.
    #[arg(long)]
    hard: bool,
    /// The most that the hosted experts may have together, in billions of parameters.
    #[arg(long, value_name = "B")]
    hosting_budget: Option<f64>,
    /// The most that a call may use on the mean, in billions of active parameters.
    #[arg(long, value_name = "B")]
    mean_cost_cap: Option<f64>,
    /// Score points given up for the active parameters of the largest expert.
    #[arg(long, default_value_t = 0.0)]
    price: f64,
}

/// `train mapping`.
pub(super) fn mapping(args: &MappingArgs) -> Result<(), Failure> {
    let set = &args.set;
    if !(args.pseudo_counts.is_finite() && args.pseudo_counts >= 0.0) {
        let problem =
            format!("--pseudo-counts must be a number that is not negative, not {}", args.pseudo_counts);
        return Err(Failure::Usage(problem));
    }
    let options = MappingOptions {
        pseudo_counts: args.pseudo_counts,
        hard: args.hard,
        hosting_budget: args.hosting_budget,
        mean_cost_cap: args.mean_cost_cap,
        price: args.price,
    };
    let learnt = match &args.from_feedback {
        Some(file) => mapping_of_feedback(file, &options).map_err(failure)?,
        None => with_set(set, |encoder, outcomes, learn| {
            mapping_of_set(encoder, outcomes, &options, learn, reading)
        })?,
    };
    write(&set.work.out, &learnt)?;
    let LearntMapping { experts, outcomes, assignment, robust } = &learnt;
    if set.work.json {
        let report = json!({
            "out": set.work.out, "experts": experts.keys().collect::<Vec<_>>(), "outcomes": outcomes,
            "assignment": assignment, "robust": robust,
        });
        return say_json(&report);
    }
    say(format!("{} experts from {outcomes} outcomes in {}", experts.len(), set.work.out.display()))?;
    if let Some(assigned) = assignment {
        for (category, expert) in &assigned.categories {
            say(format!("  {category:<28} {expert}"))?;
        }
        say(format!(
            "mean score {:.4} with {:.1} B active parameters a call and {:.1} B hosted",
            assigned.score, assigned.mean_active_b, assigned.hosted_b
        ))?;
    }
    if let Some(robust) = robust {
        if robust.threshold >= 1.0 {
            say(format!("no robust expert: {} would gain nothing on the validation rows", robust.expert))?;
        } else {
            say(format!(
                "robust expert {} above a doubt of {:.3}: {:.4} on the validation rows, {:.4} without",
                robust.expert, robust.threshold, robust.score, robust.score_without
            ))?;
        }
    }
    say("put it in place by PUT /admin/v1/mapping")
}

/// Arguments of `train scorer`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ScorerArgs {
    #[command(flatten)]
    set: SetArgs,
    /// Learn what `train mapping` with these pseudo-counts leaves over: the scorer is then added to that mapping.
    #[arg(long, value_name = "PSEUDO_COUNTS", num_args = 0..=1, default_missing_value = "10")]
    over_mapping: Option<f64>,
}

/// `train scorer`.
pub(super) fn scorer(args: &ScorerArgs) -> Result<(), Failure> {
    let target = match args.over_mapping {
        None => ScorerTarget::Score,
        Some(pseudo_counts) if pseudo_counts.is_finite() && pseudo_counts >= 0.0 => {
            ScorerTarget::OverMapping { pseudo_counts }
        }
        Some(other) => {
            let problem = format!("--over-mapping must be a number that is not negative, not {other}");
            return Err(Failure::Usage(problem));
        }
    };
    let learnt =
        with_set(&args.set, |encoder, set, learn| scorers_of_set(encoder, set, target, learn, reading))?;
    told(&args.set.work, &learnt, "scorers")
}

/// `train gate`.
pub(super) fn gate(args: &GateArgs) -> Result<(), Failure> {
    let learnt = with_encoder(&args.work, |encoder| {
        let options = LearnOptions { cache: args.work.cache.clone(), seed: 0 };
        gates_of_prompts(encoder, &args.data, args.expert.as_deref(), &options, reading)
    })?;
    told(&args.work, &learnt, "gates")
}

/// `train pilots`.
pub(super) fn pilots(args: &SetArgs) -> Result<(), Failure> {
    let learnt = with_set(args, |encoder, set, learn| pilots_of_set(encoder, set, learn, reading))?;
    told(&args.work, &learnt, "pilots")
}

/// Writes what was learnt of experts one by one, and says so.
fn told<T: Serialize>(args: &Work, learnt: &Learnt<T>, path: &str) -> Result<(), Failure> {
    write(&args.out, learnt)?;
    let Learnt { experts, settings, prompts } = learnt;
    if args.json {
        let names: Vec<&String> = experts.keys().collect();
        return say_json(
            &json!({"out": args.out, "experts": names, "settings": settings, "prompts": prompts}),
        );
    }
    say(format!("{} experts from {prompts} prompts, {settings}, in {}", experts.len(), args.out.display()))?;
    say(format!("put each in place by PUT /admin/v1/{path}/EXPERT"))
}

fn with_set<T>(
    args: &SetArgs,
    learn: impl FnOnce(&Encoder, &OutcomeSet, &LearnOptions) -> Result<T, LearnError>,
) -> Result<T, Failure> {
    let Some(name) = &args.set else {
        return Err(Failure::Usage("there is nothing to learn from: give --set NAME or DIR".to_owned()));
    };
    let folder = match &args.data {
        _ if Path::new(name).is_dir() => PathBuf::from(name),
        Some(data) => data.join("routing").join(name),
        None => PathBuf::from(name),
    };
    let set = OutcomeSet::read(&folder).map_err(|error| Failure::Usage(error.to_string()))?;
    let options = LearnOptions { cache: args.work.cache.clone(), seed: args.seed };
    with_encoder(&args.work, |encoder| learn(encoder, &set, &options))
}

fn with_encoder<T>(work: &Work, learn: impl FnOnce(&Encoder) -> Result<T, LearnError>) -> Result<T, Failure> {
    let config = RouterConfig {
        bundle: work.bundle.clone(),
        onnxruntime: work.onnxruntime.clone(),
        ..RouterConfig::default()
    };
    let encoder = start_encoder(&config, ort_dylib_path().as_deref())?;
    let learnt = learn(&encoder);
    clear_progress();
    encoder.shutdown();
    learnt.map_err(failure)
}

fn reading(done: usize, total: usize) {
    show_progress(&format!("{done} of {total} prompts read"));
}

fn failure(error: LearnError) -> Failure {
    match error {
        LearnError::Data(_) | LearnError::Unfit { .. } => Failure::Usage(error.to_string()),
        LearnError::Programme(ProgrammeError::Infeasible | ProgrammeError::Shape(_)) => {
            Failure::Usage(error.to_string())
        }
        other => Failure::Other(other.into()),
    }
}

fn write(file: &Path, learnt: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(learnt).map_err(anyhow::Error::from)?;
    std::fs::write(file, text + "\n").map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))
}
