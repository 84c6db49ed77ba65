//! One request from its head to its answer.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;

use crate::answer::Answer;
use crate::body::{AnswerBody, Broken, End, Pace, Source, Timed};
use crate::fault::Fault;
use crate::render::{self, Shape, Stream};
use crate::request::{Chat, Completion, Embedding};
use crate::state::State;
use crate::stats::Watch;
use crate::wire::Control;

/// Largest request body that is read.
const LARGEST_REQUEST: usize = 64 << 20;
/// Size of the pieces in which an oversize body is sent.
const PIECE: usize = 64 << 10;
/// Most dimensions of an embedding.
const MOST_DIMENSIONS: usize = 16_384;

type Reply = Response<AnswerBody>;

/// An answer before a fault is applied to it.
enum Draft {
    /// A JSON body.
    Json(StatusCode, Bytes),
    /// A stream of events.
    Events(Stream),
}

/// Answers one request. An error breaks the connection off without an answer.
pub(crate) async fn handle(
    state: Arc<State>,
    control: Arc<Control>,
    request: Request<Incoming>,
) -> Result<Reply, Broken> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    if parts.method == Method::GET {
        return Ok(get(&state, path));
    }
    let endpoint = match (&parts.method, path) {
        (&Method::POST, "/v1/chat/completions") => Some(chat as Endpoint),
        (&Method::POST, "/v1/completions") => Some(completion as Endpoint),
        (&Method::POST, "/v1/embeddings") => Some(embedding as Endpoint),
        _ => None,
    };
    // A client that sends less than it promised, or too much, is told so if it still listens.
    let Ok(body) =
        Limited::new(body, LARGEST_REQUEST).collect().await.map(http_body_util::Collected::to_bytes)
    else {
        return Ok(refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the request body could not be read or exceeds 64 MiB",
        ));
    };
    let Some(endpoint) = endpoint else {
        return Ok(match (&parts.method, path) {
            (&Method::POST, "/__script") => script(&state, &body),
            (&Method::POST, "/__reset") => {
                state.reset();
                json(StatusCode::OK, Bytes::from_static(b"{}"))
            }
            _ => refusal(StatusCode::NOT_FOUND, &format!("{} {path} is not served here", parts.method)),
        });
    };

    let mut watch = state.counters.watch();
    let (model, draft) = match endpoint(&state, &body) {
        Ok((model, draft)) => (model, Ok(draft)),
        Err(problem) => (String::new(), Err(problem)),
    };
    let fault = state.fault(&model, &parts.headers);
    state.counters.request(&model, parts, &body, state.settings.record);
    let fault = match fault {
        Ok(fault) => fault,
        Err(invalid) => {
            watch.finish();
            return Ok(refusal(StatusCode::BAD_REQUEST, &invalid.to_string()));
        }
    };

    let mut delay = state.sample(state.settings.latency);
    if let Some(Fault::Delay(more)) = fault {
        delay += more;
    }
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    match fault {
        Some(Fault::Stall) => std::future::pending().await,
        Some(Fault::Reset) => {
            watch.finish();
            control.reset_on_close();
            return Err(Broken);
        }
        Some(Fault::ResetHead) => {
            watch.finish();
            control.cut_head();
        }
        Some(Fault::SlowHeaders(gap)) => control.dribble_head(gap),
        _ => {}
    }
    let draft = match draft {
        Ok(draft) => draft,
        Err(message) => {
            watch.finish();
            return Ok(refusal(StatusCode::BAD_REQUEST, &message));
        }
    };
    if !state.knows(&model) {
        watch.finish();
        let message = format!("the model {model:?} does not exist");
        let body = render::error(&message, "invalid_request_error", Some("model_not_found"));
        return Ok(json(StatusCode::NOT_FOUND, body.into()));
    }
    let pace = Pace { first: state.sample(state.settings.ttft), gap: state.sample(state.settings.gap) };
    Ok(finish(draft, fault, pace, watch, control))
}

type Endpoint = fn(&State, &Bytes) -> Result<(String, Draft), String>;

/// What is wrong with a body that could not be read, with the place.
fn parse<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, String> {
    serde_json::from_slice(body)
        .map_err(|error| format!("the request body is not what it should be: {error}"))
}

fn chat(state: &State, body: &Bytes) -> Result<(String, Draft), String> {
    let chat: Chat<'_> = parse(body)?;
    let form = chat.form();
    let answer = Answer::to_chat(&chat, form, &state.settings);
    let draft = draft(Shape::Chat, &chat.model, answer, form, state);
    Ok((chat.model.into_owned(), draft))
}

fn completion(state: &State, body: &Bytes) -> Result<(String, Draft), String> {
    let request: Completion<'_> = parse(body)?;
    let form = request.form();
    let answer = Answer::to_prompts(&request.model, &request.prompts(), form, &state.settings);
    let draft = draft(Shape::Text, &request.model, answer, form, state);
    Ok((request.model.into_owned(), draft))
}

fn draft(shape: Shape, model: &str, answer: Answer, form: crate::request::Form, state: &State) -> Draft {
    if form.stream {
        Draft::Events(Stream::new(shape, model, answer, form, state.settings.stamp))
    } else {
        Draft::Json(StatusCode::OK, render::whole(shape, model, &answer, form).into())
    }
}

fn embedding(state: &State, body: &Bytes) -> Result<(String, Draft), String> {
    let request: Embedding<'_> = parse(body)?;
    let dimensions = request.dimensions.unwrap_or(state.settings.dimensions).clamp(1, MOST_DIMENSIONS);
    let base64 = request.encoding_format.as_deref() == Some("base64");
    let body = render::embeddings(&request.model, &request.inputs(), dimensions, base64);
    Ok((request.model.into_owned(), Draft::Json(StatusCode::OK, body.into())))
}

/// Turns a draft into an answer with what the fault does to it.
fn finish(draft: Draft, fault: Option<Fault>, pace: Pace, mut watch: Watch, control: Arc<Control>) -> Reply {
    match fault {
        Some(Fault::Status { status, retry_after }) => {
            watch.finish();
            return scripted_status(status, retry_after);
        }
        Some(Fault::WrongContentType) => {
            watch.finish();
            let mut html = json(
                StatusCode::OK,
                Bytes::from_static(b"<html><body>mock-expert: as scripted</body></html>"),
            );
            html.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
            return html;
        }
        _ => {}
    }
    let end = match fault {
        Some(Fault::ResetMid) => End::Reset,
        Some(Fault::HalfEvent) => End::Close,
        Some(Fault::StallMid) => End::Stall,
        _ => End::Whole,
    };
    let mut reply = match draft {
        Draft::Events(stream) => {
            let source = cut_events(stream, fault);
            let mut reply =
                Response::new(AnswerBody::Timed(Box::new(Timed::new(source, pace, end, watch, control))));
            let headers = reply.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
            headers.insert("cache-control", HeaderValue::from_static("no-cache"));
            reply
        }
        Draft::Json(status, body) => match fault {
            Some(Fault::OversizeBody(bytes)) => {
                let timed = Timed::new(oversize(bytes), Pace::default(), end, watch, control);
                json_head(status, AnswerBody::Timed(Box::new(timed)))
            }
            Some(Fault::Garbage) => {
                watch.finish();
                json(status, body.slice(..body.len() / 2))
            }
            _ if end == End::Whole => {
                watch.finish();
                json(status, body)
            }
            _ => {
                let half = VecDeque::from([body.slice(..body.len() / 2)]);
                let timed = Timed::new(Source::Ready(half), Pace::default(), end, watch, control);
                let mut reply = json_head(status, AnswerBody::Timed(Box::new(timed)));
                reply.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
                reply
            }
        },
    };
    if let Some(Fault::HugeHeaders(bytes)) = fault {
        let filler = HeaderValue::from_static(
            "mock-expert fills this header with one hundred bytes so that readers of heads meet their limit....",
        );
        for _ in 0..bytes / (filler.len() + "x-mock-filler: \r\n".len()) {
            reply.headers_mut().append("x-mock-filler", filler.clone());
        }
    }
    reply
}

/// The events of a stream, ended early or spoilt as the fault has it.
fn cut_events(mut stream: Stream, fault: Option<Fault>) -> Source {
    let half = stream.parts() / 2;
    match fault {
        Some(Fault::ResetMid | Fault::StallMid) => Source::Lazy(Box::new(stream.take(half.max(1)))),
        Some(Fault::HalfEvent) => {
            let mut parts: VecDeque<Bytes> = stream.by_ref().take(half).collect();
            parts.extend(stream.next().map(|event| event.slice(..event.len() / 2)));
            Source::Ready(parts)
        }
        Some(Fault::MissingDone) => Source::Lazy(Box::new(stream.without_done())),
        Some(Fault::Garbage) => {
            let mut parts: VecDeque<Bytes> = stream.by_ref().take(half).collect();
            parts.push_back(Bytes::from_static(b"data: {\"choices\": [{\"index\": 0, \"delta\": oops\n\n"));
            Source::Lazy(Box::new(parts.into_iter().chain(stream)))
        }
        Some(Fault::OversizeBody(bytes)) => {
            let event = Bytes::from(vec![b'x'; PIECE]);
            let head = Bytes::from_static(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"");
            let tail = Bytes::from_static(b"\"},\"finish_reason\":null}]}\n\n");
            let filler = std::iter::repeat_n(event, bytes.div_ceil(PIECE));
            Source::Lazy(Box::new(std::iter::once(head).chain(filler).chain([tail]).chain(stream)))
        }
        _ => Source::Lazy(Box::new(stream)),
    }
}

/// A valid answer whose text is about this long.
fn oversize(bytes: usize) -> Source {
    let head = Bytes::from_static(
        b"{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"mock\",\"choices\":\
          [{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"",
    );
    let tail = Bytes::from_static(b"\"},\"finish_reason\":\"stop\"}]}");
    let filler = std::iter::repeat_n(Bytes::from(vec![b'x'; PIECE]), bytes.div_ceil(PIECE));
    Source::Lazy(Box::new(std::iter::once(head).chain(filler).chain([tail])))
}

fn get(state: &State, path: &str) -> Reply {
    match path {
        "/v1/models" => json(StatusCode::OK, state.models.clone()),
        "/health" => json(StatusCode::OK, Bytes::from_static(br#"{"status":"ok"}"#)),
        // The counters are plain numbers and texts: writing them cannot fail.
        "/__stats" => {
            json(StatusCode::OK, serde_json::to_vec(&state.counters.snapshot()).unwrap_or_default().into())
        }
        _ => match path.strip_prefix("/v1/models/").filter(|name| state.knows(name)) {
            Some(name) => json(StatusCode::OK, render::model(name).into()),
            None => refusal(StatusCode::NOT_FOUND, &format!("GET {path} is not served here")),
        },
    }
}

fn script(state: &State, body: &Bytes) -> Reply {
    match serde_json::from_slice(body) {
        Ok(steps) => {
            state.set_script(steps);
            json(StatusCode::OK, Bytes::from_static(b"{}"))
        }
        Err(error) => {
            refusal(StatusCode::BAD_REQUEST, &format!("the script is not a list of steps: {error}"))
        }
    }
}

fn scripted_status(status: u16, retry_after: Option<u32>) -> Reply {
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    let body = render::error(&format!("mock-expert: status {status} as scripted"), kind, Some("mock_fault"));
    // A fault's status is between 400 and 599, which is always a status.
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = json(status, body.into());
    if let Some(seconds) = retry_after {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    reply
}

fn refusal(status: StatusCode, message: &str) -> Reply {
    json(status, render::error(message, "invalid_request_error", None).into())
}

fn json(status: StatusCode, body: Bytes) -> Reply {
    json_head(status, AnswerBody::Whole(Some(body)))
}

fn json_head(status: StatusCode, body: AnswerBody) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}
