use std::collections::BTreeMap;
use std::net::IpAddr;

use http::header::HeaderName;
use http::{HeaderValue, Uri};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::check::HealthCheck;
use super::discover::Discovery;
use crate::kind::Place;
use crate::resilience::{Balancing, BreakerSettings, Hedge, Retries, check_ms};
use crate::secret::Secret;
use crate::spec::Report;
use crate::upstream::{Origin, TlsFiles, Trust};

/// What an upstream speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// OpenAI's chat completions, completions and embeddings.
    #[default]
    ChatCompletions,
    /// Anthropic's Messages: `POST {url}/messages`, with the key in `x-api-key`.
    Messages,
}

/// `max_tokens` of a Messages request whose client and expert do not say it.
const MAX_TOKENS: u32 = 4096;

/// An upstream that speaks the OpenAI API, or Anthropic's Messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LlmBackend {
    /// Where it is served: servers of the same model, any of which may get a request.
    #[schema(min_items = 1)]
    pub endpoints: Vec<Endpoint>,
    /// What the endpoints speak: `chat_completions` or `messages`. Clients of all protocols may use either;
    /// a Messages client's request and its answer pass an expert that speaks Messages as they are.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: Protocol,
    /// `max_tokens` of requests that do not say it, for `protocol: messages`, which asks for it; 4096 when
    /// not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub default_max_tokens: Option<u32>,
    /// What the upstream calls the model; the expert's id when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Sent as `Authorization: Bearer`, with `protocol: messages` as `x-api-key`. Shown as `***`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub api_key: Option<Secret>,
    /// Further headers, for upstreams that want their key elsewhere, or another `anthropic-version` than
    /// 2023-06-01. Values are shown as `***`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub headers: BTreeMap<String, Secret>,
    /// Body fields that are added where the client does not give them.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub extra_body: Map<String, Value>,
    /// Body fields that replace the client's.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub override_body: Map<String, Value>,
    /// Speaks HTTP/2: negotiated with `https`, without asking (h2c) with `http`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub http2: bool,
    /// Asks the upstream to count the tokens of every stream (`stream_options.include_usage`), also where the
    /// client did not; such a client does not see the count. Turn it off for upstreams that refuse the field.
    /// Messages are always counted.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub stream_usage: bool,
    /// How a request finds its endpoint.
    #[serde(default, skip_serializing_if = "is_default")]
    pub balancing: Balancing,
    /// When a request that failed is sent again to this expert.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retries: Retries,
    /// When an endpoint that fails is left alone.
    #[serde(default, skip_serializing_if = "is_default")]
    pub breaker: BreakerSettings,
    /// A second try beside a slow one; off when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// Asks the endpoints regularly whether they work; off when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// Certificates for TLS with the endpoints, where the usual ones do not do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn yes() -> bool {
    true
}

/// One place where an expert is served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The API's base URL with its version, such as `http://vllm:8000/v1`.
    pub url: String,
    /// How many calls it takes in comparison to the others.
    #[serde(default = "one")]
    #[schema(exclusive_minimum = 0)]
    pub weight: f32,
    /// `dns`: every address of the host is an endpoint of its own, with this weight, as with the headless
    /// services of Kubernetes. Otherwise one address is as good as another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discover: Option<Discovery>,
    /// How often the host's addresses are looked up for `discover`, in milliseconds. A connection that fails
    /// has them looked up at once.
    #[serde(default = "five_seconds", skip_serializing_if = "is_five_seconds")]
    #[schema(minimum = 1)]
    pub refresh_ms: u64,
}

fn one() -> f32 {
    1.0
}

fn five_seconds() -> u64 {
    5_000
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_five_seconds(ms: &u64) -> bool {
    *ms == five_seconds()
}

/// Headers that are the client's own business: they frame the message or have a setting of their own.
const RESERVED: [&str; 14] = [
    "authorization",
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "accept-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

/// Body fields that the gateway sets itself.
const OWN_FIELDS: [&str; 3] = ["model", "stream", "stream_options"];

impl LlmBackend {
    pub(in crate::kind) fn validate(&self, report: &mut Report<'_>) {
        if self.endpoints.is_empty() {
            report
                .add("endpoints", "is empty; give at least one, such as {url: \"http://127.0.0.1:8000/v1\"}");
        }
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            match Base::parse(&endpoint.url) {
                Err(message) => report.add(format_args!("endpoints[{at}].url"), message),
                Ok(base) => {
                    let address = base.origin.address(None, self.http2, Trust::Operator, None);
                    if let Err(message) = address {
                        report.add(format_args!("endpoints[{at}].url"), message);
                    }
                    if endpoint.discover.is_some() && base.origin.ip().is_some() {
                        let message = "has nothing to find: the URL names an address; give a host name";
                        report.add(format_args!("endpoints[{at}].discover"), message);
                    }
                    if let (Protocol::Messages, Some(base)) =
                        (self.protocol, base.path.strip_suffix("/messages"))
                    {
                        let message =
                            format!("ends with `/messages`; give the base URL, ending with `{base}`");
                        report.add(format_args!("endpoints[{at}].url"), message);
                    }
                }
            }
            check_ms(report, &format!("endpoints[{at}].refresh_ms"), endpoint.refresh_ms);
            if !endpoint.weight.is_finite() || endpoint.weight <= 0.0 {
                let message = format!("is {}; must be a number above 0", endpoint.weight);
                report.add(format_args!("endpoints[{at}].weight"), message);
            }
            if self.endpoints[..at].iter().any(|e| e.url == endpoint.url) {
                report.add(
                    format_args!("endpoints[{at}].url"),
                    "is listed twice; use one entry with more weight",
                );
            }
        }
        if self.model.as_deref().is_some_and(|m| m.is_empty() || m.len() > 512) {
            report.add("model", "must have 1 to 512 bytes; leave it out to use the expert's id");
        }
        match (self.protocol, self.default_max_tokens) {
            (Protocol::ChatCompletions, Some(_)) => {
                report.add("default_max_tokens", "is for `protocol: messages` only; remove it");
            }
            (_, Some(0)) => report.add("default_max_tokens", "is 0; must be at least 1"),
            _ => {}
        }
        if self.protocol == Protocol::Messages && self.extra_body.contains_key("max_tokens") {
            let message = "never counts: Messages requests always have it; use `default_max_tokens`";
            report.add("extra_body.max_tokens", message);
        }
        if let Some(key) = &self.api_key {
            secret(key, "api_key", report);
        }
        for (name, value) in &self.headers {
            let field = format!("headers.{name}");
            match HeaderName::try_from(name.as_str()) {
                Err(_) => report.add(&field, "is not a valid header name"),
                Ok(parsed) if parsed == "authorization" && self.protocol == Protocol::Messages => {
                    // Upstreams of this kind may want either header.
                    secret(value, &field, report);
                }
                Ok(parsed) if parsed == "authorization" => {
                    report.add(
                        &field,
                        "cannot be set here; use `api_key`, which is sent as `Authorization: Bearer`",
                    );
                }
                Ok(parsed) if RESERVED.contains(&parsed.as_str()) => {
                    report.add(&field, "cannot be set: the gateway sets it for every request");
                }
                Ok(_) => secret(value, &field, report),
            }
        }
        for (place, fields) in [("extra_body", &self.extra_body), ("override_body", &self.override_body)] {
            for name in fields.keys().filter(|k| OWN_FIELDS.contains(&k.as_str())) {
                report.add(
                    format_args!("{place}.{name}"),
                    "cannot be set here: the gateway sets it for every request",
                );
            }
        }
        for name in self.extra_body.keys().filter(|k| self.override_body.contains_key(*k)) {
            report.add(format_args!("extra_body.{name}"), "is in override_body as well; keep one of them");
        }
        self.retries.validate(report);
        self.breaker.validate(report);
        if let Some(hedge) = &self.hedge {
            hedge.validate(report);
        }
        if let Some(health) = &self.health {
            health.validate(report);
        }
        if let Some((field, message)) = self.tls.as_ref().and_then(TlsFiles::problem) {
            report.add(if field.is_empty() { "tls".to_owned() } else { format!("tls.{field}") }, message);
        }
    }

    /// `max_tokens` of requests that do not say it, as Messages want it.
    pub(super) fn max_tokens(&self) -> u64 {
        self.default_max_tokens.unwrap_or(MAX_TOKENS).into()
    }

    /// The addresses that the URLs themselves give, with the fields that do.
    pub(in crate::kind) fn addresses(&self) -> impl Iterator<Item = (String, IpAddr)> {
        self.endpoints.iter().enumerate().filter_map(|(at, endpoint)| {
            let ip = Base::parse(&endpoint.url).ok()?.origin.ip()?;
            Some((format!("endpoints[{at}].url"), ip))
        })
    }

    pub(in crate::kind) fn secrets(&self) -> Vec<(Place, &Secret)> {
        let key = self.api_key.iter().map(|key| (vec!["api_key".to_owned()], key));
        let headers =
            self.headers.iter().map(|(name, value)| (vec!["headers".to_owned(), name.clone()], value));
        key.chain(headers).collect()
    }

    pub(in crate::kind) fn secrets_mut(&mut self) -> Vec<(Place, &mut Secret)> {
        let key = self.api_key.iter_mut().map(|key| (vec!["api_key".to_owned()], key));
        let headers =
            self.headers.iter_mut().map(|(name, value)| (vec!["headers".to_owned(), name.clone()], value));
        key.chain(headers).collect()
    }
}

fn secret(value: &Secret, field: &str, report: &mut Report<'_>) {
    if value.is_redacted() {
        report
            .add(field, "is `***`, which only stands for a secret when it is shown; give the secret itself");
    } else if value.expose().trim().is_empty() {
        report.add(field, "is empty; give a value or leave it out");
    } else if HeaderValue::try_from(value.expose()).is_err() {
        report.add(
            field,
            "has characters that a header cannot carry, such as a line break; check for a stray one",
        );
    }
}

/// A base URL, taken apart.
pub(super) struct Base {
    pub(super) origin: Origin,
    /// Without a slash at its end.
    pub(super) path: String,
}

impl Base {
    /// Takes a URL apart; the error says what is wrong with it.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        const EXAMPLE: &str = "give a base URL such as http://127.0.0.1:8000/v1";
        if url.contains('#') {
            return Err(format!("has a fragment; {EXAMPLE}"));
        }
        let uri: Uri = url.parse().map_err(|e| format!("is not a URL ({e}); {EXAMPLE}"))?;
        let origin = Origin::of(&uri, EXAMPLE)?;
        if uri.query().is_some() {
            return Err("has a query; put what it says into `headers` or `extra_body`".to_owned());
        }
        let path = uri.path().trim_end_matches('/');
        if let Some(operation) = crate::call::Operation::ALL.iter().find(|o| path.ends_with(o.path())) {
            let base = &path[..path.len() - operation.path().len()];
            return Err(format!("ends with `{}`; give the base URL, ending with `{base}`", operation.path()));
        }
        Ok(Self { origin, path: path.to_owned() })
    }

    /// The path alone, for HTTP/1, and the whole URL, for HTTP/2.
    pub(super) fn target(&self, path: &str) -> Result<(Uri, Uri), String> {
        let path = format!("{}{path}", self.path);
        let whole = format!("{}://{}{path}", self.origin.scheme, self.origin.authority);
        let parse = |text: &str| Uri::try_from(text).map_err(|e| e.to_string());
        Ok((parse(&path)?, parse(&whole)?))
    }
}
