//! The command line. Exit codes: 0 fine, 2 bad usage or configuration, 1 anything else.

mod adapter;
mod admin_client;
mod check_config;
mod doctor;
mod documents;
mod eval;
mod init;
mod link;
mod route;
mod serve;
mod sim;
mod train;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError, Loaded};

/// One chat endpoint in front of a guild of expert models.
#[derive(Debug, Parser)]
#[command(name = "guildhall", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve(serve::Args),
    /// Write a configuration for the model servers and keys found on this machine.
    Init(init::Args),
    /// Check a configuration file and say what is wrong with it.
    CheckConfig(check_config::Args),
    /// Look at everything that a gateway needs and say what is wrong and how to mend it.
    Doctor(doctor::Args),
    /// Print the JSON schema of the configuration file.
    Schema,
    /// Print the `OpenAPI` document of the admin API.
    Openapi,
    /// Show which expert a prompt would be sent to, and why; nothing is called.
    Route(route::Args),
    /// List, register and change the experts of a running gateway.
    Experts(Box<admin_client::experts::Args>),
    /// Make, list, change, rotate and revoke the API keys of a running gateway.
    Keys(Box<admin_client::keys::Args>),
    /// List and change the teams of a running gateway.
    Teams(Box<admin_client::teams::Args>),
    /// List, upload, compare, switch and remove the router models of a running gateway.
    Bundles(Box<admin_client::bundles::Args>),
    /// List, add and remove the past prompts that policy `knn` of a running gateway looks at.
    Memory(Box<admin_client::memory::Args>),
    /// Show and move the weights of experts that share an accelerator, of a running gateway.
    Tiers(Box<admin_client::tiers::Args>),
    /// Make LoRA adapters smaller, with loss, and turn them back.
    #[command(subcommand)]
    Adapter(adapter::Adapter),
    /// Train parts of the router.
    #[command(subcommand)]
    Train(train::Train),
    /// Measure parts of the router.
    #[command(subcommand)]
    Eval(eval::Eval),
    /// Try decisions out on recorded requests, on a virtual clock.
    #[command(subcommand)]
    Sim(sim::Sim),
}

/// Where the configuration comes from, for every command that needs one.
#[derive(Debug, clap::Args)]
struct ConfigArgs {
    /// The configuration file. Without it the built-in demo configuration is used.
    #[arg(long, short, env = "GUILDHALL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The ONNX Runtime library; otherwise it is looked for.
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
}

/// Why a command failed, and so the exit code.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The operator can mend it: bad usage or configuration.
    #[error("{0}")]
    Usage(String),
    /// Anything else.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
    /// Everything has been said already; only the exit code is left.
    #[error("exit code {0}")]
    Told(u8),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Other(error.into())
    }
}

impl From<crate::app::StartError> for Failure {
    fn from(error: crate::app::StartError) -> Self {
        use crate::app::StartError;
        match error {
            StartError::Config(_) | StartError::Router(_) | StartError::Upstream(_) | StartError::Tls(_) => {
                Self::Usage(error.to_string())
            }
            StartError::Store(_) | StartError::Other(_) => Self::Other(error.into()),
        }
    }
}

/// Parses the arguments and runs the command.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Init(args) => init::run(&args),
        Command::CheckConfig(args) => check_config::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Schema => documents::schema(),
        Command::Openapi => documents::openapi(),
        Command::Route(args) => route::run(&args),
        Command::Experts(args) => admin_client::experts::run(&args),
        Command::Keys(args) => admin_client::keys::run(&args),
        Command::Teams(args) => admin_client::teams::run(&args),
        Command::Bundles(args) => admin_client::bundles::run(&args),
        Command::Memory(args) => admin_client::memory::run(&args),
        Command::Tiers(args) => admin_client::tiers::run(&args),
        Command::Adapter(command) => adapter::run(&command),
        Command::Train(command) => train::run(command),
        Command::Eval(command) => eval::run(&command),
        Command::Sim(command) => sim::run(&command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Told(code)) => ExitCode::from(code),
        Err(failure) => {
            let _ = writeln!(io::stderr(), "guildhall: {failure}");
            ExitCode::from(match failure {
                Failure::Usage(_) => 2,
                Failure::Other(_) | Failure::Told(_) => 1,
            })
        }
    }
}

impl ConfigArgs {
    /// Reads the configuration; a library named on the command line goes before the file's.
    fn load(&self) -> Result<Config, Failure> {
        let loaded = self.read().map_err(|e| match &self.config {
            Some(path) => Failure::Usage(format!("{}:\n{e}", path.display())),
            None => Failure::from(e),
        });
        let mut config = loaded?.config;
        self.override_library(&mut config);
        Ok(config)
    }

    /// Reads the configuration as the file has it.
    fn read(&self) -> Result<Loaded, ConfigError> {
        match &self.config {
            Some(path) => crate::config::load(path, &|name| std::env::var(name).ok()),
            None => Ok(Loaded { config: Config::demo(), files: Vec::new() }),
        }
    }

    fn override_library(&self, config: &mut Config) {
        if self.onnxruntime.is_some() {
            config.router.onnxruntime.clone_from(&self.onnxruntime);
        }
    }
}

/// Writes a line to standard output.
fn say(text: impl std::fmt::Display) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{text}") {
        // A reader that has seen enough, such as `head`, is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Writes a value as JSON to standard output.
fn say_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    say(serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?)
}

/// Shows how far long work is on one line of standard error, when a person watches.
fn show_progress(text: &str) {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[2K{text}");
    }
}

/// Removes the progress line.
fn clear_progress() {
    show_progress("");
}

fn ort_dylib_path() -> Option<PathBuf> {
    std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()).map(Into::into)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_sound() {
        super::Cli::command().debug_assert();
    }
}
