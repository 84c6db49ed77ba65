use serde::{Deserialize, Serialize};

use crate::fleet::ExpertFacts;
use crate::plan::Obstacle;

/// What a request asks of whoever answers it. An expert that cannot do it is never a candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent demand of the request")]
pub struct Needs {
    /// Function or tool calling: `tools` is present and not empty.
    pub tools: bool,
    /// Image parts in a message.
    pub vision: bool,
    /// `response_format` of type `json_schema` (or `json_object`).
    pub json_schema: bool,
    /// A streamed answer.
    pub streaming: bool,
    /// Tokens that prompt and answer need together, estimated from the request; 0 when unknown.
    pub context_tokens: u32,
}

impl Needs {
    /// The first thing the expert lacks, if any.
    pub fn unmet_by(&self, expert: &ExpertFacts) -> Option<Obstacle> {
        let can = &expert.capabilities;
        if self.tools && !can.tools {
            Some(Obstacle::Tools)
        } else if self.vision && !can.vision {
            Some(Obstacle::Vision)
        } else if self.json_schema && !can.json_schema {
            Some(Obstacle::JsonSchema)
        } else if self.streaming && !can.streaming {
            Some(Obstacle::Streaming)
        } else if expert.context_tokens > 0 && self.context_tokens > expert.context_tokens {
            Some(Obstacle::Context)
        } else {
            None
        }
    }
}
