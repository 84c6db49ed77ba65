//! The conversation of a Responses request.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::error::BadRequest;
use crate::json::{self, Json, Kind, Object};
use crate::lossy::Lossy;
use crate::request::{self, Assistant, Call, ImageUrl, Parts};

const NO_FILES: &str = "no files are stored here; send the content itself";
const CONTENT: &str = "input[].content[]";

/// Writes the field `messages`.
pub(super) fn write(
    out: &mut Json<'_>,
    instructions: Option<&RawValue>,
    input: &RawValue,
    lossy: &mut Lossy,
) -> Result<(), BadRequest> {
    let mut result = Ok(());
    out.key("messages").array(|out| {
        let mut items = Items {
            out,
            lossy,
            leading: true,
            system: Parts::default(),
            assistant: Assistant::default(),
            attached: Parts::default(),
        };
        if let Some(text) = instructions {
            items.system.text(text);
        }
        result = items.all(input).map_err(|e| e.below("input"));
    });
    result
}

/// Turns items, of which one is a message, a call or a thought, into messages that have all three.
struct Items<'a, 't, 'o> {
    out: &'t mut Json<'o>,
    lossy: &'t mut Lossy,
    /// Whether only system messages have come.
    leading: bool,
    system: Parts<'a>,
    /// The assistant's message that is being collected.
    assistant: Assistant<'a>,
    /// What results of tools could not hold, for the user's message after them.
    attached: Parts<'a>,
}

impl<'a> Items<'a, '_, '_> {
    fn all(&mut self, input: &'a RawValue) -> Result<(), BadRequest> {
        if json::kind(input) == Kind::String {
            self.begin();
            let mut parts = Parts::default();
            parts.text(input);
            self.message("user", &parts);
            return Ok(());
        }
        let raw = json::items(input).map_err(|_| BadRequest::new("must be a string or an array of items"))?;
        if raw.is_empty() {
            return Err(BadRequest::new("must have at least one item"));
        }
        let mut items = Vec::with_capacity(raw.len());
        for (at, raw) in raw.into_iter().enumerate() {
            items.push(Item::read(raw).map_err(|e| e.item(at))?);
        }
        // Reasoning belongs to the loop of tool calls that came after the last words of the user.
        let asked = items.iter().rposition(|item| item.role.as_deref() == Some("user")).unwrap_or(0);
        for (at, item) in items.into_iter().enumerate() {
            self.item(item, at > asked).map_err(|e| e.item(at))?;
        }
        self.begin();
        self.flush();
        Ok(())
    }

    /// Writes what the conversation begins with.
    fn begin(&mut self) {
        if std::mem::take(&mut self.leading) && !self.system.is_empty() {
            let system = std::mem::take(&mut self.system);
            self.message("system", &system);
        }
    }

    fn flush_assistant(&mut self) {
        let assistant = std::mem::take(&mut self.assistant);
        if !assistant.is_empty() {
            assistant.write(self.out);
        }
    }

    /// Writes what waits for more of its kind.
    fn flush(&mut self) {
        self.flush_assistant();
        let attached = std::mem::take(&mut self.attached);
        if !attached.is_empty() {
            self.message("user", &attached);
        }
    }

    fn message(&mut self, role: &str, content: &Parts<'_>) {
        self.out.object(|o| {
            o.key("role").string(role);
            content.write(o);
        });
    }

    fn item(&mut self, item: Item<'a>, in_loop: bool) -> Result<(), BadRequest> {
        let Item { kind, role, mut fields } = item;
        match (&*kind, role.as_deref()) {
            ("message", Some(role)) => {
                let mut parts = Parts::default();
                self.content(fields.need("content")?, CONTENT, &mut parts).map_err(|e| e.below("content"))?;
                self.said(role, parts)?;
                bookkeeping(&mut fields, &["phase"])?;
            }
            ("function_call", _) => {
                let arguments = Cow::Borrowed(fields.need_kind("arguments", Kind::String)?.get());
                self.call(&mut fields, arguments)?;
            }
            ("custom_tool_call", _) => {
                let input = fields.need_kind("input", Kind::String)?;
                let mut arguments = Vec::new();
                Json(&mut arguments).string(&["{\"input\":", input.get(), "}"].concat());
                self.call(&mut fields, Cow::Owned(String::from_utf8(arguments).unwrap_or_default()))?;
            }
            ("function_call_output" | "custom_tool_call_output", _) => {
                let id = fields.need_kind("call_id", Kind::String)?;
                let mut parts = Parts::default();
                let output = fields.need("output")?;
                self.content(output, "input[].output[]", &mut parts).map_err(|e| e.below("output"))?;
                self.begin();
                self.flush_assistant();
                request::write_tool_result(self.out, id, parts, &mut self.attached);
                bookkeeping(&mut fields, &["name"])?;
            }
            ("reasoning", _) => return self.reasoning(fields, in_loop),
            // Calls that the provider made itself.
            (
                "code_interpreter_call"
                | "file_search_call"
                | "image_generation_call"
                | "mcp_call"
                | "mcp_list_tools"
                | "web_search_call",
                _,
            ) => {
                self.lossy.of_type("input", &kind);
                return Ok(());
            }
            ("item_reference", _) => {
                return Err(BadRequest::new(
                    "nothing is stored here; send the item itself in place of its id",
                ));
            }
            _ => {
                let message = format!("`{kind}` is not an item that experts understand");
                return Err(BadRequest::at("type", message));
            }
        }
        fields.lose_rest("input[]", self.lossy);
        Ok(())
    }

    fn said(&mut self, role: &str, mut parts: Parts<'a>) -> Result<(), BadRequest> {
        match role {
            "system" | "developer" if self.leading => self.system.append(&mut parts),
            "system" | "developer" => {
                self.flush();
                self.message("system", &parts);
            }
            "user" => {
                self.begin();
                self.flush_assistant();
                let mut content = std::mem::take(&mut self.attached);
                content.append(&mut parts);
                self.message("user", &content);
            }
            "assistant" => {
                self.begin();
                let unasked = !self.assistant.content.is_empty() && self.assistant.calls.is_empty();
                if unasked || !self.attached.is_empty() {
                    self.flush();
                }
                self.assistant.content.append(&mut parts);
            }
            _ => return Err(BadRequest::at("role", "must be `user`, `assistant`, `system` or `developer`")),
        }
        Ok(())
    }

    fn call(&mut self, fields: &mut Object<'a>, arguments: Cow<'a, str>) -> Result<(), BadRequest> {
        let id = fields.need_kind("call_id", Kind::String)?;
        let name = fields.need_kind("name", Kind::String)?;
        bookkeeping(fields, &[])?;
        self.begin();
        if !self.attached.is_empty() {
            self.flush();
        }
        self.assistant.calls.push(Call { id, name, arguments });
        Ok(())
    }

    fn reasoning(&mut self, mut fields: Object<'a>, in_loop: bool) -> Result<(), BadRequest> {
        // The whole text where it is given, else what sums it up.
        let (content, summary) = (texts(&mut fields, "content")?, texts(&mut fields, "summary")?);
        let text = if content.is_empty() { summary } else { content };
        if !in_loop || text.is_empty() || fields.take("encrypted_content")?.is_some() {
            self.lossy.of_type("input", "reasoning");
            return Ok(());
        }
        self.begin();
        if !self.attached.is_empty()
            || (!self.assistant.content.is_empty() && self.assistant.calls.is_empty())
        {
            self.flush();
        }
        self.assistant.reasoning.push_str(&text);
        Ok(())
    }

    /// A string, or parts of content.
    fn content(&mut self, raw: &'a RawValue, place: &str, parts: &mut Parts<'a>) -> Result<(), BadRequest> {
        if json::kind(raw) == Kind::String {
            parts.text(raw);
            return Ok(());
        }
        let all = json::items(raw).map_err(|_| BadRequest::new("must be a string or an array of parts"))?;
        for (at, raw) in all.into_iter().enumerate() {
            self.part(raw, place, parts).map_err(|e| e.item(at))?;
        }
        Ok(())
    }

    fn part(&mut self, raw: &'a RawValue, place: &str, parts: &mut Parts<'a>) -> Result<(), BadRequest> {
        let mut part = Object::read(raw)?;
        match &*part.need_text("type")? {
            "input_text" | "output_text" | "text" | "summary_text" => {
                parts.text(part.need_kind("text", Kind::String)?);
                // Says how the text came about, which the expert need not know.
                part.take("logprobs")?;
            }
            "refusal" => parts.text(part.need_kind("refusal", Kind::String)?),
            "input_image" => {
                let detail = part.take_kind("detail", Kind::String)?;
                match part.take_kind("image_url", Kind::String)? {
                    Some(url) => parts.image(&ImageUrl::Raw(url), detail),
                    None => return Err(BadRequest::at("image_url", NO_FILES)),
                }
            }
            "input_file" => {
                let name = part.take_kind("filename", Kind::String)?;
                let Some(data) = part.take_kind("file_data", Kind::String)? else {
                    return Err(BadRequest::at("file_data", NO_FILES));
                };
                parts.other("file", |o| {
                    o.key("file").object(|o| {
                        if let Some(name) = name {
                            o.key("filename").raw(name.get());
                        }
                        o.key("file_data").raw(data.get());
                    });
                });
            }
            "input_audio" => {
                let audio = part.need_kind("input_audio", Kind::Object)?;
                parts.other("input_audio", |o| {
                    o.key("input_audio").raw(audio.get());
                });
            }
            kind => {
                return Err(BadRequest::at(
                    "type",
                    format!("`{kind}` is not a part that experts understand"),
                ));
            }
        }
        part.lose_rest(place, self.lossy);
        Ok(())
    }
}

/// One item, as far as it is read before the conversation is known.
struct Item<'a> {
    kind: Cow<'a, str>,
    role: Option<Cow<'a, str>>,
    fields: Object<'a>,
}

impl<'a> Item<'a> {
    fn read(raw: &'a RawValue) -> Result<Self, BadRequest> {
        let mut fields = Object::read(raw)?;
        let role = fields.text("role")?;
        let kind = match fields.text("type")? {
            Some(kind) => kind,
            None if role.is_some() => Cow::Borrowed("message"),
            None => Cow::Borrowed("item_reference"),
        };
        if kind == "message" && role.is_none() {
            return Err(BadRequest::at("role", "is required"));
        }
        Ok(Self { kind, role, fields })
    }
}

/// Takes out what says where an item comes from, which the expert need not know.
fn bookkeeping(fields: &mut Object<'_>, more: &[&str]) -> Result<(), BadRequest> {
    for name in ["id", "status"].iter().chain(more) {
        fields.take(name)?;
    }
    Ok(())
}

/// The texts of an array of parts, joined.
fn texts(fields: &mut Object<'_>, name: &str) -> Result<String, BadRequest> {
    let mut all = String::new();
    if let Some(raw) = fields.take(name)? {
        for raw in json::items(raw).map_err(|e| e.below(name))? {
            let mut part = Object::read(raw).map_err(|e| e.below(name))?;
            all.push_str(&part.text("text").map_err(|e| e.below(name))?.unwrap_or_default());
        }
    }
    Ok(all)
}
