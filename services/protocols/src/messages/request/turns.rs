//! The conversation of a Messages request.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::error::BadRequest;
use crate::json::{self, Json, Kind, Object};
use crate::lossy::Lossy;
use crate::messages::SIGNATURE;
use crate::request::{self, Assistant, Call, ImageUrl, Parts};

/// Writes the field `messages`.
pub(super) fn write(
    out: &mut Json<'_>,
    system: Option<&RawValue>,
    turns: &RawValue,
    lossy: &mut Lossy,
) -> Result<(), BadRequest> {
    let raw = json::items(turns).map_err(|e| e.below("messages"))?;
    if raw.is_empty() {
        return Err(BadRequest::at("messages", "must have at least one message"));
    }
    let in_place = |error: BadRequest, at: usize| error.item(at).below("messages");
    let mut turns = Vec::with_capacity(raw.len());
    for (at, raw) in raw.into_iter().enumerate() {
        turns.push(Turn::read(raw, lossy).map_err(|e| in_place(e, at))?);
    }
    // Thinking belongs to the loop of tool calls that came after the last words of the user.
    let asked = turns.iter().rposition(Turn::is_asking).unwrap_or(0);
    if turns.last().is_some_and(|turn| turn.role == Role::Assistant) {
        lossy.add("messages[].prefill");
    }
    let mut result = Ok(());
    out.key("messages").array(|out| {
        let mut writer = Turns { out, lossy, at: 0 };
        result = writer.system(system).map_err(|e| e.below("system"));
        for (at, turn) in turns.into_iter().enumerate() {
            if result.is_ok() {
                writer.at = at;
                result = writer.turn(turn, at > asked).map_err(|e| in_place(e, at));
            }
        }
    });
    result
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    System,
    User,
    Assistant,
}

/// One message, as far as it is read before the conversation is known.
struct Turn<'a> {
    role: Role,
    content: Content<'a>,
}

enum Content<'a> {
    Text(&'a RawValue),
    Blocks(Vec<Block<'a>>),
}

struct Block<'a> {
    kind: Cow<'a, str>,
    fields: Object<'a>,
}

impl<'a> Block<'a> {
    fn read(raw: &'a RawValue) -> Result<Self, BadRequest> {
        let mut fields = Object::read(raw)?;
        Ok(Self { kind: fields.need_text("type")?, fields })
    }

    /// Reads the blocks of the value of `key`.
    fn read_all(raw: &'a RawValue) -> Result<Vec<Self>, BadRequest> {
        let all = json::items(raw).map_err(|_| BadRequest::new("must be a string or an array of blocks"))?;
        all.into_iter().enumerate().map(|(at, raw)| Self::read(raw).map_err(|e| e.item(at))).collect()
    }
}

impl<'a> Turn<'a> {
    fn read(raw: &'a RawValue, lossy: &mut Lossy) -> Result<Self, BadRequest> {
        let mut message = Object::read(raw)?;
        let role = match &*message.need_text("role")? {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "system" => Role::System,
            _ => return Err(BadRequest::at("role", "must be `user`, `assistant` or `system`")),
        };
        let content = message.need("content")?;
        let content = match json::kind(content) {
            Kind::String => Content::Text(content),
            _ => Content::Blocks(Block::read_all(content).map_err(|e| e.below("content"))?),
        };
        message.lose_rest("messages[]", lossy);
        Ok(Self { role, content })
    }

    /// Whether the user begins anew, and does not give the results of tools. Agents add texts to results.
    fn is_asking(&self) -> bool {
        self.role == Role::User
            && match &self.content {
                Content::Text(_) => true,
                Content::Blocks(blocks) => blocks.iter().all(|block| block.kind != "tool_result"),
            }
    }
}

/// Writes the messages of a conversation.
struct Turns<'t, 'o> {
    out: &'t mut Json<'o>,
    lossy: &'t mut Lossy,
    /// The message that is being written.
    at: usize,
}

impl Turns<'_, '_> {
    fn system(&mut self, raw: Option<&RawValue>) -> Result<(), BadRequest> {
        let Some(raw) = raw else { return Ok(()) };
        let mut parts = Parts::default();
        self.texts(raw, "system[]", &mut parts)?;
        if !parts.is_empty() {
            self.message("system", &parts);
        }
        Ok(())
    }

    /// Goes on after the block at `at`, also without it where only experts that speak Messages know it.
    fn go_on(&mut self, told: Result<(), BadRequest>, at: usize) -> Result<bool, BadRequest> {
        match told {
            Err(error) if error.unsupported => {
                let placed = error.item(at).below("content").item(self.at).below("messages");
                self.lossy.go_on(Err(placed))
            }
            told => told.map(|()| true).map_err(|e| e.item(at).below("content")),
        }
    }

    fn message(&mut self, role: &str, content: &Parts<'_>) {
        self.out.object(|o| {
            o.key("role").string(role);
            content.write(o);
        });
    }

    fn turn(&mut self, turn: Turn<'_>, in_loop: bool) -> Result<(), BadRequest> {
        let blocks = match (turn.role, turn.content) {
            (role, Content::Text(text)) => {
                let mut parts = Parts::default();
                parts.text(text);
                let role = match role {
                    Role::System => "system",
                    Role::User => "user",
                    Role::Assistant => "assistant",
                };
                self.message(role, &parts);
                return Ok(());
            }
            (_, Content::Blocks(blocks)) => blocks,
        };
        match turn.role {
            Role::Assistant => self.assistant(blocks, in_loop),
            Role::User => self.user(blocks),
            Role::System => {
                let mut parts = Parts::default();
                for (at, block) in blocks.into_iter().enumerate() {
                    let place = |e: BadRequest| e.item(at).below("content");
                    if block.kind != "text" {
                        return Err(place(BadRequest::at("type", "must be `text` in a system message")));
                    }
                    self.block(block, "messages[].content[]", &mut parts).map_err(place)?;
                }
                self.message("system", &parts);
                Ok(())
            }
        }
    }

    /// Results of tools come first, as chat completions want them, then what else the user says.
    fn user(&mut self, blocks: Vec<Block<'_>>) -> Result<(), BadRequest> {
        let (mut attached, mut parts) = (Parts::default(), Parts::default());
        for (at, block) in blocks.into_iter().enumerate() {
            let told = if block.kind == "tool_result" {
                self.tool_result(block.fields, &mut attached)
            } else {
                self.block(block, "messages[].content[]", &mut parts)
            };
            if !self.go_on(told, at)? {
                // So that there is a message.
                parts.own_text("");
            }
        }
        attached.append(&mut parts);
        if !attached.is_empty() {
            self.message("user", &attached);
        }
        Ok(())
    }

    fn tool_result<'a>(
        &mut self,
        mut result: Object<'a>,
        attached: &mut Parts<'a>,
    ) -> Result<(), BadRequest> {
        let id = result.need_kind("tool_use_id", Kind::String)?;
        let mut parts = Parts::default();
        if let Some(raw) = result.take("content")? {
            self.texts(raw, "messages[].content[].content[]", &mut parts).map_err(|e| e.below("content"))?;
        }
        if result.flag("is_error")? == Some(true) {
            self.lossy.add("messages[].content[].is_error");
            if parts.is_empty() {
                parts.own_text("The tool failed.");
            }
        }
        request::write_tool_result(self.out, id, parts, attached);
        result.lose_rest("messages[].content[]", self.lossy);
        Ok(())
    }

    /// A string, or blocks of content.
    fn texts<'a>(&mut self, raw: &'a RawValue, place: &str, parts: &mut Parts<'a>) -> Result<(), BadRequest> {
        if json::kind(raw) == Kind::String {
            parts.text(raw);
            return Ok(());
        }
        for (at, block) in Block::read_all(raw)?.into_iter().enumerate() {
            self.block(block, place, parts).map_err(|e| e.item(at))?;
        }
        Ok(())
    }

    /// One block of content that is not a call, a result or a thought.
    fn block<'a>(&mut self, block: Block<'a>, place: &str, parts: &mut Parts<'a>) -> Result<(), BadRequest> {
        let Block { kind, mut fields } = block;
        match &*kind {
            "text" => parts.text(fields.need_kind("text", Kind::String)?),
            "image" => image(&mut fields, parts)?,
            "document" => self.document(&mut fields, place, parts)?,
            "search_result" => {
                let heading = [fields.need_text("title")?, fields.need_text("source")?].join("\n");
                parts.own_text(&heading);
                let content = fields.need_kind("content", Kind::Array)?;
                self.texts(content, place, parts).map_err(|e| e.below("content"))?;
            }
            "tool_reference" | "container_upload" | "browser_state" => {
                self.lossy.of_type(place.trim_end_matches("[]"), &kind);
                return Ok(());
            }
            _ => {
                let message = format!("`{kind}` is not a block that can stand here");
                return Err(BadRequest::unsupported("type", message));
            }
        }
        fields.lose_rest(place, self.lossy);
        Ok(())
    }

    fn document<'a>(
        &mut self,
        block: &mut Object<'a>,
        place: &str,
        parts: &mut Parts<'a>,
    ) -> Result<(), BadRequest> {
        let title = block.text("title")?;
        let context = block.text("context")?;
        let mut source = Object::read(block.need("source")?).map_err(|e| e.below("source"))?;
        let mut heading = || {
            for text in [&title, &context].into_iter().flatten() {
                parts.own_text(text);
            }
        };
        let below = |e: BadRequest| e.below("source");
        match &*source.need_text("type").map_err(below)? {
            "text" => {
                heading();
                parts.text(source.need_kind("data", Kind::String).map_err(below)?);
            }
            "content" => {
                heading();
                let blocks = source.need("content").map_err(below)?;
                self.texts(blocks, place, parts).map_err(|e| e.below("source.content"))?;
            }
            "base64" => {
                if let Some(context) = &context {
                    parts.own_text(context);
                }
                let media_type = source.need_text("media_type").map_err(below)?;
                if !request::is_media_type(&media_type) {
                    return Err(BadRequest::at(
                        "source.media_type",
                        "must be a media type, as `application/pdf`",
                    ));
                }
                let data = source.need_kind("data", Kind::String).map_err(below)?;
                parts.other("file", |o| {
                    o.key("file").object(|o| {
                        o.key("filename").string(title.as_deref().unwrap_or("document.pdf"));
                        let url = ["\"data:", &*media_type, ";base64,", json::inside(data), "\""];
                        o.key("file_data").raw(&url.concat());
                    });
                });
            }
            _ => {
                let message =
                    "experts cannot fetch documents; send the content inline (`text`, `base64` or `content`)";
                return Err(BadRequest::unsupported("source.type", message));
            }
        }
        Ok(())
    }

    fn assistant(&mut self, blocks: Vec<Block<'_>>, in_loop: bool) -> Result<(), BadRequest> {
        let mut message = Assistant::default();
        for (at, block) in blocks.into_iter().enumerate() {
            let told = self.said(block, in_loop, &mut message);
            self.go_on(told, at)?;
        }
        message.write(self.out);
        Ok(())
    }

    /// One block of what the assistant said.
    fn said<'a>(
        &mut self,
        block: Block<'a>,
        in_loop: bool,
        message: &mut Assistant<'a>,
    ) -> Result<(), BadRequest> {
        const PLACE: &str = "messages[].content[]";
        const ARRAY: &str = "messages[].content";
        match &*block.kind {
            "text" => self.block(block, PLACE, &mut message.content),
            "tool_use" => {
                let mut call = block.fields;
                let id = call.need_kind("id", Kind::String)?;
                let name = call.need_kind("name", Kind::String)?;
                let mut arguments = Vec::new();
                Json(&mut arguments).string(call.need_kind("input", Kind::Object)?.get());
                let arguments = Cow::Owned(String::from_utf8(arguments).unwrap_or_default());
                message.calls.push(Call { id, name, arguments });
                // Says that the model called the tool itself, which goes without saying.
                let caller = call.take("caller")?.map(Object::read).transpose()?;
                if let Some(mut caller) = caller
                    && caller.text("type")?.as_deref() != Some("direct")
                {
                    self.lossy.field(PLACE, "caller");
                }
                call.lose_rest(PLACE, self.lossy);
                Ok(())
            }
            "thinking" => {
                let mut thinking = block.fields;
                let text = thinking.need_text("thinking")?;
                if in_loop && thinking.text("signature")?.as_deref() == Some(SIGNATURE) {
                    message.reasoning.push_str(&text);
                } else {
                    self.lossy.of_type(ARRAY, "thinking");
                }
                Ok(())
            }
            // Calls that the provider made itself, and their results, which are sealed.
            kind if kind == "redacted_thinking"
                || kind == "server_tool_use"
                || kind.ends_with("_tool_result") =>
            {
                self.lossy.of_type(ARRAY, kind);
                Ok(())
            }
            kind => Err(BadRequest::unsupported(
                "type",
                format!("`{kind}` is not a block that an assistant's turn can have"),
            )),
        }
    }
}

fn image<'a>(block: &mut Object<'a>, parts: &mut Parts<'a>) -> Result<(), BadRequest> {
    let below = |e: BadRequest| e.below("source");
    let mut source = Object::read(block.need("source")?).map_err(below)?;
    match &*source.need_text("type").map_err(below)? {
        "base64" => {
            let media_type = source.need_text("media_type").map_err(below)?;
            if !request::is_media_type(&media_type) {
                return Err(BadRequest::at("source.media_type", "must be a media type, as `image/png`"));
            }
            let data = source.need_kind("data", Kind::String).map_err(below)?;
            parts.image(&ImageUrl::Data { media_type: &media_type, data }, None);
        }
        "url" => parts.image(&ImageUrl::Raw(source.need_kind("url", Kind::String).map_err(below)?), None),
        _ => {
            let message = "experts cannot read stored files; send the image as `base64` or `url`";
            return Err(BadRequest::unsupported("source.type", message));
        }
    }
    Ok(())
}
