//! `guildhall experts ...`.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::command::{self, Mode, Said, Version};
use super::show;
use super::spec::{FileArg, Settings};
use super::{AdminClient, Ask, ServerArgs};
use crate::admin::segment;
use crate::cli::Failure;

/// Arguments of `experts`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    command: Command,
}

/// What to do with the experts of a running gateway.
#[derive(Debug, Subcommand)]
enum Command {
    /// List the experts.
    List,
    /// Show an expert.
    Get {
        /// The expert's id.
        id: String,
    },
    /// Register an expert, or all of a file; each takes requests at once.
    Add {
        #[command(flatten)]
        file: FileArg,
        #[command(flatten)]
        settings: Settings,
        /// The new expert's id, where there is no file.
        #[arg(long, required_unless_present = "file", conflicts_with = "file")]
        id: Option<String>,
        #[command(flatten)]
        mode: Mode,
    },
    /// Change an expert: what is given by flags, or all of it by a file.
    Update {
        /// The expert's id.
        id: String,
        #[command(flatten)]
        file: FileArg,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        version: Version,
        #[command(flatten)]
        mode: Mode,
    },
    /// Let an expert finish what it has and take nothing new.
    Drain {
        /// The expert's id.
        id: String,
        #[command(flatten)]
        version: Version,
    },
    /// Let a drained expert take requests again.
    Undrain {
        /// The expert's id.
        id: String,
        #[command(flatten)]
        version: Version,
    },
    /// Ask an expert for one token, to see whether it answers.
    Probe {
        /// The expert's id.
        id: String,
    },
    /// Remove an expert. Requests that it is answering go on.
    Remove {
        /// The expert's id.
        id: String,
        #[command(flatten)]
        version: Version,
        #[command(flatten)]
        mode: Mode,
    },
}

/// Runs the command against a running gateway.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let env = |name: &str| std::env::var(name).ok();
    command::run(&args.server, async |client| execute(client, &args.command, &env).await)
}

async fn execute(
    client: &AdminClient,
    command: &Command,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Said, Failure> {
    match command {
        Command::List => {
            let experts = client.list("experts").await?;
            Ok(Said { text: show::experts(&experts), json: json!({ "experts": experts }) })
        }
        Command::Get { id } => {
            let expert = client.send(Ask::new(Method::GET, place(id))).await?;
            Ok(Said { text: show::yaml(&expert)?, json: expert })
        }
        Command::Add { file, settings, id, mode } => {
            let experts = match (file.read()?, id) {
                (Some(experts), _) => experts,
                (None, Some(id)) => vec![settings.expert(id, env)?],
                (None, None) => return Err(Failure::Usage("give --file or --id".into())),
            };
            add(client, experts, mode).await
        }
        Command::Update { id, file, settings, version, mode } => {
            let path = format!("{}{}", place(id), mode.query());
            let ask = match file.read()? {
                Some(experts) => match <[Value; 1]>::try_from(experts) {
                    Ok([expert]) => Ask::new(Method::PUT, path).with_body(&expert),
                    Err(_) => {
                        return Err(Failure::Usage("--file: an update needs a file with one expert".into()));
                    }
                },
                None => Ask::new(Method::PATCH, path).with_body(&settings.patch(env)?),
            };
            let expert = client.send(ask.for_version(version.if_match.as_deref())).await?;
            Ok(Said { text: format!("{id} {}", mode.said("updated")), json: expert })
        }
        Command::Drain { id, version } => switch(client, id, version, "drain", "takes nothing new").await,
        Command::Undrain { id, version } => {
            switch(client, id, version, "undrain", "takes requests again").await
        }
        Command::Probe { id } => probe(client, id).await,
        Command::Remove { id, version, mode } => {
            command::remove(client, place(id), id, version, mode, "removed").await
        }
    }
}

fn place(id: &str) -> String {
    format!("/experts/{}", segment(id))
}

/// Registers experts one after the other; the first that is refused ends it, and what was registered before
/// is told.
async fn add(client: &AdminClient, experts: Vec<Value>, mode: &Mode) -> Result<Said, Failure> {
    let mut added = Vec::with_capacity(experts.len());
    let names =
        |added: &[Value]| added.iter().filter_map(|e| e["id"].as_str()).collect::<Vec<_>>().join(", ");
    for expert in experts {
        let id = expert["id"].as_str().unwrap_or("the expert").to_owned();
        let ask = Ask::new(Method::POST, format!("/experts{}", mode.query())).with_body(&expert);
        match client.send(ask).await {
            Ok(expert) => added.push(expert),
            Err(failure) => {
                let before = match added.as_slice() {
                    [] => String::new(),
                    added => format!(" ({} {} before)", names(added), mode.said("added")),
                };
                let told = format!("{id}: {failure}{before}");
                return Err(match failure {
                    Failure::Usage(_) => Failure::Usage(told),
                    Failure::Other(_) => Failure::Other(anyhow::Error::msg(told)),
                    told @ Failure::Told(_) => told,
                });
            }
        }
    }
    Ok(Said { text: format!("{} {}", names(&added), mode.said("added")), json: json!({ "experts": added }) })
}

async fn switch(
    client: &AdminClient,
    id: &str,
    version: &Version,
    action: &str,
    result: &str,
) -> Result<Said, Failure> {
    let ask = Ask::new(Method::POST, format!("{}/{action}", place(id)));
    let expert = client.send(ask.for_version(version.if_match.as_deref())).await?;
    Ok(Said { text: format!("{id} {result}"), json: expert })
}

/// A probe that fails is a failure of the command, with the whole result for programs.
async fn probe(client: &AdminClient, id: &str) -> Result<Said, Failure> {
    let result = client.send(Ask::new(Method::POST, format!("{}/probe", place(id)))).await?;
    let ms = &result["latency_ms"];
    if result["ok"] == true {
        return Ok(Said { text: format!("{id} answers, in {ms} ms"), json: result });
    }
    let why = result["error"].as_str().unwrap_or("it gave no reason");
    Err(Failure::Other(anyhow::anyhow!("{id} does not answer, after {ms} ms: {why}")))
}

#[cfg(test)]
mod tests;
