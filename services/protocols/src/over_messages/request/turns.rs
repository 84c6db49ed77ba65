//! The conversation of a chat completions request.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::error::BadRequest;
use crate::json::{self, Json, Kind, Object};
use crate::lossy::Lossy;
use crate::request;

const NO_FILES: &str = "experts cannot read stored files; send the content inline, as a data URL";

/// Writes the fields `system` and `messages`.
pub(super) fn write(out: &mut Json<'_>, messages: &RawValue, lossy: &mut Lossy) -> Result<(), BadRequest> {
    let mut all = Conversation { system: Vec::new(), turns: Vec::new(), lossy };
    for (at, raw) in json::items(messages).map_err(|e| e.below("messages"))?.into_iter().enumerate() {
        all.message(raw).map_err(|e| e.item(at).below("messages"))?;
    }
    let Conversation { system, mut turns, lossy } = all;
    // Messages want every turn to say something.
    turns.retain(|turn| !turn.is_empty());
    let Some(last) = turns.last() else {
        let message = "has nothing to answer: experts that speak Messages need a text of the user's";
        return Err(BadRequest::at("messages", message));
    };
    if last.role == Role::Assistant {
        lossy.add("messages[].prefill");
    }
    if !system.is_empty() {
        out.key("system").array(|a| {
            a.fragment(&system);
        });
    }
    out.key("messages").array(|a| {
        for turn in &turns {
            turn.write(a);
        }
    });
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    User,
    Assistant,
}

/// One message of Messages, as its blocks are collected.
struct Turn {
    role: Role,
    /// Blocks that have to come first: results of tools, thinking.
    first: Vec<u8>,
    blocks: Vec<u8>,
    /// Blocks that have to come last: calls of tools.
    last: Vec<u8>,
}

impl Turn {
    fn is_empty(&self) -> bool {
        self.first.is_empty() && self.blocks.is_empty() && self.last.is_empty()
    }

    fn write(&self, out: &mut Json<'_>) {
        out.object(|o| {
            o.key("role").string(match self.role {
                Role::User => "user",
                Role::Assistant => "assistant",
            });
            o.key("content").array(|a| {
                a.fragment(&self.first).fragment(&self.blocks).fragment(&self.last);
            });
        });
    }
}

struct Conversation<'l> {
    /// Blocks of text.
    system: Vec<u8>,
    turns: Vec<Turn>,
    lossy: &'l mut Lossy,
}

impl Conversation<'_> {
    /// The turn that a message of this role belongs to.
    fn turn(&mut self, role: Role) -> &mut Turn {
        // What was said before the call of a tool has been answered by its result.
        let closed = |turn: &Turn| role == Role::Assistant && !turn.last.is_empty();
        let at = match self.turns.last() {
            Some(turn) if turn.role == role && !closed(turn) => self.turns.len() - 1,
            _ => {
                self.turns.push(Turn { role, first: Vec::new(), blocks: Vec::new(), last: Vec::new() });
                self.turns.len() - 1
            }
        };
        &mut self.turns[at]
    }

    fn message(&mut self, raw: &RawValue) -> Result<(), BadRequest> {
        let mut message = Object::read(raw)?;
        match &*message.need_text("role")? {
            "system" | "developer" => {
                if !self.turns.is_empty() {
                    self.lossy.of_type("messages", "system");
                }
                let mut blocks = std::mem::take(&mut self.system);
                self.content(&mut message, &mut blocks, true)?;
                self.system = blocks;
            }
            "user" => {
                let mut blocks = std::mem::take(&mut self.turn(Role::User).blocks);
                self.content(&mut message, &mut blocks, false)?;
                self.turn(Role::User).blocks = blocks;
            }
            "assistant" => self.assistant(&mut message)?,
            "tool" => {
                let id = tool_id(&message.need_text("tool_call_id")?);
                let mut content = Vec::new();
                self.content(&mut message, &mut content, false)?;
                Json(&mut self.turn(Role::User).first).typed("tool_result", |o| {
                    o.key("tool_use_id").string(&id);
                    if !content.is_empty() {
                        o.key("content").array(|a| {
                            a.fragment(&content);
                        });
                    }
                });
            }
            "function" => {
                let message =
                    "`function` is not understood by experts that speak Messages; use `tool` messages";
                return Err(BadRequest::at("role", message));
            }
            _ => {
                let message = "must be `user`, `assistant`, `tool`, `system` or `developer`";
                return Err(BadRequest::at("role", message));
            }
        }
        message.lose_rest("messages[]", self.lossy);
        Ok(())
    }

    fn assistant(&mut self, message: &mut Object<'_>) -> Result<(), BadRequest> {
        let mut thinking = Vec::new();
        if let Some(raw) = message.take("thinking_blocks")? {
            for (at, raw) in json::items(raw).map_err(|e| e.below("thinking_blocks"))?.into_iter().enumerate()
            {
                let in_place = |e: BadRequest| e.item(at).below("thinking_blocks");
                let kind =
                    Object::read(raw).and_then(|mut block| block.need_text("type")).map_err(in_place)?;
                if !matches!(&*kind, "thinking" | "redacted_thinking") {
                    let message = "must be `thinking` or `redacted_thinking`";
                    return Err(in_place(BadRequest::at("type", message)));
                }
                Json(&mut thinking).raw(raw.get());
            }
        }
        let mut reasoned = false;
        for name in ["reasoning_content", "reasoning"] {
            reasoned |= message.take(name)?.is_some_and(|raw| raw.get() != "\"\"");
        }
        if reasoned && thinking.is_empty() {
            self.lossy.add("messages[].reasoning_content");
        }
        let (mut blocks, mut calls) = (Vec::new(), Vec::new());
        self.content(message, &mut blocks, false)?;
        if let Some(raw) = message.take_kind("refusal", Kind::String)? {
            text(raw, None, &mut blocks);
        }
        if let Some(raw) = message.take("tool_calls")? {
            for (at, raw) in json::items(raw).map_err(|e| e.below("tool_calls"))?.into_iter().enumerate() {
                self.call(raw, &mut calls).map_err(|e| e.item(at).below("tool_calls"))?;
            }
        }
        if message.take("function_call")?.is_some() {
            let message = "is not understood by experts that speak Messages; use `tool_calls`";
            return Err(BadRequest::at("function_call", message));
        }
        let turn = self.turn(Role::Assistant);
        // Thinking that follows something said stands behind it.
        let before = if turn.blocks.is_empty() { &mut turn.first } else { &mut turn.blocks };
        Json(before).fragment(&thinking);
        Json(&mut turn.blocks).fragment(&blocks);
        Json(&mut turn.last).fragment(&calls);
        Ok(())
    }

    fn call(&mut self, raw: &RawValue, calls: &mut Vec<u8>) -> Result<(), BadRequest> {
        let mut call = Object::read(raw)?;
        let id = tool_id(&call.need_text("id")?);
        if call.text("type")?.is_some_and(|kind| kind != "function") {
            return Err(BadRequest::at("type", "must be `function`"));
        }
        let below = |e: BadRequest| e.below("function");
        let mut function = Object::read(call.need_kind("function", Kind::Object)?).map_err(below)?;
        let name = function.need_kind("name", Kind::String).map_err(below)?;
        let arguments = function.take("arguments").map_err(below)?;
        Json(calls).typed("tool_use", |o| {
            o.key("id").string(&id).key("name").raw(name.get()).key("input");
            let arguments = arguments.map(|raw| json::text(raw).unwrap_or(Cow::Borrowed(raw.get())));
            crate::messages::input(o, arguments.as_deref().unwrap_or(""));
        });
        // Its place among the calls of a stream, which goes without saying here.
        call.take("index")?;
        call.lose_rest("messages[].tool_calls[]", self.lossy);
        Ok(())
    }

    /// Appends the blocks of a message's content: a string, or parts.
    fn content(
        &mut self,
        message: &mut Object<'_>,
        blocks: &mut Vec<u8>,
        texts_only: bool,
    ) -> Result<(), BadRequest> {
        let Some(raw) = message.take("content")? else { return Ok(()) };
        if json::kind(raw) == Kind::String {
            text(raw, None, blocks);
            return Ok(());
        }
        let all = json::items(raw)
            .map_err(|_| BadRequest::at("content", "must be a string or an array of parts"))?;
        for (at, raw) in all.into_iter().enumerate() {
            self.part(raw, blocks, texts_only).map_err(|e| e.item(at).below("content"))?;
        }
        Ok(())
    }

    fn part(&mut self, raw: &RawValue, blocks: &mut Vec<u8>, texts_only: bool) -> Result<(), BadRequest> {
        const PLACE: &str = "messages[].content[]";
        let mut part = Object::read(raw)?;
        let kind = part.need_text("type")?;
        let cache = part.take_kind("cache_control", Kind::Object)?;
        match &*kind {
            "text" | "refusal" => text(part.need_kind(&kind, Kind::String)?, cache, blocks),
            kind if texts_only => {
                return Err(BadRequest::at("type", format!("`{kind}` cannot stand in a system message")));
            }
            "image_url" => {
                let below = |e: BadRequest| e.below("image_url");
                let mut image = Object::read(part.need_kind("image_url", Kind::Object)?).map_err(below)?;
                if image.text("detail").map_err(below)?.is_some_and(|detail| detail != "auto") {
                    self.lossy.field(PLACE, "image_url.detail");
                }
                let url = image.need_kind("url", Kind::String).map_err(below)?;
                let data = data_url(url).map_err(|e| below(e.below("url")))?;
                Json(blocks).typed("image", |o| {
                    match &data {
                        Some(data) => data.write(o),
                        None => {
                            o.key("source").typed("url", |o| {
                                o.key("url").raw(url.get());
                            });
                        }
                    }
                    write_cache(o, cache);
                });
            }
            "file" => {
                let below = |e: BadRequest| e.below("file");
                let mut file = Object::read(part.need_kind("file", Kind::Object)?).map_err(below)?;
                let Some(raw) = file.take_kind("file_data", Kind::String).map_err(below)? else {
                    return Err(below(BadRequest::at("file_data", NO_FILES)));
                };
                let data = data_url(raw).map_err(|e| below(e.below("file_data")))?;
                let Some(data) = data.filter(|data| !data.media_type.starts_with("image/")) else {
                    let message = "must be a data URL, such as `data:application/pdf;base64,...`";
                    return Err(below(BadRequest::at("file_data", message)));
                };
                let title = file.take_kind("filename", Kind::String).map_err(below)?;
                Json(blocks).typed("document", |o| {
                    data.write(o);
                    if let Some(title) = title {
                        o.key("title").raw(title.get());
                    }
                    write_cache(o, cache);
                });
                file.lose_rest("messages[].content[].file", self.lossy);
            }
            kind => {
                let message = format!("`{kind}` is not a part that experts understand who speak Messages");
                return Err(BadRequest::at("type", message));
            }
        }
        part.lose_rest(PLACE, self.lossy);
        Ok(())
    }
}

/// Writes a text that is a JSON string already. Blank ones say nothing, and Messages refuse them.
fn text(raw: &RawValue, cache: Option<&RawValue>, blocks: &mut Vec<u8>) {
    if json::text(raw).is_some_and(|text| text.trim().is_empty()) {
        return;
    }
    Json(blocks).typed("text", |o| {
        o.key("text").raw(raw.get());
        write_cache(o, cache);
    });
}

fn write_cache(o: &mut Json<'_>, cache: Option<&RawValue>) {
    if let Some(cache) = cache {
        o.key("cache_control").raw(cache.get());
    }
}

/// An id as Messages allow it. Other makers of ids are freer; calls and results change alike.
fn tool_id(id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    id.chars().map(|c| if plain(c) { c } else { '_' }).collect()
}

/// Data that came in its URL.
struct Data<'a> {
    media_type: Cow<'a, str>,
    data: Cow<'a, str>,
}

impl Data<'_> {
    fn write(&self, o: &mut Json<'_>) {
        o.key("source").typed("base64", |o| {
            o.key("media_type").string(&self.media_type);
            o.key("data").string(&self.data);
        });
    }
}

/// Takes a data URL apart; `None` for any other URL.
fn data_url(url: &RawValue) -> Result<Option<Data<'_>>, BadRequest> {
    const SHAPE: &str = "must be `data:MEDIA_TYPE;base64,DATA` or the URL of what is meant";
    let Some(text) = json::text(url) else { return Err(BadRequest::new("is not valid Unicode")) };
    let Some(rest) = text.strip_prefix("data:") else { return Ok(None) };
    let (media_type, data) = rest.split_once(";base64,").ok_or_else(|| BadRequest::new(SHAPE))?;
    // Parameters, as in `text/plain;charset=utf-8`, have no place.
    let media_type = media_type.split(';').next().unwrap_or_default();
    if !request::is_media_type(media_type) {
        return Err(BadRequest::new(SHAPE));
    }
    let (start, end) = (text.len() - data.len(), "data:".len() + media_type.len());
    Ok(Some(match text {
        Cow::Borrowed(text) => {
            Data { media_type: Cow::Borrowed(&text["data:".len()..end]), data: Cow::Borrowed(&text[start..]) }
        }
        Cow::Owned(ref text) => Data {
            media_type: Cow::Owned(text["data:".len()..end].to_owned()),
            data: Cow::Owned(text[start..].to_owned()),
        },
    }))
}
