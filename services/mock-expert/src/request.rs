//! The parts of a request that the mock looks at; everything else is ignored.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::dictated::Dictated;

/// Longest excerpt of a message, in characters.
const EXCERPT: usize = 120;
/// Most choices of one answer.
const MOST_CHOICES: usize = 128;

/// The body of `/v1/chat/completions`.
#[derive(Debug, Deserialize)]
pub(crate) struct Chat<'a> {
    #[serde(borrow)]
    pub(crate) model: Cow<'a, str>,
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
    #[serde(borrow, default)]
    tools: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_choice: Option<&'a RawValue>,
    #[serde(borrow, default)]
    response_format: Option<&'a RawValue>,
    #[serde(default)]
    logprobs: Option<bool>,
    #[serde(default)]
    top_logprobs: Option<usize>,
    #[serde(default)]
    max_completion_tokens: Option<usize>,
    #[serde(default)]
    max_tokens: Option<usize>,
    #[serde(default)]
    n: Option<usize>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    /// The answer, where the request says it.
    #[serde(default)]
    pub(crate) mock_answer: Option<Box<Dictated>>,
}

#[derive(Debug, Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

/// The body of `/v1/completions`.
#[derive(Debug, Deserialize)]
pub(crate) struct Completion<'a> {
    #[serde(borrow)]
    pub(crate) model: Cow<'a, str>,
    #[serde(default)]
    prompt: Value,
    #[serde(default)]
    logprobs: Option<usize>,
    #[serde(default)]
    max_tokens: Option<usize>,
    #[serde(default)]
    n: Option<usize>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
}

/// The body of `/v1/embeddings`.
#[derive(Debug, Deserialize)]
pub(crate) struct Embedding<'a> {
    #[serde(borrow)]
    pub(crate) model: Cow<'a, str>,
    input: Value,
    #[serde(default)]
    pub(crate) dimensions: Option<usize>,
    #[serde(default)]
    pub(crate) encoding_format: Option<String>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// How the answer is to be given, the same for chats and completions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) choices: usize,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    /// `Some(k)`: log probabilities with the `k` best alternatives of each token.
    pub(crate) logprobs: Option<usize>,
}

/// What a chat ends in.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The start of the last user message (or tool result), on one line.
    pub(crate) excerpt: String,
    /// Pictures in that message.
    pub(crate) images: usize,
    /// Whether the last message is the result of a tool.
    pub(crate) tool_result: bool,
}

impl Chat<'_> {
    pub(crate) fn form(&self) -> Form {
        Form {
            choices: self.n.unwrap_or(1).clamp(1, MOST_CHOICES),
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            stream: self.stream == Some(true),
            include_usage: self.stream_options.as_ref().is_some_and(|o| o.include_usage),
            logprobs: (self.logprobs == Some(true)).then(|| self.top_logprobs.unwrap_or(0)),
        }
    }

    /// The message that is to be answered: the last one of the user, or the result of a tool.
    pub(crate) fn asked(&self) -> Asked {
        let last = self.messages.iter().rev().find(|m| matches!(&*m.role, "user" | "tool" | "function"));
        let (text, images) = last.and_then(|m| m.content).map_or_else(Default::default, text_of);
        let tool_result = last.is_some_and(|m| m.role != "user");
        Asked { excerpt: excerpt(&text), images, tool_result }
    }

    /// A rough count: four bytes of message content make a token.
    pub(crate) fn prompt_tokens(&self) -> usize {
        let bytes: usize = self.messages.iter().filter_map(|m| m.content).map(|c| c.get().len()).sum();
        bytes / 4 + 3 * self.messages.len()
    }

    /// The tool that is to be called, as its entry in `tools`: the one that `tool_choice` names, else the
    /// first; none when the choice is `none`.
    pub(crate) fn tool(&self) -> Option<Value> {
        let tools: Vec<Value> = serde_json::from_str(self.tools?.get()).ok()?;
        let choice: Value =
            self.tool_choice.and_then(|c| serde_json::from_str(c.get()).ok()).unwrap_or_default();
        if choice == "none" {
            return None;
        }
        let named = choice.pointer("/function/name").cloned();
        match named {
            Some(name) => tools.into_iter().find(|tool| tool.pointer("/function/name") == Some(&name)),
            None => tools.into_iter().next(),
        }
    }

    /// `response_format`, when the answer has to be JSON.
    pub(crate) fn json_format(&self) -> Option<Value> {
        let format: Value = serde_json::from_str(self.response_format?.get()).ok()?;
        let json = matches!(format.get("type")?.as_str()?, "json_object" | "json_schema");
        json.then_some(format)
    }
}

impl Completion<'_> {
    pub(crate) fn form(&self) -> Form {
        Form {
            choices: self.n.unwrap_or(1).clamp(1, MOST_CHOICES),
            max_tokens: self.max_tokens,
            stream: self.stream == Some(true),
            include_usage: self.stream_options.as_ref().is_some_and(|o| o.include_usage),
            logprobs: self.logprobs,
        }
    }

    /// The prompts: one text, several, or token ids.
    pub(crate) fn prompts(&self) -> Vec<String> {
        texts(&self.prompt)
    }
}

impl Embedding<'_> {
    pub(crate) fn inputs(&self) -> Vec<String> {
        texts(&self.input)
    }
}

/// The text of a string or of an array of strings, token ids or arrays of token ids.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(items) if items.iter().any(Value::is_number) => vec![ids(items)],
        Value::Array(items) => items
            .iter()
            .map(|item| match item {
                Value::String(text) => text.clone(),
                Value::Array(tokens) => ids(tokens),
                other => other.to_string(),
            })
            .collect(),
        _ => vec![String::new()],
    }
}

fn ids(tokens: &[Value]) -> String {
    tokens.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// A message's text and its number of pictures.
fn text_of(content: &RawValue) -> (String, usize) {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Content {
        Text(String),
        Parts(Vec<Part>),
        Other(serde::de::IgnoredAny),
    }
    #[derive(Deserialize)]
    struct Part {
        #[serde(default, rename = "type")]
        kind: String,
        #[serde(default)]
        text: Option<String>,
    }
    match serde_json::from_str(content.get()) {
        Ok(Content::Text(text)) => (text, 0),
        Ok(Content::Parts(parts)) => {
            let images = parts.iter().filter(|part| part.kind == "image_url").count();
            (parts.into_iter().filter_map(|part| part.text).collect::<Vec<_>>().join(" "), images)
        }
        Ok(Content::Other(_)) | Err(_) => Default::default(),
    }
}

/// The start of a text on one line.
pub(crate) fn excerpt(text: &str) -> String {
    let mut line = String::with_capacity(EXCERPT + 8);
    let mut chars = 0;
    for word in text.split_whitespace() {
        let space = usize::from(chars > 0);
        for c in std::iter::repeat_n(' ', space).chain(word.chars()) {
            if chars == EXCERPT {
                line.push('…');
                return line;
            }
            line.push(c);
            chars += 1;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_user_message_is_the_one_that_is_answered() {
        let chat: Chat = serde_json::from_str(
            r#"{"model":"m","messages":[{"role":"user","content":"first"},{"role":"assistant","content":"a"},
                {"role":"user","content":[{"type":"text","text":"look  at\nthis"},{"type":"image_url","image_url":{"url":"u"}}]}]}"#,
        )
        .unwrap();
        let asked = chat.asked();
        assert_eq!((asked.excerpt.as_str(), asked.images, asked.tool_result), ("look at this", 1, false));
    }

    #[test]
    fn a_long_message_is_cut() {
        let cut = excerpt(&"word ".repeat(100));
        assert_eq!(cut.chars().count(), EXCERPT + 1);
        assert!(cut.ends_with('…'));
        assert_eq!(excerpt(&"ab".repeat(60)), "ab".repeat(60));
    }

    #[test]
    fn prompts_come_as_text_list_or_token_ids() {
        let prompts = |json: &str| {
            serde_json::from_str::<Completion>(&format!(r#"{{"model":"m","prompt":{json}}}"#))
                .unwrap()
                .prompts()
        };
        assert_eq!(prompts(r#""a""#), ["a"]);
        assert_eq!(prompts(r#"["a","b"]"#), ["a", "b"]);
        assert_eq!(prompts("[1,2]"), ["1 2"]);
        assert_eq!(prompts("[[1,2],[3]]"), ["1 2", "3"]);
    }
}
