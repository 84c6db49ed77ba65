mod prediction;
mod properties;
mod scenarios;

use std::collections::BTreeMap;

use routing::ExpertId;

use super::*;

pub(super) const GB: u64 = 1_000_000_000;
pub(super) const SECOND: u64 = 1_000_000;

pub(super) fn id(text: &str) -> ExpertId {
    ExpertId::new(text).unwrap()
}

pub(super) fn full(name: &str, hbm_gb: u64) -> ExpertSpec {
    ExpertSpec {
        id: id(name),
        kind: Kind::Full,
        bytes: BTreeMap::from([(Tier::Hbm, hbm_gb * GB), (Tier::Dram, hbm_gb * GB)]),
        warm_us: 0,
        batch_us: SECOND / 10,
    }
}

pub(super) fn tier(tier: Tier, gb: u64) -> TierSpec {
    TierSpec { tier, capacity_bytes: gb * GB, reserved_bytes: 0, source: Source::Declared }
}

/// 10 GB a second from the host's memory, 1 GB from the disk.
pub(super) fn link(from: Tier, to: Tier, gb_per_second: f64) -> LinkSpec {
    LinkSpec { from, to, bytes_per_second: gb_per_second * 1e9, latency_us: 0, concurrency: 1 }
}

/// Experts `a`, `b`, `c`, ... of 10 GB, one second away, of which `places` fit.
pub(super) fn pool(experts: usize, places: u64) -> PoolSpec {
    let name = |i: usize| char::from(b'a' + i as u8).to_string();
    PoolSpec {
        tiers: vec![tier(Tier::Hbm, 10 * places), tier(Tier::Dram, 10 * experts as u64)],
        links: vec![link(Tier::Dram, Tier::Hbm, 10.0)],
        experts: (0..experts).map(|i| full(&name(i), 10)).collect(),
        policy: Policy { batch_max: 8, executors: 1, ..Policy::default() },
        frees_at_once: true,
    }
}

/// A pool with its queue, and what is under way.
pub(super) struct World {
    pub(super) state: State,
    pub(super) queue: Queue,
    pub(super) loads: Vec<(ExpertIndex, Generation)>,
    pub(super) leases: Vec<Lease>,
    pub(super) next: u64,
}

impl World {
    pub(super) fn new(pool: PoolSpec) -> Self {
        let queue = Queue::new(pool.experts.len(), pool.policy.batch_max);
        let state = State::new(pool).unwrap();
        Self { state, queue, loads: Vec::new(), leases: Vec::new(), next: 0 }
    }

    pub(super) fn at(&self, name: &str) -> ExpertIndex {
        self.state.index(&id(name)).unwrap()
    }

    pub(super) fn ask(&mut self, now_us: u64, name: &str) {
        self.ask_for(now_us, name, 0);
    }

    pub(super) fn ask_for(&mut self, now_us: u64, name: &str, tenant: u32) {
        let request = NewRequest { id: self.next, expert: self.at(name), tenant, deadline_us: None };
        let waiting = admit(now_us, &self.state, &self.queue, request).unwrap();
        self.next += 1;
        self.state.requested(waiting.expert);
        self.queue.push(waiting);
    }

    /// Decides and applies until nothing comes; what was decided, in short words.
    pub(super) fn act(&mut self, now_us: u64) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            let actions = decide(now_us, &self.state, &self.queue);
            if actions.is_empty() {
                return said;
            }
            for action in &actions {
                said.push(self.say(action));
                let applied = self.state.apply(now_us, action).unwrap();
                match (applied, action) {
                    (Applied::Leased(lease), Action::Dispatch { expert, requests, .. }) => {
                        self.queue.take(*expert, *requests);
                        self.leases.push(lease);
                    }
                    (
                        Applied::Began(generation),
                        Action::Promote { expert, .. } | Action::Demote { expert, .. },
                    ) => {
                        self.loads.push((*expert, generation));
                    }
                    (_, Action::Refuse { expert, request, .. }) => {
                        let refused = *self.queue.head(*expert).unwrap();
                        assert_eq!(refused.id, *request);
                        assert!(self.queue.remove(&refused));
                    }
                    _ => {}
                }
            }
        }
    }

    fn say(&self, action: &Action) -> String {
        let name = |expert: &ExpertIndex| self.state.spec(*expert).unwrap().id.to_string();
        match action {
            Action::Dispatch { expert, requests, .. } => format!("{requests} to {}", name(expert)),
            Action::Promote { expert, to, .. } => format!("load {} to {to}", name(expert)),
            Action::Demote { expert, from, .. } => format!("remove {} from {from}", name(expert)),
            Action::Drain { expert, .. } => format!("drain {}", name(expert)),
            Action::Resume { expert, .. } => format!("resume {}", name(expert)),
            Action::Refuse { expert, .. } => format!("refuse {}", name(expert)),
        }
    }

    /// The first load under way has ended.
    pub(super) fn arrive(&mut self, now_us: u64) {
        let (expert, generation) = self.loads.remove(0);
        self.state.arrived(now_us, expert, generation, None).unwrap();
    }

    /// The first batch under way has ended.
    pub(super) fn finish(&mut self, now_us: u64) {
        let lease = self.leases.remove(0);
        self.state.release(now_us, &lease);
    }

    /// Serves requests one after another, each with a load where its expert is not there.
    pub(super) fn warm(&mut self, names: &[&str]) -> u64 {
        let mut now = 0;
        for name in names {
            self.ask(now, name);
            self.act(now);
            now += SECOND;
            if !self.loads.is_empty() {
                self.arrive(now);
                self.act(now);
            }
            now += SECOND / 10;
            self.finish(now);
            self.act(now);
        }
        // So that nothing stays for having just come.
        now + 10 * SECOND
    }
}
