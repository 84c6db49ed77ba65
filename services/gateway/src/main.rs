//! The binary `guildhall`.

use std::process::ExitCode;

fn main() -> ExitCode {
    gateway::cli::run()
}
