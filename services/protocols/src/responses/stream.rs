//! Chat completion chunks to Responses events.

use serde_json::value::RawValue;

use super::Echo;
use super::item::{Item, Kind, State, custom_input, logprobs, response};
use crate::chat::{End, Finish};
use crate::error::Failure;
use crate::json::Json;
use crate::stream::{Block, Flow, Sink};
use crate::{Limits, Stamp};

/// Translates a stream, in pieces of any size. It always ends with `response.completed`,
/// `response.incomplete` or `response.failed`, each with the whole answer so far.
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
        let events = Events {
            model: echo.model.clone(),
            echo,
            stamp,
            limit: limits.answer,
            begun: false,
            sequence: 0,
            items: 0,
            output: Vec::new(),
            open: None,
            text: String::new(),
            logprobs: Vec::new(),
        };
        Self(Flow::new(events, limits))
    }

    /// Translates the next bytes of the expert's stream; appends to `out`.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        self.0.push(piece, out);
    }

    /// Ends the stream, whether the expert ended it or it was cut: an answer that is not whole ends with
    /// `response.failed`.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.0.finish(out);
    }
}

struct Events {
    echo: Echo,
    stamp: Stamp,
    model: String,
    limit: usize,
    begun: bool,
    /// The next event's number.
    sequence: u64,
    /// How many items have been opened.
    items: u64,
    /// The items that are done, as JSON.
    output: Vec<u8>,
    open: Option<Item>,
    /// What the open item holds so far.
    text: String,
    logprobs: Vec<u8>,
}

impl Events {
    /// Writes one event: its name stands outside and inside of its data.
    fn event(&mut self, out: &mut Vec<u8>, name: &str, fields: impl FnOnce(&Self, &mut Json<'_>)) {
        for part in ["event: ", name, "\ndata: "] {
            out.extend_from_slice(part.as_bytes());
        }
        Json(out).typed(name, |o| {
            o.key("sequence_number").number(self.sequence);
            fields(self, o);
        });
        out.extend_from_slice(b"\n\n");
        self.sequence += 1;
    }

    /// Writes an event with the whole answer.
    fn whole(&mut self, out: &mut Vec<u8>, name: &str, state: &State<'_>) {
        self.event(out, name, |this, o| {
            o.key("response").object(|o| {
                response(o, &this.echo, &this.stamp, &this.model, &this.output, state);
            });
        });
    }

    /// Writes an event about the part of the open item.
    fn about(&mut self, item: &Item, out: &mut Vec<u8>, name: &str, fields: impl FnOnce(&mut Json<'_>)) {
        self.event(out, name, |this, o| {
            o.key("item_id").string(&item.id);
            o.key("output_index").number(this.items - 1);
            match item.kind {
                Kind::Summary => {
                    o.key("summary_index").number(0);
                }
                Kind::Reasoning | Kind::Text | Kind::Refusal => {
                    o.key("content_index").number(0);
                }
                Kind::Function | Kind::Custom => {}
            }
            fields(o);
        });
    }

    fn begin_once(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            self.whole(out, "response.created", &State::InProgress);
            self.whole(out, "response.in_progress", &State::InProgress);
        }
    }

    /// Adds the open item to the answer.
    fn put(&mut self, item: &Item, status: &str) {
        item.write(&mut Json(&mut self.output), status, Some(&self.text), &self.logprobs);
    }
}

/// Names of the events of a kind of item: its part begins, goes on, is done, and its part is done.
fn names(kind: Kind) -> (Option<&'static str>, &'static str, &'static str, Option<&'static str>) {
    const ADDED: Option<&str> = Some("response.content_part.added");
    const DONE: Option<&str> = Some("response.content_part.done");
    match kind {
        Kind::Text => (ADDED, "response.output_text.delta", "response.output_text.done", DONE),
        Kind::Refusal => (ADDED, "response.refusal.delta", "response.refusal.done", DONE),
        Kind::Reasoning => (ADDED, "response.reasoning_text.delta", "response.reasoning_text.done", DONE),
        Kind::Summary => (
            Some("response.reasoning_summary_part.added"),
            "response.reasoning_summary_text.delta",
            "response.reasoning_summary_text.done",
            Some("response.reasoning_summary_part.done"),
        ),
        Kind::Function => {
            (None, "response.function_call_arguments.delta", "response.function_call_arguments.done", None)
        }
        Kind::Custom => {
            (None, "response.custom_tool_call_input.delta", "response.custom_tool_call_input.done", None)
        }
    }
}

impl Sink for Events {
    fn begin(&mut self, model: Option<&str>, out: &mut Vec<u8>) {
        if let Some(model) = model {
            model.clone_into(&mut self.model);
        }
        self.begin_once(out);
    }

    fn open(&mut self, block: Block<'_>, out: &mut Vec<u8>) {
        let item = Item::new(block, self.items, &self.echo, &self.stamp);
        self.items += 1;
        self.text.clear();
        self.logprobs.clear();
        self.event(out, "response.output_item.added", |this, o| {
            o.key("output_index").number(this.items - 1).key("item");
            item.write(o, "in_progress", None, &[]);
        });
        if let Some(added) = names(item.kind).0 {
            self.about(&item, out, added, |o| {
                o.key("part");
                item.part(o, "", &[]);
            });
        }
        self.open = Some(item);
    }

    fn delta(&mut self, text: &str, raw: Option<&RawValue>, out: &mut Vec<u8>) -> Result<(), Failure> {
        let Some(item) = self.open.take() else { return Ok(()) };
        self.text.push_str(text);
        let probabilities = raw.filter(|_| item.kind == Kind::Text).map(logprobs).unwrap_or_default();
        Json(&mut self.logprobs).fragment(&probabilities);
        let kept = self.output.len() + self.text.len() + self.logprobs.len();
        // What free text is inside of JSON shows at its end.
        if item.kind != Kind::Custom {
            self.about(&item, out, names(item.kind).1, |o| {
                o.key("delta").string(text);
                if item.kind == Kind::Text {
                    o.key("logprobs").array(|a| {
                        a.fragment(&probabilities);
                    });
                }
            });
        }
        self.open = Some(item);
        if kept > self.limit {
            return Err(Failure::server("the answer is longer than can be repeated at its end"));
        }
        Ok(())
    }

    fn close(&mut self, whole: bool, out: &mut Vec<u8>) {
        let Some(item) = self.open.take() else { return };
        let (_, delta, done, part_done) = names(item.kind);
        if item.kind == Kind::Custom {
            self.text = custom_input(&self.text);
            let text = std::mem::take(&mut self.text);
            self.about(&item, out, delta, |o| {
                o.key("delta").string(&text);
            });
            self.text = text;
        }
        let (text, probabilities) = (std::mem::take(&mut self.text), std::mem::take(&mut self.logprobs));
        self.about(&item, out, done, |o| {
            let key = match item.kind {
                Kind::Refusal => "refusal",
                Kind::Function => "arguments",
                Kind::Custom => "input",
                Kind::Text | Kind::Reasoning | Kind::Summary => "text",
            };
            o.key(key).string(&text);
            if item.kind == Kind::Text {
                o.key("logprobs").array(|a| {
                    a.fragment(&probabilities);
                });
            }
        });
        if let Some(part_done) = part_done {
            self.about(&item, out, part_done, |o| {
                o.key("part");
                item.part(o, &text, &probabilities);
            });
        }
        let status = if whole { "completed" } else { "incomplete" };
        self.event(out, "response.output_item.done", |this, o| {
            o.key("output_index").number(this.items - 1).key("item");
            item.write(o, status, Some(&text), &probabilities);
        });
        (self.text, self.logprobs) = (text, probabilities);
        self.put(&item, status);
    }

    fn end(&mut self, end: &End, out: &mut Vec<u8>) {
        let name = match end.finish {
            Finish::Stop | Finish::Tools => "response.completed",
            Finish::Length | Finish::Filter => "response.incomplete",
        };
        self.whole(out, name, &State::Ended(end.finish, end.usage));
    }

    fn fail(&mut self, failure: &Failure, out: &mut Vec<u8>) {
        self.begin_once(out);
        if let Some(item) = self.open.take() {
            self.put(&item, "incomplete");
        }
        self.whole(out, "response.failed", &State::Failed(failure));
    }

    fn beat(&mut self, out: &mut Vec<u8>) {
        // There is no event that says nothing; a comment keeps the connection alive as well.
        out.extend_from_slice(b": keep-alive\n\n");
    }
}
