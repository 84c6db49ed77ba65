//! Logs: constant messages, values in fields, to standard error. No prompt is ever logged. And traces, which
//! hold prompts and answers only where the operator turned that on.

pub mod content;
pub mod export;
mod otlp;
pub mod spans;
pub mod trace;

pub mod access;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::{LogFormat, TelemetryConfig};

/// Starts logging.
///
/// # Errors
/// When `telemetry.log` is not a list of directives.
pub(crate) fn start(config: &TelemetryConfig) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(&config.log)?;
    let colour = std::io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    // A second start, as tests make it, keeps the first.
    let _ = match config.format {
        LogFormat::Text => builder.compact().try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}
