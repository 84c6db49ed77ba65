//! `gwload`: a closed-loop or fixed-rate load client for OpenAI-compatible endpoints. Prints one JSON object.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use loadtest::report::{Report, Window};
use loadtest::usage::usage;
use loadtest::worker::{Findings, PLACEHOLDER, Plan, Shared, work};

/// A hung server must not hang the client.
const PATIENCE: Duration = Duration::from_secs(20);

/// A load client for OpenAI-compatible endpoints.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Where to connect.
    #[arg(long, default_value = "127.0.0.1:8080")]
    addr: String,
    /// The path to post to.
    #[arg(long, default_value = "/v1/chat/completions")]
    path: String,
    /// A file with the request body. `########` in it becomes a running number.
    #[arg(long)]
    body: PathBuf,
    /// The number to begin with; runs that must not repeat each other's requests begin far apart.
    #[arg(long, default_value_t = 0)]
    first_number: u64,
    /// Another header, `name: value`; may be repeated.
    #[arg(long = "header")]
    headers: Vec<String>,
    /// Connections.
    #[arg(long, default_value_t = 1)]
    conc: usize,
    /// Length of the measured window in seconds.
    #[arg(long, default_value_t = 5.0)]
    secs: f64,
    /// Seconds before it.
    #[arg(long, default_value_t = 1.0)]
    warm_secs: f64,
    /// Requests a second of all connections together, latency counted from when each was due.
    #[arg(long)]
    rate: Option<f64>,
    /// Answers are streams: count events and, with `mock-expert --stamp`, how long they were under way.
    #[arg(long)]
    stream: bool,
    /// Spread the connections' first requests over so many milliseconds.
    #[arg(long, default_value_t = 0)]
    stagger_ms: u64,
    /// Processes whose CPU time and memory are read at both ends of the window.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// Threads of these processes whose name begins so are also counted apart.
    #[arg(long, default_value = "")]
    threads_named: String,
    /// Copied into the result.
    #[arg(long, default_value = "")]
    label: String,
}

impl Arguments {
    fn request(&self) -> Result<Vec<u8>> {
        let body =
            std::fs::read(&self.body).with_context(|| format!("{} cannot be read", self.body.display()))?;
        let mut request = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
            self.path,
            self.addr,
            body.len()
        );
        for header in &self.headers {
            request.push_str(header);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        Ok([request.into_bytes(), body].concat())
    }

    fn plan(&self, start: Instant) -> Result<Plan> {
        let request = self.request()?;
        let warm_end = start + Duration::from_secs_f64(self.warm_secs);
        Ok(Plan {
            address: self.addr.clone(),
            placeholder: request.windows(PLACEHOLDER.len()).position(|window| window == PLACEHOLDER),
            request,
            stream: self.stream,
            warm_end,
            end: warm_end + Duration::from_secs_f64(self.secs),
            rate: self.rate.filter(|rate| *rate > 0.0),
            connections: self.conc.max(1),
            stagger: Duration::from_millis(self.stagger_ms),
        })
    }
}

async fn measure(arguments: &Arguments) -> Result<Report> {
    let start = Instant::now();
    let plan = arguments.plan(start)?;
    let (warm_end, end, connections) = (plan.warm_end, plan.end, plan.connections);
    let number = Cell::new(arguments.first_number);
    let shared = Rc::new(Shared { plan, findings: RefCell::default(), number });
    let workers: Vec<_> = (0..connections)
        .map(|index| tokio::task::spawn_local(work(Rc::clone(&shared), index, start)))
        .collect();
    let look = || (usage(&arguments.pids, &arguments.threads_named), usage(&[std::process::id()], ""));
    tokio::time::sleep_until(warm_end.into()).await;
    let (before, began) = (look(), Instant::now());
    tokio::time::sleep_until(end.into()).await;
    let (after, wall_s) = (look(), began.elapsed().as_secs_f64());
    let mut hung = 0;
    for worker in workers {
        hung += u64::from(tokio::time::timeout(PATIENCE, worker).await.is_err());
    }
    let findings: Findings = shared.findings.take();
    let window = Window { wall_s, watched: (before.0, after.0), client: (before.1, after.1), hung };
    Ok(Report::new(arguments.label.clone(), findings, window))
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
