//! Anthropic's Messages, as an upstream that speaks nothing else: requests and the answers to them.

mod render;

pub(crate) use render::{
    Stream, error, garbage, models, oversize_event, oversize_message, status_kind, whole,
};

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::answer::{Answer, tokens};
use crate::request::{Asked, Form, excerpt};
use crate::settings::Settings;

/// The body of `/v1/messages`.
#[derive(Debug, Deserialize)]
pub(crate) struct Request<'a> {
    #[serde(borrow)]
    pub(crate) model: Cow<'a, str>,
    max_tokens: usize,
    messages: Vec<Turn>,
    #[serde(default)]
    system: Value,
    #[serde(default)]
    tools: Vec<Value>,
    #[serde(default)]
    tool_choice: Value,
    #[serde(default)]
    output_config: Value,
    #[serde(default)]
    thinking: Value,
    #[serde(default)]
    pub(crate) stream: bool,
    /// The answer, where the request says it.
    #[serde(default)]
    mock_answer: Option<Dictated>,
}

#[derive(Debug, Deserialize)]
struct Turn {
    role: String,
    content: Value,
}

/// The field `mock_answer`: the blocks of the answer, and how it ends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dictated {
    content: Vec<Value>,
    #[serde(default)]
    stop_reason: Option<String>,
    #[serde(default)]
    stop_sequence: Value,
    /// In place of the mock's own count.
    #[serde(default)]
    usage: Option<Value>,
}

/// An answer, whichever way it is sent.
#[derive(Debug)]
pub(crate) struct Message {
    id: String,
    model: String,
    blocks: Vec<Value>,
    stop_reason: String,
    stop_sequence: Value,
    usage: Value,
}

impl Request<'_> {
    /// What the API would refuse, in its words.
    pub(crate) fn problem(&self) -> Option<String> {
        if self.max_tokens == 0 {
            return Some("max_tokens: must be greater than or equal to 1".to_owned());
        }
        if self.messages.is_empty() {
            return Some("messages: at least one message is required".to_owned());
        }
        self.messages.iter().enumerate().find_map(|(at, turn)| {
            if !matches!(turn.role.as_str(), "user" | "assistant") {
                return Some(format!("messages.{at}: unexpected role \"{}\"", turn.role));
            }
            let blank =
                |block: &&Value| block["type"] == "text" && block["text"].as_str().is_none_or(str::is_empty);
            let blocks = turn.content.as_array().map(Vec::as_slice).unwrap_or_default();
            let late = blocks.iter().skip_while(|block| block["type"] == "tool_result");
            if turn.content.as_str().is_some_and(str::is_empty) || blocks.iter().any(|block| blank(&block)) {
                return Some(format!("messages.{at}: text content blocks must be non-empty"));
            }
            let misplaced = late.clone().any(|block| block["type"] == "tool_result");
            misplaced.then(|| format!("messages.{at}: `tool_result` blocks must come first"))
        })
    }

    fn form(&self) -> Form {
        Form {
            choices: 1,
            max_tokens: Some(self.max_tokens),
            stream: self.stream,
            include_usage: true,
            logprobs: None,
        }
    }

    /// The turn that is to be answered.
    fn asked(&self) -> Asked {
        let mut asked = Asked { excerpt: String::new(), images: 0, tool_result: false };
        if let Some(turn) = self.messages.iter().rev().find(|turn| turn.role == "user") {
            let mut text = String::new();
            read(&turn.content, &mut text, &mut asked);
            asked.excerpt = excerpt(&text);
        }
        asked
    }

    /// The tool that is to be called, in the form that chats have: the one that the choice names, else the
    /// first.
    fn tool(&self) -> Option<Value> {
        let named = self.tool_choice.get("name");
        let own = |tool: &&Value| tool.get("input_schema").is_some();
        let tool = match named {
            _ if self.tool_choice["type"] == "none" => None,
            Some(name) => self.tools.iter().find(|tool| tool.get("name") == Some(name)),
            None => self.tools.iter().find(own),
        }?;
        Some(json!({"function": {"name": tool["name"], "parameters": tool["input_schema"]}}))
    }

    pub(crate) fn answer(&self, settings: &Settings) -> Message {
        let asked = self.asked();
        let tool = if asked.tool_result { None } else { self.tool() };
        let schema = self.output_config.pointer("/format/schema");
        let format = schema.map(|schema| json!({"type": "json_schema", "json_schema": {"schema": schema}}));
        let prompt: usize = self.messages.iter().map(|turn| turn.content.to_string().len()).sum();
        let prompt_tokens = (prompt + self.system.to_string().len()) / 4;
        let answer =
            Answer::to_message(&self.model, &asked, tool.as_ref(), format.as_ref(), self.form(), settings);
        let id = format!("msg_mock_{:016x}", answer.id);
        let mut blocks = Vec::new();
        if matches!(self.thinking["type"].as_str(), Some("enabled" | "adaptive")) {
            blocks.push(json!({
                "type": "thinking", "thinking": "No model thinks here.", "signature": "bW9jay1leHBlcnQ=",
            }));
        }
        let (mut stop_reason, mut count) = ("end_turn", 0);
        for (at, choice) in answer.choices.iter().enumerate() {
            count += choice.tokens;
            blocks.push(if let Some(name) = &choice.tool {
                let input: Value = serde_json::from_str(&choice.text).unwrap_or_default();
                json!({"type": "tool_use", "id": format!("toolu_mock_{:016x}_{at}", answer.id), "name": name, "input": input})
            } else {
                json!({"type": "text", "text": choice.text})
            });
            stop_reason = match &*choice.finish {
                "length" => "max_tokens",
                "tool_calls" => "tool_use",
                _ => "end_turn",
            };
        }
        let (mut stop_sequence, mut usage) = (Value::Null, None);
        if let Some(dictated) = &self.mock_answer {
            blocks.clone_from(&dictated.content);
            stop_reason = dictated.stop_reason.as_deref().unwrap_or("end_turn");
            stop_sequence = dictated.stop_sequence.clone();
            usage.clone_from(&dictated.usage);
            count = blocks.iter().map(|block| tokens(&block.to_string()).count()).sum();
        }
        let usage = usage.unwrap_or_else(|| {
            json!({
                "input_tokens": prompt_tokens, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                "output_tokens": count,
            })
        });
        Message {
            id,
            model: self.model.clone().into_owned(),
            blocks,
            stop_reason: stop_reason.to_owned(),
            stop_sequence,
            usage,
        }
    }
}

/// Appends the text of content, with that of the results of tools.
fn read(content: &Value, text: &mut String, asked: &mut Asked) {
    match content {
        Value::String(plain) => text.push_str(plain),
        Value::Array(blocks) => {
            for block in blocks {
                match block["type"].as_str() {
                    Some("text") => {
                        text.push(' ');
                        text.push_str(block["text"].as_str().unwrap_or_default());
                    }
                    Some("image") => asked.images += 1,
                    Some("tool_result") => {
                        asked.tool_result = true;
                        read(&block["content"], text, asked);
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &Value) -> String {
        let mut body =
            json!({"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "why  so"}]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body.to_string()
    }

    fn answered(fields: &Value) -> Value {
        let body = request(fields);
        let request: Request<'_> = serde_json::from_str(&body).unwrap();
        serde_json::from_str(&whole(&request.answer(&Settings::default()))).unwrap()
    }

    #[test]
    fn an_answer_says_who_was_asked_what() {
        let answer = answered(&json!({}));
        assert!(
            answer["content"][0]["text"].as_str().unwrap().contains("[mock-expert m] You asked: \"why so\"")
        );
        assert_eq!((&answer["type"], &answer["stop_reason"]), (&json!("message"), &json!("end_turn")));
        assert_eq!(answered(&json!({"max_tokens": 1}))["stop_reason"], "max_tokens");
        assert_eq!(answered(&json!({"thinking": {"type": "adaptive"}}))["content"][0]["type"], "thinking");
    }

    #[test]
    fn tools_are_called_and_their_results_read() {
        let tools = json!([{"type": "web_search_20250305", "name": "web_search"}, {"name": "f", "input_schema": {"type": "object"}}]);
        let call = answered(&json!({ "tools": tools }));
        assert_eq!((&call["content"][0]["name"], &call["stop_reason"]), (&json!("f"), &json!("tool_use")));
        let result = json!([{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "rain"}]}]);
        let said = answered(&json!({ "tools": tools, "messages": result }));
        assert!(said["content"][0]["text"].as_str().unwrap().contains("The tool said: \"rain\""), "{said}");
    }

    #[test]
    fn what_the_api_refuses_is_refused() {
        let problem = |fields: Value| {
            let body = request(&fields);
            serde_json::from_str::<Request<'_>>(&body).unwrap().problem()
        };
        assert_eq!(problem(json!({})), None);
        for (fields, expected) in [
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"messages": []}), "at least one"),
            (json!({"messages": [{"role": "system", "content": "a"}]}), "role"),
            (json!({"messages": [{"role": "user", "content": ""}]}), "non-empty"),
            (json!({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}), "non-empty"),
            (
                json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "tool_result"}]}]}),
                "first",
            ),
        ] {
            assert!(problem(fields.clone()).is_some_and(|p| p.contains(expected)), "{fields}");
        }
    }
}
