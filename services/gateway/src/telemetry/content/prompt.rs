//! Requests as messages of the conventions.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Content, MESSAGE, Room, field, part, quoted};

#[derive(Deserialize)]
struct Chat<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Completion {
    prompt: Value,
}

/// Takes down a chat. The latest messages come first: when not all fit, the oldest are missing.
pub(super) fn chat(body: &[u8], own_system: bool, limit: usize, content: &mut Content) {
    // It was read before; what cannot be read has no content.
    let Ok(Chat { messages }) = serde_json::from_slice(body) else { return };
    let mut messages = &messages[..];
    if own_system
        && let Some((first, others)) = messages.split_first()
        && let Ok(first) = serde_json::from_str::<Value>(first.get())
        && matches!(first["role"].as_str(), Some("system" | "developer"))
    {
        let mut room = Room::new(limit);
        let mut parts = String::new();
        if room.take(MESSAGE) {
            write_content(&mut parts, &mut room, &first["content"]);
        }
        content.system = Some(format!("[{parts}]"));
        if room.cut {
            content.truncated.push("gen_ai.system_instructions");
        }
        messages = others;
    }
    let mut room = Room::new(limit);
    let mut newest_first = Vec::new();
    for raw in messages.iter().rev() {
        // Of the messages before one that was cut, nothing is read.
        if room.cut || !room.take(MESSAGE) {
            room.cut = true;
            break;
        }
        let read = serde_json::from_str::<Value>(raw.get()).ok();
        newest_first.extend(read.and_then(|read| message(&read, &mut room)));
    }
    newest_first.reverse();
    content.input = format!("[{}]", newest_first.join(","));
    if room.cut {
        content.truncated.push("gen_ai.input.messages");
    }
}

/// Takes down the prompt of the older completions: one message for each text.
pub(super) fn completion(body: &[u8], limit: usize, content: &mut Content) {
    let Ok(Completion { prompt }) = serde_json::from_slice(body) else { return };
    let prompts = match &prompt {
        Value::Array(prompts) => &prompts[..],
        one => std::slice::from_ref(one),
    };
    let mut room = Room::new(limit);
    let mut messages = Vec::new();
    // Prompts given as token ids say nothing to a reader.
    for text in prompts.iter().filter_map(Value::as_str) {
        if !room.take(MESSAGE) {
            break;
        }
        let mut parts = String::new();
        part(&mut parts, &mut room, "text", "content", text, "");
        messages.push(format!("{{\"role\":\"user\",\"parts\":[{parts}]}}"));
    }
    content.input = format!("[{}]", messages.join(","));
    if room.cut {
        content.truncated.push("gen_ai.input.messages");
    }
}

/// One message; `None` when its role has no room.
fn message(message: &Value, room: &mut Room) -> Option<String> {
    let role = room.name(Some(message["role"].as_str().unwrap_or("user")))?;
    let name = field("name", room.name(message["name"].as_str()));
    let mut parts = String::new();
    if role == "tool" {
        let id = field("id", room.name(message["tool_call_id"].as_str()));
        let text = text_of(&message["content"]);
        part(&mut parts, room, "tool_call_response", "response", &text, &id);
    } else {
        let reasoning = message["reasoning_content"].as_str().or_else(|| message["reasoning"].as_str());
        if let Some(text) = reasoning {
            part(&mut parts, room, "reasoning", "content", text, "");
        }
        write_content(&mut parts, room, &message["content"]);
        if let Some(text) = message["refusal"].as_str() {
            part(&mut parts, room, "refusal", "content", text, "");
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            write_call(&mut parts, room, call);
        }
    }
    Some(format!("{{\"role\":{}{name},\"parts\":[{parts}]}}", quoted(role)))
}

fn write_content(out: &mut String, room: &mut Room, content: &Value) {
    match content {
        Value::String(text) => part(out, room, "text", "content", text, ""),
        Value::Array(parts) => parts.iter().for_each(|one| write_one(out, room, one)),
        _ => {}
    }
}

/// A part of a message's content. Of pictures and sounds that stand in the request itself, only their kind is
/// shown: a few of their bytes are of no use to anybody.
fn write_one(out: &mut String, room: &mut Room, one: &Value) {
    let kind = one["type"].as_str().unwrap_or("text");
    match kind {
        "text" => {
            let text = one.as_str().or_else(|| one["text"].as_str()).unwrap_or_default();
            part(out, room, "text", "content", text, "");
        }
        "refusal" => part(out, room, "refusal", "content", one["refusal"].as_str().unwrap_or_default(), ""),
        "image_url" => {
            let url = one["image_url"]["url"].as_str().or_else(|| one["image_url"].as_str());
            let url = url.unwrap_or_default();
            if let Some(data) = url.strip_prefix("data:") {
                let mime = data.split([';', ',']).next().filter(|mime| mime.len() < 64);
                blob(out, room, "image", mime);
            } else {
                part(out, room, "uri", "uri", url, ",\"modality\":\"image\"");
            }
        }
        "input_audio" => {
            let format = one["input_audio"]["format"].as_str().filter(|format| format.len() < 32);
            blob(out, room, "audio", format.map(|format| format!("audio/{format}")).as_deref());
        }
        _ => {
            if let Some(id) = one["file"]["file_id"].as_str() {
                part(out, room, "file", "file_id", id, ",\"modality\":\"file\"");
            } else {
                // Something of the expert's own: that it was there is all that can be said.
                part(out, room, "other", "kind", kind, "");
            }
        }
    }
}

fn blob(out: &mut String, room: &mut Room, modality: &str, mime: Option<&str>) {
    let mime = field("mime_type", mime);
    let more = format!(",\"modality\":\"{modality}\"{mime},\"omitted\":true");
    part(out, room, "blob", "content", "", &more);
}

fn write_call(out: &mut String, room: &mut Room, call: &Value) {
    let id = field("id", room.name(call["id"].as_str()));
    let name = field("name", room.name(call["function"]["name"].as_str()));
    let arguments = text_of(&call["function"]["arguments"]);
    super::answer::write_call(out, room, &format!("{id}{name}"), &arguments);
}

/// Text, the texts of parts, or else the JSON itself.
fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(parts) if parts.iter().all(|part| part["text"].is_string()) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            texts.join("\n")
        }
        other => other.to_string(),
    }
}
