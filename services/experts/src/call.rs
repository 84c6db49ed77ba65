use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::body::ReplyBody;

/// One request to an expert, already checked to be a JSON object.
#[derive(Debug)]
pub struct Call<'a> {
    /// What is asked for.
    pub operation: Operation,
    /// The client's body.
    pub body: Bytes,
    /// Where the value of the top-level `model` stands in `body`.
    pub model_span: Range<usize>,
    /// The request that the client sent, where that is one of Anthropic's Messages and `body` is its
    /// translation. An expert that speaks Messages gets this one.
    pub messages: Option<Bytes>,
    /// Whether the client wants a stream.
    pub stream: bool,
    /// What the client said about `stream_options`.
    pub stream_options: StreamOptions,
    /// The client's headers. Only tracing and idempotency headers among them are sent on.
    pub headers: &'a HeaderMap,
    /// The request's id, sent on as `x-request-id`.
    pub request_id: &'a HeaderValue,
    /// When the answer is of no more use.
    pub deadline: Option<Instant>,
    /// Limits of the route; where the expert has a limit as well, the smaller one counts.
    pub timeouts: Timeouts,
    /// A hash of what the conversation begins with, for experts whose endpoints keep a cache of prefixes.
    pub affinity: Option<u64>,
    /// Where the random choices of this call start: endpoints, jitter. The same seed gives the same choices.
    pub seed: u64,
}

/// How long each part of an answer may take; see [`crate::Limits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Opening a connection.
    pub connect: Option<Duration>,
    /// From the start of a try to the head of its answer.
    pub first_byte: Option<Duration>,
    /// Between two pieces of the answer.
    pub idle: Option<Duration>,
    /// The whole call, all tries included.
    pub total: Option<Duration>,
}

/// An operation of the OpenAI API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `/chat/completions`.
    ChatCompletions,
    /// `/completions`.
    Completions,
    /// `/embeddings`.
    Embeddings,
}

impl Operation {
    pub(crate) const ALL: [Self; 3] = [Self::ChatCompletions, Self::Completions, Self::Embeddings];

    /// Its name in records and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
        }
    }

    /// The path below an upstream's base URL.
    pub fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/chat/completions",
            Self::Completions => "/completions",
            Self::Embeddings => "/embeddings",
        }
    }
}

/// What a request says about `stream_options`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// Where the value of the top-level `stream_options` stands in the body, when it is an object.
    pub span: Option<Range<usize>>,
    /// Its `include_usage`.
    pub include_usage: Option<bool>,
}

/// An expert's answer, from its head on. Dropping it cancels what is left of the upstream call.
#[derive(Debug)]
pub struct Reply {
    /// The status: success or an error.
    pub status: StatusCode,
    /// The headers that clients may see.
    pub headers: HeaderMap,
    /// The body.
    pub body: ReplyBody,
    /// The tries that were made, in order of their start; none for an expert without an upstream. The last
    /// one that was not cancelled gave this answer.
    pub tries: Tries,
    /// Whether it answers [`Call::messages`], in the words of Messages, and not [`Call::body`].
    pub is_message: bool,
    /// Fields of [`Call::body`] that could not be carried over into the expert's protocol.
    pub lossy: Vec<String>,
}

/// One request to one endpoint.
#[derive(Clone, Debug)]
pub struct Try {
    /// The endpoint: its URL, and its address where that was discovered.
    pub endpoint: Arc<str>,
    /// The status of the answer, if its head came.
    pub status: Option<u16>,
    /// What went wrong, in the words of [`crate::CallError::message`].
    pub error: Option<&'static str>,
    /// When it began, from the start of the call.
    pub started: Duration,
    /// To the head of the answer, or to the failure.
    pub duration: Duration,
    /// Whether it was a second try beside one that had not answered yet.
    pub hedge: bool,
    /// How long it was waited for before.
    pub backoff: Duration,
}

impl Try {
    /// The [`Try::error`] of a try that was given up because another one answered first.
    pub(crate) const CANCELLED: &str = "was cancelled: another try answered first";

    /// Whether it failed: there was no answer, though one was waited for, or it says that the expert is
    /// missing, busy or broken.
    pub fn failed(&self) -> bool {
        match (self.error, self.status) {
            (Some(error), _) => error != Self::CANCELLED,
            (None, status) => status.is_some_and(|status| status >= 500 || matches!(status, 408 | 429)),
        }
    }
}

/// The tries of a call. One takes no allocation.
#[derive(Clone, Debug, Default)]
pub struct Tries {
    first: Option<Try>,
    rest: Vec<Try>,
}

impl Tries {
    /// In order of their start.
    pub fn iter(&self) -> impl Iterator<Item = &Try> {
        self.first.iter().chain(&self.rest)
    }

    /// How many there were.
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// Whether there was none.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn push(&mut self, one: Try) {
        if self.first.is_none() {
            self.first = Some(one);
        } else {
            self.rest.push(one);
        }
    }
}

impl Reply {
    /// An answer that is made here.
    pub(crate) fn local(status: StatusCode, headers: HeaderMap, body: ReplyBody) -> Self {
        Self { status, headers, body, tries: Tries::default(), is_message: false, lossy: Vec::new() }
    }

    /// Whether another expert may do better: the status says that this one is missing, busy or broken.
    pub fn is_retryable(&self) -> bool {
        matches!(self.status.as_u16(), 408 | 409 | 429 | 500 | 502 | 503 | 504 | 529)
    }
}

/// Tokens as the upstream counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt.
    pub prompt_tokens: u64,
    /// Of the answer; 0 for embeddings.
    pub completion_tokens: u64,
    /// Of the prompt, those that came from a cache.
    pub cached_tokens: u64,
}
