//! What the commands of all kinds of objects share.

use http::Method;
use serde_json::{Map, Value, json};

use super::{AdminClient, Ask, ServerArgs};
use crate::admin::segment;
use crate::cli::{Failure, say, say_json};

#[derive(Debug, clap::Args)]
pub(super) struct Version {
    /// Only if the object still has this etag, as `get` shows it.
    #[arg(long, value_name = "ETAG")]
    pub(super) if_match: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Mode {
    /// Check the change and change nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl Mode {
    pub(super) fn query(&self) -> &'static str {
        if self.dry_run { "?dry_run=true" } else { "" }
    }

    /// "done", or "could be done".
    pub(super) fn said(&self, done: &str) -> String {
        if self.dry_run { format!("could be {done}") } else { done.to_owned() }
    }
}

/// What a command has to say, for people and for programs.
pub(super) struct Said {
    pub(super) text: String,
    pub(super) json: Value,
}

/// Runs a command against a running gateway, and says what came of it.
pub(super) fn run(
    server: &ServerArgs,
    command: impl AsyncFnOnce(&AdminClient) -> Result<Said, Failure>,
) -> Result<(), Failure> {
    let client = AdminClient::new(server)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let said = runtime.block_on(command(&client))?;
    if server.json { say_json(&said.json) } else { say(said.text) }
}

/// Removes the object at `path`.
pub(super) async fn remove(
    client: &AdminClient,
    path: String,
    id: &str,
    version: &Version,
    mode: &Mode,
    done: &str,
) -> Result<Said, Failure> {
    let ask = Ask::new(Method::DELETE, format!("{path}{}", mode.query()));
    client.send(ask.for_version(version.if_match.as_deref())).await?;
    Ok(Said { text: format!("{id} {}", mode.said(done)), json: json!({"id": id, done: !mode.dry_run}) })
}

impl AdminClient {
    /// All objects of a kind, page by page.
    pub(super) async fn list(&self, kind: &str) -> Result<Vec<Value>, Failure> {
        let mut objects = Vec::new();
        let mut path = format!("/{kind}?limit=1000");
        loop {
            let mut page = self.send(Ask::new(Method::GET, path)).await?;
            if let Value::Array(items) = page["items"].take() {
                objects.extend(items);
            }
            match page["next"].as_str() {
                Some(after) => path = format!("/{kind}?limit=1000&after={}", segment(after)),
                None => return Ok(objects),
            }
        }
    }
}

/// Changes the object at `path` by a merge patch.
pub(super) async fn patch(
    client: &AdminClient,
    path: String,
    fields: Map<String, Value>,
    version: &Version,
    mode: &Mode,
) -> Result<Value, Failure> {
    if fields.is_empty() {
        return Err(Failure::Usage("nothing to change: give at least one setting".into()));
    }
    let ask = Ask::new(Method::PATCH, format!("{path}{}", mode.query())).with_body(&Value::Object(fields));
    client.send(ask.for_version(version.if_match.as_deref())).await
}
