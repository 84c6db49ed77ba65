//! What the mock answers: text that says who was asked what, a tool call, or JSON of the wanted shape.

use std::borrow::Cow;
use std::fmt::Write;

use serde_json::Value;

use crate::dictated::Dictated;
use crate::latency::mix;
use crate::request::{Asked, Chat, Form};
use crate::schema;
use crate::settings::Settings;

/// Longest piece of text without a space that counts as one token, in bytes.
const LONGEST_TOKEN: usize = 24;

/// What every choice of an answer is made of.
#[derive(Debug)]
pub(crate) struct Answer {
    /// One entry per choice.
    pub(crate) choices: Vec<Choice>,
    pub(crate) prompt_tokens: usize,
    /// Names the answer; the same request gets the same one.
    pub(crate) id: u64,
    /// What every choice says, where the request dictates it.
    pub(crate) dictated: Option<Box<Dictated>>,
}

/// One choice of an answer.
#[derive(Debug)]
pub(crate) struct Choice {
    /// The text, or the arguments of the tool call.
    pub(crate) text: String,
    /// The name of the tool that is called instead of an answer.
    pub(crate) tool: Option<String>,
    pub(crate) finish: Cow<'static, str>,
    pub(crate) tokens: usize,
}

impl Answer {
    pub(crate) fn completion_tokens(&self) -> usize {
        self.choices.iter().map(|choice| choice.tokens).sum()
    }

    /// The answer to a chat.
    pub(crate) fn to_chat(chat: &Chat<'_>, form: Form, settings: &Settings) -> Self {
        let asked = chat.asked();
        let tool = if asked.tool_result { None } else { chat.tool() };
        let json = if tool.is_some() { None } else { chat.json_format() };
        let choice = |index| match (&chat.mock_answer, &tool, &json) {
            (Some(dictated), _, _) => said(dictated),
            (None, Some(tool), _) => call(tool, &asked),
            (None, None, Some(format)) => structured(format, &chat.model, &asked, form),
            (None, None, None) => prose(&chat.model, &asked, index, form, settings),
        };
        let id = digest(&[&chat.model, &asked.excerpt]);
        let choices = (0..form.choices).map(choice).collect();
        Self { choices, prompt_tokens: chat.prompt_tokens(), id, dictated: chat.mock_answer.clone() }
    }

    /// The answer to a Messages request; the tool and the format are given as chats have them.
    pub(crate) fn to_message(
        model: &str,
        asked: &Asked,
        tool: Option<&Value>,
        format: Option<&Value>,
        form: Form,
        settings: &Settings,
    ) -> Self {
        let choice = match (tool, format) {
            (Some(tool), _) => call(tool, asked),
            (None, Some(format)) => structured(format, model, asked, form),
            (None, None) => prose(model, asked, 0, form, settings),
        };
        let id = digest(&[model, &asked.excerpt]);
        Self { choices: vec![choice], prompt_tokens: 0, id, dictated: None }
    }

    /// The answer to a completion request: `form.choices` for each prompt.
    pub(crate) fn to_prompts(model: &str, prompts: &[String], form: Form, settings: &Settings) -> Self {
        let mut choices = Vec::with_capacity(prompts.len() * form.choices);
        for prompt in prompts {
            let asked = Asked { excerpt: crate::request::excerpt(prompt), images: 0, tool_result: false };
            choices.extend((0..form.choices).map(|index| prose(model, &asked, index, form, settings)));
        }
        let prompt_tokens = prompts.iter().map(|prompt| prompt.len() / 4 + 1).sum();
        let first = prompts.first().map_or("", String::as_str);
        Self { choices, prompt_tokens, id: digest(&[model, first]), dictated: None }
    }
}

/// What the request says that is to be said.
fn said(dictated: &Dictated) -> Choice {
    let text = dictated.text();
    let tokens = tokens(&text).count();
    Choice { text, tool: None, finish: Cow::Owned(dictated.finish_reason.clone()), tokens }
}

fn prose(model: &str, asked: &Asked, index: usize, form: Form, settings: &Settings) -> Choice {
    let mut text = String::with_capacity(asked.excerpt.len() + 160);
    text.push_str("[mock-expert ");
    text.push_str(model);
    text.push_str("] ");
    text.push_str(if asked.tool_result { "The tool said: \"" } else { "You asked: \"" });
    text.push_str(&asked.excerpt);
    text.push_str("\". ");
    if asked.images > 0 {
        // Writing into a string cannot fail.
        let _ = write!(text, "{} image(s) came along. ", asked.images);
    }
    if index > 0 {
        let _ = write!(text, "Choice {index}. ");
    }
    text.push_str("No model read this: a mock answers so that you can see where the request went.");
    let mut tokens = tokens(&text).count();
    if let Some(wanted) = settings.tokens {
        for number in tokens..wanted {
            text.push_str(if number == tokens { " and on" } else { " on" });
        }
        tokens = wanted.min(self::tokens(&text).count());
        cut(&mut text, tokens);
    }
    limit(Choice { text, tool: None, finish: Cow::Borrowed("stop"), tokens }, form)
}

fn structured(format: &Value, model: &str, asked: &Asked, form: Form) -> Choice {
    let filler = format!("[mock-expert {model}]");
    let value = match format.pointer("/json_schema/schema") {
        Some(schema) => schema::instance(schema, &filler),
        None => serde_json::json!({"mock_expert": model, "asked": asked.excerpt}),
    };
    let text = value.to_string();
    let tokens = tokens(&text).count();
    limit(Choice { text, tool: None, finish: Cow::Borrowed("stop"), tokens }, form)
}

fn call(tool: &Value, asked: &Asked) -> Choice {
    let name = tool.pointer("/function/name").and_then(Value::as_str).unwrap_or("unnamed");
    let parameters = tool.pointer("/function/parameters").cloned().unwrap_or_default();
    let arguments = match schema::instance(&parameters, &asked.excerpt) {
        Value::Object(members) => Value::Object(members),
        _ => Value::Object(serde_json::Map::new()),
    };
    let text = arguments.to_string();
    let tokens = tokens(&text).count();
    Choice { text, tool: Some(name.to_owned()), finish: Cow::Borrowed("tool_calls"), tokens }
}

/// Cuts a choice at the request's own limit.
fn limit(mut choice: Choice, form: Form) -> Choice {
    if let Some(most) = form.max_tokens.filter(|most| *most < choice.tokens) {
        cut(&mut choice.text, most);
        choice.tokens = most;
        choice.finish = Cow::Borrowed("length");
    }
    choice
}

fn cut(text: &mut String, tokens: usize) {
    let length = self::tokens(text).take(tokens).map(str::len).sum();
    text.truncate(length);
}

/// The pieces in which a text is counted and streamed; together they are the text.
pub(crate) fn tokens(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(' ').flat_map(|word| {
        let mut rest = word;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let mut end = rest.len().min(LONGEST_TOKEN);
            while !rest.is_char_boundary(end) {
                end -= 1;
            }
            let (piece, more) = rest.split_at(end);
            rest = more;
            Some(piece)
        })
    })
}

/// A number for some texts, the same in every run.
pub(crate) fn digest(texts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for text in texts {
        for byte in text.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    mix(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn form(max_tokens: Option<usize>) -> Form {
        Form { choices: 1, max_tokens, stream: false, include_usage: false, logprobs: None }
    }

    proptest! {
        #[test]
        fn tokens_make_up_the_text(text in "\\PC{0,200}") {
            prop_assert_eq!(tokens(&text).collect::<String>(), text);
        }

        #[test]
        fn an_answer_has_the_length_that_was_asked_for(wanted in 1_usize..200, most in 1_usize..200) {
            let settings = Settings { tokens: Some(wanted), ..Settings::default() };
            let asked = Asked { excerpt: "why".to_owned(), images: 0, tool_result: false };
            let choice = prose("m", &asked, 0, form(Some(most)), &settings);
            prop_assert_eq!(choice.tokens, wanted.min(most));
            prop_assert_eq!(tokens(&choice.text).count(), choice.tokens);
            prop_assert_eq!(choice.finish, if most < wanted { "length" } else { "stop" });
        }
    }
}
