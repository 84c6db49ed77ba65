//! Responses request to chat completions request.

mod input;
mod tools;

use serde_json::value::RawValue;

use super::Echo;
use crate::error::BadRequest;
use crate::json::{self, Json, Kind, Object};
use crate::lossy::Lossy;
use crate::request::{self, Translated, Written};

/// Fields without a counterpart that change nothing about what an answer means.
const HARMLESS: &[&str] = &[
    "access_programs",
    "background_options",
    "context_management",
    "image",
    "moderation",
    "prompt_cache_options",
    "prompt_cache_retention",
];
/// Fields that need what was stored before, with what to do instead.
const STATEFUL: &[(&str, &str)] = &[
    ("previous_response_id", "nothing is stored here; send the whole conversation in `input`"),
    ("conversation", "nothing is stored here; send the whole conversation in `input`"),
    ("prompt", "no prompt templates are stored here; send the text in `instructions` and `input`"),
];
/// Translates a request.
///
/// # Errors
/// [`BadRequest`] for what is not a Responses request, asks for stored state, or for what experts cannot do.
pub fn request(body: &[u8]) -> Result<Translated<Echo>, BadRequest> {
    let mut top = request::open(body)?;
    let mut lossy = Lossy::default();
    let model = request::model(&mut top)?;
    let stream = top.flag("stream")?.unwrap_or(false);
    for (name, remedy) in STATEFUL {
        if top.take(name)?.is_some() {
            return Err(BadRequest::at(name, *remedy));
        }
    }
    if top.flag("background")? == Some(true) {
        let message = "answers cannot be fetched later; leave it out, or use `stream`";
        return Err(BadRequest::at("background", message));
    }
    request::refuse_chat_only(&mut top)?;
    request::lose(&mut top, HARMLESS, &mut lossy)?;
    if top.flag("store")? == Some(true) {
        lossy.add("store");
    }

    let mut sent = Vec::with_capacity(body.len() + 256);
    let mut echo = Echo { model: model.clone(), ..Echo::default() };
    let mut fields = Vec::new();
    let mut result = Ok(());
    Json(&mut sent).object(|out| {
        out.key("model").string(&model);
        let shown = Json(&mut fields);
        result = Translation { out, written: Written::default(), shown, lossy: &mut lossy, echo: &mut echo }
            .run(top, stream);
    });
    result?;
    echo.fields = fields;
    Ok(Translated { body: sent, stream, model, lossy: lossy.into_paths(), refused: None, echo })
}

struct Translation<'t, 'o, 's> {
    out: &'t mut Json<'o>,
    written: Written,
    /// The fields that the answer repeats.
    shown: Json<'s>,
    lossy: &'t mut Lossy,
    echo: &'t mut Echo,
}

impl Translation<'_, '_, '_> {
    fn run(&mut self, mut top: Object<'_>, stream: bool) -> Result<(), BadRequest> {
        let instructions = top.take_kind("instructions", Kind::String)?;
        self.written.add("messages");
        input::write(self.out, instructions, top.need("input")?, self.lossy)?;
        self.show("instructions", instructions, "null");
        request::write_stream(self.out, stream);
        if let Some(raw) = top.take("stream_options")? {
            let options = Object::read(raw).map_err(|e| e.below("stream_options"))?;
            options.lose_rest("stream_options", self.lossy);
        }

        let most = top.take_kind("max_output_tokens", Kind::Number)?;
        if let Some(most) = most {
            self.written.add("max_completion_tokens");
            self.out.key(self.written.add("max_tokens")).raw(most.get());
        }
        self.show("max_output_tokens", most, "null");
        // Of no use without tools that the provider runs.
        let calls = top.take_kind("max_tool_calls", Kind::Number)?;
        self.show("max_tool_calls", calls, "null");
        for name in ["temperature", "top_p", "presence_penalty", "frequency_penalty"] {
            let raw = top.take_kind(name, Kind::Number)?;
            if let Some(raw) = raw {
                self.out.key(name).raw(raw.get());
            }
            self.show(name, raw, if name.ends_with("penalty") { "0.0" } else { "1.0" });
        }
        for name in ["prompt_cache_key", "safety_identifier", "service_tier", "user"] {
            let raw = top.take_kind(name, Kind::String)?;
            if let Some(raw) = raw {
                self.out.key(name).raw(raw.get());
            }
            self.show(name, raw, if name == "service_tier" { "\"default\"" } else { "null" });
        }
        let metadata = top.take_kind("metadata", Kind::Object)?;
        self.show("metadata", metadata, "{}");
        let truncation = top.text("truncation")?;
        if truncation.is_some_and(|how| how != "disabled") {
            self.lossy.add("truncation");
        }
        self.show("truncation", None, "\"disabled\"");
        self.logprobs(&mut top)?;
        self.reasoning(&mut top)?;
        self.text(&mut top)?;
        tools::write(self.out, &mut self.shown, &mut top, self.lossy, self.echo)?;
        for (name, value) in [("previous_response_id", "null"), ("background", "false"), ("store", "false")] {
            self.show(name, None, value);
        }
        self.written.pass_rest(self.out, top, self.lossy);
        Ok(())
    }

    /// Lets the answer show a field's value.
    fn show(&mut self, name: &str, raw: Option<&RawValue>, default: &str) {
        self.shown.key(name).raw(raw.map_or(default, RawValue::get));
    }

    fn logprobs(&mut self, top: &mut Object<'_>) -> Result<(), BadRequest> {
        let most = top.take_kind("top_logprobs", Kind::Number)?;
        let mut wanted = most.is_some_and(|raw| raw.get() != "0");
        if let Some(raw) = top.take("include")? {
            for raw in json::items(raw).map_err(|e| e.below("include"))? {
                match json::text(raw).as_deref() {
                    Some("message.output_text.logprobs") => wanted = true,
                    Some(name) => self.lossy.of_type("include", name),
                    None => return Err(BadRequest::at("include", "must be an array of strings")),
                }
            }
        }
        if wanted {
            self.out.key(self.written.add("logprobs")).raw("true");
        }
        if let Some(most) = most.filter(|_| wanted) {
            self.out.key("top_logprobs").raw(most.get());
        }
        self.show("top_logprobs", most, "0");
        Ok(())
    }

    fn reasoning(&mut self, top: &mut Object<'_>) -> Result<(), BadRequest> {
        let raw = top.take("reasoning")?;
        self.show("reasoning", raw, r#"{"effort":null,"summary":null}"#);
        let Some(raw) = raw else { return Ok(()) };
        let below = |e: BadRequest| e.below("reasoning");
        let mut reasoning = Object::read(raw).map_err(below)?;
        if let Some(effort) = reasoning.take_kind("effort", Kind::String).map_err(below)? {
            self.out.key(self.written.add("reasoning_effort")).raw(effort.get());
        }
        for name in ["summary", "generate_summary"] {
            self.echo.summary |= reasoning.take_kind(name, Kind::String).map_err(below)?.is_some();
        }
        reasoning.lose_rest("reasoning", self.lossy);
        Ok(())
    }

    fn text(&mut self, top: &mut Object<'_>) -> Result<(), BadRequest> {
        let raw = top.take("text")?;
        self.show("text", raw, r#"{"format":{"type":"text"}}"#);
        let Some(raw) = raw else { return Ok(()) };
        let mut text = Object::read(raw).map_err(|e| e.below("text"))?;
        if let Some(verbosity) = text.take_kind("verbosity", Kind::String).map_err(|e| e.below("text"))? {
            self.out.key(self.written.add("verbosity")).raw(verbosity.get());
        }
        if let Some(raw) = text.take("format").map_err(|e| e.below("text"))? {
            self.format(raw).map_err(|e| e.below("text.format"))?;
        }
        text.lose_rest("text", self.lossy);
        Ok(())
    }

    fn format(&mut self, raw: &RawValue) -> Result<(), BadRequest> {
        let mut format = Object::read(raw)?;
        match &*format.need_text("type")? {
            "text" => {}
            "json_object" => {
                self.out.key(self.written.add("response_format")).typed("json_object", |_| {});
            }
            "json_schema" => {
                let name = format.need_kind("name", Kind::String)?;
                let schema = format.need_kind("schema", Kind::Object)?;
                let description = format.take_kind("description", Kind::String)?;
                let strict = format.take_kind("strict", Kind::Bool)?;
                self.out.key(self.written.add("response_format")).typed("json_schema", |o| {
                    o.key("json_schema").object(|o| {
                        o.key("name").raw(name.get());
                        if let Some(description) = description {
                            o.key("description").raw(description.get());
                        }
                        o.key("schema").raw(schema.get());
                        if let Some(strict) = strict {
                            o.key("strict").raw(strict.get());
                        }
                    });
                });
            }
            _ => return Err(BadRequest::at("type", "must be `text`, `json_schema` or `json_object`")),
        }
        format.lose_rest("text.format", self.lossy);
        Ok(())
    }
}
