use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::TracesConfig;

/// Logs, the decision log and traces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// What is logged, as `tracing` directives: `info`, `warn,gateway=debug`.
    pub log: String,
    /// How it is written.
    pub format: LogFormat,
    /// Where finished requests are logged, a line each; prompts never are.
    pub access_log: AccessTarget,
    /// How many recent decisions the admin API can show. Prompts are never kept.
    pub decisions: usize,
    /// Traces of requests. Without it, none are made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traces: Option<TracesConfig>,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the access log goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessTarget {
    /// Nowhere.
    Off,
    /// To standard output.
    Stdout,
    /// To standard error, where all other logs go.
    #[default]
    Stderr,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log: "info".into(),
            format: LogFormat::Text,
            access_log: AccessTarget::default(),
            decisions: 1_000,
            traces: None,
        }
    }
}
