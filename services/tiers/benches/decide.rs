//! What a decision costs with a thousand experts and ten thousand requests waiting. Run: `cargo bench -p tiers`.

use std::collections::BTreeMap;

use divan::{Bencher, black_box};
use routing::ExpertId;
use tiers::residency::{
    Action, Applied, ExpertIndex, ExpertSpec, Kind, LinkSpec, Policy, PoolSpec, Queue, Source, State, Tier,
    TierSpec, Waiting, decide, wake,
};

const EXPERTS: u32 = 1_000;
const REQUESTS: u64 = 10_000;
const GB: u64 = 1_000_000_000;

fn main() {
    divan::main();
}

fn pool(places: u64) -> Option<PoolSpec> {
    let tier =
        |tier, gb| TierSpec { tier, capacity_bytes: gb * GB, reserved_bytes: 0, source: Source::Simulated };
    let expert = |i: u32| {
        let id = ExpertId::new(format!("expert-{i}")).ok()?;
        let bytes = BTreeMap::from([(Tier::Hbm, 10 * GB), (Tier::Dram, 10 * GB)]);
        Some(ExpertSpec { id, kind: Kind::Full, bytes, warm_us: 0, batch_us: 100_000 })
    };
    let link =
        LinkSpec { from: Tier::Dram, to: Tier::Hbm, bytes_per_second: 50e9, latency_us: 0, concurrency: 1 };
    Some(PoolSpec {
        tiers: vec![tier(Tier::Hbm, 10 * places), tier(Tier::Dram, 10 * u64::from(EXPERTS))],
        links: vec![link],
        experts: (0..EXPERTS).map(expert).collect::<Option<_>>()?,
        policy: Policy { bound_us: 1_000_000_000, batch_max: 8, executors: 1, ..Policy::default() },
        frees_at_once: true,
    })
}

/// All places are taken by experts that nobody waits for, and ten requests wait for each of the others, of two
/// tenants, both of which have caused loads.
fn fixture(places: u32) -> Option<(u64, State, Queue)> {
    let mut state = State::new(pool(u64::from(places))?).ok()?;
    let mut queue = Queue::new(EXPERTS as usize, 8);
    let mut now = 0;
    for expert in (0..places).map(ExpertIndex) {
        for _ in 0..10 {
            state.requested(expert);
        }
        let load = Action::Promote {
            expert,
            from: Tier::Dram,
            to: Tier::Hbm,
            cause: tiers::residency::Cause::Admin,
            tenant: Some(expert.0 % 2),
            reason: tiers::residency::Reason::Asked,
        };
        let Ok(Applied::Began(generation)) = state.apply(now, &load) else { return None };
        now += 1_000_000;
        state.arrived(now, expert, generation, None).ok()?;
    }
    for id in 0..REQUESTS {
        let expert = ExpertIndex(places + (id % u64::from(EXPERTS - places)) as u32);
        let arrived_us = now + id * 100;
        queue.push(Waiting {
            id,
            expert,
            tenant: (id % 2) as u32,
            arrived_us,
            due_us: arrived_us + 1_000_000_000,
        });
        state.requested(expert);
    }
    Some((now + 10_000_000, state, queue))
}

/// A load has to be chosen, and what goes for it.
#[divan::bench(args = [16, 64, 500])]
fn load(bencher: Bencher<'_, '_>, places: u32) {
    let Some((now, state, queue)) = fixture(places) else { return };
    bencher.bench(|| decide(black_box(now), black_box(&state), black_box(&queue)).len());
}

/// Every ready expert has work, and one of them gets a batch.
#[divan::bench(args = [16, 64, 500])]
fn batch(bencher: Bencher<'_, '_>, places: u32) {
    let Some((now, mut state, mut queue)) = fixture(places) else { return };
    for id in 0..REQUESTS {
        let expert = ExpertIndex((id % u64::from(EXPERTS)) as u32);
        let waiting =
            Waiting { id: REQUESTS + id, expert, tenant: 0, arrived_us: now, due_us: now + 1_000_000_000 };
        queue.push(waiting);
        state.requested(expert);
    }
    bencher.bench(|| decide(black_box(now), black_box(&state), black_box(&queue)).len());
}

/// When to ask again.
#[divan::bench]
fn wake_up(bencher: Bencher<'_, '_>) {
    let Some((now, state, queue)) = fixture(64) else { return };
    bencher.bench(|| wake(black_box(now), black_box(&state), black_box(&queue)));
}

/// A request comes and is taken.
#[divan::bench]
fn push_and_take(bencher: Bencher<'_, '_>) {
    let Some((now, _, queue)) = fixture(64) else { return };
    let waiting = Waiting {
        id: u64::MAX,
        expert: ExpertIndex(0),
        tenant: 0,
        arrived_us: now,
        due_us: now + 1_000_000_000,
    };
    let mut queue = queue;
    bencher.bench_local(|| {
        queue.push(black_box(waiting));
        queue.take(ExpertIndex(0), 1).len()
    });
}
