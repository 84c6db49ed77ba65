//! `gwload`: a load client for OpenAI-compatible endpoints, closed loop or open loop. Prints one JSON object.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Parser};
use loadtest::arrivals::{Arrivals, Schedule, Spacing};
use loadtest::drive::{Plan, Shared, closed, open, pace};
use loadtest::mix::{Entry, Item, Mix};
use loadtest::report::{Report, Window};
use loadtest::usage::{tree, usage};
use tokio::task::JoinSet;

/// A load client for OpenAI-compatible endpoints.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Where to connect.
    #[arg(long, default_value = "127.0.0.1:8080")]
    addr: String,
    #[command(flatten)]
    what: What,
    /// Closed loop: connections, each of which sends its next request when the last one is answered.
    #[arg(long, default_value_t = 1)]
    conc: usize,
    /// Open loop instead: requests a second, `200` or `200@10,2000@2,200@10`; latency counts from when each
    /// was due.
    #[arg(long)]
    rate: Option<Schedule>,
    /// How the arrivals of an open loop lie between each other.
    #[arg(long, value_enum, default_value_t)]
    arrivals: Spacing,
    /// Most requests of an open loop that may be open at a time; what is due then is counted and not sent.
    #[arg(long, default_value_t = 2000)]
    max_in_flight: usize,
    /// Length of the measured window in seconds, where the schedule does not say it.
    #[arg(long, default_value_t = 5.0)]
    secs: f64,
    /// Seconds before it.
    #[arg(long, default_value_t = 1.0)]
    warm_secs: f64,
    /// End after so many requests.
    #[arg(long)]
    requests: Option<u64>,
    /// Longest that an answer may take, in seconds.
    #[arg(long, default_value_t = 20.0)]
    timeout_secs: f64,
    /// Length of the slices of the window that are reported one by one, in seconds.
    #[arg(long, default_value_t = 1.0)]
    slice_secs: f64,
    /// Closed loop: spread the connections' first requests over so many milliseconds.
    #[arg(long, default_value_t = 0)]
    stagger_ms: u64,
    /// Processes whose CPU time and memory, descendants included, are read at both ends of the window.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// Threads of these processes whose name begins so are also counted apart.
    #[arg(long, default_value = "")]
    threads_named: String,
    /// Copied into the result.
    #[arg(long, default_value = "")]
    label: String,
}

/// What is sent.
#[derive(Debug, Args)]
struct What {
    /// The path to post to.
    #[arg(long, default_value = "/v1/chat/completions")]
    path: String,
    /// A file with the request body. `########` in it becomes a running number. With `"stream": true` in it,
    /// events count, and with `mock-expert --stamp` how long they were under way.
    #[arg(long, required_unless_present = "mix", conflicts_with = "mix")]
    body: Option<PathBuf>,
    /// A JSON list of bodies by weight: `name`, `file`, and where wanted `weight`, `path`, `headers`,
    /// `leave_after_ms`.
    #[arg(long)]
    mix: Option<PathBuf>,
    /// A file with one API key a line, of which each request carries one.
    #[arg(long)]
    keys: Option<PathBuf>,
    /// Another header, `name: value`; may be repeated.
    #[arg(long = "header")]
    headers: Vec<String>,
    /// Seed of every draw.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The number to begin with; runs that must not repeat each other's requests begin far apart.
    #[arg(long, default_value_t = 0)]
    first_number: u64,
}

impl What {
    fn mix(&self, host: &str) -> Result<Mix> {
        let (entries, folder) = match (&self.mix, &self.body) {
            (Some(file), _) => {
                let entries: Vec<Entry> = serde_json::from_str(&read(file)?)
                    .with_context(|| format!("{} is no list of requests", file.display()))?;
                anyhow::ensure!(!entries.is_empty(), "{} names no request", file.display());
                (entries, file.parent().unwrap_or(Path::new("")).to_owned())
            }
            (None, body) => {
                let file = body.clone().unwrap_or_default();
                let name = String::from("all");
                let entry =
                    Entry { name, file, weight: 1.0, path: None, headers: Vec::new(), leave_after_ms: None };
                (vec![entry], PathBuf::new())
            }
        };
        let items = entries
            .into_iter()
            .map(|entry| Item::new(entry, &folder, host, &self.path, &self.headers))
            .collect::<Result<_>>()?;
        let keys = match &self.keys {
            Some(file) => read(file)?.lines().map(str::to_owned).collect(),
            None => Vec::new(),
        };
        Ok(Mix { items, keys, seed: self.seed })
    }
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}

impl Arguments {
    fn plan(&self) -> Result<Plan> {
        let mix = self.what.mix(&self.addr)?;
        let start = Instant::now();
        let warm_end = start + Duration::from_secs_f64(self.warm_secs);
        let secs = self.rate.as_ref().map_or(self.secs, |rate| rate.secs(self.secs));
        Ok(Plan {
            address: self.addr.clone(),
            mix,
            start,
            warm_end,
            end: warm_end + Duration::from_secs_f64(secs),
            slice: Duration::from_secs_f64(self.slice_secs.max(0.001)),
            patience: Duration::from_secs_f64(self.timeout_secs),
            most: self.requests,
        })
    }
}

async fn measure(arguments: &Arguments) -> Result<Report> {
    let plan = arguments.plan()?;
    let (start, warm_end, end, patience) = (plan.start, plan.warm_end, plan.end, plan.patience);
    let names: Vec<String> = plan.mix.items.iter().map(|item| item.name.clone()).collect();
    let shared = Rc::new(Shared::new(plan, arguments.what.first_number));
    let mut workers = JoinSet::new();
    if let Some(rate) = &arguments.rate {
        let steps = rate.steps(arguments.warm_secs, arguments.secs);
        let arrivals = Arrivals::new(steps, arguments.arrivals, arguments.what.seed);
        let most = arguments.max_in_flight.max(1);
        workers.spawn_local(open(Rc::clone(&shared), pace(arrivals, start), most));
    } else {
        let stagger = Duration::from_millis(arguments.stagger_ms);
        let count = arguments.conc.max(1);
        for index in 0..count {
            workers.spawn_local(closed(Rc::clone(&shared), index, count, stagger));
        }
    }
    let pids = tree(&arguments.pids);
    let look = || (usage(&pids, &arguments.threads_named), usage(&[std::process::id()], ""));
    tokio::time::sleep_until(warm_end.into()).await;
    let (before, began) = (look(), Instant::now());
    // A run with a fixed number of requests may be over before its time.
    let finished = async { while workers.join_next().await.is_some() {} };
    let _ = tokio::time::timeout_at(end.into(), finished).await;
    let (after, wall_s) = (look(), began.elapsed().as_secs_f64());
    // A hung server must not hang the client.
    let deadline = Instant::now() + patience + Duration::from_secs(1);
    let finished = async { while workers.join_next().await.is_some() {} };
    let _ = tokio::time::timeout_at(deadline.into(), finished).await;
    let window = Window {
        wall_s,
        watched: (before.0, after.0),
        client: (before.1, after.1),
        hung: workers.len() as u64,
    };
    let report = Report::new(arguments.label.clone(), &names, &shared.findings.borrow(), window);
    Ok(report)
}

fn run() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = tokio::task::LocalSet::new().block_on(&runtime, measure(&arguments))?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done when even this cannot be written.
            let _ = writeln!(std::io::stderr(), "gwload: {error:#}");
            ExitCode::FAILURE
        }
    }
}
