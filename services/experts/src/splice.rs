//! Corrects an answer's bytes on their way to the client, in pieces of any size.
//!
//! Three things are looked at, all at the top level of an answer or of a stream's event: `model`, whose
//! value becomes the expert's id; `usage`, which is read; and `choices`, which tells the usage event that
//! only the gateway asked for, and that the client is not shown. Everything else passes byte for byte. A
//! byte is held back only where a decision about it is open: inside the value of `model`, and in an event
//! that may turn out to be the usage event.

mod recast;
mod scan;
mod sse;

pub(crate) use recast::Recast;
pub(crate) use sse::{Ended, EventFilter};

use bytes::Bytes;
use serde::Deserialize;

use crate::call::Usage;
use scan::{Mark, Scanner};

/// A longer `model` is passed on as it is.
const LONGEST_MODEL: usize = 1024;
/// A longer `usage` is not read.
const LONGEST_USAGE: usize = 8192;

/// Corrected bytes. A piece that needs no correction stays the shared slice that it was.
#[derive(Debug, Default)]
pub(crate) struct Output {
    whole: Bytes,
    copied: Vec<u8>,
}

impl Output {
    /// Appends bytes without copying them where nothing precedes them.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if self.len() == 0 {
            self.whole = bytes;
        } else {
            self.buffer().extend_from_slice(&bytes);
        }
    }

    /// Where corrected bytes are appended.
    fn buffer(&mut self) -> &mut Vec<u8> {
        if !self.whole.is_empty() {
            let whole = std::mem::take(&mut self.whole);
            self.copied.extend_from_slice(&whole);
        }
        &mut self.copied
    }

    pub(crate) fn len(&self) -> usize {
        self.whole.len() + self.copied.len()
    }

    /// Everything so far.
    pub(crate) fn take(&mut self) -> Bytes {
        if self.copied.is_empty() {
            std::mem::take(&mut self.whole)
        } else {
            Bytes::from(std::mem::take(&mut self.copied))
        }
    }
}

/// What happens to an answer's bytes.
#[derive(Debug)]
pub(crate) enum Filter {
    /// Nothing.
    Pass,
    /// They are one JSON document.
    Document(Editor),
    /// They are server-sent events.
    Events(Box<EventFilter>),
    /// They are the events of a message.
    Recast(Box<Recast>),
}

impl Filter {
    /// Corrects the next piece.
    pub(crate) fn push(&mut self, piece: Bytes, out: &mut Output) {
        match self {
            Self::Pass => out.push(piece),
            Self::Document(editor) => {
                let done = editor.run(&piece, out);
                out.push(piece.slice(done..));
            }
            Self::Events(events) => events.push(piece, out),
            Self::Recast(recast) => recast.push(&piece, out),
        }
    }

    /// Whether it has ended with an error already, so that nothing that comes is of use.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Recast(recast) if recast.is_broken())
    }

    /// Lets go of what was held back: no more bytes come.
    pub(crate) fn finish(&mut self, out: &mut Output) {
        match self {
            Self::Pass | Self::Recast(_) => {}
            Self::Document(editor) => editor.release(out),
            Self::Events(events) => events.finish(out),
        }
    }

    /// What the answer said about its tokens, as far as it has passed.
    pub(crate) fn usage(&self) -> Option<Usage> {
        match self {
            Self::Pass => None,
            Self::Document(editor) => editor.usage,
            Self::Events(events) => events.usage(),
            Self::Recast(recast) => recast.usage(),
        }
    }

    /// How long the event is, so far, that has begun and not ended.
    pub(crate) fn event_bytes(&self) -> u64 {
        match self {
            Self::Pass | Self::Document(_) | Self::Recast(_) => 0,
            Self::Events(events) => events.event_bytes(),
        }
    }

    /// Whether lengths stay what they are.
    pub(crate) fn keeps_length(&self) -> bool {
        match self {
            Self::Pass => true,
            Self::Document(editor) => editor.replacement.is_none(),
            Self::Events(_) | Self::Recast(_) => false,
        }
    }
}

/// Corrects a whole stream of server-sent events, given in pieces that are cut anywhere, the way a
/// [`ReplyBody`](crate::ReplyBody) does it on its way to a client: `model` stands in place of the expert's
/// own name, and the usage event that the client did not ask for is left out if `strip_usage`. A stream that
/// is not whole ends with an event whose data is `unfinished`.
pub fn correct_stream(
    pieces: impl IntoIterator<Item = Bytes>,
    model: Option<&str>,
    strip_usage: bool,
    unfinished: &str,
) -> Bytes {
    let model = model.map(|model| Bytes::from(serde_json::Value::from(model).to_string()));
    let mut events = EventFilter::new(Editor::new(model), strip_usage);
    let mut out = Output::default();
    for piece in pieces {
        events.push(piece, &mut out);
    }
    events.finish(&mut out);
    events.end(None, unfinished, &mut out);
    out.take()
}

/// Corrects one JSON document, or one event's.
#[derive(Debug)]
pub(crate) struct Editor {
    scanner: Scanner,
    /// The JSON string that stands for `model`; `None` when it stays.
    replacement: Option<Bytes>,
    /// The beginning of a `model` whose end has not come.
    held: Option<Vec<u8>>,
    /// A `usage` whose end has not come.
    capture: Option<Vec<u8>>,
    /// The last `usage` that was read.
    usage: Option<Usage>,
    /// Whether this document has a `usage` object.
    has_usage: bool,
    /// Whether this document's `choices` has elements; `None` as long as it has not come.
    choices: Option<bool>,
    /// Whether any document had a choice that finished.
    finished: bool,
}

impl Editor {
    /// `replacement` is a JSON string literal.
    pub(crate) fn new(replacement: Option<Bytes>) -> Self {
        Self {
            scanner: Scanner::new(),
            replacement,
            held: None,
            capture: None,
            usage: None,
            has_usage: false,
            choices: None,
            finished: false,
        }
    }

    /// Corrects `piece` into `out` and says how much of it is dealt with; the rest needs no correction and
    /// is the caller's to append.
    fn run(&mut self, piece: &[u8], out: &mut Output) -> usize {
        let (mut done, mut at, mut captured) = (0, 0, 0);
        while let Some(mark) = self.scanner.next(piece, &mut at) {
            match mark {
                Mark::ModelOpen(open) if self.replacement.is_some() => {
                    out.buffer().extend_from_slice(&piece[done..open]);
                    done = open;
                    self.held = Some(Vec::new());
                }
                Mark::ModelClose(close) => {
                    if let (Some(model), Some(_)) = (&self.replacement, self.held.take()) {
                        out.buffer().extend_from_slice(model);
                        done = close;
                    }
                }
                Mark::UsageOpen(open) => {
                    self.capture = Some(Vec::new());
                    self.has_usage = true;
                    captured = open;
                }
                Mark::UsageClose(close) => self.read_usage(&piece[captured..close]),
                // Once is enough: what is decided must not depend on where the stream was cut.
                Mark::NoChoices => self.choices = self.choices.or(Some(false)),
                Mark::Choices => self.choices = Some(true),
                Mark::Finish => self.finished = true,
                Mark::ModelOpen(_) => {}
            }
        }
        if let Some(capture) = &mut self.capture {
            let more = &piece[captured..];
            if capture.len() + more.len() > LONGEST_USAGE {
                self.capture = None;
            } else {
                capture.extend_from_slice(more);
            }
        }
        if let Some(held) = &mut self.held {
            held.extend_from_slice(&piece[done..]);
            done = piece.len();
            if held.len() > LONGEST_MODEL {
                self.release(out);
            }
        }
        done
    }

    fn read_usage(&mut self, last: &[u8]) {
        let Some(mut capture) = self.capture.take() else { return };
        let parsed = if capture.is_empty() {
            serde_json::from_slice::<WireUsage>(last)
        } else {
            capture.extend_from_slice(last);
            serde_json::from_slice(&capture)
        };
        if let Ok(usage) = parsed {
            self.usage = Some(usage.into());
        }
    }

    /// Gives back a `model` that did not end: it stays as it came.
    fn release(&mut self, out: &mut Output) {
        if let Some(held) = self.held.take() {
            out.buffer().extend_from_slice(&held);
        }
    }

    /// Begins the next document.
    fn reset(&mut self) {
        self.scanner = Scanner::new();
        self.held = None;
        self.capture = None;
        self.has_usage = false;
        self.choices = None;
    }
}

/// Usage on the wire: chat and completions give both counts, embeddings the prompt's and the total. Messages
/// have other names, and count apart what the cache read and wrote.
#[derive(Deserialize)]
struct WireUsage {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    total_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<WireDetails>,
    #[serde(default)]
    input_tokens: Option<u64>,
    #[serde(default)]
    output_tokens: Option<u64>,
    #[serde(default)]
    cache_read_input_tokens: Option<u64>,
    #[serde(default)]
    cache_creation_input_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct WireDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

impl From<WireUsage> for Usage {
    fn from(wire: WireUsage) -> Self {
        if let Some(input) = wire.input_tokens {
            let cached_tokens = wire.cache_read_input_tokens.unwrap_or(0);
            let apart = cached_tokens.saturating_add(wire.cache_creation_input_tokens.unwrap_or(0));
            let completion_tokens = wire.output_tokens.unwrap_or(0);
            return Self { prompt_tokens: input.saturating_add(apart), completion_tokens, cached_tokens };
        }
        let total = wire.total_tokens.unwrap_or(0);
        let prompt_tokens =
            wire.prompt_tokens.unwrap_or_else(|| total.saturating_sub(wire.completion_tokens.unwrap_or(0)));
        let completion_tokens = wire.completion_tokens.unwrap_or_else(|| total.saturating_sub(prompt_tokens));
        let cached_tokens = wire.prompt_tokens_details.and_then(|d| d.cached_tokens).unwrap_or(0);
        Self { prompt_tokens, completion_tokens, cached_tokens }
    }
}

#[cfg(test)]
mod tests;
