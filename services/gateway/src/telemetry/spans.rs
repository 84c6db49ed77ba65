//! What is known of a finished request, as far as its trace needs it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use routing::ExpertId;

use super::content::Content;
use super::trace::TraceContext;
use crate::decision::{DecisionId, Path};

/// The facts of a finished request. Times are counted from its arrival.
#[derive(Clone, Debug)]
pub struct RequestSpans {
    /// Its place in its trace.
    pub context: TraceContext,
    /// When it arrived, in nanoseconds since 1970.
    pub started_ns: u64,
    /// Until the last byte of its answer.
    pub duration: Duration,
    /// The URL's path, one of the gateway's own: `/v1/chat/completions`.
    pub endpoint: &'static str,
    /// What was asked for.
    pub operation: GenAiOperation,
    /// Whether the answer was asked for as a stream.
    pub stream: bool,
    /// The status sent to the client.
    pub status: u16,
    /// What went wrong, in a word: an error's code, `cut`, `client_left`.
    pub error: Option<Cow<'static, str>>,
    /// Its decision record.
    pub decision: DecisionId,
    /// The model that the client named.
    pub model: Box<str>,
    /// The route, unless the client named an expert.
    pub route: Option<ExpertId>,
    /// The route's policy.
    pub policy: Option<&'static str>,
    /// The category that the router read.
    pub category: Option<Arc<str>>,
    /// Who answered.
    pub expert: Option<ExpertId>,
    /// Which way.
    pub path: Option<Path>,
    /// What the gateway did itself.
    pub phases: Vec<PhaseSpan>,
    /// The experts that were tried, in order.
    pub attempts: Vec<AttemptSpan>,
    /// Prompt and answer, where the operator wants them in the trace. They stand on the try that answered, or
    /// on the last one when none did.
    pub content: Option<Content>,
}

/// What a request asks of a model, in the conventions' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenAiOperation {
    /// Chat, in whichever protocol.
    Chat,
    /// The older completions.
    TextCompletion,
    /// Embeddings.
    Embeddings,
}

/// A phase of the gateway's own work: `auth`, `queue`, `decode`, `encode`, `route`, `stream`.
#[derive(Clone, Copy, Debug)]
pub struct PhaseSpan {
    /// Its name.
    pub name: &'static str,
    /// When it began.
    pub start: Duration,
    /// When it ended.
    pub end: Duration,
}

/// One try of one expert.
#[derive(Clone, Debug)]
pub struct AttemptSpan {
    /// Who.
    pub expert: ExpertId,
    /// The model's name there.
    pub model: Arc<str>,
    /// Who provides the model, in the conventions' words; `openai` for a server that speaks its protocol and is
    /// not known better.
    pub provider: &'static str,
    /// The server's host and port; `None` when the expert answers out of the gateway itself.
    pub server: Option<(Arc<str>, u16)>,
    /// The HTTP status it answered with.
    pub status: Option<u16>,
    /// What went wrong, in a word.
    pub error: Option<Cow<'static, str>>,
    /// When it began.
    pub start: Duration,
    /// When it was given up, or the last byte of its answer had come.
    pub end: Duration,
    /// The answer, when this is the one that the client got.
    pub answer: Option<AnswerFacts>,
}

/// What an expert's answer says of itself.
#[derive(Clone, Debug, Default)]
pub struct AnswerFacts {
    /// The model that answered.
    pub model: Option<Box<str>>,
    /// The answer's id.
    pub id: Option<Box<str>>,
    /// Why each choice ended.
    pub finish_reasons: Vec<Box<str>>,
    /// Tokens of the prompt, cached ones included.
    pub input_tokens: Option<u64>,
    /// Tokens of the answer, those of reasoning included.
    pub output_tokens: Option<u64>,
    /// Tokens of the prompt that were cached.
    pub cached_tokens: Option<u64>,
    /// Tokens of reasoning.
    pub reasoning_tokens: Option<u64>,
    /// From the call to the first part of a stream.
    pub time_to_first_chunk: Option<Duration>,
}

impl GenAiOperation {
    /// The value of `gen_ai.operation.name`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::TextCompletion => "text_completion",
            Self::Embeddings => "embeddings",
        }
    }
}
