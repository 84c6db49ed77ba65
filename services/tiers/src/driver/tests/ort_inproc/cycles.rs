//! Thousands of loads and removals, chosen by the pure core and carried out: the ledger must be what the process takes.

use std::collections::BTreeMap;
use std::time::Instant as Clock;

use super::*;
use crate::process;
use crate::residency::{
    Account, Action, Applied, ExpertIndex, ExpertSpec, Generation, Kind, LinkSpec, NewRequest, Policy,
    PoolSpec, Queue, State, TierSpec, admit, decide, wake,
};

/// Loads in a normal test run. `TIERS_CYCLES` sets another number.
const CYCLES: usize = 150;

/// What a model's own structures take beside its weights, generously.
const BESIDE: u64 = 256 * 1_024;

/// An empty list whose memory is there already.
fn touched<T: Clone>(something: T, capacity: usize) -> Vec<T> {
    // Not zeros, which the system gives without giving memory.
    let mut list = vec![something; capacity];
    list.clear();
    list
}

/// Experts of which about a quarter has room.
struct World {
    models: Models,
    driver: Driver,
    state: State,
    queue: Queue,
    now_us: u64,
    loads: usize,
    removals: usize,
    load_us: Vec<u128>,
}

impl World {
    fn new(loads: usize) -> Self {
        // 4 to 25 MB.
        let sides: Vec<usize> = (0..24).map(|at| 1024 + 64 * at).collect();
        let models = Models::new(&sides);
        let all: u64 = (0..sides.len()).map(|at| models.weights(at)).sum();
        let budget = all / 4;
        let expert = |at| ExpertSpec {
            id: id(&name(at)),
            kind: Kind::Full,
            bytes: BTreeMap::from([
                (Tier::Hbm, models.weights(at) + BESIDE),
                (Tier::Disk, models.weights(at)),
            ]),
            warm_us: 0,
            batch_us: 1_000,
        };
        let tier = |tier, capacity_bytes| TierSpec {
            tier,
            capacity_bytes,
            reserved_bytes: 0,
            source: Source::Declared,
        };
        let pool = PoolSpec {
            tiers: vec![tier(Tier::Hbm, budget), tier(Tier::Disk, 2 * all)],
            links: vec![LinkSpec {
                from: Tier::Disk,
                to: Tier::Hbm,
                bytes_per_second: 1e9,
                latency_us: 0,
                concurrency: 1,
            }],
            experts: (0..sides.len()).map(expert).collect(),
            policy: Policy { executors: 1, ..Policy::default() },
            frees_at_once: false,
        };
        Self {
            driver: models.driver(budget),
            queue: Queue::new(sides.len(), pool.policy.batch_max),
            state: State::new(pool).unwrap(),
            models,
            now_us: 0,
            loads: 0,
            removals: 0,
            load_us: touched(1, loads),
        }
    }

    /// Serves one request, with all that has to happen for it.
    async fn serve(&mut self, number: u64, at: usize) {
        self.now_us += 1_000_000;
        let expert = ExpertIndex(at as u32);
        let request = NewRequest { id: number, expert, tenant: 0, deadline_us: None };
        let waiting = admit(self.now_us, &self.state, &self.queue, request).unwrap();
        self.state.requested(expert);
        self.queue.push(waiting);
        while !self.queue.is_empty() {
            let actions = decide(self.now_us, &self.state, &self.queue);
            if actions.is_empty() {
                self.now_us = wake(self.now_us, &self.state, &self.queue).expect("someone waits");
            }
            for action in actions {
                self.carry_out(&action).await;
            }
        }
    }

    async fn carry_out(&mut self, action: &Action) {
        let applied = self.state.apply(self.now_us, action).unwrap();
        match (action, applied) {
            (Action::Dispatch { expert, requests, .. }, Applied::Leased(lease)) => {
                self.queue.take(*expert, *requests);
                self.models.ask(&self.driver, expert.0 as usize);
                self.now_us += 1_000;
                self.state.release(self.now_us, &lease);
            }
            (Action::Promote { expert, to, .. }, Applied::Began(generation)) => {
                let began = Clock::now();
                let outcome = promote(&self.driver, &name(expert.0 as usize), *to).await.unwrap();
                self.load_us.push(began.elapsed().as_micros());
                let (bytes, source) = outcome.placed.bytes[&Tier::Hbm];
                assert_eq!(source, Source::Measured);
                self.now_us += 10_000;
                self.state.arrived(self.now_us, *expert, generation, Some(bytes)).unwrap();
                self.loads += 1;
            }
            (Action::Demote { expert, .. }, Applied::Began(generation)) => {
                self.remove(*expert, generation).await;
            }
            other => panic!("{other:?}"),
        }
    }

    async fn remove(&mut self, expert: ExpertIndex, generation: Generation) {
        demote(&self.driver, &name(expert.0 as usize), Tier::Disk).await.unwrap();
        self.state.gone(expert, generation).unwrap();
        self.removals += 1;
    }

    fn used(&self) -> u64 {
        self.state.account(Tier::Hbm).map_or(0, Account::used)
    }
}

#[tokio::test]
async fn the_ledger_is_what_the_process_takes() {
    if !alone("cycles::the_ledger_is_what_the_process_takes") {
        return;
    }
    let cycles = std::env::var("TIERS_CYCLES").map_or(CYCLES, |text| text.parse().unwrap());
    let loads = 2 * cycles + 100;
    let mut world = World::new(loads);
    assert!(world.driver.caps().measures);
    let folder = world.models.folder.path().canonicalize().unwrap();
    let measure = || process::resident(&folder).unwrap().cast_signed();
    // Megabytes that the ledger lacks, after each request. The test's own lists are in the process, too: they are there
    // before anything is measured.
    let (mut gaps, mut shares): (Vec<f64>, Vec<f64>) = (touched(1.0, loads), touched(1.0, loads));
    // What ONNX Runtime and this thread take for themselves when they first work is no expert's.
    let bare = measure();
    promote(&world.driver, "m0", Tier::Hbm).await.unwrap();
    world.models.ask(&world.driver, 0);
    demote(&world.driver, "m0", Tier::Disk).await.unwrap();
    let empty = measure();
    let usable = world.state.account(Tier::Hbm).unwrap().usable();
    let mut chance = 1_u64;
    let mut number = 0;
    while world.removals < cycles {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let before = world.loads;
        world.serve(number, (chance >> 33) as usize % world.models.sides.len()).await;
        number += 1;
        if world.loads > before {
            let gap = (measure() - empty - world.used().cast_signed()) as f64;
            gaps.push(gap / 1e6);
            shares.push(gap.abs() / world.used() as f64);
        }
        assert!(world.used() <= usable, "{} of {usable}", world.used());
    }
    let tenth = gaps.len().div_ceil(10);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, last) = (mean(&gaps[..tenth]), mean(&gaps[gaps.len() - tenth..]));
    let worst = shares.iter().copied().fold(0.0, f64::max);
    world.load_us.sort_unstable();
    println!(
        "{} loads and {} removals of 24 models, {:.1} MB budget: ledger off by {:.3} % in the mean, {worst:.4} at \
         worst; it lacked {first:.3} MB in the first tenth, {last:.3} MB in the last; runtime itself {:.1} MB; a load \
         took {} us in the median",
        world.loads,
        world.removals,
        usable as f64 / 1e6,
        100.0 * mean(&shares),
        (empty - bare) as f64 / 1e6,
        world.load_us[world.load_us.len() / 2],
    );
    assert!(worst < 0.05, "the ledger was off by {worst:.4}");
    let drift = (last - first).abs() * 1e6 / usable as f64;
    assert!(drift < 0.02, "the ledger drifted by {drift:.4} of the budget");
    for at in 0..world.models.sides.len() {
        demote(&world.driver, &name(at), Tier::Disk).await.unwrap();
    }
    let left = (measure() - empty) as f64;
    println!("{:.3} MB left when all are gone", left / 1e6);
    assert!(left < 0.05 * usable as f64, "{left} bytes were left when all were gone");
}
