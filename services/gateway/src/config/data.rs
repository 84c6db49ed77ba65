use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::TlsConfig;
use crate::problem::Problem;

/// The listener for chat traffic and what it accepts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Address and port. Port 0 picks a free one.
    #[schema(value_type = String)]
    pub listen: SocketAddr,
    /// TLS, with or without certificates of clients. Without it the listener speaks plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// Lets requests from other machines in although there is no API key yet. Leave it off unless a proxy in
    /// front checks who may call: without it, an address that other machines can reach lets nobody in before
    /// the first key is made.
    pub open_to_network: bool,
    /// Longest request body, in bytes; of one that comes compressed, both before and after that is undone.
    pub max_body_bytes: usize,
    /// Longest request head (request line and headers together), in bytes.
    pub max_header_bytes: usize,
    /// Deepest nesting of arrays and objects in a request body.
    pub max_json_depth: usize,
    /// Requests in progress, streams included; one more is answered 503 at once.
    pub max_in_flight: usize,
    /// How long a client may take to send a request's head, in milliseconds, and how long a connection may
    /// lie idle between requests. Keep it above the idle time of a load balancer in front, which otherwise
    /// sends requests into connections that are being closed.
    pub head_timeout_ms: u64,
    /// How long a client may take to send a request's body, in milliseconds.
    pub body_timeout_ms: u64,
    /// How long after a stop signal requests are still welcome, in milliseconds, while `/readyz` says that
    /// they had better go elsewhere. On Kubernetes a pod gets new connections for some seconds after it was
    /// told to stop: 5000 is right there. Elsewhere 0.
    pub drain_delay_ms: u64,
    /// How long open requests may go on after that, in milliseconds.
    pub drain_ms: u64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tls: None,
            open_to_network: false,
            max_body_bytes: 16 << 20,
            max_header_bytes: 32 << 10,
            max_json_depth: 64,
            max_in_flight: 10_000,
            head_timeout_ms: 75_000,
            body_timeout_ms: 30_000,
            drain_delay_ms: 0,
            drain_ms: 30_000,
        }
    }
}

impl DataConfig {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        problems.extend(self.tls.iter().flat_map(TlsConfig::problems).map(|p| p.below("tls")));
        if self.max_body_bytes < 1024 {
            problems.push(Problem::at("max_body_bytes", "must be at least 1024"));
        }
        if self.max_header_bytes < 8192 {
            problems.push(Problem::at("max_header_bytes", "must be at least 8192"));
        }
        if !(4..=512).contains(&self.max_json_depth) {
            problems.push(Problem::at("max_json_depth", "must lie in 4..=512"));
        }
        for (key, ms) in
            [("head_timeout_ms", self.head_timeout_ms), ("body_timeout_ms", self.body_timeout_ms)]
        {
            if ms == 0 {
                problems.push(Problem::at(key, "must be above 0"));
            }
        }
        if self.max_in_flight == 0 {
            problems.push(Problem::at("max_in_flight", "must be above 0"));
        }
        problems
    }
}
