use std::collections::BTreeMap;
use std::net::IpAddr;

use http::header::HeaderName;
use http::uri::Scheme;
use http::{HeaderValue, Uri};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::kind::Place;
use crate::secret::Secret;
use crate::spec::Report;
use crate::upstream::{Address, Host, never_called};

/// An upstream that speaks the OpenAI API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LlmBackend {
    /// Where it is served; a request goes to the endpoint with the fewest calls in progress.
    #[schema(min_items = 1)]
    pub endpoints: Vec<Endpoint>,
    /// What the upstream calls the model; the expert's id when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Sent as `Authorization: Bearer`. Shown as `***`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub api_key: Option<Secret>,
    /// Further headers, for upstreams that want their key elsewhere. Values are shown as `***`.
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
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub stream_usage: bool,
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
}

fn one() -> f32 {
    1.0
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
            if let Err(message) = Base::parse(&endpoint.url).and_then(|base| base.address(self.http2)) {
                report.add(format_args!("endpoints[{at}].url"), message);
            }
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
        if let Some(key) = &self.api_key {
            secret(key, "api_key", report);
        }
        for (name, value) in &self.headers {
            let field = format!("headers.{name}");
            match HeaderName::try_from(name.as_str()) {
                Err(_) => report.add(&field, "is not a valid header name"),
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
    pub(super) scheme: Scheme,
    /// Host and port as they are written.
    pub(super) authority: String,
    host: String,
    port: u16,
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
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(format!("has no scheme or no host; {EXAMPLE}"));
        };
        let default_port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            other => return Err(format!("has the scheme `{other}`; only http and https are supported")),
        };
        if authority.as_str().contains('@') {
            return Err("holds credentials; put the key into `api_key`".to_owned());
        }
        if uri.query().is_some() {
            return Err("has a query; put what it says into `headers` or `extra_body`".to_owned());
        }
        let port = match authority.port_u16() {
            Some(0) => return Err("has port 0; give the port that the server listens on".to_owned()),
            Some(port) => port,
            // `host:` and `host:99999` have no port that could be read.
            None if authority.as_str().len() > authority.host().len() => {
                return Err("has an invalid port; it must be a number between 1 and 65535".to_owned());
            }
            None => default_port,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() {
            return Err(format!("has no host; {EXAMPLE}"));
        }
        let path = uri.path().trim_end_matches('/');
        if let Some(operation) = crate::call::Operation::ALL.iter().find(|o| path.ends_with(o.path())) {
            let base = &path[..path.len() - operation.path().len()];
            return Err(format!("ends with `{}`; give the base URL, ending with `{base}`", operation.path()));
        }
        Ok(Self {
            scheme: scheme.clone(),
            authority: authority.as_str().to_owned(),
            host,
            port,
            path: path.to_owned(),
        })
    }

    /// Where to connect to.
    pub(super) fn address(&self, http2: bool) -> Result<Address, String> {
        let host = match self.host.parse::<IpAddr>() {
            Ok(ip) => match never_called(ip) {
                Some(what) => return Err(format!("has the address {ip}, {what}, which is never called")),
                None => Host::Ip(ip),
            },
            Err(_) => Host::Name(self.host.as_str().into()),
        };
        let secure = if self.scheme == Scheme::HTTPS {
            let name = ServerName::try_from(self.host.clone());
            Some(name.map_err(|_| format!("has the host `{}`, which no certificate can be for", self.host))?)
        } else {
            None
        };
        Ok(Address { host, port: self.port, secure, http2 })
    }
}
