//! Translation between the wire formats of chat APIs: Anthropic Messages ([`messages`]) and OpenAI Responses
//! ([`responses`]), both served by experts that speak chat completions; and chat completions, served by experts that
//! speak Messages ([`over_messages`]). A Messages client's stream from such an expert is only passed on
//! ([`messages::Relay`]).
//!
//! Each protocol has the same three parts: `request` turns a request's body into a chat completions body,
//! `answer` turns a whole answer back, and `Stream` turns a stream of server-sent events back, in pieces of
//! any size. Everything is a function of its arguments: ids and times are given by the caller. [`sse`] reads
//! such streams, also for others.
//!
//! What happens to fields:
//! - A field with a counterpart is carried over. Values that need no change keep their bytes.
//! - A field without one that changes nothing about the answer's meaning (cache marks, tiers, tools that the
//!   provider would have run) is left out and listed in [`Translated::lossy`].
//! - A field without one that the answer would be wrong without (stored state, files by id, tools with a
//!   schema that only the provider knows) is refused by a [`BadRequest`] that says what to do instead; a Messages
//!   request is good all the same for experts that speak Messages ([`Translated::refused`]).
//! - A top-level field that the protocol does not know passes through unchanged, for experts with
//!   parameters of their own; unknown fields further down are left out and listed.

mod chat;
mod error;
mod json;
mod lossy;
mod message;
pub mod messages;
pub mod over_messages;
mod request;
pub mod responses;
pub mod sse;
mod stream;

pub use error::{BadAnswer, BadRequest};
pub use request::Translated;

/// What an answer is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The answer's id, in the form of its protocol: `msg_...` or `resp_...`. Ids of its parts are made of it.
    pub id: String,
    /// When it was created, in seconds since 1970. Anthropic answers do not show it.
    pub created: u64,
}

/// Bounds on what a stream's translation keeps in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one server-sent event of the expert.
    pub event: usize,
    /// Bytes of the answer that are kept until its end: a Responses stream ends with the whole answer, and
    /// tool calls that come interleaved wait for their turn.
    pub answer: usize,
}

impl Default for Limits {
    /// 1 MiB an event, 16 MiB an answer.
    fn default() -> Self {
        Self { event: 1 << 20, answer: 16 << 20 }
    }
}
