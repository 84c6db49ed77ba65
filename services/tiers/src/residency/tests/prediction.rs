use super::*;

/// A pool with a predictor: what [`World`] is, with requests that belong to a conversation.
struct Foresight {
    world: World,
    predictor: Predictor,
    now: u64,
}

impl Foresight {
    fn new(experts: usize, places: u64, prediction: Prediction) -> Self {
        let mut pool = pool(experts, places);
        pool.policy.prediction = prediction;
        Self { world: World::new(pool), predictor: Predictor::new(experts), now: 0 }
    }

    fn ask(&mut self, name: &str) {
        let expert = self.world.at(name);
        self.predictor.requested(self.now, &self.world.state, expert, Some(1));
        self.world.ask(self.now, name);
        self.world.act(self.now);
    }

    /// Serves a request to its end, without predictions.
    fn serve(&mut self, name: &str) {
        self.ask(name);
        self.now += SECOND;
        if !self.world.loads.is_empty() {
            self.world.arrive(self.now);
            self.world.act(self.now);
        }
        self.now += SECOND;
        self.world.finish(self.now);
    }

    fn predicted(&self) -> Vec<Action> {
        assert!(decide(self.now, &self.world.state, &self.world.queue).is_empty());
        prefetch(self.now, &self.world.state, &self.world.queue, &self.predictor)
    }

    /// Applies what is predicted; what was loaded.
    fn follow(&mut self) -> Option<ExpertIndex> {
        let mut loaded = None;
        for action in self.predicted() {
            let applied = self.world.state.apply(self.now, &action).unwrap();
            self.predictor.applied(self.now, &self.world.state, &action);
            if let (Applied::Began(generation), Action::Promote { expert, .. }) = (applied, &action) {
                self.world.loads.push((*expert, generation));
                loaded = Some(*expert);
            }
        }
        loaded
    }

    fn counts(&self, source: PredictionSource) -> [u64; 3] {
        let Prefetched { used, late, wasted } = self.predictor.prefetched(source);
        [used, late, wasted]
    }
}

/// Experts `a` to `d` have followed each other in turns, and `a` was the last; two of them fit.
fn turns(prediction: Prediction) -> Foresight {
    let mut foresight = Foresight::new(4, 2, prediction);
    for _ in 0..30 {
        for name in ["a", "b", "c", "d"] {
            foresight.serve(name);
        }
    }
    foresight.serve("a");
    foresight.now += 10 * SECOND;
    foresight
}

const MARKOV: PredictionSource = PredictionSource::Markov;

fn markov() -> Prediction {
    Prediction::only(Some(MARKOV))
}

#[test]
fn nothing_is_predicted_by_default() {
    assert_eq!(turns(Prediction::default()).predicted(), []);
    let mut without_prefetch = turns(markov());
    without_prefetch.world.state.policy.prefetch = false;
    assert_eq!(without_prefetch.predicted(), []);
}

#[test]
fn what_followed_before_is_loaded_in_time() {
    let mut foresight = turns(markov());
    let actions = foresight.predicted();
    let Some(Action::Promote { expert, cause, tenant, reason: Reason::Expected { chance }, .. }) =
        actions.last()
    else {
        panic!("{actions:?}");
    };
    assert_eq!((*expert, *tenant), (foresight.world.at("b"), None));
    assert_eq!(*cause, Cause::Predicted { source: MARKOV });
    assert!(*chance > 0.4, "{chance}");
    foresight.follow();
    assert_eq!(foresight.predicted(), [], "one at a time");
    foresight.now += SECOND;
    foresight.world.arrive(foresight.now);
    foresight.ask("b");
    assert_eq!(foresight.counts(MARKOV), [1, 0, 0]);
    assert_eq!(foresight.world.leases.len(), 1, "it answers at once");
}

#[test]
fn who_waits_comes_first() {
    let mut foresight = turns(markov());
    // Both places are in use, and someone waits for a third expert.
    foresight.world.state.policy.executors = 2;
    let resident =
        |foresight: &Foresight, name: &&str| foresight.world.state.is_hot(foresight.world.at(name));
    // `a` last, so that `b` is expected.
    let residents: Vec<&str> =
        ["d", "c", "b", "a"].into_iter().filter(|name| resident(&foresight, name)).collect();
    for name in &residents {
        foresight.ask(name);
    }
    assert_eq!(foresight.predicted(), [], "leased experts do not go");
    foresight.world.finish(foresight.now);
    assert!(!foresight.predicted().is_empty());
    for name in &residents {
        foresight.world.state.pin(foresight.world.at(name), Pin::Hard).unwrap();
    }
    assert_eq!(foresight.predicted(), [], "pinned ones neither");
    for name in &residents {
        foresight.world.state.pin(foresight.world.at(name), Pin::None).unwrap();
    }
    foresight.now += 10 * SECOND;
    let absent = ["d", "c"].into_iter().find(|name| !resident(&foresight, name)).unwrap();
    assert!(!foresight.predicted().is_empty());
    foresight.ask(absent);
    assert_eq!(foresight.predicted(), [], "nothing beside a load that someone waits for");
    let expert = foresight.world.at(absent);
    let (_, generation) = foresight.world.loads.pop().unwrap();
    let retry_at_us = foresight.now + 60 * SECOND;
    foresight.world.state.failed(expert, generation, "gone", retry_at_us).unwrap();
    assert_eq!(foresight.predicted(), [], "nor while someone waits for what is not on its way");
}

#[test]
fn late_and_wasted_loads_are_counted() {
    let mut foresight = turns(markov());
    assert_eq!(foresight.follow(), Some(foresight.world.at("b")));
    foresight.ask("b");
    assert_eq!(foresight.counts(MARKOV), [0, 1, 0]);

    // Removed before anybody asked.
    let mut foresight = turns(markov());
    foresight.follow();
    foresight.now += SECOND;
    foresight.world.arrive(foresight.now);
    let demote = Action::Demote { expert: foresight.world.at("b"), from: Tier::Hbm, reason: Reason::Asked };
    let _done = foresight.world.state.apply(foresight.now, &demote).unwrap();
    foresight.predictor.applied(foresight.now, &foresight.world.state, &demote);
    assert_eq!(foresight.counts(MARKOV), [0, 0, 1]);

    // Forgotten.
    let mut foresight = turns(markov());
    foresight.follow();
    foresight.now += SECOND;
    foresight.world.arrive(foresight.now);
    foresight.now += markov().ttl_us + 1;
    foresight.ask("a");
    assert_eq!(foresight.counts(MARKOV), [0, 0, 1]);
}

#[test]
fn a_predicted_copy_nobody_asked_for_gives_way_at_once() {
    let mut foresight = turns(markov());
    foresight.world.state.pin(foresight.world.at("a"), Pin::Hard).unwrap();
    assert_eq!(foresight.follow(), Some(foresight.world.at("b")));
    foresight.now += SECOND;
    foresight.world.arrive(foresight.now);
    foresight.world.ask(foresight.now, "c");
    assert_eq!(foresight.world.act(foresight.now), ["remove b from hbm", "load c to hbm"]);
}

#[test]
fn conversations_bring_their_experts_back() {
    let mut foresight = Foresight::new(6, 2, Prediction::only(Some(PredictionSource::Session)));
    // One conversation stays with `a`; the others come once, and push it out.
    for round in 0..60 {
        foresight.serve("a");
        foresight.serve("a");
        if round % 20 == 19 {
            for name in ["b", "c"] {
                let expert = foresight.world.at(name);
                foresight.predictor.requested(foresight.now, &foresight.world.state, expert, None);
            }
        }
    }
    let demote = Action::Demote { expert: foresight.world.at("a"), from: Tier::Hbm, reason: Reason::Asked };
    let _done = foresight.world.state.apply(foresight.now, &demote).unwrap();
    foresight.predictor.applied(foresight.now, &foresight.world.state, &demote);
    assert_eq!(foresight.follow(), Some(foresight.world.at("a")));
}
