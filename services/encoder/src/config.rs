use serde::{Deserialize, Serialize};

/// Settings of the encoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EncoderConfig {
    /// What computes the forward pass.
    pub provider: Provider,
    /// The accelerator's number; without meaning on the CPU.
    pub device_id: i32,
    /// Sessions that compute side by side, each with its own thread and its own copy of the weights.
    /// 0 = one per available core but at most 4 on the CPU, 1 on an accelerator.
    pub sessions: usize,
    /// Threads inside each session. On the CPU, sessions times threads should not exceed the cores.
    #[schema(minimum = 1)]
    pub intra_op_threads: usize,
    /// Prompts in one forward pass. 0 = 8 on the CPU (where a batch costs as much as its parts), 32 on an
    /// accelerator.
    pub max_batch: usize,
    /// Tokens in one forward pass, padding included; one prompt alone may exceed it. 0 = 256 on the CPU,
    /// 8192 on an accelerator.
    pub max_batch_tokens: usize,
    /// How long the oldest prompt of an incomplete batch waits for company, in microseconds. Nothing
    /// waits while a session is idle.
    pub max_wait_us: u64,
    /// Prompts that may be queued or in work; more are refused at once.
    #[schema(minimum = 1)]
    pub queue_limit: usize,
    /// Decisions kept in the cache; 0 keeps none.
    pub cache_entries: usize,
    /// Bytes that the cache may hold, prompts and features together.
    pub cache_bytes: u64,
}

/// Settings of the cascade: a bundle's first stage decides from tokens alone where it is sure, the encoder else.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CascadeConfig {
    /// Whether the first stage is used, where the bundle has one.
    pub enabled: bool,
    /// Probability of the best category from which on the first stage decides, 0 to 1; without it the bundle's,
    /// which was chosen so that accuracy stays what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub threshold: Option<f32>,
}

impl Default for CascadeConfig {
    fn default() -> Self {
        Self { enabled: true, threshold: None }
    }
}

/// What computes the forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// CUDA where the ONNX Runtime library has it and it starts, else the CPU with one warning.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU by CUDA, or an error.
    Cuda,
    /// An NVIDIA GPU by TensorRT, or an error.
    Tensorrt,
    /// Nothing: the bundle's first stage alone serves, without ONNX Runtime. There are no embeddings then.
    None,
}

impl Default for EncoderConfig {
    fn default() -> Self {
        Self {
            provider: Provider::Auto,
            device_id: 0,
            sessions: 0,
            intra_op_threads: 1,
            max_batch: 0,
            max_batch_tokens: 0,
            max_wait_us: 1000,
            queue_limit: 256,
            cache_entries: 8192,
            cache_bytes: 64 << 20,
        }
    }
}

impl Provider {
    /// The name, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Tensorrt => "tensorrt",
            Self::None => "none",
        }
    }
}
