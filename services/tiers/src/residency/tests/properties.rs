use proptest::prelude::*;

use super::*;

/// A pool of experts of mixed sizes, and requests for them.
#[derive(Clone, Debug)]
struct Case {
    sizes_gb: Vec<u64>,
    hbm_gb: u64,
    executors: u32,
    channels: u32,
    frees_at_once: bool,
    order: Order,
    pinned: Option<usize>,
    /// Microseconds after the one before, and for whom.
    requests: Vec<(u64, usize)>,
    bound_us: u64,
    predicts: bool,
}

const LARGEST_GB: u64 = 20;
const BATCH_US: u64 = SECOND / 5;

fn case() -> impl Strategy<Value = Case> {
    (
        prop::collection::vec(1..=LARGEST_GB, 3..9),
        3 * LARGEST_GB..4 * LARGEST_GB,
        (1..=2_u32, 1..=3_u32),
        any::<bool>(),
        prop_oneof![4 => Just(Order::Free), 1 => Just(Order::Kept)],
        prop::option::of(0..3_usize),
        prop::collection::vec((0..1_000_000_u64, 0..100_usize), 1..150),
        (4 * SECOND..12 * SECOND, any::<bool>()),
    )
        .prop_map(
            |(
                sizes_gb,
                hbm_gb,
                (executors, channels),
                frees_at_once,
                order,
                pinned,
                requests,
                (bound_us, predicts),
            )| {
                Case {
                    sizes_gb,
                    hbm_gb,
                    executors,
                    channels,
                    frees_at_once,
                    order,
                    pinned,
                    requests,
                    bound_us,
                    predicts,
                }
            },
        )
}

impl Case {
    fn pool(&self) -> PoolSpec {
        let all: u64 = self.sizes_gb.iter().sum();
        PoolSpec {
            tiers: vec![tier(Tier::Hbm, self.hbm_gb), tier(Tier::Dram, all)],
            links: vec![LinkSpec { concurrency: self.channels, ..link(Tier::Dram, Tier::Hbm, 10.0) }],
            experts: self.sizes_gb.iter().enumerate().map(|(i, gb)| full(&format!("e{i}"), *gb)).collect(),
            policy: Policy {
                order: self.order,
                batch_max: 8,
                executors: self.executors,
                bound_us: self.bound_us,
                prediction: if self.predicts { Prediction::all() } else { Prediction::default() },
                ..Policy::default()
            },
            frees_at_once: self.frees_at_once,
        }
    }

    /// Runs it; what was decided, and how long a request was first at most, not counting the time that removals
    /// took.
    fn run(&self) -> (Vec<Action>, u64) {
        let pool = self.pool();
        let mut queue = Queue::new(self.sizes_gb.len(), pool.policy.batch_max);
        let mut state = State::new(pool).unwrap();
        let mut predictor = Predictor::new(self.sizes_gb.len());
        if let Some(pinned) = self.pinned {
            state.pin(ExpertIndex(pinned as u32), Pin::Hard).unwrap();
        }
        let (mut now, mut arrival, mut next) = (0, 0, 0);
        let (mut loads, mut batches, mut removals) = (Vec::new(), Vec::new(), Vec::new());
        let mut decided = Vec::new();
        let (mut first, mut longest) = (None::<(u64, u64)>, 0);
        while next < self.requests.len() || !queue.is_empty() || !batches.is_empty() {
            loop {
                let front = queue.front().map(|front| front.id);
                if front != first.map(|(id, _)| id) {
                    longest = longest.max(first.map_or(0, |(_, since)| now - since));
                    first = front.map(|id| (id, now));
                }
                let mut actions = decide(now, &state, &queue);
                assert_eq!(actions, decide(now, &state, &queue), "the same input, the same decision");
                if actions.is_empty() {
                    actions = prefetch(now, &state, &queue, &predictor);
                    assert_eq!(actions, prefetch(now, &state, &queue, &predictor), "the same prediction");
                }
                if actions.is_empty() {
                    break;
                }
                for action in &actions {
                    if let Action::Demote { expert, .. } | Action::Drain { expert, .. } = action {
                        assert_ne!(Some(expert.0 as usize), self.pinned, "a pinned expert goes");
                    }
                    if let Action::Demote { expert, .. } = action {
                        assert_eq!(state.leases(*expert), 0, "a leased expert goes");
                    }
                    let applied = state.apply(now, action).expect("decisions fit the state");
                    predictor.applied(now, &state, action);
                    match (applied, action) {
                        (Applied::Leased(lease), Action::Dispatch { expert, requests, .. }) => {
                            let batch = queue.take(*expert, *requests);
                            assert!(!batch.is_empty(), "an empty batch");
                            batches.push((now + BATCH_US, lease));
                        }
                        (Applied::Began(generation), Action::Promote { expert, to, .. }) => {
                            loads.push((now + state.load_us(*expert, *to), *expert, generation));
                        }
                        (Applied::Began(generation), Action::Demote { expert, .. }) => {
                            removals.push((now, *expert, generation));
                        }
                        (_, Action::Refuse { expert, .. }) => {
                            let refused = *queue.head(*expert).unwrap();
                            assert!(queue.remove(&refused));
                        }
                        _ => {}
                    }
                    let hbm = state.account(Tier::Hbm).unwrap();
                    assert!(hbm.used() + hbm.incoming() <= hbm.usable(), "{hbm:?}");
                }
                decided.extend(actions);
                for (_, expert, generation) in removals.drain(..) {
                    state.gone(expert, generation).unwrap();
                }
            }
            let arrives = self.requests.get(next).map(|(after, _)| arrival + after);
            let ends =
                loads.iter().map(|load: &(u64, _, _)| load.0).chain(batches.iter().map(|b: &(u64, _)| b.0));
            now = ends
                .chain(arrives)
                .chain(wake(now, &state, &queue))
                .min()
                .expect("a wait without a cause")
                .max(now);
            loads.retain(|(at, expert, generation)| {
                let due = *at <= now;
                if due {
                    state.arrived(now, *expert, *generation, None).unwrap();
                }
                !due
            });
            batches.retain(|(at, lease)| {
                let due = *at <= now;
                if due {
                    state.release(now, lease);
                }
                !due
            });
            if arrives.is_some_and(|at| at <= now) {
                let (after, expert) = self.requests[next];
                arrival += after;
                let expert = ExpertIndex((expert % self.sizes_gb.len()) as u32);
                let request =
                    NewRequest { id: next as u64, expert, tenant: (next % 3) as u32, deadline_us: None };
                queue.push(admit(arrival, &state, &queue, request).unwrap());
                predictor.requested(now, &state, expert, Some(next as u64 % 4));
                state.requested(expert);
                next += 1;
            }
        }
        (decided, longest)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn bytes_leases_and_pins_hold_and_nobody_starves(case in case()) {
        let (_, longest) = case.run();
        // The largest load, and a batch.
        let most = case.bound_us + LARGEST_GB * SECOND / 10 + BATCH_US;
        prop_assert!(longest <= most, "a request was first for {longest} us, at most {most} are fine");
    }

    #[test]
    fn the_queue_counts_right(moves in prop::collection::vec((0..4_u32, 0..5_u32, 0..100_u64), 1..200)) {
        let mut queue = Queue::new(5, 3);
        let mut model: Vec<Waiting> = Vec::new();
        for (at, (what, expert, time)) in (0..).zip(moves) {
            let expert = ExpertIndex(expert);
            match what {
                0 | 1 => {
                    let waiting = Waiting { id: at, expert, tenant: 0, arrived_us: at, due_us: at + time };
                    queue.push(waiting);
                    model.push(waiting);
                    model.sort_by_key(|w| (w.due_us, w.id));
                }
                2 => {
                    let line: Vec<Waiting> = model.iter().filter(|w| w.expert == expert).take(2).copied().collect();
                    prop_assert_eq!(queue.take(expert, 2), line.clone());
                    model.retain(|w| !line.contains(w));
                }
                _ => if !model.is_empty() {
                    let gone = model.remove(time as usize % model.len());
                    prop_assert!(queue.remove(&gone));
                    prop_assert!(!queue.remove(&gone));
                },
            }
            prop_assert_eq!(queue.front(), model.first());
            prop_assert_eq!(queue.len(), model.len());
            let mut batches = 0;
            for expert in (0..5).map(ExpertIndex) {
                let line: Vec<&Waiting> = model.iter().filter(|w| w.expert == expert).collect();
                batches += line.len().div_ceil(3) as u64;
                prop_assert_eq!(queue.head(expert), line.first().copied());
                prop_assert_eq!(queue.active().contains(&expert), !line.is_empty());
                let waited: u64 = line.iter().map(|w| 1000 - w.arrived_us).sum();
                prop_assert_eq!(queue.waited_us(expert, 1000), waited);
            }
            prop_assert_eq!(queue.batches(), batches);
        }
    }
}
