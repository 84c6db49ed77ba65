//! Messages request to chat completions request.

mod turns;

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::Echo;
use crate::error::BadRequest;
use crate::json::{self, Json, Kind, Object};
use crate::lossy::Lossy;
use crate::request::{self, Translated, Written};

/// Fields without a counterpart that change nothing about what an answer means.
const HARMLESS: &[&str] = &[
    "betas",
    "cache_control",
    "container",
    "context_management",
    "diagnostics",
    "inference_geo",
    "mcp_servers",
    "service_tier",
    "speed",
    "user_profile_id",
    "workspace_id",
];
/// Beginnings of the types of tools that the provider runs.
const SERVER_TOOLS: &[&str] = &["web_search_", "web_fetch_", "code_execution_", "tool_search_", "mcp_"];
const LARGE_BUDGET: u64 = 16_384;
const MEDIUM_BUDGET: u64 = 4_096;

/// Translates a request. What it asks for that only experts can do that speak Messages themselves is left out,
/// and told in [`Translated::refused`].
///
/// # Errors
/// [`BadRequest`] for what is not a Messages request.
pub fn request(body: &[u8]) -> Result<Translated<Echo>, BadRequest> {
    let mut top = request::open(body)?;
    let mut lossy = Lossy::default();
    let model = request::model(&mut top)?;
    let stream = top.flag("stream")?.unwrap_or(false);
    request::refuse_chat_only(&mut top)?;
    request::lose(&mut top, HARMLESS, &mut lossy)?;

    let mut sent = Vec::with_capacity(body.len() + 256);
    let mut echo = Echo { model: model.clone(), ..Echo::default() };
    let mut result = Ok(());
    Json(&mut sent).object(|out| {
        out.key("model").string(&model);
        result = Translation { out, written: Written::default(), lossy: &mut lossy, echo: &mut echo }
            .run(top, stream);
    });
    result?;
    let refused = lossy.take_refused();
    Ok(Translated { body: sent, stream, model, lossy: lossy.into_paths(), refused, echo })
}

struct Translation<'t, 'o> {
    out: &'t mut Json<'o>,
    written: Written,
    lossy: &'t mut Lossy,
    echo: &'t mut Echo,
}

impl Translation<'_, '_> {
    fn run(&mut self, mut top: Object<'_>, stream: bool) -> Result<(), BadRequest> {
        let system = top.take("system")?;
        let turns = top.need_kind("messages", Kind::Array)?;
        turns::write(self.out, system, turns, self.lossy)?;
        match top.count("max_tokens")? {
            None => return Err(BadRequest::at("max_tokens", "is required")),
            Some(0) => {
                let message = "must be at least 1; experts cannot be pre-warmed";
                self.lossy.go_on(Err(BadRequest::unsupported("max_tokens", message)))?;
                self.out.key("max_tokens").number(1)
            }
            Some(most) => self.out.key("max_tokens").number(most),
        };
        self.written.add("max_completion_tokens");
        request::write_stream(self.out, stream);
        request::number(self.out, &mut top, "temperature", "temperature")?;
        request::number(self.out, &mut top, "top_p", "top_p")?;
        if request::number(self.out, &mut top, "top_k", "top_k")? {
            self.lossy.add("top_k");
        }
        self.stop(&mut top)?;
        if let Some(raw) = top.take("metadata")? {
            let mut metadata = Object::read(raw).map_err(|e| e.below("metadata"))?;
            if let Some(user) =
                metadata.take_kind("user_id", Kind::String).map_err(|e| e.below("metadata"))?
            {
                self.out.key(self.written.add("user")).raw(user.get());
            }
            metadata.lose_rest("metadata", self.lossy);
        }
        self.effort_and_format(&mut top)?;
        self.tools(&mut top)?;
        self.written.pass_rest(self.out, top, self.lossy);
        Ok(())
    }

    fn stop(&mut self, top: &mut Object<'_>) -> Result<(), BadRequest> {
        let Some(raw) = top.take("stop_sequences")? else { return Ok(()) };
        let all = serde_json::from_str::<Vec<String>>(raw.get())
            .map_err(|_| BadRequest::at("stop_sequences", "must be an array of strings"))?;
        if !all.is_empty() {
            self.out.key(self.written.add("stop")).raw(raw.get());
        }
        self.echo.stop_sequences = all;
        Ok(())
    }

    fn effort_and_format(&mut self, top: &mut Object<'_>) -> Result<(), BadRequest> {
        let mut effort = None;
        if let Some(raw) = top.take("thinking")? {
            let below = |e: BadRequest| e.below("thinking");
            let mut thinking = Object::read(raw).map_err(below)?;
            let kind = thinking.need_text("type").map_err(below)?;
            let display = thinking.text("display").map_err(below)?;
            self.echo.thinking = display.as_deref() != Some("omitted");
            match &*kind {
                "enabled" => {
                    let budget = thinking.count("budget_tokens").map_err(below)?.unwrap_or(LARGE_BUDGET);
                    effort = Some(match budget {
                        LARGE_BUDGET.. => "high",
                        MEDIUM_BUDGET.. => "medium",
                        _ => "low",
                    });
                    self.lossy.add("thinking.budget_tokens");
                }
                "adaptive" => {}
                "between_tools" => self.lossy.add("thinking.type"),
                "disabled" => {
                    // Experts that always think have no common switch.
                    self.lossy.add("thinking.type");
                    self.echo.thinking = false;
                }
                _ => {
                    let message = "must be `enabled`, `adaptive`, `between_tools` or `disabled`";
                    self.lossy.go_on(Err(BadRequest::unsupported("thinking.type", message)))?;
                }
            }
            thinking.lose_rest("thinking", self.lossy);
        }
        let mut format = top.take("output_format")?.map(|raw| ("output_format", raw));
        if let Some(raw) = top.take("output_config")? {
            let below = |e: BadRequest| e.below("output_config");
            let mut config = Object::read(raw).map_err(below)?;
            match config.text("effort").map_err(below)?.as_deref() {
                None => {}
                Some("low") => effort = Some("low"),
                Some("medium") => effort = Some("medium"),
                Some("high") => effort = Some("high"),
                Some(_) => {
                    effort = Some("high");
                    self.lossy.add("output_config.effort");
                }
            }
            if let Some(raw) = config.take("format").map_err(below)? {
                format = Some(("output_config.format", raw));
            }
            config.lose_rest("output_config", self.lossy);
        }
        if let Some(effort) = effort {
            self.out.key(self.written.add("reasoning_effort")).string(effort);
        }
        match format {
            Some((path, raw)) => self.format(raw).map_err(|e| e.below(path)),
            None => Ok(()),
        }
    }

    fn format(&mut self, raw: &RawValue) -> Result<(), BadRequest> {
        let mut format = Object::read(raw)?;
        if format.need_text("type")? != "json_schema" {
            return Err(BadRequest::at("type", "must be `json_schema`"));
        }
        let schema = format.need_kind("schema", Kind::Object)?;
        self.out.key(self.written.add("response_format")).typed("json_schema", |o| {
            o.key("json_schema").object(|o| {
                o.key("name").string("output");
                o.key("schema").raw(schema.get());
                o.key("strict").raw("true");
            });
        });
        format.lose_rest("output_config.format", self.lossy);
        Ok(())
    }

    fn tools(&mut self, top: &mut Object<'_>) -> Result<(), BadRequest> {
        let mut tools = Vec::new();
        if let Some(raw) = top.take("tools")? {
            let all = json::items(raw).map_err(|e| e.below("tools"))?;
            for (at, raw) in all.into_iter().enumerate() {
                let told = self.tool(raw, &mut tools).map_err(|e| e.item(at).below("tools"));
                self.lossy.go_on(told)?;
            }
        }
        if !tools.is_empty() {
            self.out.key("tools").array(|a| {
                a.fragment(&tools);
            });
        }
        let Some(raw) = top.take("tool_choice")? else { return Ok(()) };
        let told = self.choice(raw, !tools.is_empty()).map_err(|e| e.below("tool_choice"));
        self.lossy.go_on(told).map(|_| ())
    }

    fn tool(&mut self, raw: &RawValue, tools: &mut Vec<u8>) -> Result<(), BadRequest> {
        let mut tool = Object::read(raw)?;
        let kind = tool.text("type")?.unwrap_or(Cow::Borrowed("custom"));
        if SERVER_TOOLS.iter().any(|prefix| kind.starts_with(prefix)) {
            self.lossy.of_type("tools", &kind);
            return Ok(());
        }
        if kind != "custom" {
            let message = "is a tool whose schema experts do not know; describe it as a custom tool with `input_schema`";
            return Err(BadRequest::unsupported("type", message));
        }
        let name = tool.need_kind("name", Kind::String)?;
        let description = tool.take_kind("description", Kind::String)?;
        let schema = tool.need_kind("input_schema", Kind::Object)?;
        let strict = tool.take_kind("strict", Kind::Bool)?;
        Json(tools).typed("function", |o| {
            o.key("function").object(|o| {
                o.key("name").raw(name.get());
                if let Some(description) = description {
                    o.key("description").raw(description.get());
                }
                o.key("parameters").raw(schema.get());
                if let Some(strict) = strict {
                    o.key("strict").raw(strict.get());
                }
            });
        });
        tool.lose_rest("tools[]", self.lossy);
        Ok(())
    }

    fn choice(&mut self, raw: &RawValue, has_tools: bool) -> Result<(), BadRequest> {
        let mut choice = Object::read(raw)?;
        let kind = choice.need_text("type")?;
        let name = choice.take_kind("name", Kind::String)?;
        let forced = match &*kind {
            "auto" | "none" => false,
            "any" | "tool" => true,
            _ => return Err(BadRequest::at("type", "must be `auto`, `any`, `tool` or `none`")),
        };
        if !has_tools {
            let message = "forces a tool, but the request has none that experts can call";
            return if forced { Err(BadRequest::unsupported("", message)) } else { Ok(()) };
        }
        if choice.flag("disable_parallel_tool_use")? == Some(true) {
            self.out.key(self.written.add("parallel_tool_calls")).raw("false");
        }
        self.out.key("tool_choice");
        match (&*kind, name) {
            ("tool", None) => return Err(BadRequest::at("name", "is required")),
            ("tool", Some(name)) => self.out.typed("function", |o| {
                o.key("function").object(|o| {
                    o.key("name").raw(name.get());
                });
            }),
            ("any", _) => self.out.string("required"),
            (kind, _) => self.out.string(kind),
        };
        choice.lose_rest("tool_choice", self.lossy);
        Ok(())
    }
}
