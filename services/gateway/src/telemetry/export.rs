//! Sends finished requests to a collector, by OTLP over HTTP (specification 1.9, "OTLP/HTTP").
//!
//! A bounded queue and one task. A slow or dead collector costs the gateway the queue's memory and no
//! request anything: what finds the queue full is left out and counted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use prost::Message;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::otlp::Form;
use super::spans::RequestSpans;
use crate::config::TracesConfig;
use crate::outbound::{Bounds, Outbound};

/// How often a post is tried.
const TRIES: u32 = 5;
/// The pause before the second try; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause that a collector can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long all that waits may take to be sent at the stop.
const FLUSH: Duration = Duration::from_secs(5);
/// What a collector's answer may have, in bytes; it is a sentence at most.
const MAX_ANSWER: usize = 64 << 10;

/// Traces that were sent, and those that were not.
#[derive(Clone, Debug, Default)]
pub struct TraceMetrics {
    exported: Counter,
    dropped: Family<Dropped, Counter>,
}

/// Why requests are missing among the traces: `queue_full`, `rejected` (by the collector), `undelivered`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dropped {
    reason: &'static str,
}

impl TraceMetrics {
    /// Makes the metrics and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("guildhall");
        let help = "Requests whose spans the collector took";
        registry.register("traced_requests_exported", help, metrics.exported.clone());
        let help = "Traced requests whose spans were left out, by reason";
        registry.register("traced_requests_dropped", help, metrics.dropped.clone());
        metrics
    }

    fn dropped(&self, reason: &'static str, requests: usize) {
        self.dropped.get_or_create(&Dropped { reason }).inc_by(requests as u64);
    }
}

/// The queue's near end. Clones share it.
#[derive(Clone, Debug)]
pub struct Exporter {
    queue: mpsc::Sender<RequestSpans>,
    metrics: TraceMetrics,
}

impl Exporter {
    /// A queue and the task that empties it. `seed` spreads the pauses between tries.
    pub fn new(
        config: &TracesConfig,
        outbound: Arc<dyn Outbound>,
        metrics: TraceMetrics,
        seed: u64,
    ) -> (Self, ExportTask) {
        let (sender, queue) = mpsc::channel(config.queue_requests.max(1));
        let task = ExportTask {
            queue,
            form: Form::new(config),
            endpoint: config.endpoint.clone(),
            headers: headers(config),
            batch: config.batch_requests.max(1),
            interval: Duration::from_millis(config.flush_interval_ms),
            bounds: Bounds { timeout: Duration::from_millis(config.timeout_ms), max_body_bytes: MAX_ANSWER },
            outbound,
            metrics: metrics.clone(),
            random: fastrand::Rng::with_seed(seed),
            failing: false,
        };
        (Self { queue: sender, metrics }, task)
    }

    pub(super) fn push(&self, request: RequestSpans) {
        if self.queue.try_send(request).is_err() {
            self.metrics.dropped("queue_full", 1);
        }
    }
}

/// What the configuration checked already is left out when it is no header after all.
fn headers(config: &TracesConfig) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        if let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name), HeaderValue::try_from(value.expose()))
        {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    headers
}

/// The queue's far end.
pub struct ExportTask {
    queue: mpsc::Receiver<RequestSpans>,
    form: Form,
    endpoint: String,
    headers: HeaderMap,
    batch: usize,
    interval: Duration,
    bounds: Bounds,
    outbound: Arc<dyn Outbound>,
    metrics: TraceMetrics,
    random: fastrand::Rng,
    /// Whether the last post failed; said once.
    failing: bool,
}

/// What came of one try.
enum Posted {
    Taken,
    Rejected(String),
    /// Worth another try, perhaps not before this pause is over.
    Failed(String, Option<Duration>),
}

impl ExportTask {
    /// Sends what comes until `stop`, then what waits, for a few seconds at most.
    pub async fn run(mut self, stop: CancellationToken) {
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(FLUSH).await;
        };
        let mut under_way = 0;
        let finished = tokio::select! {
            () = self.work(&stop, &mut under_way) => true,
            () = overdue => false,
        };
        if !finished {
            let left = under_way + self.queue.len();
            self.metrics.dropped("undelivered", left);
            tracing::warn!(requests = left, "the collector was too slow for the last traces");
        }
    }

    /// `under_way` tells how many requests were taken out of the queue and not settled.
    async fn work(&mut self, stop: &CancellationToken, under_way: &mut usize) {
        let mut batch = Vec::with_capacity(self.batch);
        while self.fill(&mut batch, stop).await {
            *under_way = batch.len();
            self.deliver(&batch, stop).await;
            *under_way = 0;
            batch.clear();
        }
    }

    /// Waits for a batch to be full or old enough; false when none will come any more.
    async fn fill(&mut self, batch: &mut Vec<RequestSpans>, stop: &CancellationToken) -> bool {
        if stop.run_until_cancelled(self.queue.recv_many(batch, self.batch)).await.is_none() {
            // Nothing comes after this, but what waits is still given out.
            self.queue.close();
            return self.queue.recv_many(batch, self.batch).await > 0;
        }
        let company = async {
            while !batch.is_empty() && batch.len() < self.batch {
                let room = self.batch - batch.len();
                if self.queue.recv_many(batch, room).await == 0 {
                    break;
                }
            }
        };
        // Late or stopped: the batch goes as it is.
        let _ = stop.run_until_cancelled(tokio::time::timeout(self.interval, company)).await;
        !batch.is_empty()
    }

    /// Posts a batch, several times if need be; at the stop, once more and no longer.
    async fn deliver(&mut self, batch: &[RequestSpans], stop: &CancellationToken) {
        let body: Bytes = self.form.export(batch).encode_to_vec().into();
        let mut pause = FIRST_PAUSE;
        let mut last = String::new();
        for tries in 1..=TRIES {
            match self.post(body.clone()).await {
                Posted::Taken => {
                    self.metrics.exported.inc_by(batch.len() as u64);
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("the collector takes traces again");
                    }
                    return;
                }
                Posted::Rejected(problem) => {
                    self.metrics.dropped("rejected", batch.len());
                    return self.warn(&problem);
                }
                Posted::Failed(problem, asked) => {
                    last = problem;
                    if tries == TRIES || stop.is_cancelled() {
                        break;
                    }
                    // Half to one and a half of it, so that gateways do not come back all at once.
                    let spread = pause.mul_f64(0.5 + self.random.f64());
                    let wait = asked.unwrap_or_default().clamp(spread, LONGEST_PAUSE);
                    stop.run_until_cancelled(tokio::time::sleep(wait)).await;
                    pause *= 2;
                }
            }
        }
        self.metrics.dropped("undelivered", batch.len());
        self.warn(&last);
    }

    fn warn(&mut self, problem: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(problem, "traces cannot be sent to the collector");
        }
    }

    async fn post(&self, body: Bytes) -> Posted {
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.headers_mut() = self.headers.clone();
        match self.endpoint.parse() {
            Ok(uri) => *request.uri_mut() = uri,
            Err(error) => return Posted::Rejected(format!("telemetry.traces.endpoint: {error}")),
        }
        let exchange = self.outbound.exchange(request, self.bounds);
        let answer = match tokio::time::timeout(self.bounds.timeout, exchange).await {
            Err(_) => return Posted::Failed("no answer in time".into(), None),
            Ok(Err(error)) => return Posted::Failed(error.to_string(), None),
            Ok(Ok(answer)) => answer,
        };
        match answer.status() {
            status if status.is_success() => {
                let said = ExportTraceServiceResponse::decode(answer.body().clone()).unwrap_or_default();
                if let Some(part) = said.partial_success.filter(|p| p.rejected_spans > 0) {
                    tracing::warn!(spans = part.rejected_spans, "the collector did not take all spans");
                }
                Posted::Taken
            }
            // The statuses that the specification has tried again; others will not change.
            status @ (StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT) => {
                let asked = answer.headers().get(header::RETRY_AFTER);
                let asked = asked.and_then(|v| v.to_str().ok()?.parse().ok()).map(Duration::from_secs);
                Posted::Failed(format!("the collector answers {status}"), asked)
            }
            status => Posted::Rejected(format!("the collector answers {status}")),
        }
    }
}

#[cfg(test)]
mod tests;
