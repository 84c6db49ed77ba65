//! `mock-expert`: a deterministic upstream with scripted faults, OpenAI-compatible or speaking Messages.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use mock_expert::{Fault, Latency, Mock, Protocol, Settings, SleepMode, Step};
use tokio::signal::unix::{SignalKind, signal};

/// A deterministic upstream with scripted faults, OpenAI-compatible or speaking Anthropic's Messages.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Where to listen; port 0 takes a free one. The address is printed when the mock is ready.
    #[arg(long, default_value = "127.0.0.1:9100")]
    listen: SocketAddr,
    /// What to speak: `chat_completions` (with completions and embeddings) or `messages`.
    #[arg(long)]
    protocol: Option<Protocol>,
    /// A model to list; may be repeated. Other names are answered too, unless --strict is given.
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// A JSON file with the settings; the options here win over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Answer 404 to models that are not listed.
    #[arg(long)]
    strict: bool,
    /// Time to the head of an answer: 20ms, uniform:10ms,30ms or lognormal:20ms,0.5.
    #[arg(long)]
    latency: Option<Latency>,
    /// Time from the head of a stream to its first token.
    #[arg(long)]
    ttft: Option<Latency>,
    /// Time between two tokens of a stream.
    #[arg(long)]
    gap: Option<Latency>,
    /// The same as a rate.
    #[arg(long, value_name = "RATE", conflicts_with = "gap")]
    tokens_per_second: Option<f64>,
    /// Length of an answer in tokens.
    #[arg(long)]
    tokens: Option<usize>,
    /// Put the time into every streamed token.
    #[arg(long)]
    stamp: bool,
    /// Seed of every random choice.
    #[arg(long)]
    seed: Option<u64>,
    /// How many requests to keep for /__stats.
    #[arg(long)]
    record: Option<usize>,
    /// Be an engine that can be put to sleep, with vLLM's routes; the delay is what waking up takes.
    #[arg(long, value_name = "DELAY")]
    wakes_in: Option<Latency>,
    /// Sleep at the start.
    #[arg(long, requires = "wakes_in")]
    asleep: bool,
    /// A fault that strikes every request, such as status:503; may be repeated, the first wins.
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<Fault>,
    /// Threads that serve.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

impl Arguments {
    fn settings(&self) -> anyhow::Result<Settings> {
        let mut settings = match &self.config {
            None => Settings::default(),
            Some(path) => {
                let text =
                    std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
                serde_json::from_slice(&text)
                    .with_context(|| format!("{} is not a configuration", path.display()))?
            }
        };
        if !self.models.is_empty() {
            settings.models.clone_from(&self.models);
        }
        settings.protocol = self.protocol.unwrap_or(settings.protocol);
        settings.strict |= self.strict;
        settings.stamp |= self.stamp;
        settings.latency = self.latency.unwrap_or(settings.latency);
        settings.ttft = self.ttft.unwrap_or(settings.ttft);
        settings.gap =
            self.gap.or(self.tokens_per_second.map(Settings::gap_for_rate)).unwrap_or(settings.gap);
        settings.tokens = self.tokens.or(settings.tokens);
        settings.seed = self.seed.unwrap_or(settings.seed);
        settings.record = self.record.unwrap_or(settings.record);
        if let Some(wake) = self.wakes_in {
            settings.sleep_mode =
                Some(SleepMode { wake, asleep: self.asleep, ..settings.sleep_mode.unwrap_or_default() });
        }
        settings.script.extend(self.faults.iter().copied().map(Step::always));
        Ok(settings)
    }
}

async fn serve(listen: SocketAddr, settings: Settings) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("{listen} cannot be listened on; choose another with --listen"))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mock = Mock::serve(listener, settings)?;
    // Whoever started the mock reads this line to learn the port and that it is ready.
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on {}", mock.address())?;
    stdout.flush()?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    mock.stop().await;
    Ok(())
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let settings = arguments.settings()?;
    let mut builder = if arguments.threads > 1 {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    if arguments.threads > 1 {
        builder.worker_threads(arguments.threads);
    }
    builder.enable_all().build()?.block_on(serve(arguments.listen, settings))
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done when even this cannot be written.
            let _ = writeln!(std::io::stderr(), "mock-expert: {error:#}");
            ExitCode::FAILURE
        }
    }
}
