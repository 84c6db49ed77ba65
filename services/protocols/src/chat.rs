//! What experts say: chat completions, whole and in chunks.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{BadAnswer, Failure};
use crate::json::{self, Str};

/// A whole answer, or a chunk of one: chunks have `delta` where whole answers have `message`.
#[derive(Debug, Deserialize)]
pub(crate) struct Completion<'a> {
    #[serde(borrow)]
    pub(crate) model: Option<Str<'a>>,
    #[serde(borrow)]
    pub(crate) choices: Option<Vec<Choice<'a>>>,
    pub(crate) usage: Option<Usage>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    object: Option<Str<'a>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Choice<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow)]
    message: Option<Message<'a>>,
    #[serde(borrow)]
    delta: Option<Message<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Str<'a>>,
    /// vLLM: the stop sequence that was met.
    #[serde(borrow)]
    stop_reason: Option<&'a RawValue>,
    #[serde(borrow)]
    logprobs: Option<Logprobs<'a>>,
}

#[derive(Debug, Deserialize)]
struct Logprobs<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Message<'a> {
    #[serde(borrow)]
    pub(crate) content: Option<Str<'a>>,
    #[serde(borrow)]
    pub(crate) refusal: Option<Str<'a>>,
    /// The older name of `reasoning`. Experts that send both send the same text twice.
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) tool_calls: Option<Vec<ToolCall<'a>>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ToolCall<'a> {
    pub(crate) index: Option<u64>,
    #[serde(borrow)]
    id: Option<Str<'a>>,
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Debug, Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Option<Str<'a>>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    Length,
    Tools,
    Filter,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) finish: Finish,
    pub(crate) stop_sequence: Option<String>,
    pub(crate) usage: Option<Usage>,
}

/// Token counts. Both counts include what their details count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    #[serde(default, rename = "prompt_tokens")]
    pub(crate) input: Option<u64>,
    #[serde(default, rename = "completion_tokens")]
    pub(crate) output: Option<u64>,
    #[serde(default, rename = "total_tokens")]
    total: Option<u64>,
    #[serde(default, rename = "prompt_tokens_details")]
    input_details: Option<InputDetails>,
    #[serde(default, rename = "completion_tokens_details")]
    output_details: Option<OutputDetails>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
struct InputDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
    #[serde(default)]
    cache_write_tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
struct OutputDetails {
    #[serde(default)]
    reasoning_tokens: Option<u64>,
}

impl Usage {
    pub(crate) fn input(&self) -> u64 {
        self.input.unwrap_or(0)
    }

    pub(crate) fn output(&self) -> u64 {
        self.output.unwrap_or_else(|| self.total.unwrap_or(0).saturating_sub(self.input()))
    }

    pub(crate) fn total(&self) -> u64 {
        self.total.unwrap_or_else(|| self.input().saturating_add(self.output()))
    }

    /// Input tokens that were read from the expert's cache.
    pub(crate) fn cached(&self) -> u64 {
        self.input_details.and_then(|d| d.cached_tokens).unwrap_or(0)
    }

    /// Input tokens that were written to the expert's cache.
    pub(crate) fn written(&self) -> u64 {
        self.input_details.and_then(|d| d.cache_write_tokens).unwrap_or(0)
    }

    /// Output tokens that were spent on reasoning, where the expert counts them.
    pub(crate) fn reasoning(&self) -> Option<u64> {
        self.output_details.and_then(|d| d.reasoning_tokens)
    }
}

impl<'a> Completion<'a> {
    /// Reads a whole answer; an error object in its place is a failure too.
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, BadAnswer> {
        let answer: Self = serde_json::from_slice(body).map_err(|error| {
            BadAnswer::new(format!("it is no chat completion ({:?} error)", error.classify()))
        })?;
        if let Some(failure) = answer.failure() {
            return Err(BadAnswer::new(failure.message));
        }
        Ok(answer)
    }

    /// The error that stands in place of an answer or a chunk.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let error = self.error.filter(|raw| raw.get() != "null");
        if error.is_none() && self.object.as_ref().is_some_and(|object| object.0 == "error") {
            return Some(Failure::server("the expert failed in the middle of its answer"));
        }
        error.map(|raw| Failure::read(raw, None))
    }

    /// The one choice that other protocols have room for.
    pub(crate) fn choice(&mut self) -> Option<Choice<'a>> {
        self.choices.take()?.into_iter().find(|choice| choice.index == 0)
    }
}

impl<'a> Choice<'a> {
    /// A whole answer's message. Some experts have an empty `delta` beside it.
    pub(crate) fn message(&mut self) -> Option<Message<'a>> {
        self.message.take().or_else(|| self.delta.take())
    }

    /// What a chunk adds. Some experts repeat the message so far beside it.
    pub(crate) fn delta(&mut self) -> Option<Message<'a>> {
        self.delta.take().or_else(|| self.message.take())
    }

    pub(crate) fn finish(&self) -> Option<Finish> {
        let reason = self.finish_reason.as_ref()?;
        Some(match &*reason.0 {
            "length" => Finish::Length,
            "tool_calls" | "function_call" => Finish::Tools,
            "content_filter" => Finish::Filter,
            _ => Finish::Stop,
        })
    }

    pub(crate) fn stop_sequence(&self) -> Option<Cow<'a, str>> {
        self.stop_reason.and_then(json::text)
    }

    /// The JSON array of the content's tokens with their probabilities.
    pub(crate) fn logprobs(&self) -> Option<&'a RawValue> {
        self.logprobs.as_ref()?.content.filter(|raw| raw.get() != "null")
    }
}

impl<'a> Message<'a> {
    pub(crate) fn reasoning(&self) -> Option<Cow<'a, str>> {
        // Some experts have an object under one of the names.
        [self.reasoning_content, self.reasoning].into_iter().flatten().find_map(json::text)
    }
}

impl<'a> ToolCall<'a> {
    /// The call's id, where it is given.
    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_ref().map(|id| &*id.0).filter(|id| !id.is_empty())
    }

    /// The tool's name, where it is given.
    pub(crate) fn name(&self) -> Option<&str> {
        self.function.as_ref()?.name.as_ref().map(|name| &*name.0).filter(|name| !name.is_empty())
    }

    /// The arguments' text. Some experts send an object in place of a string that holds one.
    pub(crate) fn arguments(&self) -> Cow<'a, str> {
        let raw = self.function.as_ref().and_then(|function| function.arguments);
        match raw {
            Some(raw) if raw.get() != "null" => json::text(raw).unwrap_or(Cow::Borrowed(raw.get())),
            _ => Cow::Borrowed(""),
        }
    }
}
