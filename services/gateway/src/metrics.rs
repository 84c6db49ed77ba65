//! The data plane's metrics. Label sets are closed: routes, experts and our own words, never what a client
//! sends.

pub(crate) mod exposition;
pub(crate) mod fleet;
pub(crate) mod process;
pub(crate) mod series;
pub(crate) mod tiers;
pub(crate) mod timing;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use routing::ExpertId;

use crate::decision::{End, Path};
use timing::Timings;

/// An id as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(pub ExpertId);

impl EncodeLabelValue for Name {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.0.as_str(), encoder)
    }
}

impl EncodeLabelValue for Path {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}

/// Who answered a request, how, and with what status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Answered {
    /// The route; empty when the client named the expert.
    pub route: Option<Name>,
    /// The category that the router read; empty when it read none.
    pub category: Option<Text>,
    /// The expert; empty when none answered.
    pub expert: Option<Name>,
    /// The way of the answer; empty when there was none.
    pub path: Option<Path>,
    /// The HTTP status.
    pub status: u16,
}

/// A word of ours or of the router bundle as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Text(pub Arc<str>);

impl EncodeLabelValue for Text {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&&*self.0, encoder)
    }
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfRoute {
    /// Its name; empty when the client named the expert.
    pub route: Option<Name>,
}

/// Why the gateway itself refused a request or failed it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Refused {
    /// The error's code, as the client sees it.
    pub code: &'static str,
}

/// What a plan's order rests on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reasoned {
    /// The policy.
    pub policy: &'static str,
    /// The reason.
    pub basis: &'static str,
}

/// One expert.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfExpert {
    /// Its id.
    pub expert: Name,
}

/// How an answer's body ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    /// `complete`, `cut` or `client_left`.
    end: &'static str,
}

/// The category that the router read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfCategory {
    /// Its name.
    pub category: Text,
}

/// What became of a change of the configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reloaded {
    /// `applied` or `refused`.
    pub result: &'static str,
}

/// Handles to all metrics of the data plane.
#[derive(Clone)]
pub struct Metrics {
    /// Requests by who answered them.
    pub requests: Family<Answered, Counter>,
    /// Requests in progress, streams included.
    pub in_flight: Gauge,
    /// The gateway's own time until the answer's head: without what it waited for the client's body, for a place,
    /// for the router's reading and for the expert.
    pub overhead: Histogram,
    /// What requests waited for the router's reading.
    pub router_wait: Histogram,
    /// From arrival to the answer's head.
    pub time_to_head: Histogram,
    /// From arrival to the answer's last byte, by route.
    pub duration: Timings,
    /// From arrival to a stream's first byte, by expert.
    pub first_token: Timings,
    /// Between two pieces of a stream, by expert.
    pub inter_token: Family<OfExpert, Histogram, fn() -> Histogram>,
    /// What requests waited for a place, where they had to wait.
    pub queue: Histogram,
    /// Requests that the gateway itself refused or failed, by the error's code.
    pub refusals: Family<Refused, Counter>,
    /// Requests that an expert later in the plan answered, or the route's default, by route.
    pub fallbacks: Family<OfRoute, Counter>,
    /// Plans by policy and reason.
    pub decisions: Family<Reasoned, Counter>,
    /// Tries that failed before a first byte, by expert.
    pub failed_attempts: Family<OfExpert, Counter>,
    /// Tries after the first at the same expert, by expert.
    pub retries: Family<OfExpert, Counter>,
    /// Second tries beside one that had not answered yet, by expert.
    pub hedges: Family<OfExpert, Counter>,
    /// Bodies by how they ended, in the order of [`End`].
    pub ends: [Counter; 3],
    /// Tokens of prompts, by expert, where the expert says so.
    pub prompt_tokens: Family<OfExpert, Counter>,
    /// Tokens of answers, by expert, where the expert says so.
    pub completion_tokens: Family<OfExpert, Counter>,
    /// What the tokens cost in USD, by expert, by its declared prices.
    pub cost: Family<OfExpert, Counter<f64, AtomicU64>>,
    /// Prompts by the category that the router read.
    pub categories: Family<OfCategory, Counter>,
    /// Requests for which the router was late or broken.
    pub router_failures: Counter,
    /// Changes of the configuration file by what became of them.
    pub reloads: Family<Reloaded, Counter>,
    /// 1 while the configuration file as it is now is in use, 0 while an earlier state of it is.
    pub config_current: Gauge,
}

/// Bounds of the histograms, in seconds.
const FAST: [f64; 12] = [0.000_05, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.2, 1.0];
const GAPS: [f64; 12] = [0.000_1, 0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 2.0];
const SLOW: [f64; 13] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let ends = Family::<Ended, Counter>::default();
        let metrics = Self {
            requests: Family::default(),
            in_flight: Gauge::default(),
            overhead: Histogram::new(FAST),
            router_wait: Histogram::new(FAST),
            time_to_head: Histogram::new(SLOW),
            duration: Timings::new(
                "guildhall_request_duration_seconds",
                "From arrival to the answer's last byte",
                "route",
                &SLOW,
            ),
            first_token: Timings::new(
                "guildhall_time_to_first_token_seconds",
                "From arrival to the first byte of a streamed answer",
                "expert",
                &SLOW,
            ),
            inter_token: Family::new_with_constructor(|| Histogram::new(GAPS)),
            queue: Histogram::new(SLOW),
            refusals: Family::default(),
            fallbacks: Family::default(),
            decisions: Family::default(),
            failed_attempts: Family::default(),
            retries: Family::default(),
            hedges: Family::default(),
            // What has not happened yet is 0, not absent: an increase from nothing is seen by nobody.
            ends: End::ALL.map(|end| ends.get_or_create_owned(&Ended { end: end.as_str() })),
            prompt_tokens: Family::default(),
            completion_tokens: Family::default(),
            cost: Family::default(),
            categories: Family::default(),
            router_failures: Counter::default(),
            reloads: Family::default(),
            config_current: Gauge::default(),
        };
        metrics.config_current.set(1);
        for result in ["applied", "refused"] {
            metrics.reloads.get_or_create(&Reloaded { result }).inc_by(0);
        }
        let m = metrics.clone();
        let r = registry.sub_registry_with_prefix("guildhall");
        r.register("requests", "Requests by route, expert, path and status", m.requests);
        r.register("in_flight_requests", "Requests in progress, streams included", m.in_flight);
        let help = "The gateway's own time until the answer's head, without anything that it waits for";
        r.register_with_unit("overhead", help, Unit::Seconds, m.overhead);
        let help = "What requests waited for the router's reading";
        r.register_with_unit("router_wait", help, Unit::Seconds, m.router_wait);
        r.register_with_unit(
            "time_to_head",
            "From arrival to the answer's head",
            Unit::Seconds,
            m.time_to_head,
        );
        let help = "Between two pieces of a streamed answer";
        r.register_with_unit("inter_token_latency", help, Unit::Seconds, m.inter_token);
        let help = "What requests waited for a place, where they had to wait";
        r.register_with_unit("queue_wait", help, Unit::Seconds, m.queue);
        let help = "Requests that the gateway itself refused or failed, by the error's code";
        r.register("refusals", help, m.refusals);
        let help = "Requests that an expert other than the plan's first answered";
        r.register("fallbacks", help, m.fallbacks);
        r.register("decisions", "Plans by policy and reason", m.decisions);
        let help = "What the tokens cost in USD, by the experts' declared prices";
        r.register("cost_usd", help, m.cost);
        r.register("failed_attempts", "Tries that failed before a first byte", m.failed_attempts);
        r.register("retries", "Tries after the first at the same expert", m.retries);
        r.register("hedges", "Second tries beside one that had not answered yet", m.hedges);
        r.register("answer_ends", "Answers by how their body ended", ends);
        r.register("prompt_tokens", "Tokens of prompts as experts count them", m.prompt_tokens);
        r.register("completion_tokens", "Tokens of answers as experts count them", m.completion_tokens);
        r.register("categories", "Prompts by the category that the router read", m.categories);
        r.register("router_failures", "Requests for which the router was late or broken", m.router_failures);
        let help = "Changes of the configuration file by what became of them";
        r.register("config_reloads", help, m.reloads);
        let help = "Whether the configuration file as it is now is in use";
        r.register("config_current", help, m.config_current);
        registry.register_collector(Box::new(process::Process));
        metrics
    }

    /// Counts a change of the configuration file.
    pub fn reloaded(&self, applied: bool) {
        let result = if applied { "applied" } else { "refused" };
        self.reloads.get_or_create(&Reloaded { result }).inc();
        self.config_current.set(i64::from(applied));
    }

    /// Counts the end of an answer's body.
    pub fn ended(&self, end: End) {
        self.ends[end as usize].inc();
    }
}
