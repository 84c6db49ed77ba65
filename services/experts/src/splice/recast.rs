use protocols::over_messages::{self, Echo, Tokens};
use protocols::{Limits, Stamp, messages};

use super::{Ended, Output};
use crate::call::Usage;

/// The stream of an expert that speaks Messages.
#[derive(Debug)]
pub(crate) enum Recast {
    /// On its way to a client that speaks something else: it becomes chat completion chunks.
    Chat(over_messages::Stream),
    /// On its way to a Messages client.
    Relay(messages::Relay),
}

impl Recast {
    pub(crate) fn chat(echo: Echo, stamp: Stamp, limits: Limits) -> Self {
        Self::Chat(over_messages::Stream::new(echo, stamp, limits))
    }

    /// `model` stands for the expert's own name.
    pub(crate) fn relay(model: Option<String>, limits: Limits) -> Self {
        Self::Relay(messages::Relay::new(model, limits))
    }

    pub(super) fn push(&mut self, piece: &[u8], out: &mut Output) {
        match self {
            Self::Chat(stream) => stream.push(piece, out.buffer()),
            Self::Relay(relay) => relay.push(piece, out.buffer()),
        }
    }

    /// Ends the stream: one that is not whole with an error that says `failure`.
    pub(crate) fn end(&mut self, failure: &'static str, out: &mut Output) -> Ended {
        let ended = match self {
            Self::Chat(stream) => stream.finish(failure, out.buffer()),
            Self::Relay(relay) => relay.finish(failure, out.buffer()),
        };
        match ended {
            over_messages::Ended::Complete => Ended::Complete,
            over_messages::Ended::Repaired => Ended::Repaired,
            over_messages::Ended::Cut => Ended::Cut,
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        match self {
            Self::Chat(stream) => stream.is_broken(),
            Self::Relay(relay) => relay.is_broken(),
        }
    }

    pub(super) fn usage(&self) -> Option<Usage> {
        match self {
            Self::Chat(stream) => stream.tokens(),
            Self::Relay(relay) => relay.tokens(),
        }
        .map(Usage::from)
    }
}

impl From<Tokens> for Usage {
    fn from(tokens: Tokens) -> Self {
        let Tokens { prompt, completion, cached } = tokens;
        Self { prompt_tokens: prompt, completion_tokens: completion, cached_tokens: cached }
    }
}
