//! Chat completions over experts that speak Anthropic's Messages: the other direction of [`messages`](crate::messages).
//!
//! Decisions that a client can see:
//! - System messages are the field `system`; those that come later in a conversation move there, and are listed.
//!   Messages of one role that follow each other become one, because Messages want roles to alternate.
//! - `reasoning_effort` turns adaptive thinking on and becomes `output_config.effort`; `none` turns it off.
//!   Thinking is `reasoning_content`. Its blocks with their signatures are `thinking_blocks` of the message, which a
//!   client that gives them back in a tool loop keeps the expert's thinking by. Reasoning without them is left out of
//!   a conversation and listed.
//! - Fields that Messages know and chat completions do not (`thinking`, `top_k`, `cache_control` of a part or a tool)
//!   are carried over as they are.
//! - What the provider's own tools do, and citations, are left out of answers, which have no place for them.

mod answer;
mod request;
mod stream;

pub use crate::message::{Ended, Tokens};
pub use answer::{answer, error_words};
pub use request::request;
pub use stream::Stream;

/// What a request becomes at an expert.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// What the expert calls its model.
    pub model: &'a str,
    /// What clients call it: the `model` of answers.
    pub shown: &'a str,
    /// `max_tokens` of requests that do not say it: Messages ask for it.
    pub max_tokens: u64,
}

/// What an answer's translation needs of its request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    /// The `model` of answers.
    model: String,
    /// Whether the client asked for usage at the end of a stream.
    include_usage: bool,
}
