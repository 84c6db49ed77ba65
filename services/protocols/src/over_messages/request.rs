//! Chat completions request to Messages request.

mod tools;
mod turns;

use serde_json::value::RawValue;

use super::{Echo, Target};
use crate::error::BadRequest;
use crate::json::{self, Json, Kind, Object};
use crate::lossy::Lossy;
use crate::request::{self, Translated, Written};

/// Fields without a counterpart that change nothing about what an answer means.
const HARMLESS: &[&str] = &[
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "metadata",
    "moderation",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "seed",
    "store",
    "top_logprobs",
    "verbosity",
    "web_search_options",
];

/// Translates a request.
///
/// # Errors
/// [`BadRequest`] for what is not a chat completions request, or asks for what Messages cannot say.
pub fn request(body: &[u8], target: &Target<'_>) -> Result<Translated<Echo>, BadRequest> {
    let mut top = request::open(body)?;
    let mut lossy = Lossy::default();
    top.take("model")?;
    let stream = top.flag("stream")?.unwrap_or(false);
    let mut echo = Echo { model: target.shown.to_owned(), include_usage: false };
    if let Some(raw) = top.take("stream_options")? {
        let below = |e: BadRequest| e.below("stream_options");
        let mut options = Object::read(raw).map_err(below)?;
        echo.include_usage = options.flag("include_usage").map_err(below)?.unwrap_or(false);
    }
    refuse(&mut top)?;
    for name in HARMLESS {
        if top.take(name)?.is_some_and(|raw| !says_nothing(raw)) {
            lossy.field("", name);
        }
    }
    if top.take("service_tier")?.is_some_and(|raw| !matches!(json::inside(raw), "auto" | "default")) {
        lossy.field("", "service_tier");
    }

    let mut sent = Vec::with_capacity(body.len() + 256);
    let mut result = Ok(());
    Json(&mut sent).object(|out| {
        out.key("model").string(target.model);
        let mut written = Written::default();
        for name in ["max_tokens", "system", "stop_sequences"] {
            written.add(name);
        }
        result = Translation { out, written, lossy: &mut lossy }.run(top, stream, target.max_tokens);
    });
    result?;
    let (model, lossy) = (target.model.to_owned(), lossy.into_paths());
    Ok(Translated { body: sent, stream, model, lossy, refused: None, echo })
}

/// Refuses what an answer would be wrong without.
fn refuse(top: &mut Object<'_>) -> Result<(), BadRequest> {
    for (name, remedy) in [
        ("audio", "has no place in a Messages answer; leave it out"),
        ("function_call", "is not understood by experts that speak Messages; use `tool_choice`"),
        ("functions", "is not understood by experts that speak Messages; use `tools`"),
    ] {
        if top.take(name)?.is_some() {
            return Err(BadRequest::at(name, remedy));
        }
    }
    let modalities = top.take_kind("modalities", Kind::Array)?;
    if let Some(raw) = modalities
        && json::items(raw).map_err(|e| e.below("modalities"))?.iter().any(|raw| json::inside(raw) != "text")
    {
        return Err(BadRequest::at(
            "modalities",
            "must be `[\"text\"]`: experts that speak Messages write text",
        ));
    }
    match top.take("n")? {
        Some(n) if n.get() != "1" => {
            Err(BadRequest::at("n", "must be 1: experts that speak Messages give one answer"))
        }
        _ => Ok(()),
    }
}

/// Whether a field has the value that it has by itself.
fn says_nothing(raw: &RawValue) -> bool {
    matches!(raw.get(), "false" | "0" | "0.0" | "{}" | "[]" | "\"\"")
}

struct Translation<'t, 'o> {
    out: &'t mut Json<'o>,
    written: Written,
    lossy: &'t mut Lossy,
}

impl Translation<'_, '_> {
    fn run(&mut self, mut top: Object<'_>, stream: bool, max_tokens: u64) -> Result<(), BadRequest> {
        let (older, newer) = (top.count("max_tokens")?, top.count("max_completion_tokens")?);
        self.out.key("max_tokens").number(newer.or(older).unwrap_or(max_tokens));
        turns::write(self.out, top.need_kind("messages", Kind::Array)?, self.lossy)?;
        if stream {
            self.out.key("stream").raw("true");
        }
        self.temperature(&mut top)?;
        request::number(self.out, &mut top, "top_p", "top_p")?;
        self.stop(&mut top)?;
        self.user(&mut top)?;
        self.effort_and_format(&mut top)?;
        tools::write(self.out, &mut top, self.lossy)?;
        self.written.pass_rest(self.out, top, self.lossy);
        Ok(())
    }

    /// The scale of chat completions ends at 2, that of Messages at 1.
    fn temperature(&mut self, top: &mut Object<'_>) -> Result<(), BadRequest> {
        let Some(raw) = top.take_kind("temperature", Kind::Number)? else { return Ok(()) };
        if raw.get().parse::<f64>().is_ok_and(|t| t > 1.0) {
            self.out.key("temperature").raw("1");
            self.lossy.add("temperature");
        } else {
            self.out.key("temperature").raw(raw.get());
        }
        Ok(())
    }

    fn stop(&mut self, top: &mut Object<'_>) -> Result<(), BadRequest> {
        let Some(raw) = top.take("stop")? else { return Ok(()) };
        if json::kind(raw) == Kind::String {
            self.out.key("stop_sequences").array(|a| {
                a.raw(raw.get());
            });
            return Ok(());
        }
        let all = json::items(raw).ok().filter(|all| all.iter().all(|raw| json::kind(raw) == Kind::String));
        let all = all.ok_or_else(|| BadRequest::at("stop", "must be a string or an array of strings"))?;
        if !all.is_empty() {
            self.out.key("stop_sequences").raw(raw.get());
        }
        Ok(())
    }

    fn user(&mut self, top: &mut Object<'_>) -> Result<(), BadRequest> {
        let identifier = top.take_kind("safety_identifier", Kind::String)?;
        let user = top.take_kind("user", Kind::String)?.or(identifier);
        if let Some(user) = user.filter(|user| !json::inside(user).is_empty()) {
            self.out.key("metadata").object(|o| {
                o.key("user_id").raw(user.get());
            });
        }
        Ok(())
    }

    fn effort_and_format(&mut self, top: &mut Object<'_>) -> Result<(), BadRequest> {
        let effort = top.text("reasoning_effort")?;
        let level = match effort.as_deref() {
            None | Some("none") => None,
            Some("minimal") => {
                self.lossy.add("reasoning_effort");
                Some("low")
            }
            level => level,
        };
        let schema = match top.take("response_format")? {
            Some(raw) => self.format(raw).map_err(|e| e.below("response_format"))?,
            None => None,
        };
        if effort.is_some() {
            let kind = if level.is_some() { "adaptive" } else { "disabled" };
            self.out.key(self.written.add("thinking")).typed(kind, |_| {});
        }
        if level.is_some() || schema.is_some() {
            self.out.key(self.written.add("output_config")).object(|o| {
                if let Some(level) = level {
                    o.key("effort").string(level);
                }
                if let Some(schema) = schema {
                    o.key("format").typed("json_schema", |o| {
                        o.key("schema").raw(schema.get());
                    });
                }
            });
        }
        Ok(())
    }

    /// The schema that an answer must follow.
    fn format<'a>(&mut self, raw: &'a RawValue) -> Result<Option<&'a RawValue>, BadRequest> {
        let mut format = Object::read(raw)?;
        match &*format.need_text("type")? {
            "text" => Ok(None),
            // Whoever asks for it has to ask for JSON in the prompt as well.
            "json_object" => {
                self.lossy.add("response_format");
                Ok(None)
            }
            "json_schema" => {
                let below = |e: BadRequest| e.below("json_schema");
                let mut described =
                    Object::read(format.need_kind("json_schema", Kind::Object)?).map_err(below)?;
                let schema = described.need_kind("schema", Kind::Object).map_err(below)?;
                // Messages need no name for it, and are always strict.
                for name in ["name", "strict"] {
                    described.take(name).map_err(below)?;
                }
                described.lose_rest("response_format.json_schema", self.lossy);
                Ok(Some(schema))
            }
            _ => Err(BadRequest::at("type", "must be `text`, `json_object` or `json_schema`")),
        }
    }
}
