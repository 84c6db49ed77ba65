//! `POST /v1/embeddings`: by the router's own encoder for its model's name, by an expert for any other.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use encoder::{EncodeError, Encoder};
use experts::Operation;
use http::{HeaderValue, header};
use serde::{Deserialize, Serialize};

use crate::error::{ApiError, ErrorKind};
use crate::pipeline::{Front, Pipeline};

/// Texts in one request at most, as OpenAI's own limit.
const MAX_INPUTS: usize = 2048;

/// What is read of a body to see who is asked.
#[derive(Deserialize)]
struct Head {
    model: Option<String>,
}

#[derive(Deserialize)]
struct Ask {
    input: Input,
    encoding_format: Option<Format>,
    dimensions: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    One(String),
    Many(Vec<String>),
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Float,
    Base64,
}

#[derive(Serialize)]
struct Answer<'a> {
    object: &'static str,
    data: Vec<Item>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Item {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Floats(Arc<[f32]>),
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

pub(super) async fn create(State(pipeline): State<Arc<Pipeline>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Some(encoder) = pipeline.catalog.view().router.encoder.clone() else {
        return pipeline.answer(Front::OpenAi(Operation::Embeddings), parts, body).await;
    };
    let own = |body: &bytes::Bytes| {
        let head = serde_json::from_slice::<Head>(body);
        let own = head.ok().and_then(|h| h.model).is_some_and(|m| m == encoder.bundle().model_id);
        own.then(|| {
            let body = body.clone();
            async move { embed(&encoder, &body).await }
        })
    };
    pipeline.answer_or(Front::OpenAi(Operation::Embeddings), parts, body, own).await
}

async fn embed(encoder: &Encoder, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let ask: Ask = serde_json::from_slice(body).map_err(|e| {
        if e.is_data() {
            let message =
                "`input` must be a string or an array of strings, `encoding_format` `float` or `base64`";
            ApiError::new(ErrorKind::InvalidRequest, message).with_param("input")
        } else {
            ApiError::new(ErrorKind::InvalidJson, format!("the body is not valid JSON: {e}"))
        }
    })?;
    let dimensions = encoder.bundle().encoder.dimensions;
    if ask.dimensions.is_some_and(|d| d != dimensions as u64) {
        let message = format!("this model's embeddings have {dimensions} dimensions and cannot be shortened");
        return Err(ApiError::new(ErrorKind::InvalidRequest, message).with_param("dimensions"));
    }
    let texts = match ask.input {
        Input::One(text) => vec![text],
        Input::Many(texts) => texts,
    };
    if texts.is_empty() || texts.len() > MAX_INPUTS || texts.iter().any(String::is_empty) {
        let message = format!("`input` must hold 1 to {MAX_INPUTS} texts, none of them empty");
        return Err(ApiError::new(ErrorKind::InvalidRequest, message).with_param("input"));
    }
    let embeddings = encoder.embed(texts).await.map_err(|error| match error {
        EncodeError::NoEncoder => ApiError::new(ErrorKind::RouterNotReady, error.to_string()),
        EncodeError::Overloaded => ApiError::new(ErrorKind::Overloaded, "the encoder's queue is full"),
        other => ApiError::internal(other),
    })?;
    let tokens = embeddings.iter().map(|e| u64::from(e.tokens)).sum();
    let format = ask.encoding_format.unwrap_or_default();
    let vector = |values: Arc<[f32]>| match format {
        Format::Float => Vector::Floats(values),
        Format::Base64 => {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            Vector::Base64(STANDARD.encode(bytes))
        }
    };
    let data = embeddings
        .into_iter()
        .enumerate()
        .map(|(index, e)| Item { object: "embedding", index, embedding: vector(e.vector) })
        .collect();
    let answer = Answer {
        object: "list",
        data,
        model: &encoder.bundle().model_id,
        usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
    };
    let body = serde_json::to_vec(&answer).map_err(ApiError::internal)?;
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
