//! Makes the upstream's request body of the client's, by replacing spans of bytes.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use protocols::over_messages::{self, Echo, Target};
use routing::ExpertId;

use super::settings::{LlmBackend, Protocol};
use crate::call::{Call, Operation};
use crate::error::{CallError, CallErrorKind};
use crate::kind::literal;
use crate::upstream::Payload;

/// What an expert changes in every request.
pub(super) struct Composer {
    /// A JSON string.
    model: Bytes,
    /// Name and value as JSON.
    extra: Vec<(String, String)>,
    overrides: Vec<(String, String)>,
    stream_usage: bool,
    /// For an expert that speaks Messages.
    messages: Option<Box<Messages>>,
}

/// What a Messages request says that the client did not.
struct Messages {
    model: String,
    /// What clients call the model.
    shown: String,
    max_tokens: u64,
}

pub(super) struct Composed {
    pub(super) payload: Payload,
    pub(super) wanted: Wanted,
    /// Fields that could not be carried over.
    pub(super) lossy: Vec<String>,
}

/// What is made of the answer.
pub(super) enum Wanted {
    /// What it is: a chat completion, or whatever else the client asked for in OpenAI's words.
    Chat {
        /// Whether the upstream was asked for a usage event that the client did not ask for.
        strip_usage: bool,
    },
    /// A chat completion; the expert gives a message.
    Translation(Box<Echo>),
    /// What it is: a message, as the client asked for one.
    Message,
}

type Edit = (Range<usize>, Bytes);

impl Composer {
    /// `model` is what the upstream calls it.
    pub(super) fn new(settings: &LlmBackend, model: &str, id: &ExpertId) -> Self {
        let rendered = |fields: &serde_json::Map<String, serde_json::Value>| {
            fields.iter().map(|(name, value)| (name.clone(), value.to_string())).collect()
        };
        let messages =
            || Messages { model: model.to_owned(), shown: id.to_string(), max_tokens: settings.max_tokens() };
        Self {
            model: literal(model),
            messages: (settings.protocol == Protocol::Messages).then(|| Box::new(messages())),
            extra: rendered(&settings.extra_body),
            overrides: rendered(&settings.override_body),
            stream_usage: settings.stream_usage,
        }
    }

    pub(super) fn speaks_messages(&self) -> bool {
        self.messages.is_some()
    }

    pub(super) fn compose(&self, call: &Call<'_>) -> Result<Composed, CallError> {
        if let Some(messages) = &self.messages {
            return self.compose_message(call, messages);
        }
        let mut edits: Vec<Edit> = Vec::with_capacity(4);
        edits.push((call.model_span.clone(), self.model.clone()));
        let mut added = String::new();
        let strip_usage = call.stream
            && self.stream_usage
            && call.operation != Operation::Embeddings
            && call.stream_options.include_usage != Some(true);
        if strip_usage {
            ask_for_usage(call, &mut edits, &mut added)?;
        }
        if !self.extra.is_empty() || !self.overrides.is_empty() {
            self.merge(&call.body, &mut edits, &mut added)?;
        }
        let payload = finish(&call.body, edits, added)?;
        Ok(Composed { payload, wanted: Wanted::Chat { strip_usage }, lossy: Vec::new() })
    }

    /// The client's own Messages request, or the translation of another.
    fn compose_message(&self, call: &Call<'_>, messages: &Messages) -> Result<Composed, CallError> {
        let untranslatable = |detail: String| CallError::with(CallErrorKind::Untranslatable, detail);
        if call.operation != Operation::ChatCompletions {
            let what = call.operation.name();
            return Err(untranslatable(format!("speaks Messages, which know chats, but no {what}")));
        }
        let (mut edits, mut added) = (Vec::new(), String::new());
        let (body, wanted, lossy) = if let Some(own) = &call.messages {
            let model = members(own)?.into_iter().find(|(name, _)| name == "model");
            let (_, span) = model.ok_or_else(malformed)?;
            edits.push((span, self.model.clone()));
            (own.clone(), Wanted::Message, Vec::new())
        } else {
            let Messages { model, shown, max_tokens } = messages;
            let translated =
                over_messages::request(&call.body, &Target { model, shown, max_tokens: *max_tokens })
                    .map_err(|error| {
                        untranslatable(format!("speaks Messages, which cannot say this: {error}"))
                    })?;
            (translated.body.into(), Wanted::Translation(Box::new(translated.echo)), translated.lossy)
        };
        if !self.extra.is_empty() || !self.overrides.is_empty() {
            self.merge(&body, &mut edits, &mut added)?;
        }
        Ok(Composed { payload: finish(&body, edits, added)?, wanted, lossy })
    }

    fn merge(&self, body: &[u8], edits: &mut Vec<Edit>, added: &mut String) -> Result<(), CallError> {
        let members = members(body)?;
        let given: HashSet<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        for (name, value) in &self.overrides {
            for (_, at) in members.iter().filter(|(member, _)| member == name) {
                edits.push((at.clone(), Bytes::copy_from_slice(value.as_bytes())));
            }
        }
        let missing =
            self.extra.iter().chain(&self.overrides).filter(|(name, _)| !given.contains(name.as_str()));
        for (name, value) in missing {
            added.push(',');
            added.push_str(&serde_json::Value::from(name.as_str()).to_string());
            added.push(':');
            added.push_str(value);
        }
        Ok(())
    }
}

/// The body with its edits, and with members added at its end.
fn finish(body: &Bytes, mut edits: Vec<Edit>, added: String) -> Result<Payload, CallError> {
    if !added.is_empty() {
        let close = body.iter().rposition(|b| *b == b'}').ok_or_else(malformed)?;
        edits.push((close..close, Bytes::from(added)));
    }
    Ok(Payload::new(&apply(body, edits)?))
}

fn ask_for_usage(call: &Call<'_>, edits: &mut Vec<Edit>, added: &mut String) -> Result<(), CallError> {
    const ASKED: &str = "{\"include_usage\":true}";
    let Some(span) = &call.stream_options.span else {
        if memmem::find(&call.body, b"\"stream_options\"").is_some()
            && let Some((_, at)) = members(&call.body)?.into_iter().find(|(name, _)| name == "stream_options")
        {
            // It is `null`, which says nothing.
            edits.push((at, Bytes::from_static(ASKED.as_bytes())));
            return Ok(());
        }
        added.push_str(",\"stream_options\":");
        added.push_str(ASKED);
        return Ok(());
    };
    let text = call.body.get(span.clone()).ok_or_else(malformed)?;
    let members = members(text)?;
    let value = members.iter().find(|(name, _)| name == "include_usage");
    if let Some((_, at)) = value {
        edits.push((span.start + at.start..span.start + at.end, Bytes::from_static(b"true")));
    } else {
        let comma = if members.is_empty() { "" } else { "," };
        let open = span.start + 1;
        edits.push((open..open, Bytes::from(format!("\"include_usage\":true{comma}"))));
    }
    Ok(())
}

/// Replaces spans, which must not overlap.
fn apply(body: &Bytes, mut edits: Vec<Edit>) -> Result<Vec<Bytes>, CallError> {
    edits.sort_by_key(|(span, _)| (span.start, span.end));
    let mut pieces = Vec::with_capacity(2 * edits.len() + 1);
    let mut at = 0;
    for (span, text) in edits {
        if span.start < at || span.end < span.start || span.end > body.len() {
            return Err(malformed());
        }
        pieces.push(body.slice(at..span.start));
        pieces.push(text);
        at = span.end;
    }
    pieces.push(body.slice(at..));
    Ok(pieces)
}

fn malformed() -> CallError {
    CallError::with(CallErrorKind::Request, "cannot read the request's body: it is not a JSON object")
}

/// The members of a JSON object: names, and where their values stand.
fn members(text: &[u8]) -> Result<Vec<(String, Range<usize>)>, CallError> {
    struct Members(usize);
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, Range<usize>)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                // Borrowed from the text, so the difference of addresses is the position in it.
                let start = value.get().as_ptr() as usize - self.0;
                members.push((name, start..start + value.get().len()));
            }
            Ok(members)
        }
    }
    let mut reader = serde_json::Deserializer::from_slice(text);
    reader.deserialize_map(Members(text.as_ptr() as usize)).map_err(|_| malformed())
}

#[cfg(test)]
mod tests;
