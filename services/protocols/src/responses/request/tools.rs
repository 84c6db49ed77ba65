//! The tools of a Responses request.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::error::BadRequest;
use crate::json::{self, Json, Kind, Object};
use crate::lossy::Lossy;
use crate::responses::Echo;

/// Beginnings of the types of tools that the provider runs.
const SERVER_TOOLS: &[&str] = &[
    "code_interpreter",
    "file_search",
    "image_generation",
    "mcp",
    "programmatic_tool_calling",
    "web_search",
];

/// A tool that experts can be told of.
struct Tool<'a> {
    name: Cow<'a, str>,
    /// The tool in the words of chat completions.
    json: Vec<u8>,
}

/// What the model may do with tools.
enum Choice<'a> {
    Free,
    Mode(&'static str),
    Named(&'a RawValue),
}

/// Writes `tools`, `tool_choice` and `parallel_tool_calls`.
pub(super) fn write(
    out: &mut Json<'_>,
    shown: &mut Json<'_>,
    top: &mut Object<'_>,
    lossy: &mut Lossy,
    echo: &mut Echo,
) -> Result<(), BadRequest> {
    let all = top.take_kind("tools", Kind::Array)?;
    shown.key("tools").raw(all.map_or("[]", RawValue::get));
    let choice = top.take("tool_choice")?;
    shown.key("tool_choice").raw(choice.map_or("\"auto\"", RawValue::get));
    let parallel = top.flag("parallel_tool_calls")?;
    shown.key("parallel_tool_calls").raw(if parallel == Some(false) { "false" } else { "true" });

    let mut tools = Vec::new();
    if let Some(raw) = all {
        for (at, raw) in json::items(raw).map_err(|e| e.below("tools"))?.into_iter().enumerate() {
            tools.extend(tool(raw, lossy, echo).map_err(|e| e.item(at).below("tools"))?);
        }
    }
    let choice = match choice {
        Some(raw) => read_choice(raw, &mut tools, lossy).map_err(|e| e.below("tool_choice"))?,
        None => Choice::Free,
    };
    if tools.is_empty() {
        return match choice {
            Choice::Named(_) | Choice::Mode("required") => {
                let message = "forces a tool, but the request has none that experts can call";
                Err(BadRequest::at("tool_choice", message))
            }
            _ => Ok(()),
        };
    }
    out.key("tools").array(|a| {
        for tool in &tools {
            a.fragment(&tool.json);
        }
    });
    if let Some(parallel) = parallel {
        out.key("parallel_tool_calls").raw(if parallel { "true" } else { "false" });
    }
    match choice {
        Choice::Free => {}
        Choice::Mode(mode) => {
            out.key("tool_choice").string(mode);
        }
        Choice::Named(name) => {
            out.key("tool_choice").typed("function", |o| {
                o.key("function").object(|o| {
                    o.key("name").raw(name.get());
                });
            });
        }
    }
    Ok(())
}

fn tool<'a>(raw: &'a RawValue, lossy: &mut Lossy, echo: &mut Echo) -> Result<Option<Tool<'a>>, BadRequest> {
    let mut tool = Object::read(raw)?;
    let kind = tool.need_text("type")?;
    if SERVER_TOOLS.iter().any(|prefix| kind.starts_with(prefix)) {
        lossy.of_type("tools", &kind);
        return Ok(None);
    }
    if kind != "function" && kind != "custom" {
        let message = "is a tool whose schema experts do not know; describe it as a function";
        return Err(BadRequest::at("type", message));
    }
    let name = tool.need_text("name")?;
    let mut json = Vec::new();
    if kind == "function" {
        let description = tool.take_kind("description", Kind::String)?;
        let parameters = tool.take_kind("parameters", Kind::Object)?;
        let strict = tool.take_kind("strict", Kind::Bool)?;
        Json(&mut json).typed("function", |o| {
            o.key("function").object(|o| {
                o.key("name").string(&name);
                if let Some(description) = description {
                    o.key("description").raw(description.get());
                }
                if let Some(parameters) = parameters {
                    o.key("parameters").raw(parameters.get());
                }
                if let Some(strict) = strict {
                    o.key("strict").raw(strict.get());
                }
            });
        });
    } else {
        let mut description = tool.text("description")?.unwrap_or_default().into_owned();
        if let Some(raw) = tool.take("format")? {
            grammar(raw, &mut description, lossy).map_err(|e| e.below("format"))?;
        }
        Json(&mut json).typed("function", |o| {
            o.key("function").object(|o| {
                o.key("name").string(&name);
                o.key("description").string(&description);
                o.key("parameters").raw(
                    r#"{"type":"object","properties":{"input":{"type":"string"}},"required":["input"],"additionalProperties":false}"#,
                );
            });
        });
        echo.custom_tools.push(name.clone().into_owned());
    }
    tool.lose_rest("tools[]", lossy);
    Ok(Some(Tool { name, json }))
}

/// Tells the model of a grammar that nothing enforces.
fn grammar(raw: &RawValue, description: &mut String, lossy: &mut Lossy) -> Result<(), BadRequest> {
    let mut format = Object::read(raw)?;
    if format.need_text("type")? == "grammar" {
        let (syntax, definition) = (format.need_text("syntax")?, format.need_text("definition")?);
        let break_ = if description.is_empty() { "" } else { "\n\n" };
        let text = [break_, "`input` must follow this ", &syntax, " grammar:\n", &definition].concat();
        description.push_str(&text);
        lossy.add("tools[].format");
    }
    Ok(())
}

/// Reads the choice; tools that it does not allow are taken away.
fn read_choice<'a>(
    raw: &'a RawValue,
    tools: &mut Vec<Tool<'_>>,
    lossy: &mut Lossy,
) -> Result<Choice<'a>, BadRequest> {
    const UNKNOWN: &str =
        "must be `none`, `auto`, `required`, or name a `function`, a `custom` tool or `allowed_tools`";
    if json::kind(raw) == Kind::String {
        return mode(raw).map(Choice::Mode).ok_or_else(|| BadRequest::new(UNKNOWN));
    }
    let mut choice = Object::read(raw).map_err(|_| BadRequest::new(UNKNOWN))?;
    match &*choice.need_text("type")? {
        "function" | "custom" => Ok(Choice::Named(choice.need_kind("name", Kind::String)?)),
        "allowed_tools" => {
            let mut allowed = Vec::new();
            let list = choice.need_kind("tools", Kind::Array)?;
            for (at, raw) in json::items(list)?.into_iter().enumerate() {
                let in_place = |e: BadRequest| e.item(at).below("tools");
                let mut tool = Object::read(raw).map_err(in_place)?;
                match tool.text("name").map_err(in_place)? {
                    Some(name) => allowed.push(name),
                    None => lossy.add("tool_choice.tools[]"),
                }
            }
            tools.retain(|tool| allowed.contains(&tool.name));
            let mode = choice.need("mode").map(mode)?;
            mode.map(Choice::Mode).ok_or_else(|| BadRequest::at("mode", "must be `auto` or `required`"))
        }
        _ => Err(BadRequest::at("type", UNKNOWN)),
    }
}

fn mode(raw: &RawValue) -> Option<&'static str> {
    ["none", "auto", "required"].into_iter().find(|mode| json::inside(raw) == *mode)
}
