//! What experts' endpoints and the queues are like at the moment, read when metrics are asked for.

use std::sync::Arc;

use admission::gate::{Reason, Stats};
use admission::{Priority, Subject};
use experts::{BreakerState, EndpointStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::catalog::Catalog;
use crate::telemetry::access::AccessLog;

/// Reads the catalogue's experts and gates.
pub(crate) struct Fleet {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) access: Option<Arc<AccessLog>>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").finish_non_exhaustive()
    }
}

/// One endpoint of an expert.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEndpoint {
    expert: String,
    endpoint: String,
}

/// Whose gate it is. Keys share one set: their number is not bounded by the configuration's size.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct OfGate {
    kind: &'static str,
    id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClass {
    kind: &'static str,
    id: String,
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    kind: &'static str,
    id: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfExpert {
    expert: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBundle {
    bundle: String,
}

impl Collector for Fleet {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        self.endpoints(&mut encoder)?;
        self.experts(&mut encoder)?;
        self.gates(&mut encoder)?;
        self.router(&mut encoder)?;
        let dropped = ConstCounter::new(self.access.as_ref().map_or(0, |log| log.dropped()));
        let help = "Lines of the access log that were dropped because its writer fell behind";
        let name = "guildhall_access_log_dropped";
        dropped.encode(encoder.encode_descriptor(name, help, None, dropped.metric_type())?)
    }
}

impl Fleet {
    fn router(&self, encoder: &mut DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let view = self.catalog.view();
        if view.router.encoder.is_none() {
            return Ok(());
        }
        let help = "The router model that decides, as its bundle's id; always 1";
        let mut family =
            encoder.encode_descriptor("guildhall_router_bundle", help, None, MetricType::Gauge)?;
        let labels = OfBundle { bundle: view.router.bundle.to_string() };
        ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)
    }

    fn endpoints(&self, encoder: &mut DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let view = self.catalog.view();
        let mut all: Vec<(OfEndpoint, EndpointStatus)> = Vec::new();
        for id in view.expert_ids() {
            let endpoints = view.experts.get(id).map(|expert| expert.endpoints()).unwrap_or_default();
            all.extend(endpoints.into_iter().map(|status| {
                let endpoint = match &status.address {
                    Some(address) => format!("{} {address}", status.url),
                    None => status.url.clone(),
                };
                (OfEndpoint { expert: id.to_owned(), endpoint }, status)
            }));
        }
        let mut family = |name: &str, help: &str, value: &dyn Fn(&EndpointStatus) -> Option<f64>| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, status) in &all {
                if let Some(value) = value(status) {
                    ConstGauge::new(value).encode(family.encode_family(labels)?)?;
                }
            }
            Ok::<(), std::fmt::Error>(())
        };
        let breaker = |status: &EndpointStatus| {
            Some(match status.breaker {
                BreakerState::Closed => 0.0,
                BreakerState::HalfOpen => 1.0,
                BreakerState::Open => 2.0,
            })
        };
        let help = "The endpoint's circuit breaker: 0 closed, 1 half open, 2 open";
        family("guildhall_endpoint_breaker", help, &breaker)?;
        let help = "Whether the endpoint is ejected from the balancing";
        family("guildhall_endpoint_ejected", help, &|status| Some(f64::from(u8::from(status.ejected))))?;
        let help = "Whether the endpoint's active health checks succeed; absent without them";
        family("guildhall_endpoint_healthy", help, &|status| {
            status.healthy.map(|healthy| f64::from(u8::from(healthy)))
        })?;
        let help = "Calls in progress at the endpoint";
        family("guildhall_endpoint_outstanding", help, &|status| Some(status.outstanding as f64))?;
        let help = "Moving average of the time to the head of the endpoint's answers";
        family("guildhall_endpoint_latency_seconds", help, &|status| {
            status.latency_us.map(|micros| micros as f64 / 1e6)
        })
    }

    fn experts(&self, encoder: &mut DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let view = self.catalog.view();
        let all: Vec<_> = view
            .expert_ids()
            .filter_map(|id| Some((OfExpert { expert: id.to_owned() }, view.experts.get(id)?.stats())))
            .collect();
        let mut family = |name: &str, help: &str, value: &dyn Fn(&experts::Stats) -> u64| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, stats) in &all {
                ConstCounter::new(value(stats)).encode(family.encode_family(labels)?)?;
            }
            Ok::<(), std::fmt::Error>(())
        };
        let help = "Retries that the expert's budget did not allow";
        family("guildhall_retries_refused", help, &|stats| stats.retries_refused)?;
        let help = "Hedges that the expert's budget did not allow";
        family("guildhall_hedges_refused", help, &|stats| stats.hedges_refused)?;
        let help = "Hedges whose answer came first";
        family("guildhall_hedges_won", help, &|stats| stats.hedges_won)
    }

    fn gates(&self, encoder: &mut DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut all: std::collections::BTreeMap<OfGate, Stats> = std::collections::BTreeMap::new();
        for (subject, stats) in self.catalog.gates().stats() {
            let id = if matches!(subject, Subject::Key(_)) { "" } else { subject.id() };
            let sum = all.entry(OfGate { kind: subject.kind(), id: id.to_owned() }).or_default();
            sum.limit = Some(sum.limit.unwrap_or(0).saturating_add(stats.limit.unwrap_or(0)));
            sum.in_use += stats.in_use;
            sum.waiting.iter_mut().zip(stats.waiting).for_each(|(sum, own)| *sum += own);
            sum.rejected.iter_mut().zip(stats.rejected).for_each(|(sum, own)| *sum += own);
        }
        let mut family = |name: &str, help: &str, value: &dyn Fn(&Stats) -> u64| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, stats) in &all {
                ConstGauge::new(value(stats)).encode(family.encode_family(labels)?)?;
            }
            Ok::<(), std::fmt::Error>(())
        };
        let help = "Places for requests in progress, as they are now";
        family("guildhall_gate_limit", help, &|stats| u64::from(stats.limit.unwrap_or(0)))?;
        let help = "Places that are taken";
        family("guildhall_gate_in_use", help, &|stats| u64::from(stats.in_use))?;
        let help = "Requests that wait for a place";
        let mut family =
            encoder.encode_descriptor("guildhall_gate_waiting", help, None, MetricType::Gauge)?;
        for (of, stats) in &all {
            for class in Priority::ALL {
                let labels = OfClass { kind: of.kind, id: of.id.clone(), class: class.name() };
                ConstGauge::new(u64::from(stats.waiting[class as usize]))
                    .encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Requests that got no place, by reason";
        let name = "guildhall_gate_rejected";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (of, stats) in &all {
            for (reason, count) in Reason::ALL.into_iter().zip(stats.rejected) {
                let labels = OfReason { kind: of.kind, id: of.id.clone(), reason: reason.name() };
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
