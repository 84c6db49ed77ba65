//! OpenAI's Responses API, `POST /v1/responses`, as far as it needs no stored state.
//!
//! Decisions that a client can see:
//! - Nothing is stored: answers say `"store": false`, and an explicit `store: true` is listed.
//!   `previous_response_id`, `conversation`, `prompt`, items by reference, files by id and `background` need
//!   stored state and are refused.
//! - Developer messages become system messages, which all experts know. Instructions and the system messages
//!   before the first other item are one message.
//! - Reasoning is a `reasoning` item of the answer: its summary when the request asked for a summary, else
//!   its content. In a tool loop, reasoning items that are not encrypted go back to the expert.
//! - Custom tools (free text in place of JSON) are functions with one parameter `input` for the expert; their
//!   grammar becomes a part of the description and is listed, because nothing enforces it.
//! - Tools that the provider runs (web search and the like) are left out and listed, unless `tool_choice`
//!   forces one. Tools that the client runs, but whose schema only the provider knows, are refused.
//! - `allowed_tools` is kept by sending only those tools.
//! - `metadata` is shown in the answer and not sent on: without storage it has no other use.

mod answer;
mod item;
mod request;
mod stream;

pub use answer::answer;
pub use request::request;
pub use stream::Stream;

/// What an answer's translation needs of its request.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Echo {
    /// Stands for the model that the expert did not name.
    model: String,
    /// Fields of the answer that repeat the request's, as JSON.
    fields: Vec<u8>,
    /// Names of the tools that take free text.
    custom_tools: Vec<String>,
    /// Whether reasoning is shown as a summary.
    summary: bool,
}

/// Shows nothing that a client wrote but the model.
impl std::fmt::Debug for Echo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Echo").field("model", &self.model).finish_non_exhaustive()
    }
}
