//! `guildhall teams ...`.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::command::{self, Mode, Said, Version};
use super::limits::Shared;
use super::{AdminClient, Ask, ServerArgs, show};
use crate::admin::segment;
use crate::cli::Failure;

/// Arguments of `teams`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) server: ServerArgs,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What to do with the teams of a running gateway.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the teams.
    List,
    /// Show a team.
    Get {
        /// The team's id.
        id: String,
    },
    /// Add a team.
    Create {
        /// The new team's id.
        #[arg(long)]
        id: String,
        #[command(flatten)]
        shared: Shared,
        #[command(flatten)]
        mode: Mode,
    },
    /// Change settings of a team.
    Update {
        /// The team's id.
        id: String,
        #[command(flatten)]
        shared: Shared,
        /// Refuse every request of its keys, or (`--disabled false`) take them again.
        #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
        disabled: Option<bool>,
        #[command(flatten)]
        version: Version,
        #[command(flatten)]
        mode: Mode,
    },
    /// Remove a team that no key names.
    Remove {
        /// The team's id.
        id: String,
        #[command(flatten)]
        version: Version,
        #[command(flatten)]
        mode: Mode,
    },
}

/// Runs the command against a running gateway.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    command::run(&args.server, async |client| execute(client, &args.command).await)
}

pub(super) async fn execute(client: &AdminClient, command: &Command) -> Result<Said, Failure> {
    match command {
        Command::List => {
            let teams = client.list("teams").await?;
            Ok(Said { text: show::teams(&teams), json: json!({ "teams": teams }) })
        }
        Command::Get { id } => {
            let team = client.send(Ask::new(Method::GET, place(id))).await?;
            Ok(Said { text: show::yaml(&team)?, json: team })
        }
        Command::Create { id, shared, mode } => {
            let mut fields = shared.fields();
            fields.insert("id".into(), id.as_str().into());
            let ask = Ask::new(Method::POST, format!("/teams{}", mode.query()));
            let team = client.send(ask.with_body(&Value::Object(fields))).await?;
            Ok(Said { text: format!("{id} {}", mode.said("created")), json: team })
        }
        Command::Update { id, shared, disabled, version, mode } => {
            let mut fields = shared.fields();
            fields.extend(disabled.map(|disabled| ("disabled".to_owned(), disabled.into())));
            let team = command::patch(client, place(id), fields, version, mode).await?;
            Ok(Said { text: format!("{id} {}", mode.said("updated")), json: team })
        }
        Command::Remove { id, version, mode } => {
            command::remove(client, place(id), id, version, mode, "removed").await
        }
    }
}

fn place(id: &str) -> String {
    format!("/teams/{}", segment(id))
}
