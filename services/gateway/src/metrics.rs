//! The data plane's metrics. Label sets are closed: routes, experts and our own words, never what a client
//! sends.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use routing::ExpertId;

use crate::decision::{End, Path};

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
    /// The expert; empty when none answered.
    pub expert: Option<Name>,
    /// The way of the answer; empty when there was none.
    pub path: Option<Path>,
    /// The HTTP status.
    pub status: u16,
}

/// One expert.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfExpert {
    /// Its id.
    pub expert: Name,
}

/// How an answer's body ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Ended {
    /// `complete`, `cut` or `client_left`.
    pub end: &'static str,
}

/// The category that the router read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfCategory {
    /// Its name.
    pub category: String,
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
    /// What the gateway adds to a request until the answer's head, the expert's time left out.
    pub overhead: Histogram,
    /// From arrival to the answer's head.
    pub time_to_head: Histogram,
    /// From arrival to the answer's last byte.
    pub duration: Histogram,
    /// Tries that failed before a first byte, by expert.
    pub failed_attempts: Family<OfExpert, Counter>,
    /// Bodies by how they ended.
    pub ends: Family<Ended, Counter>,
    /// Tokens of prompts, by expert, where the expert says so.
    pub prompt_tokens: Family<OfExpert, Counter>,
    /// Tokens of answers, by expert, where the expert says so.
    pub completion_tokens: Family<OfExpert, Counter>,
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
const SLOW: [f64; 13] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            in_flight: Gauge::default(),
            overhead: Histogram::new(FAST),
            time_to_head: Histogram::new(SLOW),
            duration: Histogram::new(SLOW),
            failed_attempts: Family::default(),
            ends: Family::default(),
            prompt_tokens: Family::default(),
            completion_tokens: Family::default(),
            categories: Family::default(),
            router_failures: Counter::default(),
            reloads: Family::default(),
            config_current: Gauge::default(),
        };
        metrics.config_current.set(1);
        let m = metrics.clone();
        let r = registry.sub_registry_with_prefix("guildhall");
        r.register("requests", "Requests by route, expert, path and status", m.requests);
        r.register("in_flight_requests", "Requests in progress, streams included", m.in_flight);
        let help = "What the gateway adds until the answer's head, the expert's time left out";
        r.register_with_unit("overhead", help, Unit::Seconds, m.overhead);
        r.register_with_unit(
            "time_to_head",
            "From arrival to the answer's head",
            Unit::Seconds,
            m.time_to_head,
        );
        let help = "From arrival to the answer's last byte";
        r.register_with_unit("request_duration", help, Unit::Seconds, m.duration);
        r.register("failed_attempts", "Tries that failed before a first byte", m.failed_attempts);
        r.register("answer_ends", "Answers by how their body ended", m.ends);
        r.register("prompt_tokens", "Tokens of prompts as experts count them", m.prompt_tokens);
        r.register("completion_tokens", "Tokens of answers as experts count them", m.completion_tokens);
        r.register("categories", "Prompts by the category that the router read", m.categories);
        r.register("router_failures", "Requests for which the router was late or broken", m.router_failures);
        let help = "Changes of the configuration file by what became of them";
        r.register("config_reloads", help, m.reloads);
        let help = "Whether the configuration file as it is now is in use";
        r.register("config_current", help, m.config_current);
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
        let end = match end {
            End::Complete => "complete",
            End::Cut => "cut",
            End::ClientLeft => "client_left",
        };
        self.ends.get_or_create(&Ended { end }).inc();
    }
}
