//! The admin API's client, for the commands that change a running gateway.

pub(super) mod bundles;
mod command;
pub(super) mod experts;
pub(super) mod keys;
mod limits;
pub(super) mod memory;
mod show;
mod spec;
pub(super) mod teams;
pub(super) mod tiers;

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, IF_MATCH};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use serde_json::Value;

use super::Failure;
use super::link::{Link, TlsArgs};

/// How long the gateway may take to answer. A probe waits for an expert for 15 seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same for what sends or starts a router model, or has it embed many texts.
const LONG_PATIENCE: Duration = Duration::from_mins(10);

/// Which gateway is meant.
#[derive(Debug, clap::Args)]
pub(super) struct ServerArgs {
    /// The gateway's admin address, with https where `admin.tls` is set.
    #[arg(
        long,
        env = "GUILDHALL_ADMIN_URL",
        default_value = "http://127.0.0.1:8081",
        value_name = "URL",
        global = true
    )]
    url: String,
    /// Its admin token, which it printed at its first start. Better given by the environment than here, where
    /// other users of the machine can see it.
    #[arg(long, env = "GUILDHALL_ADMIN_TOKEN", hide_env_values = true, value_name = "TOKEN", global = true)]
    token: Option<String>,
    #[command(flatten)]
    tls: TlsArgs,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

/// The way to the admin API.
struct AdminClient {
    base: String,
    token: String,
    link: Link,
}

/// What is asked of the admin API.
struct Ask {
    method: Method,
    /// Below `/admin/v1`.
    path: String,
    if_match: Option<String>,
    body: Bytes,
    content_type: &'static str,
    patience: Duration,
}

impl Ask {
    fn new(method: Method, path: impl Into<String>) -> Self {
        let (body, content_type) = (Bytes::new(), "application/json");
        Self { method, path: path.into(), if_match: None, body, content_type, patience: PATIENCE }
    }

    fn with_body(mut self, body: &Value) -> Self {
        self.body = body.to_string().into();
        self
    }

    /// With an archive. That takes longer: it is sent, and what is in it is started.
    fn with_archive(mut self, archive: Vec<u8>) -> Self {
        (self.body, self.content_type) = (archive.into(), "application/x-tar");
        self.patiently()
    }

    /// With JSON lines. That takes longer: texts among them are embedded.
    fn with_lines(mut self, lines: Vec<u8>) -> Self {
        (self.body, self.content_type) = (lines.into(), "application/x-ndjson");
        self.patiently()
    }

    /// For what starts a router model.
    fn patiently(mut self) -> Self {
        self.patience = LONG_PATIENCE;
        self
    }

    fn for_version(mut self, etag: Option<&str>) -> Self {
        self.if_match = etag.map(|tag| format!("\"{}\"", tag.trim_matches('"')));
        self
    }
}

impl AdminClient {
    fn new(server: &ServerArgs) -> Result<Self, Failure> {
        let usage = |message: String| Failure::Usage(message);
        let base = server.url.trim_end_matches('/').trim_end_matches("/admin/v1").to_owned();
        let uri: Uri = base.parse().map_err(|e| usage(format!("--url {base}: {e}")))?;
        let link = Link::new(&uri, &server.tls)?;
        let token = server.token.clone().filter(|t| !t.is_empty()).ok_or_else(|| {
            usage(
                "the admin API needs a token: set GUILDHALL_ADMIN_TOKEN to the one that the gateway printed at its first \
                 start, or to its `admin.token`"
                    .into(),
            )
        })?;
        Ok(Self { base, token, link })
    }

    /// Asks, and reads the answer; null for an empty one.
    async fn send(&self, ask: Ask) -> Result<Value, Failure> {
        let uri = format!("{}/admin/v1{}", self.base, ask.path);
        let usage = |error: &dyn std::fmt::Display| Failure::Usage(format!("{uri}: {error}"));
        let target: Uri = uri.parse().map_err(|e| usage(&e))?;
        let path = target.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder()
            .method(ask.method)
            .uri(path)
            .header(HOST, self.link.authority())
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header(CONTENT_TYPE, ask.content_type);
        if let Some(tag) = ask.if_match {
            request = request.header(IF_MATCH, tag);
        }
        let request = request.body(Full::new(ask.body)).map_err(|e| usage(&e))?;
        let response = tokio::time::timeout(ask.patience, self.link.send(request))
            .await
            .with_context(|| format!("{} gave no answer within {} s", self.base, ask.patience.as_secs()))?
            .with_context(|| format!("cannot reach the admin API at {}", self.base))?;
        let (status, body) = (response.status(), response.into_body());
        answer(status, &body)
    }
}

fn answer(status: StatusCode, body: &[u8]) -> Result<Value, Failure> {
    let value: Option<Value> =
        if body.is_empty() { Some(Value::Null) } else { serde_json::from_slice(body).ok() };
    if status.is_success() {
        let message = "the answer is not JSON; does --url name the admin plane?";
        return value.ok_or_else(|| Failure::Other(anyhow::anyhow!(message)));
    }
    let message = value.as_ref().and_then(|v| v["error"]["message"].as_str());
    let message = message.map_or_else(|| format!("the gateway answered {status}"), str::to_owned);
    match status.as_u16() {
        400 | 401 | 422 => Err(Failure::Usage(message)),
        _ => Err(Failure::Other(anyhow::Error::msg(message))),
    }
}

#[cfg(test)]
mod tests;
