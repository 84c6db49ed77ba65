use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::ExpertId;
use crate::signals::Signals;

/// A consistent view of all experts at one moment, as the policies see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fleet {
    /// The classifier's labels, in the order of its probabilities.
    pub categories: Arc<[Arc<str>]>,
    /// All registered experts, sorted by id, each id once.
    pub experts: Vec<ExpertFacts>,
}

/// What a policy may know about an expert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpertFacts {
    /// Its name.
    pub id: ExpertId,
    /// w(c,e): its expected score in 0..=1 for each category, in the order of [`Fleet::categories`].
    pub skills: Vec<f32>,
    /// Blended price in USD per million tokens, three parts input to one part output; 0 when free.
    pub cost: f32,
    /// What it can do.
    pub capabilities: Capabilities,
    /// The longest prompt and answer together, in tokens; 0 when not declared.
    pub context_tokens: u32,
    /// Whether it takes requests now.
    pub availability: Availability,
    /// What was learnt of it from data.
    #[serde(default)]
    pub signals: Arc<Signals>,
}

impl ExpertFacts {
    /// An expert of which nothing is known but its name: no skills, no price, no limits, ready.
    pub fn new(id: ExpertId) -> Self {
        Self {
            id,
            skills: Vec::new(),
            cost: 0.0,
            capabilities: Capabilities::default(),
            context_tokens: 0,
            availability: Availability::Ready,
            signals: Arc::default(),
        }
    }
}

/// How an expert is at this moment. It changes with every request, and so is not part of the [`Fleet`], which
/// many decisions share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// Requests it is working on, per unit of its capacity; at least 0.
    pub load: f32,
    /// Its usual time to the first byte in milliseconds, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f32>,
    /// How many tiers its weights are away from where it answers; 255 when nobody knows, `None` when nobody keeps count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident: Option<u8>,
    /// How many milliseconds a request waits until its weights are where it answers from, as estimated; `None` when
    /// nobody keeps count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<f32>,
    /// What balancing adds to its score where experts are ranked.
    pub bias: f32,
}

/// What an expert can do. Streaming is taken for granted, everything else must be declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent ability")]
pub struct Capabilities {
    /// Function or tool calling.
    pub tools: bool,
    /// Images as message parts.
    pub vision: bool,
    /// Structured output by `response_format`.
    pub json_schema: bool,
    /// Server-sent events.
    pub streaming: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self { tools: false, vision: false, json_schema: false, streaming: true }
    }
}

impl Capabilities {
    /// Everything there is.
    pub const ALL: Self = Self { tools: true, vision: true, json_schema: true, streaming: true };
}

/// Whether an expert takes requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// It does.
    #[default]
    Ready,
    /// It finishes what it has and takes only the rest of a tool loop it is in.
    Draining,
    /// None of its endpoints answers.
    Unhealthy,
}

impl Fleet {
    /// The expert of that name.
    pub fn get(&self, id: &str) -> Option<&ExpertFacts> {
        self.experts.get(self.position(id)?)
    }

    /// Where the expert of that name stands in [`Fleet::experts`].
    pub fn position(&self, id: &str) -> Option<usize> {
        self.experts.binary_search_by(|e| e.id.as_str().cmp(id)).ok()
    }
}
