//! The owner with simulated servers, and with servers that fail in all the ways that real ones do.

mod basics;
mod faults;
mod lent;
mod orders;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use routing::ExpertId;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Ask, Denied, Event, Held, Pool, Setup, Timing, Watch};
use crate::driver::{Driver, DriverConfig, DriverSpec, SimConfig};
use crate::residency::{ExpertSpec, Kind, LinkSpec, Policy, PoolSpec, Source, Tier, TierSpec};

pub(super) const GB: u64 = 1_000_000_000;

pub(super) fn id(text: &str) -> ExpertId {
    ExpertId::new(text).unwrap()
}

/// `experts` of 10 GB, named `a`, `b`, ..., in the host's memory, one second from the accelerator, which has
/// `places`.
pub(super) fn spec(experts: &[&str], places: u64) -> PoolSpec {
    let tier = |tier: Tier, gb: u64| TierSpec {
        tier,
        capacity_bytes: gb * GB,
        reserved_bytes: 0,
        source: Source::Declared,
    };
    let expert = |name: &&str| ExpertSpec {
        id: id(name),
        kind: Kind::Full,
        bytes: BTreeMap::from([(Tier::Hbm, 10 * GB), (Tier::Dram, 10 * GB)]),
        warm_us: 0,
        batch_us: 100_000,
    };
    PoolSpec {
        tiers: vec![tier(Tier::Hbm, 10 * places), tier(Tier::Dram, 10 * experts.len() as u64)],
        links: vec![LinkSpec {
            from: Tier::Dram,
            to: Tier::Hbm,
            bytes_per_second: 10e9,
            latency_us: 0,
            concurrency: 1,
        }],
        experts: experts.iter().map(expert).collect(),
        policy: Policy { min_residency_loads: 0.0, ..Policy::default() },
        frees_at_once: false,
    }
}

/// A driver of simulated servers for a pool's experts.
pub(super) fn sim(spec: &PoolSpec) -> Driver {
    let experts = spec.experts.iter().map(|expert| (expert.id.clone(), expert.bytes.clone())).collect();
    let config = SimConfig { experts, links: spec.links.clone(), frees_after_ms: 100 };
    Driver::new(DriverSpec { driver: DriverConfig::Sim(config), meter: None }).unwrap()
}

/// Keeps what happened, in words.
#[derive(Default)]
pub(super) struct Log(Mutex<Vec<String>>);

impl Log {
    pub(super) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(super) fn count(&self, text: &str) -> usize {
        self.all().iter().filter(|line| line.contains(text)).count()
    }
}

impl Watch for Log {
    fn event(&self, event: &Event<'_>) {
        let line = match event {
            Event::Served { expert, found, .. } => format!("{expert} served, was {}", found.name()),
            Event::Refused { expert, why } => format!("{expert} refused: {}", why.name()),
            Event::Began { expert, from, to, .. } => format!("{expert} begins {from} -> {to}"),
            Event::Ended { expert, from, to, outcome, .. } => {
                format!("{expert} ends {from} -> {to}: {outcome}")
            }
            Event::ProbeFailed { driver, kind } => format!("{driver} does not tell: {kind}"),
            Event::Mismatch { expert } => format!("{expert} is elsewhere"),
        };
        self.0.lock().unwrap().push(line);
    }
}

/// A pool at work.
pub(super) struct World {
    pub(super) pool: Pool,
    pub(super) log: Arc<Log>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

impl World {
    pub(super) fn new(spec: PoolSpec, drivers: Vec<Driver>) -> Self {
        Self::timed(spec, drivers, Timing::default())
    }

    pub(super) fn timed(spec: PoolSpec, drivers: Vec<Driver>, timing: Timing) -> Self {
        let log = Arc::new(Log::default());
        let setup =
            Setup { id: "test".into(), spec, drivers, timing, watch: log.clone(), now_ms: 1_700_000_000_000 };
        let pool = Pool::new(setup).unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = pool.clone();
        let running = tokio::spawn(async move {
            task.run(async {
                let _stopped = stopped.await;
            })
            .await;
        });
        Self { pool, log, stop: Some(stop), running }
    }

    /// Simulated servers.
    pub(super) fn sim(experts: &[&str], places: u64) -> Self {
        let spec = spec(experts, places);
        let driver = sim(&spec);
        Self::new(spec, vec![driver])
    }

    pub(super) async fn acquire(&self, expert: &str) -> Result<Held, Denied> {
        let expert = id(expert);
        self.pool.acquire(Ask { expert: &expert, tenant: 0, session: None, deadline: None }).await
    }

    pub(super) async fn within(&self, expert: &str, patience: Duration) -> Result<Held, Denied> {
        let expert = id(expert);
        let deadline = Some(Instant::now() + patience);
        self.pool.acquire(Ask { expert: &expert, tenant: 0, session: None, deadline }).await
    }

    /// A request on its way, in a task of its own.
    pub(super) fn request(&self, expert: &str) -> JoinHandle<Result<Held, Denied>> {
        let (pool, expert) = (self.pool.clone(), id(expert));
        tokio::spawn(async move {
            pool.acquire(Ask { expert: &expert, tenant: 0, session: None, deadline: None }).await
        })
    }

    pub(super) fn phase(&self, expert: &str) -> String {
        let status = self.pool.status();
        status.experts.iter().find(|one| one.id.as_str() == expert).map(|one| one.phase.clone()).unwrap()
    }

    /// Bytes used and reserved on the accelerator, in gigabytes.
    pub(super) fn hbm(&self) -> (u64, u64) {
        let status = self.pool.status();
        let hbm = status.tiers.iter().find(|tier| tier.tier == Tier::Hbm).unwrap();
        (hbm.used_bytes / GB, hbm.reserved_bytes / GB)
    }

    pub(super) async fn end(mut self) {
        drop(self.stop.take());
        self.running.await.unwrap();
    }
}

pub(super) async fn seconds(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}
