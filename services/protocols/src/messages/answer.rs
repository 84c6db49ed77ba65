//! Chat completion to Messages answer, and errors in Anthropic's shape.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Echo, SIGNATURE};
use crate::Stamp;
use crate::chat::{Completion, End, Finish, Message, Usage};
use crate::error::{BadAnswer, Class, Failure};
use crate::json::{Json, Kind, kind};

/// Translates a whole answer to the request which `echo` comes from.
///
/// # Errors
/// [`BadAnswer`] when the expert's body is no chat completion.
pub fn answer(body: &[u8], echo: &Echo, stamp: &Stamp) -> Result<Vec<u8>, BadAnswer> {
    let mut completion = Completion::read(body)?;
    let mut choice = completion.choice().ok_or_else(|| BadAnswer::new("it has no choice"))?;
    let message = choice.message().ok_or_else(|| BadAnswer::new("its choice has no message"))?;
    let calls = message.tool_calls.as_deref().unwrap_or_default();
    let finish = match choice.finish() {
        None | Some(Finish::Stop) if !calls.is_empty() => Finish::Tools,
        Some(finish) => finish,
        None => Finish::Stop,
    };
    let end =
        End { finish, stop_sequence: choice.stop_sequence().map(Cow::into_owned), usage: completion.usage };
    let refused = message.refusal.as_ref().is_some_and(|text| !text.0.is_empty());
    let mut out = Vec::with_capacity(body.len());
    let mut whole = Ok(());
    Json(&mut out).object(|o| {
        o.key("id").string(&stamp.id);
        o.key("type").string("message");
        o.key("role").string("assistant");
        o.key("model").string(completion.model.as_ref().map_or(&*echo.model, |model| &*model.0));
        o.key("content").array(|a| whole = content(a, &message, echo, &stamp.id));
        stop_fields(o, &end, refused, echo);
        usage(o, &end.usage.unwrap_or_default());
    });
    whole.map(|()| out)
}

fn content(a: &mut Json<'_>, message: &Message<'_>, echo: &Echo, id: &str) -> Result<(), BadAnswer> {
    if let Some(thinking) = message.reasoning()
        && echo.thinking
        && !thinking.is_empty()
    {
        a.typed("thinking", |o| {
            o.key("thinking").string(&thinking).key("signature").string(SIGNATURE);
        });
    }
    for text in [&message.content, &message.refusal].into_iter().flatten().filter(|text| !text.0.is_empty()) {
        a.typed("text", |o| {
            o.key("text").string(&text.0);
        });
    }
    for (at, call) in message.tool_calls.iter().flatten().enumerate() {
        let name = call.name().ok_or_else(|| BadAnswer::new("it has a tool call without a name"))?;
        a.typed("tool_use", |o| {
            o.key("id");
            match call.id() {
                Some(id) => o.string(id),
                None => o.string_of(&["toolu_", id, "_", &at.to_string()]),
            };
            o.key("name").string(name).key("input");
            input(o, &call.arguments());
        });
    }
    Ok(())
}

/// Arguments as an object; what is none is wrapped as Anthropic's documentation does it.
pub(crate) fn input(o: &mut Json<'_>, arguments: &str) {
    if arguments.trim_ascii().is_empty() {
        o.raw("{}");
    } else if serde_json::from_str::<&RawValue>(arguments).is_ok_and(|raw| kind(raw) == Kind::Object) {
        o.raw(arguments.trim_ascii());
    } else {
        o.object(|o| {
            o.key("INVALID_JSON").string(arguments);
        });
    }
}

/// The fields that say why an answer ended.
pub(super) fn stop_fields(o: &mut Json<'_>, end: &End, refused: bool, echo: &Echo) {
    let sequence = end.stop_sequence.as_deref().filter(|met| echo.stop_sequences.iter().any(|s| s == met));
    let reason = match end.finish {
        Finish::Filter => "refusal",
        _ if refused => "refusal",
        Finish::Stop if sequence.is_some() => "stop_sequence",
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
        Finish::Tools => "tool_use",
    };
    o.key("stop_reason").string(reason).key("stop_sequence");
    match sequence.filter(|_| reason == "stop_sequence") {
        Some(sequence) => o.string(sequence),
        None => o.raw("null"),
    };
}

/// The field `usage`. Anthropic counts what the cache read and wrote apart from other input.
pub(super) fn usage(o: &mut Json<'_>, usage: &Usage) {
    o.key("usage").object(|o| {
        let apart = usage.cached().saturating_add(usage.written());
        o.key("input_tokens").number(usage.input().saturating_sub(apart));
        o.key("cache_creation_input_tokens").number(usage.written());
        o.key("cache_read_input_tokens").number(usage.cached());
        o.key("output_tokens").number(usage.output());
        if let Some(thinking) = usage.reasoning() {
            o.key("output_tokens_details").object(|o| {
                o.key("thinking_tokens").number(thinking);
            });
        }
    });
}

/// An OpenAI error body in Anthropic's shape. The type follows the status; a body that is no error object
/// gives a message that says no more than the status does.
pub fn error(status: u16, body: &[u8], request_id: &str) -> Vec<u8> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        error: &'a RawValue,
    }
    let failure = match serde_json::from_slice::<Envelope<'_>>(body) {
        Ok(envelope) => Failure::read(envelope.error, Some(status)),
        Err(_) => Failure {
            class: Class::of_status(status),
            message: Cow::Owned(format!("the request failed with status {status}")),
        },
    };
    let mut out = Vec::with_capacity(body.len() + 64);
    Json(&mut out).typed("error", |o| {
        error_fields(o, &failure);
        o.key("request_id").string(request_id);
    });
    out
}

pub(super) fn error_fields(o: &mut Json<'_>, failure: &Failure) {
    let kind = match failure.class {
        Class::Invalid => "invalid_request_error",
        Class::Authentication => "authentication_error",
        Class::Billing => "billing_error",
        Class::Permission => "permission_error",
        Class::NotFound => "not_found_error",
        Class::TooLarge => "request_too_large",
        Class::RateLimit => "rate_limit_error",
        Class::Timeout => "timeout_error",
        Class::Overloaded => "overloaded_error",
        Class::Server => "api_error",
    };
    o.key("error").typed(kind, |o| {
        o.key("message").string(&failure.message);
    });
}
