//! What happens in the pools, counted, and how they are at the moment, read when metrics are asked for.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use routing::ExpertId;
use tiers::owner::{Event, Found, Outcome, PoolStatus, Watch};
use tiers::residency::{Cause, Source, Tier};

use super::Name;
use crate::residency::Pools;

/// Bounds of the histograms, in seconds: from an adapter that is bound to a model that is fetched.
const SECONDS: [f64; 14] =
    [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 180.0, 600.0];

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct OfPool {
    pool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Hit {
    pool: Name,
    found: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Denied {
    pool: Name,
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Way {
    pool: Name,
    from: String,
    to: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transition {
    pool: Name,
    from: String,
    to: String,
    cause: &'static str,
    outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Prefetched {
    pool: Name,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Evicted {
    pool: Name,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DriverError {
    pool: Name,
    op: &'static str,
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    pool: Name,
}

/// Handles to the counters of all pools. Copies are the same counters.
#[derive(Clone)]
pub(crate) struct TierMetrics {
    hits: Family<Hit, Counter>,
    wait: Family<Named, Histogram, fn() -> Histogram>,
    stall: Family<Named, Counter<f64, AtomicU64>>,
    refusals: Family<Denied, Counter>,
    transitions: Family<Transition, Counter>,
    took: Family<Way, Histogram, fn() -> Histogram>,
    moved: Family<Way, Counter>,
    prefetch: Family<Prefetched, Counter>,
    evictions: Family<Evicted, Counter>,
    forced: Family<Named, Counter>,
    thrash: Family<Named, Counter>,
    errors: Family<DriverError, Counter>,
    mismatches: Family<Named, Counter>,
}

impl TierMetrics {
    /// Makes the counters and registers them.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let metrics = Self {
            hits: Family::default(),
            wait: Family::new_with_constructor(histogram),
            stall: Family::default(),
            refusals: Family::default(),
            transitions: Family::default(),
            took: Family::new_with_constructor(histogram),
            moved: Family::default(),
            prefetch: Family::default(),
            evictions: Family::default(),
            forced: Family::default(),
            thrash: Family::default(),
            errors: Family::default(),
            mismatches: Family::default(),
        };
        let m = metrics.clone();
        let r = registry.sub_registry_with_prefix("guildhall_tier");
        let help = "Requests that got their expert, by where its weights were when they came";
        r.register("hits", help, m.hits);
        let help = "What requests waited for their expert's weights, those that did not wait included";
        r.register_with_unit("wait", help, Unit::Seconds, m.wait);
        let help = "What requests waited whose expert was not ready when they came";
        r.register_with_unit("stall", help, Unit::Seconds, m.stall);
        r.register("refusals", "Requests that did not get their expert", m.refusals);
        r.register("transitions", "Transitions of experts between tiers that ended", m.transitions);
        r.register_with_unit("transition", "How long transitions took", Unit::Seconds, m.took);
        r.register("bytes_moved", "Bytes of experts that were loaded, as declared", m.moved);
        let help = "Experts loaded ahead, by what became of that";
        r.register("prefetch", help, m.prefetch);
        r.register("evictions", "Experts that were removed, by why", m.evictions);
        let help = "Loads that began because a request must not be overtaken any more";
        r.register("starvation_forced", help, m.forced);
        let help = "Loads of experts that had been removed less than a minute before";
        r.register("thrash", help, m.thrash);
        r.register("driver_errors", "What drivers failed to do", m.errors);
        let help = "Experts that a probe found elsewhere than they should have been";
        r.register("probe_mismatch", help, m.mismatches);
        metrics
    }

    /// Counts what happens in a pool. What has not happened yet is 0, not absent.
    pub(crate) fn watch(&self, pool: &ExpertId) -> Arc<dyn Watch> {
        let pool = Name(pool.clone());
        let named = Named { pool: pool.clone() };
        let hit =
            |found: Found| self.hits.get_or_create_owned(&Hit { pool: pool.clone(), found: found.name() });
        for outcome in ["used", "late", "wasted"] {
            self.prefetch.get_or_create(&Prefetched { pool: pool.clone(), outcome }).inc_by(0);
        }
        self.mismatches.get_or_create(&named).inc_by(0);
        Arc::new(Watcher {
            hits: Found::ALL.map(hit),
            wait: self.wait.get_or_create_owned(&named),
            stall: self.stall.get_or_create_owned(&named),
            forced: self.forced.get_or_create_owned(&named),
            thrash: self.thrash.get_or_create_owned(&named),
            unused: Mutex::default(),
            metrics: self.clone(),
            pool,
        })
    }
}

/// Counts what happens in one pool. What each request touches is at hand without its labels.
struct Watcher {
    pool: Name,
    /// In the order of [`Found::ALL`].
    hits: [Counter; 5],
    wait: Histogram,
    stall: Counter<f64, AtomicU64>,
    forced: Counter,
    thrash: Counter,
    /// Experts that were loaded ahead and have served nobody since.
    unused: Mutex<HashSet<ExpertId>>,
    metrics: TierMetrics,
}

impl Watch for Watcher {
    fn event(&self, event: &Event<'_>) {
        let pool = || self.pool.clone();
        match event {
            Event::Served { expert, found, waited_us } => self.served(expert, *found, *waited_us),
            Event::Refused { why, .. } => {
                self.metrics.refusals.get_or_create(&Denied { pool: pool(), why: why.name() }).inc();
            }
            Event::Began { expert, cause: None, reason, .. } => {
                let evicted = Evicted { pool: pool(), reason: reason.name() };
                self.metrics.evictions.get_or_create(&evicted).inc();
                if self.unused().remove(*expert) {
                    self.prefetched("wasted");
                }
            }
            Event::Began { cause: Some(cause), again, .. } => {
                if *cause == Cause::Demand {
                    self.forced.inc();
                }
                if *again {
                    self.thrash.inc();
                }
            }
            Event::Ended { expert, from, to, cause, outcome, took_us, bytes } => {
                let way = Way { pool: pool(), from: from.to_string(), to: to.to_string() };
                self.metrics.took.get_or_create(&way).observe(*took_us as f64 / 1e6);
                if cause.is_some() && *outcome == Outcome::Done {
                    self.metrics.moved.get_or_create(&way).inc_by(*bytes);
                }
                let ahead = matches!(cause, Some(Cause::Prefetch | Cause::Predicted { .. }));
                if ahead && *outcome == Outcome::Done {
                    self.unused().insert((*expert).clone());
                }
                if let Outcome::Failed(kind) = outcome {
                    self.failed(if cause.is_some() { "promote" } else { "demote" }, kind.to_string());
                }
                let Way { pool, from, to } = way;
                let cause = cause.map_or("evict", Cause::name);
                let ended = Transition { pool, from, to, cause, outcome: outcome.to_string() };
                self.metrics.transitions.get_or_create(&ended).inc();
            }
            Event::ProbeFailed { kind, .. } => self.failed("probe", kind.to_string()),
            Event::Mismatch { .. } => {
                self.metrics.mismatches.get_or_create(&Named { pool: pool() }).inc();
            }
        }
    }
}

impl Watcher {
    fn served(&self, expert: &ExpertId, found: Found, waited_us: u64) {
        let seconds = waited_us as f64 / 1e6;
        self.hits[found as usize].inc();
        self.wait.observe(seconds);
        if found != Found::Hot {
            self.stall.inc_by(seconds);
        }
        let mut unused = self.unused();
        if !unused.is_empty() && unused.remove(expert) {
            drop(unused);
            self.prefetched(if found == Found::Hot { "used" } else { "late" });
        }
    }

    fn prefetched(&self, outcome: &'static str) {
        self.metrics.prefetch.get_or_create(&Prefetched { pool: self.pool.clone(), outcome }).inc();
    }

    fn failed(&self, op: &'static str, kind: String) {
        self.metrics.errors.get_or_create(&DriverError { pool: self.pool.clone(), op, kind }).inc();
    }

    fn unused(&self) -> std::sync::MutexGuard<'_, HashSet<ExpertId>> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads how the pools are.
pub(crate) struct PoolGauges(pub(crate) Pools);

impl std::fmt::Debug for PoolGauges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolGauges").finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTier {
    pool: String,
    tier: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCapacity {
    pool: String,
    tier: String,
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct OfPhase {
    pool: String,
    phase: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfExpert {
    pool: String,
    expert: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct OfDriver {
    pool: String,
    driver: &'static str,
}

type Samples<L> = Vec<(L, f64)>;

/// A figure of a tier.
type Bytes = fn(&tiers::owner::TierStatus) -> u64;

impl Collector for PoolGauges {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let pools: Vec<PoolStatus> = self.0.all().iter().map(tiers::owner::Pool::status).collect();
        let gauge = &mut encoder;
        let sources = each(&pools, |pool| {
            pool.tiers.iter().map(|tier| {
                let (tier, source, bytes) = (tier.tier.to_string(), tier.source, tier.capacity_bytes);
                (OfCapacity { pool: pool.id.to_string(), tier, source: source_name(source) }, bytes as f64)
            })
        });
        let help = "Bytes that experts may take in a tier, and where that number comes from";
        write(gauge, "capacity_bytes", help, &sources)?;
        let bytes: [(&str, &str, Bytes); 3] = [
            ("used_bytes", "Bytes of complete copies, and of those being removed", |t| t.used_bytes),
            ("reserved_bytes", "Bytes promised to loads under way", |t| t.reserved_bytes),
            ("unaccounted_bytes", "Bytes that should be free and were measured not to be", |t| {
                t.unaccounted_bytes
            }),
        ];
        for (name, help, value) in bytes {
            let samples = each(&pools, |pool| {
                pool.tiers.iter().map(move |tier| {
                    let labels = OfTier { pool: pool.id.to_string(), tier: tier.tier.to_string() };
                    (labels, value(tier) as f64)
                })
            });
            write(gauge, name, help, &samples)?;
        }
        let mut phases: BTreeMap<OfPhase, f64> = BTreeMap::new();
        let mut drivers: BTreeMap<OfDriver, f64> = BTreeMap::new();
        for pool in &pools {
            let id = pool.id.to_string();
            for expert in &pool.experts {
                let labels = OfPhase { pool: id.clone(), phase: expert.phase.clone() };
                *phases.entry(labels).or_default() += 1.0;
            }
            for driver in &pool.drivers {
                let answers = driver.error.is_none() && driver.answered_ms_ago.is_some();
                // Of several drivers of one kind, the worst.
                let least = drivers.entry(OfDriver { pool: id.clone(), driver: driver.kind }).or_insert(1.0);
                *least = least.min(f64::from(u8::from(answers)));
            }
        }
        write(gauge, "experts", "Experts of a pool by phase", &Vec::from_iter(phases))?;
        let nearest = each(&pools, |pool| {
            pool.experts.iter().map(|expert| {
                let labels = OfExpert { pool: pool.id.to_string(), expert: expert.id.to_string() };
                (labels, place(expert.tier))
            })
        });
        let help = "Where an expert's nearest complete copy is: 0 slot, 1 hbm, 2 dram, 3 disk, 4 remote";
        write(gauge, "expert_tier", help, &nearest)?;
        let help = "Whether a driver could tell where its experts are, the last time that it was asked";
        write(gauge, "driver_answers", help, &Vec::from_iter(drivers))?;
        let of = |value: fn(&PoolStatus) -> f64| {
            each(&pools, |pool| [(OfPool { pool: pool.id.to_string() }, value(pool))].into_iter())
        };
        write(gauge, "leases", "Batches under way", &of(|pool| f64::from(pool.running)))?;
        write(gauge, "waiting", "Requests that wait for their expert", &of(|pool| pool.waiting as f64))
    }
}

fn each<'a, L, I: Iterator<Item = (L, f64)>>(
    pools: &'a [PoolStatus],
    samples: impl Fn(&'a PoolStatus) -> I,
) -> Samples<L> {
    pools.iter().flat_map(samples).collect()
}

fn write<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    samples: &Samples<L>,
) -> Result<(), std::fmt::Error> {
    let name = format!("guildhall_tier_{name}");
    let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        ConstGauge::new(*value).encode(family.encode_family(labels)?)?;
    }
    Ok(())
}

fn place(tier: Tier) -> f64 {
    Tier::ALL.iter().position(|other| *other == tier).unwrap_or_default() as f64
}

fn source_name(source: Source) -> &'static str {
    match source {
        Source::Measured => "measured",
        Source::Declared => "declared",
        Source::Simulated => "simulated",
    }
}

#[cfg(test)]
mod tests {
    use tiers::driver::ErrorKind;
    use tiers::residency::Reason;

    use super::*;

    fn seen(events: &[Event<'_>]) -> String {
        let mut registry = Registry::default();
        let metrics = TierMetrics::register(&mut registry);
        let watch = metrics.watch(&ExpertId::new("gpu0").unwrap());
        for event in events {
            watch.event(event);
        }
        let mut out = String::new();
        prometheus_client::encoding::text::encode(&mut out, &registry).unwrap();
        out
    }

    fn load(expert: &ExpertId, cause: Cause, again: bool) -> [Event<'_>; 2] {
        let (from, to, reason) = (Tier::Dram, Tier::Hbm, Reason::Asked);
        let ended = Event::Ended {
            expert,
            from,
            to,
            cause: Some(cause),
            outcome: Outcome::Done,
            took_us: 300_000,
            bytes: 7,
        };
        [Event::Began { expert, from, to, cause: Some(cause), reason, again }, ended]
    }

    #[test]
    fn what_happens_is_counted() {
        let (a, b, c) = ["a", "b", "c"].map(|id| ExpertId::new(id).unwrap()).into();
        let mut events = Vec::from(load(&a, Cause::Prefetch, false));
        let served = |expert, found, waited_us| Event::Served { expert, found, waited_us };
        events.extend([served(&a, Found::Warm, 250_000), served(&a, Found::Hot, 0)]);
        events.extend(load(&b, Cause::Prefetch, true));
        events.push(served(&b, Found::Hot, 0));
        events.extend(load(&c, Cause::Demand, false));
        events.extend(load(&c, Cause::Prefetch, false));
        let (from, to) = (Tier::Hbm, Tier::Dram);
        let reason = Reason::LeastRecent;
        events.push(Event::Began { expert: &c, from, to, cause: None, reason, again: false });
        let outcome = Outcome::Failed(ErrorKind::HalfDone);
        events.push(Event::Ended { expert: &c, from, to, cause: None, outcome, took_us: 1, bytes: 7 });
        events.push(Event::ProbeFailed { driver: "sim", kind: ErrorKind::Gone });
        events.push(Event::Mismatch { expert: &c });
        events.push(Event::Refused { expert: &a, why: tiers::owner::Why::NoRoom });
        let text = seen(&events);
        for line in [
            "guildhall_tier_hits_total{pool=\"gpu0\",found=\"hot\"} 2",
            "guildhall_tier_hits_total{pool=\"gpu0\",found=\"warm\"} 1",
            "guildhall_tier_hits_total{pool=\"gpu0\",found=\"cold\"} 0",
            "guildhall_tier_wait_seconds_count{pool=\"gpu0\"} 3",
            "guildhall_tier_stall_seconds_total{pool=\"gpu0\"} 0.25",
            "guildhall_tier_refusals_total{pool=\"gpu0\",why=\"no_room\"} 1",
            "guildhall_tier_transitions_total{pool=\"gpu0\",from=\"dram\",to=\"hbm\",cause=\"prefetch\",outcome=\"done\"} 3",
            "guildhall_tier_transitions_total{pool=\"gpu0\",from=\"hbm\",to=\"dram\",cause=\"evict\",outcome=\"half_done\"} 1",
            "guildhall_tier_bytes_moved_total{pool=\"gpu0\",from=\"dram\",to=\"hbm\"} 28",
            "guildhall_tier_transition_seconds_count{pool=\"gpu0\",from=\"dram\",to=\"hbm\"} 4",
            "guildhall_tier_prefetch_total{pool=\"gpu0\",outcome=\"used\"} 1",
            "guildhall_tier_prefetch_total{pool=\"gpu0\",outcome=\"late\"} 1",
            "guildhall_tier_prefetch_total{pool=\"gpu0\",outcome=\"wasted\"} 1",
            "guildhall_tier_evictions_total{pool=\"gpu0\",reason=\"least_recent\"} 1",
            "guildhall_tier_starvation_forced_total{pool=\"gpu0\"} 1",
            "guildhall_tier_thrash_total{pool=\"gpu0\"} 1",
            "guildhall_tier_driver_errors_total{pool=\"gpu0\",op=\"demote\",kind=\"half_done\"} 1",
            "guildhall_tier_driver_errors_total{pool=\"gpu0\",op=\"probe\",kind=\"gone\"} 1",
            "guildhall_tier_probe_mismatch_total{pool=\"gpu0\"} 1",
        ] {
            assert!(text.lines().any(|other| other == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn tiers_are_told_by_their_number() {
        assert_eq!(Tier::ALL.map(|tier| place(tier) as usize), [0, 1, 2, 3, 4]);
    }
}
