//! What experts that speak Messages say: whole messages and the events of a stream.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{BadAnswer, Failure};
use crate::json::{Json, Str};

/// A whole answer, or the beginning of a streamed one.
#[derive(Debug, Deserialize)]
pub(crate) struct Message<'a> {
    #[serde(borrow)]
    pub(crate) id: Option<Str<'a>>,
    #[serde(borrow)]
    pub(crate) model: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) content: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    pub(crate) stop_reason: Option<Str<'a>>,
    #[serde(borrow)]
    pub(crate) stop_sequence: Option<Str<'a>>,
    pub(crate) usage: Option<Usage>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    /// Reads a whole answer; an error in its place is a failure too.
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, BadAnswer> {
        let message: Self = serde_json::from_slice(body)
            .map_err(|error| BadAnswer::new(format!("it is no message ({:?} error)", error.classify())))?;
        match message.error.filter(|raw| raw.get() != "null") {
            Some(error) => Err(BadAnswer::new(Failure::read(error, None).message)),
            None => Ok(message),
        }
    }
}

/// A block of an answer's content, as far as chat completions have a place for it.
#[derive(Debug, Deserialize)]
pub(crate) struct Block<'a> {
    #[serde(borrow)]
    pub(crate) r#type: Str<'a>,
    #[serde(borrow)]
    pub(crate) text: Option<Str<'a>>,
    #[serde(borrow)]
    pub(crate) thinking: Option<Str<'a>>,
    #[serde(borrow)]
    pub(crate) id: Option<Str<'a>>,
    #[serde(borrow)]
    pub(crate) name: Option<Str<'a>>,
    #[serde(borrow)]
    pub(crate) input: Option<&'a RawValue>,
}

/// One event of a stream.
#[derive(Debug, Deserialize)]
pub(crate) struct Event<'a> {
    #[serde(borrow)]
    pub(crate) r#type: Str<'a>,
    #[serde(borrow)]
    pub(crate) message: Option<Message<'a>>,
    pub(crate) index: Option<u64>,
    #[serde(borrow)]
    pub(crate) content_block: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) delta: Option<Delta<'a>>,
    pub(crate) usage: Option<Usage>,
    #[serde(borrow)]
    pub(crate) error: Option<&'a RawValue>,
}

/// What an event adds: to a block, or to the message.
#[derive(Debug, Deserialize)]
pub(crate) struct Delta<'a> {
    #[serde(borrow)]
    pub(crate) text: Option<Str<'a>>,
    #[serde(borrow)]
    pub(crate) thinking: Option<Str<'a>>,
    #[serde(borrow)]
    pub(crate) signature: Option<Str<'a>>,
    #[serde(borrow)]
    pub(crate) partial_json: Option<Str<'a>>,
    #[serde(borrow)]
    pub(crate) stop_reason: Option<Str<'a>>,
    #[serde(borrow)]
    pub(crate) stop_sequence: Option<Str<'a>>,
}

/// Token counts. Input that was read from the cache or written to it is counted apart from other input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
struct OutputDetails {
    thinking_tokens: Option<u64>,
}

/// What an expert counted, as far as it said so yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of the prompt, all told.
    pub prompt: u64,
    /// Of the answer.
    pub completion: u64,
    /// Of the prompt, those that came from a cache.
    pub cached: u64,
}

impl Usage {
    /// Takes over what a later event says: counts of a stream are counts so far.
    pub(crate) fn update(&mut self, later: &Self) {
        self.input_tokens = later.input_tokens.or(self.input_tokens);
        self.cache_creation_input_tokens =
            later.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
        self.cache_read_input_tokens = later.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.output_tokens = later.output_tokens.or(self.output_tokens);
        self.output_tokens_details = later.output_tokens_details.or(self.output_tokens_details);
    }

    pub(crate) fn tokens(&self) -> Tokens {
        let count = |tokens: Option<u64>| tokens.unwrap_or(0);
        let cached = count(self.cache_read_input_tokens);
        let apart = cached.saturating_add(count(self.cache_creation_input_tokens));
        Tokens {
            prompt: count(self.input_tokens).saturating_add(apart),
            completion: count(self.output_tokens),
            cached,
        }
    }

    /// Writes the field `usage` of chat completions.
    pub(crate) fn write(&self, o: &mut Json<'_>) {
        let Tokens { prompt, completion, cached } = self.tokens();
        o.key("usage").object(|o| {
            o.key("prompt_tokens").number(prompt);
            o.key("completion_tokens").number(completion);
            o.key("total_tokens").number(prompt.saturating_add(completion));
            o.key("prompt_tokens_details").object(|o| {
                o.key("cached_tokens").number(cached);
                if let Some(written) = self.cache_creation_input_tokens.filter(|written| *written > 0) {
                    o.key("cache_write_tokens").number(written);
                }
            });
            if let Some(thinking) = self.output_tokens_details.and_then(|details| details.thinking_tokens) {
                o.key("completion_tokens_details").object(|o| {
                    o.key("reasoning_tokens").number(thinking);
                });
            }
        });
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With its last event.
    Complete,
    /// With its stop reason, but without its last event, which was added.
    Repaired,
    /// In the middle: it ends with an error.
    Cut,
}
