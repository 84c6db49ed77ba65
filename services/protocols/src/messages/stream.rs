//! Chat completion chunks to Messages events.

use serde_json::value::RawValue;

use super::answer::{stop_fields, usage};
use super::{Echo, SIGNATURE};
use crate::chat::{End, Usage};
use crate::error::Failure;
use crate::json::Json;
use crate::stream::{Block, Flow, Sink};
use crate::{Limits, Stamp};

/// Translates a stream, in pieces of any size. It always ends with `message_stop` or with an `error` event.
pub struct Stream(Flow<Events>);

/// Shows nothing of the answer.
impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl Stream {
    /// A stream that answers the request which `echo` comes from.
    pub fn new(echo: Echo, stamp: Stamp, limits: Limits) -> Self {
        let events = Events { echo, id: stamp.id, blocks: 0, open: Open::Nothing, refused: false };
        Self(Flow::new(events, limits))
    }

    /// Translates the next bytes of the expert's stream; appends to `out`.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        self.0.push(piece, out);
    }

    /// Ends the stream, whether the expert ended it or it was cut: an answer that is not whole ends with an
    /// `error` event.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.0.finish(out);
    }
}

struct Events {
    echo: Echo,
    id: String,
    /// How many blocks have been opened.
    blocks: u64,
    open: Open,
    refused: bool,
}

/// The block that deltas go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Nothing,
    /// One that the client does not see.
    Hidden,
    Thinking,
    Text,
    Tool,
}

/// Writes one event: its name stands outside and inside of its data.
fn event(out: &mut Vec<u8>, name: &str, fields: impl FnOnce(&mut Json<'_>)) {
    for part in ["event: ", name, "\ndata: "] {
        out.extend_from_slice(part.as_bytes());
    }
    Json(out).typed(name, fields);
    out.extend_from_slice(b"\n\n");
}

impl Sink for Events {
    fn begin(&mut self, model: Option<&str>, out: &mut Vec<u8>) {
        event(out, "message_start", |o| {
            o.key("message").object(|o| {
                o.key("id").string(&self.id);
                o.key("type").string("message");
                o.key("role").string("assistant");
                o.key("model").string(model.unwrap_or(&self.echo.model));
                o.key("content").raw("[]");
                o.key("stop_reason").raw("null");
                o.key("stop_sequence").raw("null");
                // Counts are known at the end, and stand in `message_delta`.
                usage(o, &Usage::default());
            });
        });
        event(out, "ping", |_| {});
    }

    fn open(&mut self, block: Block<'_>, out: &mut Vec<u8>) {
        self.open = match block {
            Block::Thinking if !self.echo.thinking => {
                self.open = Open::Hidden;
                return;
            }
            Block::Thinking => Open::Thinking,
            Block::Text => Open::Text,
            Block::Refusal => {
                self.refused = true;
                Open::Text
            }
            Block::Tool { .. } => Open::Tool,
        };
        let index = self.blocks;
        self.blocks += 1;
        event(out, "content_block_start", |o| {
            o.key("index").number(index).key("content_block");
            match block {
                Block::Thinking => o.typed("thinking", |o| {
                    o.key("thinking").string("").key("signature").string("");
                }),
                Block::Text | Block::Refusal => o.typed("text", |o| {
                    o.key("text").string("");
                }),
                Block::Tool { id, name } => o.typed("tool_use", |o| {
                    o.key("id");
                    match id {
                        Some(id) => o.string(id),
                        None => o.string_of(&["toolu_", &self.id, "_", &index.to_string()]),
                    };
                    o.key("name").string(name).key("input").raw("{}");
                }),
            };
        });
    }

    fn delta(&mut self, text: &str, _: Option<&RawValue>, out: &mut Vec<u8>) -> Result<(), Failure> {
        let (kind, key) = match self.open {
            Open::Nothing | Open::Hidden => return Ok(()),
            Open::Thinking => ("thinking_delta", "thinking"),
            Open::Text => ("text_delta", "text"),
            Open::Tool => ("input_json_delta", "partial_json"),
        };
        self.block_delta(kind, key, text, out);
        Ok(())
    }

    fn close(&mut self, _: bool, out: &mut Vec<u8>) {
        let open = std::mem::replace(&mut self.open, Open::Nothing);
        if matches!(open, Open::Nothing | Open::Hidden) {
            return;
        }
        if open == Open::Thinking {
            self.block_delta("signature_delta", "signature", SIGNATURE, out);
        }
        event(out, "content_block_stop", |o| {
            o.key("index").number(self.blocks - 1);
        });
    }

    fn end(&mut self, end: &End, out: &mut Vec<u8>) {
        event(out, "message_delta", |o| {
            o.key("delta").object(|o| stop_fields(o, end, self.refused, &self.echo));
            usage(o, &end.usage.unwrap_or_default());
        });
        event(out, "message_stop", |_| {});
    }

    fn fail(&mut self, failure: &Failure, out: &mut Vec<u8>) {
        event(out, "error", |o| super::answer::error_fields(o, failure));
    }

    fn beat(&mut self, out: &mut Vec<u8>) {
        event(out, "ping", |_| {});
    }
}

impl Events {
    fn block_delta(&self, kind: &str, key: &str, text: &str, out: &mut Vec<u8>) {
        event(out, "content_block_delta", |o| {
            o.key("index").number(self.blocks - 1);
            o.key("delta").typed(kind, |o| {
                o.key(key).string(text);
            });
        });
    }
}
