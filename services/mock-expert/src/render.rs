//! Answers as the bytes of the OpenAI wire format.

mod embeddings;
mod logprobs;
mod stream;

pub(crate) use embeddings::embeddings;
pub(crate) use stream::Stream;

use crate::answer::{Answer, Choice};
use crate::request::Form;

/// A fixed time, so that the same request gets the same bytes.
pub(crate) const CREATED: u64 = 1_700_000_000;

/// Which of the two answer shapes is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Text,
}

impl Shape {
    fn id(self, digest: u64) -> String {
        match self {
            Self::Chat => format!("chatcmpl-mock-{digest:016x}"),
            Self::Text => format!("cmpl-mock-{digest:016x}"),
        }
    }
}

/// A text as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    // Writing a string into memory cannot fail.
    serde_json::to_string(text).unwrap_or_default()
}

fn usage(answer: &Answer) -> String {
    if let Some(given) = answer.dictated.as_ref().and_then(|dictated| dictated.usage.as_ref()) {
        return given.to_string();
    }
    let (prompt, completion) = (answer.prompt_tokens, answer.completion_tokens());
    format!(
        r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{}}}"#,
        prompt + completion
    )
}

/// What a choice has beside its finish reason.
fn stop_reason(answer: &Answer) -> String {
    let given = answer.dictated.as_ref().and_then(|dictated| dictated.stop_reason.as_ref());
    given.map(|reason| format!(r#","stop_reason":{reason}"#)).unwrap_or_default()
}

fn call_id(digest: u64, index: usize) -> String {
    format!("call_mock_{digest:016x}_{index}")
}

/// The whole answer as one JSON object.
pub(crate) fn whole(shape: Shape, model: &str, answer: &Answer, form: Form) -> String {
    let object = match shape {
        Shape::Chat => "chat.completion",
        Shape::Text => "text_completion",
    };
    let mut out = String::with_capacity(768);
    out.push_str(r#"{"id":""#);
    out.push_str(&shape.id(answer.id));
    out.push_str(r#"","object":""#);
    out.push_str(object);
    out.push_str(r#"","created":1700000000,"model":"#);
    out.push_str(&quoted(model));
    out.push_str(r#","choices":["#);
    for (index, choice) in answer.choices.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(r#"{"index":"#);
        out.push_str(&index.to_string());
        match shape {
            Shape::Chat => match &answer.dictated {
                Some(dictated) => {
                    out.push_str(r#","message":"#);
                    out.push_str(&dictated.message());
                }
                None => message(&mut out, choice, &call_id(answer.id, index)),
            },
            Shape::Text => {
                out.push_str(r#","text":"#);
                out.push_str(&quoted(&choice.text));
            }
        }
        out.push_str(r#","logprobs":"#);
        match form.logprobs {
            None => out.push_str("null"),
            Some(best) => out.push_str(&logprobs::of(shape, &choice.text, best).to_string()),
        }
        out.push_str(r#","finish_reason":"#);
        out.push_str(&quoted(&choice.finish));
        out.push_str(&stop_reason(answer));
        out.push('}');
    }
    out.push_str(r#"],"usage":"#);
    out.push_str(&usage(answer));
    out.push_str(r#","system_fingerprint":"fp_mock"}"#);
    out
}

fn message(out: &mut String, choice: &Choice, call_id: &str) {
    match &choice.tool {
        None => {
            out.push_str(r#","message":{"role":"assistant","content":"#);
            out.push_str(&quoted(&choice.text));
            out.push_str(r#","refusal":null}"#);
        }
        Some(name) => {
            out.push_str(
                r#","message":{"role":"assistant","content":null,"refusal":null,"tool_calls":[{"id":""#,
            );
            out.push_str(call_id);
            out.push_str(r#"","type":"function","function":{"name":"#);
            out.push_str(&quoted(name));
            out.push_str(r#","arguments":"#);
            out.push_str(&quoted(&choice.text));
            out.push_str("}}]}");
        }
    }
}

/// The list of models.
pub(crate) fn models(names: &[String]) -> String {
    let entries: Vec<String> = names.iter().map(|name| model(name)).collect();
    format!(r#"{{"object":"list","data":[{}]}}"#, entries.join(","))
}

/// One model.
pub(crate) fn model(name: &str) -> String {
    format!(r#"{{"id":{},"object":"model","created":{CREATED},"owned_by":"mock-expert"}}"#, quoted(name))
}

/// An error in OpenAI form, with all four keys.
pub(crate) fn error(message: &str, kind: &str, code: Option<&str>) -> String {
    let code = code.map_or_else(|| "null".to_owned(), quoted);
    format!(
        r#"{{"error":{{"message":{},"type":{},"param":null,"code":{code}}}}}"#,
        quoted(message),
        quoted(kind)
    )
}
