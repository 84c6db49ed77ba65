//! Uploads of past prompts: JSON lines, all of which must be right.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use encoder::{EncodeError, Encoder};
use routing::ExpertId;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use stores::PastPrompt;
use utoipa::ToSchema;

use crate::catalog::{RouterModel, WIDEST};
use crate::config::MemoryConfig;
use crate::error::{ApiError, ErrorKind};
use crate::problem::{Problem, from_value};

/// Longest id, in bytes.
const LONGEST_ID: usize = 128;
/// Texts that the router model is given at once: requests wait behind no more of them.
const TOGETHER: usize = 8;

/// A past prompt: a line of an upload.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = MemoryLine)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    /// Its name; made from all the rest when not given, so that the same line again changes nothing.
    #[serde(default)]
    id: Option<String>,
    /// The prompt, for the router model to embed. Only its embedding is kept.
    #[serde(default)]
    text: Option<String>,
    /// The prompt's embedding, in place of the text.
    #[serde(default)]
    embedding: Option<Vec<f32>>,
    /// The space of the embedding: `space` of the bundle's manifest, or its `model_id`; the router's when not given.
    #[serde(default)]
    encoder: Option<String>,
    /// Scores from 0 (bad) to 1 (good) that experts had on the prompt.
    outcomes: BTreeMap<ExpertId, f32>,
}

/// A line that is right, but perhaps for its embedding.
struct Draft {
    number: usize,
    id: Option<String>,
    space: Arc<str>,
    prompt: Prompt,
    outcomes: Arc<[(ExpertId, f32)]>,
}

enum Prompt {
    Text(String),
    Embedding(Vec<f32>),
}

/// 422 for a problem of a line, which is counted from 1.
fn wrong(number: usize, problem: Problem) -> ApiError {
    let message = format!("line {number}: {problem}; no line was added");
    let place = problem.below(&format!("lines[{}]", number - 1)).path;
    ApiError::new(ErrorKind::Unprocessable, message).with_param(place)
}

/// Reads prompts. Blank lines are passed over.
///
/// # Errors
/// 422 that names the line and the place in it; 413.
pub(super) fn read(
    source: impl Read,
    config: &MemoryConfig,
    router: &RouterModel,
) -> Result<Vec<PastPrompt>, ApiError> {
    let most = config.max_upload_bytes;
    let mut source = BufReader::new(source.take(most.saturating_add(1)));
    let (mut drafts, mut bytes, mut length) = (Vec::new(), Vec::new(), 0);
    for number in 1.. {
        bytes.clear();
        let read = source.read_until(b'\n', &mut bytes).map_err(|error| {
            ApiError::new(ErrorKind::InvalidRequest, format!("the upload cannot be read: {error}"))
        })?;
        length += read as u64;
        if length > most {
            let message =
                format!("the upload is longer than {most} bytes (memory.max_upload_bytes); send it in parts");
            return Err(ApiError::new(ErrorKind::BodyTooLarge, message));
        }
        if read == 0 {
            break;
        }
        if !bytes.trim_ascii().is_empty() {
            drafts.push(draft(number, &bytes, router).map_err(|problem| wrong(number, problem))?);
        }
    }
    if drafts.is_empty() {
        let message = "there is no line; each must be an object with `text` or `embedding`, and `outcomes`";
        return Err(ApiError::new(ErrorKind::Unprocessable, message));
    }
    if drafts.len() > config.max_prompts {
        // Said before texts are embedded, which takes long.
        return Err(super::refusal(stores::MemoryError::Full {
            wanted: drafts.len(),
            most: config.max_prompts,
        }));
    }
    distinct(&drafts)?;
    embed(&mut drafts, router.encoder.as_ref())?;
    Ok(drafts.into_iter().map(finished).collect())
}

fn draft(number: usize, bytes: &[u8], router: &RouterModel) -> Result<Draft, Problem> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        let text = error.to_string();
        let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
        Problem::at("", format!("is not valid JSON: {what} at column {}", error.column()))
    })?;
    if !value.is_object() {
        return Err(Problem::at("", "must be a JSON object"));
    }
    let Line { id, text, embedding, encoder, outcomes } = from_value(value)?;
    if let Some(id) = &id
        && (id.is_empty() || id.len() > LONGEST_ID || id.chars().any(char::is_control))
    {
        let message = format!("must have 1 to {LONGEST_ID} bytes and no control characters");
        return Err(Problem::at("id", message));
    }
    if outcomes.is_empty() {
        return Err(Problem::at("outcomes", "must name at least one expert"));
    }
    if let Some((expert, _)) = outcomes.iter().find(|(_, score)| !(0.0..=1.0).contains(*score)) {
        return Err(Problem::at(format!("outcomes.{expert}"), "must lie between 0 (bad) and 1 (good)"));
    }
    let (space, prompt) = match (text, embedding) {
        (Some(text), None) => (space_of_text(&text, encoder.as_deref(), router)?, Prompt::Text(text)),
        (None, Some(vector)) => {
            let space = space_of_vector(&vector, encoder, router)?;
            let unit = unit(&vector).ok_or_else(|| Problem::at("embedding", "must not be zero"))?;
            (space, Prompt::Embedding(unit))
        }
        (Some(_), Some(_)) => {
            return Err(Problem::at("text", "give either a text or an embedding, not both"));
        }
        (None, None) => return Err(Problem::at("text", "is missing; give a text or an embedding")),
    };
    Ok(Draft { number, id, space, prompt, outcomes: outcomes.into_iter().collect() })
}

fn space_of_text(text: &str, encoder: Option<&str>, router: &RouterModel) -> Result<Arc<str>, Problem> {
    if encoder.is_some() {
        return Err(Problem::at("encoder", "goes with an embedding; a text is embedded by the router model"));
    }
    if text.trim().is_empty() {
        return Err(Problem::at("text", "must not be empty"));
    }
    let embeds = router.encoder.as_ref().is_some_and(|encoder| !encoder.is_first_stage_alone());
    router.space.as_ref().filter(|_| embeds).map(|space| space.id.clone()).ok_or_else(|| {
        let message = "cannot be embedded: no encoder is loaded (router.load, router.onnxruntime); send `embedding` \
                       and `encoder` instead";
        Problem::at("text", message)
    })
}

fn space_of_vector(
    vector: &[f32],
    encoder: Option<String>,
    router: &RouterModel,
) -> Result<Arc<str>, Problem> {
    let own = router.space.as_ref();
    let space: Arc<str> = match (encoder, own) {
        (Some(encoder), _) if encoder.is_empty() => return Err(Problem::at("encoder", "must not be empty")),
        (Some(encoder), _) => encoder.into(),
        (None, Some(own)) => own.id.clone(),
        (None, None) => {
            return Err(Problem::at(
                "encoder",
                "is missing, and no router model is loaded that could be meant",
            ));
        }
    };
    let width = own.filter(|own| own.id == space).map(|own| own.dimensions);
    match width.filter(|width| *width != vector.len()) {
        Some(width) => {
            let message = format!("must be {width} wide, as encoder `{space}` is, not {}", vector.len());
            return Err(Problem::at("embedding", message));
        }
        None if vector.is_empty() || vector.len() > WIDEST => {
            let message = format!("must be 1 to {WIDEST} wide, not {}", vector.len());
            return Err(Problem::at("embedding", message));
        }
        None => {}
    }
    match vector.iter().position(|x| !x.is_finite()) {
        Some(at) => Err(Problem::at(format!("embedding[{at}]"), "must be a finite number")),
        None => Ok(space),
    }
}

/// The vector at length 1; nothing for zero.
fn unit(vector: &[f32]) -> Option<Vec<f32>> {
    let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    (norm > 0.0).then(|| vector.iter().map(|x| (f64::from(*x) / norm) as f32).collect())
}

/// Refuses lines that name the same id: one of them would be lost.
fn distinct(drafts: &[Draft]) -> Result<(), ApiError> {
    let mut lines: HashMap<&str, usize> = HashMap::new();
    for draft in drafts {
        let Some(id) = draft.id.as_deref() else { continue };
        if let Some(first) = lines.insert(id, draft.number) {
            let message = format!("`{id}` is the id of line {first} already");
            return Err(wrong(draft.number, Problem::at("id", message)));
        }
    }
    Ok(())
}

/// Puts embeddings in the place of texts.
fn embed(drafts: &mut [Draft], encoder: Option<&Encoder>) -> Result<(), ApiError> {
    let mut texts: Vec<&mut Draft> =
        drafts.iter_mut().filter(|d| matches!(d.prompt, Prompt::Text(_))).collect();
    for part in texts.chunks_mut(TOGETHER) {
        let read: Vec<&str> = part
            .iter()
            .map(|draft| match &draft.prompt {
                Prompt::Text(text) => text.as_str(),
                Prompt::Embedding(_) => "",
            })
            .collect();
        // As prompts are read, past cache and queue limit: requests lose neither what they remember nor a place.
        let features = encoder.ok_or(EncodeError::NoEncoder).and_then(|e| e.features_batch(&read, |_| {}));
        for (draft, features) in part.iter_mut().zip(features.map_err(ApiError::internal)?) {
            let zero = || wrong(draft.number, Problem::at("text", "has no embedding"));
            draft.prompt = Prompt::Embedding(unit(&features.embedding).ok_or_else(zero)?);
        }
    }
    Ok(())
}

fn finished(draft: Draft) -> PastPrompt {
    let embedding: Arc<[f32]> = match draft.prompt {
        Prompt::Embedding(vector) => vector.into(),
        Prompt::Text(_) => Arc::default(),
    };
    let id = draft.id.unwrap_or_else(|| digest(&draft.space, &embedding, &draft.outcomes));
    PastPrompt { id: id.into(), space: draft.space, embedding, outcomes: draft.outcomes }
}

/// A name made from all that a prompt is.
fn digest(space: &str, embedding: &[f32], outcomes: &[(ExpertId, f32)]) -> String {
    let mut sum = Sha256::new().chain_update(space).chain_update([0]);
    for x in embedding {
        sum.update(x.to_le_bytes());
    }
    for (expert, score) in outcomes {
        sum.update(expert.as_str());
        sum.update([0]);
        sum.update(score.to_le_bytes());
    }
    sum.finalize().iter().take(12).fold("m-".to_owned(), |hex, byte| format!("{hex}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Space;

    fn router() -> RouterModel {
        RouterModel { space: Some(Space { id: "tiny".into(), dimensions: 2 }), ..RouterModel::default() }
    }

    fn read_text(text: &str) -> Result<Vec<PastPrompt>, ApiError> {
        let config = MemoryConfig { max_prompts: 5, max_upload_bytes: 2000 };
        read(text.as_bytes(), &config, &router())
    }

    #[test]
    fn lines_become_unit_vectors_with_names_that_stay_the_same() {
        let text = "{\"embedding\":[3,4],\"outcomes\":{\"b\":1,\"a\":0}}\n\n\
                    {\"id\":\"x\",\"embedding\":[0,2,0],\"encoder\":\"other\",\"outcomes\":{\"a\":0.5}}";
        let read = read_text(text).unwrap();
        assert_eq!((&*read[0].space, &*read[0].embedding), ("tiny", &[0.6, 0.8][..]));
        let outcomes: Vec<(&str, f32)> = read[0].outcomes.iter().map(|(e, s)| (e.as_str(), *s)).collect();
        assert_eq!(outcomes, [("a", 0.0), ("b", 1.0)]);
        assert_eq!(
            (&*read[1].id, &*read[1].space, &*read[1].embedding),
            ("x", "other", &[0.0, 1.0, 0.0][..])
        );
        let again = read_text("{\"outcomes\":{\"a\":0,\"b\":1},\"embedding\":[6,8]}").unwrap();
        assert_eq!(again[0], read[0]);
        let other = read_text("{\"outcomes\":{\"a\":0,\"b\":0.5},\"embedding\":[6,8]}").unwrap();
        assert_ne!(other[0].id, read[0].id);
    }

    #[test]
    fn what_is_wrong_is_told_by_line_and_place() {
        let good = "{\"id\":\"g\",\"embedding\":[1,0],\"outcomes\":{\"a\":1}}\n";
        for (line, place, problem) in [
            ("{\"embedding\":[1,0],\"outcomes\":{\"a\":1}", "lines[2]", "is not valid JSON"),
            ("[1]", "lines[2]", "must be a JSON object"),
            ("{\"embedding\":[1,0]}", "lines[2].outcomes", "missing"),
            ("{\"embedding\":[1,0],\"outcomes\":{}}", "lines[2].outcomes", "at least one"),
            ("{\"embedding\":[1,0],\"outcomes\":{\"a\":1.5}}", "lines[2].outcomes.a", "between 0"),
            ("{\"embedding\":[1,0],\"outcomes\":{\"a\":\"good\"}}", "lines[2].outcomes.a", "f32"),
            ("{\"embedding\":[1,0,0],\"outcomes\":{\"a\":1}}", "lines[2].embedding", "2 wide"),
            ("{\"embedding\":[],\"encoder\":\"x\",\"outcomes\":{\"a\":1}}", "lines[2].embedding", "1 to"),
            ("{\"embedding\":[0,0],\"outcomes\":{\"a\":1}}", "lines[2].embedding", "zero"),
            ("{\"embedding\":[1,1e39],\"outcomes\":{\"a\":1}}", "lines[2].embedding[1]", "finite"),
            ("{\"embeding\":[1,0],\"outcomes\":{\"a\":1}}", "lines[2].embeding", "did you mean `embedding`"),
            ("{\"text\":\"t\",\"embedding\":[1,0],\"outcomes\":{\"a\":1}}", "lines[2].text", "either"),
            ("{\"text\":\"t\",\"encoder\":\"tiny\",\"outcomes\":{\"a\":1}}", "lines[2].encoder", "goes with"),
            ("{\"text\":\" \",\"outcomes\":{\"a\":1}}", "lines[2].text", "empty"),
            ("{\"text\":\"t\",\"outcomes\":{\"a\":1}}", "lines[2].text", "no encoder is loaded"),
            ("{\"outcomes\":{\"a\":1}}", "lines[2].text", "is missing"),
            ("{\"id\":\"\",\"embedding\":[1,0],\"outcomes\":{\"a\":1}}", "lines[2].id", "1 to 128"),
            ("{\"id\":\"g\",\"embedding\":[1,0],\"outcomes\":{\"a\":1}}", "lines[2].id", "line 1 already"),
        ] {
            let error = read_text(&format!("{good}\n{line}")).unwrap_err();
            assert_eq!(
                (error.kind, error.param.as_deref()),
                (ErrorKind::Unprocessable, Some(place)),
                "{error}"
            );
            assert!(
                error.message.starts_with("line 3: ") && error.message.contains(problem),
                "{line}: {error}"
            );
        }
    }

    #[test]
    fn limits_are_told_before_anything_is_embedded() {
        assert_eq!(read_text("\n \n").unwrap_err().kind, ErrorKind::Unprocessable);
        let line = |n: usize| format!("{{\"embedding\":[1,{n}],\"outcomes\":{{\"a\":1}}}}\n");
        let six: String = (0..6).map(line).collect();
        let full = read_text(&six).unwrap_err();
        assert!(full.kind == ErrorKind::Conflict && full.message.contains("memory.max_prompts"), "{full}");
        let long = read_text(&" ".repeat(2001)).unwrap_err();
        assert_eq!(long.kind, ErrorKind::BodyTooLarge);
        assert_eq!(read_text(&format!("{}{}", line(1), " ".repeat(1900))).unwrap().len(), 1);
    }
}
