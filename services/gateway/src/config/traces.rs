use std::collections::BTreeMap;

use experts::Secret;
use http::{HeaderName, HeaderValue, Uri};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::Problem;

/// Traces of requests, sent to a collector by OTLP over HTTP.
///
/// A request that comes with a W3C `traceparent` is traced when its caller says so; of the others, a share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TracesConfig {
    /// Where traces are posted, as protobuf.
    pub endpoint: String,
    /// Headers of each post, such as a collector's key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub headers: BTreeMap<String, Secret>,
    /// The share of requests without a `traceparent` that are traced, from 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    pub sample_ratio: f64,
    /// Whether requests that fail are traced whatever the caller or the share says. Of their traces, the
    /// gateway's own part is then all there is.
    pub sample_errors: bool,
    /// Which version of the conventions for generative AI names the attributes; they are not stable yet.
    pub semconv: SemConv,
    /// Whether the prompts and answers of sampled requests are part of their traces, for everybody to read who
    /// may read the traces. Needs `semconv: latest`.
    pub capture_content: bool,
    /// The most bytes of each of a request's three texts: instructions, messages, answer. Longer ones are cut, and
    /// marked. As many times three may wait in memory as `queue_requests` says.
    pub content_limit_bytes: usize,
    /// What this gateway is called in traces: the resource's `service.name`.
    pub service_name: String,
    /// More attributes of the resource, such as `deployment.environment.name`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub resource: BTreeMap<String, String>,
    /// Finished requests that may wait to be sent. More are left out, and counted.
    pub queue_requests: usize,
    /// Requests in one post.
    pub batch_requests: usize,
    /// How long the first request of a post waits for company, in milliseconds.
    pub flush_interval_ms: u64,
    /// How long the collector may take for a post, in milliseconds.
    pub timeout_ms: u64,
}

/// A version of the `OpenTelemetry` conventions for generative AI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum SemConv {
    /// The latest that we know (`gen_ai.provider.name`, cached and reasoning tokens, messages).
    #[default]
    #[serde(rename = "latest")]
    Latest,
    /// 1.36, which older dashboards are built on (`gen_ai.system`). It has no place for content.
    #[serde(rename = "v1.36")]
    V1_36,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self {
            endpoint: "http://127.0.0.1:4318/v1/traces".into(),
            headers: BTreeMap::new(),
            sample_ratio: 0.01,
            sample_errors: false,
            semconv: SemConv::Latest,
            capture_content: false,
            content_limit_bytes: 16_384,
            service_name: "guildhall".into(),
            resource: BTreeMap::new(),
            queue_requests: 2_048,
            batch_requests: 128,
            flush_interval_ms: 5_000,
            timeout_ms: 10_000,
        }
    }
}

impl TracesConfig {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut wrong = |place: &str, message: &str| problems.push(Problem::at(place, message));
        let uri = self.endpoint.parse::<Uri>();
        if !uri.is_ok_and(|u| matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some()) {
            wrong(
                "endpoint",
                "must be an http or https address with its path, such as http://127.0.0.1:4318/v1/traces",
            );
        }
        for (name, value) in &self.headers {
            let good = HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value.expose()).is_ok();
            if !good {
                wrong(&format!("headers.{name}"), "is not a valid header");
            }
        }
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            wrong("sample_ratio", "must lie between 0 and 1");
        }
        if self.service_name.is_empty() {
            wrong("service_name", "must not be empty");
        }
        if self.capture_content && self.semconv != SemConv::Latest {
            wrong("capture_content", "needs `semconv: latest`: v1.36 has no attributes for content");
        }
        if !(512..=1_048_576).contains(&self.content_limit_bytes) {
            wrong("content_limit_bytes", "must lie in 512..=1048576");
        }
        if !(1..=1_000_000).contains(&self.queue_requests) {
            wrong("queue_requests", "must lie in 1..=1000000");
        }
        if !(1..=10_000).contains(&self.batch_requests) {
            wrong("batch_requests", "must lie in 1..=10000");
        }
        for (place, value) in [("flush_interval_ms", self.flush_interval_ms), ("timeout_ms", self.timeout_ms)]
        {
            if !(1..=600_000).contains(&value) {
                wrong(place, "must lie in 1..=600000");
            }
        }
        problems
    }
}
