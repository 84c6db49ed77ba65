//! A stream of chat completion chunks as a sequence of blocks, the form that both protocols want.
//!
//! Chat completions may mix text, reasoning and the arguments of several tool calls in any order. The other
//! protocols have blocks, one after the other: a tool call's block is held open until its arguments are
//! whole, and what belongs to other blocks waits for it. In the ordinary case, where experts send one thing
//! after the other, nothing waits.

mod complete;

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::Limits;
use crate::chat::{Choice, Completion, End, Finish, ToolCall, Usage};
use crate::error::Failure;
use crate::sse::{Event, Parser};
use complete::Completeness;

/// More tool calls than this in one answer are taken for a failure.
const MOST_CALLS: usize = 256;
/// And so are more blocks than this that wait for another's end.
const MOST_WAITING: usize = 1024;
/// What a waiting block or a known call costs beside its text.
const OVERHEAD: usize = 64;

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block<'a> {
    Thinking,
    Text,
    Refusal,
    /// A tool call; `id` is `None` when the expert gave none.
    Tool {
        id: Option<&'a str>,
        name: &'a str,
    },
}

/// Writes a protocol's events. Between [`Sink::open`] and [`Sink::close`] there is one block.
pub(crate) trait Sink {
    /// The answer begins. Comes first, and once, unless the stream fails at once.
    fn begin(&mut self, model: Option<&str>, out: &mut Vec<u8>);
    fn open(&mut self, block: Block<'_>, out: &mut Vec<u8>);
    /// The block goes on by `text`; `logprobs` is an array of its tokens.
    fn delta(&mut self, text: &str, logprobs: Option<&RawValue>, out: &mut Vec<u8>) -> Result<(), Failure>;
    /// The block ends; `whole` unless the answer ran into a limit in it.
    fn close(&mut self, whole: bool, out: &mut Vec<u8>);
    /// The answer is whole. Comes last.
    fn end(&mut self, end: &End, out: &mut Vec<u8>);
    /// The answer broke off, perhaps inside a block, perhaps before it began. Comes last.
    fn fail(&mut self, failure: &Failure, out: &mut Vec<u8>);
    /// The expert is alive, but has nothing to say.
    fn beat(&mut self, out: &mut Vec<u8>);
}

/// Puts an expert's stream in order for a [`Sink`].
pub(crate) struct Flow<S> {
    parser: Parser,
    order: Order<S>,
}

impl<S: Sink> Flow<S> {
    pub(crate) fn new(sink: S, limits: Limits) -> Self {
        let order = Order {
            sink,
            limit: limits.answer,
            begun: false,
            ended: false,
            open: None,
            calls: Vec::new(),
            waiting: Vec::new(),
            kept: 0,
            finish: None,
            stop_sequence: None,
            usage: None,
        };
        Self { parser: Parser::new(limits.event), order }
    }

    pub(crate) fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        if !self.order.ended {
            self.parser.push(piece, |event| self.order.take(&event, out));
        }
    }

    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.order.ended {
            // An event that is cut in two says no more than that the stream is.
            self.parser.finish(|event| self.order.take_last(&event, out));
            self.order.finish(false, out);
        }
    }
}

/// Whose text a delta is. Tool calls are known by their place in `calls`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Thinking,
    Text,
    Refusal,
    Tool(usize),
}

/// A tool call that the stream has mentioned.
struct Call {
    index: Option<u64>,
    id: Option<String>,
    name: Option<String>,
    arguments: Completeness,
    closed: bool,
}

struct Order<S> {
    sink: S,
    limit: usize,
    begun: bool,
    ended: bool,
    open: Option<Lane>,
    calls: Vec<Call>,
    /// What waits for the open block's end.
    waiting: Vec<(Lane, String)>,
    /// Bytes of calls and waiting text.
    kept: usize,
    finish: Option<Finish>,
    stop_sequence: Option<String>,
    usage: Option<Usage>,
}

impl<S: Sink> Order<S> {
    fn take(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        if self.ended {
            return;
        }
        let result = match event {
            Event::Comment => {
                if self.begun {
                    self.sink.beat(out);
                }
                Ok(())
            }
            Event::TooLong => Err(Failure::server("the expert sent an event that is too long")),
            Event::Data(data) => match data.trim_ascii() {
                b"" => Ok(()),
                b"[DONE]" => {
                    self.finish(true, out);
                    Ok(())
                }
                data => match serde_json::from_slice::<Completion<'_>>(data) {
                    Ok(chunk) => self.chunk(chunk, out),
                    Err(_) => {
                        Err(Failure::server("the expert sent an event that is no chat completion chunk"))
                    }
                },
            },
        };
        if let Err(failure) = result {
            self.fail(&failure, out);
        }
    }

    /// Takes an event that the stream's end has cut, if it is whole.
    fn take_last(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        if let Event::Data(data) = event
            && data.trim_ascii() != b"[DONE]"
            && serde_json::from_slice::<Completion<'_>>(data).is_err()
        {
            return;
        }
        self.take(event, out);
    }

    fn fail(&mut self, failure: &Failure, out: &mut Vec<u8>) {
        self.ended = true;
        self.sink.fail(failure, out);
    }

    /// Ends the answer; `done` when the expert said that it is whole.
    fn finish(&mut self, done: bool, out: &mut Vec<u8>) {
        if self.ended {
            return;
        }
        if !self.begun || (!done && self.finish.is_none()) {
            return self.fail(&Failure::server("the expert's stream ended before its answer did"), out);
        }
        if let Err(failure) = self.flush(out) {
            return self.fail(&failure, out);
        }
        let finish = match self.finish {
            // Some experts stop where others call.
            None | Some(Finish::Stop) if !self.calls.is_empty() => Finish::Tools,
            Some(finish) => finish,
            None => Finish::Stop,
        };
        self.ended = true;
        let end = End { finish, stop_sequence: self.stop_sequence.take(), usage: self.usage };
        self.sink.end(&end, out);
    }

    fn chunk(&mut self, mut chunk: Completion<'_>, out: &mut Vec<u8>) -> Result<(), Failure> {
        if let Some(failure) = chunk.failure() {
            return Err(failure);
        }
        self.usage = chunk.usage.or(self.usage);
        if !self.begun && chunk.choices.is_some() {
            self.begun = true;
            self.sink.begin(chunk.model.as_ref().map(|model| &*model.0), out);
        }
        chunk.choice().map_or(Ok(()), |choice| self.choice(choice, out))
    }

    fn choice(&mut self, mut choice: Choice<'_>, out: &mut Vec<u8>) -> Result<(), Failure> {
        if let Some(delta) = choice.delta() {
            if let Some(text) = delta.reasoning() {
                self.feed(Lane::Thinking, &text, None, out)?;
            }
            if let Some(text) = &delta.content {
                self.feed(Lane::Text, &text.0, choice.logprobs(), out)?;
            }
            if let Some(text) = &delta.refusal {
                self.feed(Lane::Refusal, &text.0, None, out)?;
            }
            for call in delta.tool_calls.iter().flatten() {
                let at = self.call(call)?;
                self.feed(Lane::Tool(at), &call.arguments(), None, out)?;
            }
        }
        if let Some(finish) = choice.finish() {
            self.finish = Some(finish);
            self.stop_sequence = choice.stop_sequence().map(Cow::into_owned);
        }
        Ok(())
    }

    /// The call that a delta belongs to, which may be a new one.
    fn call(&mut self, delta: &ToolCall<'_>) -> Result<usize, Failure> {
        let known = match delta.index {
            Some(index) => self.calls.iter().rposition(|call| call.index == Some(index)),
            None => self.calls.len().checked_sub(1),
        };
        // Some experts count no calls, or give all the same number, but each an id.
        let known = known.filter(|at| match (&self.calls[*at].id, delta.id(), delta.name()) {
            (Some(old), Some(new), Some(_)) => old == new,
            _ => true,
        });
        let at = if let Some(at) = known {
            at
        } else {
            if self.calls.len() == MOST_CALLS {
                return Err(Failure::server("the expert called too many tools at once"));
            }
            self.keep(OVERHEAD)?;
            self.calls.push(Call {
                index: delta.index,
                id: None,
                name: None,
                arguments: Completeness::default(),
                closed: false,
            });
            self.calls.len() - 1
        };
        let (id, name) = (delta.id(), delta.name());
        self.keep(id.map_or(0, str::len) + name.map_or(0, str::len))?;
        let call = &mut self.calls[at];
        call.id = call.id.take().or_else(|| id.map(str::to_owned));
        call.name = call.name.take().or_else(|| name.map(str::to_owned));
        Ok(at)
    }

    /// Counts what is kept until later.
    fn keep(&mut self, bytes: usize) -> Result<(), Failure> {
        self.kept += bytes;
        if self.kept > self.limit {
            return Err(Failure::server("the expert's answer is too long to be put in order"));
        }
        Ok(())
    }

    fn feed(
        &mut self,
        lane: Lane,
        text: &str,
        logprobs: Option<&RawValue>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        // Many streams begin with empty content; a call without arguments is a call nevertheless.
        if text.is_empty() && !matches!(lane, Lane::Tool(_)) {
            return Ok(());
        }
        if let Lane::Tool(at) = lane
            && self.calls[at].closed
        {
            return if text.trim_ascii().is_empty() {
                Ok(())
            } else {
                Err(Failure::server("the expert added to the arguments of a tool call that were whole"))
            };
        }
        if self.open != Some(lane) && (!self.waiting.is_empty() || self.is_busy() || self.is_nameless(lane)) {
            self.wait(lane, text)?;
            return self.drain(out);
        }
        self.write(lane, text, logprobs, out)?;
        self.drain(out)
    }

    /// Whether the open block is a tool call whose arguments go on.
    fn is_busy(&self) -> bool {
        matches!(self.open, Some(Lane::Tool(at)) if !self.calls[at].arguments.is_whole())
    }

    /// A block cannot open without its tool's name.
    fn is_nameless(&self, lane: Lane) -> bool {
        matches!(lane, Lane::Tool(at) if self.calls[at].name.is_none())
    }

    fn wait(&mut self, lane: Lane, text: &str) -> Result<(), Failure> {
        self.keep(text.len())?;
        let last = self.waiting.len().wrapping_sub(1);
        let merges = |(at, (other, _)): &(usize, &mut (Lane, String))| {
            *other == lane && (*at == last || matches!(lane, Lane::Tool(_)))
        };
        if let Some((_, (_, waiting))) = self.waiting.iter_mut().enumerate().find(merges) {
            waiting.push_str(text);
            return Ok(());
        }
        if self.waiting.len() == MOST_WAITING {
            return Err(Failure::server("the expert mixed too many blocks"));
        }
        self.keep(OVERHEAD)?;
        self.waiting.push((lane, text.to_owned()));
        Ok(())
    }

    /// Writes what need not wait any longer.
    fn drain(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        while let Some((lane, _)) = self.waiting.first() {
            if self.is_busy() || self.is_nameless(*lane) {
                break;
            }
            let (lane, text) = self.waiting.remove(0);
            self.kept = self.kept.saturating_sub(text.len() + OVERHEAD);
            self.write(lane, &text, None, out)?;
        }
        Ok(())
    }

    /// Writes all that waits, and closes the last block.
    fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        for (lane, text) in std::mem::take(&mut self.waiting) {
            if self.is_nameless(lane) {
                return Err(Failure::server("the expert called a tool without saying which"));
            }
            self.write(lane, &text, None, out)?;
        }
        self.close(!matches!(self.finish, Some(Finish::Length | Finish::Filter)), out);
        Ok(())
    }

    fn close(&mut self, whole: bool, out: &mut Vec<u8>) {
        match self.open.take() {
            None => return,
            Some(Lane::Tool(at)) => self.calls[at].closed = true,
            Some(_) => {}
        }
        self.sink.close(whole, out);
    }

    fn write(
        &mut self,
        lane: Lane,
        text: &str,
        logprobs: Option<&RawValue>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        if self.open != Some(lane) {
            self.close(true, out);
            self.open = Some(lane);
            let block = match lane {
                Lane::Thinking => Block::Thinking,
                Lane::Text => Block::Text,
                Lane::Refusal => Block::Refusal,
                Lane::Tool(at) => {
                    let call = &self.calls[at];
                    Block::Tool { id: call.id.as_deref(), name: call.name.as_deref().unwrap_or_default() }
                }
            };
            self.sink.open(block, out);
        }
        if text.is_empty() {
            return Ok(());
        }
        if let Lane::Tool(at) = lane {
            self.calls[at].arguments.feed(text);
        }
        self.sink.delta(text, logprobs, out)
    }
}
