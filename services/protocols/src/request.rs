//! What requests of all protocols have in common on their way to chat completions.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::error::BadRequest;
use crate::json::{self, Json, Kind, Object};
use crate::lossy::Lossy;

/// A request, translated to chat completions.
#[derive(Clone)]
pub struct Translated<E> {
    /// The body of the chat completions request.
    pub body: Vec<u8>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// The model that was asked for.
    pub model: String,
    /// JSON paths of what could not be carried over. `[]` stands for any item of an array, `[type]` for items
    /// of that type. At most 32 different ones, then `...`; each is printable ASCII, fit for a header.
    pub lossy: Vec<String>,
    /// What `body` lacks although an answer would be wrong without it: the request is a good one, but only an
    /// expert that speaks the client's own protocol can answer it.
    pub refused: Option<BadRequest>,
    /// What the answer's translation needs of the request.
    pub echo: E,
}

/// Shows nothing of the conversation.
impl<E> std::fmt::Debug for Translated<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stream, model, lossy, .. } = self;
        let mut shown = f.debug_struct("Translated");
        shown.field("stream", stream).field("model", model).field("lossy", lossy).finish_non_exhaustive()
    }
}

/// Reads a body as far as its top level.
pub(crate) fn open(body: &[u8]) -> Result<Object<'_>, BadRequest> {
    let raw: &RawValue = serde_json::from_slice(body)
        .map_err(|error| BadRequest::new(format!("the body is not valid JSON: {error}")))?;
    Object::read(raw).map_err(|_| BadRequest::new("the body must be a JSON object"))
}

pub(crate) fn model(top: &mut Object<'_>) -> Result<String, BadRequest> {
    let model = top.need_text("model")?.into_owned();
    if model.is_empty() {
        return Err(BadRequest::at("model", "must not be empty; `auto` lets the router choose"));
    }
    Ok(model)
}

/// Refuses fields of chat completions whose effect no other protocol can show.
pub(crate) fn refuse_chat_only(top: &mut Object<'_>) -> Result<(), BadRequest> {
    const REMEDY: &str = "has no place in this protocol's answer; use /v1/chat/completions";
    for name in ["audio", "function_call", "functions", "modalities"] {
        if top.take(name)?.is_some() {
            return Err(BadRequest::at(name, REMEDY));
        }
    }
    match top.take("n")? {
        Some(n) if n.get() != "1" => Err(BadRequest::at("n", REMEDY)),
        _ => Ok(()),
    }
}

/// Writes the switches of a streamed answer. Usage is always asked for, because both protocols end with it.
pub(crate) fn write_stream(out: &mut Json<'_>, stream: bool) {
    if stream {
        out.key("stream").raw("true");
        out.key("stream_options").object(|o| {
            o.key("include_usage").raw("true");
        });
    }
}

/// Carries a number over under another name.
pub(crate) fn number(
    out: &mut Json<'_>,
    top: &mut Object<'_>,
    from: &str,
    to: &str,
) -> Result<bool, BadRequest> {
    let raw = top.take_kind(from, Kind::Number)?;
    if let Some(raw) = raw {
        out.key(to).raw(raw.get());
    }
    Ok(raw.is_some())
}

/// The fields of chat completions that a translation made of others.
#[derive(Default)]
pub(crate) struct Written(Vec<&'static str>);

impl Written {
    /// Remembers a field, and gives its name back.
    pub(crate) fn add(&mut self, name: &'static str) -> &'static str {
        self.0.push(name);
        name
    }

    /// Passes on the fields that the protocol does not know, except those that the translation made.
    pub(crate) fn pass_rest(&self, out: &mut Json<'_>, top: Object<'_>, lossy: &mut Lossy) {
        for (name, raw) in top.rest() {
            // Usage is always asked for.
            if name == "stream_options" || self.0.contains(&&*name) {
                lossy.field("", &name);
            } else {
                out.key(&name).raw(raw.get());
            }
        }
    }
}

/// Lists fields that have no counterpart and do no harm by being left out.
pub(crate) fn lose(top: &mut Object<'_>, names: &[&str], lossy: &mut Lossy) -> Result<(), BadRequest> {
    for name in names {
        if top.take(name)?.is_some() {
            lossy.field("", name);
        }
    }
    Ok(())
}

/// The parts of a chat message's content.
#[derive(Default)]
pub(crate) struct Parts<'a>(Vec<Part<'a>>);

enum Part<'a> {
    /// A text, as a JSON string.
    Text(Cow<'a, str>),
    /// Another part, as a JSON object.
    Other(Vec<u8>),
}

impl<'a> Parts<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a text that is a JSON string already.
    pub(crate) fn text(&mut self, raw: &'a RawValue) {
        self.0.push(Part::Text(Cow::Borrowed(raw.get())));
    }

    pub(crate) fn own_text(&mut self, text: &str) {
        let mut literal = Vec::with_capacity(text.len() + 2);
        Json(&mut literal).string(text);
        self.0.push(Part::Text(Cow::Owned(String::from_utf8(literal).unwrap_or_default())));
    }

    pub(crate) fn other(&mut self, kind: &str, fields: impl FnOnce(&mut Json<'_>)) {
        let mut part = Vec::new();
        Json(&mut part).typed(kind, fields);
        self.0.push(Part::Other(part));
    }

    pub(crate) fn image(&mut self, url: &ImageUrl<'_>, detail: Option<&RawValue>) {
        self.other("image_url", |o| {
            o.key("image_url").object(|o| {
                o.key("url");
                match url {
                    ImageUrl::Raw(raw) => o.raw(raw.get()),
                    ImageUrl::Data { media_type, data } => {
                        let inner = json::inside(data);
                        o.raw(&["\"data:", media_type, ";base64,", inner, "\""].concat())
                    }
                };
                if let Some(detail) = detail {
                    o.key("detail").raw(detail.get());
                }
            });
        });
    }

    pub(crate) fn append(&mut self, other: &mut Self) {
        self.0.append(&mut other.0);
    }

    /// Moves everything but texts into `aside`: messages of tools hold texts only.
    pub(crate) fn split_others(&mut self, aside: &mut Self) {
        let (texts, others) =
            std::mem::take(&mut self.0).into_iter().partition(|part| matches!(part, Part::Text(_)));
        self.0 = texts;
        aside.0 = others;
    }

    /// Writes the value of `content`: one text is a string, anything else an array.
    pub(crate) fn write(&self, out: &mut Json<'_>) {
        out.key("content");
        match &self.0[..] {
            [] => {
                out.raw("\"\"");
            }
            [Part::Text(literal)] => {
                out.raw(literal);
            }
            parts => {
                out.array(|a| {
                    for part in parts {
                        match part {
                            Part::Other(json) => {
                                a.fragment(json);
                            }
                            Part::Text(literal) => {
                                a.typed("text", |o| {
                                    o.key("text").raw(literal);
                                });
                            }
                        }
                    }
                });
            }
        }
    }
}

/// Where an image is.
pub(crate) enum ImageUrl<'a> {
    /// A URL, as a JSON string.
    Raw(&'a RawValue),
    /// Base64 data, as a JSON string, of a media type that is plain text.
    Data { media_type: &'a str, data: &'a RawValue },
}

/// Whether text can stand inside a JSON string and a data URL as it is.
pub(crate) fn is_media_type(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'+' | b'.' | b'_'))
}

/// A call of a tool in a conversation, as chat completions have it.
pub(crate) struct Call<'a> {
    /// The call's id, as a JSON string.
    pub(crate) id: &'a RawValue,
    /// The tool's name, as a JSON string.
    pub(crate) name: &'a RawValue,
    /// The arguments: a JSON string that holds JSON.
    pub(crate) arguments: Cow<'a, str>,
}

/// One message of the assistant, as it is collected.
#[derive(Default)]
pub(crate) struct Assistant<'a> {
    pub(crate) content: Parts<'a>,
    pub(crate) reasoning: String,
    pub(crate) calls: Vec<Call<'a>>,
}

impl Assistant<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.content.is_empty() && self.calls.is_empty() && self.reasoning.is_empty()
    }

    pub(crate) fn write(&self, out: &mut Json<'_>) {
        out.object(|o| {
            o.key("role").string("assistant");
            if self.content.is_empty() && !self.calls.is_empty() {
                o.key("content").raw("null");
            } else {
                self.content.write(o);
            }
            if !self.reasoning.is_empty() {
                // Engines read one or the other name, and ignore the one they do not know.
                o.key("reasoning_content").string(&self.reasoning);
                o.key("reasoning").string(&self.reasoning);
            }
            if !self.calls.is_empty() {
                o.key("tool_calls").array(|a| {
                    for call in &self.calls {
                        a.object(|o| {
                            o.key("id").raw(call.id.get());
                            o.key("type").string("function");
                            o.key("function").object(|o| {
                                o.key("name").raw(call.name.get());
                                o.key("arguments").raw(&call.arguments);
                            });
                        });
                    }
                });
            }
        });
    }
}

/// Writes a tool's result. What is not text cannot stand in it and is left in `aside`, with a text before it
/// that says whose it is.
pub(crate) fn write_tool_result<'a>(
    out: &mut Json<'_>,
    id: &RawValue,
    mut content: Parts<'a>,
    aside: &mut Parts<'a>,
) {
    let mut others = Parts::default();
    content.split_others(&mut others);
    if !others.is_empty() {
        let id = json::text(id).unwrap_or_default();
        aside.own_text(&format!("Attached to the result of tool call {id}:"));
        aside.append(&mut others);
        if content.is_empty() {
            content.own_text("The result is attached to the next message.");
        }
    }
    out.object(|o| {
        o.key("role").string("tool");
        o.key("tool_call_id").raw(id.get());
        content.write(o);
    });
}
