//! What is fuzzed: one function per target, each of which panics when something that must hold does not.
//!
//! The functions know nothing of the fuzzer, so that an ordinary test can replay the corpus
//! (`services/gateway/tests/corpus.rs`).

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use admission::key::SecretSpec;
use admission::{Gates, KeyRing, KeySpec, Token};
use bytes::Bytes;
use experts::Operation;
use gateway::auth::jwt::Verifier;
use gateway::pipeline::decode::decode;
use gateway::pipeline::headers as asked;
use gateway::telemetry::trace::Sampler;
use http::{HeaderMap, HeaderName, HeaderValue};
use protocols::over_messages::{self, Target as Expert};
use protocols::{Limits, Stamp, messages, responses};
use serde_json::value::RawValue;

/// A target: its name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets. Each has a folder of its name in `corpus/`.
pub const TARGETS: &[Target] = &[
    ("chat_body", chat_body),
    ("config", config),
    ("headers", headers),
    ("messages_request", messages_request),
    ("messages_stream", messages_stream),
    ("over_messages_request", over_messages_request),
    ("over_messages_stream", over_messages_stream),
    ("responses_request", responses_request),
    ("responses_stream", responses_stream),
    ("sse", sse),
];

/// Bounds that short inputs can reach.
const LIMITS: Limits = Limits { event: 512, answer: 512 };
/// An expert that speaks Messages.
const EXPERT: Expert<'_> = Expert { model: "m", shown: "shown", max_tokens: 9 };

/// The body of a chat completions request, as the gateway reads it: the model stands where it says.
pub fn chat_body(data: &[u8]) {
    for operation in [Operation::ChatCompletions, Operation::Completions, Operation::Embeddings] {
        if let Ok(decoded) = decode(operation, Bytes::copy_from_slice(data), 64) {
            let model = serde_json::from_slice::<Option<String>>(&decoded.body[decoded.model_span.clone()]);
            assert!(model.is_ok_and(|model| model.is_none_or(|model| model == decoded.model)));
            assert!(decoded.stream_options.span.is_none_or(|span| is_json(&decoded.body[span])));
        }
    }
}

/// A configuration file.
pub fn config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        // An environment in which some variables are set.
        let env = |name: &str| name.starts_with('A').then(|| "value".to_owned());
        let _ = gateway::config::parse(text, &env);
    }
}

/// The headers of a request or of an expert's answer, one in each line: what is made of them is bounded, what
/// is given on is a header again, and nobody gets in by them.
pub fn headers(data: &[u8]) {
    const DAY: Duration = Duration::from_hours(24);
    let headers: HeaderMap = data.split(|byte| *byte == b'\n').filter_map(header).collect();
    let visible = |id: &HeaderValue| id.len() <= 128 && id.to_str().is_ok_and(|id| !id.contains(' '));
    assert!(asked::request_id(&headers).is_none_or(visible));
    assert!(asked::timeout(&headers).is_none_or(|timeout| !timeout.is_zero() && timeout <= DAY));
    let tags = asked::tags(&headers);
    assert!(tags.len() <= 8 && tags.iter().all(|tag| tag.len() <= 64 && HeaderValue::try_from(tag).is_ok()));
    let _ = asked::priority(&headers);
    // In the year 2026, between two dates that an expert may give.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000);
    assert!(experts::retry_after(&headers, now).is_none_or(|wait| wait <= DAY));
    check_trace(&headers);
    check_credential(&headers);
}

/// A Messages request: its translation is JSON that the gateway can go on with or refuse.
pub fn messages_request(data: &[u8]) {
    if let Ok(translated) = messages::request(data) {
        check_translated(&translated.body, &translated.lossy);
    }
}

/// A Responses request: its translation is JSON that the gateway can go on with or refuse.
pub fn responses_request(data: &[u8]) {
    if let Ok(translated) = responses::request(data) {
        check_translated(&translated.body, &translated.lossy);
    }
}

/// A stream for a Messages client. The first byte says how the rest is cut.
pub fn messages_stream(data: &[u8]) {
    let body = br#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"a"}],"thinking":{"type":"adaptive"}}"#;
    let Ok(request) = messages::request(body) else { panic!("the request is good") };
    check_stream(data, &["message_stop", "error"], |pieces| {
        let mut out = Vec::new();
        let mut stream = messages::Stream::new(request.echo.clone(), stamp(), LIMITS);
        pieces.for_each(|piece| stream.push(piece, &mut out));
        stream.finish(&mut out);
        out
    });
    let _ = messages::answer(data, &request.echo, &stamp()).map(|answer| assert!(is_json(&answer)));
    assert!(is_json(&messages::error(500, data, "req")));
}

/// A stream for a Responses client. The first byte says how the rest is cut.
pub fn responses_stream(data: &[u8]) {
    let body = br#"{"model":"m","input":"a","tools":[{"type":"custom","name":"c"}]}"#;
    let Ok(request) = responses::request(body) else { panic!("the request is good") };
    let ends = ["response.completed", "response.incomplete", "response.failed"];
    check_stream(data, &ends, |pieces| {
        let mut out = Vec::new();
        let mut stream = responses::Stream::new(request.echo.clone(), stamp(), LIMITS);
        pieces.for_each(|piece| stream.push(piece, &mut out));
        stream.finish(&mut out);
        out
    });
    let _ = responses::answer(data, &request.echo, &stamp()).map(|answer| assert!(is_json(&answer)));
}

/// A chat completions request for an expert that speaks Messages: its translation is JSON.
pub fn over_messages_request(data: &[u8]) {
    if let Ok(translated) = over_messages::request(data, &EXPERT) {
        assert!(is_json(&translated.body));
        check_lossy(&translated.lossy);
    }
}

/// The stream of an expert that speaks Messages, for clients of chat completions and of Messages. The first
/// byte says how the rest is cut.
pub fn over_messages_stream(data: &[u8]) {
    let Some((how, stream)) = data.split_first() else { return };
    let body = br#"{"messages":[{"role":"user","content":"a"}],"stream_options":{"include_usage":true}}"#;
    let Ok(request) = over_messages::request(body, &EXPERT) else { panic!("the request is good") };
    let translate = |size: usize| {
        let mut out = Vec::new();
        let mut chunks = over_messages::Stream::new(request.echo.clone(), stamp(), LIMITS);
        stream.chunks(size).for_each(|piece| chunks.push(piece, &mut out));
        (chunks.finish("cut", &mut out), chunks.tokens(), out)
    };
    let whole = translate(usize::MAX);
    assert_eq!(whole, translate(usize::from(*how) + 1));
    let Ok(text) = String::from_utf8(whole.2) else { panic!("the translation is text") };
    let mut ended = false;
    for event in text.split_terminator("\n\n").filter(|event| !event.starts_with(':')) {
        assert!(!ended, "an event after the last: {text}");
        let Some(data) = event.strip_prefix("data: ") else { panic!("an event without data: {text}") };
        assert!(data == "[DONE]" || is_json(data.as_bytes()), "{text}");
        ended = data == "[DONE]" || data.starts_with("{\"error\":");
    }
    assert!(ended, "no last event: {text}");
    let relayed = |size: usize| {
        let mut out = Vec::new();
        let mut relay = messages::Relay::new(Some("shown".to_owned()), LIMITS);
        stream.chunks(size).for_each(|piece| relay.push(piece, &mut out));
        (relay.finish("cut", &mut out), relay.tokens(), out)
    };
    assert_eq!(relayed(usize::MAX), relayed(usize::from(*how) + 1));
    let _ =
        over_messages::answer(stream, &request.echo, &stamp()).map(|(answer, _)| assert!(is_json(&answer)));
}

/// An expert's stream on its way through the gateway. The first byte says how the rest is cut, and what is
/// to be corrected.
pub fn sse(data: &[u8]) {
    let Some((how, stream)) = data.split_first() else { return };
    let model = (how & 1 == 1).then_some("shown/expert");
    let strip = how & 2 == 2;
    let correct = |size: usize| {
        let pieces = stream.chunks(size).map(Bytes::copy_from_slice);
        experts::correct_stream(pieces, model, strip, "UNFINISHED")
    };
    let whole = correct(usize::MAX);
    let cut = correct(usize::from(how >> 2) + 1);
    // A name that is too long to be held back is replaced only if it comes in one piece.
    if stream.len() < 1024 {
        assert_eq!(whole, cut);
    }
    if model.is_none() && !strip {
        assert!(whole.starts_with(stream));
    }
}

/// One header of a line; `None` where HTTP itself would not let it through.
fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?))
}

/// An expert that reads the headers which it is sent finds itself in the caller's trace.
fn check_trace(headers: &HeaderMap) {
    let Some(traces) = &SETTINGS.telemetry.traces else { panic!("traces are on") };
    let sampler = Sampler::new(traces, 1);
    let Some(context) = sampler.begin(headers, 2) else { return };
    let sent = context.headers(headers, 0);
    let Some(read) = sampler.begin(&sent, 3) else { panic!("the trace ends at the gateway: {sent:?}") };
    assert_eq!(read.trace_id(), context.trace_id());
    assert_eq!(read.tracestate(), context.tracestate());
    assert_eq!(read.traceparent(0).len(), 55);
}

/// Neither the key nor the issuer is known to who sends this.
fn check_credential(headers: &HeaderMap) {
    let Some(token) = gateway::auth::presented(headers) else { return };
    let secret =
        SecretSpec { hash: Token::from_random("ci", [7; 32]).hash(), created_ms: 0, expires_ms: None };
    let Ok(key) = serde_json::from_str::<KeySpec>(r#"{"id": "ci"}"#) else { panic!("the key is good") };
    let Ok(ring) = KeyRing::build(&[key.with(vec![secret])], &[], &Gates::default()) else {
        panic!("the ring is good")
    };
    assert!(ring.authenticate(token, 1).is_err());
    let _ = Verifier::is_jwt(token);
    assert!(Verifier::new(&SETTINGS.auth.jwt).verify(token, 1_780_000_000).is_err());
}

/// A configuration with traces and an issuer of tokens; read once, so that the fuzzer does not spend its time there.
static SETTINGS: LazyLock<gateway::config::Config> = LazyLock::new(|| {
    let text = "auth: {jwt: [{issuer: i, audience: [a], jwks_file: /keys, team_claim: /t/u}]}\n\
                telemetry: {traces: {endpoint: \"http://127.0.0.1:4318/v1/traces\"}}";
    match gateway::config::parse(text, &|_| None) {
        Ok(config) => config,
        Err(error) => panic!("the configuration is good: {error}"),
    }
});

fn stamp() -> Stamp {
    Stamp { id: "id_1".to_owned(), created: 1 }
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(text).is_ok()
}

fn check_translated(body: &[u8], lossy: &[String]) {
    assert!(is_json(body));
    check_lossy(lossy);
    let _ = decode(Operation::ChatCompletions, Bytes::copy_from_slice(body), 64);
}

/// Checks that the list of what was lost fits into a header.
fn check_lossy(lossy: &[String]) {
    assert!(lossy.len() <= 33 && lossy.iter().flat_map(|path| path.bytes()).all(|b| b.is_ascii_graphic()));
}

/// Checks that the cuts make no difference, that every event's data is JSON, and that the last one, and only
/// the last, is one of `ends`.
fn check_stream(data: &[u8], ends: &[&str], translate: impl Fn(std::slice::Chunks<'_, u8>) -> Vec<u8>) {
    let Some((how, stream)) = data.split_first() else { return };
    let whole = translate(stream.chunks(usize::MAX));
    assert_eq!(whole, translate(stream.chunks(usize::from(*how) + 1)));
    let Ok(text) = String::from_utf8(whole) else { panic!("the translation is text") };
    let mut ended = false;
    for event in text.split_terminator("\n\n").filter(|event| !event.starts_with(':')) {
        assert!(!ended, "an event after the last: {text}");
        let Some((name, data)) = event.split_once("\ndata: ") else {
            panic!("an event without data: {text}")
        };
        assert!(is_json(data.as_bytes()), "{text}");
        ended = name.strip_prefix("event: ").is_some_and(|name| ends.contains(&name));
    }
    assert!(ended, "no last event: {text}");
}
