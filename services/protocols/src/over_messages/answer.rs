//! Messages answer to chat completion, and errors in OpenAI's words.

use serde_json::value::RawValue;

use super::{Echo, Tokens};
use crate::Stamp;
use crate::error::BadAnswer;
use crate::json::{self, Json, Kind};
use crate::message::{Block, Message};

/// Translates a whole answer to the request which `echo` comes from, and says what the expert counted. The
/// stamp's id stands for the one that the expert did not give.
///
/// # Errors
/// [`BadAnswer`] when the expert's body is no message.
pub fn answer(body: &[u8], echo: &Echo, stamp: &Stamp) -> Result<(Vec<u8>, Option<Tokens>), BadAnswer> {
    let message = Message::read(body)?;
    let content = message.content.as_ref().ok_or_else(|| BadAnswer::new("it has no content"))?;
    let mut said = Said::default();
    for raw in content {
        said.block(raw, stamp)?;
    }
    let stop = message.stop_reason.as_ref().map(|reason| &*reason.0);
    let mut out = Vec::with_capacity(body.len() + 256);
    Json(&mut out).object(|o| {
        head(o, message.id.as_ref().map_or(&*stamp.id, |id| &*id.0), "chat.completion", stamp, echo);
        o.key("choices").array(|a| {
            a.object(|o| {
                o.key("index").number(0);
                o.key("message").object(|o| said.write(o));
                o.key("logprobs").raw("null");
                o.key("finish_reason").string(finish_reason(stop, !said.calls.is_empty()));
                stop_sequence(o, message.stop_sequence.as_ref().map(|met| &*met.0));
            });
        });
        if let Some(usage) = &message.usage {
            usage.write(o);
        }
    });
    Ok((out, message.usage.map(|usage| usage.tokens())))
}

/// What the blocks of an answer say.
#[derive(Default)]
struct Said {
    text: Option<String>,
    reasoning: String,
    /// The blocks that thinking came in, as they are.
    thinking: Vec<u8>,
    calls: Vec<u8>,
    made: u64,
}

impl Said {
    fn block(&mut self, raw: &RawValue, stamp: &Stamp) -> Result<(), BadAnswer> {
        let block: Block<'_> = serde_json::from_str(raw.get())
            .map_err(|_| BadAnswer::new("it has a block of content that cannot be read"))?;
        match &*block.r#type.0 {
            "text" => {
                let text = block.text.as_ref().map_or("", |text| &*text.0);
                self.text.get_or_insert_default().push_str(text);
            }
            "thinking" | "redacted_thinking" => {
                self.reasoning.push_str(block.thinking.as_ref().map_or("", |text| &*text.0));
                Json(&mut self.thinking).raw(raw.get());
            }
            "tool_use" => {
                let name =
                    block.name.as_ref().ok_or_else(|| BadAnswer::new("it has a tool call without a name"))?;
                let at = self.made;
                self.made += 1;
                Json(&mut self.calls).object(|o| {
                    o.key("id");
                    match &block.id {
                        Some(id) => o.string(&id.0),
                        None => o.string_of(&["call_", &stamp.id, "_", &at.to_string()]),
                    };
                    o.key("type").string("function").key("function").object(|o| {
                        o.key("name").string(&name.0);
                        o.key("arguments").string(block.input.map_or("{}", RawValue::get));
                    });
                });
            }
            // What the provider's own tools did.
            _ => {}
        }
        Ok(())
    }

    fn write(&self, o: &mut Json<'_>) {
        o.key("role").string("assistant").key("content");
        match &self.text {
            Some(text) => o.string(text),
            None => o.raw("null"),
        };
        o.key("refusal").raw("null");
        if !self.reasoning.is_empty() {
            o.key("reasoning_content").string(&self.reasoning);
        }
        for (name, items) in [("thinking_blocks", &self.thinking), ("tool_calls", &self.calls)] {
            if !items.is_empty() {
                o.key(name).array(|a| {
                    a.fragment(items);
                });
            }
        }
    }
}

/// The fields that every answer and every chunk begins with.
pub(super) fn head(o: &mut Json<'_>, id: &str, object: &str, stamp: &Stamp, echo: &Echo) {
    o.key("id").string(id);
    o.key("object").string(object);
    o.key("created").number(stamp.created);
    o.key("model").string(&echo.model);
}

/// Why an answer ended, in the words of chat completions.
pub(super) fn finish_reason(stop: Option<&str>, has_calls: bool) -> &'static str {
    match stop {
        Some("max_tokens" | "model_context_window_exceeded") => "length",
        Some("refusal") => "content_filter",
        Some("tool_use") => "tool_calls",
        None if has_calls => "tool_calls",
        _ => "stop",
    }
}

/// The stop sequence that was met, by the name that vLLM gave it.
pub(super) fn stop_sequence(o: &mut Json<'_>, met: Option<&str>) {
    if let Some(met) = met {
        o.key("stop_reason").string(met);
    }
}

/// The type and the code of OpenAI's for a type of Anthropic's errors.
pub fn error_words(kind: &str) -> (&'static str, Option<&'static str>) {
    match kind {
        "authentication_error" => ("authentication_error", None),
        "billing_error" => ("insufficient_quota", Some("insufficient_quota")),
        "invalid_request_error" => ("invalid_request_error", None),
        "not_found_error" => ("not_found_error", None),
        "overloaded_error" => ("server_error", Some("overloaded")),
        "permission_error" => ("permission_error", None),
        "rate_limit_error" => ("rate_limit_error", None),
        "request_too_large" => ("invalid_request_error", Some("request_too_large")),
        "timeout_error" => ("server_error", Some("upstream_timeout")),
        _ => ("server_error", None),
    }
}

/// A tool's input, as it stands at the beginning of its block; `None` when it says nothing.
pub(super) fn early_input(input: Option<&RawValue>) -> Option<&str> {
    let input = input.filter(|raw| json::kind(raw) == Kind::Object)?.get();
    (!matches!(input, "{}")).then_some(input)
}
