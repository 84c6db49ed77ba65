//! `guildhall keys ...`.

use std::time::Duration;

use admission::{KeySpec, Token};
use anyhow::Context;
use clap::Subcommand;
use http::Method;
use serde_json::{Map, Value, json};

use super::command::{self, Mode, Said, Version};
use super::limits::Shared;
use super::{AdminClient, Ask, ServerArgs, show};
use crate::admin::segment;
use crate::cli::{Failure, say, say_json};
use crate::pipeline::now_ms;

/// Arguments of `keys`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    command: Command,
}

/// What to do with the API keys of a running gateway.
#[derive(Debug, Subcommand)]
enum Command {
    /// List the keys.
    List,
    /// Show a key, without its token.
    Get {
        /// The key's id.
        id: String,
    },
    /// Make a key and show its token, this once.
    Create {
        /// The new key's id: 1 to 64 lower-case letters, digits and dashes.
        #[arg(long)]
        id: String,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        mode: Mode,
    },
    /// Change settings of a key; its token stays.
    Update {
        /// The key's id.
        id: String,
        #[command(flatten)]
        settings: Settings,
        /// Refuse its requests, or (`--disabled false`) take them again.
        #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
        disabled: Option<bool>,
        #[command(flatten)]
        version: Version,
        #[command(flatten)]
        mode: Mode,
    },
    /// Give a key another token and show it, this once. The old one goes on for a while.
    Rotate {
        /// The key's id.
        id: String,
        /// How long the old token goes on; `0s` ends it at once.
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
        overlap: Duration,
        #[command(flatten)]
        version: Version,
    },
    /// Revoke a key. Its next request is refused.
    Revoke {
        /// The key's id.
        id: String,
        #[command(flatten)]
        version: Version,
        #[command(flatten)]
        mode: Mode,
    },
    /// Make a token for a key of the configuration file. Needs no gateway.
    Generate {
        /// The key's id.
        id: String,
    },
}

/// A key's settings, one by one.
#[derive(Debug, Default, clap::Args)]
struct Settings {
    #[command(flatten)]
    shared: Shared,
    /// The team whose limits and access hold as well.
    #[arg(long, value_name = "TEAM")]
    team: Option<String>,
    /// How long it lives from now on, such as `90d`.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    expires: Option<Duration>,
    /// How urgent its requests are when they do not say.
    #[arg(long, value_name = "CLASS", value_parser = ["batch", "standard", "interactive"])]
    priority: Option<String>,
    /// The most urgent that its requests may say they are.
    #[arg(long, value_name = "CLASS", value_parser = ["batch", "standard", "interactive"])]
    highest_priority: Option<String>,
    /// What it may do beyond sending requests to routes, by comma.
    #[arg(
        long, value_name = "WHAT", value_delimiter = ',',
        value_parser = ["name-experts", "debug-headers", "bypass-cache"]
    )]
    allow: Vec<String>,
    /// What it may no longer do, by comma.
    #[arg(
        long, value_name = "WHAT", value_delimiter = ',',
        value_parser = ["name-experts", "debug-headers", "bypass-cache"]
    )]
    deny: Vec<String>,
}

impl Settings {
    /// The settings that are given, as a merge patch.
    fn fields(&self, now_ms: u64) -> Map<String, Value> {
        let mut fields = self.shared.fields();
        let lifetime_ms =
            self.expires.map(|lifetime| u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX));
        let given = [
            ("team", self.team.as_ref().map(|team| json!(team))),
            ("expires_ms", lifetime_ms.map(|ms| json!(now_ms.saturating_add(ms)))),
            ("priority", self.priority.as_ref().map(|class| json!(class))),
            ("highest_priority", self.highest_priority.as_ref().map(|class| json!(class))),
        ];
        fields.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        let allowed = self.allow.iter().map(|what| (what, true));
        let permissions = allowed.chain(self.deny.iter().map(|what| (what, false)));
        let permissions: Map<String, Value> =
            permissions.map(|(what, may)| (what.replace('-', "_"), may.into())).collect();
        if !permissions.is_empty() {
            fields.insert("permissions".into(), permissions.into());
        }
        fields
    }
}

/// Runs the command, against a running gateway where it needs one.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if let Command::Generate { id } = &args.command {
        let said = generate(id)?;
        return if args.server.json { say_json(&said.json) } else { say(said.text) };
    }
    command::run(&args.server, async |client| execute(client, &args.command).await)
}

async fn execute(client: &AdminClient, command: &Command) -> Result<Said, Failure> {
    match command {
        Command::List => {
            let keys = client.list("keys").await?;
            Ok(Said { text: show::keys(&keys), json: json!({ "keys": keys }) })
        }
        Command::Get { id } => {
            let key = client.send(Ask::new(Method::GET, place(id))).await?;
            Ok(Said { text: show::yaml(&key)?, json: key })
        }
        Command::Create { id, settings, mode } => {
            let mut fields = settings.fields(now_ms());
            fields.insert("id".into(), id.as_str().into());
            let ask = Ask::new(Method::POST, format!("/keys{}", mode.query()));
            let key = client.send(ask.with_body(&Value::Object(fields))).await?;
            Ok(with_token(format!("{id} {}", mode.said("created")), key))
        }
        Command::Update { id, settings, disabled, version, mode } => {
            let mut fields = settings.fields(now_ms());
            fields.extend(disabled.map(|disabled| ("disabled".to_owned(), disabled.into())));
            let key = command::patch(client, place(id), fields, version, mode).await?;
            Ok(Said { text: format!("{id} {}", mode.said("updated")), json: key })
        }
        Command::Rotate { id, overlap, version } => {
            let overlap_ms = u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX);
            let ask = Ask::new(Method::POST, format!("{}/rotate", place(id)));
            let ask = ask.with_body(&json!({ "overlap_ms": overlap_ms }));
            let key = client.send(ask.for_version(version.if_match.as_deref())).await?;
            let old = match overlap.as_secs() {
                0 => "the old token has ended".to_owned(),
                _ => format!("the old token goes on for {}", humantime::format_duration(*overlap)),
            };
            Ok(with_token(format!("{id} rotated; {old}"), key))
        }
        Command::Revoke { id, version, mode } => {
            command::remove(client, place(id), id, version, mode, "revoked").await
        }
        // Answered before a client is made.
        Command::Generate { id } => generate(id),
    }
}

/// What was done, and the token on a line of its own.
fn with_token(done: String, key: Value) -> Said {
    let mut text = done;
    if let Some(notice) = key["notice"].as_str() {
        text = format!("{text}\n{notice}");
    }
    if let Some(token) = key["key"].as_str() {
        text = format!("{text}\nits token, shown this once:\n{token}");
    }
    Said { text, json: key }
}

/// A token and what a configuration file keeps of it.
fn generate(id: &str) -> Result<Said, Failure> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).context("the system gives no random bytes")?;
    let token = Token::from_random(id, random);
    let hash = json!(token.hash());
    // The settings' own rules say whether the id will do.
    let key: KeySpec = serde_json::from_value(json!({"id": id, "secrets": [{"hash": hash}]}))
        .map_err(anyhow::Error::from)?;
    if let Some(problem) = key.problems().first() {
        return Err(Failure::Usage(format!("`{id}` {}", problem.message)));
    }
    let hash = hash.as_str().unwrap_or_default();
    let text = format!(
        "its token, shown this once:\n{}\nfor the configuration file:\nkeys: [{{id: {id}, secrets: [{{hash: '{hash}'}}]}}]",
        token.expose()
    );
    Ok(Said { text, json: json!({"id": id, "key": token.expose(), "hash": hash}) })
}

fn place(id: &str) -> String {
    format!("/keys/{}", segment(id))
}

#[cfg(test)]
mod tests;
