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
use crate::events::{Events, cut_events, oversize};
use crate::fault::Fault;
use crate::messages;
use crate::render::{self, Shape, Stream};
use crate::request::{Chat, Completion, Embedding};
use crate::settings::Protocol;
use crate::sleep::Sleeper;
use crate::state::State;
use crate::stats::Watch;
use crate::wire::Control;

/// Largest request body that is read.
const LARGEST_REQUEST: usize = 64 << 20;
/// Most dimensions of an embedding.
const MOST_DIMENSIONS: usize = 16_384;

type Reply = Response<AnswerBody>;

/// An answer before a fault is applied to it.
enum Draft {
    /// A JSON body.
    Json(StatusCode, Bytes),
    /// A stream of events.
    Events(Events),
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
    let speaks = state.settings.protocol;
    let endpoint = match (speaks, &parts.method, path) {
        (Protocol::ChatCompletions, &Method::POST, "/v1/chat/completions") => Some(chat as Endpoint),
        (Protocol::ChatCompletions, &Method::POST, "/v1/completions") => Some(completion as Endpoint),
        (Protocol::ChatCompletions, &Method::POST, "/v1/embeddings") => Some(embedding as Endpoint),
        (Protocol::Messages, &Method::POST, "/v1/messages") => Some(message as Endpoint),
        _ => None,
    };
    // A client that sends less than it promised, or too much, is told so if it still listens.
    let Ok(body) =
        Limited::new(body, LARGEST_REQUEST).collect().await.map(http_body_util::Collected::to_bytes)
    else {
        return Ok(refusal(
            speaks,
            StatusCode::PAYLOAD_TOO_LARGE,
            "the request body could not be read or exceeds 64 MiB",
        ));
    };
    let Some(endpoint) = endpoint else { return Ok(other(&state, &parts.method, path, &body).await) };
    if let Some(sleeper) = &state.sleeper {
        sleeper.wakes().await;
    }
    let mut watch = state.counters.watch();
    let (model, draft) = match endpoint(&state, &body) {
        Ok((model, draft)) => (model, Ok(draft)),
        Err(problem) => (String::new(), Err(problem)),
    };
    let fault = state.fault(&model, &parts.headers);
    let draft = match draft {
        Ok(_) if speaks == Protocol::Messages && !parts.headers.contains_key("anthropic-version") => {
            Err("anthropic-version: header is required".to_owned())
        }
        draft => draft,
    };
    state.counters.request(&model, parts, &body, state.settings.record);
    let fault = match fault {
        Ok(fault) => fault,
        Err(invalid) => {
            watch.finish();
            return Ok(refusal(speaks, StatusCode::BAD_REQUEST, &invalid.to_string()));
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
            return Ok(refusal(speaks, StatusCode::BAD_REQUEST, &message));
        }
    };
    if !state.knows(&model) {
        watch.finish();
        let message = format!("the model {model:?} does not exist");
        let body = match speaks {
            Protocol::ChatCompletions => {
                render::error(&message, "invalid_request_error", Some("model_not_found"))
            }
            Protocol::Messages => messages::error(&message, "not_found_error"),
        };
        return Ok(json(StatusCode::NOT_FOUND, body.into()));
    }
    let pace = Pace { first: state.sample(state.settings.ttft), gap: state.sample(state.settings.gap) };
    Ok(finish(speaks, draft, fault, pace, watch, control))
}

/// Answers what is no inference.
async fn other(state: &State, method: &Method, path: &str, body: &Bytes) -> Reply {
    if let Some(sleeper) = &state.sleeper
        && let Some((status, body)) = sleeper.order(path, || state.counters.is_idle()).await
    {
        return json(status, body.into());
    }
    match (method, path) {
        (&Method::POST, "/__script") => script(state, body),
        (&Method::POST, "/__reset") => {
            state.reset();
            json(StatusCode::OK, Bytes::from_static(b"{}"))
        }
        _ => {
            let message = format!("{method} {path} is not served here");
            refusal(state.settings.protocol, StatusCode::NOT_FOUND, &message)
        }
    }
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

fn message(state: &State, body: &Bytes) -> Result<(String, Draft), String> {
    let request: messages::Request<'_> = parse(body)?;
    if let Some(problem) = request.problem() {
        return Err(problem);
    }
    let answer = request.answer(&state.settings);
    let draft = if request.stream {
        Draft::Events(Events::Message(messages::Stream::new(&answer)))
    } else {
        Draft::Json(StatusCode::OK, messages::whole(&answer).into())
    };
    Ok((request.model.into_owned(), draft))
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
        Draft::Events(Events::Chunks(Stream::new(shape, model, answer, form, state.settings.stamp)))
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
fn finish(
    speaks: Protocol,
    draft: Draft,
    fault: Option<Fault>,
    pace: Pace,
    mut watch: Watch,
    control: Arc<Control>,
) -> Reply {
    match fault {
        Some(Fault::Status { status, retry_after }) => {
            watch.finish();
            return scripted_status(speaks, status, retry_after);
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
                let timed = Timed::new(oversize(speaks, bytes), Pace::default(), end, watch, control);
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

fn get(state: &State, path: &str) -> Reply {
    match path {
        "/v1/models" => json(StatusCode::OK, state.models.clone()),
        "/health" => json(StatusCode::OK, Bytes::from_static(br#"{"status":"ok"}"#)),
        // The counters are plain numbers and texts: writing them cannot fail.
        "/__stats" => json(StatusCode::OK, serde_json::to_vec(&state.stats()).unwrap_or_default().into()),
        "/is_sleeping" if state.sleeper.is_some() => {
            let asleep = state.sleeper.as_ref().is_some_and(Sleeper::is_sleeping);
            json(StatusCode::OK, format!(r#"{{"is_sleeping":{asleep}}}"#).into())
        }
        _ => match path.strip_prefix("/v1/models/").filter(|name| state.knows(name)) {
            Some(name) => json(StatusCode::OK, render::model(name).into()),
            None => refusal(
                state.settings.protocol,
                StatusCode::NOT_FOUND,
                &format!("GET {path} is not served here"),
            ),
        },
    }
}

fn script(state: &State, body: &Bytes) -> Reply {
    match serde_json::from_slice(body) {
        Ok(steps) => {
            state.set_script(steps);
            json(StatusCode::OK, Bytes::from_static(b"{}"))
        }
        Err(error) => refusal(
            state.settings.protocol,
            StatusCode::BAD_REQUEST,
            &format!("the script is not a list of steps: {error}"),
        ),
    }
}

fn scripted_status(speaks: Protocol, status: u16, retry_after: Option<u32>) -> Reply {
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    let message = format!("mock-expert: status {status} as scripted");
    let body = match speaks {
        Protocol::ChatCompletions => render::error(&message, kind, Some("mock_fault")),
        Protocol::Messages => messages::error(&message, messages::status_kind(status)),
    };
    // A fault's status is between 400 and 599, which is always a status.
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = json(status, body.into());
    if let Some(seconds) = retry_after {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    reply
}

fn refusal(speaks: Protocol, status: StatusCode, message: &str) -> Reply {
    let body = match speaks {
        Protocol::ChatCompletions => render::error(message, "invalid_request_error", None),
        Protocol::Messages => messages::error(message, messages::status_kind(status.as_u16())),
    };
    json(status, body.into())
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
