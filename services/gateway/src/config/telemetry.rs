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

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { log: "info".into(), format: LogFormat::Text, decisions: 1_000, traces: None }
    }
}
