//! `guildhall sim ...`: decisions tried out on recorded requests.

mod placement;

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::json;
use tiers::sim::{Contestant, Cost, Outcome, Trace, csv, simulate, svg};

use super::{Failure, clear_progress, say, say_json, show_progress};

/// `guildhall sim ...`
#[derive(Debug, clap::Subcommand)]
pub(super) enum Sim {
    /// How often experts would be loaded and how long requests would wait for them, by policy. Everything is
    /// simulated: one executor, and one channel that carries one load at a time.
    Tiers(Args),
    /// Which experts to keep together on each of several nodes, learnt from the first half of recorded requests, and the
    /// loads of the second half beside those of other placements. Everything is simulated.
    Placement(placement::Args),
}

/// All policies.
const ALL: &str = "all";

/// Arguments of `sim tiers`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Recorded requests, plain or gzip: JSON lines with `expert` and perhaps `t_s` (seconds), or a CSV file of a
    /// layout that docs/tiers.md names.
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// How many experts fit on the accelerator.
    #[arg(long, value_name = "EXPERTS", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    hbm: u16,
    /// The policy, or `all`.
    #[arg(long, value_name = "POLICY", default_value = "guildhall", value_parser = policies())]
    policy: String,
    /// The offered load of the timed run: what one executor can do without loads and batches is 1.
    #[arg(long, value_name = "LOAD", default_value_t = 0.3, value_parser = positive)]
    load: f64,
    /// What answering one request takes, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 93.0, value_parser = positive)]
    request_ms: f64,
    /// An expert's weights, in gigabytes.
    #[arg(long, value_name = "GB", default_value_t = 13.5, value_parser = positive)]
    expert_gb: f64,
    /// What the channel to the accelerator carries, in gigabytes a second.
    #[arg(long, value_name = "GB/S", default_value_t = 50.0, value_parser = positive)]
    gb_per_second: f64,
    /// A file for the results as CSV.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// A file for the results as a picture.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Print one JSON object: the policy's, or `policies` with one for each.
    #[arg(long)]
    json: bool,
}

fn policies() -> clap::builder::PossibleValuesParser {
    Contestant::ALL.map(Contestant::name).into_iter().chain([ALL]).collect::<Vec<_>>().into()
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && number < 1e9 => Ok(number),
        _ => Err("must be a number above 0".to_owned()),
    }
}

/// Simulates.
pub(super) fn run(command: &Sim) -> Result<(), Failure> {
    match command {
        Sim::Tiers(args) => run_tiers(args),
        Sim::Placement(args) => placement::run(args),
    }
}

fn run_tiers(args: &Args) -> Result<(), Failure> {
    let trace = Trace::read(&args.trace).map_err(|error| Failure::Usage(error.to_string()))?;
    let cost = Cost {
        expert_bytes: (args.expert_gb * 1e9).max(1.0) as u64,
        load_s: args.expert_gb / args.gb_per_second,
        ..Cost::of_request(args.request_ms / 1000.0)
    };
    let mut outcomes = Vec::new();
    for contestant in Contestant::ALL {
        if args.policy == ALL || args.policy == contestant.name() {
            show_progress(&format!("{}: {contestant}", trace.name));
            let outcome = simulate(&trace, contestant, usize::from(args.hbm), &cost, args.load);
            clear_progress();
            outcomes.push(outcome.map_err(anyhow::Error::from)?);
        }
    }
    for (file, content) in [(&args.csv, csv(&outcomes)), (&args.plot, svg(&outcomes))] {
        if let Some(file) = file {
            std::fs::write(file, content)
                .map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
        }
    }
    match outcomes.as_slice() {
        [outcome] if args.json => say_json(outcome),
        _ if args.json => say_json(&json!({"policies": outcomes})),
        _ => say(table(&trace, args, &outcomes)),
    }
}

fn table(trace: &Trace, args: &Args, outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "{}: {} requests for {} experts, {} of which fit; simulated, timed at load {}\n\n{:18} {:>10} {:>6} {:>9} {:>9} {:>9}",
        trace.name,
        trace.experts.len(),
        trace.expert_count,
        args.hbm,
        args.load,
        "policy",
        "loads/1000",
        "hit %",
        "stall ms",
        "p99 s",
        "capacity"
    );
    for o in outcomes {
        let _infallible = write!(
            text,
            "\n{:18} {:>10.1} {:>6.1} {:>9.1} {:>9.2} {:>9.2}",
            o.policy,
            o.loads_per_1000,
            100.0 * o.hit_rate,
            o.stall_ms_per_request,
            o.p99_wait_s,
            o.capacity
        );
    }
    text
}
