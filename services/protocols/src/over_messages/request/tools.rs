//! The tools of a chat completions request.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::error::BadRequest;
use crate::json::{self, Json, Kind, Object};
use crate::lossy::Lossy;

struct Tool<'a> {
    name: Cow<'a, str>,
    /// The tool in the words of Messages.
    json: Vec<u8>,
}

/// What the model may do with tools.
enum Choice<'a> {
    Free,
    Never,
    Some,
    Named(&'a RawValue),
}

/// Writes `tools` and `tool_choice`.
pub(super) fn write(out: &mut Json<'_>, top: &mut Object<'_>, lossy: &mut Lossy) -> Result<(), BadRequest> {
    let mut tools = Vec::new();
    if let Some(raw) = top.take("tools")? {
        for (at, raw) in json::items(raw).map_err(|e| e.below("tools"))?.into_iter().enumerate() {
            tools.push(tool(raw, lossy).map_err(|e| e.item(at).below("tools"))?);
        }
    }
    let choice = match top.take("tool_choice")? {
        Some(raw) => Some(read_choice(raw, &mut tools).map_err(|e| e.below("tool_choice"))?),
        None => None,
    };
    let one_at_a_time = top.flag("parallel_tool_calls")? == Some(false);
    if tools.is_empty() {
        return match choice {
            Some(Choice::Some | Choice::Named(_)) => {
                Err(BadRequest::at("tool_choice", "forces a tool, but the request has none"))
            }
            _ => Ok(()),
        };
    }
    out.key("tools").array(|a| {
        for tool in &tools {
            a.fragment(&tool.json);
        }
    });
    let choice = match choice {
        None if !one_at_a_time => return Ok(()),
        None => Choice::Free,
        Some(choice) => choice,
    };
    let (kind, name) = match choice {
        Choice::Free => ("auto", None),
        Choice::Never => ("none", None),
        Choice::Some => ("any", None),
        Choice::Named(name) => ("tool", Some(name)),
    };
    out.key("tool_choice").typed(kind, |o| {
        if let Some(name) = name {
            o.key("name").raw(name.get());
        }
        if one_at_a_time && kind != "none" {
            o.key("disable_parallel_tool_use").raw("true");
        }
    });
    Ok(())
}

fn tool<'a>(raw: &'a RawValue, lossy: &mut Lossy) -> Result<Tool<'a>, BadRequest> {
    let mut tool = Object::read(raw)?;
    if tool.need_text("type")? != "function" {
        let message =
            "must be `function`: experts that speak Messages know no other tools of chat completions";
        return Err(BadRequest::at("type", message));
    }
    let cache = tool.take_kind("cache_control", Kind::Object)?;
    let below = |e: BadRequest| e.below("function");
    let mut function = Object::read(tool.need_kind("function", Kind::Object)?).map_err(below)?;
    let name = function.need_text("name").map_err(below)?;
    let description = function.take_kind("description", Kind::String).map_err(below)?;
    let parameters = function.take_kind("parameters", Kind::Object).map_err(below)?;
    let strict = function.flag("strict").map_err(below)? == Some(true);
    let mut json = Vec::new();
    Json(&mut json).object(|o| {
        o.key("name").string(&name);
        if let Some(description) = description {
            o.key("description").raw(description.get());
        }
        let schema = parameters.map(RawValue::get).filter(|schema| *schema != "{}");
        o.key("input_schema").raw(schema.unwrap_or(r#"{"type":"object","properties":{}}"#));
        if strict {
            o.key("strict").raw("true");
        }
        if let Some(cache) = cache {
            o.key("cache_control").raw(cache.get());
        }
    });
    function.lose_rest("tools[].function", lossy);
    tool.lose_rest("tools[]", lossy);
    Ok(Tool { name, json })
}

/// Reads the choice; tools that it does not allow are taken away.
fn read_choice<'a>(raw: &'a RawValue, tools: &mut Vec<Tool<'_>>) -> Result<Choice<'a>, BadRequest> {
    const UNKNOWN: &str = "must be `none`, `auto`, `required`, or name a `function` or `allowed_tools`";
    if json::kind(raw) == Kind::String {
        return mode(raw).ok_or_else(|| BadRequest::new(UNKNOWN));
    }
    let mut choice = Object::read(raw).map_err(|_| BadRequest::new(UNKNOWN))?;
    match &*choice.need_text("type")? {
        "function" => Ok(Choice::Named(function_name(&mut choice)?)),
        "allowed_tools" => {
            let below = |e: BadRequest| e.below("allowed_tools");
            let mut allowed =
                Object::read(choice.need_kind("allowed_tools", Kind::Object)?).map_err(below)?;
            let mut names = Vec::new();
            let list = allowed.need_kind("tools", Kind::Array).map_err(below)?;
            for (at, raw) in json::items(list).map_err(below)?.into_iter().enumerate() {
                let in_place = |e: BadRequest| below(e.item(at).below("tools"));
                let name =
                    Object::read(raw).and_then(|mut tool| function_name(&mut tool)).map_err(in_place)?;
                names.extend(json::text(name));
            }
            tools.retain(|tool| names.contains(&tool.name));
            let mode = allowed.need("mode").map(mode).map_err(below)?;
            mode.ok_or_else(|| below(BadRequest::at("mode", "must be `auto` or `required`")))
        }
        _ => Err(BadRequest::at("type", UNKNOWN)),
    }
}

fn function_name<'a>(tool: &mut Object<'a>) -> Result<&'a RawValue, BadRequest> {
    let mut function =
        Object::read(tool.need_kind("function", Kind::Object)?).map_err(|e| e.below("function"))?;
    function.need_kind("name", Kind::String).map_err(|e| e.below("function"))
}

fn mode<'a>(raw: &RawValue) -> Option<Choice<'a>> {
    match json::inside(raw) {
        "auto" => Some(Choice::Free),
        "none" => Some(Choice::Never),
        "required" => Some(Choice::Some),
        _ => None,
    }
}
