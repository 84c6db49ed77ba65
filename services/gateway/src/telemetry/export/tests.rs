use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Mutex;

use axum::body::Body;
use experts::Secret;
use http::{Method, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use routing::ExpertId;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::config::SemConv;
use crate::decision::{DecisionId, Path};
use crate::http::server::{ServerConfig, serve};
use crate::outbound::{Exchanged, OutboundError};
use crate::telemetry::content::Content;
use crate::telemetry::spans::{AnswerFacts, AttemptSpan, GenAiOperation, PhaseSpan};
use crate::telemetry::trace::Tracer;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A stream that a second expert answered, after the first had failed.
fn request(tracer: &Tracer, seed: u64) -> RequestSpans {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", HeaderValue::from_static(TRACEPARENT));
    headers.insert("tracestate", HeaderValue::from_static("vendor=x"));
    let id = |id: &str| ExpertId::new(id).unwrap();
    let attempt = |expert: &str, start, end| AttemptSpan {
        expert: id(expert),
        model: format!("{expert}-model").into(),
        provider: "openai",
        server: Some(("10.0.0.1".into(), 8000)),
        status: None,
        error: Some("connect".into()),
        start: ms(start),
        end: ms(end),
        answer: None,
    };
    let answer = AnswerFacts {
        model: Some("big-2".into()),
        id: Some("chatcmpl-1".into()),
        finish_reasons: vec!["stop".into()],
        input_tokens: Some(100),
        output_tokens: Some(20),
        cached_tokens: Some(60),
        reasoning_tokens: None,
        time_to_first_chunk: Some(ms(250)),
    };
    let second =
        AttemptSpan { status: Some(200), error: None, answer: Some(answer), ..attempt("large", 10, 900) };
    RequestSpans {
        context: tracer.begin(&headers, seed).unwrap(),
        started_ns: 1_800_000_000_000_000_000,
        duration: ms(900),
        endpoint: "/v1/chat/completions",
        operation: GenAiOperation::Chat,
        stream: true,
        status: 200,
        error: None,
        decision: DecisionId(seed),
        model: "auto".into(),
        route: Some(id("auto")),
        policy: Some("coe"),
        category: Some("coding".into()),
        expert: Some(id("large")),
        path: Some(Path::Upstream),
        phases: vec![
            PhaseSpan { name: "decode", start: ms(0), end: ms(1) },
            PhaseSpan { name: "stream", start: ms(260), end: ms(900) },
        ],
        attempts: vec![attempt("small", 2, 9), second],
        content: Some(Content {
            system: Some("[\"a secret role\"]".into()),
            input: "a secret prompt".into(),
            output: Some("a secret answer".into()),
            truncated: vec!["gen_ai.output.messages"],
            finish_reasons: Vec::new(),
        }),
    }
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let shown = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::BoolValue(truth) => truth.to_string(),
        Value::ArrayValue(array) => format!("{} values", array.values.len()),
        other => format!("{other:?}"),
    };
    attributes
        .iter()
        .map(|a| (a.key.as_str(), shown(a.value.as_ref().unwrap().value.as_ref().unwrap())))
        .collect()
}

/// A collector that answers as prepared, 200 when nothing is.
#[derive(Default)]
struct Collector {
    answers: Mutex<VecDeque<Behaviour>>,
    bodies: Mutex<Vec<(HeaderMap, Bytes)>>,
}

#[derive(Clone)]
enum Behaviour {
    Status(u16, Option<&'static str>),
    Never,
    Dead,
}

impl Collector {
    fn behaving(answers: impl IntoIterator<Item = Behaviour>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), bodies: Mutex::default() })
    }

    fn posts(&self) -> usize {
        self.bodies.lock().unwrap().len()
    }

    fn spans(&self) -> Vec<Span> {
        let bodies = self.bodies.lock().unwrap();
        let decoded = bodies.iter().map(|(_, b)| ExportTraceServiceRequest::decode(b.clone()).unwrap());
        decoded.flat_map(|r| r.resource_spans).flat_map(|r| r.scope_spans).flat_map(|s| s.spans).collect()
    }
}

impl Outbound for Collector {
    fn exchange(&self, request: Request<Bytes>, _: Bounds) -> Exchanged<'_> {
        let (parts, body) = request.into_parts();
        self.bodies.lock().unwrap().push((parts.headers, body));
        let behaviour = self.answers.lock().unwrap().pop_front().unwrap_or(Behaviour::Status(200, None));
        Box::pin(async move {
            match behaviour {
                Behaviour::Status(status, after) => {
                    let answer = Response::builder().status(status);
                    let answer = after.into_iter().fold(answer, |a, v| a.header("retry-after", v));
                    Ok(answer.body(Bytes::new()).unwrap())
                }
                Behaviour::Dead => Err(OutboundError::Failed("connection refused".into())),
                Behaviour::Never => std::future::pending().await,
            }
        })
    }
}

struct Running {
    tracer: Tracer,
    metrics: TraceMetrics,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(config: &TracesConfig, outbound: Arc<dyn Outbound>) -> Self {
        let (metrics, stop) = (TraceMetrics::default(), CancellationToken::new());
        let (exporter, task) = Exporter::new(config, outbound, metrics.clone(), 1);
        let task = tokio::spawn(task.run(stop.clone()));
        Self { tracer: Tracer::new(config, exporter, 7), metrics, stop, task }
    }

    fn push(&self, requests: u64) {
        for seed in 0..requests {
            self.tracer.finish(request(&self.tracer, seed));
        }
    }

    /// Requests that were taken, and left out for a reason.
    fn counts(&self, reason: &'static str) -> (u64, u64) {
        let dropped = self.metrics.dropped.get_or_create(&Dropped { reason }).get();
        (self.metrics.exported.get(), dropped)
    }

    /// How long the stop took.
    async fn stop(&mut self) -> Duration {
        let begun = Instant::now();
        self.stop.cancel();
        (&mut self.task).await.unwrap();
        begun.elapsed()
    }
}

/// A collector behind a real socket.
async fn listen(collector: Arc<Collector>, stop: CancellationToken) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = service_fn(move |request: Request<Incoming>| {
        let collector = collector.clone();
        async move {
            let (parts, body) = request.into_parts();
            assert_eq!((parts.method, parts.uri.path()), (Method::POST, "/v1/traces"));
            let body = body.collect().await.unwrap().to_bytes();
            collector.bodies.lock().unwrap().push((parts.headers, body));
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }
    });
    let config = ServerConfig { max_header_bytes: 32 << 10, head_patience: ms(1000), drain: ms(10) };
    tokio::spawn(serve(listener, None, service, config, stop));
    address
}

#[tokio::test]
async fn a_collector_reads_what_was_meant() {
    let (collector, stop) = (Arc::new(Collector::default()), CancellationToken::new());
    let address = listen(collector.clone(), stop.clone()).await;
    let config = TracesConfig {
        endpoint: format!("http://{address}/v1/traces"),
        headers: [("x-key".to_owned(), Secret::new("sk-collector"))].into(),
        resource: [("deployment.environment.name".to_owned(), "test".to_owned())].into(),
        flush_interval_ms: 1,
        ..TracesConfig::default()
    };
    let mut running =
        Running::start(&config, Arc::new(experts::Client::new(&experts::ClientConfig::default()).unwrap()));
    running.push(1);
    running.stop().await;
    assert_eq!(running.counts("undelivered"), (1, 0));
    stop.cancel();

    let (headers, body) = collector.bodies.lock().unwrap()[0].clone();
    assert_eq!(
        (&headers["content-type"], &headers["x-key"]),
        (&HeaderValue::from_static("application/x-protobuf"), &HeaderValue::from_static("sk-collector"),)
    );
    let export = ExportTraceServiceRequest::decode(body).unwrap();
    let resource = attributes(&export.resource_spans[0].resource.as_ref().unwrap().attributes);
    assert_eq!(
        (&*resource["service.name"], &*resource["deployment.environment.name"]),
        ("guildhall", "test")
    );

    let spans = collector.spans();
    let expected = request(&running.tracer, 0);
    let names: Vec<&str> = spans.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(
        names,
        ["POST /v1/chat/completions", "decode", "stream", "chat small-model", "chat large-model"]
    );
    for span in &spans {
        assert_eq!(span.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
        assert_eq!(span.trace_state, "vendor=x");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    }
    let [root, decode, _, failed, answered] = &spans[..] else { unreachable!() };
    assert_eq!(root.kind(), SpanKind::Server);
    assert_eq!(root.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!(root.end_time_unix_nano - root.start_time_unix_nano, 900_000_000);
    assert_eq!((root.flags, decode.flags), (0x301, 0x101));
    let said = attributes(&root.attributes);
    for (key, value) in [
        ("http.route", "/v1/chat/completions"),
        ("http.response.status_code", "200"),
        ("guildhall.decision", "d-0000000000000000"),
        ("guildhall.model", "auto"),
        ("guildhall.policy", "coe"),
        ("guildhall.category", "coding"),
        ("guildhall.expert", "large"),
        ("guildhall.path", "upstream"),
        ("guildhall.attempts", "2"),
    ] {
        assert_eq!(said[key], value, "{key}");
    }
    assert_eq!((decode.kind(), failed.kind()), (SpanKind::Internal, SpanKind::Client));
    for child in &spans[1..] {
        assert_eq!(child.parent_span_id, root.span_id);
    }
    // The span that the expert was told of.
    let told = expected.context.traceparent(1);
    let id = u64::from_be_bytes(answered.span_id.clone().try_into().unwrap());
    assert_eq!(told.to_str().unwrap().split('-').nth(2), Some(format!("{id:016x}").as_str()));
    let said = attributes(&failed.attributes);
    assert_eq!((&*said["error.type"], &*said["guildhall.attempt"]), ("connect", "1"));
    assert!(failed.status.is_some() && answered.status.is_none());
    let said = attributes(&answered.attributes);
    for (key, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "openai"),
        ("gen_ai.request.model", "large-model"),
        ("gen_ai.request.stream", "true"),
        ("gen_ai.response.model", "big-2"),
        ("gen_ai.response.id", "chatcmpl-1"),
        ("gen_ai.response.finish_reasons", "1 values"),
        ("gen_ai.usage.input_tokens", "100"),
        ("gen_ai.usage.output_tokens", "20"),
        ("gen_ai.usage.cache_read.input_tokens", "60"),
        ("gen_ai.response.time_to_first_chunk", "0.25"),
        ("server.address", "10.0.0.1"),
        ("server.port", "8000"),
    ] {
        assert_eq!(said[key], value, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn content_goes_out_only_where_that_is_wanted() {
    for (semconv, capture, wanted) in [
        (SemConv::Latest, false, false),
        (SemConv::Latest, true, true),
        (SemConv::V1_36, false, false),
        (SemConv::V1_36, true, false),
    ] {
        let collector = Collector::behaving([]);
        let config = TracesConfig { semconv, capture_content: capture, ..TracesConfig::default() };
        let mut running = Running::start(&config, collector.clone());
        running.push(1);
        running.stop().await;
        let body = collector.bodies.lock().unwrap()[0].1.clone();
        assert_eq!(memchr::memmem::find(&body, b"secret").is_some(), wanted);
        let spans = collector.spans();
        let said = attributes(&spans[4].attributes);
        let on_others = spans[..4].iter().flat_map(|span| &span.attributes);
        assert!(!on_others.map(|a| &a.key).any(|key| key.contains("messages")));
        let attributes = ["system_instructions", "input.messages", "output.messages"];
        let held = attributes.map(|name| said.contains_key(format!("gen_ai.{name}").as_str()));
        assert_eq!(held, [wanted; 3]);
        assert_eq!(said.contains_key("guildhall.content.truncated"), wanted);
        let old = semconv == SemConv::V1_36;
        assert_eq!(said.contains_key("gen_ai.system"), old);
        assert_eq!(said.contains_key("gen_ai.usage.cache_read.input_tokens"), !old);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_go_together_and_none_waits_long() {
    let collector = Collector::behaving([]);
    let config = TracesConfig { batch_requests: 10, flush_interval_ms: 5_000, ..TracesConfig::default() };
    let mut running = Running::start(&config, collector.clone());
    running.push(25);
    tokio::time::sleep(ms(1)).await;
    assert_eq!(collector.posts(), 2);
    tokio::time::sleep(ms(5_000)).await;
    assert_eq!((collector.posts(), running.counts("queue_full")), (3, (25, 0)));
    running.stop().await;
    assert_eq!((collector.posts(), collector.spans().len()), (3, 125));
}

#[tokio::test(start_paused = true)]
async fn a_post_is_tried_again_where_that_helps() {
    use Behaviour::{Dead, Never, Status};
    let config = TracesConfig { flush_interval_ms: 1, ..TracesConfig::default() };
    let send = async |answers: Vec<Behaviour>| {
        let collector = Collector::behaving(answers);
        let mut running = Running::start(&config, collector.clone());
        let begun = Instant::now();
        running.push(1);
        while running.counts("undelivered").0 + running.counts("undelivered").1 + running.counts("rejected").1
            == 0
        {
            tokio::time::sleep(ms(10)).await;
        }
        let (took, counts) = (begun.elapsed(), running.counts("undelivered"));
        running.stop().await;
        (collector.posts(), counts, took)
    };
    for status in [429, 502, 503, 504] {
        let (posts, counts, took) = send(vec![Status(status, None), Dead]).await;
        assert_eq!((posts, counts), (3, (1, 0)), "{status}");
        assert!((ms(1_500)..ms(5_000)).contains(&took), "{took:?}");
    }
    let (posts, _, took) = send(vec![Status(429, Some("20"))]).await;
    assert!(posts == 2 && (ms(20_000)..ms(21_000)).contains(&took), "{took:?}");
    let (posts, _, took) = send(vec![Never]).await;
    assert!(posts == 2 && took >= ms(10_500), "{took:?}");
    for status in [400, 404, 413, 500] {
        assert_eq!(send(vec![Status(status, None)]).await.0, 1, "{status}");
    }
    let (posts, counts, _) = send(vec![Dead; 10]).await;
    assert_eq!((posts, counts), (5, (0, 1)));
}

#[tokio::test(start_paused = true)]
async fn a_dead_collector_costs_no_more_than_the_queue() {
    let collector = Collector::behaving(vec![Behaviour::Never; 1_000]);
    let config = TracesConfig { queue_requests: 50, batch_requests: 10, ..TracesConfig::default() };
    let mut running = Running::start(&config, collector.clone());
    for _ in 0..20 {
        // `push` has no await in it: it cannot wait.
        running.push(100);
        tokio::time::sleep(ms(1_000)).await;
    }
    let (exported, full) = running.counts("queue_full");
    assert_eq!(exported, 0);
    assert!(full >= 2_000 - 50 - 20 * 10, "{full}");
    // And the stop does not wait for it either; everything is accounted for.
    assert!(running.stop().await <= FLUSH);
    let (_, undelivered) = running.counts("undelivered");
    assert_eq!(full + undelivered, 2_000);
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_sent_at_the_stop() {
    let collector = Collector::behaving([]);
    let config = TracesConfig { batch_requests: 7, flush_interval_ms: 600_000, ..TracesConfig::default() };
    let mut running = Running::start(&config, collector.clone());
    running.push(20);
    assert!(running.stop().await < ms(10));
    assert_eq!(running.counts("undelivered"), (20, 0));
    // What comes after the stop is left out, not kept.
    running.push(1);
    assert_eq!(running.counts("queue_full"), (20, 1));
}

#[tokio::test(start_paused = true)]
async fn a_pause_between_tries_ends_at_the_stop() {
    let collector = Collector::behaving([Behaviour::Status(503, Some("30"))]);
    let config = TracesConfig { flush_interval_ms: 1, ..TracesConfig::default() };
    let mut running = Running::start(&config, collector.clone());
    running.push(1);
    tokio::time::sleep(ms(100)).await;
    assert!(running.stop().await < ms(10));
    assert_eq!((collector.posts(), running.counts("undelivered")), (2, (1, 0)));
}

#[test]
fn the_collector_s_key_is_not_shown() {
    let config = TracesConfig {
        headers: [("x-key".to_owned(), Secret::new("sk-collector"))].into(),
        ..TracesConfig::default()
    };
    assert!(headers(&config)["x-key"].is_sensitive());
    assert!(!format!("{config:?}{}", serde_json::to_string(&config).unwrap()).contains("sk-collector"));
}
