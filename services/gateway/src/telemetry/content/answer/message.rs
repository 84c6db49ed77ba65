//! Answers of experts that speak Anthropic's Messages, which Messages clients get as they are.

use serde_json::Value;

use super::{Answer, Kind, field};

impl Answer {
    /// Reads a whole message, or an event of one.
    pub(super) fn message(&mut self, said: &Value) {
        let index = said["index"].as_u64().unwrap_or(0);
        match said["type"].as_str() {
            Some("message") => {
                for (at, block) in said["content"].as_array().into_iter().flatten().enumerate() {
                    self.block(at as u64, block);
                }
                self.stop(&said["stop_reason"]);
            }
            Some("content_block_start") => self.block(index, &said["content_block"]),
            Some("content_block_delta") => self.delta(index, &said["delta"]),
            Some("message_delta") => self.stop(&said["delta"]["stop_reason"]),
            _ => {}
        }
    }

    fn block(&mut self, index: u64, block: &Value) {
        if block["type"] == "tool_use" {
            let more = field("id", block["id"].as_str()) + &field("name", block["name"].as_str());
            // A stream's begin with nothing, and their text comes later.
            let input = block["input"].as_object().filter(|input| !input.is_empty());
            let input = input.map_or_else(String::new, |_| block["input"].to_string());
            self.say(Kind::Call(index, more), &input);
        } else {
            self.delta(index, block);
        }
    }

    fn delta(&mut self, index: u64, delta: &Value) {
        for (kind, name) in [(Kind::Reasoning, "thinking"), (Kind::Text, "text")] {
            if let Some(text) = delta[name].as_str().filter(|text| !text.is_empty()) {
                self.say(kind, text);
            }
        }
        if let Some(text) = delta["partial_json"].as_str() {
            let call = Kind::Call(index, String::new());
            // Others are calls of the provider's own tools.
            let known =
                self.choices.first().is_some_and(|c| c.parts.iter().any(|part| part.kind.goes_on_by(&call)));
            if known {
                self.say(call, text);
            }
        }
    }

    fn say(&mut self, kind: Kind, text: &str) {
        if let Some(at) = self.choice_at(0) {
            self.choices[at].add(&mut self.room, kind, text);
        }
    }

    fn stop(&mut self, reason: &Value) {
        if let (Some(reason), Some(at)) = (reason.as_str(), self.choice_at(0)) {
            self.choices[at].finish = Some(reason.chars().take(64).collect::<String>().into());
        }
    }
}
