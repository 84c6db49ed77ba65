//! Phase `decode`: what routing and limits need to know of a body, and where the model's name stands in it.
//!
//! The body is read once, borrowed, and kept as it came; only the bytes of `model` are ever replaced. Fields
//! that are not named here are not looked at and pass through. A body that cannot be used is refused with
//! the path of the field.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use experts::{Operation, StreamOptions};
use protocols::BadRequest;
use routing::Needs;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{ApiError, ErrorKind};
use crate::problem::{place, with_suggestion};

/// A user turn shorter than this, in bytes, does not say what it is about ("yes, please"): the turn before
/// it is read with it.
const SHORT_TURN: usize = 24;

/// Tokens per byte of text, for the estimate of the context that a request needs. English text has about
/// four bytes a token; a wrong guess only decides whether an expert is tried, never whether it answers.
pub(super) const BYTES_PER_TOKEN: usize = 4;

/// A request body, read as far as the gateway needs.
#[derive(Debug)]
pub struct Decoded {
    /// The operation asked for.
    pub operation: Operation,
    /// The body as it is sent on.
    pub body: Bytes,
    /// The requested model's name.
    pub model: String,
    /// Where the JSON value of `model` stands in `body`.
    pub model_span: Range<usize>,
    /// The text that the router reads.
    pub text: String,
    /// What an expert must be able to do.
    pub needs: Needs,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// What the client said about `stream_options`.
    pub stream_options: StreamOptions,
    /// Tokens of the prompt, estimated from its length.
    pub prompt_tokens: u64,
    /// The most tokens that the answer may have, where the request says so.
    pub answer_tokens: Option<u64>,
    /// Whether the last message is the result of a tool call.
    pub in_tool_loop: bool,
    /// The client's own body, where that is one of Anthropic's Messages and `body` is its translation.
    pub messages: Option<Bytes>,
    /// What `body` lacks although an answer would be wrong without it: only an expert that takes `messages`
    /// can answer.
    pub refused: Option<BadRequest>,
    /// A digest of the conversation's first messages, which stays the same through a session; 0 for what is
    /// no chat.
    pub conversation: u64,
}

/// Reads a body.
///
/// # Errors
/// 400 for what is not JSON, is nested deeper than `max_depth`, lacks a required field or has one of the
/// wrong type; the error names the field.
pub fn decode(operation: Operation, body: Bytes, max_depth: usize) -> Result<Decoded, ApiError> {
    let text = std::str::from_utf8(&body).map_err(|e| {
        let message = format!("the body is not valid UTF-8 (byte {})", e.valid_up_to());
        ApiError::new(ErrorKind::InvalidJson, message)
    })?;
    check_depth(text.as_bytes(), max_depth)?;
    let fields: Fields<'_> = match serde_json::from_str(text) {
        Ok(fields) => fields,
        Err(error) => return Err(explain(text, &error)),
    };
    let reading = fields.read(operation)?;
    let decoded = Decoded {
        operation,
        model: reading.model,
        model_span: reading.model_span.map_or(0..0, |raw| span(text, raw)),
        text: reading.text,
        needs: reading.needs,
        stream: reading.stream,
        stream_options: match reading.stream_options {
            Some((raw, asked)) => StreamOptions { span: Some(span(text, raw)), include_usage: asked },
            None => StreamOptions { span: None, include_usage: None },
        },
        prompt_tokens: reading.prompt_tokens,
        answer_tokens: reading.answer_tokens,
        in_tool_loop: reading.in_tool_loop,
        conversation: reading.conversation,
        messages: None,
        refused: None,
        body: Bytes::new(),
    };
    Ok(decoded.with_body(body))
}

impl Decoded {
    /// The conversation that the request belongs to, where it tells.
    pub(super) fn affinity(&self) -> Option<u64> {
        Some(self.conversation).filter(|digest| *digest != 0)
    }

    /// Keeps the body; one that names no model gets the default route's name, so that there is a place to
    /// put the expert's.
    fn with_body(mut self, body: Bytes) -> Self {
        self.body = body;
        if self.model_span.is_empty() {
            let open = self.body.iter().position(|b| *b == b'{').map_or(0, |at| at + 1);
            let value = serde_json::Value::from(self.model.as_str()).to_string();
            let rest = &self.body[open..];
            let empty = rest.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'}');
            let key = "\"model\":";
            let mut out = Vec::with_capacity(self.body.len() + key.len() + value.len() + 1);
            out.extend_from_slice(&self.body[..open]);
            out.extend_from_slice(key.as_bytes());
            let start = out.len();
            out.extend_from_slice(value.as_bytes());
            self.model_span = start..out.len();
            if !empty {
                out.push(b',');
            }
            out.extend_from_slice(rest);
            let shift = out.len() - self.body.len();
            if let Some(span) = &mut self.stream_options.span {
                *span = span.start + shift..span.end + shift;
            }
            self.body = out.into();
        }
        self
    }
}

/// The position of a borrowed value in the text it was borrowed from.
fn span(text: &str, raw: &RawValue) -> Range<usize> {
    let start = raw.get().as_ptr() as usize - text.as_ptr() as usize;
    start..start + raw.get().len()
}

/// Refuses nesting that could exhaust a parser further on. Looks at brackets outside of strings only.
fn check_depth(json: &[u8], max: usize) -> Result<(), ApiError> {
    // Most bodies have fewer brackets than they may have levels, and counting them is much faster.
    if memchr::memchr2_iter(b'{', b'[', json).take(max + 1).count() <= max {
        return Ok(());
    }
    let (mut depth, mut in_string, mut at) = (0usize, false, 0);
    while let Some(&byte) = json.get(at) {
        if in_string {
            // Everything up to the next quote or backslash is of no interest.
            match memchr::memchr2(b'"', b'\\', &json[at..]) {
                None => break,
                Some(n) => {
                    at += n;
                    if json[at] == b'\\' {
                        at += 1;
                    } else {
                        in_string = false;
                    }
                }
            }
        } else {
            match byte {
                b'"' => in_string = true,
                b'{' | b'[' => {
                    depth += 1;
                    if depth > max {
                        let message = format!("the body is nested deeper than {max} levels (byte {at})");
                        return Err(ApiError::new(ErrorKind::InvalidJson, message));
                    }
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        at += 1;
    }
    Ok(())
}

/// Says what is wrong with a body that could not be read: malformed JSON by line and column, a wrong type
/// by its path. Only a refused request pays for the second pass.
fn explain(text: &str, error: &serde_json::Error) -> ApiError {
    use serde_json::error::Category;
    if matches!(error.classify(), Category::Syntax | Category::Eof | Category::Io) {
        return ApiError::new(ErrorKind::InvalidJson, format!("the body is not valid JSON: {error}"));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, Fields<'_>>(&mut json) {
        Err(error) => {
            let (path, message) = (error.path().to_string(), error.inner().to_string());
            ApiError::new(ErrorKind::InvalidRequest, with_suggestion(&message))
                .with_param(place(&path, &message))
        }
        Ok(_) => ApiError::new(ErrorKind::InvalidRequest, error.to_string()),
    }
}

/// The fields of any operation's body that the gateway reads.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<Vec<Message<'a>>>,
    #[serde(borrow)]
    prompt: Option<Text<'a>>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    stream: Option<bool>,
    #[serde(borrow)]
    stream_options: Option<&'a RawValue>,
    tools: Option<Count>,
    functions: Option<Count>,
    #[serde(borrow)]
    response_format: Option<Typed<'a>>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow, default)]
    content: Text<'a>,
}

#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(borrow)]
    r#type: Option<Cow<'a, str>>,
}

/// Text given as a string, as a list of parts, or as a list of strings.
#[derive(Default)]
struct Text<'a> {
    parts: Vec<Cow<'a, str>>,
    images: bool,
}

impl Text<'_> {
    fn len(&self) -> usize {
        self.parts.iter().map(|p| p.len()).sum()
    }

    fn append_to(&self, out: &mut String) {
        for part in &self.parts {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(part);
        }
    }
}

struct Reading<'a> {
    model: String,
    model_span: Option<&'a RawValue>,
    text: String,
    needs: Needs,
    stream: bool,
    stream_options: Option<(&'a RawValue, Option<bool>)>,
    prompt_tokens: u64,
    answer_tokens: Option<u64>,
    in_tool_loop: bool,
    conversation: u64,
}

fn invalid(param: &str, message: impl Into<Cow<'static, str>>) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, message).with_param(param)
}

impl<'a> Fields<'a> {
    fn read(self, operation: Operation) -> Result<Reading<'a>, ApiError> {
        let model_span = self.model.filter(|raw| raw.get() != "null");
        let model = match model_span {
            None => "auto".to_owned(),
            Some(raw) => {
                serde_json::from_str::<String>(raw.get()).ok().filter(|name| !name.is_empty()).ok_or_else(
                    || invalid("model", "`model` must be a non-empty string; `auto` lets the router choose"),
                )?
            }
        };
        // A `null` model has a place in the body already; it is replaced like any other value.
        let model_span = model_span.or(self.model);
        let stream_options = match self.stream_options.filter(|raw| raw.get() != "null") {
            None => None,
            Some(raw) => {
                #[derive(Deserialize)]
                struct Options {
                    include_usage: Option<bool>,
                }
                let options: Options = serde_json::from_str(raw.get()).map_err(|_| {
                    invalid(
                        "stream_options",
                        "`stream_options` must be an object with a boolean `include_usage`",
                    )
                })?;
                Some((raw, options.include_usage))
            }
        };
        let offers_tools = [&self.tools, &self.functions].into_iter().flatten().any(|c| c.0 > 0);
        let mut text = String::new();
        let (mut images, mut in_tool_loop, mut conversation) = (false, false, 0);
        let bytes;
        match operation {
            Operation::ChatCompletions => {
                let messages = self.messages.as_deref().unwrap_or_default();
                if messages.is_empty() {
                    return Err(invalid("messages", "`messages` must be an array with at least one message"));
                }
                images = messages.iter().any(|m| m.content.images);
                bytes = messages.iter().map(|m| m.content.len()).sum();
                in_tool_loop = messages.last().is_some_and(|m| matches!(&*m.role, "tool" | "function"));
                conversation = conversation_digest(messages);
                routed_text(messages, &mut text);
            }
            Operation::Completions => {
                let prompt = self.prompt.ok_or_else(|| invalid("prompt", "`prompt` is required"))?;
                bytes = prompt.len();
                prompt.append_to(&mut text);
            }
            Operation::Embeddings => {
                let input = self.input.filter(|raw| raw.get() != "null");
                bytes = input.ok_or_else(|| invalid("input", "`input` is required"))?.get().len();
            }
        }
        let stream = self.stream.unwrap_or(false);
        let prompt_tokens = (bytes / BYTES_PER_TOKEN) as u64;
        let answer_tokens = match operation {
            Operation::Embeddings => Some(0),
            _ => self.max_completion_tokens.or(self.max_tokens),
        };
        let needs = Needs {
            tools: offers_tools,
            vision: images,
            json_schema: self.response_format.and_then(|f| f.r#type).is_some_and(|t| t != "text"),
            streaming: stream,
            context_tokens: u32::try_from(prompt_tokens.saturating_add(answer_tokens.unwrap_or(0)))
                .unwrap_or(u32::MAX),
        };
        Ok(Reading {
            model,
            model_span,
            text,
            needs,
            stream,
            stream_options,
            prompt_tokens,
            answer_tokens,
            in_tool_loop,
            conversation,
        })
    }
}

/// The last user turn, with the one before it when it is too short to say what it is about; without any
/// user turn, the last message that has text.
fn routed_text(messages: &[Message<'_>], out: &mut String) {
    let mut users = messages.iter().rev().filter(|m| m.role == "user" && m.content.len() > 0);
    match users.next() {
        None => {
            if let Some(last) = messages.iter().rev().find(|m| m.content.len() > 0) {
                last.content.append_to(out);
            }
        }
        Some(last) => {
            if last.content.len() < SHORT_TURN
                && let Some(before) = users.next()
            {
                before.content.append_to(out);
            }
            last.content.append_to(out);
        }
    }
}

/// A digest of everything up to and including the first user message: the part of a conversation that every
/// later turn repeats, and that an engine's cache holds. The same in every process, so that replicas agree.
///
/// Eight bytes a step, each multiplied and folded as `FxHash` does it: 4 KB of text take under a microsecond.
/// Whoever finds two conversations with one digest has them sent to the same endpoint.
fn conversation_digest(messages: &[Message<'_>]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |word: u64| hash = (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    let mut feed = |bytes: &[u8]| {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            mix(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        mix(u64::from_le_bytes(last));
        mix(bytes.len() as u64);
    };
    for message in messages {
        feed(message.role.as_bytes());
        for part in &message.content.parts {
            feed(part.as_bytes());
        }
        if message.role == "user" {
            break;
        }
    }
    hash
}

/// The length of an array whose items are not looked at.
struct Count(usize);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let items = Vec::<IgnoredAny>::deserialize(deserializer)?;
        Ok(Self(items.len()))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl<'de> Visitor<'de> for Whole {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string, an array of parts, or null")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text { parts: vec![Cow::Borrowed(text)], images: false })
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text { parts: vec![Cow::Owned(text.to_owned())], images: false })
            }

            fn visit_unit<E>(self) -> Result<Text<'de>, E> {
                Ok(Text::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text<'de>, A::Error> {
                let mut text = Text::default();
                while let Some(part) = seq.next_element::<Part<'de>>()? {
                    text.images |= part.image;
                    text.parts.extend(part.text);
                }
                Ok(text)
            }
        }
        deserializer.deserialize_any(Whole)
    }
}

/// One part of a message: a string, an object with a type, or a token id (which says nothing to a router).
struct Part<'a> {
    text: Option<Cow<'a, str>>,
    image: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Part<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Part<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a part: a string or an object with `type`")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Part<'de>, E> {
                Ok(Part { text: Some(Cow::Borrowed(text)), image: false })
            }

            fn visit_str<E>(self, text: &str) -> Result<Part<'de>, E> {
                Ok(Part { text: Some(Cow::Owned(text.to_owned())), image: false })
            }

            fn visit_u64<E>(self, _token: u64) -> Result<Part<'de>, E> {
                Ok(Part { text: None, image: false })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Part<'de>, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Part { text: None, image: false })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Part<'de>, A::Error> {
                let mut part = Part { text: None, image: false };
                while let Some(key) = map.next_key::<Borrowed<'de>>()? {
                    match &*key.0 {
                        "text" => part.text = Some(map.next_value::<Borrowed<'de>>()?.0),
                        "type" => part.image |= map.next_value::<Borrowed<'de>>()?.0.contains("image"),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(part)
            }
        }
        deserializer.deserialize_any(One)
    }
}

/// A string that is borrowed where it holds no escapes; `Cow` alone would always copy.
#[derive(Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests;
