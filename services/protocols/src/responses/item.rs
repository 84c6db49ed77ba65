//! Items of an answer, and the answer around them.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Echo;
use crate::Stamp;
use crate::chat::{Finish, Usage};
use crate::error::{Class, Failure};
use crate::json::{self, Json};
use crate::stream::Block;

/// What an item holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Reasoning, in the words of the model or summed up.
    Reasoning,
    Summary,
    Text,
    Refusal,
    Function,
    /// A function for the expert, a tool with free text for the client.
    Custom,
}

/// An item, without the text that it holds.
pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) id: String,
    call_id: String,
    name: String,
}

impl Item {
    /// The item at `index` of an answer.
    pub(super) fn new(block: Block<'_>, index: u64, echo: &Echo, stamp: &Stamp) -> Self {
        let kind = match block {
            Block::Thinking if echo.summary => Kind::Summary,
            Block::Thinking => Kind::Reasoning,
            Block::Text => Kind::Text,
            Block::Refusal => Kind::Refusal,
            Block::Tool { name, .. } if echo.custom_tools.iter().any(|custom| custom == name) => Kind::Custom,
            Block::Tool { .. } => Kind::Function,
        };
        let prefix = match kind {
            Kind::Reasoning | Kind::Summary => "rs",
            Kind::Text | Kind::Refusal => "msg",
            Kind::Function => "fc",
            Kind::Custom => "ctc",
        };
        let base = stamp.id.strip_prefix("resp_").unwrap_or(&stamp.id);
        let (call_id, name) = match block {
            Block::Tool { id: Some(id), name } => (id.to_owned(), name.to_owned()),
            Block::Tool { id: None, name } => (format!("call_{base}_{index}"), name.to_owned()),
            _ => Default::default(),
        };
        Self { kind, id: format!("{prefix}_{base}_{index}"), call_id, name }
    }

    /// Writes the item. `text` is `None` as long as it has only been announced; `logprobs` is items of an
    /// array.
    pub(super) fn write(&self, o: &mut Json<'_>, status: &str, text: Option<&str>, logprobs: &[u8]) {
        let kind = match self.kind {
            Kind::Reasoning | Kind::Summary => "reasoning",
            Kind::Text | Kind::Refusal => "message",
            Kind::Function => "function_call",
            Kind::Custom => "custom_tool_call",
        };
        o.typed(kind, |o| {
            o.key("id").string(&self.id);
            o.key("status").string(status);
            let parts = |o: &mut Json<'_>| {
                o.array(|a| {
                    if let Some(text) = text {
                        self.part(a, text, logprobs);
                    }
                });
            };
            match self.kind {
                Kind::Reasoning => {
                    o.key("summary").raw("[]").key("content");
                    parts(o);
                }
                Kind::Summary => {
                    o.key("summary");
                    parts(o);
                }
                Kind::Text | Kind::Refusal => {
                    o.key("role").string("assistant").key("content");
                    parts(o);
                }
                Kind::Function | Kind::Custom => {
                    o.key("call_id").string(&self.call_id);
                    o.key("name").string(&self.name);
                    let key = if self.kind == Kind::Custom { "input" } else { "arguments" };
                    o.key(key).string(text.unwrap_or(""));
                }
            }
        });
    }

    /// Writes the one part of an item that has parts.
    pub(super) fn part(&self, o: &mut Json<'_>, text: &str, logprobs: &[u8]) {
        match self.kind {
            Kind::Summary => o.typed("summary_text", |o| {
                o.key("text").string(text);
            }),
            Kind::Refusal => o.typed("refusal", |o| {
                o.key("refusal").string(text);
            }),
            Kind::Reasoning | Kind::Function | Kind::Custom => o.typed("reasoning_text", |o| {
                o.key("text").string(text);
            }),
            Kind::Text => o.typed("output_text", |o| {
                o.key("text").string(text).key("annotations").raw("[]");
                o.key("logprobs").array(|a| {
                    a.fragment(logprobs);
                });
            }),
        };
    }
}

/// The free text that a custom tool's arguments hold. Arguments of another form are given as they are.
pub(super) fn custom_input(arguments: &str) -> String {
    #[derive(Deserialize)]
    struct Arguments {
        input: String,
    }
    serde_json::from_str::<Arguments>(arguments).map_or_else(|_| arguments.to_owned(), |a| a.input)
}

/// A token with its log probability.
#[derive(Deserialize)]
struct Token<'a> {
    #[serde(borrow, rename = "token")]
    text: &'a RawValue,
    #[serde(borrow)]
    bytes: Option<&'a RawValue>,
    #[serde(borrow)]
    logprob: &'a RawValue,
    /// Those that might have stood in its place.
    #[serde(borrow, rename = "top_logprobs")]
    others: Option<Vec<Token<'a>>>,
}

impl Token<'_> {
    fn write(&self, a: &mut Json<'_>, with_others: bool) {
        a.object(|o| {
            o.key("token").raw(self.text.get()).key("bytes");
            match self.bytes {
                Some(bytes) => o.raw(bytes.get()),
                None => o.array(|a| {
                    for byte in json::text(self.text).unwrap_or_default().bytes() {
                        a.number(u64::from(byte));
                    }
                }),
            };
            o.key("logprob").raw(self.logprob.get());
            if with_others {
                o.key("top_logprobs").array(|a| {
                    for token in self.others.iter().flatten() {
                        token.write(a, false);
                    }
                });
            }
        });
    }
}

/// Items of an array of log probabilities, with the bytes that chat completions may leave out. What cannot
/// be read is left out.
pub(super) fn logprobs(raw: &RawValue) -> Vec<u8> {
    let mut out = Vec::new();
    for token in serde_json::from_str::<Vec<Token<'_>>>(raw.get()).unwrap_or_default() {
        token.write(&mut Json(&mut out), true);
    }
    out
}

/// What an answer is at a moment of its making.
pub(super) enum State<'a> {
    InProgress,
    /// Ended by itself or by a limit.
    Ended(Finish, Option<Usage>),
    Failed(&'a Failure),
}

/// The fields of an answer; `output` is items of an array.
pub(super) fn response(
    o: &mut Json<'_>,
    echo: &Echo,
    stamp: &Stamp,
    model: &str,
    output: &[u8],
    state: &State<'_>,
) {
    let (status, reason) = match state {
        State::InProgress => ("in_progress", None),
        State::Failed(_) => ("failed", None),
        State::Ended(Finish::Length, _) => ("incomplete", Some("max_output_tokens")),
        State::Ended(Finish::Filter, _) => ("incomplete", Some("content_filter")),
        State::Ended(Finish::Stop | Finish::Tools, _) => ("completed", None),
    };
    o.key("id").string(&stamp.id);
    o.key("object").string("response");
    o.key("created_at").number(stamp.created);
    o.key("status").string(status);
    o.key("error");
    match state {
        State::Failed(failure) => o.object(|o| {
            let code = match failure.class {
                Class::RateLimit => "rate_limit_exceeded",
                Class::Invalid | Class::TooLarge => "invalid_prompt",
                _ => "server_error",
            };
            o.key("code").string(code).key("message").string(&failure.message);
        }),
        _ => o.raw("null"),
    };
    o.key("incomplete_details");
    match reason {
        Some(reason) => o.object(|o| {
            o.key("reason").string(reason);
        }),
        None => o.raw("null"),
    };
    o.key("model").string(model);
    o.key("output").array(|a| {
        a.fragment(output);
    });
    o.key("usage");
    match state {
        State::Ended(_, Some(usage)) => write_usage(o, usage),
        _ => {
            o.raw("null");
        }
    }
    o.fragment(&echo.fields);
}

fn write_usage(o: &mut Json<'_>, usage: &Usage) {
    o.object(|o| {
        o.key("input_tokens").number(usage.input());
        o.key("input_tokens_details").object(|o| {
            o.key("cached_tokens").number(usage.cached());
            o.key("cache_write_tokens").number(usage.written());
        });
        o.key("output_tokens").number(usage.output());
        o.key("output_tokens_details").object(|o| {
            o.key("reasoning_tokens").number(usage.reasoning().unwrap_or(0));
        });
        o.key("total_tokens").number(usage.total());
    });
}
