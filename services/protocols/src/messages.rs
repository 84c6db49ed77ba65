//! Anthropic's Messages API, `POST /v1/messages`.
//!
//! Decisions that a client can see:
//! - `thinking` blocks are in the answer when the request turned thinking on and did not ask for it to be
//!   omitted; without, reasoning is left out, because clients that did not ask read the first block as text.
//!   They are signed with a fixed word. In a tool loop, blocks with this signature go back to the expert as
//!   its reasoning; all other thinking in a conversation is left out and listed.
//! - A thinking budget becomes `reasoning_effort`: below 4,096 tokens `low`, below 16,384 `medium`, else
//!   `high`; the budget itself is listed. An explicit `output_config.effort` wins.
//! - Tools that the provider runs (web search and the like) are left out and listed, unless `tool_choice`
//!   forces one. Tools that the client runs, but whose schema only the provider knows, are refused.
//! - `top_k` is passed on, and listed, because chat completions do not define it. So is a conversation that
//!   ends with an assistant's turn: some experts continue it, others answer it.
//! - Arguments of a tool that are no JSON object become `{"INVALID_JSON": "..."}` in a whole answer.
//! - Content blocks of a stream come strictly one after the other, whatever the order of the expert's chunks.

mod answer;
mod relay;
mod request;
mod stream;

pub(crate) use answer::input;
pub use answer::{answer, error};
pub use relay::Relay;
pub use request::request;
pub use stream::Stream;

/// The signature of thinking that an expert did: it makes none of its own.
const SIGNATURE: &str = "unsigned";

/// What an answer's translation needs of its request.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Echo {
    /// Stands for the model that the expert did not name.
    model: String,
    /// Whether the client wants to see thinking.
    thinking: bool,
    stop_sequences: Vec<String>,
}

/// Shows nothing that a client wrote but the model.
impl std::fmt::Debug for Echo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Echo").field("model", &self.model).finish_non_exhaustive()
    }
}
