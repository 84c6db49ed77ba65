use std::path::PathBuf;

use encoder::{CascadeConfig, EncoderConfig};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::Problem;

/// The router model and how it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouterConfig {
    /// When the router model is loaded.
    pub load: RouterLoad,
    /// The bundle. A plain name is looked up as `router-models/NAME` in the working directory, beside the
    /// executable and in `/usr/share/guildhall`, then as a directory; anything with a slash is a path.
    pub bundle: String,
    /// The ONNX Runtime library. Without it: `ORT_DYLIB_PATH`, `.guildhall/onnxruntime`, an installed
    /// Python wheel, the system's library paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub onnxruntime: Option<PathBuf>,
    /// How long a request waits for the router, in milliseconds; past it the route's default expert answers.
    pub deadline_ms: u64,
    /// How long an uploaded bundle may be, in bytes, as it is sent and unpacked.
    pub max_bundle_bytes: u64,
    /// The first stage, which decides from tokens alone where it is sure.
    pub cascade: CascadeConfig,
    /// Batching, threads, cache and the execution provider.
    pub encoder: EncoderConfig,
}

/// When the router model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouterLoad {
    /// When a route's policy looks at prompts.
    #[default]
    WhenNeeded,
    /// Always; `/v1/embeddings` can then be served and such routes can be added at run time.
    Always,
    /// Never; a route whose policy looks at prompts is then a mistake.
    Never,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            load: RouterLoad::WhenNeeded,
            bundle: "default".into(),
            onnxruntime: None,
            deadline_ms: 2_000,
            max_bundle_bytes: 1 << 30,
            cascade: CascadeConfig::default(),
            encoder: EncoderConfig::default(),
        }
    }
}

impl RouterConfig {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.bundle.is_empty() {
            problems.push(Problem::at("bundle", "must name a bundle; `default` is the one that is shipped"));
        }
        if self.deadline_ms == 0 {
            problems.push(Problem::at("deadline_ms", "must be above 0"));
        }
        if self.max_bundle_bytes == 0 {
            problems.push(Problem::at("max_bundle_bytes", "must be above 0"));
        }
        if self.cascade.threshold.is_some_and(|threshold| !(0.0..=1.0).contains(&threshold)) {
            problems.push(Problem::at("cascade.threshold", "must be a probability, from 0 to 1"));
        }
        problems
    }
}
