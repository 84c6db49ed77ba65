//! Answers, whole and in pieces, as messages of the conventions.

mod message;

use protocols::sse::Event;
use serde_json::Value;

use super::{Content, MESSAGE, PART, Room, field, quoted, write_part};

/// More choices or parts than these are not taken down.
const MOST_CHOICES: usize = 64;
const MOST_PARTS: usize = 1024;

/// An answer as far as it has come. The texts' bytes are taken from the room as they come, so that what is kept
/// never exceeds what will be shown.
pub(super) struct Answer {
    room: Room,
    choices: Vec<Choice>,
}

struct Choice {
    index: u64,
    parts: Vec<Part>,
    finish: Option<Box<str>>,
}

struct Part {
    kind: Kind,
    text: String,
    cut: bool,
}

enum Kind {
    Reasoning,
    Text,
    Refusal,
    /// A tool call: its number in the answer, and its fields `id` and `name` as JSON.
    Call(u64, String),
}

impl Kind {
    fn goes_on_by(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Call(number, _), Self::Call(other, _)) => number == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl Answer {
    pub(super) fn new(limit: usize) -> Self {
        Self { room: Room::new(limit), choices: Vec::new() }
    }

    /// Notes that not all of the answer is here.
    pub(super) fn cut(&mut self) {
        self.room.cut = true;
    }

    /// Reads an event of a stream.
    pub(super) fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Data(data) => self.document(data),
            Event::Comment => {}
            Event::TooLong => self.cut(),
        }
    }

    /// Reads a whole answer, or a chunk of one; what is neither says nothing.
    pub(super) fn document(&mut self, json: &[u8]) {
        let Ok(document) = serde_json::from_slice::<Value>(json) else { return };
        let Some(choices) = document["choices"].as_array() else { return self.message(&document) };
        for choice in choices {
            self.choice(choice);
        }
    }

    /// Where the choice of this number is kept; `None` when there is no room for it.
    fn choice_at(&mut self, index: u64) -> Option<usize> {
        if let Some(at) = self.choices.iter().position(|choice| choice.index == index) {
            return Some(at);
        }
        if self.choices.len() == MOST_CHOICES || !self.room.take(MESSAGE) {
            self.cut();
            return None;
        }
        self.choices.push(Choice { index, parts: Vec::new(), finish: None });
        Some(self.choices.len() - 1)
    }

    fn choice(&mut self, said: &Value) {
        let index = said["index"].as_u64().unwrap_or(0);
        let Some(at) = self.choice_at(index) else { return };
        let (room, choice) = (&mut self.room, &mut self.choices[at]);
        // Some experts have an empty `delta` beside the message, and others the reverse.
        let message = [&said["delta"], &said["message"]];
        let message = message.into_iter().find(|m| m.as_object().is_some_and(|m| !m.is_empty()));
        let message = message.unwrap_or(&Value::Null);
        let reasoning = message["reasoning_content"].as_str().or_else(|| message["reasoning"].as_str());
        for (kind, text) in [
            (Kind::Reasoning, reasoning),
            (Kind::Text, message["content"].as_str().or_else(|| said["text"].as_str())),
            (Kind::Refusal, message["refusal"].as_str()),
        ] {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                choice.add(room, kind, text);
            }
        }
        for (at, call) in message["tool_calls"].as_array().into_iter().flatten().enumerate() {
            choice.call(room, at as u64, call);
        }
        if let Some(reason) = said["finish_reason"].as_str() {
            choice.finish = Some(reason.chars().take(64).collect::<String>().into());
        }
    }

    /// Completes the content.
    pub(super) fn finish(self, content: &mut Content) {
        if self.choices.is_empty() && !self.room.cut {
            return;
        }
        let messages: Vec<String> = self.choices.iter().map(Choice::write).collect();
        content.output = Some(format!("[{}]", messages.join(",")));
        content.finish_reasons = self.choices.into_iter().filter_map(|choice| choice.finish).collect();
        if self.room.cut {
            content.truncated.push("gen_ai.output.messages");
        }
    }
}

impl Choice {
    /// Appends to the part that is under way: the same call, or the same kind of text if nothing came after it.
    fn add(&mut self, room: &mut Room, kind: Kind, text: &str) {
        let known = match kind {
            Kind::Call(..) => self.parts.iter().rposition(|part| part.kind.goes_on_by(&kind)),
            _ => self.parts.len().checked_sub(1).filter(|last| self.parts[*last].kind.goes_on_by(&kind)),
        };
        let at = known.unwrap_or(self.parts.len());
        if known.is_none() {
            let more = if let Kind::Call(_, more) = &kind { more.len() } else { 0 };
            if self.parts.len() == MOST_PARTS || !room.take(PART + more) {
                room.cut = true;
                return;
            }
            self.parts.push(Part { kind, text: String::new(), cut: false });
        }
        let part = &mut self.parts[at];
        let fitting = room.fit(text);
        part.text.push_str(fitting);
        part.cut |= fitting.len() < text.len();
    }

    fn call(&mut self, room: &mut Room, at: u64, call: &Value) {
        let number = call["index"].as_u64().unwrap_or(at);
        let arguments = &call["function"]["arguments"];
        // Some experts send an object in place of a string that holds one.
        let whole = arguments.is_object().then(|| arguments.to_string());
        let text = arguments.as_str().or(whole.as_deref()).unwrap_or_default();
        let more = field("id", call["id"].as_str()) + &field("name", call["function"]["name"].as_str());
        self.add(room, Kind::Call(number, more), text);
    }

    fn write(&self) -> String {
        let mut parts = String::new();
        for part in &self.parts {
            let text = &part.text;
            match &part.kind {
                Kind::Reasoning => write_text(&mut parts, "reasoning", text, part.cut),
                Kind::Text => write_text(&mut parts, "text", text, part.cut),
                Kind::Refusal => write_text(&mut parts, "refusal", text, part.cut),
                Kind::Call(_, more) => {
                    write_part(&mut parts, "tool_call", "arguments", &arguments(text), part.cut, more);
                }
            }
        }
        let finish = match self.finish.as_deref() {
            Some("tool_calls" | "function_call" | "tool_use") => "tool_call",
            Some(known @ ("stop" | "length" | "content_filter")) => known,
            Some("end_turn" | "stop_sequence") => "stop",
            Some("max_tokens" | "model_context_window_exceeded") => "length",
            Some("refusal") => "content_filter",
            Some(_) => "other",
            // It broke off, or the client left.
            None => "error",
        };
        format!("{{\"role\":\"assistant\",\"parts\":[{parts}],\"finish_reason\":\"{finish}\"}}")
    }
}

fn write_text(out: &mut String, kind: &str, text: &str, cut: bool) {
    write_part(out, kind, "content", &quoted(text), cut, "");
}

/// Writes a tool call of a request, its arguments cut to what fits.
pub(super) fn write_call(out: &mut String, room: &mut Room, more: &str, text: &str) {
    if room.take(PART + more.len()) {
        let fitting = room.fit(text);
        write_part(out, "tool_call", "arguments", &arguments(fitting), fitting.len() < text.len(), more);
    }
}

/// Arguments as the JSON that they are, and as a string when they are none, or not whole.
fn arguments(text: &str) -> String {
    serde_json::from_str::<&serde_json::value::RawValue>(text)
        .map_or_else(|_| quoted(text), |json| json.get().to_owned())
}
