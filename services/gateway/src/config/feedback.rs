use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is kept of outcomes that callers and operators report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FeedbackConfig {
    /// Outcomes that are kept; the oldest go first. 0 refuses all.
    pub max_entries: u64,
    /// Days after its decision for which an outcome is kept.
    pub max_age_days: u32,
    /// Whether the prompt's embedding is kept with it. Something of the prompt can be read out of an embedding.
    pub embeddings: bool,
}

impl Default for FeedbackConfig {
    fn default() -> Self {
        Self { max_entries: 100_000, max_age_days: 90, embeddings: false }
    }
}
