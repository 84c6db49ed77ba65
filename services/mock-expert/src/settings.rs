//! How a mock expert behaves when nothing is scripted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::latency::Latency;
use crate::script::Step;
use crate::sleep::SleepMode;

/// What a mock speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// OpenAI's chat completions, completions and embeddings.
    #[default]
    ChatCompletions,
    /// Anthropic's Messages, and nothing else.
    Messages,
}

/// Why a protocol's name could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a protocol: write chat_completions or messages")]
pub struct InvalidProtocol(String);

impl std::str::FromStr for Protocol {
    type Err = InvalidProtocol;

    fn from_str(text: &str) -> Result<Self, InvalidProtocol> {
        match text {
            "chat_completions" => Ok(Self::ChatCompletions),
            "messages" => Ok(Self::Messages),
            _ => Err(InvalidProtocol(text.to_owned())),
        }
    }
}

/// Everything that can be set at start; the configuration file has the same keys (JSON).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What the mock speaks.
    pub protocol: Protocol,
    /// The models that `/v1/models` lists. Any other name is answered too, unless `strict` is set.
    pub models: Vec<String>,
    /// Whether a request for a model that is not listed gets a 404.
    pub strict: bool,
    /// Time from the end of the request to the head of the answer.
    pub latency: Latency,
    /// Time from the head of a streamed answer to its first token.
    pub ttft: Latency,
    /// Time between two tokens of a streamed answer.
    pub gap: Latency,
    /// Length of an answer in tokens; when absent, whatever the text has. A request's own limit wins.
    pub tokens: Option<usize>,
    /// Whether every streamed token carries the time it was made (`@@NANOSECONDS@`, since the Unix epoch),
    /// for clients on the same machine that measure how long a chunk was under way. Not with Messages.
    pub stamp: bool,
    /// Length of an embedding when the request names none.
    pub dimensions: usize,
    /// Stands for every random choice.
    pub seed: u64,
    /// How many of the last requests `/__stats` shows with headers and body.
    pub record: usize,
    /// How it sleeps, for a mock of an engine that can be put to sleep.
    pub sleep_mode: Option<SleepMode>,
    /// The faults, first match first.
    pub script: Vec<Step>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            protocol: Protocol::ChatCompletions,
            models: vec!["mock".to_owned()],
            strict: false,
            latency: Latency::ZERO,
            ttft: Latency::ZERO,
            gap: Latency::ZERO,
            tokens: None,
            stamp: false,
            dimensions: 64,
            seed: 0,
            record: 64,
            sleep_mode: None,
            script: Vec::new(),
        }
    }
}

impl Settings {
    /// The gap that makes a stream run at `rate` tokens a second; none for a rate that is not above zero.
    pub fn gap_for_rate(rate: f64) -> Latency {
        if rate > 0.0 { Latency::Fixed(Duration::from_secs_f64(1.0 / rate)) } else { Latency::ZERO }
    }
}
