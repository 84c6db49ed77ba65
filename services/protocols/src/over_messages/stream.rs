//! Messages events to chat completion chunks.

use serde_json::value::RawValue;

use super::answer::{early_input, error_words, finish_reason, head, stop_sequence};
use super::{Echo, Ended, Tokens};
use crate::error::Failure;
use crate::json::{self, Json};
use crate::message::{Block, Delta, Event, Message, Usage};
use crate::sse::{self, Parser};
use crate::{Limits, Stamp};

/// More tool calls than this in one answer are taken for a failure.
const MOST_CALLS: usize = 256;

/// Translates a stream, in pieces of any size. It always ends with `[DONE]` or with an error.
pub struct Stream {
    parser: Parser,
    chunks: Chunks,
}

/// Shows nothing of the answer.
impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl Stream {
    /// A stream that answers the request which `echo` comes from. The stamp's id stands for the one that the
    /// expert did not give.
    pub fn new(echo: Echo, stamp: Stamp, limits: Limits) -> Self {
        let chunks = Chunks {
            echo,
            stamp,
            limit: limits.answer,
            head: Vec::new(),
            calls: Vec::new(),
            kept: 0,
            stop: None,
            stop_sequence: None,
            usage: None,
            ended: None,
        };
        Self { parser: Parser::new(limits.event), chunks }
    }

    /// Translates the next bytes of the expert's stream; appends to `out`.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        if self.chunks.ended.is_none() {
            self.parser.push(piece, |event| self.chunks.take(&event, out));
        }
    }

    /// Ends the stream, whether the expert ended it or it was cut: an answer that is not whole ends with an
    /// error that says `failure`.
    pub fn finish(&mut self, failure: &'static str, out: &mut Vec<u8>) -> Ended {
        if self.chunks.ended.is_none() {
            // An event that is cut in two says no more than that the stream is.
            self.parser.finish(|event| {
                if let sse::Event::Data(data) = &event
                    && serde_json::from_slice::<Event<'_>>(data).is_err()
                {
                    return;
                }
                self.chunks.take(&event, out);
            });
        }
        if self.chunks.ended.is_none() {
            if self.chunks.stop.is_some() {
                self.chunks.end(Ended::Repaired, out);
            } else {
                self.chunks.fail(&Failure::server(failure), out);
            }
        }
        self.chunks.ended.unwrap_or(Ended::Cut)
    }

    /// Whether it ended with an error: nothing that comes after is of use.
    pub fn is_broken(&self) -> bool {
        self.chunks.ended == Some(Ended::Cut)
    }

    /// What the expert counted so far.
    pub fn tokens(&self) -> Option<Tokens> {
        self.chunks.usage.map(|usage| usage.tokens())
    }
}

struct Chunks {
    echo: Echo,
    stamp: Stamp,
    limit: usize,
    /// The fields that every chunk begins with; empty before the first.
    head: Vec<u8>,
    calls: Vec<Call>,
    /// Bytes of what is kept of calls.
    kept: usize,
    stop: Option<String>,
    stop_sequence: Option<String>,
    usage: Option<Usage>,
    ended: Option<Ended>,
}

/// A tool call of the answer.
struct Call {
    /// Its block's place in the answer.
    block: u64,
    /// Arguments that came with the block's beginning, and count if none come after it; `None` when the block
    /// has ended, or when some have come.
    early: Option<String>,
}

impl Chunks {
    fn take(&mut self, event: &sse::Event<'_>, out: &mut Vec<u8>) {
        if self.ended.is_some() {
            return;
        }
        let result = match event {
            sse::Event::Comment => {
                beat(out);
                Ok(())
            }
            sse::Event::TooLong => Err(Failure::server("the expert sent an event that is too long")),
            sse::Event::Data(data) => match data.trim_ascii() {
                b"" | b"[DONE]" => Ok(()),
                data => match serde_json::from_slice::<Event<'_>>(data) {
                    Ok(event) => self.event(&event, out),
                    Err(_) => Err(Failure::server("the expert sent an event that is none of a message")),
                },
            },
        };
        if let Err(failure) = result {
            self.fail(&failure, out);
        }
    }

    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) -> Result<(), Failure> {
        if let Some(usage) = event.message.as_ref().and_then(|message| message.usage).or(event.usage) {
            self.usage.get_or_insert_default().update(&usage);
        }
        match &*event.r#type.0 {
            "message_start" => self.begin(event.message.as_ref(), out),
            "content_block_start" => self.open(event, out)?,
            "content_block_delta" => {
                if let Some(delta) = &event.delta {
                    self.delta(event.index, delta, out);
                }
            }
            "content_block_stop" => self.close(event.index, out),
            "message_delta" => {
                if let Some(delta) = &event.delta {
                    self.stop = delta.stop_reason.as_ref().map(|reason| reason.0.to_string());
                    self.stop_sequence = delta.stop_sequence.as_ref().map(|met| met.0.to_string());
                }
            }
            "message_stop" => self.end(Ended::Complete, out),
            "ping" => beat(out),
            "error" => {
                let Some(error) = event.error else {
                    return Err(Failure::server("the expert failed in the middle of its answer"));
                };
                self.told(error, out);
            }
            // Kinds of events that are made up later: clients are asked to expect them.
            _ => {}
        }
        Ok(())
    }

    /// The first chunk, unless it has been.
    fn begin(&mut self, message: Option<&Message<'_>>, out: &mut Vec<u8>) {
        if !self.head.is_empty() {
            return;
        }
        let id = message.and_then(|message| message.id.as_ref()).map_or(&*self.stamp.id, |id| &*id.0);
        let mut fields = Vec::with_capacity(160);
        head(&mut Json(&mut fields), id, "chat.completion.chunk", &self.stamp, &self.echo);
        self.head = fields;
        self.say(out, |o| {
            o.key("role").string("assistant").key("content").string("");
        });
    }

    /// Writes a chunk.
    fn chunk(&self, out: &mut Vec<u8>, fields: impl FnOnce(&mut Json<'_>)) {
        out.extend_from_slice(b"data: ");
        Json(out).object(|o| {
            o.fragment(&self.head);
            fields(o);
        });
        out.extend_from_slice(b"\n\n");
    }

    /// Writes a chunk of the answer.
    fn say(&self, out: &mut Vec<u8>, delta: impl FnOnce(&mut Json<'_>)) {
        self.chunk(out, |o| {
            o.key("choices").array(|a| {
                a.object(|o| {
                    o.key("index").number(0).key("delta").object(delta);
                    o.key("logprobs").raw("null").key("finish_reason").raw("null");
                });
            });
        });
    }

    fn open(&mut self, event: &Event<'_>, out: &mut Vec<u8>) -> Result<(), Failure> {
        const UNREADABLE: &str = "the expert sent a block of content that cannot be read";
        let Some(raw) = event.content_block else { return Err(Failure::server(UNREADABLE)) };
        let block: Block<'_> = serde_json::from_str(raw.get()).map_err(|_| Failure::server(UNREADABLE))?;
        self.begin(None, out);
        match &*block.r#type.0 {
            "text" => self.text("content", block.text.as_ref().map(|text| &*text.0), out),
            "thinking" => self.thinking(block.thinking.as_ref().map_or("", |text| &*text.0), "", out),
            "redacted_thinking" => self.say(out, |o| {
                o.key("thinking_blocks").array(|a| {
                    a.raw(raw.get());
                });
            }),
            "tool_use" => self.call(event.index.unwrap_or(0), &block, out)?,
            _ => {}
        }
        Ok(())
    }

    fn call(&mut self, index: u64, block: &Block<'_>, out: &mut Vec<u8>) -> Result<(), Failure> {
        let Some(name) = &block.name else {
            return Err(Failure::server("the expert called a tool without saying which"));
        };
        let at = self.calls.len();
        if at == MOST_CALLS {
            return Err(Failure::server("the expert called too many tools at once"));
        }
        let early = early_input(block.input).unwrap_or("{}");
        self.kept += early.len();
        if self.kept > self.limit {
            return Err(Failure::server("the expert's answer is too long to be put in order"));
        }
        self.calls.push(Call { block: index, early: Some(early.to_owned()) });
        self.say(out, |o| {
            o.key("tool_calls").array(|a| {
                a.object(|o| {
                    o.key("index").number(at as u64).key("id");
                    match &block.id {
                        Some(id) => o.string(&id.0),
                        None => o.string_of(&["call_", &self.stamp.id, "_", &at.to_string()]),
                    };
                    o.key("type").string("function").key("function").object(|o| {
                        o.key("name").string(&name.0).key("arguments").string("");
                    });
                });
            });
        });
        Ok(())
    }

    fn delta(&mut self, index: Option<u64>, delta: &Delta<'_>, out: &mut Vec<u8>) {
        self.begin(None, out);
        self.text("content", delta.text.as_ref().map(|text| &*text.0), out);
        let (thinking, signature) = (delta.thinking.as_ref(), delta.signature.as_ref());
        let part = |text: Option<&json::Str<'_>>| text.map_or(String::new(), |text| text.0.to_string());
        self.thinking(&part(thinking), &part(signature), out);
        let arguments = delta.partial_json.as_ref().filter(|text| !text.0.is_empty());
        if let (Some(arguments), Some(at)) = (arguments, self.call_at(index)) {
            self.calls[at].early = None;
            self.arguments(at, &arguments.0, out);
        }
    }

    /// The call that a block is. Calls of the provider's own tools are none.
    fn call_at(&self, index: Option<u64>) -> Option<usize> {
        let index = index.unwrap_or(0);
        self.calls.iter().rposition(|call| call.block == index)
    }

    fn arguments(&self, at: usize, text: &str, out: &mut Vec<u8>) {
        self.say(out, |o| {
            o.key("tool_calls").array(|a| {
                a.object(|o| {
                    o.key("index").number(at as u64).key("function").object(|o| {
                        o.key("arguments").string(text);
                    });
                });
            });
        });
    }

    fn text(&self, key: &str, text: Option<&str>, out: &mut Vec<u8>) {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            self.say(out, |o| {
                o.key(key).string(text);
            });
        }
    }

    /// Thinking, as text for those who read it, and as a part of its block for those who give it back.
    fn thinking(&self, text: &str, signature: &str, out: &mut Vec<u8>) {
        if text.is_empty() && signature.is_empty() {
            return;
        }
        self.say(out, |o| {
            if !text.is_empty() {
                o.key("reasoning_content").string(text);
            }
            o.key("thinking_blocks").array(|a| {
                a.typed("thinking", |o| {
                    o.key("thinking").string(text).key("signature").string(signature);
                });
            });
        });
    }

    /// A call without arguments has none that came in pieces.
    fn close(&mut self, index: Option<u64>, out: &mut Vec<u8>) {
        if let Some(at) = self.call_at(index)
            && let Some(early) = self.calls[at].early.take()
        {
            self.arguments(at, &early, out);
        }
    }

    fn end(&mut self, ended: Ended, out: &mut Vec<u8>) {
        self.begin(None, out);
        for at in 0..self.calls.len() {
            if let Some(early) = self.calls[at].early.take() {
                self.arguments(at, &early, out);
            }
        }
        let reason = finish_reason(self.stop.as_deref(), !self.calls.is_empty());
        self.chunk(out, |o| {
            o.key("choices").array(|a| {
                a.object(|o| {
                    o.key("index").number(0).key("delta").object(|_| {});
                    o.key("logprobs").raw("null").key("finish_reason").string(reason);
                    stop_sequence(o, self.stop_sequence.as_deref());
                });
            });
        });
        if self.echo.include_usage {
            self.chunk(out, |o| {
                o.key("choices").raw("[]");
                self.usage.unwrap_or_default().write(o);
            });
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
        self.ended = Some(ended);
    }

    /// Passes on what the expert says of its failure.
    fn told(&mut self, error: &RawValue, out: &mut Vec<u8>) {
        let kind = json::Object::read(error).ok().and_then(|mut error| error.text("type").ok().flatten());
        let (kind, code) = error_words(kind.as_deref().unwrap_or_default());
        let message = Failure::read(error, None).message;
        self.error(&message, kind, code.unwrap_or(FAILED), out);
    }

    fn fail(&mut self, failure: &Failure, out: &mut Vec<u8>) {
        self.error(&failure.message, "server_error", FAILED, out);
    }

    fn error(&mut self, message: &str, kind: &str, code: &str, out: &mut Vec<u8>) {
        self.ended = Some(Ended::Cut);
        out.extend_from_slice(b"data: ");
        Json(out).object(|o| {
            o.key("error").object(|o| {
                o.key("message").string(message).key("type").string(kind);
                o.key("param").raw("null").key("code").string(code);
            });
        });
        out.extend_from_slice(b"\n\n");
    }
}

/// The code of an error in the middle of a stream that says nothing nearer.
const FAILED: &str = "upstream_stream_failed";

/// A comment: the expert is alive, but has nothing to say.
fn beat(out: &mut Vec<u8>) {
    out.extend_from_slice(b": ping\n\n");
}
