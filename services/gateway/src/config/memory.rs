use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The memory of past prompts that policy `knn` looks into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// Prompts that it may hold. Each takes 4 bytes for each number of its embedding, in memory and on disk, and as
    /// many multiply-adds in every request of a route with that policy. 0 takes none.
    pub max_prompts: usize,
    /// Longest upload, in bytes.
    pub max_upload_bytes: u64,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { max_prompts: 50_000, max_upload_bytes: 256 << 20 }
    }
}
