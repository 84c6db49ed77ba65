//! Messages events of an expert that speaks Messages itself, on their way to a Messages client.

use super::answer::error_fields;
use crate::Limits;
use crate::error::Failure;
use crate::json::Json;
use crate::message::{Ended, Event, Tokens, Usage};
use crate::sse::{self, Parser};

/// Passes a stream on, in pieces of any size: every event as it is, but for the model's name. It always ends
/// with `message_stop` or with an `error` event.
pub struct Relay {
    parser: Parser,
    events: Events,
}

/// Shows nothing of the answer.
impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").finish_non_exhaustive()
    }
}

impl Relay {
    /// A stream in which `model`, if given, stands for the expert's own name.
    pub fn new(model: Option<String>, limits: Limits) -> Self {
        let events = Events { model, usage: None, stopped: false, ended: None };
        Self { parser: Parser::new(limits.event), events }
    }

    /// Passes the next bytes of the expert's stream on; appends to `out`.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        if self.events.ended.is_none() {
            self.parser.push(piece, |event| self.events.take(&event, out));
        }
    }

    /// Ends the stream, whether the expert ended it or it was cut: an answer that is not whole ends with an
    /// `error` event that says `failure`.
    pub fn finish(&mut self, failure: &'static str, out: &mut Vec<u8>) -> Ended {
        if self.events.ended.is_none() {
            // An event that is cut in two says no more than that the stream is.
            self.parser.finish(|event| {
                if let sse::Event::Data(data) = &event
                    && serde_json::from_slice::<Event<'_>>(data).is_err()
                {
                    return;
                }
                self.events.take(&event, out);
            });
        }
        if self.events.ended.is_none() {
            if self.events.stopped {
                write(out, "message_stop", b"{\"type\":\"message_stop\"}");
                self.events.ended = Some(Ended::Repaired);
            } else {
                self.events.fail(&Failure::server(failure), out);
            }
        }
        self.events.ended.unwrap_or(Ended::Cut)
    }

    /// Whether it ended with an error: nothing that comes after is of use.
    pub fn is_broken(&self) -> bool {
        self.events.ended == Some(Ended::Cut)
    }

    /// What the expert counted so far.
    pub fn tokens(&self) -> Option<Tokens> {
        self.events.usage.map(|usage| usage.tokens())
    }
}

struct Events {
    model: Option<String>,
    usage: Option<Usage>,
    /// Whether the answer has said why it ended.
    stopped: bool,
    ended: Option<Ended>,
}

impl Events {
    fn take(&mut self, event: &sse::Event<'_>, out: &mut Vec<u8>) {
        if self.ended.is_some() {
            return;
        }
        match event {
            sse::Event::Comment => out.extend_from_slice(b":\n\n"),
            sse::Event::TooLong => {
                self.fail(&Failure::server("the expert sent an event that is too long"), out);
            }
            sse::Event::Data(data) => match data.trim_ascii() {
                b"" | b"[DONE]" => {}
                data => match serde_json::from_slice::<Event<'_>>(data) {
                    Ok(event) => self.event(&event, data, out),
                    Err(_) => {
                        self.fail(
                            &Failure::server("the expert sent an event that is none of a message"),
                            out,
                        );
                    }
                },
            },
        }
    }

    fn event(&mut self, event: &Event<'_>, data: &[u8], out: &mut Vec<u8>) {
        if let Some(usage) = event.message.as_ref().and_then(|message| message.usage).or(event.usage) {
            self.usage.get_or_insert_default().update(&usage);
        }
        let name = &*event.r#type.0;
        let model = event.message.as_ref().and_then(|message| message.model);
        match (&self.model, model) {
            (Some(shown), Some(raw)) => {
                // Borrowed from the data, so the difference of addresses is the position in it.
                let start = raw.get().as_ptr() as usize - data.as_ptr() as usize;
                let mut changed = data[..start].to_vec();
                // Not after the colon only: a comma must not come before a value after a blank.
                let mut literal = Vec::new();
                Json(&mut literal).string(shown);
                changed.extend_from_slice(&literal);
                changed.extend_from_slice(&data[start + raw.get().len()..]);
                write(out, name, &changed);
            }
            _ => write(out, name, data),
        }
        match name {
            "message_delta" => {
                self.stopped |= event.delta.as_ref().is_some_and(|delta| delta.stop_reason.is_some());
            }
            "message_stop" => self.ended = Some(Ended::Complete),
            "error" => self.ended = Some(Ended::Cut),
            _ => {}
        }
    }

    fn fail(&mut self, failure: &Failure, out: &mut Vec<u8>) {
        self.ended = Some(Ended::Cut);
        let mut data = Vec::new();
        Json(&mut data).typed("error", |o| error_fields(o, failure));
        write(out, "error", &data);
    }
}

/// Writes one event. Line ends between tokens become blanks, so that it fits on a line.
fn write(out: &mut Vec<u8>, name: &str, data: &[u8]) {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    {
        for part in ["event: ", name, "\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    out.extend_from_slice(b"data: ");
    out.extend(data.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }));
    out.extend_from_slice(b"\n\n");
}
