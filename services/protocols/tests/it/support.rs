//! Helpers of the tests.

use std::fmt::Write;

use protocols::{BadRequest, Limits, Stamp, Translated, messages, responses};
use serde_json::Value;

/// An answer's id and time, the same in all tests.
pub(crate) fn stamp(id: &str) -> Stamp {
    Stamp { id: id.to_owned(), created: 1_750_000_000 }
}

pub(crate) fn message() -> Stamp {
    stamp("msg_1")
}

pub(crate) fn response() -> Stamp {
    stamp("resp_1")
}

/// JSON to compare and to show. Keys come out sorted.
pub(crate) fn pretty(json: &[u8]) -> String {
    let value: Value = serde_json::from_slice(json).unwrap_or_else(|e| {
        panic!("no JSON: {e}: {}", String::from_utf8_lossy(json));
    });
    serde_json::to_string_pretty(&value).unwrap()
}

/// A translated request to show: its body, and what it lost.
pub(crate) fn shown<E>(result: Result<Translated<E>, BadRequest>) -> String {
    match result {
        Err(error) => format!("refused: {error}"),
        Ok(translated) => {
            let mut out = pretty(&translated.body);
            write!(out, "\nmodel: {}, stream: {}", translated.model, translated.stream).unwrap();
            write!(out, "\nlossy: {}", translated.lossy.join(", ")).unwrap();
            out
        }
    }
}

pub(crate) fn messages_echo(request: &Value) -> messages::Echo {
    messages::request(request.to_string().as_bytes()).unwrap().echo
}

pub(crate) fn responses_echo(request: &Value) -> responses::Echo {
    responses::request(request.to_string().as_bytes()).unwrap().echo
}

pub(crate) fn messages_stream(echo: &messages::Echo, pieces: &[&[u8]], limits: Limits) -> String {
    let (mut stream, mut out) = (messages::Stream::new(echo.clone(), message(), limits), Vec::new());
    for piece in pieces {
        stream.push(piece, &mut out);
    }
    stream.finish(&mut out);
    String::from_utf8(out).unwrap()
}

pub(crate) fn responses_stream(echo: &responses::Echo, pieces: &[&[u8]], limits: Limits) -> String {
    let (mut stream, mut out) = (responses::Stream::new(echo.clone(), response(), limits), Vec::new());
    for piece in pieces {
        stream.push(piece, &mut out);
    }
    stream.finish(&mut out);
    String::from_utf8(out).unwrap()
}

/// The data of a stream's events, checked to be named as they say.
pub(crate) fn events(stream: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for event in stream.split_terminator("\n\n").filter(|event| !event.starts_with(':')) {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: ").unwrap(), data["type"]);
        all.push(data);
    }
    all
}

/// Cuts bytes at these places, each taken modulo the length.
pub(crate) fn cut<'a>(bytes: &'a [u8], places: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places.iter().map(|place| place % (bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|w| &bytes[w[0]..w[1]]).collect()
}
