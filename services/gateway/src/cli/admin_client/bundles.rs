//! `guildhall bundles ...`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::command::{self, Mode, Said, Version};
use super::{AdminClient, Ask, ServerArgs, show};
use crate::admin::segment;
use crate::cli::Failure;

/// Arguments of `bundles`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    command: Command,
}

/// What to do with the router models of a running gateway.
#[derive(Debug, Subcommand)]
enum Command {
    /// List the bundles: those that were uploaded, and those beside the configured one.
    List,
    /// Show a bundle.
    Get {
        /// The bundle's id, NAME@VERSION.
        id: String,
    },
    /// Upload a bundle; it is checked whole and decides nothing yet.
    Upload {
        /// The bundle's directory, or a tar archive of it, plain or gzipped.
        path: PathBuf,
        #[command(flatten)]
        mode: Mode,
    },
    /// Check a bundle whole by starting it once.
    Validate {
        /// The bundle's id, NAME@VERSION.
        id: String,
    },
    /// Let a bundle read prompts beside the one that decides, and compare them.
    Shadow {
        /// The bundle's id, NAME@VERSION.
        id: String,
        /// The share of the prompts, above 0 and at most 1.
        #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
        sample: f64,
        /// End it.
        #[arg(long, conflicts_with = "sample")]
        end: bool,
        #[command(flatten)]
        mode: Mode,
    },
    /// Show how a bundle agrees with the one that decides.
    Compare {
        /// The bundle's id, NAME@VERSION.
        id: String,
    },
    /// Let a bundle decide from now on.
    Activate {
        /// The bundle's id, NAME@VERSION.
        id: String,
        #[command(flatten)]
        mode: Mode,
    },
    /// Let the bundle decide again that did before.
    Rollback {
        #[command(flatten)]
        mode: Mode,
    },
    /// Remove an uploaded bundle.
    Remove {
        /// The bundle's id, NAME@VERSION.
        id: String,
        #[command(flatten)]
        version: Version,
        #[command(flatten)]
        mode: Mode,
    },
}

/// Runs `bundles`.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    command::run(&args.server, async |client| execute(client, &args.command).await)
}

async fn execute(client: &AdminClient, command: &Command) -> Result<Said, Failure> {
    match command {
        Command::List => {
            let bundles = client.list("bundles").await?;
            Ok(Said { text: show::bundles(&bundles), json: json!({ "bundles": bundles }) })
        }
        Command::Get { id } => shown(client.send(Ask::new(Method::GET, place(id))).await?),
        Command::Upload { path, mode } => {
            let ask = Ask::new(Method::POST, format!("/bundles{}", mode.query()));
            let bundle = client.send(ask.with_archive(packed(path)?)).await?;
            let id = bundle["id"].as_str().unwrap_or_default().to_owned();
            Ok(Said { text: format!("{id} {}", mode.said("uploaded")), json: bundle })
        }
        Command::Validate { id } => {
            let ask = Ask::new(Method::POST, format!("{}/validate", place(id)));
            let checked = client.send(ask.patiently()).await?;
            let (provider, ms) = (&checked["execution_provider"], &checked["start_ms"]);
            let provider = provider.as_str().unwrap_or_default();
            Ok(Said { text: format!("{id} can be used: ready in {ms} ms on {provider}"), json: checked })
        }
        Command::Shadow { id, end: true, mode, .. } => {
            let ask = Ask::new(Method::DELETE, format!("{}/shadow{}", place(id), mode.query()));
            let bundle = client.send(ask).await?;
            Ok(Said { text: format!("{id} as a shadow {}", mode.said("ended")), json: bundle })
        }
        Command::Shadow { id, sample, mode, .. } => {
            let ask = Ask::new(Method::POST, format!("{}/shadow{}", place(id), mode.query()));
            let bundle = client.send(ask.with_body(&json!({ "sample": sample })).patiently()).await?;
            let text = format!(
                "{id} {}: `guildhall bundles compare {id}` shows how it agrees",
                mode.said("started as a shadow")
            );
            Ok(Said { text, json: bundle })
        }
        Command::Compare { id } => {
            shown(client.send(Ask::new(Method::GET, format!("{}/comparison", place(id)))).await?)
        }
        Command::Activate { id, mode } => {
            let ask = Ask::new(Method::POST, format!("{}/activate{}", place(id), mode.query()));
            let bundle = client.send(ask.patiently()).await?;
            Ok(Said { text: format!("{id} {}", mode.said("activated")), json: bundle })
        }
        Command::Rollback { mode } => {
            let ask = Ask::new(Method::POST, format!("/bundles/rollback{}", mode.query()));
            let bundle = client.send(ask.patiently()).await?;
            let id = bundle["id"].as_str().unwrap_or_default().to_owned();
            Ok(Said { text: format!("{id} {}", mode.said("activated")), json: bundle })
        }
        Command::Remove { id, version, mode } => {
            command::remove(client, place(id), id, version, mode, "removed").await
        }
    }
}

fn shown(object: Value) -> Result<Said, Failure> {
    Ok(Said { text: show::yaml(&object)?, json: object })
}

fn place(id: &str) -> String {
    format!("/bundles/{}", segment(id))
}

/// A directory as a tar archive of its files, or a file as it is.
fn packed(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |e: std::io::Error| Failure::Usage(format!("cannot read {}: {e}", path.display()));
    if !path.is_dir() {
        return std::fs::read(path).map_err(failed);
    }
    let mut archive = tar::Builder::new(Vec::new());
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.path().is_file() {
            archive.append_path_with_name(entry.path(), entry.file_name()).map_err(failed)?;
        }
    }
    Ok(archive.into_inner().context("the archive cannot be made")?)
}
